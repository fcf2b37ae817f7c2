"""Where Sm acts, how much it smooths and in how many steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.evaluation.metrics.registry import METRICS
from myostage.figures.lazy import mlines, pd, schemas, selection, style, tables, verdicts, views
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACEMENTS = ("early", "mid", "late")
# setting of Sm -> the axis of its panel
SETTINGS = {
    "alpha": "alpha (0: not smoothed)",
    "steps": "steps T",
    "spectral_norm": "spectral norm",
    "operator": "operator",
}


def requests(scope: Scope) -> dict[str, Request]:
    references, points = scope.plan.slide_structure["references"], scope.plan.slide_structure["points"]
    plain = scope.attended[0] if scope.attended else ""
    smoothed = {name: point for name, point in points.items() if references[name] == plain}
    if not smoothed:
        return {}
    parameters = {
        "metric": "instance_auroc",
        "points": smoothed,
        "reference": plain,
        "alpha": scope.plan.study.compare.alpha,
    }
    return {"placement": Request(scope.tables("metrics", "comparisons", prefix="slides_"), parameters)}


FIGURE = Record(
    theme="slide_labels",
    category="Labels of slides",
    caption=(
        "Sm on the features (early), on the hidden layer of the attention (mid) or on its logits (late), by"
        " how much it smooths and in how many steps; dashed: the model without Sm, grey its 95 % interval. "
        "Filled: significant difference to it."
    ),
    requests=requests,
)


def make(
    metrics: str,
    comparisons: str,
    points: Mapping[str, Mapping[str, Any]],
    reference: str,
    metric: str = "instance_auroc",
    alpha: float = 0.05,
) -> Drawn:
    """``reference`` is the experiment without Sm."""
    table = tables.read(metrics, schemas.METRICS)
    compared = tables.read(comparisons, schemas.COMPARISONS)
    rows = selection.tabulate_settings(table, points, metric, reference, compared)
    return Drawn(draw(rows, metric, reference, alpha), rows)


def draw(rows: pd.DataFrame, metric: str, reference: str = "", alpha: float = 0.05) -> Figure:
    """A metric by where Sm acts, along each setting that was varied, over the value without Sm.

    A panel holds the points that differ from the most common setting in its own key alone.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.selection.tabulate_settings`.
    metric : str
    reference : str
        The experiment without Sm, drawn as a band.
    alpha : float
        Level of the tests; a point is filled where its difference to the reference is significant.
    """
    points = rows[rows["placement"].notna() & rows["value"].notna()]
    points = points.drop_duplicates(["placement", *SETTINGS])
    if points.empty:
        return style.page("No settings of Sm", "No experiment that smooths its attention was measured.")
    usual = {key: _usual(points[key]) for key in SETTINGS}
    of_panel = {
        key: points[
            np.all([points[other].eq(value) for other, value in usual.items() if other != key], axis=0)
        ]
        for key in SETTINGS
    }
    panels = [key for key, part in of_panel.items() if part[key].nunique() > 1] or ["alpha"]
    places = [name for name in PLACEMENTS if name in set(points["placement"])]
    values = {key: _in_order(of_panel[key][key]) for key in panels}
    counts = [len(values[key]) for key in panels]
    figure = style.new_figure(max(8.2, 1.3 + 0.7 * len(panels) + 0.62 * sum(counts)), 4.4)
    drawn = figure.subplots(
        1, len(panels), squeeze=False, sharey=True, width_ratios=[count + 0.5 for count in counts]
    )[0]
    base = rows[(rows["experiment"] == reference) & rows["value"].notna()]
    handles: list[Any] = []
    for axes, key in zip(drawn, panels, strict=True):
        for row in selection.iterate_rows(base):
            if np.isfinite(row.value_low) and np.isfinite(row.value_high):
                axes.axhspan(row.value_low, row.value_high, color="#e8e8e8", lw=0, zorder=0)
            axes.axhline(row.value, color=palette.BASELINE, lw=1.2, ls="--", zorder=1)
        for number, (name, colour) in enumerate(
            zip(places, palette.series_colours(len(places)), strict=True)
        ):
            part = of_panel[key][of_panel[key]["placement"] == name]
            at = np.array([values[key].index(value) for value in part[key]], dtype=float)
            at += 0.2 * (number - (len(places) - 1) / 2)
            order = np.argsort(at)
            # Words have no order to follow with a line.
            if not isinstance(values[key][0], str | bool):
                axes.plot(at[order], part["value"].to_numpy()[order], color=colour, lw=0.9, alpha=0.6)
            for x, row in zip(at, selection.iterate_rows(part), strict=True):
                marks = {"color": colour, "marker": style.MARKERS[number]}
                marks["mfc"] = (
                    colour if style.judge_row(row, metric, alpha) in style.VERDICT_COLOURS else "white"
                )
                style.plot_interval(axes, float(x), row.value, row.value_low, row.value_high, True, **marks)
        axes.set_xticks(range(len(values[key])), [_setting(value) for value in values[key]])
        if key == "operator":
            axes.tick_params(axis="x", rotation=30)
        axes.set_xlim(-0.5, len(values[key]) - 0.5)
        axes.set_xlabel(SETTINGS[key])
        axes.grid(axis="y", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    drawn[0].set_ylabel(f"{METRICS[metric].label}\n({METRICS[metric].direction})")
    for number, (name, colour) in enumerate(zip(places, palette.series_colours(len(places)), strict=True)):
        handles.append(
            mlines.Line2D([], [], color=colour, marker=style.MARKERS[number], mfc="white", label=f"Sm {name}")
        )
    if len(base):
        handles.append(
            mlines.Line2D(
                [], [], color=palette.BASELINE, ls="--", label=f"{reference}, without Sm; grey: interval"
            )
        )
    style.set_legend(figure, handles)
    fixed = ", ".join(f"{SETTINGS[key].split(' (')[0]} {_setting(usual[key])}" for key in usual)
    note = (
        f"Line: {verdicts.INTERVAL}, {int(points['n_slides'].max()):,} slides. Filled: "
        f"significant difference to {reference or 'the reference'}. {verdicts.state_rule(alpha)} "
        f"Where not varied: {fixed}."
    )
    shown = {name for key in panels for name in of_panel[key]["experiment"]}
    left = [name for name in points["experiment"] if name not in shown]
    if left:
        note += f" Not drawn, as more than one setting differs: {', '.join(left)}."
    style.set_headline(figure, _settings(points, metric, reference, alpha), note)
    return figure


def _usual(values: pd.Series) -> Any:
    return Counter(values).most_common(1)[0][0]


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Numbers as they rise, then words as they come."""
    found = list(dict.fromkeys(values))
    numbers = sorted(value for value in found if not isinstance(value, str))
    return [*numbers, *(value for value in found if isinstance(value, str))]


def _setting(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "with" if value else "without"
    return str(value).replace("_", " ") if isinstance(value, str) else f"{value:g}"


def _settings(points: pd.DataFrame, metric: str, reference: str, alpha: float) -> str:
    """How far the settings spread against the width of an interval, the best, and what differs."""
    best = views.best_row(points, metric)
    low, high = float(points["value"].min()), float(points["value"].max())
    record = METRICS[metric]
    value = record.format_interval(best.value, best.value_low, best.value_high)
    text = f"{style.capitalised(record.title)}: best with Sm {best.experiment}, {value}"
    width = float((points["value_high"] - points["value_low"]).median())
    if len(points) > 1:
        text += f"; {len(points)} settings spread by {record.format(high - low)}"
        if np.isfinite(width):
            than = "less" if high - low < width else "more"
            text += f", {than} than the typical width of an interval, {record.format(width)}"
    if reference:
        text += f"; {style.describe_differences(list(selection.iterate_rows(points)), alpha, reference)}"
    return text
