"""Cosine similarity of stages in the embeddings of held-out cells."""

from pathlib import Path
from typing import Any

from myostage.evaluation import geometry
from myostage.runtime import jobs
from myostage.study.run import RunSpec


def work(smk: Any) -> None:
    specs = {run: RunSpec(**spec) for run, spec in smk.params.specs.items()}
    paths = jobs.paths(smk)
    geometry.similarities(
        {
            experiment: [(specs[run], Path(paths.run(run, "predictions.parquet"))) for run in runs]
            for experiment, runs in smk.params.experiments.items()
        },
        {slide: Path(paths.slide(slide, "labels.parquet")) for slide in smk.params.labelled},
        Path(smk.input.splits),
        len(smk.params.stages),
        Path(smk.output.similarities),
        Path(smk.output.correlations),
    )


jobs.run(snakemake, work)
