"""Join the predictions of one experiment into a stage for every cell."""

from pathlib import Path
from typing import Any

from myostage.export import cell_stages
from myostage.runtime import jobs
from myostage.study.run import RunSpec
from myostage.study.sections.prediction import Prediction


def work(smk: Any) -> None:
    specs = [RunSpec(**spec) for spec in smk.params.specs]
    cell_stages.stage_slides(
        [(spec, Path(path)) for spec, path in zip(specs, smk.params.predictions, strict=True)],
        Path(smk.input.splits),
        {slide: Path(path) for slide, path in zip(smk.params.slides, smk.output.stages, strict=True)},
        len(smk.params.stages),
        smk.params.uncertain_below,
        Prediction(**smk.params.prediction),
        smk.params.proportions,
    )


jobs.run(snakemake, work)
