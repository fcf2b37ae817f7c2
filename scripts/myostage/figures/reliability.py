"""Confidence against accuracy of every predicted stage, before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_number
from myostage.figures.lazy import mlines, schemas, selection, style, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    shown = scope.plan.shown
    if not (scope.plan.labelled and shown in scope.plan.experiments):
        return {}
    parameters = {"stages": scope.stages, "experiment": shown}
    return {"reliability": Request(scope.tables("reliability", "metrics", "runs"), parameters)}


FIGURE = Record(
    theme="metrics",
    category="Metrics",
    caption=(
        "Reliability of the probabilities of held-out cells by predicted stage, before and after temperature "
        "scaling. Temperatures are fitted on the proportions of training bags; cell labels are used here and "
        "nowhere in learning."
    ),
    requests=requests,
)


def make(reliability: str, metrics: str, runs: str, stages: Sequence[str], experiment: str) -> Drawn:
    table = tables.read(reliability, schemas.RELIABILITY)
    rows = table[table["experiment"] == experiment].reset_index(drop=True)
    rows.insert(2, "stage_name", [stages[stage] for stage in rows["stage"]])
    measured = tables.read(metrics, schemas.METRICS)
    errors = [
        str(selection.find_measured(measured, name).get(experiment, "–"))
        for name in ("ece", "ece_calibrated")
    ]
    of_runs = tables.read(runs, schemas.RUNS)
    temperatures = of_runs[of_runs["experiment"] == experiment]["temperature"]
    return Drawn(draw(rows, stages, experiment, errors, temperatures), rows)


def draw(
    rows: pandas.DataFrame,
    stages: Sequence[str],
    experiment: str,
    errors: Sequence[str],
    temperatures: pandas.Series,
) -> Figure:
    """One panel per stage: mean confidence and accuracy of every bin, the area of a point its cells.

    Parameters
    ----------
    rows : DataFrame
        Of the RELIABILITY table, of one experiment.
    stages : sequence of str
    experiment : str
    errors : sequence of str
        Expected calibration error before and after.
    temperatures : Series
        Of every run; missing where it has none.
    """
    if rows.empty:
        return style.page(
            "No reliability diagram", f"No held-out cell of {experiment} carries an annotated stage."
        )
    columns = style.columns_of(len(stages))
    lines = -(-len(stages) // columns)
    figure = style.new_figure(max(6.5, 0.8 + 1.95 * columns), 1.6 + 2.1 * lines)
    panels: Any = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in panels.ravel()[len(stages) :]:
        axes.set_visible(False)
    most = float(rows["cells"].max())
    for number, (stage, axes) in enumerate(zip(stages, panels.ravel(), strict=False)):
        _panel(axes, rows[rows["stage"] == number], most)
        axes.set_title(f"{style.stage_name(stage)}\n{_describe(rows, number)}", fontsize=8)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal")
    for place in range(columns):
        lowest = max(line for line in range(lines) if line * columns + place < len(stages))
        panels[lowest, place].tick_params(labelbottom=True)
        panels[lowest, place].set_xlabel("confidence")
    for axes in panels[:, 0]:
        axes.set_ylabel("share staged rightly")
    style.set_legend(
        figure,
        [
            mlines.Line2D([], [], marker=marker, mfc=fill, color=colour, ls="none", label=label)
            for _, label, marker, colour, fill in _kinds()
        ],
    )
    known = temperatures.dropna()
    fitted = (
        f"temperature {format_number(known.min())} to {format_number(known.max())} in {len(known)} of "
        f"{len(temperatures)} runs"
        if len(known)
        else "the training bags determine no temperature: nothing is scaled"
    )
    style.set_headline(
        figure,
        f"Expected calibration error of {experiment}: {errors[0]} as predicted, {errors[1]} after scaling",
        f"Held-out cells by the stage they are given, mean over seeds; below the diagonal a run is too sure. "
        f"{style.capitalised(fitted)}, fitted on proportions of training bags. "
        f"{METRICS['ece'].direction.capitalize()}; of few cells the error is too large.",
    )
    return figure


def _kinds() -> Any:
    """Whether scaled, name, marker, colour and filling of both kinds of points."""
    return (
        (False, "as predicted", "o", style.FAINT, "none"),
        (True, "after scaling", "s", style.BLUE, style.BLUE),
    )


def _panel(axes: Axes, rows: pandas.DataFrame, most: float) -> None:
    axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=0.9, zorder=1)
    for calibrated, _, marker, colour, fill in _kinds():
        own = rows[rows["calibrated"] == calibrated].sort_values("confidence")
        at = own["confidence"], own["accuracy"]
        axes.plot(*at, color=colour, lw=0.9, zorder=2)
        sizes = 4 + 40 * own["cells"] / most
        axes.scatter(*at, s=sizes, marker=marker, ec=colour, fc=fill, lw=0.9, alpha=0.8, zorder=3)


def _describe(rows: pandas.DataFrame, stage: int) -> str:
    """Mean confidence before and after, and accuracy, of the cells given a stage."""
    own = rows[rows["stage"] == stage]
    if own.empty:
        return "no cell"
    before, after = (
        np.average(part["confidence"], weights=part["cells"])
        for part in (own[own["calibrated"] == kind] for kind in (False, True))
    )
    part = own[~own["calibrated"]]
    accuracy = np.average(part["accuracy"], weights=part["cells"])
    shown = [format_number(value) for value in (before, after, accuracy)]
    return f"confidence {shown[0]}, scaled {shown[1]}\nright {shown[2]}"
