"""What is measured in drawn worlds: every run, every method at every point, and differences paired by world.

The unit is the world: it is drawn and trained independently of all others, so that the interval of a mean, or
of a mean difference, is that of Student's t over worlds.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from myostage import tables
from myostage.evaluation.comparisons import holm
from myostage.evaluation.intervals import Estimate, estimate_effect
from myostage.evaluation.metrics.cells import NAMES, measure_cells
from myostage.learning.tables import CHOICES, HISTORY, OUTCOME, WORLD_PREDICTIONS
from myostage.study.sections.compare import Compare

Floats = NDArray[np.float64]
Place = tuple[str, str, Sequence[str]]
"""Point, experiment, and its run in each world."""

# Parts of a phase over which its loss is averaged, for its curve; the last one is the loss at the end.
PARTS = 20


def measure_runs(places: Sequence[Place], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of ``WORLDS`` and of ``WORLDS_CURVES``.

    Parameters
    ----------
    places
        What is measured; a run that stands at several places is read once.
    folder
        Where the files of runs lie, each run in a folder of its own.
    """
    found: dict[str, tuple[dict[str, float], dict[str, Any], pd.DataFrame]] = {}
    rows: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    for point, experiment, runs in places:
        of_place = []
        for world, run in enumerate(runs):
            if run not in found:
                found[run] = _measure(folder / run)
            values, outcome, curve = found[run]
            place = {"point": point, "experiment": experiment, "world": world}
            rows += [place | outcome | {"metric": name, "value": values[name]} for name in NAMES]
            of_place.append(curve)
        mean = pd.concat(of_place).groupby(["phase", "step"])["loss"].agg(["mean", "std", "size"])
        mean = mean.reset_index().rename(columns={"mean": "loss", "std": "sd", "size": "worlds"})
        curves.append(mean.assign(point=point, experiment=experiment))
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def list_choices(choices: Mapping[str, str], folder: Path) -> pd.DataFrame:
    """Rows of ``WORLDS_CHOICES``: experiment -> the folder of its choice, below ``folder``."""
    found = [
        tables.read(folder / name / "choices.parquet", CHOICES).assign(experiment=experiment)
        for experiment, name in choices.items()
    ]
    return pd.concat(found, ignore_index=True)


def _measure(folder: Path) -> tuple[dict[str, float], dict[str, Any], pd.DataFrame]:
    """Metrics, outcome and curve of loss of one run; metrics are missing where it diverged."""
    cells = tables.read(folder / "predictions.parquet", WORLD_PREDICTIONS)
    ended = tables.read(folder / "outcome.parquet", OUTCOME).iloc[0]
    history = tables.read(folder / "history.parquet", HISTORY, ["phase", "step", "loss"])
    values = dict.fromkeys(NAMES, np.nan)
    if len(cells):
        probabilities = np.stack(cells["probabilities"].to_list())
        values = measure_cells(cells["true_stage"], probabilities, probabilities.shape[1])
    curve = _average(history)
    first = curve[curve["phase"] == 0]
    loss = float(first["loss"].iloc[-1]) if len(first) else np.nan
    outcome = {name: ended[name] for name in ("status", "reason", "steps", "seconds")}
    return values, outcome | {"loss": loss}, curve


def _average(history: pd.DataFrame) -> pd.DataFrame:
    """Mean loss of each of PARTS parts of each phase, at the last step of the part."""
    length = history.groupby("phase")["step"].transform("max") + 1
    part = history["step"] * PARTS // length
    found = history.groupby(["phase", part.rename("part")]).agg(step=("step", "max"), loss=("loss", "mean"))
    return found.reset_index()[["phase", "step", "loss"]]


def compare_methods(
    worlds: pd.DataFrame,
    maps: Mapping[str, Sequence[str]],
    reference: str,
    untested: Collection[str],
    compare: Compare,
) -> pd.DataFrame:
    """Rows of ``WORLDS_COMPARISONS``: every experiment at every point of every map, against the reference.

    Holm's correction takes all tests of a map in one metric together: its points times its experiments.

    Parameters
    ----------
    worlds
        ``WORLDS``.
    maps
        Map -> its points.
    reference
        The experiment that all others are compared with.
    untested
        Experiments that no question is asked of.
    compare
        Level and power.
    """
    by_world = worlds.sort_values("world").groupby(["point", "experiment", "metric"])["value"]
    found = {place: values.to_numpy(np.float64) for place, values in by_world}
    rows: list[dict[str, Any]] = []
    experiments = list(dict.fromkeys(worlds["experiment"]))
    for listed, points in maps.items():
        for metric in NAMES:
            tested: list[tuple[dict[str, Any], Estimate]] = []
            for point in points:
                theirs = found[point, reference, metric]
                for experiment in experiments:
                    row, estimate = _compare(found[point, experiment, metric], theirs)
                    row |= {"map": listed, "point": point, "experiment": experiment, "metric": metric}
                    rows.append(row | {"reference": reference})
                    if experiment != reference and experiment not in untested:
                        tested.append((rows[-1], estimate))
            _judge(tested, compare)
    return pd.DataFrame(rows)


def _compare(own: Floats, theirs: Floats) -> tuple[dict[str, Any], Estimate]:
    """Mean of a method, and its mean difference to another, over the worlds that have both."""
    level, estimate = _estimate(own), _estimate(own - theirs)
    differences = own - theirs
    known = differences[np.isfinite(differences)]
    spread = known.std(ddof=1) if known.size > 1 else np.nan
    low, high = level.find_interval()
    lowest, highest = estimate.find_interval()
    return {
        "value": float(level.value),
        "value_low": float(low),
        "value_high": float(high),
        "difference": float(estimate.value),
        "low": float(lowest),
        "high": float(highest),
        "worlds": known.size,
        "effect_size": float(estimate.value / spread) if spread > 0 else np.nan,
        "p": np.nan,
        "p_holm": np.nan,
        "tests": 0,
        "minimum_detectable": np.nan,
    }, estimate


def _estimate(values: Floats) -> Estimate:
    """Mean over worlds with the standard error of their spread."""
    known = values[np.isfinite(values)]
    if not known.size:
        missing = np.array(np.nan)
        return Estimate(missing, missing, missing, "")
    return estimate_effect(known[:, None], np.zeros(known.size), learns=False)


def _judge(tested: Sequence[tuple[dict[str, Any], Estimate]], compare: Compare) -> None:
    """Enter p, Holm's correction and the smallest effect found at its first step."""
    p = [float(estimate.p) for _, estimate in tested]
    tests = int(np.isfinite(p).sum())
    for (row, estimate), plain, corrected in zip(tested, p, holm(p), strict=True):
        row |= {"p": plain, "p_holm": corrected, "tests": tests if np.isfinite(plain) else 0}
        detectable = estimate.find_detectable(compare.alpha / max(tests, 1), compare.power)
        row["minimum_detectable"] = float(detectable)
