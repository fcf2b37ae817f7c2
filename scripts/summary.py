"""Write the page that answers the study's questions."""

from pathlib import Path
from typing import Any

from myostage import tables
from myostage.evaluation.tables import (
    ALGEBRA,
    BORDERS,
    CHOICES,
    COMPARISONS,
    CORRELATIONS,
    METRICS,
    RUNS,
    SPECTRUM,
    WRONG_TABLES,
)
from myostage.figures import views
from myostage.learning.tables import SPLITS
from myostage.report import summary
from myostage.runtime import jobs
from myostage.slides.tables import SLIDES
from myostage.study.structure import SlideStructure, Structure

# tables that only some studies have
OPTIONAL = {
    "correlations": CORRELATIONS,
    "slide_metrics": METRICS,
    "slide_comparisons": COMPARISONS,
    "slide_runs": RUNS,
    "spectrum": SPECTRUM,
    "borders": BORDERS,
    "algebra": ALGEBRA,
    "choices": CHOICES,
    "wrong_tables": WRONG_TABLES,
}


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    crops = {slide: paths.slide(slide, "crops.parquet") for slide in smk.params.slides}
    facts = summary.Facts(
        structure=Structure(**smk.params.structure),
        splits=tables.read(smk.input.splits, SPLITS),
        metrics=tables.read(smk.input.metrics, METRICS),
        comparisons=tables.read(smk.input.comparisons, COMPARISONS),
        runs=tables.read(smk.input.runs, RUNS),
        figures=[(Path(figure).stem.replace("_", " "), Path(figure)) for figure in smk.input.figures],
        unused=views.left_out(tables.read(smk.input.slides[0], SLIDES), crops) if crops else {},
        slide_structure=SlideStructure(**smk.params.slide_structure) if smk.input.slide_metrics else None,
        models=smk.params.models,
        histories=views.histories(smk.params.histories) if smk.params.histories else None,
        **{
            name: tables.read(files[0], table)
            for name, table in OPTIONAL.items()
            if (files := getattr(smk.input, name))
        },
    )
    summary.write(smk.output.page, facts)


jobs.run(snakemake, work)
