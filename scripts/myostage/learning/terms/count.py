"""Count loss: the likelihood that as many cells of a bag are of each stage as its proportions say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from myostage.learning.term import NoOptions, Term
from myostage.papers import COUNT

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


def _compute(step: BagStep, options: NoOptions) -> Tensor:
    import torch

    return torch.stack([count(logits, p) for logits, p in step.bags]).mean()


TERM = Term(
    title="count loss",
    unit="nats",
    meaning="negative log-likelihood of the number of cells of each stage in a bag",
    source=COUNT,
    compute={"proportions": _compute},
    teaches="head",
    place=24,
)


def count(logits: Tensor, p: ArrayLike | Tensor) -> Tensor:
    """Sum over stages of -log P(exactly n_k cells are of stage k), n_k by largest remainders of N p.

    Shukla et al. (NeurIPS 2023, arXiv 2311.13718) do so for two classes, where cells are independent with the
    predicted probabilities and P is the Poisson-binomial's; so here for two stages, twice. Deviations: with
    K stages their K counts are taken one by one, as if they were independent, since the probability of all
    together takes time of the order of N^K; a bag is a sample of its group, whose proportions are not exactly
    its own, while the published bags are counted.

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].

    Returns
    -------
    Tensor
        Scalar, at least 0; nats.

    Raises
    ------
    ValueError
        No cells, or as many logits as there are no stages.
    """
    import torch

    from myostage.learning.shares import apportion, checked_shares, full_precision

    counts = torch.from_numpy(apportion(checked_shares(logits, p).cpu(), len(logits))).to(logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits).log_softmax(1)
        stages = scores.shape[1]
        # log(1 - q) as the sum of the other stages: exact where q rounds to 1
        others = (
            scores[:, None]
            .expand(-1, stages, -1)
            .masked_fill(torch.eye(stages, dtype=torch.bool, device=scores.device), -torch.inf)
        )
        found = log_counts(scores, others.logsumexp(2))
        return -found.gather(1, counts[:, None]).sum()


def log_counts(log_in: Tensor, log_out: Tensor) -> Tensor:
    """Log-probabilities [K, N + 1] of 0 to N successes among N independent cells, for K kinds of success.

    Counts of halves of the cells are convolved, from pairs of cells upwards: as exact as the published
    recursion from cell to cell, in log2(N) steps instead of N.

    Parameters
    ----------
    log_in, log_out
        log q and log(1 - q) of every cell, [N, K].
    """
    import torch

    found = torch.stack([log_out.T, log_in.T], 2)  # [K, N, 2]: 0 or 1 success in each cell
    rest = found.new_zeros(len(found), 1, 1)
    while found.shape[1] > 1:
        if found.shape[1] % 2:
            rest, found = _log_convolve(rest, found[:, -1:]), found[:, :-1]
        found = _log_convolve(found[:, ::2], found[:, 1::2])
    return _log_convolve(rest, found)[:, 0]


def _log_convolve(a: Tensor, b: Tensor) -> Tensor:
    """Logarithm of the convolution of exp(a) [..., A] and exp(b) [..., B], [..., A + B - 1]."""
    import torch
    import torch.nn.functional as F

    reach = a.shape[-1] - 1
    shifted = F.pad(b, (reach, reach), value=-torch.inf).unfold(-1, reach + b.shape[-1], 1)
    return (a.flip(-1).unsqueeze(-1) + shifted).logsumexp(-2)
