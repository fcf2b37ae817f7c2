"""Segment the slides of one batch with one loaded model."""

from functools import cache
from typing import Any

from myostage.cells import cellpose, segmentation
from myostage.cells.tables import CELLS
from myostage.runtime import jobs
from myostage.slides import checking, pixels
from myostage.study.sections.segmentation import Segmentation
from myostage.study.sections.tiling import Tiling


def work(smk: Any) -> None:
    settings = Segmentation(**smk.params.settings)
    tiling = Tiling(**smk.params.tiling)
    model_file = smk.input.get("model") or None
    paths = jobs.paths(smk)

    @cache
    def model() -> cellpose.CellposeRunner:
        return cellpose.CellposeRunner(settings, model_file, tiling.mpp)

    def segment(slide: str) -> None:
        checking.refuse_skipped(paths.slide(slide, "tiles.parquet"))
        segmentation.segment_slide(
            checking.read_row(paths.slide(slide, "slide.parquet")),
            paths.slide(slide, "tiles.parquet"),
            tiling,
            settings,
            model_file,
            paths.slide(slide, "cells.parquet"),
            paths.slide(slide, "qc/cells.png"),
            model(),
        )

    def skip(slide: str, reason: str) -> None:
        checking.skip(paths.slide(slide, "cells.parquet"), CELLS, reason)
        pixels.save_png(pixels.placeholder(), paths.slide(slide, "qc/cells.png"))

    members = jobs.of_slides(
        smk,
        ["slide.parquet", "tiles.parquet"],
        ["cells.parquet", "qc/cells.png"],
        images=checking.images(paths, smk.params.slides),
        others=[model_file] if model_file else [],
    )
    jobs.make_each(smk, members, segment, skip if smk.params.on_bad_slide == "skip" else None, ready=model)


jobs.run(snakemake, work)
