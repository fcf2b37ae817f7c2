"""Segment the slides of one batch with one loaded model."""

from typing import Any

from myostage import cells, config, jobs, segmentation, slides


def work(smk: Any) -> None:
    settings = config.load_study(smk.config, files=False).segmentation
    tiling = config.Tiling(**smk.params.tiling)
    model_file = smk.input.get("model") or None
    model = cells.CellposeRunner(settings, model_file, tiling.mpp)
    for row, tiles, out, thumbnail in zip(
        smk.input.slides, smk.input.tiles, smk.output.cells, smk.output.thumbnails, strict=True
    ):
        segmentation.segment_slide(
            slides.read_row(row), tiles, tiling, settings, model_file, out, thumbnail, model
        )


jobs.run(snakemake, work)
