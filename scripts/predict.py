"""Predict the slides with the models of another study."""

from pathlib import Path
from typing import Any

from myostage import jobs, runs


def work(smk: Any) -> None:
    tokens = {slide: Path(path) for slide, path in zip(smk.params.slides, smk.input.tokens, strict=True)}
    for model, out in zip(smk.input.models, smk.output.predictions, strict=True):
        runs.predict_run(Path(model), tokens, Path(out), threads=smk.threads)


jobs.run(snakemake, work)
