"""Paired comparisons against closed forms and slow definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from myostage.evaluation.comparisons import (
    find_corrected_p,
    holm,
    judge,
    paired_differences,
    paired_seeds,
)


def test_corrected_p_by_hand() -> None:
    """Mean .02 and variance .0002 of two differences, two folds: t = .02 / sqrt((1/2 + 1) .0002), df 1.

    Student's t with one degree of freedom is Cauchy's distribution, whose tail is an arcus tangent.
    """
    t = 0.02 / math.sqrt(1.5 * 0.0002)
    assert find_corrected_p([0.01, 0.03], folds=2) == pytest.approx(2 * (0.5 - math.atan(t) / math.pi))


@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), folds=st.integers(2, 10))
def test_correction_shrinks_the_plain_paired_t_test(seed: int, n: int, folds: int) -> None:
    """t is that of scipy's plain test times sqrt((1/n) / (1/n + 1/(folds - 1)))."""
    values = np.random.default_rng(seed).normal(0.3, 1, n)
    t = stats.ttest_1samp(values, 0).statistic * math.sqrt((1 / n) / (1 / n + 1 / (folds - 1)))
    found = find_corrected_p(values, folds)
    assert found == pytest.approx(2 * stats.t.cdf(-abs(t), n - 1))
    assert find_corrected_p(-values, folds) == pytest.approx(found)


def test_what_says_nothing_has_no_corrected_p() -> None:
    assert all(math.isnan(find_corrected_p(values, 3)) for values in ([], [0.1], [0.1, 0.1, 0.1]))
    assert find_corrected_p([0.0, 0.0, 0.0], 3) == find_corrected_p([0.0], 3) == 1
    with pytest.raises(ValueError, match="1 folds"):
        find_corrected_p([0.1, 0.2], 1)


def test_holm_by_hand() -> None:
    """.01 * 4, .02 * 3, max(.03 * 2, .06), .04 * 1 raised to .06."""
    assert holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.3, 0.6]).tolist() == pytest.approx([0.6, 0.6])
    assert holm([0.7, 0.8]).tolist() == [1, 1]
    assert holm([]).tolist() == []


@given(p=st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), max_size=12))
def test_holm_is_the_smallest_level_that_rejects(p: list[float]) -> None:
    """Step down by definition: at level a, reject in rising order until some p exceeds a / (number left)."""
    known = sorted(x for x in p if not math.isnan(x))

    def rejected(level: float) -> int:
        count = 0
        while count < len(known) and known[count] * (len(known) - count) <= level:
            count += 1
        return count

    levels = sorted({x * k for x in known for k in range(1, len(known) + 1)})
    for value, corrected in zip(p, holm(p), strict=True):
        if math.isnan(value):
            assert math.isnan(corrected)
            continue
        # Equal p values are rejected together.
        needed = sum(x <= value for x in known)
        least = min(level for level in levels if rejected(level) >= needed)
        assert corrected == pytest.approx(min(least, 1.0))


def test_differences_are_experiment_minus_reference_where_both_have_a_number() -> None:
    experiment = {(0, 0): 0.9, (1, 0): 0.8, (0, 1): 0.7, (1, 1): math.nan}
    reference = {(0, 0): 0.5, (1, 0): 0.5, (0, 1): 0.4, (1, 1): 0.4, (0, 2): 0.1}
    seeds = paired_seeds({0, 1}, {0, 1, 2})
    assert seeds == [(0, 0), (1, 1)]
    assert paired_differences(experiment, reference, seeds).tolist() == pytest.approx([0.4, 0.3, 0.3])
    del reference[1, 0]
    assert paired_differences(experiment, reference, seeds).tolist() == pytest.approx([0.4, 0.3])
    assert paired_differences({}, reference, seeds).size == 0


def test_what_learns_nothing_is_paired_with_every_seed() -> None:
    once, thrice = {(f, 0): 0.25 for f in range(2)}, {(f, s): f + s / 10 for f in range(2) for s in (0, 3, 5)}
    seeds = paired_seeds({0}, {0, 3, 5}, experiment_learns=False)
    found = paired_differences(once, thrice, seeds)
    assert found.tolist() == pytest.approx([0.25, -0.75, -0.05, -1.05, -0.25, -1.25])
    seeds = paired_seeds({0, 3, 5}, {0}, reference_learns=False)
    assert paired_differences(thrice, once, seeds).tolist() == pytest.approx((-found).tolist())
    assert paired_seeds({0}, {0}, experiment_learns=False, reference_learns=False) == [(0, 0)]
    assert paired_seeds({0}, {0, 3, 5}) == [(0, 0)]  # a seed that is lacking is no constant


def test_a_difference_is_significant_by_its_p_and_better_by_its_side() -> None:
    assert judge("accuracy", 0.03, 0.04, 0.05) == "better"
    assert judge("rmse", 0.03, 0.04, 0.05) == "worse"
    assert judge("rmse", -0.03, 0.04, 0.05) == "better"
    assert judge("accuracy", 0.03, 0.05, 0.05) == "not significant"
    assert judge("accuracy", 0.03, float("nan"), 0.05) == "not tested"
    assert judge("accuracy", float("nan"), 0.01, 0.05) == "not tested"
