"""A map of the cells that one run holds out: does the stage order the embedding, or the animal?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.figures.lazy import mlines, pd, style
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from myostage.evaluation.geometry import Purity


def requests(scope: Scope) -> dict[str, Request]:
    if not (
        scope.plan.experiments
        and scope.plan.labelled
        and scope.plan.shown
        and scope.plan.experiments[scope.plan.shown][0].network
    ):
        return {}
    files = {
        "predictions": scope.plan.paths.run(
            scope.plan.experiments[scope.plan.shown][0].id, "predictions.parquet"
        ),
        "labels": scope.of_slides("labels.parquet", scope.plan.labelled),
        **scope.tables("splits"),
    }
    return {"embedding": Request(files, scope.by_stage)}


FIGURE = Record(
    theme="embedding",
    category="First experiments",
    caption=(
        "Held-out cells of one run, placed by PCA and t-SNE of their embeddings, coloured by annotated "
        "stage and by animal. Shares of the 15 nearest cells are counted in the embedding itself, not "
        "on the map; who is near is kept there, how far is not."
    ),
    requests=requests,
)


def make(
    predictions: str,
    labels: Mapping[str, str],
    splits: str,
    stages: Sequence[str],
    experiment: str,
    cells: int = 1500,
) -> Drawn:
    """``predictions`` are those of one run; at most ``cells`` of them are drawn, evenly over stages."""
    from myostage.evaluation import geometry

    chosen, vectors = geometry.held_out_cells(predictions, labels, splits, len(stages), cells)
    places = geometry.plane(vectors)
    figure = draw(chosen, places, geometry.purities(vectors, chosen), stages, experiment)
    return Drawn(figure, chosen.assign(x=places[:, 0], y=places[:, 1]))


def draw(
    cells: pd.DataFrame,
    places: np.ndarray,
    purities: Mapping[str, Purity],
    stages: Sequence[str],
    experiment: str,
) -> Figure:
    """A 2-D map of held-out cells of one run, by annotated stage and by animal.

    Parameters
    ----------
    cells : DataFrame
        ``stage``, ``animal``, one row per cell.
    places : float[n, 2]
        Where they lie.
    purities : mapping
        As :func:`myostage.evaluation.geometry.purities` returns them, of the embedding itself.
    """
    from myostage.evaluation.geometry import LEAST_CELLS, NEIGHBOURS

    if len(cells) < LEAST_CELLS:
        return style.page(
            f"{experiment}: no map of the embedding",
            f"Of the cells that this run holds out, {len(cells)} have an annotated stage and an embedding; a "
            f"map needs {LEAST_CELLS}.",
        )
    figure = style.new_figure(9.0, 5.4)
    left, right = figure.subplots(1, 2)
    # Drawn in a random order: the last series would hide the others.
    order = np.random.default_rng(0).permutation(len(cells))
    stage = cells["stage"].to_numpy(dtype=np.int64)
    animal = cells["animal"].to_numpy(dtype=str)
    animals = sorted(set(animal))
    present = sorted(set(stage.tolist()))
    colours = np.array(palette.stage_colours(len(stages)))
    left.scatter(*places[order].T, s=9, color=colours[stage[order]], lw=0, rasterized=True)
    series = np.array(palette.series_colours(len(animals)))
    marker = {name: style.MARKERS[number // 6 % len(style.MARKERS)] for number, name in enumerate(animals)}
    number_of = {name: number for number, name in enumerate(animals)}
    for shape in dict.fromkeys(marker.values()):
        rows = order[[marker[name] == shape for name in animal[order]]]
        own = series[[number_of[name] for name in animal[rows]]]
        right.scatter(*places[rows].T, s=9, color=own, lw=0, marker=shape, rasterized=True)
    legends = (
        [(style.stage_name(stages[k]), "o", colours[k]) for k in present],
        [(name, marker[name], series[number]) for name, number in number_of.items()],
    )
    for axes, title, entries in zip((left, right), ("by annotated stage", "by animal"), legends, strict=True):
        style.bare(axes)
        axes.set_title(title)
        axes.legend(
            handles=[
                mlines.Line2D([], [], ls="", marker=shape, color=colour, ms=5, label=label)
                for label, shape, colour in entries
            ],
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=3,
            fontsize=7.5,
            columnspacing=1,
            handletextpad=0.2,
        )
    note = (
        f"{len(cells):,} held-out cells of one run, drawn evenly over stages; PCA and t-SNE. Shares are of "
        f"the {NEIGHBOURS} nearest cells in the embedding itself."
    )
    for name, other in (("stage", "animal"), ("animal", "stage")):
        within = purities[f"{name} within {other}"]
        if np.isfinite(within.excess):
            note += (
                f" Of those of its own {other}, {_percent(within.found)} share a cell's {name} "
                f"({_percent(within.chance)} by chance)."
            )
    style.set_headline(figure, _organised_by(purities, experiment), note)
    return figure


def _organised_by(purities: Mapping[str, Purity], experiment: str) -> str:
    """Whether stage or animal says more about who is near.

    An animal is of one day and a day has few stages, so each is looked at within the other where that can be.
    """
    stage, animal = purities["stage"], purities["animal"]
    text = (
        f"{experiment}: of the cells nearest to a cell {_percent(stage.found)} share its stage "
        f"({_percent(stage.chance)} by chance) and {_percent(animal.found)} its animal "
        f"({_percent(animal.chance)} by chance)"
    )
    within = purities["stage within animal"], purities["animal within stage"]
    for by_stage, by_animal, how in ((*within, ", each within the other"), (stage, animal, "")):
        if np.isfinite([by_stage.excess, by_animal.excess]).all():
            ahead = by_stage.excess > by_animal.excess
            first, second = ("stage", "the animal") if ahead else ("the animal", "stage")
            return f"{text}; {first} orders them more than {second} does{how}"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
