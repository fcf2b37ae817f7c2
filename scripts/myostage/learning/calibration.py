"""Temperature scaling fitted on bags: how sure a run may be, judged by the groups of its training cells.

No cell label is read. A calibrated p(k | x) says, with the proportions p_d of every group, how probable it is
that a cell comes from group d: in proportion to sum_k p(k | x) p_d[k] / mean_d p_d[k], where cells of a stage
look alike in all groups. The temperature minimises the log loss of the groups that the cells do come from, a
proper score; groups of different proportions determine it. The divergence of given from mean predicted
proportions would not do: it is least where every stage that a group lacks is denied with certainty, which
favours temperatures far below those that are right.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Temperatures that are tried; the best of these is refined.
SEARCHED = np.geomspace(1 / 8, 8, 33)
# A log loss that differs by less, in nats, over all of these says nothing about the temperature.
FLAT = 1e-3
# Smallest probability that single precision stores in full.
SMALLEST = float(np.finfo(np.float32).tiny)


def fit_temperature(probabilities: Sequence[ArrayLike], proportions: Sequence[ArrayLike]) -> float:
    """Temperature T of softmax(log p / T) that is best for training bags; every bag weighs the same.

    Parameters
    ----------
    probabilities
        Stage probabilities [n, K] of the cells of each bag.
    proportions
        Given proportions [K] of each bag.

    Returns
    -------
    float
        nan where bags do not determine it: their proportions are alike, or the best value lies at an end of
        the search.

    References
    ----------
    Guo et al. 2017, On calibration of modern neural networks (there the log loss is that of labels).
    """
    from scipy.optimize import minimize_scalar  # slow to import, and not needed to apply a temperature
    from scipy.special import logsumexp

    given = np.array([np.asarray(share, np.float64) for share in proportions])  # [bags, K]
    there = given.mean(0) > 0
    ratios = given[:, there] / given.mean(0)[there]
    logs = [logarithms(p)[:, there] for p in probabilities]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        of_bags = [
            np.mean(logsumexp(z * scale, axis=1) - logsumexp(z * scale, axis=1, b=ratio))
            for z, ratio in zip(logs, ratios, strict=True)
        ]
        return float(np.mean(of_bags))

    tried = np.log(SEARCHED)
    losses = np.array([loss(at) for at in tried])
    best = int(losses.argmin())
    if np.ptp(losses) < FLAT or best in (0, len(tried) - 1):
        return np.nan
    refined = minimize_scalar(loss, bounds=(tried[best - 1], tried[best + 1]), method="bounded")
    return float(np.exp(refined.x))


def calibrate(probabilities: ArrayLike, temperature: float) -> Floats:
    """softmax(log p / T), float64[n, K]; as they are where there is no temperature (nan)."""
    if not np.isfinite(temperature):
        return np.asarray(probabilities, np.float64)
    scaled = logarithms(probabilities) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    found: Floats = powers / powers.sum(1, keepdims=True)
    return found


def entropy(probabilities: ArrayLike) -> Floats:
    """Shannon entropy of every row, nats: 0 where a stage is certain, log K where all are as probable."""
    values = np.asarray(probabilities, np.float64)
    return -(values * np.log(np.where(values > 0, values, 1.0))).sum(1)


def logarithms(probabilities: ArrayLike) -> Floats:
    """Finite logarithms of probabilities, also of those that are 0 in single precision."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST))
