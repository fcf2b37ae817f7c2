"""Tissue mask and tile grid of the slides of one batch."""

from typing import Any

from myostage import config, jobs, slides, tissue


def work(smk: Any) -> None:
    tiling = config.Tiling(**smk.params.tiling)
    for row, tiles, thumbnail in zip(smk.input.slides, smk.output.tiles, smk.output.thumbnails, strict=True):
        tissue.tile_slide(slides.read_row(row), tiling, tiles, thumbnail)


jobs.run(snakemake, work)
