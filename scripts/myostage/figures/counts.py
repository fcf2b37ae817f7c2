"""What became of the cells of every slide: segmented, cut by an edge, dropped as background, kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.figures.lazy import mlines, mpatches, mticker, pd, style, tables, views
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.imaged:
        return {}
    files = {
        **scope.tables("slides"),
        "cells": scope.of_slides("cells.parquet", scope.plan.imaged),
        "crops": scope.of_slides("crops.parquet", scope.plan.slides),
    }
    return {"counts": Request(files)}


FIGURE = Record(
    theme="cells",
    category="Cells",
    caption="Cells of every slide: kept, dropped as background, and cut by an edge.",
    requests=requests,
)


def make(slides: str, cells: Mapping[str, str], crops: Mapping[str, str]) -> Drawn:
    from myostage.slides.tables import SLIDES

    table = views.counts(tables.read(slides, SLIDES), cells, crops)
    return Drawn(draw(table), table)


def draw(table: pd.DataFrame) -> Figure:
    """What became of the cells of every slide.

    Parameters
    ----------
    table : DataFrame
        ``slide``, ``status``, ``reason``, ``cells`` (segmented), ``border``, ``crops`` (kept), ``dropped``
        (crops of background), one row per slide.
    """
    count = len(table)
    figure = style.new_figure(7.5, 1.6 + 0.21 * count)
    axes = figure.subplots()
    place = np.arange(count)
    kept, border = palette.series_colours(1)[0], "black"
    axes.barh(place, table["crops"], color=kept, height=0.75)
    axes.barh(place, table["dropped"], left=table["crops"], color=palette.MISSING, height=0.75)
    axes.plot(table["border"], place, "|", color=border, ms=8, mew=1.6, ls="")
    for row, (status, reason) in enumerate(zip(table["status"], table["reason"], strict=True)):
        if status != "ok":
            axes.text(
                0, row, f" skipped: {reason}", va="center", fontsize=7.5, color=palette.series_colours(2)[1]
            )
    axes.set_yticks(place, table["slide"])
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlabel("cells")
    axes.xaxis.set_major_locator(mticker.MaxNLocator(integer=True))
    figure.legend(
        handles=[
            mpatches.Patch(color=kept, label="kept"),
            mpatches.Patch(color=palette.MISSING, label="dropped: background"),
            mlines.Line2D([], [], ls="", marker="|", color=border, ms=8, mew=1.6, label="cut by an edge"),
        ],
        loc="outside lower center",
        ncols=3,
    )
    total, dropped = int(table["cells"].sum()), int(table["dropped"].sum())
    skipped = int((table["status"] != "ok").sum())
    finding = f"{total:,} cells on {count - skipped} slides"
    if total:
        finding += f", {100 * dropped / total:.1f} % dropped as background"
    if skipped:
        finding += f"; {skipped} slide{'s' if skipped > 1 else ''} skipped"
    style.set_headline(figure, finding)
    return figure
