"""PNG and JPEG, by Pillow: the one place that opens them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from myostage.slides.pixels import RGB, rgb
from myostage.slides.reader import Labels, Reader, Unreadable, as_labels, one_line, refuse_large, refusing

FORMATS = ("PNG", "JPEG")
STRIP_BYTES = 2**24
LARGE = "convert it to a tiled, pyramidal TIFF"
REMEDY = "copy it again or save it as an 8-bit RGB PNG"


class Picture:
    """A PNG or JPEG, held in memory. Its dpi is a printer's: the resolution is left to the slide table."""

    def __init__(self, path: Path) -> None:
        self.mpp: tuple[float, float] | None = None
        with _opened(path, FORMATS) as image:
            self._pixels = _pixels(image)
        self.sizes = [(self._pixels.shape[1], self._pixels.shape[0])]

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        return self._pixels[y : y + h, x : x + w]

    def close(self) -> None:
        del self._pixels


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """An image of which nothing is decoded yet, and whose size may be decoded."""
    with warnings.catch_warnings():
        # Pillow's own limit counts pixels, not what they take
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(path, formats=formats)
        except Image.DecompressionBombError as error:
            raise Unreadable("it is too large to be read", one_line(error), LARGE) from None
    with image:
        # Pillow keeps 1 byte a pixel or 4, we 3, and libjpeg 6 more of a JPEG that refines itself
        one_byte = image.mode in {"1", "L", "P"}
        per_px = (1 if one_byte else 4) + 3 + (6 if image.info.get("progressive") else 0)
        width, height = image.size
        refuse_large(per_px * width * height + STRIP_BYTES, f"{width:,} x {height:,} px", LARGE)
        if any(";16" in str(tile.args) for tile in image.tile) and image.mode in {"RGB", "RGBA", "LA"}:
            # of which Pillow would keep the upper 8 without a word
            raise ValueError("16 bits per channel, not 8-bit RGB")
        yield image


def _pixels(image: Image.Image) -> RGB:
    """All pixels, converted strip by strip: in one piece that takes many times the memory of the result."""
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_BYTES // (32 * width))
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        out[top:bottom] = rgb(image.crop((0, top, width, bottom)))
    return out


def _labels(path: Path) -> Labels:
    with _opened(path, FORMATS) as image:
        if image.format == "JPEG":
            raise ValueError("JPEG changes the numbers that it stores")
        if image.mode not in {"1", "L", "P", "I", "I;16", "I;16B"}:
            raise ValueError(f"pixels of mode {image.mode}, where a cell has one whole number")
        return as_labels(np.asarray(image))


READER = Reader(
    name="image",
    formats="PNG or JPEG",
    place=1,
    open=refusing(Picture, UnidentifiedImageError, "this image cannot be read", REMEDY),
    labels=refusing(
        _labels,
        UnidentifiedImageError,
        "this image cannot be read",
        "save the label image as a 16-bit PNG or TIFF of one channel",
    ),
)
