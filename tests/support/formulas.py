"""Formulas written as slow loops, and drawn numbers, for the tests of the histogram and of the losses."""

import math

import torch
from torch import Tensor


def histogram_loop(similarities: list[float], weights: list[float], bins: int, sigma: float) -> list[float]:
    mass = []
    for m in range(bins):
        centre = (m + 0.5) / bins
        terms = (
            w * math.exp(-((s - centre) ** 2) / (2 * sigma**2))
            for s, w in zip(similarities, weights, strict=True)
        )
        mass.append(sum(terms))
    return [x / sum(mass) for x in mass]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
