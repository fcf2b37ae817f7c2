"""What one run of every experiment costs: time, energy, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage.evaluation.numbers import format_amount
from myostage.figures.lazy import costs, formatting, mticker, pd, schemas, selection, style, tables
from myostage.figures.record import Drawn, Record, Request, Scope, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A cost is drawn on a log axis where its largest is this many times its smallest.
LOG_RANGE = 20


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.experiments:
        return {}
    parameters = {"experiments": scope.learning, "study": scope.plan.study.study}
    return {"cost": Request(scope.tables("runs"), parameters)}


FIGURE = Record(
    theme="training",
    category="Training",
    caption="Wall time, CPU time, energy and peak memory of one run: median and range over runs.",
    requests=requests,
    tabular=True,
)


def make(runs: str, experiments: Sequence[str], study: str = "") -> Drawn:
    table = tables.read(runs, schemas.RUNS)
    figure = draw(table, experiments)
    blocks = [(formatting.tabulate_costs(table, experiments), formatting.COST)]
    written = Table(f"{study}: cost of a run", [style.finding(figure)], blocks)
    return Drawn(figure, costs.list_costs(table, experiments), table=written)


def draw(runs: pd.DataFrame, experiments: Sequence[str]) -> Figure:
    """What one run costs: median, and range over runs, of time, energy and memory.

    Parameters
    ----------
    runs : DataFrame
        The RUNS table.
    experiments : sequence of str
        Rows from top to bottom.
    """
    found = costs.summarise_costs(runs, experiments)
    panels = [name for name in costs.COSTS if any(found[one][name].runs for one in experiments)]
    if not panels:
        return style.page("No costs", "No run of these experiments ended well and reported its cost.")
    failed = selection.describe_failures(runs)
    longest = max(len(name) for name in experiments)
    figure = style.new_figure(1.6 + 2.1 * len(panels) + 0.07 * longest, 1.5 + 0.28 * len(experiments))
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, name in zip(drawn, panels, strict=True):
        text, unit = costs.COSTS[name]
        positive = [found[one][name].low for one in experiments if found[one][name].low > 0]
        top = max(found[one][name].high for one in experiments if found[one][name].runs)
        for place, one in enumerate(experiments):
            spread = found[one][name]
            if not spread.runs:
                said = failed.get(one, "not reported")
                axes.text(
                    0.02,
                    place,
                    said,
                    fontsize=7,
                    color=style.ABSENT,
                    va="center",
                    transform=axes.get_yaxis_transform(),
                )
                continue
            axes.hlines(place, spread.low, spread.high, color=style.BLUE, lw=1.8)
            axes.plot(spread.median, place, "o", color=style.BLUE, ms=6)
        axes.set_xlabel(f"{text} ({unit})")
        if positive and top > LOG_RANGE * min(positive):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(
                mticker.LogLocator(subs=(1,) if top > 1000 * min(positive) else (1, 3))
            )
            axes.xaxis.set_minor_formatter(mticker.NullFormatter())
        else:
            axes.set_xlim(0, 1.06 * top or 1)
            axes.xaxis.set_major_locator(mticker.MaxNLocator(4))
        axes.xaxis.set_major_formatter(mticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    names = [f"{one} (n {max(found[one][name].runs for name in panels)})" for one in experiments]
    drawn[0].set_yticks(range(len(names)), names)
    drawn[0].set_ylim(len(names) - 0.4, -0.6)
    style.set_headline(figure, _dearest(found), _cost_note(runs, experiments, panels))
    return figure


def _dearest(found: Mapping[str, Mapping[str, costs.Spread]]) -> str:
    """The quickest and the slowest experiment."""
    times = {name: spreads["seconds"] for name, spreads in found.items() if spreads["seconds"].runs}
    if not times:
        return "Cost of a run; its time is not known"
    low, high = (pick(times, key=lambda name: times[name].median) for pick in (min, max))
    text = f"Wall time of a run: {format_amount(times[low].median)} s ({low}, n {times[low].runs})"
    if low == high:
        return text
    text += f" to {format_amount(times[high].median)} s ({high}, n {times[high].runs})"
    if times[low].median > 0:
        text += f", {format_amount(times[high].median / times[low].median)} times as long"
    return text


def _cost_note(runs: pd.DataFrame, experiments: Sequence[str], panels: Sequence[str]) -> str:
    part = runs[runs["experiment"].isin(list(experiments))]
    note = "Point and line: median and range over the n runs that ended well in one job."
    later = int(costs.find_resumed(part).sum())
    if later:
        note += (
            f" Left out, as only its last job was measured: {later} resumed run{'s' if later > 1 else ''}."
        )
    if "joules" not in panels:
        note += " Energy is not shown: the machine does not report it."
    devices = part.loc[part["status"] == "ok", "device"].replace("", np.nan).dropna().value_counts(sort=False)
    if len(devices) > 1:
        counts = ", ".join(f"{device} ({count})" for device, count in devices.items())
        note += f" Runs on unlike devices: {counts}; their times do not compare."
    return note
