"""Differentiable histogram of similarities on [0, 1]: a Gaussian kernel about the centre of every bin."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Similarities x bins handled at once, and similarities of pairs: 10,000 x 10,000 pairs need megabytes at a
# time, not 400 MB per bin.
BLOCK = 2**18
# (s - c) / sigma beyond this would overflow when squared in float32; the bin is then empty anyway.
LARGEST_Z = 1e15


def bin_centres(bins: int, like: Tensor) -> Tensor:
    """Centres (m + 1/2) / b of ``bins`` equal bins on [0, 1], in the dtype and on the device of ``like``."""
    return (torch.arange(bins, dtype=like.dtype, device=like.device) + 0.5) / bins


def soft_histogram(s: Tensor, bins: int, sigma: float, weights: Tensor | None = None) -> Tensor:
    """Soft histogram of similarities: exp of :func:`log_soft_histogram`.

    Returns
    -------
    Tensor[bins]
        Sums to 1.
    """
    return log_soft_histogram(s, bins, sigma, weights).exp()


def log_soft_histogram(s: Tensor, bins: int, sigma: float, weights: Tensor | None = None) -> Tensor:
    """Logarithm of the soft histogram, exact where the histogram itself underflows.

    P_m is proportional to the sum over i of w_i exp(-(s_i - c_m)^2 / (2 sigma^2)), c_m = (m + 1/2) / b, and
    is normalised once, over the bins (OSLSP, arXiv 2505.04150).

    Parameters
    ----------
    s
        Similarities in [0, 1], of any shape, float32 or float64.
    bins
        Number of bins b, at least 2.
    sigma
        Width of the kernel, in similarity, above 0.
    weights
        Weights of the similarities, of the shape of ``s``, not all 0; constants, no gradient reaches them.

    Returns
    -------
    Tensor[bins]
        Finite for every sigma; its exponentials sum to 1.

    Raises
    ------
    ValueError
        No similarities, fewer than two bins, a sigma that is not above 0, or weights of another shape.
    """
    _check(s.numel(), bins, sigma)
    if weights is not None and weights.shape != s.shape:
        raise ValueError(f"{tuple(weights.shape)} weights for {tuple(s.shape)} similarities")
    # log 0 = -inf is wanted: such an entry takes no part, neither here nor in the gradient.
    log_weights = None if weights is None else weights.detach().to(s).log().reshape(-1)
    masses: Tensor = _LogMasses.apply(s.reshape(-1), log_weights, bins, sigma)
    return masses.log_softmax(0)


def log_pair_histogram(u: Tensor, v: Tensor, bins: int, sigma: float) -> Tensor:
    """:func:`log_soft_histogram` of the similarities (1 + <u_i, v_j>) / 2 of all pairs, in bounded memory.

    Parameters
    ----------
    u, v
        Vectors of length 1, [N, D] and [M, D], float32 or float64.
    bins, sigma
        As in :func:`log_soft_histogram`.

    Returns
    -------
    Tensor[bins]
        Finite for every sigma; its exponentials sum to 1.

    Raises
    ------
    ValueError
        No pairs, fewer than two bins, or a sigma that is not above 0.
    """
    _check(len(u) * len(v), bins, sigma)
    masses: Tensor = _PairLogMasses.apply(u, v, bins, sigma)
    return masses.log_softmax(0)


def _check(similarities: int, bins: int, sigma: float) -> None:
    if bins < 2:
        raise ValueError(f"a histogram needs two bins or more, not {bins}")
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be a number above 0, not {sigma}")
    if similarities == 0:
        raise ValueError("a histogram of no similarities is undefined")


class _LogMasses(torch.autograd.Function):
    """Log of the unnormalised mass in every bin, [n] -> [b].

    Autograd's own graph would keep several n x b tensors alive. This one keeps s and b numbers, and computes
    the kernel again on the way back, block by block.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, log_weights: Tensor | None, bins: int, sigma: float) -> Tensor:
        masses = _log_masses(s, log_weights, bins, sigma)
        ctx.save_for_backward(s, log_weights, masses)
        ctx.sigma = sigma
        return masses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        s, log_weights, masses = ctx.saved_tensors
        return _gradient(s, log_weights, masses, gradient, ctx.sigma), None, None, None


class _PairLogMasses(torch.autograd.Function):
    """:class:`_LogMasses` of the similarities of all pairs, [N, D] and [M, D] -> [b], by blocks of rows of u.

    Similarities that fill no more than one block are kept for the way back, others are computed again.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, bins: int, sigma: float) -> Tensor:
        rows = _blocks(len(u), len(v))
        s = _similarities(u[rows[0]], v)
        masses = _log_masses(s, None, bins, sigma)
        for block in rows[1:]:
            s = _similarities(u[block], v)
            masses = torch.logaddexp(masses, _log_masses(s, None, bins, sigma))
        ctx.save_for_backward(u, v, masses, s if len(rows) == 1 else None)
        ctx.sigma = sigma
        return masses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        u, v, masses, kept = ctx.saved_tensors
        for_u, for_v = (
            torch.zeros_like(x) if ctx.needs_input_grad[i] else None for i, x in enumerate((u, v))
        )
        for block in _blocks(len(u), len(v)):
            s = _similarities(u[block], v) if kept is None else kept
            # of <u_i, v_j>, half of s_ij's
            slope = _gradient(s, None, masses, gradient, ctx.sigma).mul_(0.5).view(-1, len(v))
            if for_u is not None:
                torch.mm(slope, v, out=for_u[block])
            if for_v is not None:
                for_v.addmm_(slope.T, u[block])
        return for_u, for_v, None, None


def _similarities(u: Tensor, v: Tensor) -> Tensor:
    return (u @ v.T).add_(1).mul_(0.5).view(-1)


def _log_masses(s: Tensor, log_weights: Tensor | None, bins: int, sigma: float) -> Tensor:
    """log of the sum over i of w_i exp(-(s_i - c_m)^2 / (2 sigma^2)), [n] -> [b]."""
    kernels = (_kernel(s, log_weights, bins, sigma, block)[1] for block in _blocks(bins, s.numel()))
    return torch.cat([log_kernel.logsumexp(1) for log_kernel in kernels])


def _gradient(
    s: Tensor, log_weights: Tensor | None, masses: Tensor, gradient: Tensor, sigma: float
) -> Tensor:
    """Gradient by s [n], from that by the log masses [b] of s and whatever else they were summed over."""
    result = torch.zeros_like(s)
    bins = len(masses)
    for block in _blocks(bins, s.numel()):
        z, log_kernel = _kernel(s, log_weights, bins, sigma, block)
        # d log mass_m / d s_i = share of i in bin m * (c_m - s_i) / sigma^2; shares are at most 1.
        share = log_kernel.sub_(masses[block, None]).exp_()
        result -= gradient[block] @ share.mul_(z)
    return result.div_(sigma)


def _kernel(
    s: Tensor, log_weights: Tensor | None, bins: int, sigma: float, block: slice
) -> tuple[Tensor, Tensor]:
    """z = (s_i - c_m) / sigma and log w_i - z^2 / 2 of one block of bins, [m, n] each."""
    z = s[None, :] - bin_centres(bins, s)[block, None]
    z.div_(sigma).clamp_(-LARGEST_Z, LARGEST_Z)
    log_kernel = z.square().mul_(-0.5)
    return z, log_kernel if log_weights is None else log_kernel.add_(log_weights)


def _blocks(count: int, size: int) -> list[slice]:
    """``count`` things of ``size`` numbers each, as many at a time as a block holds."""
    step = max(1, BLOCK // size)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
