"""Image files with bytes changed anywhere are read or refused in a sentence, and nothing else."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from myostage.errors import UserError
from myostage.slides.slide import open_slide, read_labels, read_picture

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)


def bytes_of(write: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def tiff(pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    photometric = {} if "imagej" in options or pixels.ndim == 2 else {"photometric": "rgb"}
    return bytes_of(lambda file: tifffile.imwrite(file, pixels, **photometric, **options))


IMAGE = Image.fromarray(PIXELS)
APERIO = "Aperio Image Library v11.2.1 |AppMag = 20|MPP = 0.5"
SOUND = {
    "png": bytes_of(lambda file: IMAGE.save(file, "PNG")),
    "palette": bytes_of(lambda file: IMAGE.quantize(16).save(file, "PNG", transparency=1)),
    "jpeg": bytes_of(lambda file: IMAGE.save(file, "JPEG")),
    "progressive": bytes_of(lambda file: IMAGE.save(file, "JPEG", progressive=True)),
    "strips": tiff(compression="deflate", rowsperstrip=16),
    "uncompressed": tiff(),
    "big": tiff(bigtiff=True, compression="lzw"),
    "tiles": tiff(tile=(32, 32), compression="jpeg"),
    "aperio": tiff(tile=(32, 32), compression="jpeg", description=APERIO, metadata=None),
    "ome": tiff(tile=(32, 32), compression="deflate", ome=True),
    "imagej": tiff(PIXELS[..., 0], imagej=True),
    "labels": tiff(PIXELS[..., 0].astype(np.uint16), compression="deflate"),
}
TELLING = [0, 1, 2**16 - 1, 65500, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
WORDS = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.builds(
        lambda n, order: n.to_bytes(4, order), st.sampled_from(TELLING), st.sampled_from(["little", "big"])
    ),
)
# what headers say decides most, and they stand at either end
PLACES = st.one_of(st.integers(0, 400), st.integers(-400, -1), st.integers(0, 20_000))


def damaged(sound: bytes, edits: list[tuple[int, bytes]], length: float) -> bytes:
    data = bytearray(sound)
    for place, word in edits:
        at = place % len(data)
        data[at : at + len(word)] = word
    return bytes(data[: max(1, round(length * len(data)))])


@given(
    st.sampled_from(sorted(SOUND)),
    st.lists(st.tuples(PLACES, WORDS), max_size=6),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_images_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, edits: list[tuple[int, bytes]], length: float
) -> None:
    path = tmp_path_factory.mktemp("image") / "image"
    path.write_bytes(damaged(SOUND[kind], edits, length))

    def open_all() -> None:
        with open_slide(path, 1.0) as slide:
            slide.probe()
            slide.thumbnail()

    for read in (open_all, lambda: read_picture(path, "a table"), lambda: read_labels(path, "a table")):
        try:
            read()
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


@pytest.mark.parametrize("kind", SOUND)
def test_the_sound_images_are_read(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    path = tmp_path_factory.mktemp("image") / "image"
    path.write_bytes(SOUND[kind])
    if kind == "labels":
        assert read_labels(path, "a table").shape == (64, 80)
    else:
        assert read_picture(path, "a table").shape == (64, 80, 3)
