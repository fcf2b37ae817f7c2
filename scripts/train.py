"""Train the runs of one batch and predict their held-out slides."""

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from myostage.learning import runs, slide_runs
from myostage.runtime import jobs, scratch
from myostage.study import config, plan


def work(smk: Any) -> None:
    study = config.load_study(smk.config, files=False)
    specs = config.runs(study)
    paths = jobs.paths(smk)
    first = specs[smk.params.runs[0]]
    files = {
        slide: Path(
            paths.tokens(slide, first.encoder.id) if first.trained else paths.slide(slide, "crops.parquet")
        )
        for slide in smk.params.all_slides
    }
    labels = {slide: Path(paths.slide(slide, "labels.parquet")) for slide in smk.params.labelled}
    # the receipt of the tokens stands for them
    inputs = [str(file) for file in smk.input]
    tuned = smk.input.get("encoder")

    def train(tokens: dict[str, Path], run: str) -> None:
        spec = specs[run]
        shared: dict[str, Any] = {
            "splits": Path(smk.input.splits),
            "tokens": tokens,
            "cells": {slide: Path(paths.slide(slide, smk.params.places)) for slide in tokens if spec.spatial},
            "encoder_weights": Path(tuned) if tuned else None,
            "model_out": Path(paths.run(run, "model.safetensors")),
            "history_out": Path(paths.run(run, "history.parquet")),
            "predictions_out": Path(paths.run(run, "predictions.parquet")),
            "outcome_out": Path(paths.run(run, "outcome.parquet")),
            "checkpoint_dir": Path(paths.run(run, "checkpoint")),
            "threads": smk.threads,
        }
        if spec.mil:
            attention = Path(paths.run(run, plan.ATTENTION))
            slide_runs.train_slide_run(
                spec, classes=smk.params.classes[spec.mil.label], attention_out=attention, **shared
            )
            return
        runs.train_run(
            spec,
            stages=smk.params.stages,
            proportions=plan.as_arrays(smk.params.proportions),
            slide_proportions=plan.as_arrays(smk.params.get("slide_proportions", {})),
            scores=smk.params.get("scores", {}).get(spec.training.score),
            labels=labels if first.method == "supervised" else {},
            **shared,
        )

    members = [
        jobs.Member(run, f"runs/{run}", inputs, [paths.run(run, name) for name in plan.run_files(specs[run])])
        for run in smk.params.runs
    ]
    with ExitStack() as stack:

        @cache
        def tokens() -> dict[str, Path]:
            return stack.enter_context(
                scratch.on_scratch(files, study.jobs.scratch if first.trained else None)
            )

        jobs.each(smk, members, lambda run: train(tokens(), run), ready=tokens)


jobs.run(snakemake, work)
