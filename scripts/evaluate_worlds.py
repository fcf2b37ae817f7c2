"""Measure every run in every world, and compare experiments at every point."""

from pathlib import Path
from typing import Any

from myostage import tables
from myostage.evaluation import worlds
from myostage.evaluation.tables import WORLDS, WORLDS_CHOICES, WORLDS_COMPARISONS, WORLDS_CURVES
from myostage.runtime import jobs
from myostage.study.sections.compare import Compare


def work(smk: Any) -> None:
    folder, known = Path(jobs.paths(smk).study("worlds")), smk.params
    measured, curves = worlds.measure_runs(known.places, folder)
    compared = worlds.compare_methods(
        measured, known.maps, known.reference, known.untested, Compare(**known.compare)
    )
    tables.write(smk.output.worlds, measured, WORLDS)
    tables.write(smk.output.comparisons, compared, WORLDS_COMPARISONS)
    tables.write(smk.output.curves, curves, WORLDS_CURVES)
    if known.choices:
        tables.write(smk.output.choices, worlds.list_choices(known.choices, folder), WORLDS_CHOICES)


jobs.run(snakemake, work)
