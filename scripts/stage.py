"""Join the predictions of one experiment into a stage for every cell."""

from pathlib import Path
from typing import Any

from myostage.export import staging
from myostage.runtime import jobs
from myostage.study import config, plan


def work(smk: Any) -> None:
    specs = plan.staging_runs(config.load_study(smk.config, files=False))
    staging.stage_slides(
        [(spec, Path(path)) for spec, path in zip(specs, smk.params.predictions, strict=True)],
        Path(smk.input.splits),
        {slide: Path(path) for slide, path in zip(smk.params.slides, smk.output.stages, strict=True)},
        len(smk.params.stages),
    )


jobs.run(snakemake, work)
