"""Train the runs of one job, and predict the slides that each holds out."""

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from myostage.learning import probe_runs, runs, slide_runs
from myostage.runtime import jobs, scratch
from myostage.study.run import ATTENTION, CHOICES, RunSpec


def work(smk: Any) -> None:
    paths, slides = jobs.paths(smk), smk.params.all_slides
    specs = {spec.id: spec for spec in (RunSpec(**spec) for spec in smk.params.specs)}
    about = {member["run"]: member for member in smk.params.runs}

    with ExitStack() as stack:

        @cache
        def tokens(encoder: str) -> dict[str, Path]:
            files = {slide: Path(paths.tokens(slide, encoder)) for slide in slides}
            return stack.enter_context(scratch.on_scratch(files, smk.params.scratch))

        def train(run: str) -> None:
            spec, known = specs[run], about[run]
            shared: dict[str, Any] = {
                "splits": Path(paths.study("splits.parquet")),
                "tokens": tokens(spec.encoder.id),
                "model_out": Path(paths.run(run, "model.safetensors")),
                "history_out": Path(paths.run(run, "history.parquet")),
                "predictions_out": Path(paths.run(run, "predictions.parquet")),
                "outcome_out": Path(paths.run(run, "outcome.parquet")),
                "threads": smk.threads,
            }
            of_cells: dict[str, Any] = {
                "stages": smk.params.stages,
                "proportions": {group: np.array(share) for group, share in smk.params.proportions.items()},
                "labels": {slide: Path(paths.slide(slide, "labels.parquet")) for slide in known["labelled"]},
            }
            if spec.method == "probe":
                probe_runs.train_probe(spec, **of_cells, **shared)
                return
            shared |= {
                "cells": {
                    slide: Path(paths.slide(slide, known["places"])) for slide in slides if spec.spatial
                },
                "encoder_weights": Path(paths.tuned(spec.encoder.id)) if spec.encoder.dino else None,
                "checkpoint_dir": Path(paths.run(run, "checkpoint")),
            }
            if spec.mil:
                attention = Path(paths.run(run, ATTENTION))
                slide_runs.train_slide_run(spec, classes=known["classes"], attention_out=attention, **shared)
                return
            runs.train_run(
                spec,
                slide_proportions={
                    group: np.array(share) for group, share in known["slide_proportions"].items()
                },
                choices_out=Path(paths.run(run, CHOICES)),
                scores=known["scores"] or None,
                **of_cells,
                **shared,
            )

        members = [
            jobs.Member(
                run,
                f"runs/{run}",
                known["inputs"],
                [paths.run(run, name) for name in specs[run].files],
                known,
            )
            for run, known in about.items()
        ]
        encoders = {spec.encoder.id for spec in specs.values()}
        jobs.make_each(smk, members, train, ready=lambda: [tokens(encoder) for encoder in sorted(encoders)])


jobs.run(snakemake, work)
