"""Whatever OpenSlide knows."""

from pathlib import Path

import openslide

from myostage.slides.pixels import RGB, on_white
from myostage.slides.reader import OtherFormat, Reader, one_line


class Pyramid:
    def __init__(self, path: Path) -> None:
        self._file = openslide.OpenSlide(path)
        self.sizes = [(int(w), int(h)) for w, h in self._file.level_dimensions]
        x, y = (self._file.properties.get(f"openslide.mpp-{axis}") for axis in "xy")
        self.mpp = (float(x), float(y)) if x and y else None

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        scale = self._file.level_downsamples[level]
        return on_white(self._file.read_region((round(x * scale), round(y * scale)), level, (w, h)))

    def close(self) -> None:
        self._file.close()


def open_file(path: Path) -> Pyramid:
    try:
        return Pyramid(path)
    except openslide.OpenSlideUnsupportedFormatError:
        raise OtherFormat from None
    except openslide.OpenSlideError as error:
        raise OtherFormat(one_line(error)) from None


READER = Reader(name="openslide", formats="slide", place=1, open=open_file)
