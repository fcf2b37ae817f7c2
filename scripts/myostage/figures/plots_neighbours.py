"""Figures of what uses a cell's neighbours and of ordinal regression: attention, its spectrum, its controls.

Tables in, a matplotlib Figure out, as in plots.py; nothing is read here. Where nothing paired is at hand,
intervals have to lie apart, which asks for more than a verdict.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from myostage import palette
from myostage.evaluation import formatting, selection, summaries
from myostage.evaluation.comparisons import find_side, state_rule
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_interval, format_number
from myostage.evaluation.resampling import Measured
from myostage.evaluation.weighted import auroc
from myostage.figures.plots import FAINT, bare, new_figure, page, set_headline, styled
from myostage.figures.plots_study import BLUE, DASHES, MARKERS, ORANGE, VERDICT_COLOURS, judge_row

Floats = NDArray[np.float64]

PLACEMENTS = ("early", "mid", "late")
# setting of Sm -> the axis of its panel
SETTINGS = {
    "alpha": "alpha (0: not smoothed)",
    "steps": "steps T",
    "spectral_norm": "spectral norm",
    "operator": "operator",
}
# Attention is drawn on this scale by its rank, so that slides and models compare.
RAMP = "viridis"
PANELS = 4  # side by side
MAP_HEIGHT = 4.5  # of a map at most, in


def difference_columns(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of :func:`selection.find_to_controls` as columns of a table, indexed by experiment."""
    text = formatting.tabulate_differences(rows)[["reference", "difference", "p (Holm)", "pairs"]]
    return text.rename(
        columns={"reference": "control", "difference": f"{METRICS[metric].title} minus control"}
    )


def _said(rows: Sequence[Any], alpha: float, reference: str) -> str:
    """How many differences of COMPARISONS are significant, and the largest of them; or that none is."""
    compared = [row for row in rows if np.isfinite(row.difference)]
    if not compared:
        return f"nothing was compared with {reference}"
    found = [row for row in compared if judge_row(row, row.metric, alpha) in VERDICT_COLOURS]
    largest = max(found or compared, key=lambda row: abs(row.difference))
    gap = METRICS[largest.metric].format_interval(largest.difference, largest.low, largest.high, sign=True)
    if len(compared) == 1:
        return f"{gap} against {reference}, {'significant' if found else 'not significant'}"
    if not found:
        return f"no significant difference to {reference} ({len(compared)} compared)"
    better = sum(judge_row(row, row.metric, alpha) == "better" for row in found)
    text = f"against {reference} {better or 'none'} of {len(compared)} better"
    text += f", {len(found) - better} worse" if better < len(found) else ""
    return f"{text}, most {largest.experiment}: {gap}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _legend(figure: Figure, handles: Sequence[Any], columns: int = 4) -> None:
    figure.legend(
        handles=handles, loc="outside lower left", ncols=min(columns, len(handles)), alignment="left"
    )


def _value(axes: Axes, x: float, y: float, low: float, high: float, upright: bool, **style: Any) -> None:
    """A point with its interval, which runs along y where ``upright`` and along x else."""
    if np.isfinite(low) and np.isfinite(high):
        line = axes.vlines if upright else axes.hlines
        line(x if upright else y, low, high, color=style["color"], lw=1.8)
    axes.plot(x, y, **{"marker": "o", "ms": 6, **style})


# The table of one part


@styled
def slide_metrics(
    rows: pd.DataFrame, metric: str, alpha: float = 0.05, failed: Mapping[str, str] | None = None
) -> Figure:
    """Metrics of experiments as points with 95 % intervals, coloured by the difference to their control.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.selection.tabulate_metrics`; at most four metrics are
        drawn, ``metric`` among them.
    metric : str
        What the title speaks of.
    alpha : float
        Level of the tests.
    failed : mapping of experiment to text, optional
        What stands in place of an experiment without a value.
    """
    measured = rows[rows["value"].notna()]
    if measured.empty:
        return page("No metrics", "No experiment of this part was measured on a held-out slide.")
    known = list(dict.fromkeys(measured["metric"]))
    spoken = metric if metric in known else known[0]
    panels = [spoken, *(name for name in known if name != spoken)][:PANELS]
    order = list(dict.fromkeys(rows["experiment"]))
    controls = set(rows["control"]) - {""}
    longest = max(len(name) for name in order)
    figure = new_figure(1.0 + 2.3 * max(2, len(panels)) + 0.07 * longest, 2.4 + 0.27 * len(order))
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, name in zip(drawn, panels, strict=True):
        record = METRICS[name]
        part = rows[rows["metric"] == name]
        for place, row in enumerate(selection.iterate_rows(part)):
            one = row.experiment
            if not np.isfinite(row.value):
                text = (failed or {}).get(one, "undefined")
                where = axes.get_yaxis_transform()
                axes.text(0.02, place, text, fontsize=7, color="#777", va="center", transform=where)
                continue
            colour = VERDICT_COLOURS.get(judge_row(row, name, alpha), FAINT)
            marker = "D" if one in controls else "o"
            face = colour if colour != FAINT else "white"
            style = {"color": colour, "mfc": face, "marker": marker}
            _value(axes, row.value, place, row.value_low, row.value_high, False, **style)
        axes.set_title("\n".join(textwrap.wrap(record.label, 26)))
        axes.set_xlabel(record.direction, fontsize=7.5, color=FAINT)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    drawn[0].set_yticks(range(len(order)), order)
    drawn[0].set_ylim(len(order) - 0.4, -0.6)
    _legend(
        figure,
        [
            Line2D([], [], color=BLUE, marker="o", label="better than its control"),
            Line2D([], [], color=ORANGE, marker="o", label="worse"),
            Line2D([], [], color=FAINT, marker="o", mfc="white", label="not significant, or not tested"),
            Line2D([], [], color=FAINT, marker="D", mfc="white", ls="", label="a control"),
        ],
        4 if len(panels) > 2 else 2,
    )
    part = rows[rows["metric"] == spoken]
    best = _best(part, spoken)
    record = METRICS[spoken]
    value = record.format_interval(best.value, best.value_low, best.value_high)
    only = next(iter(controls)) if len(controls) == 1 else "its control"
    finding = f"{_capital(record.title)}: best {best.experiment}, {value}"
    if controls:
        finding += f"; {_said(list(selection.iterate_rows(part)), alpha, only)}"
    note = (
        "Point and line: value and 95 % interval (bootstrap over slides). "
        f"{state_rule(alpha)} n: up to {int(measured['n_slides'].max()):,} slides and "
        f"{int(measured['n_cells'].max()):,} cells."
    )
    set_headline(figure, finding, note)
    return figure


def _best(rows: pd.DataFrame, metric: str) -> Any:
    """The first of the best values of a metric."""
    return next(
        selection.iterate_rows(
            rows.sort_values("value", ascending=not METRICS[metric].higher_is_better, kind="stable")
        )
    )


# Where Sm acts and how much


def _usual(values: pd.Series) -> Any:
    return Counter(values).most_common(1)[0][0]


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Numbers as they rise, then words as they come."""
    found = list(dict.fromkeys(values))
    numbers = sorted(value for value in found if not isinstance(value, str))
    return [*numbers, *(value for value in found if isinstance(value, str))]


def _setting(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "with" if value else "without"
    return str(value).replace("_", " ") if isinstance(value, str) else f"{value:g}"


@styled
def placement(rows: pd.DataFrame, metric: str, reference: str = "", alpha: float = 0.05) -> Figure:
    """A metric by where Sm acts, along each setting that was varied, over the value without Sm.

    A panel holds the points that differ from the most common setting in its own key alone.

    Parameters
    ----------
    rows : DataFrame
        Rows of :func:`myostage.evaluation.selection.tabulate_settings`.
    metric : str
    reference : str
        The experiment without Sm, drawn as a band.
    alpha : float
        Level of the tests; a point is filled where its difference to the reference is significant.
    """
    points = rows[rows["placement"].notna() & rows["value"].notna()]
    points = points.drop_duplicates(["placement", *SETTINGS])
    if points.empty:
        return page("No settings of Sm", "No experiment that smooths its attention was measured.")
    usual = {key: _usual(points[key]) for key in SETTINGS}
    of_panel = {
        key: points[
            np.all([points[other].eq(value) for other, value in usual.items() if other != key], axis=0)
        ]
        for key in SETTINGS
    }
    panels = [key for key, part in of_panel.items() if part[key].nunique() > 1] or ["alpha"]
    places = [name for name in PLACEMENTS if name in set(points["placement"])]
    values = {key: _in_order(of_panel[key][key]) for key in panels}
    counts = [len(values[key]) for key in panels]
    figure = new_figure(max(8.2, 1.3 + 0.7 * len(panels) + 0.62 * sum(counts)), 4.4)
    drawn = figure.subplots(
        1, len(panels), squeeze=False, sharey=True, width_ratios=[count + 0.5 for count in counts]
    )[0]
    base = rows[(rows["experiment"] == reference) & rows["value"].notna()]
    handles: list[Any] = []
    for axes, key in zip(drawn, panels, strict=True):
        for row in selection.iterate_rows(base):
            if np.isfinite(row.value_low) and np.isfinite(row.value_high):
                axes.axhspan(row.value_low, row.value_high, color="#e8e8e8", lw=0, zorder=0)
            axes.axhline(row.value, color=palette.BASELINE, lw=1.2, ls="--", zorder=1)
        for number, (name, colour) in enumerate(
            zip(places, palette.series_colours(len(places)), strict=True)
        ):
            part = of_panel[key][of_panel[key]["placement"] == name]
            at = np.array([values[key].index(value) for value in part[key]], dtype=float)
            at += 0.2 * (number - (len(places) - 1) / 2)
            order = np.argsort(at)
            # Words have no order to follow with a line.
            if not isinstance(values[key][0], str | bool):
                axes.plot(at[order], part["value"].to_numpy()[order], color=colour, lw=0.9, alpha=0.6)
            for x, row in zip(at, selection.iterate_rows(part), strict=True):
                style = {"color": colour, "marker": MARKERS[number]}
                style["mfc"] = colour if judge_row(row, metric, alpha) in VERDICT_COLOURS else "white"
                _value(axes, float(x), row.value, row.value_low, row.value_high, True, **style)
        axes.set_xticks(range(len(values[key])), [_setting(value) for value in values[key]])
        if key == "operator":
            axes.tick_params(axis="x", rotation=30)
        axes.set_xlim(-0.5, len(values[key]) - 0.5)
        axes.set_xlabel(SETTINGS[key])
        axes.grid(axis="y", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    drawn[0].set_ylabel(f"{METRICS[metric].label}\n({METRICS[metric].direction})")
    for number, (name, colour) in enumerate(zip(places, palette.series_colours(len(places)), strict=True)):
        handles.append(Line2D([], [], color=colour, marker=MARKERS[number], mfc="white", label=f"Sm {name}"))
    if len(base):
        handles.append(
            Line2D([], [], color=palette.BASELINE, ls="--", label=f"{reference}, without Sm; grey: interval")
        )
    _legend(figure, handles)
    fixed = ", ".join(f"{SETTINGS[key].split(' (')[0]} {_setting(usual[key])}" for key in usual)
    note = (
        f"Line: 95 % interval (bootstrap over {int(points['n_slides'].max()):,} slides). Filled: "
        f"significant difference to {reference or 'the reference'}. {state_rule(alpha)} Where not varied: "
        f"{fixed}."
    )
    shown = {name for key in panels for name in of_panel[key]["experiment"]}
    left = [name for name in points["experiment"] if name not in shown]
    if left:
        note += f" Not drawn, as more than one setting differs: {', '.join(left)}."
    set_headline(figure, _settings(points, metric, reference, alpha), note)
    return figure


def _settings(points: pd.DataFrame, metric: str, reference: str, alpha: float) -> str:
    """How far the settings spread against the width of an interval, the best, and what differs."""
    best = _best(points, metric)
    low, high = float(points["value"].min()), float(points["value"].max())
    record = METRICS[metric]
    value = record.format_interval(best.value, best.value_low, best.value_high)
    text = f"{_capital(record.title)}: best with Sm {best.experiment}, {value}"
    width = float((points["value_high"] - points["value_low"]).median())
    if len(points) > 1:
        text += f"; {len(points)} settings spread by {record.format(high - low)}"
        if np.isfinite(width):
            than = "less" if high - low < width else "more"
            text += f", {than} than the typical width of an interval, {record.format(width)}"
    if reference:
        text += f"; {_said(list(selection.iterate_rows(points)), alpha, reference)}"
    return text


# Attention on the slide


@styled
def attention_maps(
    cells: pd.DataFrame, polygons: Mapping[str, Sequence[np.ndarray]], unit: str = "µm"
) -> Figure:
    """Slides as rows: which cells are injured, then the attention of each experiment to them.

    Parameters
    ----------
    cells : DataFrame
        Rows of :func:`myostage.figures.views.attended`.
    polygons : mapping of slide to n arrays float[points, 2]
        Outlines in the unit of ``x_um`` and ``y_um``, in the order of the slide's cells; without any
        its cells are drawn as squares.
    unit : str
        Of the coordinates.
    """
    if cells["logit"].notna().sum() == 0:
        return page(
            "No attention maps", "No run of these experiments that ended well holds one of these slides out."
        )
    slides, experiments = (list(dict.fromkeys(cells[name])) for name in ("slide", "experiment"))
    panel = float(np.clip(11.0 / (1 + len(experiments)), 2.4, 3.6))
    extents = {slide: _extent(cells, slide, polygons) for slide in slides}
    heights = [min(panel * extents[slide][2], MAP_HEIGHT) for slide in slides]
    figure = new_figure(panel * (1 + len(experiments)) + 0.9, 1.5 + sum(heights) + 0.35 * len(slides))
    figure.set_layout_engine("compressed")  # maps have a shape of their own, which would leave gaps
    grid = figure.subplots(len(slides), 1 + len(experiments), squeeze=False, height_ratios=heights)
    ramp = matplotlib.colormaps[RAMP]
    found: dict[str, list[float]] = {name: [] for name in experiments}
    letters = int(panel * 13)
    for row, slide in zip(grid, slides, strict=True):
        of_slide = cells[cells["slide"] == slide]
        truth = of_slide[of_slide["experiment"] == experiments[0]]
        injured = truth["injured"].to_numpy(dtype=float)
        _cells(row[0], truth, polygons.get(slide, ()), injured)
        known = np.isfinite(injured)
        said = f"truth: {int(np.nansum(injured)):,} of {int(known.sum()):,} cells injured"
        row[0].set_title(said if known.any() else "truth is not known", fontsize=8)
        row[0].set_ylabel(slide)
        for axes, name in zip(row[1:], experiments, strict=True):
            part = of_slide[of_slide["experiment"] == name]
            logit = part["logit"].to_numpy(dtype=float)
            _cells(axes, part, polygons.get(slide, ()), summaries.percentile(logit))
            auroc = _auroc(injured, logit)
            found[name].append(auroc)
            text = (
                f"{name}: AUROC {format_number(auroc)}" if np.isfinite(auroc) else f"{name}: AUROC undefined"
            )
            if not np.isfinite(logit).any():
                text = f"{name}: held out by no run"
            axes.set_title("\n".join(textwrap.wrap(text, letters)), fontsize=8)
        _length(row[0], *extents[slide][:2], unit)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), ramp), ax=grid, aspect=12 * len(slides), pad=0.02)
    bar.set_ticks([0, 0.5, 1], labels=["least", "half", "most"])
    bar.set_label("attention (rank in the slide)")
    bar.outline.set(visible=False)  # type: ignore[operator]
    handles = [Patch(color=ramp(value), label=name) for value, name in ((0.0, "healthy"), (1.0, "injured"))]
    _legend(figure, [*handles, Patch(color=palette.MISSING, label="not known, or no attention")])
    runs = int(cells["runs"].max())
    note = (
        f"Attention: mean logit over the runs that hold a slide out (up to {runs}); AUROC: of it, over cells."
    )
    set_headline(figure, _localised(found), note)
    return figure


def _auroc(injured: Floats, logit: Floats) -> float:
    known = np.isfinite(injured) & np.isfinite(logit)
    return float(auroc(logit[known], injured[known] > 0, np.ones(known.sum())))


def _extent(
    cells: pd.DataFrame, slide: str, polygons: Mapping[str, Sequence[np.ndarray]]
) -> tuple[float, float, float]:
    """Left and right edge of a slide's cells, and their height over their width."""
    part = cells[cells["slide"] == slide]
    outlines = [one for one in polygons.get(slide, ()) if len(one)]
    places = np.concatenate(outlines) if outlines else part[["x_um", "y_um"]].to_numpy(dtype=float)
    low, high = places.min(axis=0), places.max(axis=0)
    width, height = np.maximum(high - low, 1e-9)
    return float(low[0]), float(high[0]), float(np.clip(height / width, 0.3, 3.0))


def _cells(axes: Axes, cells: pd.DataFrame, polygons: Sequence[np.ndarray], values: Floats) -> None:
    """Cells filled by ``values`` (0 to 1; grey where missing); squares where they have no outlines."""
    colours = matplotlib.colormaps[RAMP](np.nan_to_num(values))
    colours[~np.isfinite(values)] = matplotlib.colors.to_rgba(palette.MISSING)
    shapes = [number for number, polygon in enumerate(polygons) if len(polygon) > 2]
    if shapes:
        drawn, colours = [polygons[number] for number in shapes], colours[shapes]
    else:
        drawn = list(_squares(cells[["x_um", "y_um"]].to_numpy(dtype=float)))
    axes.add_collection(
        PolyCollection(drawn, facecolors=colours, lw=0, antialiased=bool(shapes), rasterized=True)
    )
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.invert_yaxis()
    bare(axes)


def _squares(places: Floats) -> Floats:
    """A square round every place, as wide as places typically lie apart: tiles fill the slide, [n, 4, 2]."""
    side = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1])) if len(places) > 1 else 1.0
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    return places[:, None] + (side or 1.0) * corners


def _length(axes: Axes, left: float, right: float, unit: str) -> None:
    """A bar of a round length below a map, about a quarter of its width."""
    target = max(right - left, 1e-9) / 4
    power = 10.0 ** np.floor(np.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target)
    where = axes.get_xaxis_transform()
    axes.plot([left, left + length], [-0.03, -0.03], color="black", lw=2, transform=where, clip_on=False)
    text = f"{length / 1000:g} mm" if unit == "µm" and length >= 1000 else f"{length:g} {unit}"
    axes.text(left + 1.15 * length, -0.03, text, fontsize=7.5, va="center", transform=where)


def _localised(found: Mapping[str, Sequence[float]]) -> str:
    """Mean instance AUROC of the slides drawn, and on how many of them the others are ahead of the first."""
    values = {name: np.array(aurocs) for name, aurocs in found.items()}
    first, *others = values
    both = {name: np.isfinite(values[name]) & np.isfinite(values[first]) for name in values}
    if not any(np.isfinite(one).any() for one in values.values()):
        return (
            "Attention to the cells; no slide drawn has both healthy and injured cells, so it is not judged"
        )
    count = int(np.any([np.isfinite(one) for one in values.values()], axis=0).sum())
    means = ", ".join(
        f"{name} {format_number(float(np.nanmean(one)))}"
        for name, one in values.items()
        if np.isfinite(one).any()
    )
    drawn = f"{count} slides drawn, mean" if count > 1 else "slide drawn"
    text = f"AUROC of the attention on the {drawn}: {means}"
    for name in others:
        ahead = int((values[name] > values[first])[both[name]].sum())
        text += f"; {name} is ahead of {first} on {ahead} of {int(both[name].sum())}"
    return f"{text} (examples: what is significant stands in the table)" if others else text


# Spectrum


@styled
def spectrum(table: pd.DataFrame) -> Figure:
    """Power of attention logits by frequency, raw against smoothed; low frequencies against localisation.

    Parameters
    ----------
    table : DataFrame
        The SPECTRUM table; experiments are drawn as they come.
    """
    if table["share"].notna().sum() == 0:
        return page("No spectrum", "No attention of a held-out slide was taken apart into frequencies.")
    bands, slides = summaries.spectrum_bands(table), summaries.spectrum_slides(table)
    experiments = list(dict.fromkeys(bands["experiment"]))
    colours = dict(zip(experiments, palette.series_colours(len(experiments)), strict=True))
    count = len(experiments) + 1
    columns = count if count <= PANELS else 3
    rows = -(-count // columns)
    figure = new_figure(max(6.8, 3.0 * columns), 1.6 + 2.6 * rows)
    drawn = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in drawn[count:]:
        axes.set_visible(False)
    top = 1.05 * float(np.nanmax(bands[["share", "share_high"]].to_numpy(dtype=float)))
    for axes, name in zip(drawn, experiments, strict=False):
        for signal, dash in (("raw", "--"), ("smoothed", "-")):
            part = bands[(bands["experiment"] == name) & (bands["signal"] == signal)]
            middle = (part["low"] + part["high"]) / 2
            axes.fill_between(
                middle, part["share_low"], part["share_high"], color=colours[name], alpha=0.16, lw=0
            )
            face = "white" if signal == "raw" else colours[name]
            axes.plot(middle, part["share"], color=colours[name], ls=dash, marker="o", ms=4, mfc=face, lw=1.4)
        axes.axvline(summaries.LOW_FREQUENCY, color=palette.BASELINE, lw=0.8, ls=":")
        axes.set_title("\n".join(textwrap.wrap(name, 34)))
        axes.set_xlabel("eigenvalue of the Laplacian")
        axes.set_xlim(0, 2)
        axes.set_ylim(0, top)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    for axes in drawn[: len(experiments) : columns]:
        axes.set_ylabel("share of the power of the logits")
    scatter = drawn[len(experiments)]
    raw = slides[slides["signal"] == "raw"]
    found = {}
    for number, (name, colour) in enumerate(colours.items()):
        part = raw[raw["experiment"] == name]
        marker = MARKERS[number % len(MARKERS)]
        scatter.plot(part["low_share"], part["instance_auroc"], marker, color=colour, ms=5, alpha=0.8, mew=0)
        found[name] = summaries.correlation(part["low_share"], part["instance_auroc"])
    scatter.axhline(0.5, color=palette.BASELINE, lw=0.8, ls=":")
    scatter.set_title("one point per slide, raw attention")
    scatter.set_xlabel(f"share of power below {summaries.LOW_FREQUENCY:g}")
    scatter.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
    scatter.xaxis.set_major_locator(MaxNLocator(4))
    scatter.set_ylabel("cell AUROC of the attention")
    _legend(
        figure,
        [
            Line2D([], [], color="black", ls="--", marker="o", mfc="white", ms=4, label="raw"),
            Line2D([], [], color="black", marker="o", ms=4, label="smoothed by Sm"),
            *(
                Line2D([], [], color=colour, ls="", marker=MARKERS[number % len(MARKERS)], label=name)
                for number, (name, colour) in enumerate(colours.items())
            ),
        ],
        3,
    )
    set_headline(figure, _frequencies(slides, found), _energies(slides))
    return figure


def _wide(slides: pd.DataFrame, experiment: str, column: str) -> pd.DataFrame:
    """A column of :func:`summaries.spectrum_slides` by slide (row) and signal (raw, smoothed)."""
    part = slides[slides["experiment"] == experiment]
    return part.pivot(index="slide", columns="signal", values=column).reindex(columns=["raw", "smoothed"])


def _frequencies(slides: pd.DataFrame, found: Mapping[str, Measured]) -> str:
    """What Sm does to the low frequencies, and whether slides with more of them are localised better."""
    parts = []
    for name in found:
        wide = _wide(slides, name, "low_share").dropna()
        if len(wide):
            gap, low, high = (
                100 * float(one) for one in summaries.mean_interval(wide["smoothed"] - wide["raw"])
            )
            text = f"{gap:+.0f} points" + (f" [{low:+.0f}, {high:+.0f}]" if np.isfinite(low) else "")
            means = " to ".join(f"{100 * share:.0f} %" for share in wide.mean())
            parts.append(
                f"Sm moves the share of power below eigenvalue {summaries.LOW_FREQUENCY:g} from {means} "
                f"({text}, {len(wide)} slides of {name})"
            )
            break
    known = {name: rho for name, rho in found.items() if np.isfinite(rho.value)}
    rhos = ", ".join(f"{name} {rho}" for name, rho in list(known.items())[:3])
    apart = [name for name, rho in known.items() if find_side(rho.low, rho.high)]
    if not known:
        parts.append("too few slides to relate it to cell AUROC")
    else:
        rhos += ", …" if len(known) > 3 else ""
        verdict = f"a relation for {', '.join(apart)}" if apart else "no interval on one side of 0"
        parts.append(f"low frequencies against cell AUROC: rho {rhos}, {verdict}")
    return _capital("; ".join(parts))


def _energies(slides: pd.DataFrame) -> str:
    """Mean Dirichlet energy before and after Sm."""
    text = []
    for name in dict.fromkeys(slides["experiment"]):
        means = [
            f"{signal} {format_number(float(value))}"
            for signal, value in _wide(slides, name, "energy").mean().items()
            if np.isfinite(value)
        ]
        text.append(f"{name} {', '.join(means)}")
    return (
        f"Line and band: mean and 95 % interval (bootstrap over slides); dotted: "
        f"{summaries.LOW_FREQUENCY:g}. Dirichlet energy per edge, mean over "
        f"slides: {'; '.join(text)}."
    )


# Borders of the injured region


def _ranges(bands: Iterable[Any]) -> list[str]:
    """Bands (border, low, high) in words; those that touch as one."""
    merged: list[list[Any]] = []
    for kind, low, high in sorted(bands, key=lambda band: (band[0] != "sharp", band[1])):
        if merged and merged[-1][0] == kind and merged[-1][2] == low:
            merged[-1][2] = high
        else:
            merged.append([kind, low, high])
    return [
        f"{_between(low, high)} µm" + ("" if kind == "all" else f" ({kind})") for kind, low, high in merged
    ]


def _between(low: float, high: float) -> str:
    """A range of distances, which may lack either end."""
    if np.isinf(low) and np.isinf(high):
        return "any"
    if np.isinf(low):
        return f"below {high:g}"
    return f"above {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


@styled
def borders(table: pd.DataFrame, without: str, experiments: Sequence[str]) -> Figure:
    """Share of cells told rightly by their distance to the border of the injured region, with and without Sm.

    Parameters
    ----------
    table : DataFrame
        The BORDERS table. Sharp and diffuse borders have a panel each; else all have one together.
    without : str
        The experiment without Sm.
    experiments : sequence of str
        Those with Sm.
    """
    order = [without, *(name for name in experiments if name != without)]
    rows = table[table["experiment"].isin(order) & table["correct"].notna()]
    kinds = [kind for kind in ("sharp", "diffuse") if kind in set(rows["border"])] or ["all"]
    rows = rows[rows["border"].isin(kinds)]
    if rows.empty:
        return page("No borders", "No held-out slide has an injured region with a border.")
    figure = new_figure(max(6.8, 1.0 + 3.7 * len(kinds)), 4.0)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    present = [name for name in order if name in set(rows["experiment"])]
    colours = dict(zip(order, (palette.CEILING, *palette.series_colours(len(order) - 1)), strict=True))
    for axes, kind in zip(panels, kinds, strict=True):
        part = rows[rows["border"] == kind].sort_values("low_um")
        for number, name in enumerate(present):
            one = part[part["experiment"] == name]
            middle = _middles(one)
            axes.fill_between(
                middle, one["correct_low"], one["correct_high"], color=colours[name], alpha=0.16, lw=0
            )
            style = {"ls": "--" if name == without else "-", "marker": MARKERS[number % len(MARKERS)]}
            axes.plot(middle, one["correct"], color=colours[name], lw=1.5, ms=5, **style)
        axes.axvline(0, color="black", lw=0.8)
        sizes = part.drop_duplicates(["low_um", "high_um"])
        count = f"up to {int(part['slides'].max())} slides, {int(sizes['cells'].sum()):,} cells"
        axes.set_title(f"{'sharp and diffuse' if kind == 'all' else kind} border: {count}")
        axes.set_xlabel("distance to the border (µm); below 0: inside the region")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
        axes.grid(axis="y", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("cells told rightly")
    _legend(
        figure,
        [
            Line2D(
                [],
                [],
                color=colours[name],
                ls="--" if name == without else "-",
                marker=MARKERS[number % len(MARKERS)],
                label=f"{name}, without Sm" if name == without else name,
            )
            for number, name in enumerate(present)
        ],
    )
    note = (
        "Marker and band: mean and 95 % interval (bootstrap over slides). Smoothing hurts (helps) where the "
        "interval with Sm lies wholly below (above) that without."
    )
    set_headline(figure, _where_it_hurts(rows, without, order[1:]), note)
    return figure


def _middles(rows: pd.DataFrame) -> Floats:
    """Where bands are drawn: their middle; one without end is taken as wide as its neighbour."""
    low, high = rows["low_um"].to_numpy(dtype=float), rows["high_um"].to_numpy(dtype=float)
    widths = (high - low)[np.isfinite(high - low)]
    width = float(np.median(widths)) if len(widths) else 1.0
    low = np.where(np.isinf(low), high - width, low)
    return (low + np.where(np.isinf(high), low + width, high)) / 2


def _where_it_hurts(rows: pd.DataFrame, without: str, experiments: Sequence[str]) -> str:
    keys = ["border", "low_um", "high_um"]
    plain = rows[rows["experiment"] == without]
    parts = []
    for name in experiments:
        both = plain.merge(rows[rows["experiment"] == name], on=keys, suffixes=("", "_with"))
        if both.empty:
            continue
        for verb, worse in (
            ("hurts", both["correct_high_with"] < both["correct_low"]),
            ("helps", both["correct_low_with"] > both["correct_high"]),
        ):
            found = _ranges(both.loc[worse, keys].itertuples(index=False))
            if found:
                where = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
                parts.append(f"{name} {verb} in {worse.sum()} of {len(both)} bands: {where}")
            elif verb == "hurts":
                parts.append(f"{name} hurts in no band")
    if not parts:
        return f"Cells told rightly by their distance to the border; {without} is compared with nothing"
    return f"Smoothing against {without}: {'; '.join(parts)}"


# Reconstruction control


@styled
def control(
    losses: pd.DataFrame,
    differences: Mapping[str, pd.DataFrame],
    alpha: float = 0.05,
) -> Figure:
    """Reconstruction loss with true and with permuted coordinates, and what the true ones are worth.

    Parameters
    ----------
    losses : DataFrame
        Rows of :func:`myostage.evaluation.summaries.reconstruction`.
    differences : mapping of metric to DataFrame
        Rows of :func:`myostage.evaluation.selection.find_to_controls` of the same experiments.
    alpha : float
        Level of the tests.
    """
    compared = {metric: rows for metric, rows in differences.items() if rows["difference"].notna().any()}
    if losses["loss"].isna().all() and not compared:
        return page("No control", "No run with spatial reconstruction and its control has ended well.")
    order = list(dict.fromkeys(losses["experiment"]))
    longest = max(len(name) for name in order)
    panels = 1 + len(compared)
    figure = new_figure(1.4 + 2.6 * max(2, panels) + 0.07 * longest, max(2.9, 1.9 + 0.36 * len(order)))
    drawn = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    for coordinates, colour, marker, shift in (("true", BLUE, "o", -0.13), ("permuted", ORANGE, "s", 0.13)):
        part = losses[losses["coordinates"] == coordinates]
        for place, row in enumerate(selection.iterate_rows(part)):
            if np.isfinite(row.loss):
                _value(
                    drawn[0], row.loss, place + shift, row.low, row.high, False, color=colour, marker=marker
                )
            else:
                drawn[0].text(
                    0.02,
                    place + shift,
                    f"{coordinates}: no run",
                    fontsize=7,
                    color="#777",
                    va="center",
                    transform=drawn[0].get_yaxis_transform(),
                )
    drawn[0].set_title("end of training")
    drawn[0].set_xlabel("reconstruction loss, 1 − cosine")
    for axes, (metric, rows) in zip(drawn[1:], compared.items(), strict=True):
        for place, row in enumerate(selection.iterate_rows(rows)):
            if not np.isfinite(row.difference):
                where = axes.get_yaxis_transform()
                axes.text(0.02, place, "not compared", fontsize=7, color="#777", va="center", transform=where)
                continue
            colour = VERDICT_COLOURS.get(judge_row(row, metric, alpha), FAINT)
            style = {"color": colour, "mfc": colour if colour != FAINT else "white"}
            _value(axes, row.difference, place, row.low, row.high, False, **style)
        axes.axvline(0, color="black", lw=0.8)
        axes.set_title(f"true minus permuted, {rows['slides'].max():.0f} slides")
        axes.set_xlabel(f"{METRICS[metric].label}, difference")
    for axes in drawn:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", color="#eee", lw=0.7)
        axes.set_axisbelow(True)
    runs = losses.groupby("experiment", sort=False)["runs"].min()
    drawn[0].set_yticks(range(len(order)), [f"{name} (n {runs[name]})" for name in order])
    drawn[0].set_ylim(len(order) - 0.4, -0.6)
    _legend(
        figure,
        [
            Line2D([], [], color=BLUE, marker="o", label="true coordinates; difference: better"),
            Line2D([], [], color=ORANGE, marker="s", label="permuted coordinates; difference: worse"),
            Line2D([], [], color=FAINT, marker="o", mfc="white", label="not significant, or not tested"),
        ],
        2 if panels < 3 else 3,
    )
    note = (
        "Loss: mean over the last tenth of steps, then over n runs, 95 % interval (bootstrap over runs). "
        f"Differences: paired bootstrap over slides. {state_rule(alpha)}"
    )
    set_headline(figure, _worth(losses, compared, alpha), note)
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
        said = _said(list(selection.iterate_rows(rows)), alpha, "permuted coordinates")
        parts.append(f"{METRICS[metric].title}: {said}")
    return _capital("; ".join(parts))


# Gradient conflict


@styled
def conflict(histories: pd.DataFrame) -> Figure:
    """Cosine of the gradients of SupCR and of the cell term over training.

    Parameters
    ----------
    histories : DataFrame
        Rows of :func:`myostage.figures.views.histories`.
    """
    curves, whole = summaries.conflict_curves(histories), summaries.conflicts(histories)
    if whole.empty:
        return page(
            "No gradient conflict",
            "No run learns with both supcr and cell and measured the angle between their gradients.",
        )
    figure = new_figure(7.4, 4.1)
    axes = figure.subplots()
    handles = []
    for number, (row, colour) in enumerate(
        zip(selection.iterate_rows(whole), palette.series_colours(len(whole)), strict=True)
    ):
        part = curves[curves["experiment"] == row.experiment]
        axes.fill_between(part["step"], part["low"], part["high"], color=colour, alpha=0.18, lw=0)
        dash = DASHES[number % len(DASHES)]
        axes.plot(part["step"], part["cosine"], color=colour, lw=1.6, ls=dash)
        mean = format_interval(row.cosine, row.low, row.high, sign=True)
        text = f"{row.experiment}: {mean}, below 0 at {100 * row.below:.0f} % of steps, n {row.runs}"
        handles.append(Line2D([], [], color=colour, ls=dash, label=text))
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel("step")
    axes.set_ylabel("cosine of the two gradients\n(below 0: they oppose)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#eee", lw=0.7)
    axes.set_axisbelow(True)
    _legend(figure, handles, 1)
    note = (
        f"Line: mean over runs, smoothed over 1/{summaries.SMOOTHING} of the measured steps; band: 95 % "
        "interval (bootstrap over runs). Numbers: mean over all measured steps, then over n runs."
    )
    set_headline(figure, _opposed(whole), note)
    return figure


def _opposed(whole: pd.DataFrame) -> str:
    parts = []
    for row in selection.iterate_rows(whole):
        share = f"below 0 at {100 * row.below:.0f} % of steps"
        mean = f"mean cosine {format_interval(row.cosine, row.low, row.high, sign=True)}"
        if side := find_side(row.low, row.high):
            verdict = "they pull together" if side > 0 else "they oppose each other"
        else:
            verdict = "the interval holds 0" if np.isfinite(row.low) else "one run tells nothing of others"
        parts.append(f"{row.experiment}: {verdict} ({mean}, {share})")
    return f"Gradients of SupCR and the cell term: {'; '.join(parts[:3])}{'; …' if len(parts) > 3 else ''}"


# Latent algebra


@styled
def algebra(table: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Whether z_W + z_P of a held-out slide lies near its own z_I, per slide and as a rank against chance.

    Parameters
    ----------
    table : DataFrame
        The ALGEBRA table.
    summary : DataFrame
        Rows of :func:`myostage.evaluation.algebra.summary` of it.
    """
    if table.empty:
        return page(
            "No latent algebra",
            "No run holds out a healthy slide and at least two injured ones, or none has an embedding.",
        )
    points = summaries.algebra_points(table)
    experiments = summary["experiment"].tolist()
    colours = palette.series_colours(len(experiments))
    longest = max(len(name) for name in experiments)
    figure = new_figure(7.6 + 0.06 * longest, max(4.2, 2.2 + 0.3 * len(experiments)))
    left, right = figure.subplots(1, 2, width_ratios=(0.85, 1))
    for number, (name, colour) in enumerate(zip(experiments, colours, strict=True)):
        part = points[points["experiment"] == name]
        marker = MARKERS[number % len(MARKERS)]
        left.plot(part["others"], part["own"], marker, color=colour, ms=5, alpha=0.8, mew=0)
    low = float(points[["own", "others"]].min().min())
    ends = [low - 0.03 * (1 - low) - 1e-3, 1 + 0.03 * (1 - low) + 1e-3]
    left.plot(ends, ends, color=palette.BASELINE, lw=1, ls="--", zorder=0)
    left.set_xlim(*ends)
    left.set_ylim(*ends)
    left.set_aspect("equal")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(4))
    left.set_title("one point per slide, marked as right")
    left.set_xlabel("cosine with z_I of other slides (mean)")
    left.set_ylabel("cosine with z_I of its own slide")
    for place, (row, colour) in enumerate(zip(selection.iterate_rows(summary), colours, strict=True)):
        right.plot(
            [row.reciprocal_rank_chance] * 2, [place - 0.35, place + 0.35], color=palette.BASELINE, lw=2
        )
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[place % len(MARKERS)]}
        whole = (row.reciprocal_rank, place - 0.12, row.reciprocal_rank_low, row.reciprocal_rank_high)
        alone = (row.reciprocal_rank_p, place + 0.12, row.reciprocal_rank_p_low, row.reciprocal_rank_p_high)
        _value(right, *whole, False, **style)
        _value(right, *alone, False, **style, mfc="white")
    right.set_yticks(
        range(len(experiments)),
        [f"{row.experiment} (n {row.slides})" for row in selection.iterate_rows(summary)],
    )
    right.set_ylim(len(experiments) - 0.4, -0.6)
    right.set_xlim(0, 1.03)
    right.set_title("rank of the own slide")
    right.set_xlabel("mean reciprocal rank (1: always nearest)")
    _legend(
        figure,
        [
            Line2D([], [], color=palette.BASELINE, ls="--", label="own = others"),
            Line2D([], [], color=palette.BASELINE, lw=2, label="a random order (chance)"),
            Line2D([], [], color="black", marker="o", label="by z_W + z_P"),
            Line2D([], [], color="black", marker="o", mfc="white", label="by z_P alone"),
        ],
    )
    note = (
        "z_W + z_P of a slide against z_I of the slides that its run holds out, mean over seeds; n slides. "
        "Line: 95 % interval (bootstrap over slides)."
    )
    set_headline(figure, _predicts(summary), note)
    return figure


def _predicts(summary: pd.DataFrame) -> str:
    parts = []
    for row in selection.iterate_rows(summary):
        rank = format_interval(row.reciprocal_rank, row.reciprocal_rank_low, row.reciprocal_rank_high)
        side = find_side(row.reciprocal_rank_low, row.reciprocal_rank_high, row.reciprocal_rank_chance)
        verdict = ("the interval holds chance", "beyond chance", "worse than chance")[side]
        chance, alone = format_number(row.reciprocal_rank_chance), format_number(row.reciprocal_rank_p)
        numbers = f"reciprocal rank {rank}, chance {chance}, z_P alone {alone}"
        parts.append((verdict, f"{row.experiment} {verdict} ({numbers})"))
    # What differs from chance comes first.
    parts.sort(key=lambda one: one[0] == "the interval holds chance")
    beyond = sum(verdict == "beyond chance" for verdict, _ in parts)
    text = f"z_W + z_P predicts z_I of its own slide beyond chance in {beyond or 'none'} of {len(parts)}"
    return f"{text}: {'; '.join(said for _, said in parts[:2])}{'; …' if len(parts) > 2 else ''}"
