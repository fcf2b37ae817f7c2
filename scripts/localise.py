"""Spectra of attention on the graph of cells, and localisation by the distance to the border of injury."""

from pathlib import Path
from typing import Any

from myostage.evaluation import localisation
from myostage.runtime import jobs
from myostage.study.run import ATTENTION
from myostage.study.sections.graph import Graph


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    shared = (
        {
            name: [Path(paths.run(run, ATTENTION)) for run in runs]
            for name, runs in smk.params.experiments.items()
        },
        {slide: Path(paths.slide(slide, smk.params.places)) for slide in smk.params.slides},
        {slide: Path(paths.slide(slide, "labels.parquet")) for slide in smk.params.labelled},
        smk.params.healthy,
    )
    alpha, steps = smk.params.smooth["alpha"], smk.params.smooth["smooth_steps"]
    localisation.spectra(
        *shared,
        Graph(**smk.params.graph),
        localisation.ALPHA if alpha == "trainable" else alpha,
        steps,
        smk.params.animal_of,
        Path(smk.output.spectrum),
    )
    localisation.borders(
        *shared,
        smk.params.border_of,
        localisation.EDGES_UM,
        smk.params.animal_of,
        Path(smk.output.borders),
    )


jobs.run(snakemake, work)
