"""Cut the slides into folds."""

from typing import Any

import pandas as pd

from myostage.learning import folds
from myostage.runtime import jobs


def work(smk: Any) -> None:
    slides = pd.DataFrame(smk.params.slides, columns=["slide", "group", "animal"])
    paths = jobs.paths(smk)
    cells = {slide: paths.slide(slide, smk.params.counted) for slide in slides["slide"]}
    folds.split_slides(slides, cells, smk.params.folds, smk.output[0])


jobs.run(snakemake, work)
