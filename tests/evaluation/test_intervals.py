"""Estimates with two sources of noise against scipy, values computed by hand and simulated studies."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from myostage.evaluation.intervals import (
    Estimate,
    estimate_by_folds,
    estimate_effect,
    find_lack,
    find_mean,
    find_pseudo_values,
    find_spread,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The benchmark, which is no part of the library."""
    spec = importlib.util.spec_from_file_location("bench_coverage", ROOT / "benchmarks/bench_coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_variance_of_four_animals_two_folds_and_two_seeds_by_hand() -> None:
    """Means over seeds 1, 3, 2, 6 about 3: MS_A = 14/3. Folds' means by seed: 1, 3 and 3, 5, variance 2 each.

    c of two folds of two animals is (4 - 8/4)/3 = 2/3, so the variance is 14/3/4 + 2 (1/2 - 2/3/4)/2 = 1.5.
    """
    values = np.array([[0.0, 2.0], [2.0, 4.0], [1.0, 3.0], [5.0, 7.0]])
    found = estimate_effect(values, [0, 0, 1, 1])
    a, b = 14 / 12, 1 / 3
    df = (a + b) ** 2 / (a**2 / 3 + b**2 / 2)
    assert (found.value, found.error, found.df) == pytest.approx((3, math.sqrt(1.5), df))
    assert found.method == "animals and runs"
    low, high = found.find_interval()
    assert (low, high) == pytest.approx(stats.t.interval(0.95, df, 3, math.sqrt(1.5)))
    assert found.p == pytest.approx(2 * stats.t.sf(3 / math.sqrt(1.5), df))


def test_one_seed_is_the_t_of_folds_and_what_learns_nothing_that_of_animals() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, (12, 1))
    folds = np.arange(12) % 3
    of_folds = [values[folds == fold].mean() for fold in range(3)]
    found = estimate_effect(values, folds)
    assert found.method == "folds" and found.p == pytest.approx(stats.ttest_1samp(of_folds, 0).pvalue)
    plain = estimate_effect(values, folds, learns=False)
    assert plain.method == "animals" and plain.p == pytest.approx(stats.ttest_1samp(values[:, 0], 0).pvalue)


def test_the_t_over_folds_of_several_seeds_is_that_of_their_means() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, (2, 12, 4))
    folds = np.arange(12) % 4
    of_folds = np.stack([values[:, folds == fold].mean((1, 2)) for fold in range(4)])
    expected = stats.ttest_1samp(of_folds, 0)
    found = estimate_by_folds(values, folds)
    assert found.p.tolist() == pytest.approx(expected.pvalue.tolist())
    interval = expected.confidence_interval(0.95)
    assert found.find_interval()[0].tolist() == pytest.approx(interval.low.tolist())


@given(seed=st.integers(0, 10_000), animals=st.integers(6, 30), seeds=st.integers(1, 4))
def test_what_differs_between_days_is_no_noise(seed: int, animals: int, seeds: int) -> None:
    """Errors stay the same when whole days are shifted, and grow when days are taken for noise."""
    rng = np.random.default_rng(seed)
    days, folds = np.arange(animals) % 3, np.arange(animals) // 2 % 3
    values = rng.normal(0, 1, (animals, seeds))
    shifted = values + np.array([0.0, 50.0, 200.0])[days][:, None]
    for learns in (True, False):
        one, other = (estimate_effect(v, folds, days, learns=learns) for v in (values, shifted))
        assert other.error == pytest.approx(float(one.error), rel=1e-6)
        assert estimate_effect(shifted, folds, learns=learns).error > other.error


@given(seed=st.integers(0, 10_000), seeds=st.integers(1, 4), alpha=st.floats(0.001, 0.3))
def test_p_and_interval_never_contradict_each_other(seed: int, seeds: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.normal(), 1, (50, 9, seeds))
    folds = np.arange(9) % 3
    for estimate in (estimate_effect(values, folds), estimate_by_folds(values, folds)):
        low, high = estimate.find_interval(1 - alpha)
        assert (((low > 0) | (high < 0)) == (estimate.p < alpha)).all()


def test_no_spread_says_nothing_but_that_a_method_equals_itself() -> None:
    folds = [0, 0, 1, 1, 2, 2]
    same, constant = (estimate_effect(np.full((6, 2), value), folds) for value in (0.0, 0.1))
    assert (*same.find_interval(), same.p) == (0, 0, 1)
    assert np.isnan([*constant.find_interval(), constant.p, constant.find_detectable(0.05, 0.8)]).all()
    alone = estimate_effect(np.ones((1, 2)), [0])
    assert alone.method == "" and np.isnan([*alone.find_interval(), alone.p]).all()
    assert np.isnan(find_spread(np.ones((1, 2))))
    assert estimate_by_folds(np.ones((4, 2)), [1, 1, 1, 1]).method == ""


def test_the_minimum_detectable_effect_is_found_with_its_power() -> None:
    """By the noncentral t: scipy's distribution function at the critical value leaves the power over."""
    estimate = Estimate(np.array(0.0), np.array(0.02), np.array(7.0), "animals and runs")
    for alpha, power in ((0.05, 0.8), (0.05 / 36, 0.9)):
        found = float(estimate.find_detectable(alpha, power))
        critical = stats.t.ppf(1 - alpha / 2, 7)
        assert stats.nct.sf(critical, 7, found / 0.02) == pytest.approx(power, abs=1e-6)
    by_family = [float(estimate.find_detectable(0.05 / tests, 0.8)) for tests in (1, 6, 36)]
    assert 1.3 < by_family[1] / by_family[0] < 2.2 and by_family[2] > by_family[1]


def test_the_number_of_animals_that_a_difference_needs() -> None:
    """By simulation: as many animals find the difference with the stated power; and never more with fewer."""
    spread, alpha, power, effect = 0.12, 0.05 / 6, 0.8, 0.05
    seen = Estimate(np.array(0.01), np.array(spread / np.sqrt(4)), np.array(3.0), "animals")
    needed = seen.find_units(4, effect, alpha, power)
    assert needed == int(needed) and 60 < needed < 120
    rng = np.random.default_rng(0)
    for count, within in ((int(needed), (0.78, 0.84)), (int(0.6 * needed), (0.3, 0.65))):
        drawn = rng.normal(effect, spread, (20_000, count))
        # the design grows, its degrees of freedom (3 of 4 animals) with it
        t = drawn.mean(1) / (drawn.std(1, ddof=1) / np.sqrt(count))
        found = (2 * stats.t.sf(abs(t), 0.75 * count) < alpha).mean()
        assert within[0] < found < within[1]
    assert seen.find_units(4, 0.5, alpha, power) < 10 and seen.find_units(4, 1e-6, alpha, power) == np.inf
    # three folds of five animals: eight animals are the fewest with a degree of freedom
    folds = Estimate(np.array(0.01), np.array(1e-6), np.array(2.0), "folds")
    assert folds.find_units(15, effect, alpha, power) == 8
    nothing = Estimate(np.array(0.0), np.array(np.nan), np.array(np.nan), "")
    assert np.isnan(nothing.find_units(4, effect, alpha, power))


def test_pseudo_values_of_a_ratio_are_those_of_its_definition() -> None:
    """Slides of one animal leave together, and the values of a mean of equal animals are the animals' own."""
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 20, (5, 2, 2)).astype(float)  # slides, seeds, right and all
    animals = np.array(["b", "a", "b", "c", "a"])

    def ratio(weights: Any) -> Any:
        sums = np.tensordot(weights, counts, axes=1)
        return sums[..., :1] / sums[..., 1:]

    found = find_pseudo_values(ratio, animals)
    assert found.shape == (1, 3, 2)
    whole = counts.sum(0)
    for place, animal in enumerate("abc"):
        left = counts[animals != animal].sum(0)
        expected = 3 * whole[:, 0] / whole[:, 1] - 2 * left[:, 0] / left[:, 1]
        assert found[0, place] == pytest.approx(expected)
    own = find_pseudo_values(lambda w: np.tensordot(w, counts, axes=1) / w.sum(-1)[..., None, None], range(5))
    assert own == pytest.approx(np.moveaxis(counts, -1, 0))


def test_a_mean_over_slides_takes_animals_for_units() -> None:
    """Slides of an animal first; missing values do not count; a single animal says nothing of others."""
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 4.0], [7.0, np.nan]])
    mean, low, high = find_mean(values, ["a", "a", "b", "c"])
    assert mean.tolist() == pytest.approx([np.mean([2, 5, 7]), 3])
    interval = stats.ttest_1samp([2, 5, 7], 0).confidence_interval(0.95)
    assert (low[0], high[0]) == pytest.approx((interval.low, interval.high))
    assert np.isfinite(low[1]) and np.isnan(find_mean(values, ["a"] * 4)[1:]).all()
    alone = stats.ttest_1samp([1, 3, 5, 7], 0).confidence_interval(0.95)
    assert find_mean(values[:, 0]) == pytest.approx((4, alone.low, alone.high))


def test_what_a_design_lacks_is_said_with_what_would_do() -> None:
    assert find_lack(10, 3) == find_lack(10, 3, days=5) == ""
    assert find_lack(5, 3) == "5 of the 10 animals"
    assert find_lack(12, 3, days=10) == "12 of the 15 animals"
    assert find_lack(9, 2) == "9 of the 10 animals and 2 of the 3 folds"


@pytest.mark.parametrize("seeds", [1, 2, 5])
@pytest.mark.parametrize("sections", [1, 3])
def test_intervals_cover_and_equal_methods_seldom_differ(
    coverage: ModuleType, seeds: int, sections: int
) -> None:
    """A small version of the benchmark; the limits are three standard errors wider than what is wanted."""
    found = coverage.simulate_additive(coverage.Setting(15, sections, 3, seeds, 0.01, 0.01), 400)
    for name in ("mean", "difference", "mean_folds", "difference_folds"):
        assert 0.9 <= found[name] <= 0.99
    assert 0.01 <= found["difference_false"] <= 0.1
    assert 0.72 <= found["difference_power"] <= 0.88
    assert found["difference_slides"] < 0.85  # what resampling slides alone would cover
    kappa = coverage.simulate_kappa(coverage.Setting(15, sections, 3, seeds, 0.01, 0.01), 200)
    assert 0.88 <= kappa["kappa"] <= 1 and 0.88 <= kappa["kappa_mean"] <= 1


def test_more_seeds_do_not_make_equal_methods_differ(coverage: ModuleType) -> None:
    """Without any noise of runs, where the corrected resampled t-test does."""
    found = [coverage.simulate_additive(coverage.Setting(20, 1, 3, n, 0.02, 0.0), 600) for n in (2, 5)]
    assert all(0.02 <= one["difference_false"] <= 0.085 for one in found)
    assert found[1]["false_corrected"] > 0.09
