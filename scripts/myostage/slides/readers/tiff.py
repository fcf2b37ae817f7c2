"""TIFFs that OpenSlide does not know (strips, rare compressions), by tifffile."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from myostage.slides.pixels import RGB, on_white
from myostage.slides.reader import OtherFormat, Reader, Unreadable, one_line

CACHE_BYTES = 128 * 2**20
CM_IN_UM, INCH_IN_UM = 1e4, 25.4e3
IMAGEJ_MICRON = {"micron", "microns", "um", "µm", "μm", "\\u00B5m"}


class Tiff:
    """An open TIFF, decoded by tile or strip."""

    def __init__(self, path: Path) -> None:
        self._file = tifffile.TiffFile(path)
        try:
            self._pages = [level.keyframe for level in self._file.series[0].levels]
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
            page = self._pages[level]
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(page.databytecounts[index])
            segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
            if segment is None:  # a sparse file leaves out empty tiles
                self._cache[key] = np.full((shape[1], shape[2], 1), 255, np.uint8)
            else:
                self._cache[key] = segment[0, : shape[1], : shape[2]]
            while len(self._cache) > 1 and sum(chunk.nbytes for chunk in self._cache.values()) > CACHE_BYTES:
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
                    part = on_white(Image.fromarray(np.ascontiguousarray(part), "RGBA"))
                out[y0 - y : y1 - y, x0 - x : x1 - x] = part  # grey repeats itself over R, G and B
        return out

    def close(self) -> None:
        self._file.close()


def _check_colour(page: tifffile.TiffPage) -> None:
    colour = getattr(page.photometric, "name", str(page.photometric))
    jpeg = page.compression in (6, 7)  # decoded to RGB
    known = colour in {"RGB", "MINISBLACK"} or (colour == "YCBCR" and jpeg)
    layout = page.axes in {"YX", "YXS"} and page.samplesperpixel in (1, 3, 4)
    if page.dtype != np.uint8 or not layout or not known:
        raise ValueError(f"pixels are {colour} {page.dtype} with axes {page.axes}, not 8-bit RGB")


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


def open_file(path: Path) -> Tiff:
    try:
        return Tiff(path)
    except tifffile.TiffFileError:
        raise OtherFormat from None
    except Exception as error:  # tifffile and its codecs raise whatever they like
        remedy = "convert it to a tiled 8-bit RGB TIFF with JPEG compression"
        raise Unreadable("this TIFF cannot be opened", one_line(error), remedy) from error


READER = Reader(name="tiff", formats="TIFF", place=2, open=open_file)
