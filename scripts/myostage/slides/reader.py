"""Opening slides of any make at a resolution in um/px, and finding the bad ones before hours are spent.

OpenSlide is asked first; a TIFF it does not know is read by tifffile, a PNG or JPEG by Pillow. Everything
above this module speaks pixels *at a resolution* (um/px) counted from the slide's top left, and never sees
pyramid levels. Slides and TIFFs are streamed; only a plain image is ever held whole.
"""

import logging
import math
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import openslide
import pandas as pd
import pyarrow.parquet as pq
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from myostage import tables
from myostage.errors import UserError
from myostage.schema import MPP_RANGE
from myostage.slides.tables import SLIDES

if TYPE_CHECKING:
    from myostage.study.inputs import SlideRow

logger = logging.getLogger(__name__)

SQUARE_TOLERANCE = 0.05
"""Largest relative difference of the two axes' resolutions."""

THUMBNAIL_PX = 1024
PROBE_PX = 64
_SOURCE_PX = 2048
"""Side of the largest region read from a level at once: bounds the memory of any `read`."""
_CACHE_BYTES = 128 * 2**20
_CM_IN_UM, _INCH_IN_UM = 1e4, 25.4e3
_IMAGEJ_MICRON = {"micron", "microns", "um", "µm", "μm", "\\u00B5m"}

RGB = NDArray[np.uint8]


class _Reader(Protocol):
    """A file that gives RGB regions of its levels; `sizes` are (width, height) in px, largest first."""

    name: str
    sizes: list[tuple[int, int]]
    mpp: tuple[float, float] | None

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        """Pixels of a window that lies inside ``level``."""
        ...

    def close(self) -> None: ...


class _OpenSlideReader:
    name = "openslide"

    def __init__(self, path: Path) -> None:
        self._file = openslide.OpenSlide(path)
        self.sizes = [(int(w), int(h)) for w, h in self._file.level_dimensions]
        x, y = (self._file.properties.get(f"openslide.mpp-{axis}") for axis in "xy")
        self.mpp = (float(x), float(y)) if x and y else None

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        scale = self._file.level_downsamples[level]
        return _on_white(self._file.read_region((round(x * scale), round(y * scale)), level, (w, h)))

    def close(self) -> None:
        self._file.close()


class _TiffReader:
    """TIFFs that OpenSlide does not know (strips, rare compressions), decoded by tile or strip."""

    name = "tiff"

    def __init__(self, path: Path) -> None:
        self._file = tifffile.TiffFile(path)
        try:
            self._pages = [level.keyframe for level in self._file.series[0].levels]
            for page in self._pages:
                _check_colour(page)
            self.sizes = [(page.imagewidth, page.imagelength) for page in self._pages]
            self.mpp = _tiff_mpp(self._file, self._pages[0])
            self._cache: OrderedDict[tuple[int, int], RGB] = OrderedDict()
            self._chunk(0, 0)
        except BaseException:
            self._file.close()
            raise

    def _chunk(self, level: int, index: int) -> RGB:
        """One decoded tile or strip, uint8[h, w, samples], from a cache bounded in bytes."""
        key = (level, index)
        if key not in self._cache:
            page = self._pages[level]
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
            segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
            if segment is None:  # a sparse file leaves out empty tiles
                self._cache[key] = np.full((shape[1], shape[2], 1), 255, np.uint8)
            else:
                self._cache[key] = segment[0, : shape[1], : shape[2]]
            while len(self._cache) > 1 and sum(chunk.nbytes for chunk in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        page = self._pages[level]
        high, wide = page.chunks[:2]
        across = page.chunked[1]
        out = np.empty((h, w, 3), np.uint8)
        for row in range(y // high, -(-(y + h) // high)):
            for column in range(x // wide, -(-(x + w) // wide)):
                chunk = self._chunk(level, row * across + column)
                top, left = row * high, column * wide
                y0, y1 = max(y, top), min(y + h, top + high)
                x0, x1 = max(x, left), min(x + w, left + wide)
                part = chunk[y0 - top : y1 - top, x0 - left : x1 - left]
                if part.shape[2] == 4:
                    part = _on_white(Image.fromarray(np.ascontiguousarray(part), "RGBA"))
                out[y0 - y : y1 - y, x0 - x : x1 - x] = part  # grey repeats itself over R, G and B
        return out

    def close(self) -> None:
        self._file.close()


class _ImageReader:
    """A PNG or JPEG, held whole. Its dpi is a printer's: the resolution is left to the slide table."""

    name = "image"

    def __init__(self, path: Path) -> None:
        self.mpp: tuple[float, float] | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG", "JPEG"]) as image:
                self._pixels = rgb(image)
        self.sizes = [(self._pixels.shape[1], self._pixels.shape[0])]

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        return self._pixels[y : y + h, x : x + w]

    def close(self) -> None:
        del self._pixels


def rgb(image: Image.Image) -> RGB:
    """An 8-bit image of any colour model as uint8[h, w, 3], transparent parts white.

    Raises
    ------
    ValueError
        The image has more than 8 bits per channel.
    """
    if image.mode not in {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}:
        raise ValueError(f"pixels of mode {image.mode}, not 8-bit RGB")
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _on_white(image: Image.Image) -> RGB:
    pixels = np.asarray(image)
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return pixels[..., :3]
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _check_colour(page: tifffile.TiffPage) -> None:
    colour = getattr(page.photometric, "name", str(page.photometric))
    jpeg = page.compression in (6, 7)  # decoded to RGB
    known = colour in {"RGB", "MINISBLACK"} or (colour == "YCBCR" and jpeg)
    layout = page.axes in {"YX", "YXS"} and page.samplesperpixel in (1, 3, 4)
    if page.dtype != np.uint8 or not layout or not known:
        raise ValueError(f"pixels are {colour} {page.dtype} with axes {page.axes}, not 8-bit RGB")


def _tiff_mpp(file: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[float, float] | None:
    """The resolution in um/px of the tags XResolution, YResolution and ResolutionUnit, or of ImageJ's."""
    unit = page.tags.valueof("ResolutionUnit", default=2)
    length = {2: _INCH_IN_UM, 3: _CM_IN_UM}.get(int(unit))
    if (file.imagej_metadata or {}).get("unit") in _IMAGEJ_MICRON:
        length = 1.0
    per_unit = []
    for name in ("XResolution", "YResolution"):
        numerator, denominator = page.tags.valueof(name, default=(0, 1))
        per_unit.append(numerator / denominator if denominator else 0.0)
    if length is None or min(per_unit) <= 0:
        return None
    return length / per_unit[0], length / per_unit[1]


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
        ``openslide``, ``tiff`` or ``image``.
    """

    def __init__(self, path: Path, reader: _Reader, mpp: float, mpp_source: str) -> None:
        self.path = path
        self.mpp = mpp
        self.mpp_source = mpp_source
        self.reader = reader.name
        self.levels = len(reader.sizes)
        self.width_px, self.height_px = reader.sizes[0]
        self._reader = reader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def size(self, mpp: float) -> tuple[int, int]:
        """Width and height in px at ``mpp`` um/px: whole pixels only, at least one."""
        scale = self.mpp / mpp
        return max(1, int(self.width_px * scale + 1e-6)), max(1, int(self.height_px * scale + 1e-6))

    def read(self, x_px: int, y_px: int, w_px: int, h_px: int, mpp: float) -> RGB:
        """A window of the slide, resampled (antialiased) from the nearest finer level.

        What a pixel shows does not depend on the window it is read with, so that neighbouring tiles agree.

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
            The file is damaged there.
        """
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
        """The whole slide, its longer side at most ``max_px`` px; never enlarged."""
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
        width, height = self._reader.sizes[-1]
        w, h = min(PROBE_PX, width), min(PROBE_PX, height)
        self._region(self.levels - 1, (width - w) // 2, (height - h) // 2, w, h)

    def _factors(self, level: int, mpp: float) -> tuple[float, float]:
        """Pixels of ``level`` per pixel at ``mpp``, in x and y."""
        width, height = self._reader.sizes[level]
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
        width, height = self._reader.sizes[level]
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
        try:
            return self._reader.region(level, x, y, w, h)
        except Exception as error:  # decoders raise whatever they like; the user needs the file and the place
            raise UserError(
                f"{self.path}: it opens, but level {level} is unreadable at x {x}, y {y} px "
                f"({_text(error)}); the file is damaged, copy it again or leave it out"
            ) from error


def open_slide(path: str | Path, mpp: float | None = None) -> Slide:
    """Open a slide of any known make.

    Parameters
    ----------
    path : str or Path
        Whatever OpenSlide knows, a TIFF (8-bit RGB or grey), a PNG or a JPEG.
    mpp : float, optional
        Resolution of the largest level in um/px; wins over the file's. None or NaN: the file's.

    Raises
    ------
    UserError
        The file is missing, empty, damaged or of another format, or its resolution is unknown or absurd.
    """
    path = Path(path)
    reader = _open_reader(path)
    try:
        return Slide(path, reader, *_resolution(path, reader.mpp, mpp))
    except UserError:
        reader.close()
        raise


def _open_reader(path: Path) -> _Reader:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: {why}; mend column path of the slide table") from None
    if empty:
        raise UserError(f"{path}: the file is empty; copy it again")
    # Of a format that OpenSlide knows, its complaint says more than that of the next reader.
    complaint = ""
    try:
        return _OpenSlideReader(path)
    except openslide.OpenSlideUnsupportedFormatError:
        pass
    except openslide.OpenSlideError as error:
        complaint = _text(error)
    try:
        return _TiffReader(path)
    except tifffile.TiffFileError:
        pass
    except Exception as error:  # tifffile and its codecs raise whatever they like
        raise UserError(
            f"{path}: this TIFF cannot be opened ({complaint or _text(error)}); "
            "convert it to a tiled 8-bit RGB TIFF with JPEG compression"
        ) from error
    try:
        return _ImageReader(path)
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: no slide, TIFF, PNG or JPEG that can be opened ({complaint or 'unknown format'}); "
            "the file is damaged or of another format, copy it again or convert it"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path}: too large to be held in memory as a plain image; convert it to a tiled, pyramidal TIFF"
        ) from None
    except Exception as error:
        raise UserError(
            f"{path}: this image cannot be read ({_text(error)}); "
            "copy it again or save it as an 8-bit RGB PNG"
        ) from error


def _resolution(path: Path, of_file: tuple[float, float] | None, of_table: float | None) -> tuple[float, str]:
    low, high = MPP_RANGE
    if of_table is not None and not math.isnan(of_table):
        if not low <= of_table <= high:
            raise UserError(
                f"{path}: the slide table gives {of_table:g} um/px, outside {low:g} to {high:g}; "
                "mend column mpp of the slide table"
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


def _text(error: Exception) -> str:
    """An exception's message on one line, or its kind where it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def check_slides(
    rows: "Sequence[SlideRow]", *, on_bad_slide: str, out: str | Path, thumbnails: Mapping[str, str | Path]
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


def skip(path: str | Path, table: tables.Table, reason: str) -> None:
    """Write an empty table of a slide that is left out from here on, with the reason in its metadata."""
    tables.write(path, table.schema.empty_table(), table, {"skipped": reason})


def skipped(path: str | Path) -> str:
    """Why a slide was left out when its table was made; empty where it was not."""
    metadata = pq.read_schema(path).metadata or {}
    return str(metadata.get(b"skipped", b"").decode())


def refuse_skipped(path: str | Path) -> None:
    """UserError with the reason, where a slide was left out when its table was made."""
    if reason := skipped(path):
        raise UserError(reason)


def placeholder() -> RGB:
    """A small grey picture that stands for a slide that cannot be shown."""
    return np.full((64, 64, 3), 200, np.uint8)


def save_png(pixels: RGB, path: str | Path) -> None:
    """Write uint8[h, w, 3] as PNG, atomically."""
    with tables.atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
