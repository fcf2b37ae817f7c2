"""Gradients of L_SimProp and L_prop at the start of a run, against finite differences."""

from pathlib import Path
from typing import Any

import numpy as np

from myostage.evaluation import gradients
from myostage.runtime import jobs
from myostage.study.run import RunSpec


def work(smk: Any) -> None:
    spec = RunSpec(**smk.params.spec)
    paths = jobs.paths(smk)
    gradients.gradient_flow(
        spec,
        stages=list(smk.params.stages),
        proportions={group: np.array(share) for group, share in smk.params.proportions.items()},
        splits=Path(smk.input.splits),
        tokens={slide: Path(paths.tokens(slide, spec.encoder.id)) for slide in smk.params.slides},
        gradients_out=Path(smk.output.gradients),
        encoder_weights=Path(paths.tuned(spec.encoder.id)) if spec.encoder.dino else None,
        threads=smk.threads,
    )


jobs.run(snakemake, work)
