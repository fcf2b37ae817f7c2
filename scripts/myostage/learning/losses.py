"""Loss terms: L_SimProp between two bags, L_prop of one bag, those of the baselines and of the ceiling.

The baselines: MixBag's L_prop of a mixed bag, LLP-VAT's consistency, optimal-transport pseudo-labels. All are
sums over bins or stages, so that one weight means one thing whatever b and K are, and means over cells;
``divide="released"`` divides by b or K as the released code of OSLSP (arXiv 2505.04150) does.
Whatever autocast is on, they are computed in float32 (in float64 where their inputs are).
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from myostage.learning.histogram import log_pair_histogram, log_soft_histogram
from myostage.learning.stages import pair_distribution, similarity

Pairs = Literal["all", "aligned"]
Target = Literal["exact", "truncated"]
Divide = Literal["none", "released"]

# Keeps a product such as .29 x 100 = 28.999999999999996 from losing a slot to floating point.
ROUNDING = 1e-9
# MixBag's interval covers 99 % of samples: normal quantile at .995.
MIXBAG_Z = 2.5758
# Sinkhorn's iterations. The entropy falls to its own value from the span of the costs: at the default entropy
# the shares of 100 cells of which a classifier is quite sure are then met to .01; at a fixed entropy, to .3.
SINKHORN_ITERATIONS = 50
SINKHORN_DECAY = 0.8


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
        u, v = F.normalize(full_precision(u), dim=1), F.normalize(full_precision(v), dim=1)
        if pairs == "all":
            found = log_pair_histogram(u, v, bins, sigma)  # [b]
        else:
            found = log_soft_histogram((1 + (u * v).sum(1)) / 2, bins, sigma)  # [b]
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
    wanted = _shares(logits, p)
    with torch.autocast(logits.device.type, enabled=False):
        found = _log_mean(logits)
        wanted = wanted.to(found)
        loss = (torch.xlogy(wanted, wanted) - wanted * found).sum()
    return loss / _divisor(divide, logits.shape[1])


def mixbag(
    logits_a: Tensor,
    logits_b: Tensor,
    p_a: ArrayLike | Tensor,
    p_b: ArrayLike | Tensor,
    *,
    divide: Divide = "none",
    generator: torch.Generator | None = None,
) -> Tensor:
    """L_prop of a random mixture of two bags: :func:`mixed_prop` of some cells of A and the rest of B.

    MixBag (Asanomi et al., ICCV 2023, arXiv 2308.08822) with uniform gamma: of n = min(N, M) cells, any
    number from 1 to n - 1 is as likely to be bag A's. The first ones are taken: cells
    that lie in some order are to be shuffled before.

    Parameters
    ----------
    logits_a, logits_b
        The bags, [N, K] and [M, K], at least two cells each.
    p_a, p_b
        Their proportions, [K] each.
    divide
        ``released``: divided by the number of stages.
    generator
        Source of gamma, on the CPU; none: torch's global one.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        A bag of fewer than two cells, or as many logits as there are no stages.
    """
    cells = min(len(logits_a), len(logits_b))
    if cells < 2:
        raise ValueError(f"bags of {len(logits_a)} and {len(logits_b)} cells cannot be mixed")
    cells_a = int(torch.randint(1, cells, (), generator=generator))
    mixture = torch.cat([logits_a[:cells_a], logits_b[: cells - cells_a]])
    return mixed_prop(mixture, cells_a, p_a, p_b, divide=divide)


def mixed_prop(
    logits: Tensor, cells_a: int, p_a: ArrayLike | Tensor, p_b: ArrayLike | Tensor, *, divide: Divide = "none"
) -> Tensor:
    """L_prop of a mixed bag, in which a stage within the interval of its sampled share adds nothing.

    MixBag (arXiv 2308.08822): of cells_a = gamma N cells of bag A and (1 - gamma) N of bag B the expected
    shares are p = gamma p_a + (1 - gamma) p_b, but those cells are a sample. With q the mean over cells of
    softmax(logits), a stage is left alone where |q_k - p_k| <= z (gamma s_a + (1 - gamma) s_b), s being the
    standard error sqrt(p (1 - p) / cells) of either sample and z of 99 %, as in the released code (which
    weights s_a by z in the place of gamma).

    Deviation: any other stage adds p_k log(p_k / q_k) - p_k + q_k, not the first summand alone. With no stage
    left alone the sum is L_prop, since p and q sum to 1; with some, it still is at least 0 and still pulls
    down a share that is too large, which the first summand would push up.

    Parameters
    ----------
    logits
        [N, K]: ``cells_a`` cells of bag A and N - ``cells_a`` of bag B.
    cells_a
        At least 1, less than N.
    p_a, p_b
        Proportions of the bags, [K] each.
    divide
        ``released``: divided by the number of stages.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        A mixture without a cell of either bag, or as many logits as there are no stages.
    """
    a, b = _shares(logits, p_a), _shares(logits, p_b)
    cells_b = len(logits) - cells_a
    if cells_a < 1 or cells_b < 1:
        raise ValueError(f"{cells_a} cells of bag A and {cells_b} of bag B are no mixture")
    with torch.autocast(logits.device.type, enabled=False):
        found = _log_mean(logits)
        a, b = a.to(found), b.to(found)
        gamma = cells_a / len(logits)
        wanted = gamma * a + (1 - gamma) * b
        reach = MIXBAG_Z * (gamma * _standard_error(a, cells_a) + (1 - gamma) * _standard_error(b, cells_b))
        share = found.exp()
        parts = torch.xlogy(wanted, wanted) - wanted * found - wanted + share
        loss = torch.where((share - wanted).abs() <= reach, 0, parts).sum()
    return loss / _divisor(divide, logits.shape[1])


def vat(
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    logits: Tensor,
    *,
    radius: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Virtual adversarial consistency: mean over cells of KL(softmax(logits) || softmax(forward(x + r))).

    LLP-VAT (Tsai & Lin, ACML 2020, arXiv 1910.13188) adds it to L_prop. r is the perturbation of its length
    that changes a cell's prediction most, to second order, found by one step of power iteration: the gradient
    of the KL at a random r of that length. The length is relative, since tokens have no scale of their own.

    Parameters
    ----------
    forward
        From inputs to logits [N, K]; no cell may depend on another.
    inputs
        Tokens [N, T, D] or embeddings [N, E], of any floating dtype; no gradient reaches them.
    logits
        ``forward(inputs)``, [N, K]; constants here, the gradient goes through the perturbed cells alone.
    radius
        Length of r as a share of the norm of the cell's inputs.
    generator
        Source of the random direction, on the CPU; none: torch's global one.

    Returns
    -------
    Tensor
        Scalar, at least 0; nats.
    """
    device = inputs.device
    # Seeded from the CPU's generator, whose state checkpoints hold, and drawn where the inputs are.
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.autocast(device.type, enabled=False):
        x = full_precision(inputs.detach())
        clean = full_precision(logits.detach()).log_softmax(1)
        length = radius * x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))

        def divergence(r: Tensor) -> Tensor:
            """Sum over cells."""
            found = full_precision(forward(x + r)).log_softmax(1)
            return F.kl_div(found, clean, reduction="sum", log_target=True)

        start = torch.empty_like(x).normal_(generator=torch.Generator(device).manual_seed(seed))
        start = (length * _unit(start)).requires_grad_()
        (steepest,) = torch.autograd.grad(divergence(start), start)
        return divergence(length * _unit(steepest)) / len(x)


def ot(logits: Tensor, p: ArrayLike | Tensor, *, entropy: float) -> Tensor:
    """Mean cross-entropy of the cells of a bag with their optimal-transport pseudo-labels.

    The pseudo-labels are constants: the rows of :func:`transport_plan`, times N. The labels themselves meet
    the proportions, as in PLOT (Liu et al., IJCAI 2021, arXiv 2105.10635). Unlike there, they are soft, made
    anew in every bag and step from the start, and learnt by plain cross-entropy without mixup.

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].
    entropy
        Weight of the plan's entropy, in nats of cost, above 0.

    Returns
    -------
    Tensor
        Scalar, at least 0; nats.

    Raises
    ------
    ValueError
        No cells, as many logits as there are no stages, or an entropy that is not above 0.
    """
    with torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits).log_softmax(1)
        return -(transport_plan(logits, p, entropy=entropy) * scores).sum()


def transport_plan(logits: Tensor, p: ArrayLike | Tensor, *, entropy: float) -> Tensor:
    """Entropic optimal transport between cells of mass 1/N and stages of mass p_k, without gradient.

    The T that minimises sum_ik T_ik C_ik + entropy sum_ik T_ik log T_ik at those marginals, C = -log softmax
    of the logits: Sinkhorn's iteration (Cuturi, NIPS 2013) on logarithms, the entropy falling to its value.

    Parameters
    ----------
    logits, p, entropy
        As in :func:`ot`.

    Returns
    -------
    Tensor[N, K]
        Rows sum to 1/N, columns to p_k as far as the iteration has come; 0 where p_k is 0.

    Raises
    ------
    ValueError
        As :func:`ot`.
    """
    if not entropy > 0:
        raise ValueError(f"the entropy of a transport plan must be above 0, not {entropy}")
    wanted = _shares(logits, p)
    held = wanted > 0
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits).log_softmax(1)
        gain = scores[:, held.to(scores.device)]  # -C of the stages that hold any cell, [N, H]
        log_mass = wanted[held].log().to(gain)
        price = torch.zeros_like(log_mass)  # of a stage, by which too many cells are kept from it
        decay = SINKHORN_DECAY ** torch.arange(SINKHORN_ITERATIONS).to(gain)
        for now in ((gain.max() - gain.min()) * decay).clamp_min(entropy):
            rows = ((gain - price) / now).log_softmax(1)
            price += now * (rows.logsumexp(0) - math.log(len(rows)) - log_mass)
        plan = torch.zeros_like(scores)
        plan[:, held.to(scores.device)] = ((gain - price) / entropy).softmax(1) / len(scores)
    return plan


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of cells [N, K] with their stages [N] (nats): the supervised ceiling only."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(full_precision(logits), labels.long())


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


def _shares(logits: Tensor, p: ArrayLike | Tensor) -> Tensor:
    """``p`` as a tensor; ValueError where the logits are not [N, K] with N above 0."""
    wanted = p if isinstance(p, Tensor) else torch.as_tensor(p, dtype=torch.float64)
    if logits.ndim != 2 or logits.shape[0] == 0 or logits.shape[1:] != wanted.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} for {tuple(wanted.shape)} proportions")
    return wanted


def _log_mean(logits: Tensor) -> Tensor:
    """Logarithm of the mean over cells of softmax(logits), [K]."""
    return full_precision(logits).log_softmax(1).logsumexp(0) - math.log(logits.shape[0])


def _unit(x: Tensor) -> Tensor:
    """Every cell's part scaled to length 1; what is 0 stays 0."""
    # below this the squares of a norm underflow in float32
    return F.normalize(x.flatten(1), dim=1, eps=1e-18).view_as(x)


def _standard_error(p: Tensor, cells: int) -> Tensor:
    """Of the shares of stages in a sample of ``cells`` from proportions ``p``."""
    return (p * (1 - p) / cells).clamp_min(0).sqrt()


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is."""
    return x if x.dtype == torch.float64 else x.float()


def _divisor(divide: str, number: int) -> int:
    if divide not in ("none", "released"):
        raise ValueError(f"divide is none or released, not {divide!r}")
    return number if divide == "released" else 1
