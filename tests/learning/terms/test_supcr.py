"""SupCR against slow loops written from the formula."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from myostage.learning.terms import supcr
from myostage.learning.terms.supcr import Similarity
from support.formulas import normal

# With ties, and not in order.
TARGETS = torch.tensor([2.0, 0.5, 2.0, 3.25, 0.0, 0.5, 4.0, 1.0], dtype=torch.float64)


TEMPERATURES: dict[Similarity, float] = {"l2": 2.0, "cosine": 0.1}


def similarity_loop(a: list[float], b: list[float], similarity: Similarity) -> float:
    if similarity == "l2":
        return -math.dist(a, b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def supcr_loop(
    embeddings: Tensor,
    targets: Tensor,
    similarity: Similarity,
    temperature: float,
    anchors: int | None = None,
) -> float:
    v, y = embeddings.tolist(), targets.tolist()
    parts = []
    for i, j in itertools.product(range(len(v) if anchors is None else anchors), range(len(v))):
        if i == j:
            continue
        below = 0.0
        for k in range(len(v)):
            if k != i and abs(y[i] - y[k]) >= abs(y[i] - y[j]):
                below += math.exp(similarity_loop(v[i], v[k], similarity) / temperature)
        parts.append(-math.log(math.exp(similarity_loop(v[i], v[j], similarity) / temperature) / below))
    return sum(parts) / len(parts)


def supcr_by_rank(embeddings: Tensor, targets: Tensor, similarity: Similarity, temperature: float) -> float:
    """The denominators as sums over the others from the farthest target inwards, group of ties by group."""
    v, y = embeddings.numpy(), targets.numpy()
    if similarity == "l2":
        s = -np.sqrt(np.maximum(((v[:, None] - v[None]) ** 2).sum(2), 0))
    else:
        s = v @ v.T / np.outer(np.linalg.norm(v, axis=1), np.linalg.norm(v, axis=1))
    total = 0.0
    for i in range(len(v)):
        others = np.delete(np.arange(len(v)), i)
        distance = np.abs(y[others] - y[i])
        mass = 0.0
        for level in sorted(set(distance), reverse=True):
            group = others[distance == level]
            mass += np.exp(s[i, group] / temperature).sum()
            total += len(group) * math.log(mass) - s[i, group].sum() / temperature
    return total / (len(v) * (len(v) - 1))


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
@pytest.mark.parametrize("temperature", [None, 0.7])
def test_supcr_is_the_formula(similarity: Similarity, temperature: float | None) -> None:
    v = normal(8, 3)
    used = temperature or TEMPERATURES[similarity]
    found = supcr.supcr(v, TARGETS, similarity=similarity, temperature=temperature)
    assert float(found) == pytest.approx(supcr_loop(v, TARGETS, similarity, used), rel=1e-10)
    assert float(found) == pytest.approx(supcr_by_rank(v, TARGETS, similarity, used), rel=1e-10)
    single = supcr.supcr(v.float(), TARGETS.float(), similarity=similarity, temperature=temperature)
    assert single.dtype == torch.float32 and float(single) == pytest.approx(float(found), rel=1e-4)


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_supcr_of_anchors_alone(similarity: Similarity) -> None:
    v = normal(8, 3)
    found = [
        float(supcr.supcr(v, TARGETS, similarity=similarity, temperature=1.0, anchors=n)) for n in range(1, 9)
    ]
    expected = [supcr_loop(v, TARGETS, similarity, 1.0, n) for n in range(1, 9)]
    assert found == pytest.approx(expected, rel=1e-10)
    whole = supcr.supcr(v, TARGETS, similarity=similarity, temperature=1.0)
    assert found[-1] == pytest.approx(float(whole), rel=1e-12)


def test_supcr_by_hand() -> None:
    # Embeddings at 0, 1 and 3 of a line, targets 0, 1, 4, t = 1. Of the first, e.g., the second is nearer:
    # -log(e^-1 / (e^-1 + e^-3)); the third has itself alone to compete with: 0.
    v = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    first = math.log(1 + math.exp(-2))
    second = math.log(1 + math.exp(-1))
    third = math.log(1 + math.exp(-1))
    found = supcr.supcr(v, torch.tensor([0.0, 1, 4]), similarity="l2", temperature=1.0)
    assert float(found) == pytest.approx((first + second + third) / 6, rel=1e-12)


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_a_bag_does_not_compete_with_itself_where_all_targets_are_ties(similarity: Similarity) -> None:
    # Equal embeddings of one target: each of the other 5 has 1/5. With the self term it would be log 6.
    v = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    loss = supcr.supcr(v, torch.full((6,), 2.0), similarity=similarity)
    assert float(loss.detach()) == pytest.approx(math.log(5), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, v)
    assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e-12
    # Of one target all others compete, whatever their embeddings.
    apart = normal(6, 3)
    found = supcr.supcr(apart, torch.zeros(6), similarity=similarity, temperature=1.0)
    assert float(found) == pytest.approx(supcr_loop(apart, torch.zeros(6), similarity, 1.0), rel=1e-10)


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
@pytest.mark.parametrize("anchors", [None, 2])
def test_gradient_of_supcr_by_finite_differences(similarity: Similarity, anchors: int | None) -> None:
    v = normal(8, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: supcr.supcr(x, TARGETS, similarity=similarity, temperature=0.5, anchors=anchors), (v,)
    )


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_supcr_where_some_embeddings_coincide_or_are_zero(similarity: Similarity) -> None:
    v = normal(8, 3)
    v[3] = v[0]
    v[4] = v[5] = 0
    v.requires_grad_()
    loss = supcr.supcr(v, TARGETS, similarity=similarity)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert v.grad is not None and torch.isfinite(v.grad).all()
    assert v.grad[1].abs().max() > 0


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_one_bag_or_two_have_nothing_to_rank(similarity: Similarity) -> None:
    for bags in (1, 2):
        v = normal(bags, 3).requires_grad_()
        loss = supcr.supcr(v, TARGETS[:bags], similarity=similarity)
        (gradient,) = torch.autograd.grad(loss, v)
        assert float(loss.detach()) == 0 and torch.equal(gradient, torch.zeros_like(v))


def test_supcr_is_stable_far_apart() -> None:
    v = (1e4 * normal(8, 3, dtype=torch.float32)).requires_grad_()
    loss = supcr.supcr(v, TARGETS, similarity="l2")
    loss.backward()
    assert math.isfinite(float(loss.detach())) and v.grad is not None and torch.isfinite(v.grad).all()
    exact = supcr.supcr(v.detach().double(), TARGETS, similarity="l2")
    assert float(loss.detach()) == pytest.approx(float(exact), rel=1e-5)


def test_supcr_sees_the_distance_of_near_embeddings_in_float32() -> None:
    v = 64 + (1e-3 * normal(8, 3)).float()
    found = supcr.supcr(v, TARGETS, similarity="l2", temperature=1e-3)
    exact = supcr_loop(v.double(), TARGETS, "l2", 1e-3)
    assert float(found) == pytest.approx(exact, rel=1e-4)


def test_targets_that_differ_by_rounding_are_ties() -> None:
    v, y = normal(4, 3), torch.tensor([0.4, 0.1, 0.7, 1.3], dtype=torch.float64)
    whole = torch.tensor([1.0, 0.0, 2.0, 4.0], dtype=torch.float64)
    for x in (y, y.float()):
        assert x[0] - x[1] != x[2] - x[0]
    expected = supcr_loop(v, whole, "l2", 2.0)
    for targets in (y, y.float(), torch.cat([y[:2], y[2:].float()])):
        assert float(supcr.supcr(v, targets, similarity="l2")) == pytest.approx(expected, rel=1e-10)


def test_supcr_prefers_embeddings_in_the_order_of_their_targets() -> None:
    line = TARGETS[:, None] * torch.ones(1, 3, dtype=torch.float64)
    ordered, shuffled = (
        float(supcr.supcr(x, TARGETS, similarity="l2", temperature=0.1)) for x in (line, line.flip(0))
    )
    assert ordered < 0.5 * shuffled


def test_supcr_refuses_what_does_not_fit() -> None:
    v = normal(3, 2)
    for targets, anchors in ((TARGETS[:2], None), (TARGETS[:3], 4), (TARGETS[:3], 0)):
        with pytest.raises(ValueError, match="anchors"):
            supcr.supcr(v, targets, similarity="l2", anchors=anchors)
    with pytest.raises(ValueError, match="similarity"):
        supcr.supcr(v, TARGETS[:3], similarity="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature"):
        supcr.supcr(v, TARGETS[:3], similarity="l2", temperature=0.0)
