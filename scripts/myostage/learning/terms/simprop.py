"""L_SimProp: the similarities of two bags' cells, expected from their proportions against found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from myostage.learning.options import Divided
from myostage.learning.term import Term
from myostage.papers import OSLSP, OSLSP_BINS, OSLSP_CODE, OSLSP_SIGMA
from myostage.schema import Name, Positive, key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


Pairs = Literal["all", "aligned"]
Target = Literal["exact", "truncated"]
Divide = Literal["none", "released"]

# Keeps a product such as .29 x 100 = 28.999999999999996 from losing a slot to floating point.
ROUNDING = 1e-9


class Options(Divided):
    """Options of L_SimProp."""

    sigma: Positive = key(OSLSP_SIGMA, "width of the histogram's Gaussian, in similarity (0 to 1)", OSLSP)
    bins: int = key(OSLSP_BINS, "bins of the similarity histogram on [0, 1]", OSLSP_CODE, ge=2, le=10_000)
    order: tuple[Name, ...] = key(
        (), "order of the stages that similarity is measured on; none: `stages`", max_length=1000
    )
    pairs: Pairs = key("all", "every cell of bag A with every cell of bag B, or i with i (the released code)")
    target: Target = key(
        "exact",
        "expected similarity of a pair of bags, or the released code's integer-truncated counts",
        OSLSP,
    )
    stop_gradient: bool = key(False, "no gradient through bag B (true in the released code)")


def _compute(step: BagStep, options: Options) -> Tensor:
    n, positions = step.cells_a, positions_of(options.order, step.stages)
    return simprop(
        step.embedding[:n],
        step.embedding[n:],
        step.p_a[positions],
        step.p_b[positions],
        sigma=options.sigma,
        bins=options.bins,
        pairs=options.pairs,
        target=options.target,
        stop_gradient=options.stop_gradient,
        divide=options.divide,
    )


TERM = Term(
    title="L_SimProp",
    unit="nats",
    meaning="similarities of the cells of two bags; 1 in OSLSP",
    source=OSLSP,
    compute={"proportions": _compute},
    options=Options,
    teaches="embedding",
    encoder_only=True,
    place=10,
)


def positions_of(order: Sequence[str], stages: Sequence[str]) -> list[int]:
    """Stage at every place of the order that similarity is measured on; none: that of the stages."""
    return [stages.index(name) for name in order or stages]


def simprop(
    u: Tensor,
    v: Tensor,
    p_a: ArrayLike | Tensor,
    p_b: ArrayLike | Tensor,
    *,
    sigma: float,
    bins: int,
    pairs: Pairs = "all",
    target: Target = "exact",
    stop_gradient: bool = False,
    divide: Divide = "none",
) -> Tensor:
    """L_SimProp = sum_m P_m log(P_m / P_hat_m): expected against found similarities of two bags.

    P_hat is the soft histogram of s_ij = (1 + cos(u_i, v_j)) / 2, P that of the similarities expected from
    the bags' proportions (OSLSP, arXiv 2505.04150).

    Parameters
    ----------
    u, v
        Embeddings of bag A [N, D] and bag B [M, D]; L2-normalised here.
    p_a, p_b
        Proportions of the bags, [K] each.
    sigma, bins
        Width of the kernel (in similarity) and number of bins of the histogram.
    pairs
        ``all``: every i with every j; ``aligned``: i with i, as the released code (N = M).
    target
        See :func:`target_histogram`; ``truncated`` fills as many slots as bag A has cells.
    stop_gradient
        No gradient through bag B.
    divide
        ``released``: divided by the number of bins.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        Embeddings of different widths, aligned bags of different sizes, an unknown option.
    """
    import torch
    import torch.nn.functional as F

    from myostage.learning.histogram import log_pair_histogram, log_soft_histogram
    from myostage.learning.shares import divisor, full_precision

    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1]:
        raise ValueError(f"embeddings of shapes {tuple(u.shape)} and {tuple(v.shape)} cannot be compared")
    if pairs not in ("all", "aligned"):
        raise ValueError(f"pairs is all or aligned, not {pairs!r}")
    if pairs == "aligned" and u.shape[0] != v.shape[0]:
        raise ValueError(f"aligned pairs need bags of one size, not {u.shape[0]} and {v.shape[0]} cells")
    if stop_gradient:
        v = v.detach()
    wanted = target_histogram(
        p_a, p_b, sigma=sigma, bins=bins, target=target, pairs_count=u.shape[0], log=True
    )
    with torch.autocast(u.device.type, enabled=False):
        u, v = F.normalize(full_precision(u), dim=1), F.normalize(full_precision(v), dim=1)
        if pairs == "all":
            found = log_pair_histogram(u, v, bins, sigma)  # [b]
        else:
            found = log_soft_histogram((1 + (u * v).sum(1)) / 2, bins, sigma)  # [b]
        wanted = wanted.to(found)
        # Both logarithms are finite, so a bin that the target leaves empty adds 0 to value and gradient.
        loss = (wanted.exp() * (wanted - found)).sum()
    return loss / divisor(divide, bins)


def target_histogram(
    p_a: ArrayLike | Tensor,
    p_b: ArrayLike | Tensor,
    *,
    sigma: float,
    bins: int,
    target: Target = "exact",
    pairs_count: int = 100,
    log: bool = False,
) -> Tensor:
    """Histogram of the similarities expected from the proportions of two bags, by the kernel of P_hat.

    Parameters
    ----------
    p_a, p_b
        Proportions of the bags, [K] each.
    sigma, bins
        Width of the kernel (in similarity) and number of bins.
    target
        ``exact``: every sim(k, k') weighted by p_a[k] p_b[k']. ``truncated``: floor(p_a[k] p_b[k'] n) copies
        of it, and what is left of the n slots at similarity 0, as the released code counts.
    pairs_count
        Number of slots n of the truncated target; without effect on the exact one.
    log
        Return the logarithm, exact where the histogram underflows.

    Returns
    -------
    Tensor[bins]
        float64 on the CPU; sums to 1.

    Raises
    ------
    ValueError
        Proportions of different lengths, an unknown target, no slot.
    """
    histogram = _log_target(_key(p_a), _key(p_b), float(sigma), bins, target, pairs_count)
    return histogram.clone() if log else histogram.exp()


def truncated_counts(p_a: ArrayLike, p_b: ArrayLike, slots: int) -> tuple[np.ndarray, int]:
    """Slots the released code gives to every pair of stages, [K, K], and the left-over slots it puts at 0."""
    shares = np.outer(np.asarray(p_a, dtype=np.float64), np.asarray(p_b, dtype=np.float64))
    counts = np.floor(shares * slots + ROUNDING).astype(np.int64)
    return counts, slots - int(counts.sum())


# A study has few pairs of groups and every step asks for one of them.
@lru_cache(maxsize=4096)
def _log_target(
    p_a: tuple[float, ...], p_b: tuple[float, ...], sigma: float, bins: int, target: str, slots: int
) -> Tensor:
    import torch

    from myostage.learning.histogram import log_soft_histogram
    from myostage.learning.stages import pair_distribution, similarity

    values, weights = pair_distribution(p_a, p_b)
    if target == "truncated":
        if slots < 1:
            raise ValueError(f"a truncated target needs a slot or more, not {slots}")
        counts, left_over = truncated_counts(p_a, p_b, slots)
        values = np.append(similarity(len(p_a)).ravel(), 0.0)
        weights = np.append(counts.ravel(), left_over).astype(np.float64)
    elif target != "exact":
        raise ValueError(f"target is exact or truncated, not {target!r}")
    if not weights.sum() > 0:
        raise ValueError(f"proportions {p_a} and {p_b} hold no cells")
    return log_soft_histogram(torch.from_numpy(values), bins, sigma, torch.from_numpy(weights))


def _key(p: ArrayLike | Tensor) -> tuple[float, ...]:
    import torch

    numbers: Iterable[float] = (p.detach().cpu() if isinstance(p, torch.Tensor) else np.asarray(p)).tolist()
    return tuple(numbers)
