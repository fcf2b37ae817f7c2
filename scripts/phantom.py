"""Draw the phantom slides of one batch."""

from typing import Any

import numpy as np

from myostage import config, jobs, phantom


def work(smk: Any) -> None:
    drawing = config.Phantom(**smk.params.phantom)
    for slide, animal, proportions, path, truth in zip(
        smk.params.slides,
        smk.params.animals,
        smk.params.proportions,
        smk.output.slides,
        smk.output.annotations,
        strict=True,
    ):
        phantom.draw_slide(
            path,
            truth,
            phantom=drawing,
            stages=tuple(smk.params.stages),
            proportions=np.array(proportions),
            animal=animal,
            slide=slide,
        )


jobs.run(snakemake, work)
