"""Where the gradients of L_SimProp and L_prop go before the first step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from myostage import palette
from myostage.figures.lazy import checks, mpatches, mticker, pd, schemas, style, tables
from myostage.figures.record import Drawn, Record, Request, Scope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("attention", "mlp", "norm", "projection", "head")
LOSSES = {"simprop": "L_SimProp", "prop": "L_prop"}
# Below the resolution of float64; keeps exact zeros on a logarithmic axis.
SMALLEST = 1e-13


def requests(scope: Scope) -> dict[str, Request]:
    return {"gradients": Request(scope.tables("gradients"))} if scope.plan.ordered else {}


FIGURE = Record(
    theme="embedding",
    category="First experiments",
    caption=(
        "Norm of the gradient of L_SimProp and of L_prop before the first step, per part of the model, and "
        "every parameter's slope along a random direction against central differences in float64. Passes "
        "when L_SimProp reaches every attention parameter and no slope is further than 1e-4 of the "
        "gradient's norm from its finite difference."
    ),
    requests=requests,
)


def make(gradients: str) -> Drawn:
    table = tables.read(gradients, schemas.GRADIENTS)
    return Drawn(draw(table), table.assign(disagreement=checks.disagreement(table)))


def draw(table: pd.DataFrame) -> Figure:
    """Gradient norm of each part of the model by loss, and agreement with finite differences by parameter.

    Parameters
    ----------
    table : DataFrame
        The GRADIENTS table of one run.
    """
    names = list(dict.fromkeys(table["parameter"]))
    apart = table.assign(disagreement=checks.disagreement(table))
    figure = style.new_figure(9.5, max(3.6, 1.7 + 0.17 * len(names)))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    colours = dict(zip(LOSSES, palette.series_colours(2), strict=True))
    worst = float(apart["disagreement"].max())
    norms = _part_norms(table)
    positive = [norm for norm in norms.values() if norm > 0] or [1.0]
    floor = 10 ** math.floor(math.log10(min(positive) / 3))
    width = 0.38
    parts = list(dict.fromkeys(part for part, _ in norms))
    for place, part in enumerate(parts):
        for number, loss in enumerate(LOSSES):
            norm = norms[part, loss]
            at = place + (number - 0.5) * width
            if norm > 0:
                left.bar(at, norm - floor, bottom=floor, width=width, color=colours[loss])
            left.text(at, max(norm, floor) * 1.12, f"{norm:.2g}", ha="center", fontsize=7.5)
    left.set_yscale("log")
    left.set_ylim(floor, max(positive) * 4)
    left.set_xticks(range(len(parts)), parts)
    left.tick_params(axis="x", length=0)
    left.set_ylabel("norm of the gradient")
    left.legend(
        handles=[
            mpatches.Rectangle((0, 0), 1, 1, color=colours[loss], label=LOSSES[loss]) for loss in LOSSES
        ],
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
    right.xaxis.set_minor_formatter(mticker.NullFormatter())
    right.set_xlim(SMALLEST / 2, max(1.0, 2 * worst))
    right.set_yticks(range(len(names)), [name.removeprefix("suffix.") for name in names], fontsize=7)
    right.set_ylim(len(names) - 0.4, -0.6)
    right.grid(axis="y", color="#eee", lw=0.7)
    right.set_axisbelow(True)
    right.set_xlabel("|slope - finite difference| / norm")
    right.set_title(f"against finite differences (limit {checks.AGREEMENT:g})")
    part = checks.encoder_part(table)
    finding = (
        f"The {part}'s gradient has norm {norms[part, 'simprop']:.2g} by L_SimProp and "
        f"{norms[part, 'prop']:.2g} by L_prop; finite differences differ by {worst:.0e} at most"
    )
    style.set_check(figure, finding, checks.reaches_attention(table))
    return figure


def _part_norms(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Norm of the gradient of all parameters of a part together, by part and loss; 0 where there are none."""
    return {
        (part, loss): float(
            np.linalg.norm(table.loc[(table["part"] == part) & (table["loss"] == loss), "norm"])
        )
        for part in PARTS
        if part != "projection" or part in set(table["part"])
        for loss in LOSSES
    }
