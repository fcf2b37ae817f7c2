"""Recovery score per group against that of the annotated stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.evaluation.numbers import format_number
from myostage.figures.lazy import intervals, mlines, pd, schemas, style, summaries, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from myostage.evaluation.measured import Measured


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.experiments:
        return {}
    parameters = {"experiments": [scope.plan.shown], "groups": list(scope.plan.proportions)}
    return {"recovery": Request(scope.tables("scores"), parameters)}


FIGURE = Record(
    theme="stages",
    category="Stages",
    caption=(
        "Recovery score (area-weighted mean stage, 0 first to 1 last) per group, and predicted against "
        "annotated, one point per slide."
    ),
    requests=requests,
)


def make(scores: str, experiments: Sequence[str], groups: Sequence[str] = ()) -> Drawn:
    rows = summaries.tabulate_recovery(tables.read(scores, schemas.SCORES), experiments, groups or None)
    return Drawn(draw(rows), rows)


def draw(rows: pd.DataFrame) -> Figure:
    """Recovery score per group and against the truth, one point per slide.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.summaries.tabulate_recovery`.
    """
    if rows.empty:
        return style.page("No recovery scores", "No experiment of this figure staged a slide with a group.")
    experiments = list(dict.fromkeys(rows["experiment"]))
    groups = list(dict.fromkeys(rows["group"]))
    errors = {name: summaries.find_recovery_error(rows[rows["experiment"] == name]) for name in experiments}
    labelled = rows["true"].notna().any()
    figure = style.new_figure(9.0 if labelled else 6.5, 3.9 + 0.18 * (len(experiments) // 3))
    panels = figure.subplots(
        1, 2 if labelled else 1, squeeze=False, width_ratios=(1.35, 1) if labelled else None
    )[0]
    series: list[tuple[str, str, pd.DataFrame, str, str]] = [
        (name, colour, rows[rows["experiment"] == name], "predicted", marker)
        for name, colour, marker in zip(
            experiments,
            palette.series_colours(len(experiments)),
            style.MARKERS * len(experiments),
            strict=False,
        )
    ]
    if labelled:
        # The truth of a slide is the same in every experiment.
        series.insert(0, ("true", "black", rows.drop_duplicates("slide"), "true", "_"))
    width = 0.7 / max(3, len(series))
    for number, (_, colour, part, column, marker) in enumerate(series):
        middle = (number - (len(series) - 1) / 2) * width
        for place, group in enumerate(groups):
            own = part[(part["group"] == group) & part[column].notna()]
            values = own[column].to_numpy(dtype=float)
            if not len(values):
                continue
            x = place + middle
            panels[0].plot(np.full(len(values), x), values, ".", color=colour, ms=5, mew=0, alpha=0.55)
            mean, low, high = intervals.find_mean(values, own["animal"])
            if np.isfinite(low):
                panels[0].vlines(x + 0.28 * width, low, high, color=colour, lw=1.5)
            panels[0].plot(x + 0.28 * width, mean, marker, color=colour, ms=9 if marker == "_" else 5, mew=2)
    count = rows.drop_duplicates("slide").groupby("group")["slide"].size()
    panels[0].set_xticks(range(len(groups)), [f"{group}\nn {count[group]}" for group in groups])
    panels[0].set_xlim(-0.6, len(groups) - 0.4)
    panels[0].set_xlabel("group (n slides)")
    panels[0].set_ylabel("recovery score (0 to 1)")
    panels[0].set_ylim(-0.03, 1.03)
    if labelled:
        panels[1].plot([0, 1], [0, 1], color=palette.BASELINE, lw=1, ls="--", zorder=0)
        for _, colour, part, column, marker in series[1:]:
            panels[1].plot(part["true"], part[column], marker, color=colour, ms=5, ls="", alpha=0.8)
        panels[1].set_xlabel("recovery score of the annotated stages")
        panels[1].set_ylabel("predicted recovery score")
        panels[1].set_aspect("equal")
        panels[1].set_xlim(-0.03, 1.03)
        panels[1].set_ylim(-0.03, 1.03)
    handles = [
        mlines.Line2D([], [], color=colour, marker=marker, ls="", label=_scored(name, errors.get(name)))
        for name, colour, _, _, marker in series
    ]
    if labelled:
        handles.append(mlines.Line2D([], [], color=palette.BASELINE, ls="--", label="predicted = true"))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, alignment="left")
    note = "Dot: one slide; marker and line: mean and 95 % interval over the animals of a group."
    style.set_headline(figure, _recovered(rows, errors), note)
    return figure


def _scored(name: str, error: Measured | None) -> str:
    return f"{name}: MAE {error}, n {error.slides}" if error and error.slides else name


def _recovered(rows: pd.DataFrame, errors: Mapping[str, Measured]) -> str:
    """How far the recovery score is off, or how it runs where no truth is known."""
    known = {name: error for name, error in errors.items() if error.slides}
    if not known:
        first = next(iter(errors))
        means = rows[rows["experiment"] == first].groupby("group", sort=False)["predicted"].mean()
        low, high = str(means.idxmin()), str(means.idxmax())
        return (
            f"{first}: predicted recovery score from {format_number(means[low])} at {low} to "
            f"{format_number(means[high])} at {high}; no cell is annotated, so there is no truth beside it"
        )
    best = min(known, key=lambda name: known[name].value)
    error = known[best]
    gap = (
        rows[(rows["experiment"] == best) & rows["error"].notna()]
        .groupby("group", sort=False)["error"]
        .mean()
    )
    worst = str(gap.abs().idxmax())
    text = f"{best}: recovery score off by {error} (MAE, {error.slides} slides)"
    text += f", most at {worst} ({format_number(float(gap[worst]), sign=True)})"
    if len(known) > 1:
        last = max(known, key=lambda name: known[name].value)
        text = f"Best of {len(known)}, {text}; worst, {last}: {known[last]}"
    return text
