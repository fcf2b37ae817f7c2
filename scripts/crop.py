"""Cut one image per cell from the slides of one batch."""

from typing import Any

from myostage import config, crops, jobs, slides


def work(smk: Any) -> None:
    tiling = config.Tiling(**smk.params.tiling)
    crop = config.Crop(**smk.params.crop)
    for row, cells, out in zip(smk.input.slides, smk.input.cells, smk.output.crops, strict=True):
        crops.crop_slide(slides.read_row(row), cells, tiling, crop, out)


jobs.run(snakemake, work)
