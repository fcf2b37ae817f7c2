"""Figures that compare experiments: differences, the grid, confusions, recovery, robustness, cost.

Tables in, a matplotlib Figure out, as in :mod:`myostage.figures.plots`; nothing is read here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from myostage import palette
from myostage.evaluation import cost as costs
from myostage.evaluation import selection, summaries
from myostage.evaluation.comparisons import Verdict, judge, state_rule
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_amount, format_number, format_p, format_setting
from myostage.evaluation.resampling import Measured
from myostage.figures.plots import FAINT, bare, new_figure, page, set_headline, stage_name, styled

BLUE, ORANGE = palette.series_colours(2)
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")
# A cost is drawn on a log axis where its largest is this many times its smallest.
LOG_RANGE = 20

Groups = Sequence[tuple[str, Sequence[str]]]


VERDICT_COLOURS: dict[Verdict, str] = {"better": BLUE, "worse": ORANGE}


def judge_row(row: Any, metric: str, alpha: float) -> Verdict:
    """The verdict on a row of COMPARISONS."""
    return judge(metric, row.low, row.high, row.p_holm, alpha)


@styled
def forest(
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
        return page("No differences", f"No experiment of this figure was compared with another by {name}.")
    references = {at[one].reference for _, one in lines if one in at}
    single = next(iter(references)) if len(references) == 1 else None

    figure = new_figure(8.6, 1.5 + 0.23 * len(lines))
    axes, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.0, 1.35))
    bare(right)
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
                0, place, (failed or {}).get(one, "not compared"), va="center", fontsize=8, color="#777"
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
        colour = VERDICT_COLOURS.get(judge_row(row, metric, alpha), FAINT)
        if np.isfinite(row.low) and np.isfinite(row.high):
            axes.hlines(place, row.low, row.high, color=colour, lw=1.8)
        axes.plot(row.difference, place, "o", color=colour, ms=6, mfc=colour if colour != FAINT else "white")
        text = METRICS[metric].format_interval(row.difference, row.low, row.high, sign=True)
        right.text(0, place, text, va="center", fontsize=8)
        right.text(0.62, place, f"{row.pairs:.0f}", va="center", ha="right", fontsize=8)
        right.text(1, place, format_p(row.p_holm), va="center", ha="right", fontsize=8)
    for x, align, title in (
        (0, "left", "difference [95 %]"),
        (0.62, "right", "pairs"),
        (1, "right", "p (Holm)"),
    ):
        right.text(x, -1, title, va="center", ha=align, fontsize=7.5, color=FAINT)
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
    axes.xaxis.set_major_locator(MaxNLocator(7))
    figure.legend(
        handles=[
            Line2D([], [], color=BLUE, marker="o", label="better"),
            Line2D([], [], color=ORANGE, marker="o", label="worse"),
            Line2D([], [], color=FAINT, marker="o", mfc="white", label="not significant, or not tested"),
            Patch(color="#e8e8e8", label="below the minimum detectable effect, uncorrected"),
        ],
        loc="outside lower left",
        ncols=4,
        alignment="left",
    )
    shown = [at[one] for _, one in lines if one in at]
    set_headline(
        figure,
        _changes(shown, metric, single, alpha),
        f"Point and line: difference and 95 % interval (paired bootstrap over slides). {state_rule(alpha)}",
    )
    return figure


def _changes(rows: Sequence[Any], metric: str, reference: str | None, alpha: float) -> str:
    """Which of the compared experiments differ significantly, and the minimum detectable effect."""
    found = sorted(
        (row for row in rows if judge_row(row, metric, alpha) in VERDICT_COLOURS),
        key=lambda row: -abs(row.difference),
    )
    record = METRICS[metric]
    count = len(rows)
    text = f"{'None' if not found else len(found)} of {count} differ{'' if count > 1 else 's'} significantly "
    text += f"from {reference or 'what they are compared with'} in {record.title}"
    if found:
        parts = [f"{row.experiment} {record.format(row.difference, sign=True)}" for row in found[:3]]
        text += f": {', '.join(parts)}{', …' if len(found) > 3 else ''}"
    detectable = np.array([row.minimum_detectable for row in rows], dtype=float)
    if np.isfinite(detectable).any():
        smallest = record.format(float(np.nanmedian(detectable)))
        text += f"; minimum detectable effect, uncorrected, {smallest} (median)"
    return text


@styled
def grid(
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
            judge(metric, row.difference_low, row.difference_high, row.p_holm, alpha)
            for row in selection.iterate_rows(points)
        ]
    )
    known = points[points["value"].notna()]
    if known.empty:
        return page("No grid", "No point of the grid of sigma and bins was measured.")
    sigmas, bins = sorted(set(points["sigma"])), sorted(set(points["bins"]))
    compared = points["difference"].notna().any()
    record = METRICS[metric]
    panels = 2 if compared else 1
    figure = new_figure(max(7.0, panels * (1.5 + 0.62 * len(bins))), 2.0 + 0.47 * len(sigmas))
    drawn = figure.subplots(1, panels, squeeze=False)[0]
    more = record.higher_is_better
    ramp = LinearSegmentedColormap.from_list("value", ["white", BLUE] if more else [BLUE, "white"])
    two = LinearSegmentedColormap.from_list(
        "difference", [ORANGE, "white", BLUE] if more else [BLUE, "white", ORANGE]
    )
    low, high = known["value"].min(), known["value"].max()
    largest = float(points["difference"].abs().max()) or 1.0
    pad = 0.5 if high == low else 0.0
    shown = [(drawn[0], "value", ramp, (low - pad, high + pad), record.label)]
    if compared:
        title = f"{record.label} minus {_only(points['reference'].dropna(), 'its reference')}"
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
            image, ax=axes, shrink=0.85, format=FuncFormatter(lambda value, _: record.format(value))
        )
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row in selection.iterate_rows(points):
            place = (bins.index(row.bins), sigmas.index(row.sigma))
            value = getattr(row, column)
            if not np.isfinite(value):
                axes.add_patch(
                    Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, color="#eee", lw=0, zorder=0)
                )
                text = row.absent if column == "value" else "–"
                axes.text(*place, text, ha="center", va="center", fontsize=6.5, color="#777")
                continue
            red, green, blue, _ = colours((value - bottom) / (top - bottom))
            ink = palette.ink("#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue)))
            main = record.format(value, sign=column == "difference")
            axes.text(place[0], place[1] - 0.1, main, ha="center", va="center", fontsize=8.5, color=ink)
            small = "●" if column == "difference" and row.verdict in VERDICT_COLOURS else ""
            if column == "value" and np.isfinite(row.high - row.low):
                small = f"±{record.format((row.high - row.low) / 2)}"
            axes.text(place[0], place[1] + 0.27, small, ha="center", va="center", fontsize=6.5, color=ink)
        for (sigma, number, _), dash in zip(
            _on_grid(marked, sigmas, bins), DASHES * len(marked), strict=False
        ):
            corner = (bins.index(number) - 0.47, sigmas.index(sigma) - 0.47)
            axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, ec="black", lw=2, ls=dash, zorder=4))
    drawn[0].set_ylabel("sigma (similarity, 0 to 1)")
    handles: list[Any] = [
        Patch(fc="none", ec="black", lw=1.6, ls=dash, label=f"{what}: sigma {sigma:g}, b {number}")
        for (sigma, number, what), dash in zip(
            _on_grid(marked, sigmas, bins), DASHES * len(marked), strict=False
        )
    ]
    if compared:
        handles.append(Line2D([], [], ls="", marker="o", color="black", ms=4, label="significant"))
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=3, alignment="left")
    slides, cells = int(known["slides"].max()), int(known["cells"].max())
    note = f"± half the width of the 95 % interval (bootstrap over {slides:,} slides, {cells:,} cells)."
    if compared:
        note += f" {state_rule(alpha)}"
    set_headline(figure, _spread(known, metric), note)
    return figure


def _only(values: pd.Series, otherwise: str) -> str:
    """The one value there is."""
    found = set(values)
    return str(found.pop()) if len(found) == 1 else otherwise


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
        apart = int(compared["verdict"].isin(list(VERDICT_COLOURS)).sum())
        reference = _only(compared["reference"], "their reference")
        text += f"; {apart or 'none'} of {len(compared)} differ significantly from {reference}"
    return text


@styled
def confusions(matrices: Mapping[str, np.ndarray], stages: Sequence[str]) -> Figure:
    """Confusion matrices side by side, each with its share of errors that are one stage off.

    Parameters
    ----------
    matrices : mapping of experiment to float[K, K]
        Cells (mean over seeds) by annotated (row) and predicted stage; an experiment without any is named.
    stages : sequence of str
    """
    errors = {name: summaries.Errors.of(matrix) for name, matrix in matrices.items()}
    if not any(one.cells for one in errors.values()):
        return page(
            "No confusion matrices", "No held-out cell of these experiments carries an annotated stage."
        )
    count = len(stages)
    # Rows of up to four, as even as may be.
    rows = -(-len(matrices) // 4)
    columns = -(-len(matrices) // rows)
    side = 0.62 * count
    figure = new_figure(max(6.5, 1.4 + columns * (side + 0.35)), 1.7 + rows * (side + 0.75))
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    names = [stage_name(stage) for stage in stages]
    for axes in panels.ravel()[len(matrices) :]:
        axes.set_visible(False)
    for (name, matrix), axes in zip(matrices.items(), panels.ravel(), strict=False):
        axes.set_title(f"{name}\n{_one_off(errors[name])}", fontsize=8)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0)
        if not errors[name].cells:
            axes.imshow(np.zeros_like(matrix, dtype=float), cmap="Greys", vmin=0, vmax=1)
            continue
        sums = matrix.sum(axis=1, keepdims=True)
        shares = np.divide(matrix, sums, out=np.zeros_like(matrix, dtype=float), where=sums > 0)
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            if not sums[row, 0]:
                axes.text(column, row, "none", ha="center", va="center", fontsize=6, color="#777")
                continue
            ink = "white" if share > 0.5 else "black"
            axes.text(
                column, row - 0.13, f"{100 * share:.0f} %", ha="center", va="center", fontsize=7.5, color=ink
            )
            axes.text(
                column,
                row + 0.25,
                f"{matrix[row, column]:,.0f}",
                ha="center",
                va="center",
                fontsize=5.5,
                color=ink,
            )
        for number in range(count - 1):
            for corner in ((number + 0.5, number - 0.5), (number - 0.5, number + 0.5)):
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec=ORANGE, lw=1.1, zorder=3))
    for axes in panels.ravel():
        axes.set_xticks(range(count), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(count), names, fontsize=8)
    # The lowest panel of each column carries the stages, where the last row is not full too.
    for number in range(columns):
        lowest = max(row for row in range(rows) if row * columns + number < len(matrices))
        panels[lowest, number].tick_params(labelbottom=True)
        panels[lowest, number].set_xlabel("predicted stage")
    for axes in panels[:, 0]:
        axes.set_ylabel("annotated stage")
    figure.legend(
        handles=[Patch(fc="none", ec=ORANGE, label="one stage off")],
        loc="outside lower left",
        alignment="left",
    )
    set_headline(
        figure,
        _neighbours(errors),
        "Held-out cells, mean over seeds: share of the annotated stage, below it the cells. Counts carry no "
        "interval; those of the metrics made of them stand in the main table.",
    )
    return figure


def _one_off(errors: summaries.Errors) -> str:
    if not errors.cells:
        return "no annotated cell"
    if not errors.wrong:
        return f"no error among {errors.cells:,.0f} cells"
    of_errors, of_cells = 100 * errors.of_errors, 100 * errors.of_cells
    return f"one off: {of_errors:.0f} % of errors, {of_cells:.0f} % of {errors.cells:,.0f} cells"


def _neighbours(errors: Mapping[str, summaries.Errors]) -> str:
    """Share of errors and of cells one stage off; of many experiments those with most and least."""
    known = {name: one for name, one in errors.items() if one.wrong}
    if not known:
        return "No annotated cell is staged wrongly"
    named = list(known)
    if len(known) > 4:
        order = sorted(known, key=lambda name: known[name].of_errors, reverse=True)
        named = [order[0], order[-1]]
    parts = [
        f"{100 * known[name].of_errors:.0f} % of the errors of {name} "
        f"({100 * known[name].of_cells:.0f} % of its cells)"
        for name in named
    ]
    return f"One stage off: {', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"


@styled
def recovery(rows: pd.DataFrame) -> Figure:
    """Recovery score per group and against the truth, one point per slide.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.recovery.tabulate_recovery`.
    """
    if rows.empty:
        return page("No recovery scores", "No experiment of this figure staged a slide with a group.")
    experiments = list(dict.fromkeys(rows["experiment"]))
    groups = list(dict.fromkeys(rows["group"]))
    errors = {name: summaries.recovery_error(rows[rows["experiment"] == name]) for name in experiments}
    labelled = rows["true"].notna().any()
    figure = new_figure(9.0 if labelled else 6.5, 3.9 + 0.18 * (len(experiments) // 3))
    panels = figure.subplots(
        1, 2 if labelled else 1, squeeze=False, width_ratios=(1.35, 1) if labelled else None
    )[0]
    series: list[tuple[str, str, pd.DataFrame, str, str]] = [
        (name, colour, rows[rows["experiment"] == name], "predicted", marker)
        for name, colour, marker in zip(
            experiments, palette.series_colours(len(experiments)), MARKERS * len(experiments), strict=False
        )
    ]
    if labelled:
        # The truth of a slide is the same in every experiment.
        series.insert(0, ("true", "black", rows.drop_duplicates("slide"), "true", "_"))
    width = 0.7 / max(3, len(series))
    for number, (_, colour, part, column, marker) in enumerate(series):
        middle = (number - (len(series) - 1) / 2) * width
        for place, group in enumerate(groups):
            values = part.loc[(part["group"] == group) & part[column].notna(), column].to_numpy(dtype=float)
            if not len(values):
                continue
            x = place + middle
            panels[0].plot(np.full(len(values), x), values, ".", color=colour, ms=5, mew=0, alpha=0.55)
            mean, low, high = summaries.mean_interval(values)
            if np.isfinite(low):
                panels[0].vlines(x + 0.28 * width, low, high, color=colour, lw=1.5)
            panels[0].plot(x + 0.28 * width, mean, marker, color=colour, ms=9 if marker == "_" else 5, mew=2)
    count = rows.drop_duplicates("slide").groupby("group")["slide"].size()
    panels[0].set_xticks(range(len(groups)), [f"{group}\nn {count[group]}" for group in groups])
    panels[0].set_xlim(-0.6, len(groups) - 0.4)
    panels[0].set_xlabel("group (n slides)")
    panels[0].set_ylabel("recovery score (0 to 1)")
    panels[0].set_ylim(-0.03, 1.03)
    if labelled:
        panels[1].plot([0, 1], [0, 1], color=palette.BASELINE, lw=1, ls="--", zorder=0)
        for _, colour, part, column, marker in series[1:]:
            panels[1].plot(part["true"], part[column], marker, color=colour, ms=5, ls="", alpha=0.8)
        panels[1].set_xlabel("recovery score of the annotated stages")
        panels[1].set_ylabel("predicted recovery score")
        panels[1].set_aspect("equal")
        panels[1].set_xlim(-0.03, 1.03)
        panels[1].set_ylim(-0.03, 1.03)
    handles = [
        Line2D([], [], color=colour, marker=marker, ls="", label=_scored(name, errors.get(name)))
        for name, colour, _, _, marker in series
    ]
    if labelled:
        handles.append(Line2D([], [], color=palette.BASELINE, ls="--", label="predicted = true"))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, alignment="left")
    note = "Dot: one slide; marker and line: mean and 95 % interval (bootstrap over the slides of a group)."
    set_headline(figure, _recovered(rows, errors), note)
    return figure


def _scored(name: str, error: Measured | None) -> str:
    return f"{name}: MAE {error}, n {error.slides}" if error and error.slides else name


def _recovered(rows: pd.DataFrame, errors: Mapping[str, Measured]) -> str:
    """How far the recovery score is off, or how it runs where no truth is known."""
    known = {name: error for name, error in errors.items() if error.slides}
    if not known:
        first = next(iter(errors))
        means = rows[rows["experiment"] == first].groupby("group", sort=False)["predicted"].mean()
        low, high = str(means.idxmin()), str(means.idxmax())
        return (
            f"{first}: predicted recovery score from {format_number(means[low])} at {low} to "
            f"{format_number(means[high])} at {high}; no cell is annotated, so there is no truth beside it"
        )
    best = min(known, key=lambda name: known[name].value)
    error = known[best]
    gap = (
        rows[(rows["experiment"] == best) & rows["error"].notna()]
        .groupby("group", sort=False)["error"]
        .mean()
    )
    worst = str(gap.abs().idxmax())
    text = f"{best}: recovery score off by {error} (MAE, {error.slides} slides)"
    text += f", most at {worst} ({format_number(float(gap[worst]), sign=True)})"
    if len(known) > 1:
        last = max(known, key=lambda name: known[name].value)
        text = f"Best of {len(known)}, {text}; worst, {last}: {known[last]}"
    return text


@styled
def robustness(rows: pd.DataFrame, metric: str, alpha: float = 0.05) -> Figure:
    """A metric against how wrong the proportions are made, with intervals as bands.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.selection.tabulate_noise`.
    metric : str
    alpha : float
        Level of the tests.
    """
    known = rows[rows["value"].notna()]
    if known.empty:
        return page("No curve of wrong proportions", "No experiment with wrong proportions was measured.")
    methods = list(dict.fromkeys(known["method"]))
    figure = new_figure(6.8, 4.1)
    axes = figure.subplots()
    handles = []
    for method, colour, marker in zip(
        methods, palette.series_colours(len(methods)), MARKERS * len(methods), strict=False
    ):
        part = known[known["method"] == method]
        banded = part[part["low"].notna() & part["high"].notna()]
        axes.fill_between(banded["t"], banded["low"], banded["high"], color=colour, alpha=0.16, lw=0)
        axes.plot(part["t"], part["value"], marker=marker, color=colour, lw=1.6, ms=5)
        first = selection.find_first_harm(part, metric, alpha)
        if first is not None:
            axes.plot(first["t"], first["value"], "o", ms=13, mfc="none", mec=colour, mew=1.6)
        handles.append(Line2D([], [], color=colour, marker=marker, label=method))
    absent = rows[rows["value"].isna()]
    if known["difference"].notna().any():
        handles.append(
            Line2D(
                [],
                [],
                ls="",
                marker="o",
                ms=11,
                mfc="none",
                mec="black",
                label="significantly worse from here",
            )
        )
    axes.set_xticks(sorted(set(rows["t"])))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
    axes.set_xlabel("share t of the proportions that is random: (1 − t) given + t drawn")
    axes.set_ylabel(f"{METRICS[metric].label}, {METRICS[metric].direction}")
    axes.grid(axis="y", color="#eee", lw=0.7)
    axes.set_axisbelow(True)
    figure.legend(handles=handles, loc="outside lower left", ncols=3, alignment="left")
    slides, cells = int(known["slides"].max()), int(known["cells"].max())
    note = f"Band: 95 % interval (bootstrap over {slides:,} slides, {cells:,} cells)."
    if known["difference"].notna().any():
        note += f" Circle: first significant fall from t = 0. {state_rule(alpha)}"
    if len(absent):
        note += f" Without a value: {', '.join(absent['experiment'])}."
    set_headline(figure, _wrong_proportions(known, metric, alpha), note)
    return figure


def _wrong_proportions(known: pd.DataFrame, metric: str, alpha: float) -> str:
    """From which t on each method is hurt."""
    parts = []
    for method, part in known.groupby("method", sort=False):
        first = selection.find_first_harm(part, metric, alpha)
        if first is not None:
            later = part[part["t"] >= first["t"]]
            lasting = bool(selection.find_harm(later, metric, alpha).all())
            gap = METRICS[metric].format_interval(
                first["difference"], first["difference_low"], first["difference_high"], sign=True
            )
            t = f"t = {format_setting(first['t'])}"
            where = f"from {t} on" if lasting else f"first at {t}"
            parts.append(f"{method} {where} ({gap})")
        elif part["difference"].notna().any():
            parts.append(f"{method} not up to t = {format_setting(part['t'].max())}")
        else:
            parts.append(f"{method} is compared with nothing")
    return f"Wrong proportions hurt {METRICS[metric].title}: {'; '.join(parts)}"


@styled
def cost(runs: pd.DataFrame, experiments: Sequence[str]) -> Figure:
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
        return page("No costs", "No run of these experiments ended well and told what it cost.")
    failed = selection.describe_failures(runs)
    longest = max(len(name) for name in experiments)
    figure = new_figure(1.6 + 2.1 * len(panels) + 0.07 * longest, 1.5 + 0.28 * len(experiments))
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, name in zip(drawn, panels, strict=True):
        text, unit = costs.COSTS[name]
        positive = [found[one][name].low for one in experiments if found[one][name].low > 0]
        top = max(found[one][name].high for one in experiments if found[one][name].runs)
        for place, one in enumerate(experiments):
            spread = found[one][name]
            if not spread.runs:
                said = failed.get(one, "not told")
                axes.text(
                    0.02,
                    place,
                    said,
                    fontsize=7,
                    color="#777",
                    va="center",
                    transform=axes.get_yaxis_transform(),
                )
                continue
            axes.hlines(place, spread.low, spread.high, color=BLUE, lw=1.8)
            axes.plot(spread.median, place, "o", color=BLUE, ms=6)
        axes.set_xlabel(f"{text} ({unit})")
        if positive and top > LOG_RANGE * min(positive):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1,) if top > 1000 * min(positive) else (1, 3)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    names = [f"{one} (n {max(found[one][name].runs for name in panels)})" for one in experiments]
    drawn[0].set_yticks(range(len(names)), names)
    drawn[0].set_ylim(len(names) - 0.4, -0.6)
    set_headline(figure, _dearest(found), _cost_note(runs, experiments, panels))
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
        note += " Energy is not shown: the machine tells no joules."
    devices = part.loc[part["status"] == "ok", "device"].replace("", np.nan).dropna().value_counts(sort=False)
    if len(devices) > 1:
        counts = ", ".join(f"{device} ({count})" for device, count in devices.items())
        note += f" Runs on unlike devices: {counts}; their times do not compare."
    return note
