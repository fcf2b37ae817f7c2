"""Whatever OpenSlide knows."""

from pathlib import Path

import openslide

from myostage.slides.pixels import RGB, on_white
from myostage.slides.reader import OtherFormat, Reader, one_line, refuse_large
from myostage.slides.readers import tiff

PX_BYTES = 8
"""Of a tile, as it is decoded and as it is kept."""


class Pyramid:
    def __init__(self, path: Path) -> None:
        self._file = openslide.OpenSlide(path)
        try:
            properties = self._file.properties
            if properties.get("openslide.vendor") == "generic-tiff" and not tiff.is_plain(path):
                # OpenSlide reads 16 bits as 8, planes as grey and any fourth channel as transparency
                raise OtherFormat
            self.sizes = [(int(w), int(h)) for w, h in self._file.level_dimensions]
            for level in range(len(self.sizes)):
                w, h = (
                    int(properties.get(f"openslide.level[{level}].tile-{side}", 0))
                    for side in ("width", "height")
                )
                refuse_large(PX_BYTES * w * h, f"its tiles are {w:,} x {h:,} px", tiff.REMEDY)
        except BaseException:
            self._file.close()
            raise
        x, y = (properties.get(f"openslide.mpp-{axis}") for axis in "xy")
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


READER = Reader(name="openslide", formats="slide", place=2, open=open_file)
