"""Loss terms: L_SimProp between two bags, L_prop of one bag, and cross-entropy with cell labels.

All are sums over bins or stages, so that one weight means one thing whatever b and K are;
``divide="released"`` divides by b or K as the released code of OSLSP (arXiv 2505.04150) does.
Whatever autocast is on, they are computed in float32 (in float64 where their inputs are).
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from myostage.histogram import log_soft_histogram
from myostage.stages import pair_distribution, similarity

Pairs = Literal["all", "aligned"]
Target = Literal["exact", "truncated"]
Divide = Literal["none", "released"]

# Keeps a product such as .29 x 100 = 28.999999999999996 from losing a slot to floating point.
ROUNDING = 1e-9


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
        u, v = F.normalize(_full(u), dim=1), F.normalize(_full(v), dim=1)
        cosine = u @ v.T if pairs == "all" else (u * v).sum(1)  # [N, M] or [N]
        found = log_soft_histogram((1 + cosine) / 2, bins, sigma)  # [b]
        wanted = wanted.to(found)
        # Both logarithms are finite, so a bin that the target leaves empty adds 0 to value and gradient.
        loss = (wanted.exp() * (wanted - found)).sum()
    return loss / _divisor(divide, bins)


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


def prop(logits: Tensor, p: ArrayLike | Tensor, *, divide: Divide = "none") -> Tensor:
    """L_prop = sum_k p_k log(p_k / mean_i softmax(logits_i)_k), with 0 log 0 = 0 (OSLSP, arXiv 2505.04150).

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].
    divide
        ``released``: divided by the number of stages.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        No cells, or as many logits as there are no stages.
    """
    wanted = p if isinstance(p, Tensor) else torch.as_tensor(p, dtype=torch.float64)
    if logits.ndim != 2 or logits.shape[0] == 0 or logits.shape[1:] != wanted.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} for {tuple(wanted.shape)} proportions")
    with torch.autocast(logits.device.type, enabled=False):
        scores = _full(logits).log_softmax(1)
        found = scores.logsumexp(0) - math.log(scores.shape[0])  # log of the mean, [K]
        wanted = wanted.to(found)
        loss = (torch.xlogy(wanted, wanted) - wanted * found).sum()
    return loss / _divisor(divide, logits.shape[1])


def cell(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of cells [N, K] with their stages [N] (nats): the supervised ceiling only."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(_full(logits), labels.long())


# A study has few pairs of groups and every step asks for one of them.
@lru_cache(maxsize=4096)
def _log_target(
    p_a: tuple[float, ...], p_b: tuple[float, ...], sigma: float, bins: int, target: str, slots: int
) -> Tensor:
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
    numbers: Iterable[float] = (p.detach().cpu() if isinstance(p, Tensor) else np.asarray(p)).tolist()
    return tuple(numbers)


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _divisor(divide: str, number: int) -> int:
    if divide not in ("none", "released"):
        raise ValueError(f"divide is none or released, not {divide!r}")
    return number if divide == "released" else 1
