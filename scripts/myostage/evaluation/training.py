"""What histories of training say: reconstruction at its end, and whether two gradients oppose each other."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from myostage.evaluation.resampling import mean_interval

# Curves are smoothed over this share of their steps: 1 / SMOOTHING.
SMOOTHING = 40


def summarise_reconstruction(histories: pd.DataFrame, pairs: Mapping[str, str]) -> pd.DataFrame:
    """Reconstruction loss at the end of training, with true and with permuted coordinates.

    Parameters
    ----------
    histories : DataFrame
        Rows of :func:`myostage.figures.views.histories`.
    pairs : mapping of experiment to its control with permuted coordinates

    Returns
    -------
    DataFrame
        ``experiment``, ``coordinates`` (true or permuted), ``label`` (whose runs), ``loss`` (mean over the
        last tenth of steps of every run), ``low``, ``high`` (bootstrap over runs), ``runs``; missing without
        a run.
    """
    last = histories["step"] >= 0.9 * (histories.groupby(["experiment", "run"])["step"].transform("max") + 1)
    ends = histories[last].groupby(["experiment", "run"])["spatial_reconstruction"].mean().dropna()
    rows = []
    for experiment, control in pairs.items():
        for coordinates, label in (("true", experiment), ("permuted", control)):
            own = ends[ends.index.get_level_values("experiment") == label].to_numpy(dtype=float)
            found = mean_interval(own) if len(own) else (np.nan,) * 3
            rows.append((experiment, coordinates, label, *(float(one) for one in found), len(own)))
    return pd.DataFrame(rows, columns=["experiment", "coordinates", "label", "loss", "low", "high", "runs"])


def smooth_conflicts(histories: pd.DataFrame) -> pd.DataFrame:
    """Cosine of the gradients of supcr and cell by step, mean over runs with its interval.

    Smoothed over 1 / SMOOTHING of the steps at which it was measured. Columns ``experiment``, ``step``,
    ``cosine``, ``low``, ``high``, ``runs``.
    """
    parts = []
    for experiment, part in histories[histories["conflict"].notna()].groupby("experiment", sort=False):
        wide = part.pivot(index="step", columns="run", values="conflict").sort_index()
        smooth = wide.rolling(max(1, len(wide) // SMOOTHING), min_periods=1, center=True).mean()
        cosine, low, high = mean_interval(smooth.to_numpy(dtype=float).T)
        numbers = {"cosine": cosine, "low": low, "high": high, "runs": wide.shape[1]}
        parts.append(pd.DataFrame({"experiment": experiment, "step": wide.index, **numbers}))
    names = ["experiment", "step", "cosine", "low", "high", "runs"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def summarise_conflicts(histories: pd.DataFrame) -> pd.DataFrame:
    """The cosine over all measured steps, mean over runs, and the share of steps at which it is below 0.

    Columns ``experiment``, ``cosine``, ``low``, ``high``, ``below`` (mean over runs), ``runs``, ``steps``.
    """
    rows = []
    known = histories[histories["conflict"].notna()]
    for experiment, part in known.groupby("experiment", sort=False):
        of_run = part.assign(below=part["conflict"] < 0).groupby("run")[["conflict", "below"]].mean()
        found = (float(one) for one in mean_interval(of_run["conflict"]))
        rows.append((experiment, *found, float(of_run["below"].mean()), len(of_run), part["step"].nunique()))
    return pd.DataFrame(rows, columns=["experiment", "cosine", "low", "high", "below", "runs", "steps"])
