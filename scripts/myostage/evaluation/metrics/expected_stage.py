"""Metrics of the expected stage of slides, predicted against true.

The true one is the mean annotated stage of a slide's labelled cells, the predicted one sum_k k p_k of its
predicted composition p.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myostage.evaluation.metrics.record import Floats, Metric
from myostage.evaluation.weighted import divisor, spearman, wasserstein

# The few-shot tail: this share of the slides, those of the rarest expected stages.
TAIL_SHARE = 1 / 3


@dataclass(frozen=True)
class Slides:
    """Expected stages of slides, [slides], and how often each slide counts, [..., slides]."""

    weights: Floats
    predicted: Floats
    true: Floats
    rare: Floats  # 1 or 0

    @property
    def error(self) -> Floats:
        return np.abs(self.predicted - self.true)


def stage_mae(slides: Slides) -> Floats:
    """Mean absolute difference."""
    return (slides.weights @ slides.error) / slides.weights.sum(-1)


def stage_spearman(slides: Slides) -> Floats:
    """Rank correlation."""
    return spearman(slides.predicted, slides.true, slides.weights)


def stage_w1(slides: Slides) -> Floats:
    """Wasserstein-1 distance of both distributions over slides: whether predictions spread as truth does."""
    return wasserstein(slides.predicted, slides.true, slides.weights)


def stage_tail_mae(slides: Slides) -> Floats:
    """As ``stage_mae``, of the rarest slides."""
    return (slides.weights @ (slides.error * slides.rare)) / divisor(slides.weights @ slides.rare)


METRICS = (
    Metric(
        *("stage_mae", "MAE of a slide's expected stage", False, 0, np.inf),
        stage_mae,
        "stages",
        may_lead=False,
    ),
    Metric(
        *("stage_spearman", "Spearman's rho of slides' expected stages", True, -1, 1),
        stage_spearman,
        may_lead=False,
    ),
    Metric(
        *("stage_w1", "Wasserstein-1 of slides' expected stages", False, 0, np.inf),
        stage_w1,
        "stages",
        may_lead=False,
    ),
    Metric(
        *("stage_tail_mae", "MAE of the rarest third of slides", False, 0, np.inf),
        stage_tail_mae,
        "stages",
        may_lead=False,
    ),
)
NAMES = tuple(metric.key for metric in METRICS)


def measure_stages(weights: Floats, values: Floats) -> Floats:
    """All METRICS [..., 4] of predicted and true expected stage and whether it is rare, [slides, 3]."""
    slides = Slides(weights, *values.T)
    return np.stack([metric.compute(slides) for metric in METRICS], axis=-1)


def find_tail(values: ArrayLike) -> NDArray[np.bool_]:
    """The rarest third, rounded up: where a Gaussian kernel density (Scott's rule) of all values is lowest.

    Parameters
    ----------
    values
        [n]

    Returns
    -------
    bool[n]
        False for all where all values are equal: none is rarer than another.
    """
    from scipy.stats import gaussian_kde  # slow to import, and not needed to read the names above

    found = np.asarray(values, dtype=np.float64)
    rare = np.zeros(found.size, dtype=bool)
    if found.size and np.ptp(found) > 0:
        density = gaussian_kde(found, bw_method="scott")(found)
        rare[np.argsort(density, kind="stable")[: math.ceil(found.size * TAIL_SHARE)]] = True
    return rare
