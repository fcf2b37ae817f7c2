"""Shares of stages in a bag, in full precision: what several loss terms compute with."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def checked_shares(logits: Tensor, p: ArrayLike | Tensor) -> Tensor:
    """``p`` as a tensor; ValueError where the logits are not [N, K] with N above 0."""
    wanted = p if isinstance(p, Tensor) else torch.as_tensor(p, dtype=torch.float64)
    if logits.ndim != 2 or logits.shape[0] == 0 or logits.shape[1:] != wanted.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} for {tuple(wanted.shape)} proportions")
    return wanted


def log_mean_share(logits: Tensor) -> Tensor:
    """Logarithm of the mean over cells of softmax(logits), [K]."""
    return full_precision(logits).log_softmax(1).logsumexp(0) - math.log(logits.shape[0])


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is."""
    return x if x.dtype == torch.float64 else x.float()


def divisor(divide: str, number: int) -> int:
    """``number`` where ``divide`` is ``released``, else 1; ValueError for another word."""
    if divide not in ("none", "released"):
        raise ValueError(f"divide is none or released, not {divide!r}")
    return number if divide == "released" else 1


def apportion(p: ArrayLike, cells: int) -> NDArray[np.int64]:
    """Whole numbers [K] of ``cells`` cells by proportions ``p`` [K]: largest remainders, they sum to it."""
    wanted = np.asarray(p, np.float64)
    wanted = wanted / wanted.sum() * cells
    counts = np.floor(wanted).astype(np.int64)
    counts[np.argsort(counts - wanted, kind="stable")[: cells - counts.sum()]] += 1
    return counts
