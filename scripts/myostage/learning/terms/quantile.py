"""Cells ranked along the scale of stages against the quantiles of their bag's proportions: 1-D transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from myostage.learning.term import Term
from myostage.papers import OURS

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


def _compute(step: BagStep, options: object) -> Tensor:
    import torch

    return torch.stack([quantile(logits, p) for logits, p in step.bags]).mean()


TERM = Term(
    title="L_quantile",
    unit="stages",
    meaning="expected stages of a bag's cells, sorted, against the quantiles of its proportions",
    source=OURS,
    compute={"proportions": _compute},
    teaches="head",
    place=24,
)


def quantile(logits: Tensor, p: ArrayLike | Tensor) -> Tensor:
    """L_quantile: 1-D optimal transport between the expected stages of cells and the stages of proportions.

    The axis is the head's expected stage m_i = sum_k k softmax(logits_i)_k. On a line the cheapest plan pairs
    in order: mean over i of the mean |m_(i) - Q(t)| over t from (i - 1) / N to i / N, m_(1) <= ... <= m_(N),
    Q the quantile function of p: the Wasserstein-1 distance of the two distributions. Of L_prop it differs in
    that a bag whose cells are all given the proportions is far from them, and in that stages apart cost more.

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].

    Returns
    -------
    Tensor
        Scalar, at least 0, in stages.

    Raises
    ------
    ValueError
        No cells, or as many logits as there are no stages.
    """
    import torch

    from myostage.learning.shares import checked_shares, full_precision

    wanted = checked_shares(logits, p)
    with torch.autocast(logits.device.type, enabled=False):
        q = full_precision(logits).softmax(1)
        n, stages = q.shape
        k = torch.arange(stages, device=q.device, dtype=q.dtype)
        ranked = (q @ k).sort().values
        edges = torch.cat([wanted.new_zeros(1), wanted.cumsum(0)]).to(q)
        ranks = torch.arange(n + 1, device=q.device, dtype=q.dtype) / n
        # share of a cell's rank interval in that of a stage, [N, K]: the plan in closed form
        plan = torch.minimum(ranks[1:, None], edges[1:]) - torch.maximum(ranks[:-1, None], edges[:-1])
        return (plan.clamp_min(0) * (ranked[:, None] - k).abs()).sum()
