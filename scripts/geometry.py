"""Cosine similarity of stages in the embeddings of held-out cells."""

from pathlib import Path
from typing import Any

from myostage import config, geometry, jobs


def work(smk: Any) -> None:
    specs = config.runs(config.load_study(smk.config, files=False))
    predictions = {Path(path).parent.name: Path(path) for path in smk.input.predictions}
    geometry.similarities(
        {
            experiment: [(specs[run], predictions[run]) for run in runs]
            for experiment, runs in smk.params.experiments.items()
        },
        {slide: Path(path) for slide, path in zip(smk.params.labelled, smk.input.labels, strict=True)},
        Path(smk.input.splits),
        len(smk.params.stages),
        Path(smk.output.similarities),
        Path(smk.output.correlations),
    )


jobs.run(snakemake, work)
