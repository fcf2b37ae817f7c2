"""Opening slides of any make at a resolution in um/px.

Everything above this module counts pixels *at a resolution* (um/px) from the slide's top left, and never sees
pyramid levels. Slides and TIFFs are streamed; only a plain image is held in memory.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from PIL import Image

from myostage.errors import UserError
from myostage.registry import Registry
from myostage.schema import MPP_RANGE
from myostage.slides import readers
from myostage.slides.pixels import RGB
from myostage.slides.reader import (
    READ_BYTES,
    Labels,
    Levels,
    OtherFormat,
    Reader,
    Unreadable,
    one_line,
    refuse_large,
)

_Read = TypeVar("_Read")

# readers is imported by name so that the code digest of whoever opens slides counts all of them
READERS: Registry[Reader] = Registry(readers.__name__, "READER")

SQUARE_TOLERANCE = 0.05
"""Largest relative difference of the two axes' resolutions."""

SLIDE_TABLE = "column path of the slide table"
LARGEST_PX = (10**6, 10**11)
"""Side and area of the largest slide, px; those of scanners reach 4e10."""
COPY_BYTES = 16
"""Per pixel of an image that is read in one piece."""
THUMBNAIL_PX = 1024
PROBE_PX = 64
_SOURCE_PX = 2048
"""Side of the largest region read from a level at once: bounds the memory of any `read`."""


class Slide:
    """An open slide. Close it, or use it as a context manager.

    Attributes
    ----------
    path : Path
    width_px, height_px : int
        Size of the largest level.
    mpp : float
        Resolution of the largest level, um/px.
    mpp_source : str
        ``file``, or ``table`` where the slide table gave it.
    levels : int
        Pyramid levels.
    reader : str
        Name of the reader that opened it.
    """

    def __init__(self, path: Path, reader: str, file: Levels, mpp: float, mpp_source: str) -> None:
        self.path = path
        self.mpp = mpp
        self.mpp_source = mpp_source
        self.reader = reader
        self.levels = len(file.sizes)
        self.width_px, self.height_px = file.sizes[0]
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def size(self, mpp: float) -> tuple[int, int]:
        """Width and height in px at ``mpp`` um/px: whole pixels only, at least one."""
        scale = self.mpp / mpp
        return max(1, int(self.width_px * scale + 1e-6)), max(1, int(self.height_px * scale + 1e-6))

    def read(self, x_px: int, y_px: int, w_px: int, h_px: int, mpp: float) -> RGB:
        """A window of the slide, resampled (antialiased) from the nearest finer level.

        What a pixel shows does not depend on the window it is read with, so that overlapping tiles agree.

        Parameters
        ----------
        x_px, y_px : int
            Top left of the window in px at ``mpp``; may lie outside the slide.
        w_px, h_px : int
            Size of the window in px at ``mpp``.
        mpp : float
            Resolution, um/px.

        Returns
        -------
        uint8[h_px, w_px, 3]
            RGB; white outside the slide.

        Raises
        ------
        UserError
            The file is damaged there, or the window takes more memory than reading may.
        """
        if h_px * w_px * 3 > READ_BYTES:
            raise UserError(
                f"{self.path}: {w_px:,} x {h_px:,} px of {mpp:g} um/px are too many to hold at once; "
                "raise tiling.mask_mpp, or correct the resolution by column mpp of the slide table"
            )
        out = np.full((h_px, w_px, 3), 255, np.uint8)
        width, height = self.size(mpp)
        left, right = max(x_px, 0), min(x_px + w_px, width)
        top, bottom = max(y_px, 0), min(y_px + h_px, height)
        level = self._level(mpp)
        step = max(1, int(_SOURCE_PX / max(self._factors(level, mpp))))
        for y0 in range(top, bottom, step):
            for x0 in range(left, right, step):
                x1, y1 = min(x0 + step, right), min(y0 + step, bottom)
                block = self._resample(level, x0, y0, x1, y1, mpp)
                out[y0 - y_px : y1 - y_px, x0 - x_px : x1 - x_px] = block
        return out

    def thumbnail(self, max_px: int = THUMBNAIL_PX) -> RGB:
        """All of the slide, its longer side at most ``max_px`` px; never enlarged."""
        mpp = self.mpp * max(1.0, max(self.width_px, self.height_px) / max_px)
        return self.read(0, 0, *self.size(mpp), mpp)

    def probe(self) -> None:
        """Read the corners and the middle of the largest level and the middle of the smallest.

        Raises
        ------
        UserError
            One of them cannot be read.
        """
        width, height = self.width_px, self.height_px
        w, h = min(PROBE_PX, width), min(PROBE_PX, height)
        corners = [(x, y) for y in (0, height - h) for x in (0, width - w)]
        for x, y in [*corners, ((width - w) // 2, (height - h) // 2)]:
            self._region(0, x, y, w, h)
        width, height = self._file.sizes[-1]
        w, h = min(PROBE_PX, width), min(PROBE_PX, height)
        self._region(self.levels - 1, (width - w) // 2, (height - h) // 2, w, h)

    def _factors(self, level: int, mpp: float) -> tuple[float, float]:
        """Pixels of ``level`` per pixel at ``mpp``, in x and y."""
        width, height = self._file.sizes[level]
        scale = mpp / self.mpp
        return scale * width / self.width_px, scale * height / self.height_px

    def _level(self, mpp: float) -> int:
        # Levels are rounded to whole pixels: a level that is coarser by less than 1 % is as good.
        fine = [level for level in range(self.levels) if min(self._factors(level, mpp)) >= 0.99]
        return fine[-1] if fine else 0

    def _resample(self, level: int, x0: int, y0: int, x1: int, y1: int, mpp: float) -> RGB:
        fx, fy = self._factors(level, mpp)
        if fx == fy == 1:
            return self._region(level, x0, y0, x1 - x0, y1 - y0)
        # First a whole-number box filter on a grid fixed to the slide; 2 to 4 are left to the cubic filter.
        reduce = max(1, int(min(fx, fy) / 2))
        margin = math.ceil(2 * max(fx, fy, 1)) + reduce  # reach of the cubic filter, one reduced px
        width, height = self._file.sizes[level]
        left = max(0, math.floor(x0 * fx) - margin) // reduce * reduce
        top = max(0, math.floor(y0 * fy) - margin) // reduce * reduce
        right = min(width, (math.ceil(x1 * fx) + margin) // reduce * reduce + reduce)
        bottom = min(height, (math.ceil(y1 * fy) + margin) // reduce * reduce + reduce)
        pixels = self._region(level, left, top, right - left, bottom - top)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if reduce > 1:
            image = image.reduce(reduce)
        box = (
            (x0 * fx - left) / reduce,
            (y0 * fy - top) / reduce,
            min((x1 * fx - left) / reduce, image.width),
            min((y1 * fy - top) / reduce, image.height),
        )
        return np.asarray(image.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box))

    def _region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        return _region(self.path, self._file, level, x, y, w, h)


def _region(path: Path, file: Levels, level: int, x: int, y: int, w: int, h: int) -> RGB:
    try:
        return file.region(level, x, y, w, h)
    except Exception as error:  # decoders raise whatever they like; the user needs the file and the place
        raise UserError(
            f"{path}: it opens, but level {level} is unreadable at x {x}, y {y} px "
            f"({one_line(error)}); the file is damaged, copy it again or leave it out"
        ) from error


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Open a slide of any known make.

    Parameters
    ----------
    path : str or Path
        A file that one of :func:`all_readers` knows.
    mpp : float, optional
        Resolution of the largest level in um/px; wins over the file's. None or NaN: the file's.

    Raises
    ------
    UserError
        The file is missing, empty, damaged or of another format, or its resolution is unknown or absurd.
    """
    path = Path(path)
    reader, file = _read_by(path, SLIDE_TABLE, {reader.name: reader.open for reader in all_readers()})
    try:
        _check_size(path, file.sizes)
        return Slide(path, reader, file, *_resolution(path, file.mpp, mpp))
    except UserError:
        file.close()
        raise


@cache
def all_readers() -> tuple[Reader, ...]:
    """The readers of slides/readers, in the order in which they are asked."""
    return tuple(sorted((READERS[name] for name in READERS.names()), key=lambda reader: reader.place))


def read_picture(path: str | Path, named_in: str) -> RGB:
    """All pixels of an image of any known make at its own resolution, uint8[h, w, 3].

    Parameters
    ----------
    path
        The file.
    named_in
        What the message of a missing file asks to correct.

    Raises
    ------
    UserError
        As :func:`open_slide`, but for the resolution; the image is too large to be held in memory.
    """

    path = Path(path)
    file = _read_by(path, named_in, {reader.name: reader.open for reader in all_readers()})[1]
    with closing(file):
        _check_size(path, file.sizes)
        width, height = file.sizes[0]
        try:
            refuse_large(
                COPY_BYTES * width * height, f"{width:,} x {height:,} px", "cut it into smaller images"
            )
        except Unreadable as error:
            raise _refusal(path, error, error.why) from None
        return _region(path, file, 0, 0, 0, width, height).copy()


def read_labels(path: str | Path, named_in: str) -> Labels:
    """A label image, int32[h, w], 0: background; as :func:`read_picture`."""
    known = {reader.name: reader.labels for reader in all_readers() if reader.labels}
    return _read_by(Path(path), named_in, known)[1]


def _read_by(path: Path, named_in: str, reads: Mapping[str, Callable[[Path], _Read]]) -> tuple[str, _Read]:
    """Name of the first reader that knows the file, and what it reads of it."""
    try:
        with path.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: {why}; correct {named_in}") from None
    if empty:
        raise UserError(f"{path}: the file is empty; copy it again")
    complaint = ""
    for name, read in reads.items():
        try:
            return name, read(path)
        except OtherFormat as error:
            complaint = complaint or str(error)
        except Unreadable as error:
            raise _refusal(path, error, complaint or error.why) from error.__cause__
    known = " or ".join(reader.formats for reader in all_readers() if reader.name in reads)
    raise UserError(
        f"{path}: no {known} that can be opened ({complaint or 'unknown format'}); "
        "the file is damaged or of another format, copy it again or convert it"
    )


def _refusal(path: Path, error: Unreadable, why: str) -> UserError:
    return UserError(f"{path}: {error.what} ({why}); {error.remedy}")


def _check_size(path: Path, sizes: list[tuple[int, int]]) -> None:
    (side, area), (width, height) = LARGEST_PX, sizes[0]
    if min(map(min, sizes)) < 1:
        raise UserError(
            f"{path}: it says that it has no pixels; the file is damaged, copy it again or leave it out"
        )
    if max(width, height) > side or width * height > area:
        raise UserError(
            f"{path}: it says that it is {width:,} x {height:,} px, more than any slide ({side:,} px a side, "
            f"{area:.0e} px in all); the file is damaged, copy it again or leave it out"
        )


def _resolution(path: Path, of_file: tuple[float, float] | None, of_table: float | None) -> tuple[float, str]:
    low, high = MPP_RANGE
    if of_table is not None and not math.isnan(of_table):
        if not low <= of_table <= high:
            raise UserError(
                f"{path}: the slide table gives {of_table:g} um/px, outside {low:g} to {high:g}; "
                "correct column mpp of the slide table"
            )
        return float(of_table), "table"
    if of_file is None:
        raise UserError(f"{path}: the file has no resolution; add its um/px to column mpp of the slide table")
    mpp = sum(of_file) / 2
    if not low <= mpp <= high:
        raise UserError(
            f"{path}: the file says {mpp:.4g} um/px, outside {low:g} to {high:g}; "
            "add its true um/px to column mpp of the slide table"
        )
    if abs(of_file[0] - of_file[1]) > SQUARE_TOLERANCE * mpp:
        raise UserError(
            f"{path}: the file says {of_file[0]:.4g} um/px across and {of_file[1]:.4g} down; "
            "make its pixels square, or add its true um/px to column mpp of the slide table"
        )
    return mpp, "file"
