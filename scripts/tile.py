"""Tissue mask and tile grid of the slides of one batch."""

from typing import Any

from myostage.runtime import jobs
from myostage.slides import checking, pixels, tissue
from myostage.slides.tables import TILES
from myostage.study.sections.tiling import Tiling


def work(smk: Any) -> None:
    tiling = Tiling(**smk.params.tiling)
    paths = jobs.paths(smk)

    def tile(slide: str) -> None:
        row = checking.read_row(paths.slide(slide, "slide.parquet"))
        tissue.tile_slide(
            row, tiling, paths.slide(slide, "tiles.parquet"), paths.slide(slide, "qc/tiles.png")
        )

    def skip(slide: str, reason: str) -> None:
        checking.skip(paths.slide(slide, "tiles.parquet"), TILES, reason)
        pixels.save_png(pixels.placeholder(), paths.slide(slide, "qc/tiles.png"))

    members = jobs.of_slides(
        smk,
        ["slide.parquet"],
        ["tiles.parquet", "qc/tiles.png"],
        images=checking.images(paths, smk.params.slides),
    )
    jobs.make_each(
        smk,
        members,
        tile,
        skip if smk.params.on_bad_slide == "skip" else None,
    )


jobs.run(snakemake, work)
