"""Predict the slides with the models of another study."""

from pathlib import Path
from typing import Any

from myostage.learning import runs
from myostage.runtime import jobs


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    slides, params = smk.params.slides, smk.params
    places = {slide: Path(paths.slide(slide, params.places)) for slide in slides if params.places}
    for encoder, model, out in zip(params.encoders, smk.input.models, smk.output.predictions, strict=True):
        tokens = {slide: Path(paths.tokens(slide, encoder)) for slide in slides}
        runs.predict_run(Path(model), tokens, Path(out), cells=places, threads=smk.threads)


jobs.run(snakemake, work)
