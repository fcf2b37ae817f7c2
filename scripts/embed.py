"""Tokens of the crops of one batch under one encoder."""

from pathlib import Path
from typing import Any

from myostage import config, encoder, jobs


def work(smk: Any) -> None:
    settings = config.encoders(config.load_study(smk.config, files=False))[smk.params.encoder]
    device = encoder.device()
    prefix, _ = encoder.split(settings, Path(smk.input.tuned) if smk.input.tuned else None)
    for crops, tokens in zip(smk.input.crops, smk.output.tokens, strict=True):
        encoder.embed_slide(crops, tokens, settings, device, prefix=prefix)


jobs.run(snakemake, work)
