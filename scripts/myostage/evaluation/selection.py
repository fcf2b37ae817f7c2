"""Rows of METRICS and COMPARISONS as figures, tables and pages ask for them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from myostage.evaluation.comparisons import judge
from myostage.evaluation.measured import Measured
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.tables import COMPARISONS

# keys of Sm that a study may vary
SM_KEYS = ("alpha", "steps", "spectral_norm", "operator")
_VALUE = ["value", "low", "high", "slides", "cells"]


def iterate_rows(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of a table as named tuples (untyped: pandas' stubs take a cell for anything)."""
    return iter(frame.itertuples(index=False))


def take_pooled(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of whole experiments: all folds and seeds together."""
    return metrics[metrics["run"] == ""]


def find_measured(metrics: pd.DataFrame, metric: str) -> dict[str, Measured]:
    """A metric of every whole experiment, in the table's order."""
    rows = take_pooled(metrics)
    rows = rows[rows["metric"] == metric]
    decimals = METRICS[metric].decimals
    return {
        str(row.experiment): Measured(
            float(row.value),
            float(row.low),
            float(row.high),
            int(row.slides),
            int(row.cells),
            decimals,
            trusted=bool(row.trusted) or not np.isfinite(row.low),
        )
        for row in iterate_rows(rows)
    }


def find_ceiling(metrics: pd.DataFrame, metric: str, label_learners: Iterable[str]) -> str:
    """The ceiling: the best by a metric of what learns from cell labels; empty: none is measured."""
    at = find_measured(metrics, metric)
    known = [name for name in label_learners if name in at and np.isfinite(at[name].value)]
    return max(known, key=lambda name: METRICS[metric].sign * at[name].value, default="")


def choose_metric(metrics: pd.DataFrame, wanted: str = "accuracy") -> str:
    """The metric to speak of: ``wanted`` where it was measured, else the KL to the given proportions."""
    known = take_pooled(metrics)
    return wanted if (known.loc[known["value"].notna(), "metric"] == wanted).any() else "kl"


def describe_failures(runs: pd.DataFrame | None) -> dict[str, str]:
    """``failed (2 of 15 runs)`` of every experiment with failed runs; ``runs`` is the RUNS table."""
    if runs is None:
        return {}
    failed = (runs["status"] == "failed").groupby(runs["experiment"], sort=False).agg(["sum", "size"])
    return {str(name): f"failed ({bad} of {count} runs)" for name, bad, count in failed.itertuples() if bad}


def find_differences(comparisons: pd.DataFrame, metric: str, experiments: Iterable[str]) -> pd.DataFrame:
    """One row per experiment: the difference to what it changes something of, else to the reference.

    Parameters
    ----------
    comparisons : DataFrame
        The COMPARISONS table.
    metric : str
    experiments : iterable of str
        Rows and their order; one without a comparison is missing in all columns but its name.
    """
    rows = comparisons[
        (comparisons["metric"] == metric) & comparisons["family"].isin(["against", "reference"])
    ]
    # "against" comes before "reference".
    rows = rows.sort_values("family", kind="stable").drop_duplicates("experiment").set_index("experiment")
    return rows.reindex(pd.Index(list(experiments), name="experiment")).reset_index()


def find_to_references(comparisons: pd.DataFrame, metric: str, experiments: Iterable[str]) -> pd.DataFrame:
    """The COMPARISONS rows of a metric with the reference and with the best baseline, in that order."""
    rank = {name: place for place, name in enumerate(experiments)}
    rows = comparisons[(comparisons["metric"] == metric) & comparisons["experiment"].isin(rank)]
    rows = rows[rows["family"].isin(["reference", "baseline"])].reset_index(drop=True)
    order = rows["family"].map({"reference": 0, "baseline": 1}) * len(rank) + rows["experiment"].map(rank)
    return rows.loc[order.sort_values(kind="stable").index].reset_index(drop=True)


def find_to_controls(
    comparisons: pd.DataFrame | None, metric: str, against: Mapping[str, str], experiments: Iterable[str]
) -> pd.DataFrame:
    """One row of COMPARISONS per experiment: the difference to its control; missing where none was made."""
    table = pd.DataFrame(columns=COMPARISONS.schema.names) if comparisons is None else comparisons
    rows = table[table["metric"].eq(metric) & table["reference"].eq(table["experiment"].map(dict(against)))]
    # "against" comes before "reference".
    rows = rows.sort_values("family", kind="stable").drop_duplicates("experiment").set_index("experiment")
    return rows.reindex(pd.Index(list(experiments), name="experiment")).reset_index()


def stack_metrics(differences: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of :func:`find_to_controls` of several metrics, below one another."""
    parts = [rows.assign(metric=metric) for metric, rows in differences.items()]
    return pd.concat(parts, ignore_index=True) if parts else find_to_controls(None, "", {}, ())


def tabulate_metrics(
    metrics: pd.DataFrame,
    experiments: Sequence[str],
    columns: Sequence[str],
    against: Mapping[str, str],
    comparisons: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Metrics of experiments with the difference of each to its control.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    experiments, columns : sequence of str
        Experiments and metrics, in the order of the figure.
    against : mapping of experiment to its control
    comparisons : DataFrame, optional
        The COMPARISONS table.

    Returns
    -------
    DataFrame
        ``experiment``, ``metric``, ``value``, ``value_low``, ``value_high``, ``n_slides``, ``n_cells``,
        ``control``, then ``difference``, ``low``, ``high``, ``pairs``, ``p_holm`` as in COMPARISONS; missing
        where not measured or not compared.
    """
    names = ["difference", "low", "high", "pairs", "p_holm"]
    parts = []
    for metric in columns:
        at = find_measured(metrics, metric)
        rows = find_to_controls(comparisons, metric, against, experiments)[["experiment", *names]]
        found = [at.get(name, Measured()) for name in rows["experiment"]]
        parts.append(
            rows.assign(
                metric=metric,
                value=[one.value for one in found],
                value_low=[one.low for one in found],
                value_high=[one.high for one in found],
                n_slides=[one.slides for one in found],
                n_cells=[one.cells for one in found],
                control=[against.get(name, "") for name in rows["experiment"]],
            )
        )
    order = ["experiment", "metric", "value", "value_low", "value_high", "n_slides", "n_cells", "control"]
    return (
        pd.concat(parts, ignore_index=True)[[*order, *names]]
        if parts
        else pd.DataFrame(columns=[*order, *names])
    )


def tabulate_settings(
    metrics: pd.DataFrame,
    points: Mapping[str, Mapping[str, Any]],
    metric: str,
    reference: str = "",
    comparisons: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Settings of Sm with what they yield, one row each.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    points : mapping of experiment to its settings
        ``placement``, ``alpha`` (a number or ``trainable``), ``steps``, ``spectral_norm``, ``operator``.
    metric : str
    reference : str
        The experiment without Sm.
    comparisons : DataFrame, optional
        The COMPARISONS table.

    Returns
    -------
    DataFrame
        ``placement`` and the SM_KEYS, then the columns of :func:`tabulate_metrics`. The first row is that
        of the reference, without settings.
    """
    labels = [reference, *(name for name in points if name != reference)] if reference else list(points)
    rows = tabulate_metrics(metrics, labels, [metric], dict.fromkeys(points, reference), comparisons)
    none: Mapping[str, Any] = {}
    settings = pd.DataFrame(
        {
            key: pd.Series([points.get(name, none).get(key) for name in labels], dtype=object)
            for key in ("placement", *SM_KEYS)
        }
    )
    return settings.join(rows)


def tabulate_grid(
    metrics: pd.DataFrame,
    points: Mapping[str, tuple[float, int]],
    metric: str,
    comparisons: pd.DataFrame | None = None,
    failed: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The points of a grid, one row each.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    points : mapping of experiment to (sigma, bins)
    metric : str
    comparisons : DataFrame, optional
        The COMPARISONS table.
    failed : mapping of experiment to text, optional
        Of :func:`describe_failures`.

    Returns
    -------
    DataFrame
        ``experiment``, ``sigma``, ``bins``, ``value``, ``low``, ``high``, ``slides``, ``cells``, ``absent``
        (what to say where there is no value), ``reference``, ``difference``, ``difference_low``,
        ``difference_high``, ``p_holm``, ``pairs``; missing where not measured or not compared.
    """
    at = find_measured(metrics, metric)
    out = pd.DataFrame(
        [
            (label, float(sigma), int(bins), *_numbers(at.get(label, Measured())))
            for label, (sigma, bins) in points.items()
        ],
        columns=["experiment", "sigma", "bins", *_VALUE],
    )
    out["absent"] = ["failed" if label in (failed or {}) else "none" for label in out["experiment"]]
    names = ["reference", "difference", "difference_low", "difference_high", "p_holm", "pairs"]
    if comparisons is None:
        return out.assign(**dict.fromkeys(names, np.nan))
    rows = find_differences(comparisons, metric, out["experiment"])
    rows = rows.rename(columns={"low": "difference_low", "high": "difference_high"})
    return out.join(rows[names])


def tabulate_noise(
    metrics: pd.DataFrame,
    curves: Mapping[str, Mapping[float, str]],
    metric: str,
    comparisons: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """A metric along the noise t of the proportions, and its difference to t = 0.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    curves : mapping of method to (mapping of t to experiment)
        t as a number or as its text.
    metric : str
    comparisons : DataFrame, optional
        The COMPARISONS table.

    Returns
    -------
    DataFrame
        ``method``, ``t``, ``experiment``, ``value``, ``low``, ``high``, ``slides``, ``cells``,
        ``difference``, ``difference_low``, ``difference_high``, ``p_holm``, ``pairs``; t rises.
    """
    at = find_measured(metrics, metric)
    names = ["difference", "low", "high", "p_holm", "pairs"]
    rows = []
    for method, labels in curves.items():
        steps = sorted((float(t), label) for t, label in labels.items())
        start = next((label for t, label in steps if t == 0), "")
        for t, label in steps:
            found = pd.DataFrame(columns=names)
            if comparisons is not None:
                same = comparisons["metric"].eq(metric) & comparisons["experiment"].eq(label)
                found = comparisons.loc[same & comparisons["reference"].eq(start)].sort_values("family")
            to_start = found[names].iloc[0].tolist() if len(found) else [np.nan] * len(names)
            rows.append([method, t, label, *_numbers(at.get(label, Measured())), *to_start])
    columns = ["method", "t", "experiment", *_VALUE]
    return pd.DataFrame(
        rows, columns=[*columns, "difference", "difference_low", "difference_high", "p_holm", "pairs"]
    )


def find_first_harm(rows: pd.DataFrame, metric: str, alpha: float) -> pd.Series | None:
    """The first row of :func:`tabulate_noise` (smallest t) that is significantly worse than t = 0."""
    worse = find_harm(rows, metric, alpha)
    return rows[worse].iloc[0] if worse.any() else None


def find_harm(rows: pd.DataFrame, metric: str, alpha: float) -> pd.Series:
    """Which rows of :func:`tabulate_noise` are significantly worse than t = 0."""
    verdicts = [judge(metric, row.difference, row.p_holm, alpha) for row in iterate_rows(rows)]
    return pd.Series(verdicts, index=rows.index, dtype=object) == "worse"


def _numbers(measured: Measured) -> tuple[float, ...]:
    return tuple(getattr(measured, name) for name in _VALUE)
