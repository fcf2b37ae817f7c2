"""Train the runs of one batch and predict their held-out slides."""

from pathlib import Path
from typing import Any

from myostage import config, jobs, plan, runs


def work(smk: Any) -> None:
    specs = config.runs(config.load_study(smk.config, files=False))
    tokens = {slide: Path(path) for slide, path in zip(smk.params.slides, smk.input.tokens, strict=True)}
    labels = {slide: Path(path) for slide, path in zip(smk.params.labelled, smk.input.labels, strict=False)}
    out = smk.output
    for run, model, history, predictions, outcome in zip(
        smk.params.runs, out.models, out.histories, out.predictions, out.outcomes, strict=True
    ):
        runs.train_run(
            specs[run],
            stages=smk.params.stages,
            proportions=plan.as_arrays(smk.params.proportions),
            slide_proportions=plan.as_arrays(smk.params.slide_proportions),
            splits=Path(smk.input.splits),
            tokens=tokens,
            labels=labels,
            encoder_weights=Path(smk.input.encoder) if smk.input.encoder else None,
            model_out=Path(model),
            history_out=Path(history),
            predictions_out=Path(predictions),
            outcome_out=Path(outcome),
            checkpoint_dir=Path(model).parent / "checkpoint",
            threads=smk.threads,
        )


jobs.run(snakemake, work)
