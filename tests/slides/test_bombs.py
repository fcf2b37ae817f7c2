"""Pictures that claim to be enormous are refused before they are decoded; reading takes bounded memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from myostage.slides.reader import READ_BYTES
from support import bombs, tiny

SLACK_BYTES = 96 * 2**20
"""What the codecs and the imports that wait for the first use take."""

READING = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from PIL import JpegImagePlugin, PngImagePlugin, Jpeg2KImagePlugin
import imagecodecs
from myostage.errors import UserError
from myostage.slides import reader
from myostage.slides.slide import all_readers, open_slide, read_labels, read_picture
all_readers()
reader.READ_BYTES = int(sys.argv[2])
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[2]) + int(sys.argv[3]),) * 2)
what, path = sys.argv[4:]
try:
    if what == "slide":
        with open_slide(path, 1.0) as slide:
            slide.probe()
            slide.thumbnail()
    elif what == "labels":
        read_labels(path, "the table")
    else:
        read_picture(path, "the table")
    print("read")
except UserError as error:
    print(error)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak, file=sys.stderr)
"""


def read(what: str, path: Path, limit: int = READ_BYTES) -> str:
    """What a process says whose `READ_BYTES` are ``limit``, and that fails where it takes more."""
    arguments = [str(tiny.ROOT / "scripts"), str(limit), str(SLACK_BYTES), what, str(path)]
    result = subprocess.run([sys.executable, "-c", READING, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def jpeg_in_tiff(path: Path) -> Path:
    return bombs.tiff(path, 64, 64, bombs.resized_jpeg(65500, 65500), 7, photometric=6, samples=3)


def jpeg2000_in_tiff(path: Path) -> Path:
    data = imagecodecs.jpeg2k_encode(np.zeros((12000, 12000), np.uint8), codecformat="j2k")
    return bombs.tiff(path, 64, 64, data, 34712)


def text_in_png(path: Path) -> Path:
    text = b"comment\0\0" + bombs.zeros(2**27)
    return bombs.png(path, 8, 8, extra=bombs.chunk(b"zTXt", text))


BOMBS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "strip": (
        "slide",
        lambda path: bombs.tiff(path, 60000, 60000, bombs.zeros(2**26)),
        "too large to be read",
    ),
    "tile": (
        "slide",
        lambda path: bombs.tiff(path, 60000, 60000, bombs.zeros(2**26), tile=61440),
        "its tiles are 61,440 x 61,440 px",
    ),
    "png": ("slide", lambda path: bombs.png(path, 13000, 13000, 6, rows=300), "too large to be read"),
    "png crop": ("picture", lambda path: bombs.png(path, 13000, 13000, 6, rows=300), "too large to be read"),
    "png masks": ("labels", lambda path: bombs.png(path, 30000, 30000, 0, rows=300), "too large to be read"),
    "tiff masks": ("labels", lambda path: bombs.tiff(path, 60000, 60000, b"\0" * 8), "too large to be read"),
    "jpeg": ("slide", lambda path: bombs.jpeg(path, 65500, 65500), "too large to be read"),
    "jpeg in tiff": ("slide", jpeg_in_tiff, "4290250000 pixels"),
    "jpeg2000 in tiff": ("slide", jpeg2000_in_tiff, "a tile of 64 x 64 px holds 12000 x 12000 px"),
    "longer than its strip": (
        "slide",
        lambda path: bombs.tiff(path, 64, 64, bombs.zeros(2**27)),
        "cannot be opened",
    ),
    "pages": ("slide", lambda path: bombs.many_pages(path, 20000), "more than 1000 pages"),
    "pages without end": (
        "slide",
        lambda path: bombs.tiff(path, 16, 16, bytes(256), 1, next_ifd="itself"),
        "pages",
    ),
    "text": ("slide", text_in_png, "cannot be read"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_by_their_size(tmp_path: Path, kind: str) -> None:
    what, make, reason = BOMBS[kind]
    path = make(tmp_path / "bomb")
    assert path.stat().st_size < 6 * 2**20
    said = read(what, path)
    assert reason in said and said.startswith(f"{path}: ") and "\n" not in said


def strip(path: Path) -> Path:
    pixels = np.zeros((3300, 3300, 3), np.uint8)
    tifffile.imwrite(path, pixels, rowsperstrip=3300, compression="deflate", photometric="rgb")
    return path


def tile(path: Path) -> Path:
    pixels = np.zeros((4096, 4096, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(4096, 4096), compression="deflate", photometric="rgb")
    return path


def uncompressed(path: Path) -> Path:
    tifffile.memmap(path, shape=(8000, 12000, 3), dtype=np.uint8, photometric="rgb").flush()
    return path


def progressive(path: Path) -> Path:
    Image.new("RGB", (4350, 4350)).save(path, "JPEG", progressive=True)
    return path


def masks(path: Path) -> Path:
    tifffile.imwrite(path, np.zeros((5100, 5100), np.uint16), compression="deflate")
    return path


LARGEST: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "png": ("slide", lambda path: bombs.png(path, 5900, 5900)),
    "strip": ("slide", strip),
    "tile": ("slide", tile),
    "one uncompressed strip of 288 MB": ("slide", uncompressed),
    "progressive jpeg": ("slide", progressive),
    "crop": ("picture", lambda path: bombs.png(path, 4000, 4000)),
    "masks": ("labels", masks),
}


@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_that_are_read_stay_within_the_limit(tmp_path: Path, kind: str) -> None:
    what, make = LARGEST[kind]
    assert read(what, make(tmp_path / "large"), 2**28) == "read"
