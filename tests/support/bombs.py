"""Small image files that claim, or decode to, enormous pictures: made here, never committed."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

SHORT, LONG, LONG8 = 3, 4, 16
"""Types of TIFF tags."""


def zeros(size: int) -> bytes:
    """A zlib stream of ``size`` zero bytes, about a thousandth of that long."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, packer.compress(bytes(size & 0xFFFFF)), packer.flush()])


def png(
    path: Path, width: int, height: int, colour: int = 2, extra: bytes = b"", rows: int | None = None
) -> Path:
    """A PNG of zeros; ``colour`` 0, 2, 6: grey, RGB, RGBA; ``extra``: chunks before the pixels."""
    samples = {0: 1, 2: 3, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    pixels = zeros((height if rows is None else rows) * (1 + width * samples))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def jpeg(path: Path, width: int, height: int) -> Path:
    """A JPEG whose header claims another size than its few pixels have."""
    path.write_bytes(resized_jpeg(width, height))
    return path


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG of 16 x 16 px whose header claims ``width`` x ``height``."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(path: Path, width: int, height: int, data: bytes, compression: int = 8, **more: Any) -> Path:
    """A TIFF of one strip, or one tile of side ``tile``, that holds ``data``; ``next_ifd``: its next page."""
    tile = more.pop("tile", None)
    next_ifd = more.pop("next_ifd", 0)
    place = 8
    tags = {
        256: (LONG, width),
        257: (LONG, height),
        258: (SHORT, 8),
        259: (SHORT, compression),
        262: (SHORT, more.pop("photometric", 1)),
        277: (SHORT, more.pop("samples", 1)),
    }
    if tile:
        tags |= {322: (LONG, tile), 323: (LONG, tile), 324: (LONG, place), 325: (LONG, len(data))}
    else:
        tags |= {273: (LONG, place), 278: (LONG, height), 279: (LONG, len(data))}
    ifd = place + len(data) + len(data) % 2
    body = struct.pack("<H", len(tags))
    for number, (kind, value) in sorted(tags.items()):
        body += struct.pack("<HHII", number, kind, 1, value)
    body += struct.pack("<I", ifd if next_ifd == "itself" else next_ifd)
    path.write_bytes(b"II*\0" + struct.pack("<I", ifd) + data + b"\0" * (len(data) % 2) + body)
    return path


def many_pages(path: Path, pages: int) -> Path:
    """A TIFF of many pages of a pixel."""
    entry = struct.Struct("<HHII")
    out = bytearray(b"II*\0" + struct.pack("<I", 8))
    for page in range(pages):
        start = len(out)
        tags = [(256, LONG, 1), (257, LONG, 1), (258, SHORT, 8), (259, SHORT, 1), (262, SHORT, 1)]
        tags += [(273, LONG, 4), (277, SHORT, 1), (278, LONG, 1), (279, LONG, 1)]
        out += struct.pack("<H", len(tags))
        for number, kind, value in tags:
            out += entry.pack(number, kind, 1, value)
        out += struct.pack("<I", start + 2 + 12 * len(tags) + 4 if page < pages - 1 else 0)
    path.write_bytes(out)
    return path
