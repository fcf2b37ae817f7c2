"""Where an experiment gains over the reference, and where it costs, over the points of drawn worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.evaluation.metrics.registry import METRICS
from myostage.figures.lazy import (
    mcolors,
    mlines,
    mpatches,
    mticker,
    pd,
    regimes,
    schemas,
    selection,
    style,
    tables,
    verdicts,
)
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Panels beside each other, and their size, inches.
ACROSS, WIDTH, HEIGHT = 3, 3.5, 2.9
HATCH = "////"


def requests(scope: Scope) -> dict[str, Request]:
    worlds = scope.plan.worlds
    if worlds is None:
        return {}
    structure, compare = worlds.structure, scope.plan.study.compare
    files = {"comparisons": scope.plan.paths.study("worlds_comparisons.parquet")}
    asked = [label for label in structure["main"] if label not in structure["untested"]]
    asked = [label for label in asked if label != structure["reference"]]
    shown = structure["ordinal"].get("with", next(iter(asked), ""))
    shared = {"metric": compare.metric, "alpha": compare.alpha}
    maps = worlds.drawn_maps
    found = {
        f"regimes_{name}": Request(files, {"maps": {name: listed}, **shared}) for name, listed in maps.items()
    }
    if shown and shown != structure["reference"]:
        found = {"regimes": Request(files, {"maps": maps, "shown": shown, **shared}), **found}
    return found


FIGURE = Record(
    theme="worlds",
    category="Worlds",
    caption=(
        "Difference to the reference over the points of maps of drawn worlds, paired by world: where it "
        "gains, where it costs, hatched or hollow where it is not significant."
    ),
    requests=requests,
)


def make(
    comparisons: str, maps: Mapping[str, Mapping[str, Any]], metric: str, alpha: float, shown: str = ""
) -> Drawn:
    """``shown``: the experiment of an overview of all maps; without, every experiment over the one map."""
    table = tables.read(comparisons, schemas.WORLDS_COMPARISONS)
    parts = {name: regimes.select_map(table, name, listed, metric, alpha) for name, listed in maps.items()}
    numbers = pd.concat(parts.values(), ignore_index=True)
    if shown:
        numbers = numbers[numbers["experiment"] == shown]
        return Drawn(draw_overview(parts, maps, metric, alpha, shown), numbers)
    (name,) = maps
    return Drawn(draw_methods(parts[name], name, maps[name], metric, alpha), numbers)


def draw_overview(
    parts: Mapping[str, pd.DataFrame],
    maps: Mapping[str, Mapping[str, Any]],
    metric: str,
    alpha: float,
    shown: str,
) -> Figure:
    """Every map for one experiment: a heat map of two keys, a line of one."""
    reference = next(iter(parts.values()))["reference"].iloc[0]
    own = {name: rows[rows["experiment"] == shown] for name, rows in parts.items()}
    figure, grid = _panels(len(maps))
    reach = _reach(list(own.values()))
    for axes, (name, listed) in zip(grid, maps.items(), strict=False):
        if len(listed["keys"]) == 2:
            _draw_heat(axes, own[name], listed, metric, reach)
        else:
            _draw_effects(axes, own[name], listed, metric, [shown])
            axes.set_ylim(-1.15 * reach, 1.15 * reach)
        axes.set_title(name.replace("_", " "))
    together = pd.concat(own.values())
    _explain(figure)
    style.set_headline(
        figure, _finding(own, shown, reference, metric), _note(together, reference, metric, alpha)
    )
    return figure


def draw_methods(
    rows: pd.DataFrame, name: str, listed: Mapping[str, Any], metric: str, alpha: float
) -> Figure:
    """One map for every experiment: heat maps of two keys; of one, effects and the values of all methods."""
    reference = rows["reference"].iloc[0]
    tested = regimes.list_tested(rows)
    shown = rows[rows["experiment"].isin(tested)]
    if not tested:
        return style.page(name, f"No experiment is tested against {reference}.")
    if len(listed["keys"]) == 2:
        figure, grid = _panels(len(tested))
        reach = _reach([shown])
        for axes, experiment in zip(grid, tested, strict=False):
            _draw_heat(axes, shown[shown["experiment"] == experiment], listed, metric, reach)
            axes.set_title(experiment)
        _explain(figure)
    else:
        figure = style.new_figure(2 * 4.6, 4.2)
        left, right = figure.subplots(1, 2)
        _draw_effects(left, shown, listed, metric, tested)
        left.set_title(f"difference to {reference}")
        methods = list(dict.fromkeys(rows["experiment"]))
        _draw_values(right, rows, listed, metric, methods, tested)
        right.set_title("all methods")
        _explain(figure, _lines(methods, tested))
    counts = {experiment: shown[shown["experiment"] == experiment] for experiment in tested}
    said = [f"{experiment} {_count(part)}" for experiment, part in counts.items()]
    style.set_headline(
        figure,
        f"{name.replace('_', ' ')}: against {reference}, {'; '.join(said)}",
        _note(shown, reference, metric, alpha),
    )
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    across = min(ACROSS, count)
    down = -(-count // across)
    figure = style.new_figure(max(WIDTH * across, 6.5), HEIGHT * down + 1.3)
    grid = np.asarray(figure.subplots(down, across, squeeze=False)).ravel().tolist()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid


def _reach(parts: Sequence[pd.DataFrame]) -> float:
    """The largest difference, or end of an interval within three times it."""
    together = pd.concat(parts)
    largest = together["difference"].abs().max()
    ends = together[["low", "high"]].abs().max(axis=1).clip(upper=3 * largest).max()
    return float(np.nanmax([largest, ends, 1e-9])) if len(together) else 1.0


def _draw_heat(axes: Axes, rows: pd.DataFrame, listed: Mapping[str, Any], metric: str, reach: float) -> None:
    """Differences over two keys, blue where they gain, hatched where they are not significant."""
    across, down = regimes.list_values(listed)
    colours = mcolors.LinearSegmentedColormap.from_list("gain", [style.ORANGE, "white", style.BLUE])
    square = np.full((len(down), len(across)), np.nan)
    square[rows["y"], rows["x"]] = rows["gain"]
    axes.imshow(square, cmap=colours, vmin=-reach, vmax=reach, aspect="auto", origin="lower")
    for row in selection.iterate_rows(rows):
        corner, significant = (row.x - 0.5, row.y - 0.5), row.verdict in style.VERDICT_COLOURS
        square_of_point = mpatches.Rectangle(
            corner,
            1,
            1,
            fill=not np.isfinite(row.gain),
            fc="#eee",
            ec="#b5b5b5",
            lw=0,
            hatch=None if significant else HATCH,
        )
        axes.add_patch(square_of_point)
        shade = colours((row.gain / reach + 1) / 2) if np.isfinite(row.gain) else (0.93, 0.93, 0.93, 1)
        ink = palette.ink("#" + "".join(f"{round(255 * part):02x}" for part in shade[:3]))
        box = {"fc": shade, "ec": "none", "pad": 1.2}
        text = METRICS[metric].format(row.difference, sign=True)
        half = (row.high - row.low) / 2
        axes.text(row.x, row.y + 0.13, text, ha="center", va="center", fontsize=8.5, color=ink, bbox=box)
        if np.isfinite(half):
            text = f"±{METRICS[metric].format(half)}"
            axes.text(row.x, row.y - 0.2, text, ha="center", va="center", fontsize=6.5, color=ink, bbox=box)
    axes.set_xticks(range(len(across)), [regimes.show(value) for value in across])
    axes.set_yticks(range(len(down)), [regimes.show(value) for value in down])
    axes.set_xlabel(regimes.name_key(listed["keys"][0]))
    axes.set_ylabel(regimes.name_key(listed["keys"][1]))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_effects(
    axes: Axes, rows: pd.DataFrame, listed: Mapping[str, Any], metric: str, experiments: Sequence[str]
) -> None:
    """Differences over one key with their intervals, hollow where they are not significant.

    Of one experiment points have the colour of their verdict, of several each has its own.
    """
    axes.axhline(0, color="#999", lw=0.8, zorder=0)
    for number, (experiment, colour) in enumerate(
        zip(experiments, palette.series_colours(len(experiments)), strict=True)
    ):
        part = rows[rows["experiment"] == experiment].sort_values("x")
        # beside each other, so that intervals do not hide one another
        place = part["x"] + (number - (len(experiments) - 1) / 2) * 0.5 / max(len(experiments), 4)
        line = palette.MISSING if len(experiments) == 1 else colour
        axes.plot(place, part["difference"], color=line, lw=1, ls=style.DASHES[number // 6 % 3], zorder=2)
        for x, row in zip(place, selection.iterate_rows(part), strict=True):
            significant = row.verdict in style.VERDICT_COLOURS
            if len(experiments) == 1:
                colour = style.VERDICT_COLOURS.get(row.verdict, style.FAINT)
            filled = colour if significant else "white"
            style.plot_interval(
                axes, x, row.difference, row.low, row.high, True, color=colour, mfc=filled, mec=colour,
                marker=style.MARKERS[number % len(style.MARKERS)], ms=5, zorder=3,
            )  # fmt: skip
    _label(axes, listed, metric)
    axes.set_ylabel(f"difference in {METRICS[metric].label}")


def _draw_values(
    axes: Axes,
    rows: pd.DataFrame,
    listed: Mapping[str, Any],
    metric: str,
    methods: Sequence[str],
    tested: Sequence[str],
) -> None:
    """What every method reaches over one key, with its interval."""
    for experiment, colour, marker, dash in _marks(methods, tested):
        part = rows[rows["experiment"] == experiment].sort_values("x")
        axes.fill_between(part["x"], part["value_low"], part["value_high"], color=colour, alpha=0.13, lw=0)
        axes.plot(part["x"], part["value"], color=colour, marker=marker, ls=dash, lw=1.4, ms=4.5)
    _label(axes, listed, metric)
    axes.set_ylabel(f"{METRICS[metric].label}, {METRICS[metric].direction}")


def _marks(methods: Sequence[str], tested: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Colour, marker and dash of every method; those that are not tested are grey."""
    colours = dict(zip(tested, palette.series_colours(len(tested)), strict=True))
    others = [method for method in methods if method not in colours]
    found = []
    for method in methods:
        own = tested if method in colours else others
        number = list(own).index(method)
        found.append(
            (
                method,
                colours.get(method, "#444"),
                style.MARKERS[number % len(style.MARKERS)],
                style.DASHES[number // 6 % 3] if method in colours else style.DASHES[(number + 1) % 3],
            )
        )
    return found


def _lines(methods: Sequence[str], tested: Sequence[str]) -> list[Any]:
    return [
        mlines.Line2D([], [], color=colour, marker=marker, ls=dash, lw=1.4, ms=4.5, label=method)
        for method, colour, marker, dash in _marks(methods, tested)
    ]


def _label(axes: Axes, listed: Mapping[str, Any], metric: str) -> None:
    """Ticks of the first key; places are even, whatever the values."""
    values = regimes.list_values(listed)
    if not values:
        axes.set_xticks([])
    else:
        axes.set_xticks(range(len(values[0])), [regimes.show(value) for value in values[0]])
        axes.set_xlabel(regimes.name_key(listed["keys"][0]))
    axes.set_xlim(-0.5, max(len(values[0]) if values else 1, 1) - 0.5)
    axes.yaxis.set_major_formatter(mticker.FuncFormatter(lambda value, _: METRICS[metric].format(value)))
    axes.grid(axis="y", color="#eee", lw=0.7)
    axes.set_axisbelow(True)


def _explain(figure: Figure, lines: Sequence[Any] = ()) -> None:
    """The legend: what colours of heat maps mean, or ``lines`` of methods, and what is not significant."""
    filled = [
        mpatches.Patch(fc=style.BLUE, label="gains"),
        mpatches.Patch(fc=style.ORANGE, label="costs"),
        mpatches.Patch(fc="white", ec="#999", hatch=HATCH, lw=0, label="hatched: not significant"),
    ]
    hollow = mlines.Line2D(
        [], [], ls="", marker="o", color="black", mfc="white", ms=5, label="hollow: not significant"
    )
    style.set_legend(figure, [*(lines or filled), hollow], 4)


def _note(rows: pd.DataFrame, reference: str, metric: str, alpha: float) -> str:
    worlds = sorted(set(rows.loc[rows["tests"] > 0, "worlds"]))
    count = f"{worlds[0]}" if len(worlds) == 1 else f"{worlds[0]} to {worlds[-1]}" if worlds else "no"
    return (
        f"Experiment minus {reference} in {METRICS[metric].label} on animals held out, paired by world, "
        f"{count} independent worlds a point; line, or ±: 95 % t interval over worlds. Holm's correction "
        f"takes all points and experiments of a map together. {verdicts.state_rule(alpha)}"
    )


def _count(rows: pd.DataFrame) -> str:
    gains, costs = (int((rows["verdict"] == verdict).sum()) for verdict in (regimes.GAINS, regimes.COSTS))
    return f"gains at {gains or 'none'}, costs at {costs or 'none'} of {len(rows)}"


def _finding(own: Mapping[str, pd.DataFrame], shown: str, reference: str, metric: str) -> str:
    rows = pd.concat(own.values()).drop_duplicates("point")
    return f"{shown} against {reference} in {METRICS[metric].title}: {_count(rows)} points"
