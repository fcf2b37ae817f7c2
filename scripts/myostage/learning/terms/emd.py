"""Squared earth mover's distance of the mean predicted shares of a bag's stages from its proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from myostage.learning.term import NoOptions, Term
from myostage.papers import EMD

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


def _compute(step: BagStep, options: NoOptions) -> Tensor:
    import torch

    return torch.stack([emd(logits, p) for logits, p in step.bags]).mean()


TERM = Term(
    title="squared EMD",
    meaning="squared distance of cumulative predicted from cumulative given proportions of a bag",
    source=EMD,
    compute={"proportions": _compute},
    teaches="head",
    place=22,
)


def emd(logits: Tensor, p: ArrayLike | Tensor) -> Tensor:
    """Sum over k of (Q_k - P_k)^2, of cumulative mean softmax(logits) and cumulative proportions.

    The squared EMD of Hou et al. (arXiv 1611.05916), which without their division by K is the ranked
    probability score. Deviation: of a bag's mean prediction and its proportions, where theirs is of a cell
    and its label.

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].

    Returns
    -------
    Tensor
        Scalar, from 0 to K - 1.

    Raises
    ------
    ValueError
        No cells, or as many logits as there are no stages.
    """
    import torch

    from myostage.learning.shares import checked_shares, log_mean_share

    wanted = checked_shares(logits, p)
    with torch.autocast(logits.device.type, enabled=False):
        found = log_mean_share(logits).exp()
        return (found - wanted.to(found)).cumsum(0).square().sum()
