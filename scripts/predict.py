"""Predict the slides with the models of another study."""

from pathlib import Path
from typing import Any

from myostage import jobs, runs


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    tokens = {slide: Path(paths.tokens(slide, smk.params.encoder)) for slide in smk.params.slides}
    for model, out in zip(smk.input.models, smk.output.predictions, strict=True):
        runs.predict_run(Path(model), tokens, Path(out), threads=smk.threads)


jobs.run(snakemake, work)
