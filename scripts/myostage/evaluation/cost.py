"""What runs cost: time, energy and memory, from the RUNS table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from myostage.evaluation.numbers import format_amount

# column of RUNS -> (how it is written, unit)
COSTS: dict[str, tuple[str, str]] = {
    "seconds": ("wall time", "s"),
    "cpu_seconds": ("CPU time", "s"),
    "joules": ("energy", "J"),
    "peak_memory_mb": ("peak memory", "MB"),
}


@dataclass(frozen=True)
class Spread:
    """What a run of an experiment costs: median, smallest and largest over those that tell it."""

    median: float
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        if not self.runs:
            return "–"
        median, low, high = (format_amount(value) for value in (self.median, self.low, self.high))
        return f"{median} ({low} to {high}), n {self.runs}"


def summarise_costs(runs: pd.DataFrame, experiments: Sequence[str]) -> dict[str, dict[str, Spread]]:
    """What a run costs, by experiment and column of COSTS.

    Failed runs are left out, and those that resumed: theirs is the cost of their last job only.
    """
    whole = runs[(runs["status"] == "ok") & ~find_resumed(runs)]
    out: dict[str, dict[str, Spread]] = {}
    for name in experiments:
        part = whole[whole["experiment"] == name]
        out[name] = {}
        for column in COSTS:
            known = part[column].dropna().to_numpy(dtype=float)
            median, low, high = np.quantile(known, [0.5, 0, 1]).tolist() if len(known) else [np.nan] * 3
            out[name][column] = Spread(median, low, high, len(known))
    return out


def find_resumed(runs: pd.DataFrame) -> pd.Series:
    """Whether a run was finished by a job that did fewer steps than the others of its experiment."""
    done = runs["steps"].where(runs["status"] == "ok")
    return done < done.groupby(runs["experiment"]).transform("max")


def list_costs(runs: pd.DataFrame, experiments: Sequence[str]) -> pd.DataFrame:
    """Costs of runs, one row per experiment and cost."""
    rows = [
        {
            "experiment": name,
            "cost": COSTS[column][0],
            "unit": COSTS[column][1],
            **vars(spread),
        }
        for name, spreads in summarise_costs(runs, experiments).items()
        for column, spread in spreads.items()
    ]
    return pd.DataFrame(rows, columns=["experiment", "cost", "unit", *Spread.__annotations__])
