"""Loss terms, learning rate and gradient norm by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.figures.lazy import convergence, mlines, mticker, pd, style, summaries, views
from myostage.figures.record import Drawn, Record, Request, Scope
from myostage.learning.term import TERMS, names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.experiments:
        return {}
    return {"curves": Request({"histories": scope.plan.by_experiment("history.parquet", scope.learning)})}


FIGURE = Record(
    theme="training",
    category="Training",
    caption="Loss terms per training step of every run, and which had not converged at the end.",
    requests=requests,
)


def make(histories: Mapping[str, Sequence[str]]) -> Drawn:
    table = views.histories(histories)
    return Drawn(draw(table), table)


def draw(histories: pd.DataFrame) -> Figure:
    """Loss terms, learning rate and gradient norm by step: median and range over runs, per experiment.

    Parameters
    ----------
    histories : DataFrame
        Rows of :func:`myostage.figures.views.histories`.
    """
    terms = [name for name in names() if name in histories]
    panels = [*terms, "learning_rate", "gradient_norm"]
    titles = {name: TERMS[name].label for name in terms} | {
        "learning_rate": "learning rate of the head",
        "gradient_norm": "gradient norm before clipping",
    }
    if histories.empty:
        return style.page("No training curves", "No experiment of this study trains anything.")
    experiments = list(dict.fromkeys(histories["experiment"]))
    late = _find_unconverged(histories)
    # Colours repeat after six series; the dashes tell the repetitions apart.
    marks = {name: ("-", "--", "-.", ":")[number // 6 % 4] for number, name in enumerate(experiments)}
    columns = style.columns_of(len(panels))
    rows = -(-len(panels) // columns)
    figure = style.new_figure(3.3 * columns, 2.35 * rows + 1.0)
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for experiment, colour in zip(experiments, palette.series_colours(len(experiments)), strict=True):
        part = histories[histories["experiment"] == experiment]
        runs = part["run"].nunique()
        for panel, axes in zip(panels, grid, strict=False):
            wide = part.pivot(index="step", columns="run", values=panel).dropna(how="all")
            if wide.empty:
                continue
            if panel != "learning_rate":
                window = max(1, len(wide) // summaries.SMOOTHING)
                wide = wide.rolling(window, min_periods=1, center=True).mean()
            if runs > 1:
                axes.fill_between(
                    wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.18, lw=0
                )
            axes.plot(wide.index, wide.median(axis=1), color=colour, lw=1.4, ls=marks[experiment])
            axes.set_title(titles[panel])
            if panel != "learning_rate" and (wide.to_numpy() > 0).any():
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(mticker.LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(mticker.FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_formatter(mticker.NullFormatter())
        later = part.loc[part["phase"] > 0, "step"]
        if len(later):
            for axes in grid[: len(panels)]:
                axes.axvline(later.min(), color=colour, lw=0.8, ls=":")
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("step")
    figure.legend(
        handles=[
            mlines.Line2D(
                [],
                [],
                color=colour,
                ls=marks[experiment],
                label=f"{experiment} (not converged)" if experiment in late else experiment,
            )
            for experiment, colour in zip(experiments, palette.series_colours(len(experiments)), strict=True)
        ],
        loc="outside lower left",
        ncols=min(4, len(experiments)),
        alignment="left",
    )
    note = "Line: median over runs; band: their range; smoothed over 1/40 of the steps."
    if late:
        note += (
            " Not converged: the loss of the last fifth of the steps differs from that of the fifth before."
        )
    if (histories["phase"] > 0).any():
        note += " Dotted: from here the head is fitted on the frozen embedding."
    style.set_headline(figure, _fall(histories, experiments[0]), note)
    return figure


def _find_unconverged(histories: pd.DataFrame) -> dict[str, Any]:
    """Experiments of which a run has not converged; see :mod:`myostage.evaluation.convergence`."""
    changes = [
        (experiment, *convergence.measure_change(part))
        for (experiment, _), part in histories.groupby(["experiment", "run"], sort=False)
    ]
    return convergence.find_unconverged(pd.DataFrame(changes, columns=["experiment", *convergence.CHANGE]))


def _fall(histories: pd.DataFrame, experiment: str) -> str:
    """How far an experiment's loss fell, over its first and last tenth of steps."""
    part = histories[(histories["experiment"] == experiment) & (histories["phase"] == 0)]
    steps = int(part["step"].max()) + 1
    tenth = max(1, steps // 10)
    start = part[part["step"] < tenth].groupby("run")["loss"].mean().median()
    end = part[part["step"] >= steps - tenth].groupby("run")["loss"].mean().median()
    verb = "falls" if end < start else "does not fall:"
    runs = part["run"].nunique()
    many = f"median of {runs} runs" if runs > 1 else "one run"
    return f"{experiment}: its loss {verb} from {start:.2g} to {end:.2g} over {steps:,} steps ({many})"
