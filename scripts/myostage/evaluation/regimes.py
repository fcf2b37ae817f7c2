"""Rows of WORLDS_COMPARISONS as figures and pages ask for them: maps, gains, costs, sentences."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from myostage.evaluation.comparisons import judge
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_count, format_p, format_setting, join_words
from myostage.evaluation.selection import iterate_rows

# As a verdict on an experiment that is compared with the reference is said of a map.
GAINS, COSTS, OPEN = "better", "worse", "not significant"


def select_map(
    comparisons: pd.DataFrame, name: str, listed: Mapping[str, Any], metric: str, alpha: float
) -> pd.DataFrame:
    """The rows of a map in one metric, in the order of its points, with what they mean.

    Parameters
    ----------
    comparisons : DataFrame
        ``WORLDS_COMPARISONS``.
    name : str
        The map.
    listed : mapping
        Its ``keys``, and its ``points``: name -> the value of each key.
    metric : str
    alpha : float
        Level of the test.

    Returns
    -------
    DataFrame
        Further columns: ``x`` and ``y`` (the place of the point among the values of the first and the second
        key; 0 where there is none), ``gain`` (difference, more is better), ``verdict``.
    """
    rows = comparisons[(comparisons["map"] == name) & (comparisons["metric"] == metric)]
    values = list_values(listed)
    places = {
        point: [own.index(value) for own, value in zip(values, settings, strict=True)] + [0, 0]
        for point, settings in listed["points"].items()
    }
    verdicts = [judge(metric, row.difference, row.p_holm, alpha) for row in iterate_rows(rows)]
    return rows.assign(
        x=[places[point][0] for point in rows["point"]],
        y=[places[point][1] for point in rows["point"]],
        gain=METRICS[metric].sign * rows["difference"],
        verdict=verdicts,
    )


def list_values(listed: Mapping[str, Any]) -> list[list[Any]]:
    """The values of each key of a map, in the order of the study file."""
    return [
        list(dict.fromkeys(settings[place] for settings in listed["points"].values()))
        for place in range(len(listed["keys"]))
    ]


def name_key(key: str) -> str:
    """A key as a reader sees it: ``training.steps`` is written training steps."""
    return key.replace(".", " ").replace("_", " ")


def show(value: Any) -> str:
    """A value of a key."""
    return format_setting(value) if isinstance(value, int | float) else str(value)


def state_map(rows: pd.DataFrame, experiment: str) -> str:
    """What an experiment does over one map, of rows of :func:`select_map`, as the rest of a sentence.

    ``gains at 3 of 9 points, most at overlap=1 (...); costs at none; not significant at 6 (...)``
    """
    own = rows[rows["experiment"] == experiment]
    parts = []
    for verdict, verb in ((GAINS, "gains"), (COSTS, "costs")):
        found = own[own["verdict"] == verdict]
        if found.empty:
            parts.append(f"{verb} at none of {format_count(len(own), 'point')}")
            continue
        most = next(iterate_rows(found.loc[[found["gain"].abs().idxmax()]]))
        parts.append(
            f"{verb} at {len(found)} of {format_count(len(own), 'point')}, most at {state_row(most)}"
        )
    unknown = own[own["verdict"] == OPEN]
    if len(unknown):
        least, largest = unknown["minimum_detectable"].min(), unknown["minimum_detectable"].max()
        text = METRICS[unknown["metric"].iloc[0]].format
        reach = text(least) if text(least) == text(largest) else f"{text(least)} to {text(largest)}"
        parts.append(f"not significant at {len(unknown)} (minimum detectable effect {reach})")
    missing = own[own["verdict"] == "not tested"]
    if len(missing):
        parts.append(f"not tested at {join_words(missing['point'])}")
    return "; ".join(parts)


def state_maps(
    comparisons: pd.DataFrame, maps: Mapping[str, Mapping[str, Any]], metric: str, alpha: float
) -> list[str]:
    """A sentence for every tested experiment and map."""
    sentences = []
    for experiment in list_tested(comparisons):
        for name, listed in maps.items():
            rows = select_map(comparisons, name, listed, metric, alpha)
            reference = rows["reference"].iloc[0]
            said = state_map(rows, experiment)
            sentences.append(f"{experiment} against {reference} over {name.replace('_', ' ')}: {said}.")
    return sentences


def state_row(row: Any) -> str:
    """``overlap=1: accuracy +.031 [+.012, +.050], 10 worlds, Holm-adjusted p .012``."""
    metric = METRICS[row.metric]
    gap = metric.format_interval(row.difference, row.low, row.high, sign=True)
    worlds = format_count(row.worlds, "world")
    return f"{row.point}: {metric.title} {gap}, {worlds}, Holm-adjusted p {format_p(row.p_holm)}"


def find_change(curves: pd.DataFrame, point: str, experiment: str) -> float:
    """By what share of its value the loss still changes at the end of training at a point.

    The mean of the last of the parts of ``WORLDS_CURVES`` against that of the fourth from the end, so over
    15 % of the steps; of the first phase. nan of what learns nothing.
    """
    rows = curves[(curves["point"] == point) & (curves["experiment"] == experiment) & (curves["phase"] == 0)]
    loss = rows.sort_values("step")["loss"].to_numpy()
    if len(loss) < 4 or loss[-4] == 0:
        return float("nan")
    return float((loss[-1] - loss[-4]) / abs(loss[-4]))


def list_tested(comparisons: pd.DataFrame) -> list[str]:
    """Experiments that are tested anywhere, in the table's order."""
    return list(dict.fromkeys(comparisons.loc[comparisons["tests"] > 0, "experiment"]))
