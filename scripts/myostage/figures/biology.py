"""Whether the given proportions follow the expected biology: the mean stage rises with the day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.evaluation.numbers import format_number
from myostage.figures.lazy import checks, mlines, pd, schemas, style, summaries, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.experiments:
        return {}
    return {"biology": Request(scope.tables("scores"), {"given": scope.plan.proportions, **scope.by_stage})}


FIGURE = Record(
    theme="embedding",
    category="First experiments",
    caption=(
        "Expected stage of each group's given proportions against its day, and the mean stage predicted for"
        " each animal's held-out slides. Passes when the expected stage rises with every step in time; day "
        "0 is uninjured muscle and takes no part."
    ),
    requests=requests,
)


def make(scores: str, given: Mapping[str, Sequence[float]], stages: Sequence[str], experiment: str) -> Drawn:
    table = tables.read(scores, schemas.SCORES)
    figure = draw(table, given, stages, experiment)
    return Drawn(figure, summaries.average_stages(table, given, stages, experiment))


def draw(
    scores: pd.DataFrame, given: Mapping[str, Sequence[float]], stages: Sequence[str], experiment: str
) -> Figure:
    """Expected stage of the given proportions against the day, with the predicted mean stage of each animal.

    Parameters
    ----------
    scores : DataFrame
        SCORES rows; those of ``experiment`` are drawn.
    given : mapping of group to K shares
    """
    expected = summaries.list_expected_stages(given)
    if expected.empty:
        return style.page(
            "No proportions", "The study learns from no proportions, so there is nothing to compare."
        )
    dated = not expected["day"].isna().any()
    animals = summaries.average_stages(scores, given, stages, experiment).dropna(subset="predicted")
    place = dict(zip(expected["group"], expected["day"] if dated else range(len(expected)), strict=True))
    figure = style.new_figure(6.8, 1.9 + 0.42 * len(stages))
    axes = figure.subplots()
    reference = expected["day"] == 0
    injured = expected[~reference]
    at = [place[group] for group in injured["group"]]
    axes.plot(at, injured["expected"], color="black", lw=1.2, marker="_", ms=15, mew=2, zorder=2)
    uninjured = expected.loc[reference, "expected"].to_numpy(dtype=float)
    for stage in uninjured:
        axes.axhline(stage, color="#999", lw=1, ls=":", zorder=1)
    axes.plot(np.zeros(len(uninjured)), uninjured, color="black", marker="_", ms=15, mew=2, ls="", zorder=2)
    span = max(place.values()) - min(place.values()) or 1
    colour = palette.series_colours(1)[0]
    for group, rows in animals.groupby("group", sort=False):
        spread = np.linspace(-0.012, 0.012, len(rows)) * span if len(rows) > 1 else np.zeros(1)
        axes.scatter(
            place[group] + spread, rows["predicted"], s=26, color=colour, edgecolor="black", lw=0.5, zorder=3
        )
    axes.set_xticks(list(place.values()), [f"{day:g}" for day in place.values()] if dated else list(place))
    axes.set_xlabel(
        "day after injury (the number in the group's name)" if dated else "group, in the table's order"
    )
    axes.set_xlim(min(place.values()) - 0.06 * span, max(place.values()) + 0.06 * span)
    axes.set_yticks(range(len(stages)), [f"{style.stage_name(stage)} {k}" for k, stage in enumerate(stages)])
    axes.set_ylim(-0.25, len(stages) - 0.75)
    axes.set_ylabel("mean stage")
    handles = [
        mlines.Line2D([], [], color="black", lw=1.2, marker="_", ms=12, mew=2, label="given proportions")
    ]
    if len(animals):
        label = f"{experiment}: one animal"
        handles.append(
            mlines.Line2D([], [], ls="", marker="o", mfc=colour, mec="black", mew=0.5, label=label)
        )
    if reference.any():
        handles.append(mlines.Line2D([], [], color="#999", lw=1, ls=":", label="day 0, uninjured"))
    axes.legend(handles=handles, loc="lower right")
    ends = (injured if len(injured) else expected).iloc[[0, -1]]
    (first, last), (start, end) = ends["group"].tolist(), ends["expected"].astype(float).tolist()
    finding = f"The expected stage of the proportions goes from {format_number(start)} at {first} to "
    finding += f"{format_number(end)} at {last}"
    if len(animals):
        off = (animals["predicted"] - animals["expected"]).abs().mean()
        finding += f"; animals are predicted {format_number(off)} stages off theirs on average"
    style.set_check(figure, finding, checks.rises(given))
    return figure
