"""Cut one image per cell from the slides of one batch."""

from typing import Any

from myostage.cells import crops
from myostage.cells.tables import CROPS
from myostage.runtime import jobs
from myostage.slides import checking
from myostage.study.sections.crop import Crop
from myostage.study.sections.tiling import Tiling


def work(smk: Any) -> None:
    tiling = Tiling(**smk.params.tiling)
    crop = Crop(**smk.params.crop)
    paths = jobs.paths(smk)

    def cut(slide: str) -> None:
        checking.refuse_skipped(paths.slide(slide, "cells.parquet"))
        row = checking.read_row(paths.slide(slide, "slide.parquet"))
        crops.crop_slide(
            row, paths.slide(slide, "cells.parquet"), tiling, crop, paths.slide(slide, "crops.parquet")
        )

    def skip(slide: str, reason: str) -> None:
        checking.skip(paths.slide(slide, "crops.parquet"), CROPS, reason)

    members = jobs.of_slides(
        smk,
        ["slide.parquet", "cells.parquet"],
        ["crops.parquet"],
        images=checking.images(paths, smk.params.slides),
    )
    jobs.make_each(smk, members, cut, skip if smk.params.on_bad_slide == "skip" else None)


jobs.run(snakemake, work)
