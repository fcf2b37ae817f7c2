"""L_quantile against scipy's Wasserstein distance, and what it sees of the order of stages."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from myostage.learning.terms import prop, quantile
from support.formulas import D3, D5, normal


def sure(stages: list[int]) -> torch.Tensor:
    """Logits of cells that are each of a stage, of five."""
    return 40 * torch.eye(5, dtype=torch.float64)[stages]


@pytest.mark.parametrize("p", [D3, D5, [0.2] * 5, [0, 0, 0, 0, 1]])
def test_quantile_is_the_wasserstein_distance(p: list[float]) -> None:
    logits = 2 * normal(13, 5)
    expected = (logits.softmax(1) @ torch.arange(5.0, dtype=torch.float64)).numpy()
    wanted = wasserstein_distance(expected, np.arange(5), v_weights=p)
    assert float(quantile.quantile(logits, p)) == pytest.approx(wanted, rel=1e-9)


def test_quantile_gradient_by_finite_differences() -> None:
    logits = normal(6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: quantile.quantile(x, D5), logits)


def test_quantile_sees_reversal_and_swaps() -> None:
    p = [0.4, 0.3, 0.2, 0.1, 0.0]
    true = [0] * 4 + [1] * 3 + [2] * 2 + [3]
    assert float(quantile.quantile(sure(true), p)) == pytest.approx(0, abs=1e-9)
    assert float(quantile.quantile(sure([4 - k for k in true]), p)) == pytest.approx(2, abs=1e-6)
    adjacent = [{0: 1, 1: 0}.get(k, k) for k in true]
    distant = [{0: 3, 3: 0}.get(k, k) for k in true]
    near, far = (float(quantile.quantile(sure(x), p)) for x in (adjacent, distant))
    assert 0.05 < near < far


def test_quantile_sees_that_every_cell_is_given_the_proportions() -> None:
    p = torch.tensor([0.2] * 5, dtype=torch.float64)
    alike = p.log().expand(10, 5)
    assert float(prop.prop(alike, p)) == pytest.approx(0, abs=1e-12)
    assert float(quantile.quantile(alike, p)) == pytest.approx(1.2)  # mean of 2, 1, 0, 1, 2


def test_quantile_does_not_see_the_order_of_cells() -> None:
    logits = normal(9, 5)
    one, other = (float(quantile.quantile(x, D3)) for x in (logits, logits[torch.randperm(9)]))
    assert one == pytest.approx(other, rel=1e-12)


def test_quantile_refuses() -> None:
    with pytest.raises(ValueError, match="proportions"):
        quantile.quantile(normal(4, 5), D3[:3])
