"""The likelihood of counts against all assignments of cells, scipy's binomial, and its gradient."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, poisson_binom

from myostage.learning.shares import apportion
from myostage.learning.terms.count import count, log_counts
from support.formulas import D3, normal


def test_probabilities_of_counts_are_sums_over_all_sets_of_cells() -> None:
    q = normal(6, 2).sigmoid()
    found = log_counts(q.log(), (1 - q).log()).exp()
    for kind in range(2):
        wanted = [0.0] * 7
        for chosen in itertools.product((0, 1), repeat=6):
            of_set = (p if taken else 1 - p for p, taken in zip(q[:, kind].tolist(), chosen, strict=True))
            wanted[sum(chosen)] += math.prod(of_set)
        assert found[kind].tolist() == pytest.approx(wanted, rel=1e-12)


def test_count_of_a_hundred_cells_is_scipys_poisson_binomial() -> None:
    logits, p = normal(100, 5), [0.59, 0.41, 0, 0, 0]
    q = logits.softmax(1).numpy()
    counts = [59, 41, 0, 0, 0]
    wanted = -sum(np.log(poisson_binom(q[:, k]).pmf(n)) for k, n in enumerate(counts))
    assert float(count(logits, p)) == pytest.approx(wanted, rel=1e-6)
    # two stages: the same event twice
    same = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64).expand(100, 2)
    assert float(count(same, [0.7, 0.3])) == pytest.approx(-2 * binom(100, 0.75).logpmf(70), rel=1e-10)


def test_count_is_finite_with_its_gradient_where_a_sure_classifier_is_wrong() -> None:
    logits = torch.zeros(100, 3)
    logits[:, 0] = 200
    logits.requires_grad_()
    loss = count(logits, [0, 0.5, 0.5])
    loss.backward()
    # a hundred cells of which none is of stage 0, and fifty of each other
    assert float(loss.detach()) > 1e4 and logits.grad is not None and logits.grad.isfinite().all()


def test_count_gradient_and_refusal() -> None:
    assert torch.autograd.gradcheck(lambda x: count(x, D3), [normal(12, 5).requires_grad_()])
    with pytest.raises(ValueError, match="proportions"):
        count(normal(4, 5), D3[:3])


@pytest.mark.parametrize(
    ("p", "cells", "wanted"),
    [
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([1 / 3, 1 / 3, 1 / 3], 100, [34, 33, 33]),
        ([0.01, 0, 0.97, 0.01, 0], 50, [1, 0, 49, 0, 0]),
        ([0.999, 0.001], 3, [3, 0]),
    ],
)
def test_cells_are_apportioned_by_largest_remainders(p: list[float], cells: int, wanted: list[int]) -> None:
    assert apportion(p, cells).tolist() == wanted
