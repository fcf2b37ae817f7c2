"""Differences between two experiments: which runs are pairs, the correction for their number, the verdict."""

from collections.abc import Mapping, Set
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.numbers import format_number

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "not significant", "not tested"]
Key = tuple[int, int]
"""Fold and seed."""


# What intervals of METRICS and COMPARISONS are made of, see myostage.evaluation.intervals.
INTERVAL = "95 % interval over animals and training runs (one seed: over folds)"


def judge(metric: str, difference: float, p_holm: float, alpha: float) -> Verdict:
    """The verdict on a difference of two experiments, by the rule that :func:`state_rule` puts in words.

    Parameters
    ----------
    metric
        Its key; which way is better follows from it.
    difference
        Experiment minus reference.
    p_holm
        Holm-adjusted p; nan where the difference was not tested.
    alpha
        Level of the test.
    """
    if not np.isfinite([difference, p_holm]).all():
        return "not tested"
    if p_holm >= alpha:
        return "not significant"
    return "better" if METRICS[metric].sign * difference > 0 else "worse"


def state_rule(alpha: float) -> str:
    """The rule of :func:`judge` as a sentence."""
    return f"A difference is significant where its Holm-adjusted p is below {format_number(alpha)}."


def find_side(low: float, high: float, of: float = 0.0) -> int:
    """1 where an interval lies above a number, -1 where below it, 0 where it holds it or is missing."""
    return int(low > of) - int(high < of)


def paired_seeds(
    experiment: Set[int],
    reference: Set[int],
    *,
    experiment_learns: bool = True,
    reference_learns: bool = True,
) -> list[tuple[int, int]]:
    """Seeds of an experiment, each with the seed of the reference that it is paired with.

    Equal seeds are pairs. An experiment that learns nothing is the same whatever the seed and runs with one
    only, which is paired with every seed of the other.
    """
    if experiment_learns == reference_learns:
        return [(seed, seed) for seed in sorted(experiment & reference)]
    return [(one, other) for one in sorted(experiment) for other in sorted(reference)]


def paired_differences(
    experiment: Mapping[Key, float], reference: Mapping[Key, float], seeds: list[tuple[int, int]]
) -> Floats:
    """Experiment minus reference for every fold and pair of seeds that both have a number for, [n].

    Parameters
    ----------
    experiment, reference
        A metric by fold and seed; nan where it is undefined.
    seeds
        Pairs of seeds, see :func:`paired_seeds`.
    """
    folds = sorted({fold for fold, _ in experiment})
    differences = [
        experiment[fold, one] - reference[fold, other]
        for one, other in seeds
        for fold in folds
        if (fold, one) in experiment and (fold, other) in reference
    ]
    found = np.array(differences, dtype=np.float64)
    return found[~np.isnan(found)]


def find_corrected_p(differences: ArrayLike, folds: int) -> float:
    """Two-sided p of the corrected resampled t-test (Nadeau and Bengio 2003, Machine Learning 52:239).

    For comparison with papers only. The test takes runs of further seeds for further splits, so that more
    seeds make more of equal methods come out as different; no verdict rests on it.

    With r = n_test / n_train = 1 / (folds - 1), the standard error of the mean is sqrt((1/n + r) s^2), and
    mean / standard error follows Student's t with n - 1 degrees of freedom.

    Parameters
    ----------
    differences
        One per fold and seed, [n].
    folds
        Number of folds, at least 2.

    Returns
    -------
    float
        1 where all differences are exactly 0; nan for fewer than two, or without any spread otherwise.

    Raises
    ------
    ValueError
        Fewer than two folds: nothing is left to train on.
    """
    if folds < 2:
        raise ValueError(f"{folds} folds leave nothing to train on")
    values = np.asarray(differences, dtype=np.float64)
    if values.size and not values.any():
        return 1.0
    # Equal differences have no spread; computed, it would be a rounding error.
    if values.size < 2 or (values == values[0]).all():
        return float("nan")
    error = values.std(ddof=1) * np.sqrt(1 / values.size + 1 / (folds - 1))
    return float(2 * student.sf(abs(values.mean()) / error, values.size - 1))


def holm(p: ArrayLike) -> Floats:
    """Holm's step-down correction of p values (Holm 1979, Scand J Stat 6:65), [n].

    The i-th smallest of m is multiplied by m - i + 1, is no smaller than any before it, and at most 1. nan
    stays nan and does not count.
    """
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full_like(values, np.nan)
    order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # nan sorts last
    factors = np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1.0)
    return corrected
