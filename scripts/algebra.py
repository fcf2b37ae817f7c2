"""Whether the embedding of a held-out slide is that of uninjured tissue plus that of its injured cells."""

from pathlib import Path
from typing import Any

from myostage.evaluation import algebra
from myostage.runtime import jobs
from myostage.study.run import RunSpec


def work(smk: Any) -> None:
    specs = {run: RunSpec(**spec) for run, spec in smk.params.specs.items()}
    paths, stages, healthy = jobs.paths(smk), list(smk.params.stages), smk.params.healthy
    algebra.algebra(
        {
            name: [(specs[run], Path(paths.run(run, "predictions.parquet"))) for run in runs]
            for name, runs in smk.params.experiments.items()
        },
        Path(smk.input.splits),
        len(stages),
        [stages.index(stage) for stage in healthy["stages"]],
        healthy["groups"],
        Path(smk.output[0]),
    )


jobs.run(snakemake, work)
