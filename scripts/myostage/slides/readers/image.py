"""PNG and JPEG, by Pillow."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from myostage.errors import UserError
from myostage.slides.pixels import RGB, rgb
from myostage.slides.reader import OtherFormat, Reader, Unreadable, one_line


class Picture:
    """A PNG or JPEG, held in memory. Its dpi is a printer's: the resolution is left to the slide table."""

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


def open_file(path: Path) -> Picture:
    try:
        return Picture(path)
    except UnidentifiedImageError:
        raise OtherFormat from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path}: too large to be held in memory as a plain image; convert it to a tiled, pyramidal TIFF"
        ) from None
    except Exception as error:
        remedy = "copy it again or save it as an 8-bit RGB PNG"
        raise Unreadable("this image cannot be read", one_line(error), remedy) from error


READER = Reader(name="image", formats="PNG or JPEG", place=3, open=open_file)
