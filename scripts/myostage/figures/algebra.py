"""Whether z_W + z_P of a held-out slide predicts its own z_I."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myostage import palette
from myostage.evaluation.numbers import format_interval, format_number
from myostage.figures.lazy import mlines, mticker, pd, schemas, selection, style, summaries, tables, verdicts
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    return {"algebra": Request(scope.tables("algebra"))} if scope.plan.added else {}


FIGURE = Record(
    theme="slide_labels",
    category="Ordinal regression",
    caption=(
        "Embedding of uninjured tissue plus that of the perturbed cells of a held-out slide, z_W + z_P, "
        "against the embedding z_I of the same slide and of the others of its fold. Mean reciprocal rank of"
        " the own slide, by z_W + z_P and by z_P alone, beside that of a random order."
    ),
    requests=requests,
)


def make(algebra: str) -> Drawn:
    from myostage.evaluation.algebra import summary

    table = tables.read(algebra, schemas.ALGEBRA)
    means = summary(table)
    return Drawn(draw(table, means), summaries.average_algebra(table), more_numbers={"means": means})


def draw(table: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Whether z_W + z_P of a held-out slide lies near its own z_I, per slide and as a rank against chance.

    Parameters
    ----------
    table : DataFrame
        The ALGEBRA table.
    summary : DataFrame
        Rows of :func:`myostage.evaluation.algebra.summary` of it.
    """
    if table.empty:
        return style.page(
            "No latent algebra",
            "No run holds out a healthy slide and at least two injured ones, or none has an embedding.",
        )
    points = summaries.average_algebra(table)
    experiments = summary["experiment"].tolist()
    colours = palette.series_colours(len(experiments))
    longest = max(len(name) for name in experiments)
    figure = style.new_figure(7.6 + 0.06 * longest, max(4.2, 2.2 + 0.3 * len(experiments)))
    left, right = figure.subplots(1, 2, width_ratios=(0.85, 1))
    for number, (name, colour) in enumerate(zip(experiments, colours, strict=True)):
        part = points[points["experiment"] == name]
        marker = style.MARKERS[number % len(style.MARKERS)]
        left.plot(part["others"], part["own"], marker, color=colour, ms=5, alpha=0.8, mew=0)
    low = float(points[["own", "others"]].min().min())
    ends = [low - 0.03 * (1 - low) - 1e-3, 1 + 0.03 * (1 - low) + 1e-3]
    left.plot(ends, ends, color=palette.BASELINE, lw=1, ls="--", zorder=0)
    left.set_xlim(*ends)
    left.set_ylim(*ends)
    left.set_aspect("equal")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(mticker.MaxNLocator(4))
    left.set_title("one point per slide, marked as right")
    left.set_xlabel("cosine with z_I of other slides (mean)")
    left.set_ylabel("cosine with z_I of its own slide")
    for place, (row, colour) in enumerate(zip(selection.iterate_rows(summary), colours, strict=True)):
        right.plot(
            [row.reciprocal_rank_chance] * 2, [place - 0.35, place + 0.35], color=palette.BASELINE, lw=2
        )
        marks: dict[str, Any] = {"color": colour, "marker": style.MARKERS[place % len(style.MARKERS)]}
        added = (row.reciprocal_rank, place - 0.12, row.reciprocal_rank_low, row.reciprocal_rank_high)
        alone = (row.reciprocal_rank_p, place + 0.12, row.reciprocal_rank_p_low, row.reciprocal_rank_p_high)
        style.plot_interval(right, *added, False, **marks)
        style.plot_interval(right, *alone, False, **marks, mfc="white")
    right.set_yticks(
        range(len(experiments)),
        [f"{row.experiment} (n {row.slides})" for row in selection.iterate_rows(summary)],
    )
    right.set_ylim(len(experiments) - 0.4, -0.6)
    right.set_xlim(0, 1.03)
    right.set_title("rank of the own slide")
    right.set_xlabel("mean reciprocal rank (1: always nearest)")
    style.set_legend(
        figure,
        [
            mlines.Line2D([], [], color=palette.BASELINE, ls="--", label="own = others"),
            mlines.Line2D([], [], color=palette.BASELINE, lw=2, label="a random order (chance)"),
            mlines.Line2D([], [], color="black", marker="o", label="by z_W + z_P"),
            mlines.Line2D([], [], color="black", marker="o", mfc="white", label="by z_P alone"),
        ],
    )
    note = (
        "z_W + z_P of a slide against z_I of the slides that its run holds out, mean over seeds; n slides. "
        "Line: 95 % interval over animals."
    )
    style.set_headline(figure, _predicts(summary), note)
    return figure


def _predicts(summary: pd.DataFrame) -> str:
    parts = []
    for row in selection.iterate_rows(summary):
        rank = format_interval(row.reciprocal_rank, row.reciprocal_rank_low, row.reciprocal_rank_high)
        side = verdicts.find_side(
            row.reciprocal_rank_low, row.reciprocal_rank_high, row.reciprocal_rank_chance
        )
        verdict = ("the interval holds chance", "beyond chance", "worse than chance")[side]
        chance, alone = format_number(row.reciprocal_rank_chance), format_number(row.reciprocal_rank_p)
        numbers = f"reciprocal rank {rank}, chance {chance}, z_P alone {alone}"
        parts.append((verdict, f"{row.experiment} {verdict} ({numbers})"))
    # What differs from chance comes first.
    parts.sort(key=lambda one: one[0] == "the interval holds chance")
    beyond = sum(verdict == "beyond chance" for verdict, _ in parts)
    text = f"z_W + z_P predicts z_I of its own slide beyond chance in {beyond or 'none'} of {len(parts)}"
    return f"{text}: {'; '.join(said for _, said in parts[:2])}{'; …' if len(parts) > 2 else ''}"
