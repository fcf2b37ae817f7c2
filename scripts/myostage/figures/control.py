"""Whether spatial reconstruction uses where cells lie: true against permuted coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_interval
from myostage.figures.lazy import (
    mlines,
    mticker,
    pd,
    schemas,
    selection,
    style,
    summaries,
    tables,
    verdicts,
    views,
)
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    pairs = scope.plan.slide_structure["controls"]
    if not pairs:
        return {}
    files = {
        "histories": scope.plan.by_experiment("history.parquet", [*pairs, *pairs.values()]),
        **scope.tables("comparisons", prefix="slides_"),
    }
    return {"control": Request(files, {"pairs": pairs, "alpha": scope.plan.study.compare.alpha})}


FIGURE = Record(
    theme="slide_labels",
    category="Labels of slides",
    caption=(
        "Reconstruction loss of hidden cells at the end of training, with true coordinates and with the "
        "same coordinates dealt to the cells at random, and the paired difference of metrics. A model that "
        "uses adjacent cells loses by the permutation."
    ),
    requests=requests,
)


def make(
    histories: Mapping[str, Sequence[str]],
    comparisons: str,
    pairs: Mapping[str, str],
    metrics: Sequence[str] = ("bag_auroc", "instance_auroc"),
    alpha: float = 0.05,
) -> Drawn:
    """``pairs`` maps an experiment to its control with permuted coordinates."""
    losses = summaries.tabulate_reconstruction(views.histories(histories), pairs)
    compared = tables.read(comparisons, schemas.COMPARISONS)
    differences = {metric: selection.find_to_controls(compared, metric, pairs, pairs) for metric in metrics}
    figure = draw(losses, differences, alpha)
    return Drawn(figure, losses, more_numbers={"differences": selection.stack_metrics(differences)})


def draw(
    losses: pd.DataFrame,
    differences: Mapping[str, pd.DataFrame],
    alpha: float = 0.05,
) -> Figure:
    """Reconstruction loss with true and with permuted coordinates, and what the true ones are worth.

    Parameters
    ----------
    losses : DataFrame
        Rows of :func:`myostage.evaluation.summaries.tabulate_reconstruction`.
    differences : mapping of metric to DataFrame
        Rows of :func:`myostage.evaluation.selection.find_to_controls` of the same experiments.
    alpha : float
        Level of the tests.
    """
    compared = {metric: rows for metric, rows in differences.items() if rows["difference"].notna().any()}
    if losses["loss"].isna().all() and not compared:
        return style.page("No control", "No run with spatial reconstruction and its control has ended well.")
    order = list(dict.fromkeys(losses["experiment"]))
    longest = max(len(name) for name in order)
    panels = 1 + len(compared)
    figure = style.new_figure(1.4 + 2.6 * max(2, panels) + 0.07 * longest, max(2.9, 1.9 + 0.36 * len(order)))
    drawn = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    for coordinates, colour, marker, shift in (
        ("true", style.BLUE, "o", -0.13),
        ("permuted", style.ORANGE, "s", 0.13),
    ):
        part = losses[losses["coordinates"] == coordinates]
        for place, row in enumerate(selection.iterate_rows(part)):
            if np.isfinite(row.loss):
                style.plot_interval(
                    drawn[0], row.loss, place + shift, row.low, row.high, False, color=colour, marker=marker
                )
            else:
                drawn[0].text(
                    0.02,
                    place + shift,
                    f"{coordinates}: no run",
                    fontsize=7,
                    color=style.ABSENT,
                    va="center",
                    transform=drawn[0].get_yaxis_transform(),
                )
    drawn[0].set_title("end of training")
    drawn[0].set_xlabel("reconstruction loss, 1 − cosine")
    for axes, (metric, rows) in zip(drawn[1:], compared.items(), strict=True):
        for place, row in enumerate(selection.iterate_rows(rows)):
            if not np.isfinite(row.difference):
                where = axes.get_yaxis_transform()
                axes.text(
                    0.02, place, "not compared", fontsize=7, color=style.ABSENT, va="center", transform=where
                )
                continue
            colour = style.VERDICT_COLOURS.get(style.judge_row(row, metric, alpha), style.FAINT)
            marks = {"color": colour, "mfc": colour if colour != style.FAINT else "white"}
            style.plot_interval(axes, row.difference, place, row.low, row.high, False, **marks)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(f"true minus permuted, {rows['slides'].max():.0f} slides")
        axes.set_xlabel(f"{METRICS[metric].label}, difference")
    for axes in drawn:
        axes.xaxis.set_major_locator(mticker.MaxNLocator(4))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    runs = losses.groupby("experiment", sort=False)["runs"].min()
    drawn[0].set_yticks(range(len(order)), [f"{name} (n {runs[name]})" for name in order])
    drawn[0].set_ylim(len(order) - 0.4, -0.6)
    style.set_legend(
        figure,
        [
            mlines.Line2D([], [], color=style.BLUE, marker="o", label="true coordinates; difference: better"),
            mlines.Line2D(
                [], [], color=style.ORANGE, marker="s", label="permuted coordinates; difference: worse"
            ),
            mlines.Line2D(
                [], [], color=style.FAINT, marker="o", mfc="white", label="not significant, or not tested"
            ),
        ],
        2 if panels < 3 else 3,
    )
    note = (
        "Loss: mean over the last tenth of steps, then over n runs, 95 % interval over runs. "
        f"Differences: {verdicts.INTERVAL}. {verdicts.state_rule(alpha)}"
    )
    style.set_headline(figure, _worth(losses, compared, alpha), note)
    return figure


def _worth(losses: pd.DataFrame, compared: Mapping[str, pd.DataFrame], alpha: float) -> str:
    """Whether true coordinates reconstruct better, and whether that is of use."""
    true, permuted = (losses[losses["coordinates"] == which] for which in ("true", "permuted"))
    both = true.merge(permuted, on="experiment", suffixes=("", "_permuted")).dropna(
        subset=["loss", "loss_permuted"]
    )
    parts = []
    if len(both) == 1:
        row = next(selection.iterate_rows(both))
        with_true = format_interval(row.loss, row.low, row.high)
        with_permuted = format_interval(row.loss_permuted, row.low_permuted, row.high_permuted)
        parts.append(f"reconstruction loss {with_true} with true coordinates, {with_permuted} permuted")
    elif len(both):
        lower = int((both["high"] < both["low_permuted"]).sum())
        higher = int((both["low"] > both["high_permuted"]).sum())
        text = f"true coordinates reconstruct better in {lower or 'none'} of {len(both)} settings"
        parts.append(text + (f" and worse in {higher}" if higher else "") + " (intervals apart)")
    for metric, rows in compared.items():
        said = style.describe_differences(list(selection.iterate_rows(rows)), alpha, "permuted coordinates")
        parts.append(f"{METRICS[metric].title}: {said}")
    return style.capitalised("; ".join(parts))
