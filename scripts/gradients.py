"""Gradients of L_SimProp and L_prop at the start of a run, against finite differences."""

from pathlib import Path
from typing import Any

from myostage import config, gradients, jobs, plan


def work(smk: Any) -> None:
    specs = config.runs(config.load_study(smk.config, files=False))
    gradients.gradient_flow(
        specs[smk.params.run],
        stages=list(smk.params.stages),
        proportions=plan.as_arrays(smk.params.proportions),
        splits=Path(smk.input.splits),
        tokens={slide: Path(path) for slide, path in zip(smk.params.slides, smk.input.tokens, strict=True)},
        gradients_out=Path(smk.output.gradients),
        encoder_weights=Path(smk.input.encoder) if smk.input.encoder else None,
        threads=smk.threads,
    )


jobs.run(snakemake, work)
