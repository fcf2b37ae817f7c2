"""What every long training shares: checkpoints that resume, and a line on how far it is."""

import io
import logging
import pickle
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from myostage import tables
from myostage.runtime import checksums, provenance

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0
# What torch.load raises for a file that is cut short, overwritten or none of ours.
DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
# Two, because a machine that dies may take the newest with it.
CHECKPOINTS_KEPT = 2

_code_digest = cache(provenance.code_digest)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run in their folder, newest last.

    Attributes
    ----------
    folder
        Where they lie.
    fingerprint
        Of the run's specification and of its data.
    code
        Files of the library that train it. Their code, what they import and the versions of packages belong
        to a checkpoint as the fingerprint does: numbers of two recipes in one run would be those of neither.
    """

    folder: Path
    fingerprint: str
    code: tuple[Path, ...] = ()

    @cached_property
    def recipe(self) -> dict[str, str]:
        """What a checkpoint must share with a run to be resumed by it, by what it is called in the log."""
        versions = (f"{package} {version}" for package, version in provenance.versions().items())
        return {
            "specification or data": self.fingerprint,
            "code": "+".join(_code_digest(file) for file in self.code),
            "versions of packages": ", ".join(versions),
        }

    def save(self, phase: int, step: int, state: dict[str, Any]) -> None:
        """Write the state before ``step`` of ``phase``, atomically, and drop all but the newest."""
        with tables.atomic(self.folder / f"phase{phase}-step{step:08d}.pt") as temporary:
            torch.save({"recipe": self.recipe, "phase": phase, "step": step, **state}, temporary)
            checksum = checksums.whole(temporary)
            with temporary.open("ab") as file:
                file.write(checksum.encode())
        for old in self._paths()[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest usable state; what is damaged or of another recipe is named in the log and deleted."""
        others: dict[str, None] = {}
        for path in reversed(self._paths()):
            try:
                state = torch.load(_verified(path), map_location="cpu", weights_only=True)
                found = state["recipe"]
                others |= dict.fromkeys(key for key in self.recipe if found.get(key) != self.recipe[key])
            except DAMAGED as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("checkpoint %s is damaged and ignored (%s)", path, reason)
            else:
                if found == self.recipe:
                    return state
            path.unlink()
        if others:
            log.warning(
                "the checkpoints in %s are of other %s: training starts from the beginning",
                self.folder,
                " and ".join(others),
            )
        return None

    def clear(self) -> None:
        """Delete all checkpoints: the run's model is written."""
        for path in self._paths():
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def last(self) -> str:
        """The newest checkpoint in words."""
        paths = self._paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("phase*-step*.pt"))


def _verified(path: Path) -> io.BytesIO:
    """What torch wrote; it verifies nothing itself. ValueError where that is not what the file's end says."""
    content = path.read_bytes()
    written, checksum = content[: -checksums.LENGTH], content[-checksums.LENGTH :]
    if checksums.of(written) != checksum.decode(errors="replace"):
        raise ValueError("it does not hold what was written")
    return io.BytesIO(written)


@dataclass
class Progress:
    """A line with rate and remaining time every few seconds."""

    run: str
    total: int
    done: int
    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)
    begun_at: int = field(init=False)

    def __post_init__(self) -> None:
        self.begun_at = self.done

    def advance(self, steps: int, loss: float) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.logged < PROGRESS_SECONDS and self.done < self.total:
            return
        self.logged = now
        rate = (self.done - self.begun_at) / max(now - self.started, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        log.info(
            "%s: step %d of %d, %.1f steps/s, %.0f s left, loss %.4f",
            self.run,
            self.done,
            self.total,
            rate,
            left,
            loss,
        )
