"""Differences between two experiments: paired over folds and seeds, corrected for their number, judged.

Runs of one experiment share most of their training slides, so their metrics are not independent and a plain
paired t-test finds differences that are not there. The corrected resampled t-test (Nadeau and Bengio 2003,
Machine Learning 52:239) widens the standard error of the mean by the share of slides that is held out.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
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


def judge(metric: str, low: float, high: float, p_holm: float, alpha: float) -> Verdict:
    """The verdict on a difference of two experiments, by the rule that :func:`state_rule` puts in words.

    Parameters
    ----------
    metric
        Its key; which way is better follows from it.
    low, high
        95 % confidence interval of experiment minus reference; nan where there is none.
    p_holm
        Holm-adjusted p; nan where there were too few pairs to test.
    alpha
        Level of the test.
    """
    if not np.isfinite([low, high, p_holm]).all():
        return "not tested"
    side = METRICS[metric].sign * find_side(low, high)
    if side == 0 or p_holm >= alpha:
        return "not significant"
    return "better" if side > 0 else "worse"


def state_rule(alpha: float) -> str:
    """The rule of :func:`judge` as a sentence."""
    return (
        f"A difference is significant where its Holm-adjusted p is below {format_number(alpha)} and its 95 % "
        "confidence interval lies on one side of 0."
    )


def find_side(low: float, high: float, of: float = 0.0) -> int:
    """1 where an interval lies above a number, -1 where below it, 0 where it holds it or is missing."""
    return int(low > of) - int(high < of)


@dataclass(frozen=True)
class PairedTest:
    """What paired differences say; nan where they say nothing."""

    pairs: int
    mean: float
    sd: float
    effect_size: float  # d_z = mean / sd
    p: float  # two-sided
    minimum_detectable: float


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


def paired_test(differences: ArrayLike, folds: int, *, alpha: float = 0.05, power: float = 0.8) -> PairedTest:
    """Corrected resampled t-test of paired differences against 0 (Nadeau and Bengio 2003).

    With r = n_test / n_train = 1 / (folds - 1), the standard error of the mean is sqrt((1/n + r) s^2), and
    mean / standard error follows Student's t with n - 1 degrees of freedom. The minimum detectable difference
    is (t[1 - alpha/2] + t[power]) times the standard error.

    Parameters
    ----------
    differences
        One per fold and seed, [n].
    folds
        Number of folds, at least 2.
    alpha, power
        Two-sided level and power of the minimum detectable difference.

    Returns
    -------
    PairedTest
        p is 1 where all differences are exactly 0, nan for fewer than two of them otherwise. The effect size
        and the minimum detectable difference are nan where the standard deviation is 0.

    Raises
    ------
    ValueError
        Fewer than two folds: nothing is left to train on.
    """
    if folds < 2:
        raise ValueError(f"{folds} folds leave nothing to train on")
    values = np.asarray(differences, dtype=np.float64)
    n = values.size
    if n == 0:
        return PairedTest(0, np.nan, np.nan, np.nan, np.nan, np.nan)
    mean = float(values.mean())
    same = not values.any()
    if n == 1:
        return PairedTest(1, mean, np.nan, np.nan, 1.0 if same else np.nan, np.nan)
    # Equal differences have no spread; computed, it would be a rounding error.
    sd = 0.0 if (values == values[0]).all() else float(values.std(ddof=1))
    error = sd * float(np.sqrt(1 / n + 1 / (folds - 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 1.0 if same else float(2 * student.sf(np.divide(abs(mean), error), n - 1))
    # Pairs without any spread, as of a metric at its limit in every fold, say nothing of what could be found.
    quantiles = float(student.ppf(1 - alpha / 2, n - 1) + student.ppf(power, n - 1))
    detectable = quantiles * error if sd else np.nan
    return PairedTest(n, mean, sd, mean / sd if sd else np.nan, p, detectable)


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
