"""Finding bad slides before hours are spent, and leaving them out with their reasons."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from myostage import tables
from myostage.errors import UserError
from myostage.paths import Paths
from myostage.slides.pixels import placeholder, save_png
from myostage.slides.slide import THUMBNAIL_PX, open_slide
from myostage.slides.tables import SLIDES

if TYPE_CHECKING:
    from myostage.study.inputs import SlideRow

logger = logging.getLogger(__name__)


def check_slides(
    rows: "Sequence[SlideRow]",
    *,
    on_bad_slide: str,
    out: str | Path,
    thumbnails: Mapping[str, str | Path],
) -> pd.DataFrame:
    """Open every slide, read samples of it, and write what was found out, with a thumbnail of each.

    Parameters
    ----------
    rows : sequence of SlideRow
        The slide table.
    on_bad_slide : str
        ``fail``: every bad slide is named in one error. ``skip``: it gets the status skipped, its reason,
        and a grey thumbnail.
    out : str or Path
        The slides table (``SLIDES``).
    thumbnails : mapping of slide to path
        PNGs, longer side at most 1024 px.

    Raises
    ------
    UserError
        A slide is unusable and ``on_bad_slide`` is ``fail``, or no slide is usable.
    """
    found: list[dict[str, Any]] = []
    for row in rows:
        logger.debug("opening slide %s: where the job ends here, this slide crashed its reader", row.slide)
        facts: dict[str, Any] = {
            "slide": row.slide,
            "path": str(row.path),
            "group": row.group or "",
            "animal": row.animal or "",
        }
        try:
            with open_slide(row.path, row.mpp) as slide:
                slide.probe()
                thumbnail = slide.thumbnail(THUMBNAIL_PX)
                facts |= {
                    "status": "ok",
                    "reason": "",
                    "reader": slide.reader,
                    "width_px": slide.width_px,
                    "height_px": slide.height_px,
                    "mpp": slide.mpp,
                    "mpp_source": slide.mpp_source,
                    "levels": slide.levels,
                }
        except UserError as error:
            logger.warning("slide %s: %s", row.slide, error)
            facts |= {"status": "skipped", "reason": str(error), "reader": "", "width_px": 0, "height_px": 0}
            facts |= {"mpp": math.nan, "mpp_source": "", "levels": 0}
            thumbnail = placeholder()
        found.append(facts)
        if row.slide in thumbnails:
            save_png(thumbnail, thumbnails[row.slide])
    frame = pd.DataFrame(found, columns=SLIDES.schema.names)
    bad = frame[frame.status != "ok"]
    if len(bad) and (on_bad_slide == "fail" or len(bad) == len(frame)):
        reasons = "\n".join(f"  {row.slide}: {row.reason}" for row in bad.itertuples())
        way_out = "" if on_bad_slide != "fail" else "\n`on_bad_slide: skip` leaves them out."
        raise UserError(f"{len(bad)} of {len(frame)} slides cannot be used:\n{reasons}{way_out}")
    tables.write(out, frame, SLIDES)
    return frame


def read_row(path: str | Path) -> Any:
    """What `check` found out about one slide: the row of a slides table that has one, as a named tuple."""
    return next(tables.read(path, SLIDES).itertuples(index=False, name="SlideFacts"))


def images(paths: Paths, slides: Iterable[str]) -> list[str]:
    """The image file of each of the ``slides``."""
    return [str(read_row(paths.slide(slide, "slide.parquet")).path) for slide in slides]


def skip(path: str | Path, table: tables.Table, reason: str) -> None:
    """Write an empty table of a slide that is left out from here on, with the reason in its metadata."""
    tables.write(path, table.schema.empty_table(), table, {"skipped": reason})


def reason_skipped(path: str | Path) -> str:
    """Why a slide was left out when its table was made; empty where it was not."""
    with tables.open_parquet(path) as file:
        metadata = file.schema_arrow.metadata or {}
    return str(metadata.get(b"skipped", b"").decode())


def refuse_skipped(path: str | Path) -> None:
    """UserError with the reason, where a slide was left out when its table was made."""
    if reason := reason_skipped(path):
        raise UserError(reason)
