"""Join further columns of the slide table to tables of slides: no slide is cut anew for those."""

from typing import Any

import pandas as pd

from myostage import tables
from myostage.cells.tables import SEGMENTATION_QUALITY
from myostage.runtime import jobs
from myostage.slides.tables import SLIDES


def work(smk: Any) -> None:
    found = tables.read(smk.input.table, SLIDES)
    tables.write(smk.output.table, tables.carry(found, smk.params.carried), SLIDES)
    if "quality" in smk.output.keys():  # noqa: SIM118 (no mapping)
        counts = pd.concat([tables.read(path, SEGMENTATION_QUALITY) for path in smk.input.quality])
        tables.write(smk.output.quality, tables.carry(counts, smk.params.carried), SEGMENTATION_QUALITY)


jobs.run(snakemake, work)
