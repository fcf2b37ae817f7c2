"""Write the page of a study of drawn worlds."""

from pathlib import Path
from typing import Any

from myostage import tables
from myostage.evaluation.tables import WORLDS, WORLDS_CHOICES, WORLDS_COMPARISONS, WORLDS_CURVES
from myostage.report import worlds
from myostage.runtime import jobs
from myostage.study.structure import Structure


def work(smk: Any) -> None:
    known = smk.params.facts
    choices = smk.input.choices
    facts = worlds.Facts(
        **known | {"structure": Structure(**known["structure"])},
        worlds=tables.read(smk.input.worlds, WORLDS),
        comparisons=tables.read(smk.input.comparisons, WORLDS_COMPARISONS),
        curves=tables.read(smk.input.curves, WORLDS_CURVES),
        choices=tables.read(choices[0], WORLDS_CHOICES) if choices else None,
        figures=[(Path(figure).stem.replace("_", " "), Path(figure)) for figure in smk.input.figures],
    )
    worlds.write(smk.output.page, facts)


jobs.run(snakemake, work)
