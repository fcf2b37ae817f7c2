"""L_spread against a slow loop, and what it sees of the order of stages."""

import pytest
import torch

from myostage.learning.terms import spread
from support.formulas import normal

COSTS = {
    "apart": lambda d: float(d >= 2),
    "absolute": float,
    "squared": lambda d: float(d * d),
    "any": lambda d: float(d >= 1),
}


@pytest.mark.parametrize("distance", sorted(COSTS))
def test_spread_is_the_formula(distance: spread.Distance) -> None:
    logits = normal(7, 5)
    q = logits.softmax(1).tolist()
    pairs = [(k, m) for k in range(5) for m in range(5)]
    expected = sum(cell[k] * cell[m] * COSTS[distance](abs(k - m)) for cell in q for k, m in pairs) / 7
    assert float(spread.spread(logits, distance)) == pytest.approx(expected, rel=1e-12)


def test_spread_absolute_and_squared_are_the_entropy_of_rps_and_the_variance() -> None:
    q = normal(7, 5).softmax(1)
    below, k = q.cumsum(1), torch.arange(5.0, dtype=torch.float64)
    entropy = (below * (1 - below)).sum(1).mean()
    variance = (q @ k.square() - (q @ k).square()).mean()
    assert float(spread.spread(q.log(), "absolute")) == pytest.approx(2 * float(entropy), rel=1e-12)
    assert float(spread.spread(q.log(), "squared")) == pytest.approx(2 * float(variance), rel=1e-12)


@pytest.mark.parametrize("distance", sorted(COSTS))
def test_spread_gradient_by_finite_differences(distance: spread.Distance) -> None:
    logits = normal(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spread.spread(x, distance), logits)


def test_a_cell_between_adjacent_stages_costs_nothing_and_between_distant_ones_it_does() -> None:
    adjacent = torch.tensor([[0.0, 0.5, 0.5, 0, 0]]).log()
    distant = torch.tensor([[0.5, 0.0, 0.0, 0, 0.5]]).log()
    assert float(spread.spread(adjacent)) == 0
    assert float(spread.spread(distant)) == pytest.approx(0.5)
    # the control sees no order
    assert float(spread.spread(adjacent, "any")) == pytest.approx(float(spread.spread(distant, "any")))


def test_predicting_the_proportions_for_every_cell_costs_more_than_one_stage_a_cell() -> None:
    p = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2])
    alike = p.log().expand(5, 5)
    sure = 30 * torch.eye(5)
    assert float(spread.spread(alike)) == pytest.approx(12 / 25)
    assert float(spread.spread(sure)) == pytest.approx(0, abs=1e-9)


def test_spread_refuses() -> None:
    with pytest.raises(ValueError, match="not those of a bag"):
        spread.spread(normal(0, 5))
    with pytest.raises(ValueError, match="distance of spread"):
        spread.spread(normal(4, 5), "far")  # type: ignore[arg-type]
