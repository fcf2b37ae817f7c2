"""Loss of every experiment over its training in drawn worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.figures.lazy import pd, schemas, style, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if scope.plan.worlds is None:
        return {}
    return {"convergence": Request({"curves": scope.plan.paths.study("worlds_curves.parquet")})}


FIGURE = Record(
    theme="worlds",
    category="Worlds",
    caption="Loss of every experiment in parts of its training, mean over worlds; a line for each point.",
    requests=requests,
)


def make(curves: str) -> Drawn:
    table = tables.read(curves, schemas.WORLDS_CURVES)
    return Drawn(draw(table), table)


def draw(curves: pd.DataFrame) -> Figure:
    """A panel per experiment, a line per point; the head that is fitted afterwards is dashed."""
    experiments = list(dict.fromkeys(curves["experiment"]))
    if not experiments:
        return style.page("No training curves", "No experiment of this study trains anything.")
    columns = style.columns_of(len(experiments))
    rows = -(-len(experiments) // columns)
    figure = style.new_figure(max(2.9 * columns, 6.5), 2.3 * rows + 0.9)
    grid = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[len(experiments) :]:
        axes.set_visible(False)
    for axes, experiment in zip(grid, experiments, strict=False):
        part = curves[curves["experiment"] == experiment]
        for (point, phase), line in part.groupby(["point", "phase"], sort=False):
            centre = point == "centre"
            colour = palette.CEILING if centre else palette.MISSING
            axes.plot(
                line["step"] + 1, line["loss"], color=colour, lw=1.6 if centre else 0.8,
                ls="--" if phase else "-", zorder=2 + centre,
            )  # fmt: skip
        axes.set_title(experiment)
        if (part["loss"] > 0).all():
            axes.set_yscale("log")
        axes.grid(axis="y", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel("step")
    figure.supylabel("loss", fontsize=9)
    worlds = int(curves["worlds"].max())
    note = (
        f"Weighted sum of the terms, mean over a twentieth of the steps and over up to {worlds} worlds; "
        "dark: the centre of the maps, grey: their other points; dashed: a head that is fitted afterwards."
    )
    style.set_headline(figure, "Loss over the training in worlds", note)
    return figure
