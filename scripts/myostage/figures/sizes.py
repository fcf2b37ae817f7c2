"""Minimal Feret diameter and cross-sectional area per group, stacked by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.figures.lazy import mlines, mpatches, mticker, pd, style, views
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not (scope.plan.imaged and scope.plan.staging):
        return {}
    files = {
        "cells": scope.of_slides("cells.parquet", scope.plan.imaged),
        "predictions": scope.of_slides("stages.parquet", scope.plan.imaged),
    }
    groups = {slide: scope.plan.slides[slide].group for slide in scope.plan.imaged}
    return {"sizes": Request(files, {"groups": groups, "stages": scope.stages})}


FIGURE = Record(
    theme="stages",
    category="Cells",
    caption="Cross-sectional area and minimal Feret diameter of the cells, on bins shared by all groups.",
    requests=requests,
)


def make(
    cells: Mapping[str, str], predictions: Mapping[str, str], groups: Mapping[str, str], stages: Sequence[str]
) -> Drawn:
    table = views.grouped_cells(cells, predictions, groups, len(stages))
    return Drawn(draw(table, list(dict.fromkeys(groups.values())), stages), views.summary(table))


def draw(cells: pd.DataFrame, groups: Sequence[str], stages: Sequence[str]) -> Figure:
    """Cross-sectional area and minimal Feret diameter per group, on shared bins, stacked by stage.

    Parameters
    ----------
    cells : DataFrame
        ``group``, ``stage`` (-1: none), ``area_um2``, ``min_feret_um``, ``border``. Cells cut by an edge
        are left out: their size is not theirs.
    """
    whole = cells[~cells["border"].astype(bool)]
    groups = [group for group in groups if (whole["group"] == group).any()]
    if not groups:
        return style.page("No sizes", "No slide holds a cell that is not cut by an edge.")
    panels = {"min_feret_um": "minimal Feret diameter (µm)", "area_um2": "cross-sectional area (µm²)"}
    figure = style.new_figure(7.5, 1.5 + 0.95 * len(groups))
    grid: Any = figure.subplots(len(groups), 2, squeeze=False, sharex="col")
    colours = [*palette.stage_colours(len(stages)), palette.MISSING]
    for column, (name, title) in enumerate(panels.items()):
        top = float(np.quantile(whole[name], 0.995))
        edges = np.linspace(0, top, 31)
        for axes, group in zip(grid[:, column], groups, strict=True):
            part = whole[whole["group"] == group]
            clipped = part[name].clip(upper=top)
            split = [clipped[part["stage"] == stage] for stage in [*range(len(stages)), -1]]
            share = [np.full(len(one), 1 / len(part)) for one in split]
            axes.hist(
                split, bins=edges, weights=share, stacked=True, color=colours, histtype="stepfilled", lw=0
            )
            axes.axvline(part[name].median(), color="black", lw=1.2)
            axes.set_xlim(0, top)
            axes.yaxis.set_major_locator(mticker.MaxNLocator(2))
            axes.yaxis.set_major_formatter(mticker.FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        highest = max(axes.get_ylim()[1] for axes in grid[:, column])
        for axes in grid[:, column]:
            axes.set_ylim(0, highest)
        grid[-1, column].set_xlabel(title)
    for axes, group in zip(grid[:, 1], groups, strict=True):
        text = f"{group or 'no group'}\nn = {(whole['group'] == group).sum():,}"
        axes.text(1.03, 0.5, text, transform=axes.transAxes, ha="left", va="center")
    figure.supylabel("share of cells", fontsize=9)
    handles: list[Any] = [
        mpatches.Patch(color=colour, label=style.stage_name(stage))
        for stage, colour in zip(stages, colours, strict=False)
    ]
    if (whole["stage"] < 0).any():
        handles.append(mpatches.Patch(color=palette.MISSING, label="no stage"))
    handles.append(mlines.Line2D([], [], color="black", lw=1.2, label="median"))
    figure.legend(handles=handles, loc="outside lower left", ncols=min(4, len(handles)), alignment="left")
    median = {group: float(whole.loc[whole["group"] == group, "min_feret_um"].median()) for group in groups}
    low, high = min(median, key=median.__getitem__), max(median, key=median.__getitem__)
    finding = f"Median minimal Feret diameter: {median[low]:.0f} µm"
    if len(groups) > 1:
        finding += f" at {low} to {median[high]:.0f} µm at {high}"
    cut = int(cells["border"].sum())
    note = f"{cut:,} cells cut by an edge are left out; the last bin holds all larger cells."
    style.set_headline(figure, finding, note)
    return figure
