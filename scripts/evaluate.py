"""Metrics of every run and experiment with intervals, and the differences between experiments."""

from pathlib import Path
from typing import Any

import numpy as np

from myostage.evaluation import results
from myostage.evaluation.experiments import Families
from myostage.runtime import jobs
from myostage.study.run import CHOICES, RunSpec
from myostage.study.sections.compare import Compare
from myostage.study.sections.prediction import Prediction


def work(smk: Any) -> None:
    specs = {run: RunSpec(**spec) for run, spec in smk.params.specs.items()}
    paths = jobs.paths(smk)
    runs = list(dict.fromkeys(run for listed in smk.params.experiments.values() for run in listed))
    results.evaluate_runs(
        {
            experiment: [(specs[run], Path(paths.run(run, "predictions.parquet"))) for run in listed]
            for experiment, listed in smk.params.experiments.items()
        },
        {run: Path(paths.run(run, "outcome.parquet")) for run in runs},
        {run: Path(paths.run(run, "history.parquet")) for run in runs},
        Path(smk.input.splits),
        {group: np.array(share) for group, share in smk.params.proportions.items()},
        len(smk.params.stages),
        {slide: Path(paths.slide(slide, "labels.parquet")) for slide in smk.params.labelled},
        # without slides there are no areas: every cell weighs the same
        {slide: Path(paths.slide(slide, "cells.parquet")) for slide in smk.params.imaged} or None,
        compare=Compare(**smk.params.compare),
        against=smk.params.against,
        baselines=smk.params.baselines,
        label_learners=smk.params.label_learners,
        families=Families(smk.params.question, smk.params.parts, smk.params.baselines, smk.params.untested),
        prediction=Prediction(**smk.params.prediction),
        metrics_out=Path(smk.output.metrics),
        comparisons_out=Path(smk.output.comparisons),
        scores_out=Path(smk.output.scores),
        carried=smk.params.carried,
        confusion_out=Path(smk.output.confusion),
        reliability_out=Path(smk.output.reliability),
        runs_out=Path(smk.output.runs),
        choices={run: Path(paths.run(run, CHOICES)) for run in smk.params.choosing},
        choices_out=Path(smk.output.choices) if smk.params.choosing else None,
        wrong_tables_out=Path(smk.output.wrong_tables) if smk.params.wrong_tables else None,
        slide_level=smk.params.slide_level,
    )


jobs.run(snakemake, work)
