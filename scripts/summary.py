"""Write the page that answers the study's questions."""

from pathlib import Path
from typing import Any

from myostage import jobs, schemas, summary, views
from myostage.structure import Structure


def work(smk: Any) -> None:
    paths = jobs.paths(smk)
    crops = {slide: paths.slide(slide, "crops.parquet") for slide in smk.params.slides}
    facts = summary.Facts(
        structure=Structure(**smk.params.structure),
        splits=schemas.read(smk.input.splits, schemas.SPLITS),
        metrics=schemas.read(smk.input.metrics, schemas.METRICS),
        comparisons=schemas.read(smk.input.comparisons, schemas.COMPARISONS),
        runs=schemas.read(smk.input.runs, schemas.RUNS),
        correlations=(
            schemas.read(smk.input.correlations[0], schemas.CORRELATIONS) if smk.input.correlations else None
        ),
        figures=[(Path(figure).stem.replace("_", " "), Path(figure)) for figure in smk.input.figures],
        unused=views.left_out(schemas.read(smk.input.slides[0], schemas.SLIDES), crops) if crops else {},
    )
    summary.write(smk.output.page, facts)


jobs.run(snakemake, work)
