"""Which cells are injured, and which a model of slide labels attends to, with and without Sm."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.evaluation.numbers import format_number
from myostage.figures.lazy import (
    matplotlib,
    mcm,
    mcollections,
    mcolors,
    mpatches,
    pd,
    style,
    summaries,
    tables,
    views,
)
from myostage.figures.record import Drawn, Record, Request, Scope
from myostage.study.run import ATTENTION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Attention is drawn on this scale by its rank, so that slides and models compare.
RAMP = "viridis"
MAP_HEIGHT = 4.5  # of a map at most, in


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.attended:
        return {}
    slides, features = scope.plan.drawn_slides(), scope.plan.study.features
    places = "cells.parquet" if scope.plan.imaged else "positions.parquet"
    files = {
        "cells": scope.of_slides(places, slides),
        "labels": scope.of_slides("labels.parquet", slides),
        "attention": scope.plan.by_experiment(ATTENTION, scope.attended),
    }
    parameters = {
        "healthy": scope.plan.healthy,
        "outlined": bool(scope.plan.imaged),
        "mpp": scope.plan.study.tiling.mpp,
        "unit": "sides of a tile" if features and features.dataset else "µm",
    }
    return {"attention_maps": Request(files, parameters)}


FIGURE = Record(
    theme="slide_labels",
    category="Labels of slides",
    caption=(
        "Injured cells of held-out slides and the attention of models that learnt from labels of "
        "slides alone, as rank within the slide. AUROC: how often an injured cell is attended to more than "
        "a healthy one."
    ),
    requests=requests,
)


def make(
    cells: Mapping[str, str],
    labels: Mapping[str, str],
    attention: Mapping[str, Sequence[str]],
    healthy: Sequence[int],
    outlined: bool = True,
    mpp: float = 0.5,
    unit: str = "µm",
) -> Drawn:
    """Cells have outlines at ``mpp`` um/px where ``outlined``; ``unit`` is that of their coordinates."""
    from myostage.cells.outlines import outlines
    from myostage.cells.tables import CELLS, POSITIONS

    rows = views.attended(cells, labels, attention, healthy, CELLS if outlined else POSITIONS)
    polygons = {}
    for slide, path in cells.items() if outlined else ():
        column = tables.read_arrow(path, CELLS, ["polygon"])["polygon"]
        polygons[slide] = [points * mpp for points in outlines(column)]
    return Drawn(draw(rows, polygons, unit), rows)


def draw(cells: pd.DataFrame, polygons: Mapping[str, Sequence[np.ndarray]], unit: str = "µm") -> Figure:
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
        return style.page(
            "No attention maps", "No run of these experiments that ended well holds one of these slides out."
        )
    slides, experiments = (list(dict.fromkeys(cells[name])) for name in ("slide", "experiment"))
    panel = float(np.clip(11.0 / (1 + len(experiments)), 2.4, 3.6))
    extents = {slide: _extent(cells, slide, polygons) for slide in slides}
    heights = [min(panel * extents[slide][2], MAP_HEIGHT) for slide in slides]
    figure = style.new_figure(panel * (1 + len(experiments)) + 0.9, 1.5 + sum(heights) + 0.35 * len(slides))
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
            _cells(axes, part, polygons.get(slide, ()), summaries.rank_percentiles(logit))
            auroc = _auroc(injured, logit)
            found[name].append(auroc)
            text = (
                f"{name}: AUROC {format_number(auroc)}" if np.isfinite(auroc) else f"{name}: AUROC undefined"
            )
            if not np.isfinite(logit).any():
                text = f"{name}: held out by no run"
            axes.set_title("\n".join(textwrap.wrap(text, letters)), fontsize=8)
        _length(row[0], *extents[slide][:2], unit)
    bar = figure.colorbar(
        mcm.ScalarMappable(mcolors.Normalize(0, 1), ramp), ax=grid, aspect=12 * len(slides), pad=0.02
    )
    bar.set_ticks([0, 0.5, 1], labels=["least", "half", "most"])
    bar.set_label("attention (rank in the slide)")
    bar.outline.set(visible=False)  # type: ignore[operator]
    handles = [
        mpatches.Patch(color=ramp(value), label=name) for value, name in ((0.0, "healthy"), (1.0, "injured"))
    ]
    style.set_legend(
        figure, [*handles, mpatches.Patch(color=palette.MISSING, label="not known, or no attention")]
    )
    runs = int(cells["runs"].max())
    note = (
        f"Attention: mean logit over the runs that hold a slide out (up to {runs}); AUROC: of it, over cells."
    )
    style.set_headline(figure, _localised(found), note)
    return figure


def _auroc(injured: Floats, logit: Floats) -> float:
    from myostage.evaluation.weighted import auroc

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
    colours[~np.isfinite(values)] = mcolors.to_rgba(palette.MISSING)
    shapes = [number for number, polygon in enumerate(polygons) if len(polygon) > 2]
    if shapes:
        drawn, colours = [polygons[number] for number in shapes], colours[shapes]
    else:
        drawn = list(_squares(cells[["x_um", "y_um"]].to_numpy(dtype=float)))
    axes.add_collection(
        mcollections.PolyCollection(
            drawn, facecolors=colours, lw=0, antialiased=bool(shapes), rasterized=True
        )
    )
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.invert_yaxis()
    style.bare(axes)


def _squares(places: Floats) -> Floats:
    """A square round every place, as wide as places typically lie apart: tiles fill the slide, [n, 4, 2]."""
    from scipy.spatial import cKDTree

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
