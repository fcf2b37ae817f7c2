"""The image of each cell: 64 x 64 px around its centroid, or a ready-made picture of a crop study."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from myostage import tables
from myostage.cells.tables import CELLS, CROP_PX, CROPS, LABELS
from myostage.errors import UserError
from myostage.slides.pixels import RGB
from myostage.slides.slide import Slide, open_slide, read_picture
from myostage.study.sections.crop import Crop
from myostage.study.sections.tiling import Tiling

if TYPE_CHECKING:
    from myostage.study.inputs import CropRow

logger = logging.getLogger(__name__)

ROW_GROUP = 256
"""Crops per row group: what a reader holds at once, 3 MB."""


class _CropWriter:
    """Writes crops by row groups of `ROW_GROUP`: memory stays the same for a slide of any size."""

    def __init__(self, out: Any) -> None:
        self.out = out
        self.written = 0
        self._cells: list[int] = []
        self._images: list[bytes] = []

    def add(self, cell: int, image: RGB) -> None:
        self._cells.append(cell)
        self._images.append(image.tobytes())
        if len(self._cells) == ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        if self._cells:
            table = pa.table([self._cells, self._images], schema=CROPS.schema)
            self.out.write_table(table, row_group_size=ROW_GROUP)
            self.written += len(self._cells)
            self._cells, self._images = [], []


@contextmanager
def _crop_writer(path: str | Path, metadata: dict[str, str]) -> Iterator[_CropWriter]:
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False}
    with tables.writer(path, CROPS, metadata, write_statistics=["cell"], **options) as out:
        crops = _CropWriter(out)
        yield crops
        crops.flush()


def crop_slide(
    row: Any, cells_path: str | Path, tiling: Tiling, crop: Crop, out_crops: str | Path
) -> tuple[int, int]:
    """Write the crops of one slide's cells.

    Parameters
    ----------
    row : row of the slides table
        With slide, path and mpp.
    cells_path : str or Path
        ``CELLS``.
    tiling : Tiling
        Its mpp is that of the cells' coordinates.
    crop : Crop
        Resolution of the crops; mean R, G and B from which a crop is background and dropped.
    out_crops : str or Path
        ``CROPS`` in the order of the cells; the file's metadata has ``mpp`` (um/px) and ``dropped``.

    Returns
    -------
    kept, dropped : int
    """
    cells = tables.read(cells_path, CELLS, ["cell", "x_px", "y_px"])
    mpp = crop.mpp or tiling.mpp
    dropped = 0
    with _crop_writer(out_crops, {"mpp": repr(float(mpp))}) as crops:
        if len(cells):  # a skipped slide has no cells and cannot be opened
            with open_slide(row.path, row.mpp) as slide:
                scale = tiling.mpp / mpp
                for cell, x, y in zip(cells.cell, cells.x_px * scale, cells.y_px * scale, strict=True):
                    image = crop_at(slide, float(x), float(y), mpp)
                    if image.mean(axis=(0, 1)).min() >= crop.white:
                        dropped += 1
                    else:
                        crops.add(int(cell), image)
        crops.out.add_key_value_metadata({"dropped": str(dropped)})
    kept = len(cells) - dropped
    logger.info("slide %s: %d crops, %d near-white ones dropped", row.slide, kept, dropped)
    return kept, dropped


def crop_at(slide: Slide, x_px: float, y_px: float, mpp: float) -> RGB:
    """The crop centred on a point.

    Parameters
    ----------
    slide : Slide
    x_px, y_px : float
        The centre in px at ``mpp``, within the slide.
    mpp : float
        Resolution, um/px.

    Returns
    -------
    uint8[64, 64, 3]
        Beyond the slide the pixels of its edge are repeated: white there would look like background.
    """
    width, height = slide.size(mpp)
    left, top = round(x_px - CROP_PX / 2), round(y_px - CROP_PX / 2)
    x0, x1 = np.clip([left, left + CROP_PX], 0, width).tolist()
    y0, y1 = np.clip([top, top + CROP_PX], 0, height).tolist()
    if x0 == x1 or y0 == y1:
        raise UserError(
            f"{slide.path}: a cell at x {x_px:.0f}, y {y_px:.0f} px lies outside the slide "
            f"({width} x {height} px of {mpp:g} um/px); "
            "its resolution was changed since the cells were found, find them again"
        )
    image = slide.read(x0, y0, x1 - x0, y1 - y0, mpp)
    if image.shape == (CROP_PX, CROP_PX, 3):
        return image
    beyond = ((y0 - top, top + CROP_PX - y1), (x0 - left, left + CROP_PX - x1), (0, 0))
    return np.pad(image, beyond, mode="edge")


def crop_images(
    rows: "Sequence[CropRow]", out_crops: str | Path, out_labels: str | Path | None = None
) -> int:
    """Write the crops table, and the labels table, of one virtual slide of a crop study.

    Parameters
    ----------
    rows : sequence of CropRow
        The crops of one virtual slide; cells are numbered in this order, from 0.
    out_crops : str or Path
        ``CROPS``, each image resized (antialiased) to 64 x 64 px; the file's metadata lists the names
        of the crops by cell (key ``crops``, JSON).
    out_labels : str or Path, optional
        ``LABELS`` of the labelled crops.

    Returns
    -------
    int
        Crops.

    Raises
    ------
    UserError
        Images that cannot be read, all of them named.
    """
    bad = []
    with _crop_writer(out_crops, {"crops": json.dumps([row.crop for row in rows])}) as crops:
        for cell, row in enumerate(rows):
            try:
                crops.add(cell, _square(read_picture(row.path, "column path of the crop table")))
            except UserError as error:
                bad.append(f"{row.crop} ({error})")
        if bad:
            raise UserError(
                f"{len(bad)} of {len(rows)} crops cannot be read: {_listed(bad)}; "
                "copy them again as 8-bit images, or take them out of the crop table"
            )
    if out_labels is not None:
        labelled = [(cell, row.label, 1.0) for cell, row in enumerate(rows) if row.label is not None]
        labels = pd.DataFrame(labelled, columns=LABELS.schema.names)
        tables.write(out_labels, labels, LABELS)
    return len(rows)


def _square(pixels: RGB) -> RGB:
    if pixels.shape == (CROP_PX, CROP_PX, 3):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC))


def _listed(names: list[str], most: int = 10) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
