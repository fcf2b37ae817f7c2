"""What a slide reader is: one file of slides/readers that declares READER. Adding one edits nothing else.

A picture is refused by the size that its header claims, before anything of it is decoded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from myostage.slides.pixels import RGB

READ_BYTES = 2**30
"""Most memory in bytes that reading a picture takes, beside a few MB of the libraries that decode it."""

Labels = NDArray[np.int32]
_Read = TypeVar("_Read")


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
        Path -> its levels. Raises OtherFormat or Unreadable.
    labels
        Path -> label image int32[h, w], 0: background; none where the formats hold none. Raises as ``open``.
    """

    name: str
    formats: str
    place: int
    open: Callable[[Path], Levels]
    labels: Callable[[Path], Labels] | None = None


def refuse_large(needed: int, of: str, remedy: str) -> None:
    """Raise Unreadable where reading needs more than `READ_BYTES`.

    Parameters
    ----------
    needed : int
        Bytes, from sizes that the file claims.
    of
        What of the file needs them.
    remedy
        What the user does about it.
    """
    if needed > READ_BYTES:
        why = f"{of}, {needed / 2**30:,.1f} GiB of memory where {READ_BYTES / 2**30:.3g} GiB are the limit"
        raise Unreadable("it is too large to be read", why, remedy)


def refusing(
    read: Callable[[Path], _Read], other: type[Exception], what: str, remedy: str
) -> Callable[[Path], _Read]:
    """``read``, with ``other`` as OtherFormat and any further error as Unreadable."""

    def refuse(path: Path) -> _Read:
        try:
            return read(path)
        except other:
            raise OtherFormat from None
        except Unreadable:
            raise
        except Exception as error:  # decoders raise whatever they like
            raise Unreadable(what, one_line(error), remedy) from error

    return refuse


def as_labels(values: NDArray[np.generic]) -> Labels:
    """Values [h, w] of a label image; ValueError where they are no whole numbers from 0 to 2**31 - 1."""
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise ValueError(
            f"pixels are {values.dtype} of shape {values.shape}, where a cell has one whole number"
        )
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < 2**31:
        raise ValueError(f"its numbers run from {values.min()} to {values.max()}")
    return values.astype(np.int32)


def one_line(error: Exception) -> str:
    """An exception's message on one line, or its kind where it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
