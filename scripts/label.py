"""Match segmented cells with annotated outlines, for evaluation only."""

from typing import Any

from myostage import tables
from myostage.cells import annotations
from myostage.cells.tables import LABELS, SEGMENTATION_QUALITY
from myostage.runtime import jobs
from myostage.slides import checking


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    for slide, outlines, labels, quality in zip(
        smk.params.slides,
        smk.params.annotations,
        smk.output.labels,
        smk.output.quality,
        strict=True,
    ):
        found = checking.read_row(paths.slide(slide, "slide.parquet"))
        cells = paths.slide(slide, "cells.parquet")
        if found.status == "skipped":
            tables.write(labels, LABELS.schema.empty_table(), LABELS)
            tables.write(quality, SEGMENTATION_QUALITY.schema.empty_table(), SEGMENTATION_QUALITY)
            continue
        scale, um = found.mpp / smk.params.mpp, 1 / smk.params.mpp
        annotations.label_cells(cells, outlines, smk.params.stages, scale, labels, quality, slide, um)


jobs.run(snakemake, work)
