"""Write the page that answers the study's questions."""

from pathlib import Path
from typing import Any

from myostage import schemas
from myostage.figures import views
from myostage.report import summary
from myostage.runtime import jobs
from myostage.study.structure import SlideStructure, Structure

# tables that only some studies have
OPTIONAL = {
    "correlations": schemas.CORRELATIONS,
    "slide_metrics": schemas.METRICS,
    "slide_comparisons": schemas.COMPARISONS,
    "slide_runs": schemas.RUNS,
    "spectrum": schemas.SPECTRUM,
    "borders": schemas.BORDERS,
    "algebra": schemas.ALGEBRA,
}


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    crops = {slide: paths.slide(slide, "crops.parquet") for slide in smk.params.slides}
    facts = summary.Facts(
        structure=Structure(**smk.params.structure),
        splits=schemas.read(smk.input.splits, schemas.SPLITS),
        metrics=schemas.read(smk.input.metrics, schemas.METRICS),
        comparisons=schemas.read(smk.input.comparisons, schemas.COMPARISONS),
        runs=schemas.read(smk.input.runs, schemas.RUNS),
        figures=[(Path(figure).stem.replace("_", " "), Path(figure)) for figure in smk.input.figures],
        unused=views.left_out(schemas.read(smk.input.slides[0], schemas.SLIDES), crops) if crops else {},
        slide_structure=SlideStructure(**smk.params.slide_structure) if smk.input.slide_metrics else None,
        models=smk.params.models,
        histories=views.histories(smk.params.histories) if smk.params.histories else None,
        **{
            name: schemas.read(files[0], table)
            for name, table in OPTIONAL.items()
            if (files := getattr(smk.input, name))
        },
    )
    summary.write(smk.output.page, facts)


jobs.run(snakemake, work)
