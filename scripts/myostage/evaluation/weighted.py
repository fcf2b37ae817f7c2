"""Statistics of slides that count so often: AUROC, rank correlation, distance of distributions."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def auroc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike) -> Floats:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Parameters
    ----------
    scores
        [n]; the higher, the more likely positive.
    positive
        Whether each is positive, bool[n].
    weights
        How often each counts, [..., n].

    Returns
    -------
    float64[...]
        0 to 1; nan where only one of the two kinds counts.
    """
    times, sought = np.asarray(weights, dtype=np.float64), np.asarray(positive, dtype=bool)
    of_positives = times * sought
    positives = of_positives.sum(-1)
    pairs = positives * (times.sum(-1) - positives)
    # Mann and Whitney 1947: the positives' ranks, less what these would be without any negative
    won = (of_positives * _midranks(scores, times)).sum(-1) - positives**2 / 2
    return won / divisor(pairs)


def spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike) -> Floats:
    """Spearman's rank correlation of x and y [n] that count as often as ``weights`` [..., n] say.

    Returns
    -------
    float64[...]
        -1 to 1; nan where x or y is constant.
    """
    times = np.asarray(weights, dtype=np.float64)
    total = divisor(times.sum(-1, keepdims=True))
    a, b = (
        ranks - (times * ranks).sum(-1, keepdims=True) / total
        for ranks in (_midranks(x, times), _midranks(y, times))
    )
    spread = np.sqrt((times * a**2).sum(-1) * (times * b**2).sum(-1))
    return (times * a * b).sum(-1) / divisor(spread)


def wasserstein(x: ArrayLike, y: ArrayLike, weights: ArrayLike) -> Floats:
    """Wasserstein-1 distance of the distributions of x and y [n], each counting as ``weights`` [..., n] say.

    The integral of the absolute difference of the two cumulative distributions, in the unit of x and y.

    Returns
    -------
    float64[...]
        At least 0; nan where nothing counts.
    """
    times = np.asarray(weights, dtype=np.float64)
    values = np.concatenate([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    order = np.argsort(values, kind="stable")
    steps = np.concatenate([times, -times], axis=-1)[..., order]
    apart = np.abs(steps.cumsum(-1)[..., :-1]) @ np.diff(values[order])
    return apart / divisor(times.sum(-1))


def mean_of(sums: Floats) -> Floats:
    """Means [..., n - 1] of sums [..., n] whose last is their number of terms; nan where that is 0."""
    return sums[..., :-1] / divisor(sums[..., -1:])


def divisor(values: Floats) -> Floats:
    """The values, nan where they are not above 0."""
    return np.where(values > 0, values, np.nan)


def _midranks(values: ArrayLike, weights: Floats) -> Floats:
    """Middle rank of every value [n], less 1/2, among values that count as ``weights`` [..., n] say."""
    _, place, sizes = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    equal = np.add.reduceat(weights[..., order], sizes.cumsum() - sizes, axis=-1)  # [..., distinct values]
    return (equal.cumsum(-1) - equal / 2)[..., place]
