"""Worlds: what is drawn is what the section says, and everything random follows from the seed."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from myostage.study.sections.world import World
from myostage.worlds.draw import Drawn, draw

STAGES = 5
BARE = {"overlap": 0, "distraction": 0, "animal_effect": 0, "batch_effect": 0, "variation": 0}


def bare(seed: int = 0, **keys: object) -> Drawn:
    """A world whose cells lie at their stages."""
    return draw(World(**(BARE | keys)), STAGES, seed)


def centres(world: Drawn, stages: int = STAGES) -> np.ndarray:
    return np.array([world.features[world.stages == stage].mean(0) for stage in range(stages)])


def test_a_seed_draws_one_world() -> None:
    world = World(proportion_error=0.3)
    one, same, other = (draw(world, STAGES, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.features, same.features)
    assert np.array_equal(one.stages, same.stages)
    assert not np.array_equal(one.features, other.features)
    assert all(np.array_equal(share, same.given[group]) for group, share in one.given.items())


def test_sizes_and_names() -> None:
    world = World(groups=3, animals=2, cells=7, dimensions=6, distractors=2)
    drawn = draw(world, STAGES, 0)
    assert drawn.features.shape == (3 * 2 * 7, 6)
    assert drawn.features.dtype == np.float32
    assert drawn.groups == ("group1", "group1", "group2", "group2", "group3", "group3")
    assert len(set(drawn.names)) == 6
    assert np.bincount(drawn.animals).tolist() == [7] * 6


@pytest.mark.parametrize("seed", range(5))
def test_stages_lie_in_order_on_a_curve_at_a_distance_of_one(seed: int) -> None:
    distances = cdist(*[centres(bare(seed))] * 2)
    # a chord is a little shorter than its arc of 1
    assert np.all((np.diag(distances, 1) > 0.85) & (np.diag(distances, 1) <= 1 + 1e-6))
    for stage in range(STAGES):
        later = distances[stage, stage:]
        assert np.all(np.diff(later) > 0)


def test_spacing_is_the_ratio_of_the_largest_to_the_smallest_distance() -> None:
    near = np.diag(cdist(*[centres(bare(spacing=4))] * 2), 1)
    assert near.max() / near.min() == pytest.approx(4, rel=0.15)
    assert near.mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_stages_lie_on_a_curve_in_another_order(seed: int) -> None:
    distances = cdist(*[centres(bare(seed, order="shuffled"))] * 2)
    declared = np.abs(np.arange(STAGES)[:, None] - np.arange(STAGES))
    pairs = np.triu_indices(STAGES, 1)
    assert spearmanr(distances[pairs], declared[pairs])[0] < 0.5
    # sorted by its place on the curve it is a curve again
    ends = np.unravel_index(distances.argmax(), distances.shape)
    order = distances[ends[0]].argsort()
    assert np.all(np.diag(distances[np.ix_(order, order)], 1) <= 1 + 1e-6)


def test_unordered_stages_are_all_as_far_from_each_other() -> None:
    distances = cdist(*[centres(bare(order="unordered"))] * 2)
    assert distances[~np.eye(STAGES, dtype=bool)] == pytest.approx(1, abs=1e-5)


def test_overlap_is_the_noise_of_every_dimension() -> None:
    drawn = bare(overlap=0.7, cells=2000)
    rest = drawn.features - centres(drawn)[drawn.stages]
    assert rest.std(0) == pytest.approx(0.7, rel=0.05)


def test_animals_and_batches_shift_the_distractors_and_leak_into_the_curve() -> None:
    keys = {"animals": 40, "cells": 1, "dimensions": 32, "distractors": 8}
    still = bare(**keys, batches=200)
    for effect in ("animal_effect", "batch_effect"):
        moved = bare(**keys, **{effect: 3.0}, leak=0.1, batches=200)
        shift = moved.features - still.features
        # rotation keeps the sum over dimensions
        assert (shift**2).sum(1).mean() == pytest.approx(9 * (8 + 0.01 * 24), rel=0.15)


def test_batches_are_shared_by_animals() -> None:
    drawn = bare(batch_effect=2.0, batches=2, animals=6, cells=50, mixing=1, variation=0)
    shifts = drawn.features - bare(animals=6, cells=50, mixing=1, batches=2).features
    assert len(np.unique(shifts.round(3), axis=0)) == 2


def test_mixing_goes_from_pure_groups_to_equal_ones() -> None:
    pure, mixed = bare(mixing=0), bare(mixing=1)
    assert np.array_equal(list(pure.true.values()), np.eye(STAGES))
    assert np.allclose(list(mixed.true.values()), 1 / STAGES)
    assert bare(mixing=0.5).true["group1"] == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1])


def test_cells_follow_the_true_proportions_and_not_the_given_ones() -> None:
    drawn = bare(proportion_error=0.5, cells=20_000, animals=1)
    for number, group in enumerate(drawn.groups):
        found = np.bincount(drawn.stages[drawn.animals == number], minlength=STAGES) / 20_000
        assert found == pytest.approx(drawn.true[group], abs=0.02)
        assert np.abs(drawn.given[group] - drawn.true[group]).max() > 0.02
        assert drawn.given[group].sum() == pytest.approx(1)
    right = bare()
    assert all(np.array_equal(right.given[group], share) for group, share in right.true.items())


def test_animals_differ_as_much_as_variation_says() -> None:
    drawn = bare(variation=0.1, groups=2, animals=400, cells=400, mixing=1)
    own = np.array(
        [np.bincount(drawn.stages[drawn.animals == a], minlength=STAGES) / 400 for a in range(800)]
    )
    p = drawn.true["group1"]
    # beside the animals' own variance that of counting 400 cells
    expected = p * (1 - p) * (0.1 + 0.9 / 400)
    known = p > 0
    assert own.var(0)[known] == pytest.approx(expected[known], rel=0.2)


def test_given_own_proportions_stand_for_drawn_ones() -> None:
    own = {"d3": np.array([0.7, 0.3, 0]), "d7": np.array([0, 0.4, 0.6])}
    drawn = draw(World(mixing=0), 3, 0, own)
    assert set(drawn.groups) == {"d3", "d7"}
    assert np.array_equal(drawn.true["d7"], own["d7"])


def test_a_world_that_leaves_no_curve_or_fills_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="leave the curve fewer than two"):
        World(dimensions=8, distractors=7)
    with pytest.raises(ValueError, match="make a world of"):
        World(cells=1_000_000, groups=100)
