"""One slide: its image, its predicted stages and, where annotated, its true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.figures.lazy import mcollections, mlines, mpatches, style, tables, views
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not (scope.plan.imaged and scope.plan.staging):
        return {}
    chosen = scope.plan.study.look.slides or [scope.plan.imaged[len(scope.plan.imaged) // 2]]
    return {f"map_{slide}": _of_slide(scope, slide) for slide in chosen}


def _of_slide(scope: Scope, slide: str) -> Request:
    files = {
        **scope.tables("slides"),
        "cells": scope.plan.paths.slide(slide, "cells.parquet"),
        "predictions": scope.plan.paths.slide(slide, "stages.parquet"),
        "labels": scope.plan.paths.slide(slide, "labels.parquet") if slide in scope.plan.labelled else "",
    }
    return Request(files, {"slide": slide, "mpp": scope.plan.study.tiling.mpp, **scope.by_stage})


FIGURE = Record(
    theme="stages",
    category="Stages",
    caption="One slide: H&E, predicted stages and, where annotated, true stages.",
    requests=requests,
)


def make(
    slides: str,
    cells: str,
    predictions: str,
    labels: str,
    slide: str,
    mpp: float,
    stages: Sequence[str],
    experiment: str,
) -> Drawn:
    """``mpp`` is the resolution of the outlines in um/px; ``labels`` is empty where no cell is annotated."""
    from myostage.cells.outlines import outlines
    from myostage.cells.tables import CELLS
    from myostage.slides.slide import open_slide
    from myostage.slides.tables import SLIDES

    table = views.staged_cells(cells, predictions, len(stages))
    column = tables.read_arrow(cells, CELLS, ["polygon"])["polygon"]
    polygons = [points * mpp for points in outlines(column)]
    table.insert(0, "slide", slide)
    table["annotated"] = views.truth({slide: labels} if labels else {}, table)
    found: Any = tables.read(slides, SLIDES).set_index("slide").loc[slide]
    if found["status"] == "ok":
        with open_slide(found["path"], float(found["mpp"])) as opened:
            image = opened.thumbnail(1600)
        width, height = (float(found[f"{side}_px"] * found["mpp"]) for side in ("width", "height"))
        section = image, width, height, polygons
        predicted, annotated = table["stage"].to_numpy(), table["annotated"].to_numpy()
        figure = draw(*section, predicted, annotated, stages, f"{slide}, {experiment}")
        overlay = draw_outlines(*section, table["border"].to_numpy(), slide)
    else:
        figure = overlay = style.page(f"{slide}: no map", f"The slide was skipped: {found['reason']}")
    return Drawn(figure, table, more_figures={"outlines": overlay})


def draw(
    image: np.ndarray,
    width_um: float,
    height_um: float,
    polygons: Sequence[np.ndarray],
    predicted: np.ndarray,
    annotated: np.ndarray | None,
    stages: Sequence[str],
    name: str,
) -> Figure:
    """A slide beside its predicted and, where known, its annotated stages.

    Parameters
    ----------
    image : uint8[h, w, 3]
        The slide at any size.
    width_um, height_um : float
        Size of the slide.
    polygons : n arrays float[points, 2]
        Outlines in um.
    predicted, annotated : int[n]
        Stage of each outline; -1 for none (drawn grey). ``annotated`` None: no such panel.
    name : str
        Slide (and experiment) as the title names it.
    """
    predicted = np.asarray(predicted)
    shown = annotated is not None and bool((np.asarray(annotated) >= 0).any())
    panels = 3 if shown else 2
    panel = float(np.clip(4.2 * width_um / height_um, 2.6, 5.5))
    figure = style.new_figure(panel * panels + 0.3, panel * height_um / width_um + 1.0)
    axes = figure.subplots(1, panels)
    colours = palette.stage_colours(len(stages))
    style.draw_section(axes[0], image, width_um, height_um, 0)
    axes[0].set_title("H&E")
    style.draw_section(axes[1], image, width_um, height_um, 0.7)
    _fill(axes[1], polygons, predicted, colours)
    axes[1].set_title("predicted stage")
    staged = predicted >= 0
    shares = np.bincount(predicted[staged], minlength=len(stages)) / max(1, int(staged.sum()))
    finding = f"{name}: no cell was staged"
    if staged.any():
        top = int(shares.argmax())
        finding = (
            f"{name}: {100 * shares[top]:.0f} % of {int(staged.sum()):,} cells are "
            f"{style.stage_name(stages[top])}"
        )
    if shown:
        annotated = np.asarray(annotated)
        style.draw_section(axes[2], image, width_um, height_um, 0.7)
        _fill(axes[2], polygons, annotated, colours)
        axes[2].set_title("annotated stage")
        both = staged & (annotated >= 0)
        if both.any():
            agree = float((predicted == annotated)[both].mean())
            finding += f"; {100 * agree:.0f} % of {int(both.sum()):,} annotated cells are staged correctly"
    for one in axes:
        style.draw_scale_bar(one, width_um, height_um)
    handles = [
        mpatches.Patch(color=colour, label=f"{style.stage_name(stage)} {100 * share:.0f} %")
        for stage, colour, share in zip(stages, colours, shares, strict=True)
    ]
    if not staged.all() or (shown and (np.asarray(annotated) < 0).any()):
        handles.append(mpatches.Patch(color=palette.MISSING, label="no stage"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    style.set_headline(figure, finding)
    return figure


def draw_outlines(
    image: np.ndarray,
    width_um: float,
    height_um: float,
    polygons: Sequence[np.ndarray],
    border: np.ndarray,
    name: str,
) -> Figure:
    """Outlines of the segmented cells on their slide; cells cut by an edge in another colour."""
    panel = float(np.clip(6.0 * width_um / height_um, 4.5, 9.0))
    figure = style.new_figure(panel, panel * height_um / width_um + 0.9)
    axes = figure.subplots()
    style.draw_section(axes, image, width_um, height_um, 0)
    border = np.asarray(border, dtype=bool)
    colours = np.where(border, palette.series_colours(2)[1], "black")
    keep = [number for number, polygon in enumerate(polygons) if len(polygon) > 2]
    rings = [np.concatenate([polygons[number], polygons[number][:1]]) for number in keep]
    axes.add_collection(
        mcollections.LineCollection(
            rings, colors=[str(colours[number]) for number in keep], linewidths=0.8, rasterized=True
        ),
        autolim=False,
    )
    style.draw_scale_bar(axes, width_um, height_um)
    figure.legend(
        handles=[
            mlines.Line2D([], [], color="black", label="cell"),
            mlines.Line2D(
                [], [], color=palette.series_colours(2)[1], label="cut by the edge of the slide or its tile"
            ),
        ],
        loc="outside lower center",
        ncols=2,
    )
    area = width_um * height_um / 1e6
    style.set_headline(
        figure, f"{name}: {len(polygons):,} cells on {area:.2g} mm², {int(border.sum()):,} cut by an edge"
    )
    return figure


def _fill(axes: Axes, polygons: Sequence[np.ndarray], stage: np.ndarray, colours: Sequence[str]) -> None:
    drawn = [number for number, polygon in enumerate(polygons) if len(polygon) > 2]
    face = [colours[stage[number]] if stage[number] >= 0 else palette.MISSING for number in drawn]
    edge = 0.35 if len(drawn) < 5000 else 0.0
    axes.add_collection(
        mcollections.PolyCollection(
            [polygons[number] for number in drawn],
            facecolors=face,
            edgecolors="white" if edge else "none",
            linewidths=edge,
            alpha=0.9,
            rasterized=True,
        ),
        autolim=False,
    )
