"""Paired comparisons against closed forms, slow definitions and simulated studies with a known difference."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from myostage.evaluation import results
from myostage.evaluation.comparisons import holm, judge, paired_differences, paired_seeds, paired_test

Floats = NDArray[np.float64]


def difference(one: Floats, other: Floats, repeats: int = 1000) -> tuple[Floats, Floats, Floats]:
    """Of right cells over all cells, mean over seeds; both [slides, seeds, 2]."""
    slides = tuple(map(str, range(len(one))))
    mine, theirs = (
        results.Measure(("ratio",), results.additive(results.mean_of), slides, counts, 0)
        for counts in (one, other)
    )
    return results.difference(mine, theirs, [(seed, seed) for seed in range(one.shape[1])], repeats)


def test_paired_test_by_hand() -> None:
    """Mean .02 and variance .0002 of two differences, two folds: t = .02 / sqrt((1/2 + 1) .0002), df 1.

    Student's t with one degree of freedom is Cauchy's distribution, whose tail is an arcus tangent.
    """
    found = paired_test([0.01, 0.03], folds=2)
    t = 0.02 / math.sqrt(1.5 * 0.0002)
    assert (found.pairs, found.mean, found.sd) == (2, pytest.approx(0.02), pytest.approx(math.sqrt(0.0002)))
    assert found.effect_size == pytest.approx(math.sqrt(2))
    assert found.p == pytest.approx(2 * (0.5 - math.atan(t) / math.pi))
    quantile = [math.tan(math.pi * (q - 0.5)) for q in (0.975, 0.8)]
    assert found.minimum_detectable == pytest.approx(sum(quantile) * math.sqrt(1.5 * 0.0002))


@given(seed=st.integers(0, 10_000), n=st.integers(2, 30), folds=st.integers(2, 10))
def test_correction_shrinks_the_plain_paired_t_test(seed: int, n: int, folds: int) -> None:
    """t is that of scipy's plain test times sqrt((1/n) / (1/n + 1/(folds - 1)))."""
    values = np.random.default_rng(seed).normal(0.3, 1, n)
    plain = stats.ttest_1samp(values, 0).statistic
    t = plain * math.sqrt((1 / n) / (1 / n + 1 / (folds - 1)))
    found = paired_test(values, folds)
    assert found.p == pytest.approx(2 * stats.t.cdf(-abs(t), n - 1))
    assert found.effect_size == pytest.approx(mean(values) / stdev(values))
    assert paired_test(-values, folds).p == pytest.approx(found.p)
    assert paired_test(-values, folds).effect_size == pytest.approx(-found.effect_size)


def test_level_and_power_set_the_minimum_detectable_difference() -> None:
    values = [0.1, -0.1, 0.2, 0.0, 0.05]
    strict = paired_test(values, 5, alpha=0.01, power=0.9).minimum_detectable
    error = stdev(values) * math.sqrt(1 / 5 + 1 / 4)
    assert strict == pytest.approx((stats.t.ppf(0.995, 4) + stats.t.ppf(0.9, 4)) * error)
    assert strict > paired_test(values, 5).minimum_detectable


def test_what_says_nothing_is_missing() -> None:
    nothing, one, same, constant = (paired_test(d, 3) for d in ([], [0.1], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1]))
    assert nothing.pairs == 0 and math.isnan(nothing.p) and math.isnan(nothing.minimum_detectable)
    assert one.pairs == 1 and one.mean == 0.1 and math.isnan(one.p) and math.isnan(one.effect_size)
    assert math.isnan(one.minimum_detectable)
    assert (same.p, same.mean) == (1, 0) and math.isnan(same.effect_size)
    assert math.isnan(same.minimum_detectable)
    assert constant.p == 0 and math.isnan(constant.effect_size)
    assert paired_test([0.0], 3).p == 1
    with pytest.raises(ValueError, match="1 folds"):
        paired_test([0.1, 0.2], 1)


def resampled(rng: np.random.Generator, folds: int, n: int, effect: float) -> Floats:
    """Differences as Nadeau and Bengio model them: sd 1, correlation n_test / (n_test + n_train)."""
    shared = math.sqrt(1 / folds) * rng.normal()
    return effect + shared + math.sqrt(1 - 1 / folds) * rng.normal(size=n)


def test_level_and_power_hold_in_simulation() -> None:
    rng, folds, n = np.random.default_rng(11), 5, 15
    # Differences whose standard deviation is exactly the one that is expected within a study.
    typical = np.arange(n, dtype=np.float64)
    typical *= math.sqrt(1 - 1 / folds) / typical.std(ddof=1)
    effect = paired_test(typical, folds).minimum_detectable
    found = {
        true: np.mean([paired_test(resampled(rng, folds, n, true), folds).p < 0.05 for _ in range(1000)])
        for true in (0.0, effect)
    }
    assert found[0.0] == pytest.approx(0.05, abs=0.02)
    assert found[effect] == pytest.approx(0.8, abs=0.04)
    plain = np.mean([stats.ttest_1samp(resampled(rng, folds, n, 0), 0).pvalue < 0.05 for _ in range(300)])
    assert plain > 0.2  # what the correction is for


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


def test_interval_is_that_of_the_same_slides_drawn_for_both() -> None:
    """Draw slides by hand, and compare with the difference of the two ratios of the joined slides."""
    rng = np.random.default_rng(2)
    one, other = rng.integers(1, 20, (2, 6, 3, 2)).astype(float)
    found, low, high = difference(one, other, repeats=300)

    def by_hand(drawn: NDArray[np.int64]) -> float:
        a, b = (counts[drawn].sum(0) for counts in (one, other))
        return float(np.mean(a[:, 0] / a[:, 1] - b[:, 0] / b[:, 1]))

    times = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=300)
    replicates = [by_hand(np.repeat(np.arange(6), row)) for row in times]
    assert found.tolist() == pytest.approx([by_hand(np.arange(6))])
    assert [*low, *high] == pytest.approx(np.quantile(replicates, (0.025, 0.975)).tolist())


def test_an_experiment_differs_from_itself_by_exactly_nothing() -> None:
    counts = np.random.default_rng(0).uniform(1, 2, (5, 2, 2))
    assert [float(x[0]) for x in difference(counts, counts)] == [0, 0, 0]


def test_interval_covers_the_true_difference_of_simulated_slides() -> None:
    """Slides are hard or easy for both: a paired interval covers, and is narrower than an unpaired one."""
    rng, slides, cells, true = np.random.default_rng(4), 40, 200, 0.05
    covered, widths, apart = [], [], []
    for _ in range(250):
        ease = rng.uniform(0.4, 0.9, slides)
        one, other = (
            np.stack([rng.binomial(cells, p), np.full(slides, cells)], axis=1)[:, None].astype(float)
            for p in (ease + true, ease)
        )
        _, low, high = difference(one, other, repeats=200)
        covered.append(low[0] <= true <= high[0])
        widths.append(high[0] - low[0])
        _, low, high = difference(one, rng.permutation(other), repeats=200)
        apart.append(high[0] - low[0])
    assert 0.9 <= np.mean(covered) <= 0.99
    assert np.mean(widths) < 0.5 * np.mean(apart)


def test_a_difference_is_significant_by_its_interval_and_its_p_alike() -> None:
    assert judge("accuracy", 0.01, 0.05, 0.04, 0.05) == "better"
    assert judge("rmse", 0.01, 0.05, 0.04, 0.05) == "worse"
    assert judge("rmse", -0.05, -0.01, 0.04, 0.05) == "better"
    assert judge("accuracy", 0.01, 0.05, 0.05, 0.05) == "not significant"
    assert judge("accuracy", -0.01, 0.05, 0.04, 0.05) == "not significant"
    assert judge("accuracy", 0.01, 0.05, float("nan"), 0.05) == "not tested"
    assert judge("accuracy", float("nan"), 0.05, 0.01, 0.05) == "not tested"
