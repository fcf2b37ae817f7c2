"""Pseudo-labels and the Dist loss against their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gaussian_kde

from myostage.learning.terms import dist
from support.formulas import normal

# With ties, and not in order.
TARGETS = torch.tensor([2.0, 0.5, 2.0, 3.25, 0.0, 0.5, 4.0, 1.0], dtype=torch.float64)


LEVELS = [0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]


def test_as_many_quantiles_as_targets_are_the_targets_sorted() -> None:
    targets = TARGETS.numpy()
    assert dist.pseudo_labels(targets, 8, "quantiles", 0, 4).tolist() == sorted(targets)
    assert dist.pseudo_labels(targets, 24, "quantiles", 0, 4).tolist() == sorted(targets.repeat(3))


@given(
    targets=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    count=st.integers(1, 40),
)
def test_quantiles_have_the_share_of_targets_below_and_above(targets: list[int], count: int) -> None:
    labels = dist.pseudo_labels(targets, count, "quantiles", 0, 4)
    n = len(targets)
    assert len(labels) == count
    for i, label in enumerate(labels):
        # whole numbers: at most (2 i + 1) / (2 count) of the targets are below, at most the rest above
        assert 2 * count * sum(y < label for y in targets) <= (2 * i + 1) * n
        assert 2 * count * sum(y > label for y in targets) <= (2 * count - 2 * i - 1) * n
    mirrored = dist.pseudo_labels([4 - y for y in targets], count, "quantiles", 0, 4)
    assert mirrored.tolist() == (4 - labels[::-1]).tolist()


@pytest.mark.parametrize("count", [1, 2, 7, 34])
@pytest.mark.parametrize("targets", [LEVELS, TARGETS.tolist(), [1.0, 1.1], [0.0, *[3.7] * 30]])
def test_kde_labels_split_the_density_within_the_scale_evenly(targets: list[float], count: int) -> None:
    labels = dist.pseudo_labels(targets, count, "kde", 0, 4)
    density = gaussian_kde(targets)
    # Trapezoids between the labels, each interval on its own grid.
    edges = [0.0, *labels, 4.0]
    assert edges == sorted(edges)
    masses = np.array(
        [
            np.trapezoid(density(grid), grid)
            for a, b in itertools.pairwise(edges)
            for grid in [np.linspace(a, b, 20001)]
        ]
    )
    expected = np.array([0.5, *[1.0] * (count - 1), 0.5]) / count
    assert masses / masses.sum() == pytest.approx(expected, abs=1e-6)


def test_kde_smears_the_mass_of_levels_and_quantiles_do_not() -> None:
    quantiles = dist.pseudo_labels(LEVELS, 40, "quantiles", 0, 4)
    kde = dist.pseudo_labels(LEVELS, 40, "kde", 0, 4)
    assert set(quantiles) == set(LEVELS)
    assert not set(kde) & set(LEVELS) and kde.min() > 0 and kde.max() < 4


@pytest.mark.parametrize("by", ["kde", "quantiles"])
def test_equal_targets_have_equal_labels(by: dist.LabelsBy) -> None:
    for targets in ([0.1] * 3, [0.1]):
        assert dist.pseudo_labels(targets, 4, by, 0, 4).tolist() == [0.1] * 4


def test_kde_of_nearly_equal_targets_is_finite() -> None:
    targets = np.array([0.1, 0.1 + 1e-16, 0.1 + 1e-15])
    labels = dist.pseudo_labels(targets, 7, "kde", 0, 4)
    assert labels == pytest.approx(0.1, abs=1e-14) and labels.tolist() == sorted(labels)


def test_pseudo_labels_that_do_not_exist_are_refused() -> None:
    for targets, count in (([], 3), ([1.0, 2.0], 0), ([1.0, math.nan], 3), ([[1.0]], 3)):
        with pytest.raises(ValueError, match="pseudo-labels"):
            dist.pseudo_labels(targets, count, "kde", 0, 4)
    with pytest.raises(ValueError, match="kde or quantiles"):
        dist.pseudo_labels([1.0], 3, "drawn", 0, 4)  # type: ignore[arg-type]
    for low, high in ((50, 60), (4, 0)):
        with pytest.raises(ValueError, match="no density"):
            dist.pseudo_labels([1.0, 1.5], 3, "kde", low, high)


def test_dist_is_the_least_mean_distance_over_all_assignments() -> None:
    for seed in range(5):
        scores, labels = normal(6, seed=seed), normal(6, seed=seed + 50)
        least = min(
            sum(abs(a - b) for a, b in zip(order, labels.tolist(), strict=True)) / 6
            for order in itertools.permutations(scores.tolist())
        )
        assert float(dist.dist(scores, labels)) == pytest.approx(least, rel=1e-12)


def test_dist_does_not_see_the_order_of_scores_or_labels() -> None:
    scores, labels = normal(9), normal(9, seed=1).numpy()
    expected = float(dist.dist(scores, labels))
    shuffled = dist.dist(scores[torch.randperm(9)], labels[::-1].copy())
    assert float(shuffled) == pytest.approx(expected, rel=1e-12)


def test_dist_sorts_scores_and_labels_in_one_direction() -> None:
    labels = np.array([0.0, 1.0, 3.0])
    assert float(dist.dist(torch.tensor([3.0, 0.0, 1.0]), labels)) == 0
    # against 3, 1, 0 it would be (2.5 + .5 + 3.5) / 3 in the place of .5
    assert float(dist.dist(torch.tensor([0.5, 1.5, 3.5]), labels)) == pytest.approx(0.5)


def test_gradient_of_dist() -> None:
    scores = normal(8).requires_grad_()
    labels = normal(8, seed=1).numpy()
    assert torch.autograd.gradcheck(lambda x: dist.dist(x, labels), (scores,))
    # A score above all labels goes down: the gradient has the sign of its own distance.
    high = torch.tensor([0.0, 9.0, 1.0], requires_grad=True)
    dist.dist(high, [0.5, 1.5, 2.5]).backward()
    assert high.grad is not None and high.grad.tolist() == pytest.approx([-1 / 3, 1 / 3, -1 / 3])


def test_dist_needs_as_many_labels_as_scores() -> None:
    for labels in (np.zeros(2), np.zeros(4), np.zeros((3, 1))):
        with pytest.raises(ValueError, match="pseudo-labels"):
            dist.dist(normal(3), labels)
