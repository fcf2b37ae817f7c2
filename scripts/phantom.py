"""Draw the phantom slides of one batch."""

from typing import Any

import numpy as np

from myostage.phantom import draw
from myostage.phantom.muscle import Region
from myostage.runtime import jobs
from myostage.study.sections.phantom import Phantom


def work(smk: Any) -> None:
    drawing = Phantom(**smk.params.phantom)
    healthy = [list(smk.params.stages).index(stage) for stage in smk.params.healthy]
    for slide, animal, proportions, (border, score), path, truth in zip(
        smk.params.slides,
        smk.params.animals,
        smk.params.proportions,
        smk.params.regions,
        smk.output.slides,
        smk.output.annotations,
        strict=True,
    ):
        draw.draw_slide(
            path,
            truth,
            phantom=drawing,
            stages=tuple(smk.params.stages),
            proportions=np.array(proportions),
            animal=animal,
            slide=slide,
            region=Region(border, float(score), tuple(healthy)) if border else None,
        )


jobs.run(snakemake, work)
