"""How a run chooses its settings: by the proportions of training animals that it holds in, and no cell label.

A candidate is scored by the KL divergence of given from mean predicted proportions of slides that it was not
trained on. Neither held-out animals nor labels are among what these functions are given.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import rel_entr

from myostage import tables
from myostage.errors import UserError
from myostage.learning.folds import assign_folds
from myostage.learning.tables import CHOICES
from myostage.study.run import RunSpec

Floats = NDArray[np.float64]

# A predicted share of 0 would make the divergence infinite.
SMALLEST_SHARE = 1e-12


def hold_in(slides: pd.DataFrame, parts: int, run: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Training slides (rows of ``SPLITS``) to fit on and those held in, once for each part.

    Raises
    ------
    UserError
        Fewer training animals than parts.
    """
    animals = slides["animal"].nunique()
    if animals < parts:
        raise UserError(
            f"run {run}: training.choose.parts is {parts} and it learns from {animals} animals; lower parts"
        )
    part = assign_folds(slides, parts)
    return [(slides[part != number], slides[part == number]) for number in range(parts)]


def mean_divergence(predicted: Mapping[str, Floats], given: Mapping[str, Floats]) -> float:
    """KL(given || predicted), nats, mean over slides; both are proportions [K] of each slide."""
    found = [
        rel_entr(given[slide], np.maximum(predicted[slide], SMALLEST_SHARE)).sum() for slide in predicted
    ]
    return float(np.mean(found))


@dataclass
class Scores:
    """The divergences of candidates that are trained, so that a killed run does not train them again."""

    path: Path
    found: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            try:
                self.found = {
                    str(key): float(value) for key, value in json.loads(self.path.read_text()).items()
                }
            except (OSError, ValueError, TypeError, AttributeError):
                self.forget()

    def of(self, recipe: Mapping[str, str]) -> float | None:
        """Of what was trained by this recipe; None: not yet."""
        return self.found.get(_key(recipe))

    def keep(self, recipe: Mapping[str, str], divergence: float) -> None:
        self.found[_key(recipe)] = divergence
        with tables.atomic(self.path) as temporary:
            temporary.write_text(json.dumps(self.found), encoding="utf-8")

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


def _key(recipe: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def best_of(divergences: Sequence[float]) -> int:
    """Place of the smallest divergence, the first of several; where training diverged it is infinite."""
    return min(range(len(divergences)), key=lambda place: divergences[place])


def write_choices(path: Path, spec: RunSpec, divergences: Sequence[float], slides: int, made_by: str) -> None:
    """Write ``CHOICES`` of a run; ``slides`` were held in."""
    choose = spec.training.choose
    assert choose is not None
    chosen = best_of(divergences)
    rows = [
        {
            "candidate": number,
            "settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
            "divergence": divergence if math.isfinite(divergence) else math.nan,
            "slides": slides,
            "chosen": number == chosen and math.isfinite(divergence),
        }
        for number, (settings, divergence) in enumerate(zip(choose.candidates, divergences, strict=True))
    ]
    tables.write(path, pd.DataFrame(rows), CHOICES, {"made_by": made_by})
