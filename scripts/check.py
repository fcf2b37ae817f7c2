"""Open every slide, read its annotations; write what is known of the slides."""

from typing import Any

from myostage import tables
from myostage.cells.annotations import check_annotations
from myostage.runtime import jobs
from myostage.slides import checking
from myostage.slides.tables import SLIDES
from myostage.study.inputs import SlideRow


def work(smk: Any) -> None:
    rows = [SlideRow(**row) for row in smk.params.rows]
    check_annotations(row.annotations for row in rows if row.annotations)
    found = checking.check_slides(
        rows,
        on_bad_slide=smk.params.on_bad_slide,
        out=smk.output.table,
        thumbnails={row.slide: path for row, path in zip(rows, smk.output.thumbnails, strict=True)},
    )
    for number, path in enumerate(smk.output.slides):
        tables.write(path, found.iloc[[number]], SLIDES)


jobs.run(snakemake, work)
