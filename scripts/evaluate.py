"""Metrics of every run and experiment with intervals, and the differences between experiments."""

from pathlib import Path
from typing import Any

from myostage import config, jobs, plan, results


def work(smk: Any) -> None:
    specs = config.runs(config.load_study(smk.config, files=False))
    predictions, outcomes = (
        {Path(path).parent.name: Path(path) for path in paths}
        for paths in (smk.input.predictions, smk.input.outcomes)
    )
    results.evaluate_runs(
        {
            experiment: [(specs[run], predictions[run]) for run in runs]
            for experiment, runs in smk.params.experiments.items()
        },
        outcomes,
        Path(smk.input.splits),
        plan.as_arrays(smk.params.proportions),
        len(smk.params.stages),
        {slide: Path(path) for slide, path in zip(smk.params.labelled, smk.input.labels, strict=True)},
        # a crop study has no areas: every cell weighs the same
        {slide: Path(path) for slide, path in zip(smk.params.imaged, smk.input.cells, strict=True)} or None,
        compare=config.Compare(**smk.params.compare),
        against=smk.params.against,
        parts=smk.params.parts,
        baselines=smk.params.baselines,
        ceilings=smk.params.ceilings,
        metrics_out=Path(smk.output.metrics),
        comparisons_out=Path(smk.output.comparisons),
        scores_out=Path(smk.output.scores),
        confusion_out=Path(smk.output.confusion),
        runs_out=Path(smk.output.runs),
    )


jobs.run(snakemake, work)
