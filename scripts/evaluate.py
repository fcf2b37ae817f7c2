"""Metrics of every run and experiment, with intervals."""

from pathlib import Path
from typing import Any

from myostage import config, jobs, plan, results


def work(smk: Any) -> None:
    specs = config.runs(config.load_study(smk.config, files=False))
    predictions = {Path(path).parent.name: Path(path) for path in smk.input.predictions}
    results.evaluate_runs(
        {
            experiment: [(specs[run], predictions[run]) for run in runs]
            for experiment, runs in smk.params.experiments.items()
        },
        Path(smk.input.splits),
        plan.as_arrays(smk.params.proportions),
        len(smk.params.stages),
        {slide: Path(path) for slide, path in zip(smk.params.labelled, smk.input.labels, strict=True)},
        {slide: Path(path) for slide, path in zip(smk.params.imaged, smk.input.cells, strict=True)},
        metrics_out=Path(smk.output.metrics),
        scores_out=Path(smk.output.scores),
        confusion_out=Path(smk.output.confusion),
    )


jobs.run(snakemake, work)
