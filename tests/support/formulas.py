"""Formulas written as slow loops, and drawn numbers, for the tests of the histogram and of the losses."""

import math

import torch
from torch import Tensor

# Proportions per day after injury in the released code, index order:
# damaged, intact, recovered, large myotube, small myotube.
INDEX_ORDER: dict[str, list[float]] = {
    "d0": [0, 1, 0, 0, 0],
    "d3": [0.59, 0, 0, 0, 0.41],
    "d5": [0.17, 0, 0, 0.55, 0.28],
    "d7": [0.12, 0, 0.06, 0.77, 0.05],
    "d14": [0.01, 0, 0.97, 0.01, 0],
}
# damaged, small myotube, large myotube, recovered, intact
BIOLOGICAL = {day: [p[0], p[4], p[3], p[2], p[1]] for day, p in INDEX_ORDER.items()}
D3, D5 = BIOLOGICAL["d3"], BIOLOGICAL["d5"]


def kl_loop(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


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
