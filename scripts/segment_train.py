"""Train Cellpose from images with masks."""

from typing import Any

from myostage.cells import segmentation
from myostage.runtime import jobs
from myostage.study.sections.segmentation import CellposeTraining


def work(smk: Any) -> None:
    segmentation.train_cellpose(
        CellposeTraining(**smk.params.training),
        diameter_um=smk.params.diameter_um,
        mpp=smk.params.mpp,
        out_model=smk.output[0],
    )


jobs.run(snakemake, work)
