"""Read ready-made crops, and their labels where they have them."""

from typing import Any

from myostage.cells import crops
from myostage.runtime import jobs
from myostage.study.inputs import CropRow


def work(smk: Any) -> None:
    labels = dict(zip(smk.params.labelled, smk.output.labels, strict=True))
    for (slide, rows), out in zip(smk.params.slides.items(), smk.output.crops, strict=True):
        crops.crop_images([CropRow(**row) for row in rows], out, labels.get(slide))


jobs.run(snakemake, work)
