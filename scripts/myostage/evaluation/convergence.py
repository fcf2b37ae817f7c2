"""Whether training had come to rest: what its loss did over the last steps.

In the last fifth of a cosine the learning rate is next to nothing, so that a flat end would show no more than
the schedule. The last fifth of the steps is therefore compared with the fifth before it, where the rate is
still about a quarter of its peak.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

# Parts of the steps, the last two of which are compared; blocks of each, whose means say how noisy it is.
PARTS, BLOCKS = 5, 10
# Two losses that differ by less, relative to the loss, count as the same.
TOLERATED = 0.05
# Standard errors that noise may amount to.
ERRORS = 2.0


class Change(NamedTuple):
    """Relative change of a loss from the last fifth but one to the last fifth, and its standard error."""

    change: float
    noise: float

    @property
    def converged(self) -> bool:
        """Whether the loss changes no more than is tolerated, beyond its noise; not where that is unknown."""
        return abs(self.change) - ERRORS * self.noise <= TOLERATED


UNKNOWN = Change(np.nan, np.nan)
# columns of RUNS that hold a change
CHANGE = ["loss_change", "loss_noise"]


def measure_change(history: pd.DataFrame) -> Change:
    """The change of a run's loss, of the phase in which it is largest.

    Parameters
    ----------
    history
        Rows of HISTORY of one run.

    Returns
    -------
    Change
        nan where a phase has too few steps to be judged, or nothing was trained.
    """
    changes = [_measure(phase["loss"].to_numpy(dtype=float)) for _, phase in history.groupby("phase")]
    if not changes or any(np.isnan(change.change) for change in changes):
        return UNKNOWN
    return max(changes, key=lambda change: abs(change.change) - ERRORS * change.noise)


def _measure(losses: np.ndarray) -> Change:
    length = len(losses) // (PARTS * BLOCKS)  # steps of a block
    if not length:
        return UNKNOWN
    ends = losses[-2 * BLOCKS * length :].reshape(2, BLOCKS, length).mean(2)  # means of blocks
    before, after = ends.mean(1)
    if before == 0:
        return Change(0.0 if after == 0 else np.inf, 0.0)
    # from successive differences, so that a steady fall is no noise
    error = np.sqrt((np.diff(ends, axis=1) ** 2).mean(1).sum() / 2 / BLOCKS)
    return Change(float((after - before) / abs(before)), float(error / abs(before)))


class Unconverged(NamedTuple):
    """Runs of an experiment that have not converged, runs judged, and the former's median change."""

    runs: int
    of: int
    change: float

    def __str__(self) -> str:
        verb = "rises" if self.change > 0 else "falls"
        return f"its loss still {verb} by {abs(self.change):.0%} in {self.runs} of {self.of} runs"


def find_unconverged(runs: pd.DataFrame) -> dict[str, Unconverged]:
    """Experiments of which any run has not converged; ``runs`` has the columns ``experiment`` and CHANGE."""
    known = runs.dropna(subset=CHANGE)
    converged = [Change(*ends).converged for ends in known[CHANGE].itertuples(index=False)]
    wrong = known[~np.array(converged, bool)].groupby("experiment", sort=False)["loss_change"]
    judged = known.groupby("experiment").size()
    return {
        str(name): Unconverged(len(changes), int(judged[name]), float(changes.median()))
        for name, changes in wrong
    }
