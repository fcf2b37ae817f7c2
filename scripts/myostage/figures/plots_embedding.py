"""Drawing code of the paper's first experiments and of the embedding, each with what it passes or fails.

As in :mod:`myostage.figures.plots`: tables in, a figure out, and titles that say what the numbers say.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from myostage import palette
from myostage.evaluation import checks, summaries
from myostage.evaluation.geometry import LEAST_CELLS, NEIGHBOURS, Purity
from myostage.evaluation.numbers import format_number
from myostage.figures.plots import (
    FAINT,
    bare,
    new_figure,
    page,
    set_headline,
    stage_name,
    styled,
)
from myostage.learning.stages import similarity

PARTS = ("attention", "mlp", "norm", "head")
LOSSES = {"simprop": "L_SimProp", "prop": "L_prop"}
# Below what float64 tells apart; keeps exact zeros on a logarithmic axis.
SMALLEST = 1e-13
# Of markers, so that six colours tell more than six animals apart.
MARKERS = "o^sDvP"
VERDICT = {True: ("PASS", "#00704f"), False: ("FAIL", "#b84a00"), None: ("NOT DECIDED", FAINT)}


def _set_verdict(figure: Figure, finding: str, check: checks.Check) -> None:
    """The finding as a title, the check below the figure; a legend outside would lie over it."""
    set_headline(figure, finding)
    text = "\n".join(textwrap.wrap(str(check), max(20, int(figure.get_figwidth() * 11.5))))
    colour = VERDICT[check.passed][1]
    figure.supxlabel(text, x=0.01, ha="left", fontsize=9, fontweight="bold", color=colour)


# Gradients


@styled
def gradients(table: pd.DataFrame) -> Figure:
    """Gradient norm of each part of the model by loss, and agreement with finite differences by parameter.

    Parameters
    ----------
    table : DataFrame
        The GRADIENTS table of one run.
    """
    names = list(dict.fromkeys(table["parameter"]))
    apart = table.assign(disagreement=checks.disagreement(table))
    figure = new_figure(9.5, max(3.6, 1.7 + 0.17 * len(names)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    colours = dict(zip(LOSSES, palette.series_colours(2), strict=True))
    worst = float(apart["disagreement"].max())
    norms = _part_norms(table)
    positive = [norm for norm in norms.values() if norm > 0] or [1.0]
    floor = 10 ** math.floor(math.log10(min(positive) / 3))
    width = 0.38
    for place, part in enumerate(PARTS):
        for number, loss in enumerate(LOSSES):
            norm = norms[part, loss]
            at = place + (number - 0.5) * width
            if norm > 0:
                left.bar(at, norm - floor, bottom=floor, width=width, color=colours[loss])
            left.text(at, max(norm, floor) * 1.12, f"{norm:.2g}", ha="center", fontsize=7.5)
    left.set_yscale("log")
    left.set_ylim(floor, max(positive) * 4)
    left.set_xticks(range(len(PARTS)), PARTS)
    left.tick_params(axis="x", length=0)
    left.set_ylabel("norm of the gradient")
    left.legend(
        handles=[Rectangle((0, 0), 1, 1, color=colours[loss], label=LOSSES[loss]) for loss in LOSSES],
        loc="upper right",
        ncols=2,
    )
    left.set_title("what each loss reaches at the start")
    place_of = {name: place for place, name in enumerate(names)}
    for loss, colour in colours.items():
        rows = apart[apart["loss"] == loss]
        right.plot(
            rows["disagreement"].clip(lower=SMALLEST),
            rows["parameter"].map(place_of),
            ls="",
            marker="o" if loss == "simprop" else "D",
            ms=5,
            color=colour,
            mec="white",
            mew=0.5,
        )
    right.axvline(checks.AGREEMENT, color="black", lw=1, ls="--")
    right.set_xscale("log")
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xlim(SMALLEST / 2, max(1.0, 2 * worst))
    right.set_yticks(range(len(names)), [name.removeprefix("suffix.") for name in names], fontsize=7)
    right.set_ylim(len(names) - 0.4, -0.6)
    right.grid(axis="y", color="#eee", lw=0.7)
    right.set_axisbelow(True)
    right.set_xlabel("|slope - finite difference| / norm")
    right.set_title(f"against finite differences (limit {checks.AGREEMENT:g})")
    finding = (
        f"The attention's gradient has norm {norms['attention', 'simprop']:.2g} by L_SimProp and "
        f"{norms['attention', 'prop']:.2g} by L_prop; finite differences differ by {worst:.0e} at most"
    )
    _set_verdict(figure, finding, checks.reaches_attention(table))
    return figure


def _part_norms(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Norm of the gradient of all parameters of a part together, by part and loss; 0 where there are none."""
    return {
        (part, loss): float(
            np.linalg.norm(table.loc[(table["part"] == part) & (table["loss"] == loss), "norm"])
        )
        for part in PARTS
        for loss in LOSSES
    }


# Biology


@styled
def biology(
    scores: pd.DataFrame, given: Mapping[str, Sequence[float]], stages: Sequence[str], experiment: str
) -> Figure:
    """Expected stage of the given proportions against the day, with the predicted mean stage of each animal.

    Parameters
    ----------
    scores : DataFrame
        SCORES rows; those of ``experiment`` are drawn.
    given : mapping of group to K shares
    """
    expected = summaries.expected_stages(given)
    if expected.empty:
        return page("No proportions", "The study learns from no proportions, so there is nothing to compare.")
    dated = not expected["day"].isna().any()
    animals = summaries.mean_stages(scores, given, stages, experiment).dropna(subset="predicted")
    place = dict(zip(expected["group"], expected["day"] if dated else range(len(expected)), strict=True))
    figure = new_figure(6.8, 1.9 + 0.42 * len(stages))
    axes = figure.subplots()
    reference = expected["day"] == 0
    injured = expected[~reference]
    at = [place[group] for group in injured["group"]]
    axes.plot(at, injured["expected"], color="black", lw=1.2, marker="_", ms=15, mew=2, zorder=2)
    uninjured = expected.loc[reference, "expected"].to_numpy(dtype=float)
    for stage in uninjured:
        axes.axhline(stage, color="#999", lw=1, ls=":", zorder=1)
    axes.plot(np.zeros(len(uninjured)), uninjured, color="black", marker="_", ms=15, mew=2, ls="", zorder=2)
    span = max(place.values()) - min(place.values()) or 1
    colour = palette.series_colours(1)[0]
    for group, rows in animals.groupby("group", sort=False):
        spread = np.linspace(-0.012, 0.012, len(rows)) * span if len(rows) > 1 else np.zeros(1)
        axes.scatter(
            place[group] + spread, rows["predicted"], s=26, color=colour, edgecolor="black", lw=0.5, zorder=3
        )
    axes.set_xticks(list(place.values()), [f"{day:g}" for day in place.values()] if dated else list(place))
    axes.set_xlabel(
        "day after injury (the number in the group's name)" if dated else "group, in the table's order"
    )
    axes.set_xlim(min(place.values()) - 0.06 * span, max(place.values()) + 0.06 * span)
    axes.set_yticks(range(len(stages)), [f"{stage_name(stage)} {k}" for k, stage in enumerate(stages)])
    axes.set_ylim(-0.25, len(stages) - 0.75)
    axes.set_ylabel("mean stage")
    handles = [Line2D([], [], color="black", lw=1.2, marker="_", ms=12, mew=2, label="given proportions")]
    if len(animals):
        label = f"{experiment}: one animal"
        handles.append(Line2D([], [], ls="", marker="o", mfc=colour, mec="black", mew=0.5, label=label))
    if reference.any():
        handles.append(Line2D([], [], color="#999", lw=1, ls=":", label="day 0, uninjured"))
    axes.legend(handles=handles, loc="lower right")
    ends = (injured if len(injured) else expected).iloc[[0, -1]]
    (first, last), (start, end) = ends["group"].tolist(), ends["expected"].astype(float).tolist()
    finding = f"The expected stage of the proportions goes from {format_number(start)} at {first} to "
    finding += f"{format_number(end)} at {last}"
    if len(animals):
        off = (animals["predicted"] - animals["expected"]).abs().mean()
        finding += f"; animals are predicted {format_number(off)} stages off theirs on average"
    _set_verdict(figure, finding, checks.rises(given))
    return figure


# Similarity of stages


@styled
def similarities(
    table: pd.DataFrame, correlations: pd.DataFrame, experiments: Mapping[str, str], stages: Sequence[str]
) -> Figure:
    """Mean cosine of cells of two stages beside sim(k, k'), a matrix per experiment.

    Parameters
    ----------
    table, correlations : DataFrame
        The SIMILARITIES and CORRELATIONS tables.
    experiments : mapping of experiment to caption
        From left to right: the first is before training, the last after. What the table lacks is left out.
    """
    count = len(stages)
    shown = {name: caption for name, caption in experiments.items() if name in set(table["experiment"])}
    check = checks.follows_similarity(correlations, list(experiments))
    if not shown:
        return page("No similarity of stages", str(check))
    matrices = {name: _cosines(table, name, count) for name in shown}
    found = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices.values()])
    # One scale for all experiments: what is flat before training is to look flat.
    scale = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    columns = 1 + len(shown)
    figure = new_figure(1.9 + columns * (0.3 + 0.46 * count), 2.6 + 0.46 * count)
    figure.set_layout_engine("compressed")  # squares, which would leave gaps
    row = np.atleast_1d(figure.subplots(1, columns))
    found_rhos = summaries.rhos(correlations)
    _matrix(row[0], similarity(count), (0.0, 1.0), stages, "sim(k, k'), expected", named=True)
    for axes, (name, matrix) in zip(row[1:], matrices.items(), strict=True):
        image = _matrix(axes, matrix, scale, stages, f"{shown[name]}\nrho {found_rhos[name]}")
    bar = figure.colorbar(image, ax=row, shrink=0.8)
    bar.set_label("mean cosine of two cells")
    bar.outline.set(visible=False)  # type: ignore[operator]
    last, first = list(shown)[-1], next(iter(shown))
    text = [f"{found_rhos[name]} {shown[name]}" for name in dict.fromkeys((last, first))]
    finding = (
        f"Cosine between stages against sim(k, k'): Spearman's rho is {', '.join(text)} "
        f"({found_rhos[last].cells:,} held-out cells of {found_rhos[last].slides} slides)"
    )
    _set_verdict(figure, finding, check)
    return figure


def _cosines(table: pd.DataFrame, experiment: str, count: int) -> np.ndarray:
    rows = table[table["experiment"] == experiment]
    matrix = np.full((count, count), np.nan)
    matrix[rows["stage_a"], rows["stage_b"]] = rows["cosine"]
    return matrix


def _matrix(
    axes: Any,
    matrix: np.ndarray,
    scale: tuple[float, float],
    stages: Sequence[str],
    title: str,
    named: bool = False,
) -> Any:
    """One matrix of stages with its numbers; stages are named at the left of the first only."""
    count = len(stages)
    low, high = scale
    image = axes.imshow(matrix, cmap="Greys", vmin=low, vmax=max(high, low + 1e-9))
    for (a, b), value in np.ndenumerate(matrix):
        dark = (value - low) > 0.5 * (high - low)
        axes.text(
            b,
            a,
            format_number(value),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
    for number, colour in enumerate(palette.stage_colours(count)):
        axes.add_patch(Rectangle((number - 0.5, count - 0.46), 1, 0.12, color=colour, clip_on=False, lw=0))
        axes.add_patch(Rectangle((-0.66, number - 0.5), 0.12, 1, color=colour, clip_on=False, lw=0))
    names = [stage_name(stage) for stage in stages]
    axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_yticks(range(count), names if named else [""] * count, fontsize=7.5)
    axes.tick_params(length=0, pad=8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=8)
    return image


# Map of the embedding


@styled
def embedding(
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
    if len(cells) < LEAST_CELLS:
        return page(
            f"{experiment}: no map of the embedding",
            f"Of the cells that this run holds out, {len(cells)} have an annotated stage and an embedding; a "
            f"map needs {LEAST_CELLS}.",
        )
    figure = new_figure(9.0, 5.4)
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
    marker = {name: MARKERS[number // 6 % len(MARKERS)] for number, name in enumerate(animals)}
    number_of = {name: number for number, name in enumerate(animals)}
    for shape in dict.fromkeys(marker.values()):
        rows = order[[marker[name] == shape for name in animal[order]]]
        own = series[[number_of[name] for name in animal[rows]]]
        right.scatter(*places[rows].T, s=9, color=own, lw=0, marker=shape, rasterized=True)
    legends = (
        [(stage_name(stages[k]), "o", colours[k]) for k in present],
        [(name, marker[name], series[number]) for name, number in number_of.items()],
    )
    for axes, title, entries in zip((left, right), ("by annotated stage", "by animal"), legends, strict=True):
        bare(axes)
        axes.set_title(title)
        axes.legend(
            handles=[
                Line2D([], [], ls="", marker=shape, color=colour, ms=5, label=label)
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
        f"the {NEIGHBOURS} nearest neighbours in the embedding itself."
    )
    for name, other in (("stage", "animal"), ("animal", "stage")):
        within = purities[f"{name} within {other}"]
        if np.isfinite(within.excess):
            note += (
                f" Of those of its own {other}, {_percent(within.found)} share a cell's {name} "
                f"({_percent(within.chance)} by chance)."
            )
    set_headline(figure, _organised_by(purities, experiment), note)
    return figure


def _organised_by(purities: Mapping[str, Purity], experiment: str) -> str:
    """Whether stage or animal says more about who is near.

    An animal is of one day and a day has few stages, so each is looked at within the other where that can be.
    """
    stage, animal = purities["stage"], purities["animal"]
    text = (
        f"{experiment}: of a cell's nearest neighbours {_percent(stage.found)} share its stage "
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
