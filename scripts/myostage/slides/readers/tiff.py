"""TIFFs that OpenSlide does not know (strips, rare compressions), by tifffile."""

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from myostage.slides.pixels import RGB, on_white
from myostage.slides.reader import Labels, Reader, as_labels, refuse_large, refusing

CACHE_BYTES = 128 * 2**20
ROWS_BYTES = 4 * 2**20
COPIES = 4
"""Of a tile or strip, while it is decoded."""
MAX_PAGES = 1000
# compressions by number: those whose length is that of their tile, and pictures that say their own size
STREAMS = {1, 5, 8, 32773, 32946, 34925, 34926, 50000}
PICTURES = {6: ["JPEG"], 7: ["JPEG"], 33003: ["JPEG2000"], 33004: ["JPEG2000"], 33005: ["JPEG2000"]}
PICTURES |= {34712: ["JPEG2000"]}
REMEDY = "convert it to a tiled 8-bit RGB TIFF with JPEG compression"
CM_IN_UM, INCH_IN_UM = 1e4, 25.4e3
IMAGEJ_MICRON = {"micron", "microns", "um", "µm", "μm", "\\u00B5m"}


class Tiff:
    """An open TIFF, decoded by tile or strip."""

    def __init__(self, path: Path) -> None:
        self._file = tifffile.TiffFile(path, _multifile=False)
        try:
            self._pages = _pages(self._file)
            for page in self._pages:
                _check_colour(page)
            self.sizes = [(page.imagewidth, page.imagelength) for page in self._pages]
            self.mpp = _mpp(self._file, self._pages[0])
            self._cache: OrderedDict[tuple[int, int], RGB] = OrderedDict()
            self._chunk(0, 0)
        except BaseException:
            self._file.close()
            raise

    def _chunk(self, level: int, index: int) -> RGB:
        """One decoded tile or strip, uint8[h, w, samples], from a cache bounded in bytes."""
        key = (level, index)
        if key not in self._cache:
            self._cache[key] = _decode(self._file, self._pages[level], index)
            while len(self._cache) > 1 and sum(chunk.nbytes for chunk in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        page = self._pages[level]
        high, wide, across = _grid(page)
        out = np.empty((h, w, 3), np.uint8)
        for row in range(y // high, -(-(y + h) // high)):
            for column in range(x // wide, -(-(x + w) // wide)):
                chunk = self._chunk(level, row * across + column)
                top, left = row * high, column * wide
                y0, y1 = max(y, top), min(y + h, top + high)
                x0, x1 = max(x, left), min(x + w, left + wide)
                part = chunk[y0 - top : y1 - top, x0 - left : x1 - left]
                # grey repeats itself over R, G and B
                out[y0 - y : y1 - y, x0 - x : x1 - x] = _opaque(part, page)
        return out

    def close(self) -> None:
        self._file.close()


def _pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """The page of each level of the first picture; ValueError where one page does not hold all of it."""
    try:
        file.pages[MAX_PAGES]
    except IndexError:
        pass
    else:
        # before all are listed: a chain of pages may have no end
        raise ValueError(f"it has more than {MAX_PAGES} pages")
    if len(file.pages[0].subifds or ()) > MAX_PAGES:
        raise ValueError(f"it has more than {MAX_PAGES} levels")
    first = file.series[0]
    if first.size != first.keyframe.size:
        size = " x ".join(map(str, first.shape))
        raise ValueError(f"its picture is {first.axes} of {size} in several pages, not RGB in one")
    return [level.keyframe for level in first.levels]


def _grid(page: tifffile.TiffPage) -> tuple[int, int, int]:
    """Rows and columns of the pieces in which a page is decoded, and pieces beside each other."""
    if _in_rows(page):
        return max(1, ROWS_BYTES // (page.imagewidth * page.samplesperpixel)), page.imagewidth, 1
    high, wide = page.chunks[:2]
    return high, wide, page.chunked[1]


def _in_rows(page: tifffile.TiffPage) -> bool:
    """Whether rows lie one after another in the file as they are: then a strip may be of any size."""
    return bool(page.is_final and not page.is_tiled)


def _decode(file: tifffile.TiffFile, page: tifffile.TiffPage, index: int) -> NDArray[Any]:
    """One tile, strip, or piece of an uncompressed strip, [h, w, samples]."""
    assert page.dtype is not None  # else the page was refused
    high, wide, _ = _grid(page)
    row_bytes = wide * page.samplesperpixel * page.dtype.itemsize
    if _in_rows(page):
        rows = min(high, page.imagelength - index * high)
        file.filehandle.seek(page.dataoffsets[0] + index * high * row_bytes)
        data = file.filehandle.read(rows * row_bytes)
        values = np.frombuffer(data, page.dtype.newbyteorder(file.byteorder))
        return values.reshape(rows, wide, page.samplesperpixel)
    size = page.databytecounts[index]
    what = f"its tiles or strips are {wide:,} x {high:,} px"
    refuse_large(CACHE_BYTES + size + COPIES * high * row_bytes, what, REMEDY)
    file.filehandle.seek(page.dataoffsets[index])
    data = file.filehandle.read(size)
    if data and page.compression in PICTURES:
        with Image.open(io.BytesIO(data), formats=PICTURES[page.compression]) as inside:
            if inside.width > wide or inside.height > high:
                raise ValueError(f"a tile of {wide} x {high} px holds {inside.width} x {inside.height} px")
    segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
    if segment is None:  # a sparse file leaves out empty tiles
        return np.full((shape[1], shape[2], 1), 255, np.uint8)
    return np.asarray(segment[0, : shape[1], : shape[2]])


def _opaque(pixels: RGB, page: tifffile.TiffPage) -> RGB:
    """Pixels [h, w, 1 or 3] of those that may have a fourth channel: on white where it is transparency."""
    if pixels.shape[2] < 4:
        return pixels
    alpha = page.extrasamples[0] if page.extrasamples else 0
    if alpha == tifffile.EXTRASAMPLE.UNASSALPHA:
        return on_white(Image.fromarray(np.ascontiguousarray(pixels), "RGBA"))
    if alpha == tifffile.EXTRASAMPLE.ASSOCALPHA:  # colours are multiplied by it already
        return np.minimum(pixels[..., :3].astype(np.uint16) + (255 - pixels[..., 3:]), 255).astype(np.uint8)
    return pixels[..., :3]


def _check_colour(page: tifffile.TiffPage) -> None:
    colour = getattr(page.photometric, "name", str(page.photometric))
    jpeg = page.compression in (6, 7)  # decoded to RGB
    known = colour in {"RGB", "MINISBLACK"} or (colour == "YCBCR" and jpeg)
    layout = page.axes in {"YX", "YXS"} and page.samplesperpixel in (1, 3, 4)
    if page.dtype != np.uint8 or not layout or not known:
        raise ValueError(f"pixels are {colour} {page.dtype} with axes {page.axes}, not 8-bit RGB")
    _check_compression(page)


def _check_compression(page: tifffile.TiffPage) -> None:
    if page.compression not in STREAMS and page.compression not in PICTURES:
        name = getattr(page.compression, "name", str(page.compression))
        raise ValueError(f"its compression is {name}")


def is_plain(path: Path) -> bool:
    """Whether a TIFF holds 8-bit grey or RGB in one page, and nothing else that a decoder might guess at."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            page = _pages(file)[0]
            _check_colour(page)
            return page.samplesperpixel < 4
    except Exception:  # what the file has is for the reader of TIFFs to say
        return False


def _labels(path: Path) -> Labels:
    with tifffile.TiffFile(path, _multifile=False) as file:
        page = _pages(file)[0]
        _check_compression(page)
        if page.axes != "YX" or page.dtype is None or page.dtype.kind not in "bui":
            raise ValueError(
                f"pixels are {page.dtype} with axes {page.axes}, where a cell has one whole number"
            )
        width, height = page.imagewidth, page.imagelength
        refuse_large(
            (page.dtype.itemsize + 8) * width * height,
            f"{width:,} x {height:,} px",
            "cut it into smaller images",
        )
        high, wide, across = _grid(page)
        out = np.empty((height, width), page.dtype)
        for index in range(across * -(-height // high)):
            top, left = index // across * high, index % across * wide
            part = out[top : top + high, left : left + wide]
            part[...] = _decode(file, page, index)[: part.shape[0], : part.shape[1], 0]
        return as_labels(out)


def _mpp(file: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[float, float] | None:
    """The resolution in um/px of the tags XResolution, YResolution and ResolutionUnit, or of ImageJ's."""
    unit = page.tags.valueof("ResolutionUnit", default=2)
    length = {2: INCH_IN_UM, 3: CM_IN_UM}.get(int(unit))
    if (file.imagej_metadata or {}).get("unit") in IMAGEJ_MICRON:
        length = 1.0
    per_unit = []
    for name in ("XResolution", "YResolution"):
        numerator, denominator = page.tags.valueof(name, default=(0, 1))
        per_unit.append(numerator / denominator if denominator else 0.0)
    if length is None or min(per_unit) <= 0:
        return None
    return length / per_unit[0], length / per_unit[1]


READER = Reader(
    name="tiff",
    formats="TIFF",
    place=3,
    open=refusing(Tiff, tifffile.TiffFileError, "this TIFF cannot be opened", REMEDY),
    labels=refusing(
        _labels,
        tifffile.TiffFileError,
        "this TIFF cannot be opened",
        "save the label image as a 16-bit TIFF of one channel",
    ),
)
