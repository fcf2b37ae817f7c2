"""Share of each stage per group: given to the training against predicted on held-out slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.figures.lazy import mlines, mticker, pd, schemas, style, summaries, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.experiments:
        return {}
    return {
        "composition": Request(scope.tables("scores"), {"given": scope.plan.proportions, **scope.by_stage})
    }


FIGURE = Record(
    theme="stages",
    category="Stages",
    caption=(
        "Share of each stage per group, predicted on held-out slides (one point per animal) against the "
        "given proportions."
    ),
    requests=requests,
)


def make(scores: str, given: Mapping[str, Sequence[float]], stages: Sequence[str], experiment: str) -> Drawn:
    table = tables.read(scores, schemas.SCORES)
    animals = summaries.compose_animals(table, stages, experiment)
    return Drawn(draw(table, given, stages, experiment), animals)


def draw(
    scores: pd.DataFrame, given: Mapping[str, Sequence[float]], stages: Sequence[str], experiment: str
) -> Figure:
    """Share of each stage per group: given (dash) against predicted, one point per animal.

    Parameters
    ----------
    scores : DataFrame
        SCORES rows; those of ``experiment`` are drawn. Slides of an animal are averaged by their cells.
    given : mapping of group to K shares
        In the order of the axis; groups without a slide are left out.
    """
    animals = summaries.compose_animals(scores, stages, experiment)
    groups = [group for group in given if group in set(animals["group"])]
    places = {group: place for place, group in enumerate(groups)}
    if (animals["group"] == "").any():
        places[""] = len(groups)
    known = animals[animals["group"].isin(groups)]
    predicted = known[list(stages)].to_numpy(dtype=float)
    wanted = np.array([given[group] for group in known["group"]], dtype=float).reshape(-1, len(stages))

    figure = style.new_figure(max(6.5, 1.05 + len(stages) * (0.55 + 0.24 * len(places))), 3.3)
    row = np.atleast_1d(figure.subplots(1, len(stages), sharey=True))
    for number, (stage, colour, axes) in enumerate(
        zip(stages, palette.stage_colours(len(stages)), row, strict=True)
    ):
        for group in groups:
            share = given[group][number]
            axes.bar(places[group], share, width=0.8, color="#ececec", zorder=0)
            axes.hlines(share, places[group] - 0.4, places[group] + 0.4, color="black", lw=1.6, zorder=2)
        for group in places:
            rows = animals[animals["group"] == group]
            spread = np.linspace(-0.22, 0.22, len(rows)) if len(rows) > 1 else np.zeros(1)
            axes.scatter(
                places[group] + spread,
                rows[stage],
                s=26,
                color=colour,
                edgecolor="black",
                linewidth=0.5,
                zorder=3,
            )
        axes.set_title(style.stage_name(stage))
        axes.set_xticks(list(places.values()), [group or "none" for group in places], rotation=45, ha="right")
        axes.set_xlim(-0.6, len(places) - 0.4)
    row[0].set_ylim(-0.03, 1.03)
    row[0].yaxis.set_major_formatter(mticker.FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    row[0].set_ylabel("share of cells")
    row[len(row) // 2].set_xlabel("group")
    figure.legend(
        handles=[
            mlines.Line2D([], [], color="black", lw=1.6, label="given"),
            mlines.Line2D(
                [], [], ls="", marker="o", mfc="#aaa", mec="black", mew=0.5, label="predicted, one animal"
            ),
        ],
        loc="outside lower right",
        ncols=2,
    )
    if len(known):
        gap = 100 * (predicted - wanted)
        by_group = np.stack([gap[(known["group"] == group).to_numpy()].mean(axis=0) for group in groups])
        worst, stage_off = np.unravel_index(np.abs(by_group).argmax(), by_group.shape)
        off = by_group[worst, stage_off]
        where = f"{style.stage_name(stages[stage_off])} at {groups[worst]} ({off:+.0f} points)"
        finding = (
            f"{experiment}: predicted shares differ from the given ones by "
            f"{np.abs(gap).mean():.1f} points on average, most for {where}"
        )
    else:
        finding = f"{experiment}: predicted shares; no slide belongs to a group with given shares"
    style.set_headline(figure, finding)
    return figure
