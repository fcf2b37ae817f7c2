"""How wrong the table of proportions may be before it hurts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.figures.lazy import formatting, mlines, mticker, pd, schemas, style, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.structure["curves"]:
        return {}
    parameters = {"metric": scope.metric, "curves": scope.plan.structure["curves"]}
    return {"robustness": Request(scope.tables("metrics", "comparisons"), parameters)}


FIGURE = Record(
    theme="metrics",
    category="Ablations",
    caption=(
        "Learning from wrong proportions: a share t of each vector is replaced by a random draw. Band: 95 %"
        " interval."
    ),
    requests=requests,
)


def make(
    metrics: str, comparisons: str, curves: Mapping[str, Mapping[float, str]], metric: str = "accuracy"
) -> Drawn:
    table = tables.read(metrics, schemas.METRICS)
    rows = robustness_table(table, curves, metric, tables.read(comparisons, schemas.COMPARISONS))
    return Drawn(draw(rows, metric), rows)


def draw(rows: pd.DataFrame, metric: str) -> Figure:
    """A metric against how wrong the proportions are made, with intervals as bands.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`robustness_table`.
    metric : str
    """
    known = rows[rows["value"].notna()]
    if known.empty:
        return style.page(
            "No curve of wrong proportions", "No experiment with wrong proportions was measured."
        )
    methods = list(dict.fromkeys(known["method"]))
    figure = style.new_figure(6.8, 4.1)
    axes = figure.subplots()
    handles = []
    for method, colour, marker in zip(
        methods, palette.series_colours(len(methods)), style.MARKERS * len(methods), strict=False
    ):
        part = known[known["method"] == method]
        banded = part[part["low"].notna() & part["high"].notna()]
        axes.fill_between(banded["t"], banded["low"], banded["high"], color=colour, alpha=0.16, lw=0)
        axes.plot(part["t"], part["value"], marker=marker, color=colour, lw=1.6, ms=5)
        first = hurts_from(part, metric)
        if first is not None:
            axes.plot(first["t"], first["value"], "o", ms=13, mfc="none", mec=colour, mew=1.6)
        handles.append(mlines.Line2D([], [], color=colour, marker=marker, label=method))
    absent = rows[rows["value"].isna()]
    if known["difference"].notna().any():
        handles.append(
            mlines.Line2D([], [], ls="", marker="o", ms=11, mfc="none", mec="black", label="hurts from here")
        )
    axes.set_xticks(sorted(set(rows["t"])))
    axes.xaxis.set_major_formatter(mticker.FuncFormatter(lambda t, _: f"{t:g}"))
    axes.set_xlabel("share t of the proportions that is random: (1 − t) given + t drawn")
    axes.set_ylabel(f"{formatting.label(metric)}, {style.direction(metric)}")
    axes.grid(axis="y", color="#eee", lw=0.7)
    axes.set_axisbelow(True)
    figure.legend(handles=handles, loc="outside lower left", ncols=3, alignment="left")
    slides, cells = int(known["slides"].max()), int(known["cells"].max())
    note = f"Band: 95 % interval (bootstrap over {slides:,} slides, {cells:,} cells)."
    if known["difference"].notna().any():
        note += " Circle: first difference to t = 0 whose paired interval excludes 0."
    if len(absent):
        note += f" Without a value: {', '.join(absent['experiment'])}."
    style.set_headline(figure, _wrong_proportions(known, metric), note)
    return figure


def robustness_table(
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
    at = formatting.by_experiment(metrics, metric)
    none = formatting.Measured(np.nan, np.nan, np.nan, 0, 0)
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
            rows.append([method, t, label, *vars(at.get(label, none)).values(), *to_start])
    columns = ["method", "t", "experiment", *vars(none)]
    return pd.DataFrame(
        rows, columns=[*columns, "difference", "difference_low", "difference_high", "p_holm", "pairs"]
    )


def hurts_from(rows: pd.DataFrame, metric: str) -> pd.Series | None:
    """The first row (smallest t) whose difference to t = 0 has an interval wholly on the worse side of 0."""
    worse = _worse(rows, metric)
    return rows[worse].iloc[0] if worse.any() else None


def _worse(rows: pd.DataFrame, metric: str) -> pd.Series:
    return rows["difference_high"] < 0 if formatting.METRICS[metric][2] else rows["difference_low"] > 0


def _wrong_proportions(known: pd.DataFrame, metric: str) -> str:
    """From which t on each method is hurt."""
    parts = []
    for method, part in known.groupby("method", sort=False):
        first = hurts_from(part, metric)
        if first is not None:
            later = part[part["t"] >= first["t"]]
            lasting = _worse(later, metric).all()
            gap = formatting.with_interval(
                first["difference"], first["difference_low"], first["difference_high"], True
            )
            where = (
                f"{'from' if lasting else 'first at'} t = {style.plain(first['t'])}{' on' if lasting else ''}"
            )
            parts.append(f"{method} {where} ({gap})")
        elif part["difference"].notna().any():
            parts.append(f"{method} not up to t = {style.plain(part['t'].max())}")
        else:
            parts.append(f"{method} is compared with nothing")
    return f"Wrong proportions hurt {formatting.METRICS[metric][0]}: {'; '.join(parts)}"
