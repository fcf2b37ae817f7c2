"""Cells with their stages as QuPath GeoJSON and as CSV."""

from typing import Any

from myostage.export import geojson
from myostage.runtime import jobs
from myostage.slides import checking


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    for slide, out, table in zip(smk.params.slides, smk.output.geojson, smk.output.csv, strict=True):
        geojson.export(
            paths.slide(slide, "cells.parquet"),
            paths.slide(slide, "stages.parquet"),
            tuple(smk.params.stages),
            smk.params.mpp / checking.read_row(paths.slide(slide, "slide.parquet")).mpp,
            out,
            table,
        )


jobs.run(snakemake, work)
