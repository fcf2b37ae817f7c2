"""Whether SupCR and the cell term pull the embedding the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.evaluation.numbers import format_interval
from myostage.figures.lazy import mlines, mticker, pd, selection, style, summaries, verdicts, views
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    both = scope.plan.conflicting
    return (
        {"conflict": Request({"histories": scope.plan.by_experiment("history.parquet", both)})}
        if both
        else {}
    )


FIGURE = Record(
    theme="slide_labels",
    category="Ordinal regression",
    caption=(
        "Cosine of the gradients of SupCR and of the cell term in what they share, over training: mean over"
        " runs and 95 % interval. Below 0 the terms oppose each other."
    ),
    requests=requests,
)


def make(histories: Mapping[str, Sequence[str]]) -> Drawn:
    table = views.histories(histories)
    means = summaries.summarise_conflicts(table)
    return Drawn(draw(table), summaries.smooth_conflicts(table), more_numbers={"means": means})


def draw(histories: pd.DataFrame) -> Figure:
    """Cosine of the gradients of SupCR and of the cell term over training.

    Parameters
    ----------
    histories : DataFrame
        Rows of :func:`myostage.figures.views.histories`.
    """
    curves, whole = summaries.smooth_conflicts(histories), summaries.summarise_conflicts(histories)
    if whole.empty:
        return style.page(
            "No gradient conflict",
            "No run learns with both supcr and cell and measured the angle between their gradients.",
        )
    figure = style.new_figure(7.4, 4.9)
    axes = figure.subplots()
    handles = []
    for number, (row, colour) in enumerate(
        zip(selection.iterate_rows(whole), palette.series_colours(len(whole)), strict=True)
    ):
        part = curves[curves["experiment"] == row.experiment]
        axes.fill_between(part["step"], part["low"], part["high"], color=colour, alpha=0.18, lw=0)
        dash = style.DASHES[number % len(style.DASHES)]
        axes.plot(part["step"], part["cosine"], color=colour, lw=1.6, ls=dash)
        mean = format_interval(row.cosine, row.low, row.high, sign=True)
        text = f"{row.experiment}: {mean}, below 0 at {100 * row.below:.0f} % of steps, n {row.runs}"
        handles.append(mlines.Line2D([], [], color=colour, ls=dash, label=text))
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("cosine of the two gradients\n(below 0: they oppose)")
    axes.xaxis.set_major_locator(mticker.MaxNLocator(integer=True))
    axes.grid(axis="y", color="#eee", lw=0.7)
    axes.set_axisbelow(True)
    style.set_legend(figure, handles, 1)
    note = (
        f"Line: mean over runs, smoothed over 1/{summaries.SMOOTHING} of the measured steps; band: 95 % "
        "interval over runs. Numbers: mean over all measured steps, then over n runs."
    )
    style.set_headline(figure, _opposed(whole), note)
    return figure


def _opposed(whole: pd.DataFrame) -> str:
    parts = []
    for row in selection.iterate_rows(whole):
        share = f"below 0 at {100 * row.below:.0f} % of steps"
        mean = f"mean cosine {format_interval(row.cosine, row.low, row.high, sign=True)}"
        if side := verdicts.find_side(row.low, row.high):
            verdict = "they pull together" if side > 0 else "they oppose each other"
        else:
            verdict = "the interval holds 0" if np.isfinite(row.low) else "no interval of a single run"
        parts.append(f"{row.experiment}: {verdict} ({mean}, {share})")
    return f"Gradients of SupCR and the cell term: {'; '.join(parts[:3])}{'; …' if len(parts) > 3 else ''}"
