"""Crops of each predicted stage: those that the model is most and least certain of."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from myostage import palette
from myostage.figures.lazy import pd, style, views
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def requests(scope: Scope) -> dict[str, Request]:
    if not scope.plan.staging or scope.plan.study.input == "features":
        return {}
    files = {
        "predictions": scope.of_slides("stages.parquet", scope.plan.slides),
        "crops": scope.of_slides("crops.parquet", scope.plan.slides),
        "labels": scope.of_slides("labels.parquet", scope.plan.labelled),
    }
    return {"gallery": Request(files, {"per_stage": scope.plan.study.look.gallery, **scope.by_stage})}


FIGURE = Record(
    theme="stages",
    category="Stages",
    caption="Crops per predicted stage: the most certain, then the least certain.",
    requests=requests,
)


def make(
    predictions: Mapping[str, str],
    crops: Mapping[str, str],
    labels: Mapping[str, str],
    stages: Sequence[str],
    experiment: str,
    per_stage: int = 8,
) -> Drawn:
    from myostage.learning.predictions import read_stages

    staged = [read_stages(path, len(stages)) for path in predictions.values()]
    chosen = views.pick(staged, len(stages), per_stage)
    annotated = views.truth(labels, chosen)
    figure = draw(views.images(crops, chosen), chosen, annotated, stages, experiment, per_stage)
    return Drawn(figure, chosen.assign(annotated=annotated))


def draw(
    crops: np.ndarray,
    chosen: pd.DataFrame,
    annotated: np.ndarray | None,
    stages: Sequence[str],
    experiment: str,
    per_stage: int,
) -> Figure:
    """Per predicted stage the most and the least certain crops with their probability.

    Parameters
    ----------
    crops : uint8[n, h, w, 3]
    chosen : DataFrame
        Rows of :func:`myostage.figures.views.pick`, one per crop.
    annotated : int[n], optional
        Annotated stage, -1 for none: the frame of a crop has its colour.
    """
    most = (per_stage + 1) // 2
    count = len(stages)
    figure = style.new_figure(1.5 + 0.85 * per_stage, 0.9 + 1.03 * count)
    grid: Any = figure.subplots(count, per_stage, squeeze=False)
    colours = palette.stage_colours(count)
    for axes in grid.ravel():
        style.bare(axes)
    known = None if annotated is None or not (np.asarray(annotated) >= 0).any() else np.asarray(annotated)
    predicted, places = chosen["stage"].to_numpy(dtype=int), chosen["place"].to_numpy(dtype=int)
    for number, probability in enumerate(chosen["probability"].to_numpy(dtype=float)):
        axes = grid[predicted[number], places[number]]
        axes.imshow(crops[number], interpolation="nearest")
        axes.set_xlabel(f"{100 * probability:.0f} %", fontsize=7.5, labelpad=2)
        truth = -1 if known is None else int(known[number])
        for spine in axes.spines.values():
            spine.set_visible(True)
            spine.set_linewidth(2.4)
            spine.set_color(colours[truth] if truth >= 0 else palette.MISSING)
    for stage, colour, axes in zip(stages, colours, grid[:, 0], strict=True):
        axes.text(
            -0.18,
            0.5,
            "\n".join(textwrap.wrap(style.stage_name(stage), 10)),
            transform=axes.transAxes,
            ha="right",
            va="center",
            bbox={"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.3"},
            color=palette.ink(colour),
        )
    for number, axes in enumerate(grid[:, 0]):
        if not (predicted == number).any():
            axes.text(0.5, 0.5, "no cell", transform=axes.transAxes, ha="center", va="center")
    grid[0, 0].set_title("most certain")
    if per_stage > most:
        grid[0, most].set_title("least certain")
    note = "Below a crop: probability of the predicted stage (row)."
    if known is not None:
        note += " Frame: annotated stage; grey: none."
    kind = chosen["kind"].to_numpy()
    finding = f"{experiment}: crops it is most and least certain of"
    if known is not None:
        right = known == chosen["stage"].to_numpy()
        parts = []
        for wanted in ("most", "least"):
            rows = (kind == wanted) & (known >= 0)
            if rows.any():
                parts.append(f"{int(right[rows].sum())} of {int(rows.sum())} of its {wanted} certain")
        if parts:
            finding = f"{experiment} is right about {' and '.join(parts)} annotated crops"
    elif len(chosen):
        low = chosen.loc[chosen["kind"] == "least", "probability"]
        finding = f"{experiment}: the likeliest stage of a cell has a probability of"
        least = f" from {100 * low.min():.0f} %" if len(low) else ""
        finding += f"{least} up to {100 * chosen['probability'].max():.0f} %"
    style.set_headline(figure, finding, note)
    return figure
