"""RGB pixels: from images of any colour model, and to PNG."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from myostage import tables

RGB = NDArray[np.uint8]


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
        return on_white(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def on_white(image: Image.Image) -> RGB:
    """An RGBA image as uint8[h, w, 3], transparent parts white."""
    pixels = np.asarray(image)
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return pixels[..., :3]
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def placeholder() -> RGB:
    """A small grey picture that stands for a slide that cannot be shown."""
    return np.full((64, 64, 3), 200, np.uint8)


def save_png(pixels: RGB, path: str | Path) -> None:
    """Write uint8[h, w, 3] as PNG, atomically."""
    with tables.atomic(path) as temporary:
        # the default level takes four times as long, most of the time of a check, for an eighth of the bytes
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)
