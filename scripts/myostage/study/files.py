"""Files that a study names, as files: missing, a folder, empty, cut short."""

from pathlib import Path
from typing import Literal


def file_faults(what: str, path: str, *, whole: bool = False) -> list[str]:
    """What is wrong with a file as a file: missing, a folder, empty, or (if ``whole``) cut short."""
    file = Path(path)
    try:
        size = file.stat().st_size
        if file.is_dir():
            return [f"{what}: {path} is a folder; name a file"]
        if size == 0:
            return [f"{what}: {path} is empty; copy it again"]
        if whole and _cut_short(file, size):
            return [f"{what}: {path} is half-written (its end is missing); copy it again"]
    except FileNotFoundError:
        return [f"{what}: {path} does not exist; correct the path"]
    except OSError as error:
        return [f"{what}: {path} cannot be read ({error.strerror}); check its permissions"]
    return []


def _cut_short(file: Path, size: int) -> bool:
    """Whether a TIFF's first directory, a PNG's last chunk or a JSON's last brace is past the file's end."""
    with file.open("rb") as stream:
        head = stream.read(16)
        stream.seek(max(0, size - 64))
        tail = stream.read()
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return int.from_bytes(head[4:8], order) >= size
    if head[:4] in (b"II+\0", b"MM\0+"):
        return int.from_bytes(head[8:16], order) >= size
    if head[:4] == b"\x89PNG":
        return b"IEND" not in tail
    if file.suffix.lower() in (".geojson", ".json"):
        return not tail.rstrip().endswith((b"}", b"]"))
    return False
