"""How much the width and the number of bins of the similarity histogram matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.figures.lazy import formatting, mcolors, mlines, mpatches, mticker, pd, schemas, style, tables
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
    failed = formatting.failures(tables.read(runs, schemas.RUNS))
    rows = grid_points(table, points, metric, compared, failed)
    return Drawn(draw(rows, metric, marked, alpha), rows)


def draw(
    points: pd.DataFrame, metric: str, marked: Sequence[tuple[float, int, str]] = (), alpha: float = 0.05
) -> Figure:
    """sigma x bins as heat maps: the value with half its interval's width, the difference to the reference.

    Parameters
    ----------
    points : DataFrame
        Rows of :func:`grid_points`.
    metric : str
    marked : sequence of (sigma, bins, name)
        Points that are outlined and named in the legend.
    alpha : float
        A dot marks a difference whose Holm-corrected p is below.
    """
    known = points[points["value"].notna()]
    if known.empty:
        return style.page("No grid", "No point of the grid of sigma and bins was measured.")
    sigmas, bins = sorted(set(points["sigma"])), sorted(set(points["bins"]))
    compared = points["difference"].notna().any()
    name = formatting.METRICS[metric][0]
    panels = 2 if compared else 1
    figure = style.new_figure(max(7.0, panels * (1.5 + 0.62 * len(bins))), 2.0 + 0.47 * len(sigmas))
    drawn = figure.subplots(1, panels, squeeze=False)[0]
    more = formatting.METRICS[metric][2]
    ramp = mcolors.LinearSegmentedColormap.from_list(
        "value", ["white", style.BLUE] if more else [style.BLUE, "white"]
    )
    two = mcolors.LinearSegmentedColormap.from_list(
        "difference", [style.ORANGE, "white", style.BLUE] if more else [style.BLUE, "white", style.ORANGE]
    )
    low, high = known["value"].min(), known["value"].max()
    largest = float(points["difference"].abs().max()) or 1.0
    pad = 0.5 if high == low else 0.0
    shown = [(drawn[0], "value", ramp, (low - pad, high + pad), formatting.label(metric))]
    if compared:
        reference = style.shared_value(points["reference"].dropna(), "its reference")
        title = f"{formatting.label(metric)} minus {reference}"
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
            image,
            ax=axes,
            shrink=0.85,
            format=mticker.FuncFormatter(lambda value, _: formatting.short(value)),
        )
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row in formatting.each(points):
            place = (bins.index(row.bins), sigmas.index(row.sigma))
            value = getattr(row, column)
            if not np.isfinite(value):
                axes.add_patch(
                    mpatches.Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, color="#eee", lw=0, zorder=0)
                )
                text = row.absent if column == "value" else "–"
                axes.text(*place, text, ha="center", va="center", fontsize=6.5, color="#777")
                continue
            red, green, blue, _ = colours((value - bottom) / (top - bottom))
            ink = palette.ink("#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue)))
            main = formatting.short(value) if column == "value" else formatting.signed(value)
            axes.text(place[0], place[1] - 0.1, main, ha="center", va="center", fontsize=8.5, color=ink)
            small = "●" if column == "difference" and row.p_holm < alpha else ""
            if column == "value" and np.isfinite(row.high - row.low):
                small = f"±{formatting.short((row.high - row.low) / 2)}"
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
        handles.append(
            mlines.Line2D(
                [], [], ls="", marker="o", color="black", ms=4, label=f"p (Holm) < {formatting.short(alpha)}"
            )
        )
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=3, alignment="left")
    slides, cells = int(known["slides"].max()), int(known["cells"].max())
    note = f"± half the width of the 95 % interval (bootstrap over {slides:,} slides, {cells:,} cells)."
    style.set_headline(figure, _spread(known, name, more, alpha), note)
    return figure


def grid_points(
    metrics: pd.DataFrame,
    points: Mapping[str, tuple[float, int]],
    metric: str,
    comparisons: pd.DataFrame | None = None,
    failed: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """The points of a grid, one row each.

    Parameters
    ----------
    metrics : DataFrame
        The METRICS table.
    points : mapping of experiment to (sigma, bins)
    metric : str
    comparisons : DataFrame, optional
        The COMPARISONS table.
    failed : mapping of experiment to text, optional
        Of :func:`myostage.evaluation.formatting.failures`.

    Returns
    -------
    DataFrame
        ``experiment``, ``sigma``, ``bins``, ``value``, ``low``, ``high``, ``slides``, ``cells``, ``absent``
        (what to say where there is no value), ``reference``, ``difference``, ``difference_low``,
        ``difference_high``, ``p_holm``, ``pairs``; missing where not measured or not compared.
    """
    at = formatting.by_experiment(metrics, metric)
    none = formatting.Measured(np.nan, np.nan, np.nan, 0, 0)
    out = pd.DataFrame(
        {"experiment": label, "sigma": float(sigma), "bins": int(bins), **vars(at.get(label, none))}
        for label, (sigma, bins) in points.items()
    )
    if out.empty:
        out = pd.DataFrame(columns=["experiment", "sigma", "bins", *vars(none)])
    out["absent"] = ["failed" if label in (failed or {}) else "none" for label in out["experiment"]]
    names = ["reference", "difference", "difference_low", "difference_high", "p_holm", "pairs"]
    if comparisons is None:
        return out.assign(**dict.fromkeys(names, np.nan))
    rows = formatting.differences(comparisons, metric, out["experiment"])
    rows = rows.rename(columns={"low": "difference_low", "high": "difference_high"})
    return out.join(rows[names])


def _on_grid(
    marked: Sequence[tuple[float, int, str]], sigmas: Sequence[float], bins: Sequence[int]
) -> list[tuple[float, int, str]]:
    return [(sigma, number, name) for sigma, number, name in marked if sigma in sigmas and number in bins]


def _spread(known: pd.DataFrame, name: str, more: bool, alpha: float) -> str:
    """How far the grid spreads against the width of an interval, and where it is best."""
    low, high = known["value"].min(), known["value"].max()
    best = next(formatting.each(known.sort_values("value", ascending=not more, kind="stable")))
    width = float((known["high"] - known["low"]).median())
    text = f"Over {len(known)} points of sigma and b, {name} spreads by {formatting.short(high - low)}"
    text += f" ({formatting.short(low)} to {formatting.short(high)})"
    if np.isfinite(width):
        than = "less" if high - low < width else "more"
        text += f", {than} than the typical width of an interval, {formatting.short(width)}"
    text += f"; best at sigma {style.plain(best.sigma)}, b {best.bins}"
    compared = known[known["p_holm"].notna()]
    if len(compared):
        apart = int((compared["p_holm"] < alpha).sum())
        reference = style.shared_value(compared["reference"], "their reference")
        level = formatting.short(alpha)
        text += f"; {apart or 'none'} of {len(compared)} differ from {reference} (Holm p < {level})"
    return text
