"""Metrics of models of slide labels with intervals, and the differences between them."""

from pathlib import Path
from typing import Any

from myostage.evaluation import slide_results
from myostage.evaluation.experiments import Families
from myostage.runtime import jobs
from myostage.study.run import ATTENTION, RunSpec
from myostage.study.sections.compare import Compare
from myostage.study.structure import SlideStructure


def work(smk: Any) -> None:
    specs = {run: RunSpec(**spec) for run, spec in smk.params.specs.items()}
    paths = jobs.paths(smk)
    structure = SlideStructure(**smk.params.structure)

    def run(name: str) -> slide_results.SlideRun:
        predictions, attention = (Path(paths.run(name, file)) for file in ("predictions.parquet", ATTENTION))
        return slide_results.SlideRun(specs[name], predictions, attention)

    listed = smk.params.experiments
    slide_results.evaluate_slides(
        {experiment: [run(name) for name in names] for experiment, names in listed.items()},
        {name: Path(paths.run(name, "outcome.parquet")) for names in listed.values() for name in names},
        {name: Path(paths.run(name, "history.parquet")) for names in listed.values() for name in names},
        Path(smk.input.splits),
        {slide: Path(paths.slide(slide, "labels.parquet")) for slide in smk.params.labelled},
        healthy=smk.params.healthy,
        kinds=structure.kinds,
        classes=structure.classes,
        compare=Compare(**smk.params.compare),
        against=structure.against,
        families=Families(
            parts={label: part for part, labels in structure.parts.items() for label in labels},
            untested=list(structure.controls.values()),
        ),
        metrics_out=Path(smk.output.metrics),
        comparisons_out=Path(smk.output.comparisons),
        runs_out=Path(smk.output.runs),
        reference_of=structure.references,
    )


jobs.run(snakemake, work)
