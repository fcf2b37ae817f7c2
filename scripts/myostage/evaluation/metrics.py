"""Ordinal metrics, and their intervals from resampled slides.

Every metric of cells follows from the confusion matrix and the summed ranked probability score. Both add up
over slides, so a bootstrap resamples K x K matrices and never touches a cell again. What does not add up
(AUROC, Spearman's rho, the Wasserstein distance) takes weights instead: how often each slide is drawn.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gaussian_kde

Floats = NDArray[np.float64]

NAMES = ("accuracy", "rmse", "mae", "kappa", "macro_f1", "amae", "rps")
COMPOSITION_NAMES = ("kl", "l1")
STAGE_NAMES = ("stage_mae", "stage_spearman", "stage_w1", "stage_tail_mae")
HIGHER_IS_BETTER = (
    *("accuracy", "kappa", "macro_f1", "stage_spearman"),
    *("bag_auroc", "bag_accuracy", "bag_f1", "bag_kappa", "instance_auroc", "instance_f1"),
)

# A predicted share of exactly 0 would make the divergence infinite; float32 softmax underflows to it.
SMALLEST_SHARE = 1e-12
# The few-shot tail: this share of the slides, those of the rarest expected stages.
TAIL_SHARE = 1 / 3


def metrics(truth: ArrayLike, probabilities: ArrayLike, stages: int) -> dict[str, float]:
    """All metrics of predicted stage probabilities; the predicted stage is the most probable one.

    Parameters
    ----------
    truth
        True stages 0..K-1, [n].
    probabilities
        Stage probabilities, [n, K].
    stages
        Number of stages K.

    Returns
    -------
    dict
        One number per name of ``NAMES``; see :func:`summarise`.

    Raises
    ------
    ValueError
        Shapes that do not fit, a stage outside 0..K-1.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != stages:
        raise ValueError(f"probabilities of shape {scores.shape} for {stages} stages")
    matrix = confusion(truth, scores.argmax(1), stages)
    found = summarise(matrix, rps(truth, scores).sum())
    return {name: float(value) for name, value in zip(NAMES, found, strict=True)}


def confusion(truth: ArrayLike, predicted: ArrayLike, stages: int) -> NDArray[np.int64]:
    """Cells by true (row) and predicted (column) stage, int64[K, K].

    Raises
    ------
    ValueError
        Different lengths, or a stage outside 0..K-1.
    """
    rows, columns = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise ValueError(f"{rows.shape} true and {columns.shape} predicted stages")
    for values in (rows, columns):
        if values.size and not (values.min() >= 0 and values.max() < stages):
            raise ValueError(f"stages are 0 to {stages - 1}, found {values.min()} to {values.max()}")
    return np.bincount(rows * stages + columns, minlength=stages * stages).reshape(stages, stages)


def rps(truth: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Ranked probability score of every cell, [n].

    sum over k < K - 1 of (P(stage <= k) - [truth <= k])^2 (Epstein 1969): a sum, not divided by K - 1, so
    that a certain prediction one stage off costs 1.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    stages = np.asarray(truth)
    if scores.ndim != 2 or stages.shape != scores.shape[:1]:
        raise ValueError(f"{stages.shape} true stages for probabilities of shape {scores.shape}")
    cumulative = scores[:, :-1].cumsum(1)  # [n, K-1]
    reached = stages[:, None] <= np.arange(scores.shape[1] - 1)
    return np.square(cumulative - reached).sum(1)


def summarise(matrix: ArrayLike, rps_sum: ArrayLike) -> Floats:
    """Metrics of many confusion matrices at once.

    Parameters
    ----------
    matrix
        Cells by true and predicted stage, [..., K, K].
    rps_sum
        Ranked probability score summed over the same cells, [...].

    Returns
    -------
    float64[..., 7]
        In the order of ``NAMES``; nan where undefined.

        - accuracy: share of cells on the diagonal
        - rmse, mae: of the predicted stage, in stages
        - kappa: Cohen's, quadratic weights; undefined when all cells and predictions are one stage
        - macro_f1: mean F1 of the stages that are true or predicted anywhere
        - amae: mean over the true stages of their MAE, so that every stage weighs the same
        - rps: mean ranked probability score
    """
    cells = np.asarray(matrix, dtype=np.float64)
    k = np.arange(cells.shape[-1])
    distance = np.abs(k[:, None] - k[None, :])
    total = cells.sum((-2, -1))
    true, predicted, right = cells.sum(-1), cells.sum(-2), np.diagonal(cells, axis1=-2, axis2=-1)
    chance = true[..., :, None] * predicted[..., None, :]
    squares = (cells * distance**2).sum((-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack(
            [
                right.sum(-1) / total,
                np.sqrt(squares / total),
                (cells * distance).sum((-2, -1)) / total,
                1 - squares * total / (chance * distance**2).sum((-2, -1)),
                _mean_where(2 * right / (true + predicted), true + predicted > 0),
                _mean_where((cells * distance).sum(-1) / true, true > 0),
                np.asarray(rps_sum, dtype=np.float64) / total,
            ],
            axis=-1,
        )


def composition_metrics(predicted: ArrayLike, given: ArrayLike) -> dict[str, float]:
    """Predicted against given proportions of a slide, [K] each.

    Returns
    -------
    dict
        ``kl``: KL(given || predicted), nats, predicted shares no smaller than 1e-12; ``l1``: sum of the
        absolute differences, 0 to 2.
    """
    found, wanted = np.asarray(predicted, dtype=np.float64), np.asarray(given, dtype=np.float64)
    if found.shape != wanted.shape or found.ndim != 1:
        raise ValueError(f"{found.shape} predicted and {wanted.shape} given proportions")
    some = wanted > 0
    ratio = wanted[some] / np.maximum(found[some], SMALLEST_SHARE)
    return {"kl": float(wanted[some] @ np.log(ratio)), "l1": float(np.abs(found - wanted).sum())}


def bootstrap(
    per_slide: Sequence[ArrayLike] | Floats,
    statistic: Callable[[Floats], ArrayLike],
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[Floats, Floats, Floats]:
    """As :func:`resample`, of a statistic of counts that add up over slides.

    Parameters
    ----------
    per_slide
        Additive counts of every slide, [n, ...]: a confusion matrix, a sum and its number of terms.
    statistic
        Maps counts summed over slides, [..., *shape of one slide's counts], to its values, [...] or [..., m].
        It is called once with the plain sum and once with all resampled sums.
    repeats, seed
        See :func:`resample`.

    Returns
    -------
    value, low, high
        See :func:`resample`.

    Raises
    ------
    ValueError
        No slides.
    """
    counts = np.asarray(per_slide, dtype=np.float64)
    return resample(
        counts.shape[0], lambda weights: statistic(np.tensordot(weights, counts, axes=1)), repeats, seed
    )


def resample(
    slides: int, statistic: Callable[[Floats], ArrayLike], repeats: int = 1000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Value of a statistic and its 95 % percentile interval, slides drawn with replacement (Efron 1979).

    Parameters
    ----------
    slides
        Number of slides n.
    statistic
        Maps how often each slide counts, [..., n], to its values, [...] or [..., m]. It is called once with
        ones and once with all resamples.
    repeats
        Number of resamples.
    seed
        The resamples depend on it and on the number of slides alone, so that two statistics of the same
        slides see the same resamples.

    Returns
    -------
    value, low, high
        float64 [] or [m]. The interval is nan for a single slide, which says nothing about other slides;
        resamples in which the statistic is undefined are left out.

    Raises
    ------
    ValueError
        No slides.
    """
    if slides == 0:
        raise ValueError("there is nothing to resample without slides")
    value = np.asarray(statistic(np.ones(slides)), dtype=np.float64)
    if slides == 1:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    replicates = np.asarray(statistic(_drawn(slides, repeats, seed)), dtype=np.float64)
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    defined = ~np.isnan(replicates).all(0) & ~np.isnan(value)
    if defined.any():
        low[defined], high[defined] = np.nanquantile(replicates[:, defined], (0.025, 0.975), axis=0)
    return value, low, high


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
    return won / _or_missing(pairs)


def spearman(x: ArrayLike, y: ArrayLike, weights: ArrayLike) -> Floats:
    """Spearman's rank correlation of x and y [n] that count as often as ``weights`` [..., n] say.

    Returns
    -------
    float64[...]
        -1 to 1; nan where x or y is constant.
    """
    times = np.asarray(weights, dtype=np.float64)
    total = _or_missing(times.sum(-1, keepdims=True))
    a, b = (
        ranks - (times * ranks).sum(-1, keepdims=True) / total
        for ranks in (_midranks(x, times), _midranks(y, times))
    )
    spread = np.sqrt((times * a**2).sum(-1) * (times * b**2).sum(-1))
    return (times * a * b).sum(-1) / _or_missing(spread)


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
    return apart / _or_missing(times.sum(-1))


def tail(values: ArrayLike) -> NDArray[np.bool_]:
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
    found = np.asarray(values, dtype=np.float64)
    rare = np.zeros(found.size, dtype=bool)
    if found.size and np.ptp(found) > 0:
        density = gaussian_kde(found, bw_method="scott")(found)
        rare[np.argsort(density, kind="stable")[: math.ceil(found.size * TAIL_SHARE)]] = True
    return rare


@lru_cache(maxsize=16)
def _drawn(slides: int, repeats: int, seed: int) -> Floats:
    """How often every slide is drawn in every resample, [repeats, slides]."""
    times = np.random.default_rng(seed).multinomial(slides, np.full(slides, 1 / slides), size=repeats)
    drawn = times.astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def _mean_where(values: Floats, some: NDArray[np.bool_]) -> Floats:
    """Mean over the last axis of the values that count."""
    return np.where(some, values, 0.0).sum(-1) / some.sum(-1)


def _midranks(values: ArrayLike, weights: Floats) -> Floats:
    """Middle rank of every value [n], less 1/2, among values that count as ``weights`` [..., n] say."""
    _, place, sizes = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    order = np.argsort(place, kind="stable")
    equal = np.add.reduceat(weights[..., order], sizes.cumsum() - sizes, axis=-1)  # [..., distinct values]
    return (equal.cumsum(-1) - equal / 2)[..., place]


def _or_missing(divisor: Floats) -> Floats:
    """The divisor, nan where it is 0."""
    return np.where(divisor > 0, divisor, np.nan)
