"""The recovery score: predicted against true, by slide and over slides."""

from collections.abc import Sequence

import pandas as pd

from myostage.evaluation.resampling import Measured, mean_interval


def tabulate_recovery(
    scores: pd.DataFrame, experiments: Sequence[str], groups: Sequence[str] | None = None
) -> pd.DataFrame:
    """Predicted and true recovery score of every slide with a group, by experiment and group.

    Parameters
    ----------
    scores : DataFrame
        The SCORES table.
    experiments : sequence of str
    groups : sequence of str, optional
        Their order; by default as they come. Slides that are staged only are left out.

    Returns
    -------
    DataFrame
        ``experiment``, ``group``, ``slide``, ``animal``, ``cells``, ``predicted``, ``true``, ``error``
        (predicted minus true; missing without labels).
    """
    order = [group for group in (groups or dict.fromkeys(scores["group"])) if group]
    rows = scores[scores["experiment"].isin(list(experiments)) & scores["group"].isin(order)]
    rows = rows.rename(columns={"recovery_score": "predicted", "true_recovery_score": "true"})
    rows = rows.assign(error=rows["predicted"] - rows["true"])
    rank = {name: place for place, name in enumerate([*experiments, *order])}
    rows = rows.sort_values(["experiment", "group"], key=lambda names: names.map(rank), kind="stable")
    return rows[
        ["experiment", "group", "slide", "animal", "cells", "predicted", "true", "error"]
    ].reset_index(drop=True)


def measure_error(rows: pd.DataFrame) -> Measured:
    """Mean absolute error of the recovery score with its 95 % interval, bootstrap over slides."""
    known = rows[rows["error"].notna()]
    if known.empty:
        return Measured()
    value, low, high = mean_interval(known["error"].abs())
    return Measured(float(value), float(low), float(high), len(known), int(known["cells"].sum()))
