"""Open every slide; write what is known of it."""

from typing import Any

from myostage import schemas
from myostage.runtime import jobs
from myostage.slides import reader
from myostage.study import config


def work(smk: Any) -> None:
    rows = [config.SlideRow(**row) for row in smk.params.rows]
    found = reader.check_slides(
        rows,
        on_bad_slide=smk.params.on_bad_slide,
        out=smk.output.table,
        thumbnails={row.slide: path for row, path in zip(rows, smk.output.thumbnails, strict=True)},
    )
    for number, path in enumerate(smk.output.slides):
        schemas.write(path, found.iloc[[number]], schemas.SLIDES)


jobs.run(snakemake, work)
