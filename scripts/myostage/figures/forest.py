"""What changes a result, and what does not: paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_p
from myostage.figures.lazy import (
    formatting,
    mlines,
    mpatches,
    mticker,
    pd,
    schemas,
    selection,
    style,
    tables,
    verdicts,
)
from myostage.figures.record import Drawn, Record, Request, Scope, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Groups = Sequence[tuple[str, Sequence[str]]]


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.experiments:
        return {}
    structure = scope.plan.structure
    others = [name for name in structure["main"] if name != structure["reference"]]
    groups = [[f"against {structure['reference']}", others], ["design choices", structure["design"]]]
    parameters = {
        "groups": [group for group in groups if group[1]],
        "alpha": scope.plan.study.compare.alpha,
        "metric": scope.metric,
        "study": scope.plan.study.study,
    }
    return {"forest": Request(scope.tables("comparisons", "runs"), parameters)}


FIGURE = Record(
    theme="metrics",
    category="Ablations",
    caption=(
        "Paired differences with 95 % intervals over animals and training runs; grey: below the minimum "
        "detectable effect at the level that Holm's correction leaves. Coloured where a difference is "
        "significant."
    ),
    requests=requests,
    tabular=True,
)


def make(
    comparisons: str,
    runs: str,
    groups: Groups,
    metric: str = "accuracy",
    alpha: float = 0.05,
    study: str = "",
) -> Drawn:
    ended = tables.read(runs, schemas.RUNS)
    labels = [label for _, labels in groups for label in labels]
    rows = selection.find_differences(tables.read(comparisons, schemas.COMPARISONS), metric, labels)
    figure = draw(rows, groups, metric, alpha, selection.describe_failures(ended))
    blocks = [(formatting.tabulate_differences(rows, ended), formatting.DIFFERENCES)]
    title = f"{study}: {METRICS[metric].label}, differences"
    return Drawn(figure, rows, table=Table(title, [style.finding(figure)], blocks))


def draw(
    rows: pd.DataFrame,
    groups: Groups,
    metric: str,
    alpha: float = 0.05,
    failed: Mapping[str, str] | None = None,
) -> Figure:
    """Paired differences as points with 95 % intervals, over what the study could have detected.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.selection.find_differences`.
    groups : sequence of (heading, experiments)
        From top to bottom.
    metric : str
    alpha : float
        Level of the tests.
    failed : mapping of experiment to text, optional
        What stands in place of an experiment without a comparison.
    """
    at = {row.experiment: row for row in selection.iterate_rows(rows) if np.isfinite(row.difference)}
    lines = [
        line
        for heading, names in groups
        if names
        for line in ((heading, None), *((heading, n) for n in names))
    ]
    name = METRICS[metric].title
    if not any(one in at for _, one in lines):
        return style.page(
            "No differences", f"No experiment of this figure was compared with another by {name}."
        )
    references = {at[one].reference for _, one in lines if one in at}
    single = next(iter(references)) if len(references) == 1 else None

    figure = style.new_figure(8.6, 1.5 + 0.23 * len(lines))
    axes, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.0, 1.35))
    style.bare(right)
    right.set_xlim(0, 1)
    ticks = []
    for place, (heading, one) in enumerate(lines):
        if one is None:
            ticks.append(heading)
            continue
        row = at.get(one)
        ticks.append(one if single or row is None else f"{one} (against {row.reference})")
        if row is None:
            right.text(
                0, place, (failed or {}).get(one, "not compared"), va="center", fontsize=8, color=style.ABSENT
            )
            continue
        if np.isfinite(row.minimum_detectable):
            axes.barh(
                place,
                2 * row.minimum_detectable,
                left=-row.minimum_detectable,
                height=1,
                color="#e8e8e8",
                lw=0,
            )
        colour = style.VERDICT_COLOURS.get(style.judge_row(row, metric, alpha), style.FAINT)
        if np.isfinite(row.low) and np.isfinite(row.high):
            axes.hlines(place, row.low, row.high, color=colour, lw=1.8)
        axes.plot(
            row.difference, place, "o", color=colour, ms=6, mfc=colour if colour != style.FAINT else "white"
        )
        text = METRICS[metric].format_interval(row.difference, row.low, row.high, sign=True)
        right.text(0, place, text, va="center", fontsize=8)
        right.text(0.62, place, f"{row.pairs:.0f}", va="center", ha="right", fontsize=8)
        right.text(1, place, format_p(row.p_holm), va="center", ha="right", fontsize=8)
    for x, align, title in (
        (0, "left", "difference [95 %]"),
        (0.62, "right", "pairs"),
        (1, "right", "p (Holm)"),
    ):
        right.text(x, -1, title, va="center", ha=align, fontsize=7.5, color=style.FAINT)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(lines)), ticks)
    for one in (axes, right):
        one.tick_params(axis="y", length=0)
    for tick, (_, one) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("bold" if one is None else "normal")
    axes.set_ylim(len(lines) - 0.4, -1.5)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(
        f"{METRICS[metric].label}: experiment minus {single or 'its reference'} ({METRICS[metric].direction})"
    )
    axes.xaxis.set_major_locator(mticker.MaxNLocator(7))
    figure.legend(
        handles=[
            mlines.Line2D([], [], color=style.BLUE, marker="o", label="better"),
            mlines.Line2D([], [], color=style.ORANGE, marker="o", label="worse"),
            mlines.Line2D(
                [], [], color=style.FAINT, marker="o", mfc="white", label="not significant, or not tested"
            ),
            mpatches.Patch(color="#e8e8e8", label="below the minimum detectable effect"),
        ],
        loc="outside lower left",
        ncols=4,
        alignment="left",
    )
    shown = [at[one] for _, one in lines if one in at]
    style.set_headline(
        figure,
        _changes(shown, metric, single, alpha),
        f"Point and line: difference and {verdicts.INTERVAL}. {verdicts.state_rule(alpha)}",
    )
    return figure


def _changes(rows: Sequence[Any], metric: str, reference: str | None, alpha: float) -> str:
    """Which of the compared experiments differ significantly, and the minimum detectable effect."""
    found = sorted(
        (row for row in rows if style.judge_row(row, metric, alpha) in style.VERDICT_COLOURS),
        key=lambda row: -abs(row.difference),
    )
    record = METRICS[metric]
    tested = [row for row in rows if style.judge_row(row, metric, alpha) != "not tested"]
    count = len(tested)
    if not count:
        return f"None of {len(rows)} was tested against {reference or 'what it is compared with'}"
    text = f"{'None' if not found else len(found)} of {count} differ{'' if count > 1 else 's'} significantly "
    text += f"from {reference or 'what they are compared with'} in {record.title}"
    if found:
        parts = [f"{row.experiment} {record.format(row.difference, sign=True)}" for row in found[:3]]
        text += f": {', '.join(parts)}{', …' if len(found) > 3 else ''}"
    if count < len(rows):
        text += f"; {len(rows) - count} not tested"
    detectable = np.array([row.minimum_detectable for row in rows], dtype=float)
    if np.isfinite(detectable).any():
        smallest = record.format(float(np.nanmedian(detectable)))
        text += f"; minimum detectable effect {smallest} (median)"
    return text
