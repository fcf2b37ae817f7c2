"""What a slide reader is: one file of slides/readers that declares READER. Adding one edits nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from myostage.slides.pixels import RGB


class Levels(Protocol):
    """A file that gives RGB regions of its levels; `sizes` are (width, height) in px, largest first."""

    sizes: list[tuple[int, int]]
    mpp: tuple[float, float] | None

    def region(self, level: int, x: int, y: int, w: int, h: int) -> RGB:
        """Pixels of a window that lies inside ``level``."""
        ...

    def close(self) -> None: ...


class OtherFormat(Exception):
    """The reader does not know the format. Its message, if any, goes before those of later readers."""


class Unreadable(Exception):
    """The file is of the reader's format and cannot be read: ``what`` is wrong, ``why``, and ``remedy``."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.why, self.remedy = what, why, remedy


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What opens the files of some formats. What a file holds decides, not the end of its name.

    Parameters
    ----------
    name
        As the slides table has it.
    formats
        As a message lists them.
    place
        Readers are asked in this order.
    open
        Path -> its levels. Raises OtherFormat, or Unreadable; a UserError where the remedy is one of its own.
    """

    name: str
    formats: str
    place: int
    open: Callable[[Path], Levels]


def one_line(error: Exception) -> str:
    """An exception's message on one line, or its kind where it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
