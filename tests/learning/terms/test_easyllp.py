"""EasyLLP: unbiased where its assumption holds, by hand, and its gradient."""

import itertools
import math

import pytest
import torch

from myostage.learning.terms.easyllp import easyllp
from support.formulas import D5, normal


def test_easyllp_is_the_cross_entropy_of_cells_on_average_over_counted_bags() -> None:
    """All bags of three cells drawn from one population, with the probability of their labels."""
    prior = [0.5, 0.3, 0.2]
    kinds = 2 * normal(3, 3)  # a cell's logits are a function of its stage
    scores = kinds.log_softmax(1)
    expected = -sum(p * float(scores[k, k]) for k, p in enumerate(prior))
    total = 0.0
    for stages in itertools.product(range(3), repeat=3):
        chance = math.prod(prior[k] for k in stages)
        counted = [stages.count(k) / 3 for k in range(3)]
        total += chance * float(easyllp(kinds[list(stages)], counted, prior))
    assert total == pytest.approx(expected, rel=1e-12)


def test_easyllp_of_average_bags_is_cross_entropy_with_the_prior_and_otherwise_may_be_negative() -> None:
    logits = normal(5, 5)
    plain = float(-(logits.log_softmax(1) @ torch.tensor(D5, dtype=torch.float64)).mean())
    assert float(easyllp(logits, D5, D5)) == pytest.approx(plain, rel=1e-12)
    sure = torch.zeros(100, 2)
    sure[:, 0] = 100
    # by hand: weights 50.5 and -49.5 of log-probabilities 0 and -100
    assert float(easyllp(sure, [1, 0], [0.5, 0.5])) == pytest.approx(-4950, rel=1e-6)


def test_easyllp_learns_cells_from_counted_bags_of_one_population() -> None:
    """Three stages in a plane, .4 of cells of the most common; 60 bags of 8 cells."""
    generator = torch.Generator().manual_seed(0)
    prior = torch.tensor([0.4, 0.3, 0.3])
    stages = torch.multinomial(prior.expand(60, 3), 8, replacement=True, generator=generator)
    places = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    cells = places[stages] + torch.randn(60, 8, 2, generator=generator)
    counted = torch.nn.functional.one_hot(stages).float().mean(1)
    model = torch.nn.Linear(2, 3)
    torch.nn.init.zeros_(model.weight)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(40):
        optimiser.zero_grad()
        losses = [easyllp(model(bag), p, prior) for bag, p in zip(cells, counted, strict=True)]
        torch.stack(losses).mean().backward()
        optimiser.step()
    assert float((model(cells).argmax(2) == stages).float().mean()) > 0.75


def test_easyllp_gradient_and_refusal() -> None:
    prior = [0.2] * 5
    assert torch.autograd.gradcheck(lambda x: easyllp(x, D5, prior), [normal(7, 5).requires_grad_()])
    with pytest.raises(ValueError, match="proportions"):
        easyllp(normal(4, 5), D5, prior[:3])
