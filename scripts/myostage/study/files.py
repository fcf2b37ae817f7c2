"""Files that a study names, as files: missing, a folder, empty, cut short, the same as another."""

import hashlib
import stat
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal


def file_faults(what: str, path: str, *, whole: bool = False) -> list[str]:
    """What is wrong with a file as a file: missing, a folder, empty, or (if ``whole``) cut short."""
    file = Path(path)
    try:
        status = file.stat()
        size = status.st_size
        if stat.S_ISDIR(status.st_mode):
            return [f"{what}: {path} is a folder; name a file"]
        if not stat.S_ISREG(status.st_mode):
            return [f"{what}: {path} is a pipe or device; name a file"]
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


SAMPLE = 2**16


def copies(files: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Files that are one file by another path, or hold the same bytes.

    Only files of equal size are read, and whole only those whose first, middle and last 64 kB agree.

    Parameters
    ----------
    files : mapping of str to str
        What each file is called -> its path.

    Yields
    ------
    name, name of an earlier file, and ``"the same file as"`` or ``"a copy of"``
    """
    found = {name: Path(path).stat() for name, path in files.items()}
    place = {name: (status.st_dev, status.st_ino) for name, status in found.items()}
    first: dict[Hashable, str] = {}
    for name in files:
        if first.setdefault(place[name], name) != name:
            yield name, first[place[name]], "the same file as"
    equal = _alike([list(first.values())], lambda name: found[name].st_size)
    equal = _alike(equal, lambda name: _sample(Path(files[name])))
    equal = _alike(equal, lambda name: _digest(Path(files[name])))
    for names in equal:
        for name in names[1:]:
            yield name, names[0], "a copy of"


def _alike(groups: Sequence[Sequence[str]], by: Callable[[str], Hashable]) -> list[list[str]]:
    """The groups, cut into those of equal ``by``; without groups of a single name."""
    cut: dict[Hashable, list[str]] = {}
    for number, names in enumerate(groups):
        for name in names:
            cut.setdefault((number, by(name)), []).append(name)
    return [names for names in cut.values() if len(names) > 1]


def _sample(file: Path) -> bytes:
    with file.open("rb") as stream:
        size = file.stat().st_size
        parts = []
        for start in (0, (size - SAMPLE) // 2, size - SAMPLE):
            stream.seek(max(0, start))
            parts.append(stream.read(SAMPLE))
    return hashlib.blake2b(b"".join(parts)).digest()


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()
