"""Differentiable histogram of similarities on [0, 1]: a Gaussian kernel about the centre of every bin."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Pairs x bins handled at once: 500 x 500 pairs and 50 bins need 4 MB at a time, not 50 MB per operation.
BLOCK = 2**20
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
    if bins < 2:
        raise ValueError(f"a histogram needs two bins or more, not {bins}")
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be a number above 0, not {sigma}")
    if s.numel() == 0:
        raise ValueError("a histogram of no similarities is undefined")
    if weights is not None and weights.shape != s.shape:
        raise ValueError(f"{tuple(weights.shape)} weights for {tuple(s.shape)} similarities")
    # log 0 = -inf is wanted: such an entry takes no part, neither here nor in the gradient.
    log_weights = None if weights is None else weights.detach().to(s).log().reshape(-1)
    masses: Tensor = _LogMasses.apply(s.reshape(-1), log_weights, bins, sigma)
    return masses - masses.logsumexp(0)


class _LogMasses(torch.autograd.Function):
    """Log of the unnormalised mass in every bin, [n] -> [b].

    Autograd's own graph would keep several n x b tensors alive. This one keeps s and b numbers, and computes
    the kernel again on the way back, block by block.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, log_weights: Tensor | None, bins: int, sigma: float) -> Tensor:
        masses = s.new_empty(bins)
        for block in _blocks(bins, s.numel()):
            _, log_kernel = _kernel(s, log_weights, bins, sigma, block)
            masses[block] = log_kernel.logsumexp(1)
        ctx.save_for_backward(s, log_weights, masses)
        ctx.bins, ctx.sigma = bins, sigma
        return masses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        s, log_weights, masses = ctx.saved_tensors
        result = torch.zeros_like(s)
        for block in _blocks(ctx.bins, s.numel()):
            z, log_kernel = _kernel(s, log_weights, ctx.bins, ctx.sigma, block)
            # d log mass_m / d s_i = share of i in bin m * (c_m - s_i) / sigma^2; shares are at most 1.
            share = log_kernel.sub_(masses[block, None]).exp_()
            result -= gradient[block] @ share.mul_(z)
        return result / ctx.sigma, None, None, None


def _kernel(
    s: Tensor, log_weights: Tensor | None, bins: int, sigma: float, block: slice
) -> tuple[Tensor, Tensor]:
    """z = (s_i - c_m) / sigma and log w_i - z^2 / 2 of one block of bins, [m, n] each."""
    z = s[None, :] - bin_centres(bins, s)[block, None]
    z.div_(sigma).clamp_(-LARGEST_Z, LARGEST_Z)
    log_kernel = z.square().mul_(-0.5)
    return z, log_kernel if log_weights is None else log_kernel.add_(log_weights)


def _blocks(bins: int, size: int) -> list[slice]:
    step = max(1, BLOCK // size)
    return [slice(start, min(start + step, bins)) for start in range(0, bins, step)]
