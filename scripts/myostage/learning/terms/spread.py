"""How far apart the stages lie that one cell's prediction leaves open: an ordinal sharpener beside L_prop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from myostage.learning.term import Term
from myostage.papers import OURS
from myostage.schema import Section, key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


Distance = Literal["apart", "absolute", "squared", "any"]


class Options(Section):
    """Options of the spread of a prediction."""

    spread_distance: Distance = key(
        "apart",
        "what two stages that a cell is between cost in `spread`: 1 from two stages apart on, so that "
        "adjacent ones are free; |k - k'|; its square; or 1 for any two, a control that knows no order",
        OURS,
    )


def _compute(step: BagStep, options: Options) -> Tensor:
    import torch

    return torch.stack([spread(logits, options.spread_distance) for logits, _ in step.bags]).mean()


TERM = Term(
    title="L_spread",
    meaning="stages far apart between which a cell's prediction is divided",
    source=OURS,
    compute={"proportions": _compute},
    options=Options,
    teaches="nothing",
    place=22,
)


def spread(logits: Tensor, distance: Distance = "apart") -> Tensor:
    """L_spread = mean over cells of sum_kk' q_k q_k' w(|k - k'|), q = softmax(logits) of a cell.

    The expected w between two stages drawn from the prediction of one cell: Rao's quadratic entropy (Rao
    1982, Theor. Popul. Biol. 21:24) on the scale of stages. With w = [d >= 2] a cell between two adjacent
    stages costs nothing; w = d is twice the sum over k of F_k (1 - F_k), F cumulative, which is the entropy
    of the ranked probability score; w = d^2 is twice the variance of the stage; w = [d >= 1] is Gini's
    impurity.

    L_prop fixes the mean of q over a bag. The variance of stages that proportions imply is that between the
    means of cells plus that within cells, and L_prop leaves open how it is divided: a prediction that is the
    group's proportions for every cell costs it nothing. This term moves the variance between cells.

    Parameters
    ----------
    logits
        [N, K], one row per cell of a bag.
    distance
        w: ``apart`` [d >= 2], ``absolute`` d, ``squared`` d^2, ``any`` [d >= 1].

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        No cells, or an unknown distance.
    """
    import torch

    from myostage.learning.shares import full_precision

    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(f"logits of shape {tuple(logits.shape)} are not those of a bag")
    with torch.autocast(logits.device.type, enabled=False):
        q = full_precision(logits).softmax(1)
        k = torch.arange(q.shape[1], device=q.device, dtype=q.dtype)
        d = (k[:, None] - k).abs()
        costs = {"apart": (d >= 2).to(q), "absolute": d, "squared": d.square(), "any": (d >= 1).to(q)}
        if distance not in costs:
            raise ValueError(f"the distance of spread is one of {', '.join(costs)}, not {distance!r}")
        return ((q @ costs[distance]) * q).sum(1).mean()
