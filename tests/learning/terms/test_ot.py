"""Transport plans against their definition, and the pseudo-labels they give."""

import itertools
import math

import pytest
import torch

from myostage.learning.terms import cross_entropy, ot
from support.formulas import D3, D5, normal


@pytest.mark.parametrize("sure", [1.0, 3.0])
def test_transport_plan_meets_its_marginals_and_is_of_its_form(sure: float) -> None:
    logits = sure * normal(60, 5)
    plan = ot.transport_plan(logits, D5, entropy=1.0)
    assert torch.allclose(plan.sum(1), torch.full((60,), 1 / 60, dtype=torch.float64), atol=1e-15)
    assert plan.sum(0).tolist() == pytest.approx(D5, abs=1e-5)
    assert (plan[:, 3:] == 0).all() and (plan[:, :3] > 0).all()
    # The optimum is unique and is a_i softmax_ik^(1 / entropy) b_k: what is left of the ratio has rank one.
    rest = (plan[:, :3].log() - logits.log_softmax(1)[:, :3]).exp()
    assert torch.linalg.svdvals(rest)[1] < 1e-12 * torch.linalg.svdvals(rest)[0]


def test_transport_plan_of_a_sure_classifier_that_is_wrong_still_meets_the_shares() -> None:
    logits = 10 * normal(100, 5)
    plan = ot.transport_plan(logits, [0.12, 0.05, 0.77, 0.06, 0], entropy=0.1)
    assert plan.sum(0).tolist() == pytest.approx([0.12, 0.05, 0.77, 0.06, 0], abs=0.01)


def test_transport_without_entropy_is_the_best_assignment() -> None:
    logits = normal(8, 3)
    counts = [1, 4, 3]
    assigned = ot.transport_plan(logits, [n / 8 for n in counts], entropy=1e-3) * 8
    scores = logits.log_softmax(1)
    labels = [k for k, n in enumerate(counts) for _ in range(n)]

    def gain(rows: tuple[int, ...]) -> float:
        return float(scores[range(8), rows].sum())

    best = max(set(itertools.permutations(labels)), key=gain)
    assert assigned.argmax(1).tolist() == list(best)
    assert float(assigned.max(1).values.min()) > 0.99
    found = ot.ot(logits, [n / 8 for n in counts], entropy=1e-3)
    assert float(found) == pytest.approx(-gain(best) / 8, abs=1e-3)


def test_ot_by_hand() -> None:
    # A classifier that says nothing is given the proportions; one stage alone is plain cross-entropy.
    assert float(ot.ot(torch.zeros(6, 5), D5, entropy=0.1)) == pytest.approx(math.log(5), rel=1e-6)
    logits = normal(6, 3)
    found = ot.ot(logits, [0, 1, 0], entropy=0.1)
    assert float(found) == pytest.approx(float(cross_entropy.cross_entropy(logits, torch.ones(6))), rel=1e-12)


def test_ot_does_not_see_the_order_of_cells() -> None:
    logits = normal(30, 5)
    shuffle = torch.randperm(30)
    plan = ot.transport_plan(logits, D3, entropy=0.1)
    assert torch.allclose(plan[shuffle], ot.transport_plan(logits[shuffle], D3, entropy=0.1), atol=1e-14)
    one, other = (float(ot.ot(x, D3, entropy=0.1)) for x in (logits, logits[shuffle]))
    assert one == pytest.approx(other, rel=1e-12)


def test_gradient_of_ot_is_that_with_the_plan_held_fixed() -> None:
    logits = normal(7, 5).requires_grad_()
    plan = ot.transport_plan(logits, D5, entropy=0.3)
    assert not plan.requires_grad
    (found,) = torch.autograd.grad(ot.ot(logits, D5, entropy=0.3), logits)
    differences = torch.zeros_like(found)
    with torch.no_grad():
        for i, k in itertools.product(range(7), range(5)):
            step = torch.zeros_like(found)
            step[i, k] = 1e-5
            up, down = (-(plan * (logits + sign * step).log_softmax(1)).sum() for sign in (1, -1))
            differences[i, k] = (up - down) / 2e-5
    assert torch.allclose(found, differences, atol=1e-9)


def test_ot_refuses() -> None:
    with pytest.raises(ValueError, match="above 0"):
        ot.ot(normal(4, 5), D3, entropy=0.0)
    with pytest.raises(ValueError, match="proportions"):
        ot.ot(normal(4, 5), D3[:3], entropy=0.1)
