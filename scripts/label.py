"""Match segmented cells with annotated outlines, for evaluation only."""

from typing import Any

import pandas as pd

from myostage import schemas
from myostage.cells import annotations
from myostage.runtime import jobs
from myostage.slides import reader


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    for slide, outlines, labels, quality in zip(
        smk.params.slides,
        smk.input.annotations,
        smk.output.labels,
        smk.output.quality,
        strict=True,
    ):
        found = reader.read_row(paths.slide(slide, "slide.parquet"))
        cells = paths.slide(slide, "cells.parquet")
        if found.status == "skipped":
            schemas.write(labels, schemas.LABELS.schema.empty_table(), schemas.LABELS)
            schemas.write(
                quality, schemas.SEGMENTATION_QUALITY.schema.empty_table(), schemas.SEGMENTATION_QUALITY
            )
            continue
        scale = found.mpp / smk.params.mpp
        annotations.label_cells(cells, outlines, smk.params.stages, scale, labels, quality, slide)
    counts = [schemas.read(path, schemas.SEGMENTATION_QUALITY) for path in smk.output.quality]
    schemas.write(smk.output.table, pd.concat(counts), schemas.SEGMENTATION_QUALITY)


jobs.run(snakemake, work)
