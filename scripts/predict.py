"""Predict the slides with the models of another study."""

from pathlib import Path
from typing import Any

from myostage.learning import runs
from myostage.runtime import jobs


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    tokens = {slide: Path(paths.tokens(slide, smk.params.encoder)) for slide in smk.params.slides}
    places = {slide: Path(paths.slide(slide, smk.params.places)) for slide in tokens if smk.params.places}
    for model, out in zip(smk.input.models, smk.output.predictions, strict=True):
        runs.predict_run(Path(model), tokens, Path(out), cells=places, threads=smk.threads)


jobs.run(snakemake, work)
