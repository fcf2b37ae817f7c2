"""Squared EMD against a loop, by hand, and its gradient."""

import pytest
import torch

from myostage.learning.terms.emd import emd
from support.formulas import D5, normal


def loop(logits: torch.Tensor, p: list[float]) -> float:
    shares = logits.softmax(1).mean(0).tolist()
    return sum((sum(shares[: k + 1]) - sum(p[: k + 1])) ** 2 for k in range(len(p)))


def test_emd_is_the_squared_difference_of_cumulative_shares() -> None:
    logits = 2 * normal(40, 5)
    assert float(emd(logits, D5)) == pytest.approx(loop(logits, D5), abs=1e-12)
    assert float(emd(torch.zeros(6, 5), [0.2] * 5)) == pytest.approx(0, abs=1e-12)


def test_emd_grows_with_the_distance_of_stages_and_counts_both_ends_alike() -> None:
    sure = 50 * torch.eye(4, dtype=torch.float64)
    found = [float(emd(sure[[stage] * 3], [1, 0, 0, 0])) for stage in range(4)]
    assert found == pytest.approx([0, 1, 2, 3], abs=1e-9)
    assert float(emd(sure[[0] * 3], [0, 0, 0, 1])) == pytest.approx(3, abs=1e-9)


def test_emd_gradient_and_refusal() -> None:
    assert torch.autograd.gradcheck(lambda x: emd(x, D5), [normal(7, 5).requires_grad_()])
    with pytest.raises(ValueError, match="proportions"):
        emd(normal(4, 5), D5[:3])
