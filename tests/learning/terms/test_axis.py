"""L_axis against drawn cells, and what it sees of the order of stages."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from myostage.learning.terms import axis
from support.formulas import D5, normal


def test_axis_of_one_stage_is_the_distance_from_normal_quantiles() -> None:
    wanted = 2 + 0.4 * norm.ppf((np.arange(7) + 0.5) / 7)
    places = normal(7)
    expected = np.mean((np.sort(places.numpy()) - wanted) ** 2)
    assert float(axis.axis(places, [0, 0, 1, 0, 0], 0.4)) == pytest.approx(expected, rel=1e-7)


def test_cells_that_overlap_as_much_as_stated_cost_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    stages = np.repeat(np.arange(3), [1700, 2800, 5500])
    places = torch.from_numpy(stages + 0.4 * rng.normal(size=len(stages)))
    assert float(axis.axis(places, D5, 0.4)) < 2e-3


def test_axis_sees_reversal_swaps_and_collapse() -> None:
    p = [0.4, 0.3, 0.2, 0.1, 0.0]
    true = torch.tensor([0.0] * 4 + [1] * 3 + [2] * 2 + [3])
    right = float(axis.axis(true, p, 0.4))
    reversed_ = float(axis.axis(4 - true, p, 0.4))
    swapped = float(axis.axis(torch.tensor([1.0] * 4 + [0] * 3 + [2] * 2 + [3]), p, 0.4))
    collapsed = float(axis.axis(torch.full((10,), 1.0), p, 0.4))
    assert right < 0.2 and right < swapped < reversed_ and right + 0.5 < collapsed


def test_axis_gradient_by_finite_differences() -> None:
    places = normal(6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: axis.axis(x, D5, 0.4), places)


def test_axis_refuses() -> None:
    for places, p, noise in ((normal(0), D5, 0.4), (normal(4), [0.0, 0.0], 0.4), (normal(4), D5, 0.0)):
        with pytest.raises(ValueError, match="make no axis"):
            axis.axis(places, p, noise)
