"""EasyLLP: an estimate of every cell's cross-entropy from the proportions of its bag and of all bags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from myostage.learning.term import NoOptions, Term
from myostage.papers import EASYLLP

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


def _compute(step: BagStep, options: NoOptions) -> Tensor:
    import torch

    prior = step.source.prior
    return torch.stack([easyllp(logits, p, prior) for logits, p in step.bags]).mean()


TERM = Term(
    title="EasyLLP",
    unit="nats",
    meaning="unbiased estimate of the cross-entropy of cells, which may be negative",
    source=EASYLLP,
    compute={"proportions": _compute},
    teaches="head",
    place=26,
)


def easyllp(logits: Tensor, p: ArrayLike | Tensor, prior: ArrayLike | Tensor) -> Tensor:
    """Mean over cells and sum over stages k of -w_k log softmax(logits)_k, w = N (p - prior) + prior.

    Busa-Fekete et al. (NeurIPS 2023, arXiv 2302.03115) for K stages: in place of a cell's label stands the
    weight whose mean over bags is that label, if all cells are drawn independently from one population and
    the bag was counted. It is then unbiased for any model. Here groups have proportions of their own and a
    bag is a sample, so that it is neither.

    Weights below 0 make the loss unbounded below: a model that grows ever surer lowers it without end, and
    its probabilities are no longer calibrated. Nothing corrects that, as in the paper.

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].
    prior
        Proportions of all cells, [K].

    Returns
    -------
    Tensor
        Scalar, of any sign.

    Raises
    ------
    ValueError
        No cells, or as many logits as there are no stages.
    """
    import torch

    from myostage.learning.shares import checked_shares, full_precision

    own, everywhere = checked_shares(logits, p), checked_shares(logits, prior)
    with torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits).log_softmax(1)
        own, everywhere = own.to(scores), everywhere.to(scores)
        weights = len(logits) * (own - everywhere) + everywhere
        return -(weights * scores).sum(1).mean()
