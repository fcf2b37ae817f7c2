"""One encoder fine-tuned on the crops of the study."""

from pathlib import Path
from typing import Any

from myostage.features import dino, encoder
from myostage.runtime import jobs
from myostage.study.sections.encoder import Encoder


def work(smk: Any) -> None:
    settings = Encoder(**smk.params.settings)
    device = encoder.device()
    paths = jobs.paths(smk)
    out = Path(smk.output[0])
    dino.fine_tune(
        [Path(paths.slide(slide, "crops.parquet")) for slide in smk.params.slides],
        settings,
        out,
        out.parent / f"{settings.id}.checkpoint",
        device,
        workers=smk.threads if device.type == "cuda" else 0,
    )


jobs.run(snakemake, work)
