"""List the slides with the columns of the slide table that nothing uses: no slide is cut anew for those."""

from typing import Any

from myostage import tables
from myostage.runtime import jobs
from myostage.slides.tables import SLIDES


def work(smk: Any) -> None:
    found = tables.read(smk.input.table, SLIDES)
    tables.write(smk.output.table, tables.carry(found, smk.params.carried), SLIDES)


jobs.run(snakemake, work)
