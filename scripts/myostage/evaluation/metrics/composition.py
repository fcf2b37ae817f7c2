"""Metrics of predicted against given proportions of a slide, mean over slides; they need no labels."""

import numpy as np
from numpy.typing import ArrayLike

from myostage.evaluation.metrics.record import Floats, Metric

# A predicted share of exactly 0 would make the divergence infinite; float32 softmax underflows to it.
SMALLEST_SHARE = 1e-12


def kl(predicted: Floats, given: Floats) -> float:
    """KL(given || predicted), nats, predicted shares no smaller than 1e-12."""
    some = given > 0
    return float(given[some] @ np.log(given[some] / np.maximum(predicted[some], SMALLEST_SHARE)))


def l1(predicted: Floats, given: Floats) -> float:
    """Sum of the absolute differences, 0 to 2."""
    return float(np.abs(predicted - given).sum())


METRICS = (
    Metric("kl", "KL to the given proportions", False, 0, np.inf, kl, "nats"),
    Metric("l1", "L1 to the given proportions", False, 0, 2, l1),
)
NAMES = tuple(metric.key for metric in METRICS)


def measure_composition(predicted: ArrayLike, given: ArrayLike) -> list[float]:
    """All METRICS of predicted against given proportions of a slide, [K] each."""
    found, wanted = np.asarray(predicted, dtype=np.float64), np.asarray(given, dtype=np.float64)
    if found.shape != wanted.shape or found.ndim != 1:
        raise ValueError(f"{found.shape} predicted and {wanted.shape} given proportions")
    return [metric.compute(found, wanted) for metric in METRICS]
