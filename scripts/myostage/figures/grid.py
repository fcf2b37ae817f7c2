"""How much the width and the number of bins of the similarity histogram matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_setting
from myostage.figures.lazy import (
    mcolors,
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
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.structure["grid"]:
        return {}
    points = {label: [point["sigma"], point["bins"]] for label, point in scope.plan.structure["grid"].items()}
    parameters = {
        "metric": scope.metric,
        "points": points,
        "marked": [[0.1, 6, "OSLSP"]],
        "alpha": scope.plan.study.compare.alpha,
    }
    return {"grid": Request(scope.tables("metrics", "comparisons", "runs"), parameters)}


FIGURE = Record(
    theme="metrics",
    category="Ablations",
    caption=(
        "Width sigma and number of bins of the similarity histogram: value with half the width of its "
        "interval, and difference to the reference."
    ),
    requests=requests,
)


def make(
    metrics: str,
    comparisons: str,
    runs: str,
    points: Mapping[str, tuple[float, int]],
    metric: str = "accuracy",
    marked: Sequence[tuple[float, int, str]] = (),
    alpha: float = 0.05,
) -> Drawn:
    table = tables.read(metrics, schemas.METRICS)
    compared = tables.read(comparisons, schemas.COMPARISONS)
    failed = selection.describe_failures(tables.read(runs, schemas.RUNS))
    rows = selection.tabulate_grid(table, points, metric, compared, failed)
    return Drawn(draw(rows, metric, marked, alpha), rows)


def draw(
    points: pd.DataFrame, metric: str, marked: Sequence[tuple[float, int, str]] = (), alpha: float = 0.05
) -> Figure:
    """sigma x bins as heat maps: the value with half its interval's width, the difference to the reference.

    Parameters
    ----------
    points : DataFrame
        Rows of :func:`myostage.evaluation.selection.tabulate_grid`.
    metric : str
    marked : sequence of (sigma, bins, name)
        Points that are outlined and named in the legend.
    alpha : float
        Level of the tests; a dot marks a significant difference.
    """
    points = points.assign(
        verdict=[
            verdicts.judge(metric, row.difference, row.p_holm, alpha)
            for row in selection.iterate_rows(points)
        ]
    )
    known = points[points["value"].notna()]
    if known.empty:
        return style.page("No grid", "No point of the grid of sigma and bins was measured.")
    sigmas, bins = sorted(set(points["sigma"])), sorted(set(points["bins"]))
    compared = points["difference"].notna().any()
    record = METRICS[metric]
    panels = 2 if compared else 1
    figure = style.new_figure(max(7.0, panels * (1.5 + 0.62 * len(bins))), 2.0 + 0.47 * len(sigmas))
    drawn = figure.subplots(1, panels, squeeze=False)[0]
    more = record.higher_is_better
    ramp = mcolors.LinearSegmentedColormap.from_list(
        "value", ["white", style.BLUE] if more else [style.BLUE, "white"]
    )
    two = mcolors.LinearSegmentedColormap.from_list(
        "difference", [style.ORANGE, "white", style.BLUE] if more else [style.BLUE, "white", style.ORANGE]
    )
    low, high = known["value"].min(), known["value"].max()
    largest = float(points["difference"].abs().max()) or 1.0
    pad = 0.5 if high == low else 0.0
    shown = [(drawn[0], "value", ramp, (low - pad, high + pad), record.label)]
    if compared:
        title = f"{record.label} minus {style.shared_value(points['reference'].dropna(), 'its reference')}"
        shown.append((drawn[1], "difference", two, (-largest, largest), title))
    for axes, column, colours, (bottom, top), title in shown:
        square = points.pivot(index="sigma", columns="bins", values=column).reindex(
            index=sigmas, columns=bins
        )
        image = axes.imshow(square.to_numpy(dtype=float), cmap=colours, vmin=bottom, vmax=top, aspect="auto")
        axes.set_title(title)
        axes.set_xticks(range(len(bins)), [str(number) for number in bins])
        axes.set_yticks(range(len(sigmas)), [f"{sigma:g}" for sigma in sigmas])
        axes.set_xlabel("bins b of the similarity histogram")
        axes.tick_params(length=0)
        figure.colorbar(
            image, ax=axes, shrink=0.85, format=mticker.FuncFormatter(lambda value, _: record.format(value))
        )
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row in selection.iterate_rows(points):
            place = (bins.index(row.bins), sigmas.index(row.sigma))
            value = getattr(row, column)
            if not np.isfinite(value):
                axes.add_patch(
                    mpatches.Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, color="#eee", lw=0, zorder=0)
                )
                text = row.absent if column == "value" else "–"
                axes.text(*place, text, ha="center", va="center", fontsize=6.5, color=style.ABSENT)
                continue
            red, green, blue, _ = colours((value - bottom) / (top - bottom))
            ink = palette.ink("#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue)))
            main = record.format(value, sign=column == "difference")
            axes.text(place[0], place[1] - 0.1, main, ha="center", va="center", fontsize=8.5, color=ink)
            small = "●" if column == "difference" and row.verdict in style.VERDICT_COLOURS else ""
            if column == "value" and np.isfinite(row.high - row.low):
                small = f"±{record.format((row.high - row.low) / 2)}"
            axes.text(place[0], place[1] + 0.27, small, ha="center", va="center", fontsize=6.5, color=ink)
        for (sigma, number, _), dash in zip(
            _on_grid(marked, sigmas, bins), style.DASHES * len(marked), strict=False
        ):
            corner = (bins.index(number) - 0.47, sigmas.index(sigma) - 0.47)
            axes.add_patch(
                mpatches.Rectangle(corner, 0.94, 0.94, fill=False, ec="black", lw=2, ls=dash, zorder=4)
            )
    drawn[0].set_ylabel("sigma (similarity, 0 to 1)")
    handles: list[Any] = [
        mpatches.Patch(fc="none", ec="black", lw=1.6, ls=dash, label=f"{what}: sigma {sigma:g}, b {number}")
        for (sigma, number, what), dash in zip(
            _on_grid(marked, sigmas, bins), style.DASHES * len(marked), strict=False
        )
    ]
    if compared:
        handles.append(mlines.Line2D([], [], ls="", marker="o", color="black", ms=4, label="significant"))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=3, alignment="left")
    slides, cells = int(known["slides"].max()), int(known["cells"].max())
    note = f"± half the width of the {verdicts.INTERVAL}; {slides:,} slides, {cells:,} cells."
    if compared:
        note += f" {verdicts.state_rule(alpha)}"
    style.set_headline(figure, _spread(known, metric), note)
    return figure


def _on_grid(
    marked: Sequence[tuple[float, int, str]], sigmas: Sequence[float], bins: Sequence[int]
) -> list[tuple[float, int, str]]:
    return [(sigma, number, name) for sigma, number, name in marked if sigma in sigmas and number in bins]


def _spread(known: pd.DataFrame, metric: str) -> str:
    """How far the grid spreads against the width of an interval, and where it is best."""
    low, high = known["value"].min(), known["value"].max()
    record = METRICS[metric]
    ordered = known.sort_values("value", ascending=not record.higher_is_better, kind="stable")
    best = next(selection.iterate_rows(ordered))
    width = float((known["high"] - known["low"]).median())
    text = f"Over {len(known)} points of sigma and b, {record.title} spreads by "
    text += f"{record.format(high - low)} ({record.format(low)} to {record.format(high)})"
    if np.isfinite(width):
        than = "less" if high - low < width else "more"
        text += f", {than} than the typical width of an interval, {record.format(width)}"
    text += f"; best at sigma {format_setting(best.sigma)}, b {best.bins}"
    compared = known[known["p_holm"].notna()]
    if len(compared):
        apart = int(compared["verdict"].isin(list(style.VERDICT_COLOURS)).sum())
        reference = style.shared_value(compared["reference"], "their reference")
        text += f"; {apart or 'none'} of {len(compared)} differ significantly from {reference}"
    return text
