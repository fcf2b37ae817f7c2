"""Tokens of the crops of one batch under one encoder."""

from functools import cache
from pathlib import Path
from typing import Any

from myostage.features import encoder
from myostage.runtime import jobs
from myostage.study.sections.encoder import read_encoder


def work(smk: Any) -> None:
    name = smk.params.encoder
    settings = read_encoder(smk.params.settings)
    device = encoder.device()
    paths = jobs.paths(smk)
    # of an encoder that this study tunes there is a receipt
    receipt = paths.receipt("dino", name)
    tuned = [paths.tuned(name) if file == receipt else str(file) for file in smk.input.tuned]
    weights = [*([str(smk.input.weights)] if smk.input.weights else []), *tuned]

    @cache
    def prefix() -> Any:
        return encoder.split(settings, Path(tuned[0]) if tuned else None)[0]

    def embed(slide: str) -> None:
        crops, tokens = paths.slide(slide, "crops.parquet"), paths.tokens(slide, name)
        encoder.embed_slide(crops, tokens, settings, device, prefix=prefix())

    members = jobs.of_slides(smk, ["crops.parquet"], [f"tokens/{name}.parquet"], others=weights)
    jobs.make_each(smk, members, embed, ready=prefix)


jobs.run(snakemake, work)
