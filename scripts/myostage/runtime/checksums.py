"""What a file holds, in a few characters: whether it is as it was written, or another than it was.

Files that the workflow makes are read to the end when they are stated, and again where a job reads them
(:mod:`myostage.runtime.receipts`). Files that a user gives may be slides of many GB, and are asked at every
start: of these size, head, tail and samples count.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

# Files up to this size are read to the end wherever they are checked. Tables beyond it have checksums of
# their pages, which their readers verify, so that here their frame is enough.
SMALL_BYTES = 8 * 2**20
# Of a larger file of a user: so many blocks of this size, evenly from head to tail.
SAMPLES, SAMPLE_BYTES = 9, 2**16
_MAGIC = b"PAR1"
# Characters of a checksum.
LENGTH = len("xxh3:") + 32


def whole(path: str | Path) -> str:
    """Checksum of all bytes of a file (XXH3, 128 bits)."""
    with Path(path).open("rb", buffering=0) as file:
        return f"xxh3:{hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()}"  # type: ignore[arg-type]


def of(content: bytes) -> str:
    """The same of bytes."""
    return f"xxh3:{xxhash.xxh3_128_hexdigest(content)}"


def given(path: str | Path, every_byte: bool = False) -> str:
    """What a file of a user holds: its size, and a checksum of it or, beyond ``SMALL_BYTES``, of samples.

    Its time is no part of it: a file that is touched holds what it held, and one that is replaced may bear
    the time of the file before. ``every_byte`` reads it to the end, however large.
    """
    size = Path(path).stat().st_size
    if every_byte or size <= SMALL_BYTES:
        return f"{whole(path)} size:{size}"
    digest = xxhash.xxh3_128()
    with Path(path).open("rb", buffering=0) as file:
        for number in range(SAMPLES):
            start = max(size - SAMPLE_BYTES, 0) * number // (SAMPLES - 1)
            digest.update(os.pread(file.fileno(), SAMPLE_BYTES, start))
    return f"samples:{digest.hexdigest()} size:{size}"


def as_given(said: dict[str, Any]) -> set[str]:
    """What :func:`given` may find of a file that is as :func:`state` said."""
    return {f"{said['checksum']} size:{said['bytes']}", said.get("given", "")}


def state(path: str | Path) -> dict[str, Any]:
    """What a file is as written: bytes, checksum; of a large file what ``given`` finds, and its frame."""
    file = Path(path)
    size = file.stat().st_size
    said: dict[str, Any] = {"bytes": size, "checksum": whole(file)}
    if size > SMALL_BYTES:
        said["given"] = given(file)
        with file.open("rb") as opened:
            if opened.read(len(_MAGIC)) == _MAGIC:
                said["frame"] = _frame(opened, size)
    return said


def fault(path: str | Path, said: dict[str, Any], *, every_byte: bool = True) -> str:
    """How a file differs from what was ``said`` of it by :func:`state`: empty where it does not.

    Without ``every_byte`` large files are not read to the end: the pages of a table are left to its readers,
    and of other files the size is compared.
    """
    try:
        if Path(path).stat().st_size != said["bytes"]:
            return "was changed since it was made"
        if "checksum" in said and (every_byte or said["bytes"] <= SMALL_BYTES):
            same = whole(path) == said["checksum"]
        elif "frame" in said:
            with Path(path).open("rb") as opened:
                same = _frame(opened, said["bytes"]) == said["frame"]
        else:
            return ""
    except FileNotFoundError:
        return "is gone since it was made"
    return "" if same else "is damaged: it does not hold what was written"


def _frame(file: BinaryIO, size: int) -> str:
    """Checksum of what of a Parquet file lies outside its pages: its first bytes and its footer."""
    tail = os.pread(file.fileno(), 8, size - 8)
    footer = min(int.from_bytes(tail[:4], "little") + 8, size - len(_MAGIC))
    digest = xxhash.xxh3_128(os.pread(file.fileno(), len(_MAGIC), 0))
    digest.update(os.pread(file.fileno(), footer, size - footer))
    return f"xxh3:{digest.hexdigest()}"
