"""Cells with their stages as QuPath GeoJSON and as CSV."""

from typing import Any

from myostage import geojson, jobs, slides


def work(smk: Any) -> None:
    for row, cells, staged, out, table in zip(
        smk.input.slides, smk.input.cells, smk.input.stages, smk.output.geojson, smk.output.csv, strict=True
    ):
        geojson.export(
            cells, staged, tuple(smk.params.stages), smk.params.mpp / slides.read_row(row).mpp, out, table
        )


jobs.run(snakemake, work)
