"""Mini-bags: their counts, weights and loss against a loop, and its gradient."""

import math

import numpy as np
import pytest
import torch

from myostage.learning.terms.minibag import log_chance, minibag
from myostage.learning.terms.prop import prop
from myostage.study.sections.training import Training
from support.formulas import D3, D5, normal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_chance_of_counts_is_the_share_of_samples() -> None:
    counts, drawn = [4, 3, 2], [2, 1, 1]
    ways = math.prod(math.comb(n, x) for n, x in zip(counts, drawn, strict=True))
    assert log_chance(counts, drawn) == pytest.approx(math.log(ways / math.comb(9, 4)))


def test_minibags_are_samples_weighted_by_the_chance_of_their_counts() -> None:
    bags = [(normal(40, 5), D3), (normal(60, 5, seed=1), D5)]
    found = float(minibag(bags, cells=10, minibags=3, generator=seeded()))
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=seeded())))
    losses, chances = [], []
    for (logits, p), n in zip(bags, (40, 60), strict=True):
        counts = np.round(np.array(p) * n).astype(int)
        assert counts.sum() == n
        for _ in range(3):
            rows = rng.choice(n, 10, replace=False)
            drawn = rng.multivariate_hypergeometric(counts, 10)
            assert drawn.sum() == 10 and (drawn <= counts).all()
            losses.append(float(prop(logits[rows], drawn / 10)))
            chances.append(math.exp(log_chance(counts, drawn)))
    assert found == pytest.approx(np.average(losses, weights=chances), rel=1e-12)


def test_a_minibag_of_all_cells_is_the_bag() -> None:
    logits = normal(20, 3)
    found = minibag([(logits, [0.5, 0.25, 0.25])], cells=20, minibags=2)
    assert float(found) == pytest.approx(float(prop(logits, [0.5, 0.25, 0.25])), rel=1e-12)


def test_minibag_gradient_and_refusals() -> None:
    assert torch.autograd.gradcheck(
        lambda x: minibag([(x, D5)], cells=5, minibags=2, generator=seeded()),
        [normal(12, 5).requires_grad_()],
    )
    with pytest.raises(ValueError, match="a mini-bag of 13 cells of a bag of 12"):
        minibag([(normal(12, 5), D5)], cells=13, minibags=1)


def test_minibags_that_are_larger_than_bags_are_a_fault_of_the_study() -> None:
    from myostage.learning.term import TERMS

    training = Training(bag_size=20)
    assert TERMS["minibag"].faults(training, False) == []
    assert TERMS["minibag"].faults(training, True) == [
        "minibag_cells is 25 and a bag has 20 cells; lower minibag_cells, or raise bag_size"
    ]
