"""The scale of ordered stages: similarity of two stages, and of two cells drawn from two groups."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Cells: the sum of their probabilities of not being healthy, below which a bag or a slide holds no injury.
NO_INJURY = 1e-6


def stage_levels(stages: int) -> Floats:
    """Level of every stage on the recovery scale, from 0 (first) to 1 (last).

    Parameters
    ----------
    stages
        Number of stages K, at least 2.

    Returns
    -------
    float64[K]

    Raises
    ------
    ValueError
        Fewer than two stages: there is no order.
    """
    if stages < 2:
        raise ValueError(f"an ordered scale needs two stages or more, not {stages}")
    return np.linspace(0.0, 1.0, stages)


def similarity(stages: int) -> Floats:
    """Similarity of every two stages, 1 - |k - k'| / (K - 1) (OSLSP, arXiv 2505.04150).

    Returns
    -------
    float64[K, K]
        1 on the diagonal, 0 between the first stage and the last.
    """
    levels = stage_levels(stages)
    return 1.0 - np.abs(levels[:, None] - levels[None, :])


def expected_stage(p: ArrayLike) -> float:
    """Mean stage, 0 to K - 1, under the proportions ``p`` [K]."""
    proportions = _proportions(p)
    return float(np.arange(proportions.size) @ proportions)


def pair_distribution(p_a: ArrayLike, p_b: ArrayLike) -> tuple[Floats, Floats]:
    """Distribution of the similarity of one cell of bag A and one of bag B, drawn independently.

    P(s) = sum of p_a[k] p_b[k'] over all k, k' with sim(k, k') = s (OSLSP, arXiv 2505.04150).

    Parameters
    ----------
    p_a, p_b
        Proportions of the two bags, [K] each.

    Returns
    -------
    values : float64[K]
        The K distinct similarities, ascending from 0 to 1.
    weights : float64[K]
        Their probabilities; they sum to sum(p_a) * sum(p_b).

    Raises
    ------
    ValueError
        The two bags have different numbers of stages.
    """
    a, b = _proportions(p_a), _proportions(p_b)
    if a.size != b.size:
        raise ValueError(f"two bags of one study share their stages: {a.size} and {b.size} proportions")
    k = np.arange(a.size)
    distance = np.abs(k[:, None] - k[None, :])
    weights = np.zeros(a.size)
    np.add.at(weights, a.size - 1 - distance, np.outer(a, b))
    return stage_levels(a.size), weights


def _proportions(p: ArrayLike) -> Floats:
    proportions = np.asarray(p, dtype=np.float64)
    if proportions.ndim != 1:
        raise ValueError(f"proportions are one number per stage, not an array of shape {proportions.shape}")
    return proportions
