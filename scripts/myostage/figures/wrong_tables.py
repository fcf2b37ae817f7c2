"""How wrong the table of proportions may be at prediction before a prior does harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_setting
from myostage.figures.lazy import mlines, mticker, pd, schemas, style, tables, wrong
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.wrong_tables:
        return {}
    return {"wrong_tables": Request(scope.tables("wrong_tables"), {"metric": scope.metric})}


FIGURE = Record(
    theme="metrics",
    category="Ablations",
    caption=(
        "The proportions of a slide's group put into its stages, when a share t of each vector is wrong: "
        "gain over no prior. Nothing is trained for it. Band: 95 % interval over animals and runs."
    ),
    requests=requests,
)


def make(wrong_tables: str, metric: str) -> Drawn:
    table = tables.read(wrong_tables, schemas.WRONG_TABLES)
    rows = table[table["metric"] == metric].reset_index(drop=True)
    return Drawn(draw(rows, metric), rows)


def draw(rows: pd.DataFrame, metric: str) -> Figure:
    """Difference to no prior against t, a panel per prior, a line per experiment.

    Parameters
    ----------
    rows : DataFrame
        Rows of WRONG_TABLES.
    metric : str
    """
    known = rows[rows["difference"].notna()]
    if known.empty:
        return style.page("No wrong tables", "No experiment with a prior was measured.")
    priors, names = list(dict.fromkeys(known["prior"])), list(dict.fromkeys(known["experiment"]))
    figure = style.new_figure(4.0 * len(priors) + 1.0, 4.1)
    panels = np.atleast_1d(figure.subplots(1, len(priors), sharey=True))
    colours = dict(zip(names, palette.series_colours(len(names)), strict=True))
    markers = dict(zip(names, style.MARKERS * len(names), strict=False))
    for axes, prior in zip(panels, priors, strict=True):
        for name in names:
            part = known[(known["prior"] == prior) & (known["experiment"] == name)].sort_values("t")
            banded = part[part["low"].notna()]
            axes.fill_between(
                banded["t"], banded["low"], banded["high"], color=colours[name], alpha=0.14, lw=0
            )
            axes.plot(part["t"], part["difference"], marker=markers[name], color=colours[name], lw=1.6, ms=5)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_title(prior)
        axes.set_xlabel("share t of the table that is wrong")
        axes.xaxis.set_major_formatter(mticker.FuncFormatter(lambda t, _: f"{t:g}"))
        axes.grid(axis="y", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    panels[0].set_ylabel(f"{METRICS[metric].label}: with minus without")
    handles = [mlines.Line2D([], [], color=colours[name], marker=markers[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, alignment="left")
    limits = wrong.find_limits(known, metric)
    finite = limits["limit"][np.isfinite(limits["limit"])]
    said = (
        f"A wrong table does more good than harm up to t = {format_setting(round(float(finite.min()), 2))} "
        "for the method that bears least"
        if len(finite)
        else "A wrong table does more good than harm at every t tried"
    )
    note = f"{int(known['animals'].max()):,} animals, {int(known['cells'].max()):,} cells; "
    note += f"{int(known['draws'].max())} draws of wrong tables per t."
    style.set_headline(figure, said, note)
    return figure
