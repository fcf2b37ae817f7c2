"""Predict the baselines, which learn nothing."""

from pathlib import Path
from typing import Any

import numpy as np

from myostage.learning.baseline_runs import predict_baseline
from myostage.runtime import jobs
from myostage.study.run import RunSpec


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    specs = {spec.id: spec for spec in (RunSpec(**spec) for spec in smk.params.specs)}

    def predict(run: str) -> None:
        predict_baseline(
            specs[run],
            stages=smk.params.stages,
            proportions={group: np.array(share) for group, share in smk.params.proportions.items()},
            splits=Path(paths.study("splits.parquet")),
            crops={slide: Path(paths.slide(slide, smk.params.counted)) for slide in smk.params.all_slides},
            model_out=Path(paths.run(run, "model.safetensors")),
            history_out=Path(paths.run(run, "history.parquet")),
            predictions_out=Path(paths.run(run, "predictions.parquet")),
            outcome_out=Path(paths.run(run, "outcome.parquet")),
        )

    members = [
        jobs.Member(
            known["run"],
            f"runs/{known['run']}",
            known["inputs"],
            [paths.run(known["run"], name) for name in specs[known["run"]].files],
            known,
        )
        for known in smk.params.runs
    ]
    jobs.make_each(smk, members, predict)


jobs.run(snakemake, work)
