"""L_SimProp against slow loops written from the formula."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from myostage.learning.terms import prop, simprop
from support.formulas import BIOLOGICAL, D3, D5, INDEX_ORDER, histogram_loop, kl_loop, normal


def target_loop(p_a: list[float], p_b: list[float], bins: int, sigma: float) -> list[float]:
    k = len(p_a)
    grid = list(itertools.product(range(k), range(k)))
    return histogram_loop(
        [1 - abs(i - j) / (k - 1) for i, j in grid], [p_a[i] * p_b[j] for i, j in grid], bins, sigma
    )


def cosine_loop(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def simprop_loop(u: Tensor, v: Tensor, p_a: list[float], p_b: list[float], bins: int, sigma: float) -> float:
    s = [(1 + cosine_loop(a, b)) / 2 for a in u.tolist() for b in v.tolist()]
    return kl_loop(target_loop(p_a, p_b, bins, sigma), histogram_loop(s, [1.0] * len(s), bins, sigma))


@pytest.mark.parametrize(("bins", "sigma"), [(2, 0.1), (6, 0.1), (31, 0.03), (50, 0.5)])
def test_simprop_is_the_formula(bins: int, sigma: float) -> None:
    u, v = normal(9, 5), normal(7, 5, seed=1)
    found = simprop.simprop(u, v, D3, D5, sigma=sigma, bins=bins)
    assert float(found) == pytest.approx(simprop_loop(u, v, D3, D5, bins, sigma), rel=1e-9)
    half = simprop.simprop(u.float(), v.float(), D3, D5, sigma=sigma, bins=bins)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(found), rel=1e-4)


def test_aligned_pairs_are_the_diagonal() -> None:
    u, v = normal(8, 5), normal(8, 5, seed=1)
    s = [(1 + cosine_loop(a, b)) / 2 for a, b in zip(u.tolist(), v.tolist(), strict=True)]
    expected = kl_loop(target_loop(D3, D5, 6, 0.1), histogram_loop(s, [1.0] * 8, 6, 0.1))
    found = simprop.simprop(u, v, D3, D5, sigma=0.1, bins=6, pairs="aligned")
    assert float(found) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="one size"):
        simprop.simprop(u, v[:7], D3, D5, sigma=0.1, bins=6, pairs="aligned")


@pytest.mark.parametrize("pairs", ["all", "aligned"])
@pytest.mark.parametrize("target", ["exact", "truncated"])
def test_simprop_gradient_by_finite_differences(pairs: simprop.Pairs, target: simprop.Target) -> None:
    u, v = normal(5, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: simprop.simprop(a, b, D3, D5, sigma=0.1, bins=6, pairs=pairs, target=target), (u, v)
    )


def test_simprop_does_not_see_the_order_of_cells_of_all_pairs() -> None:
    u, v = normal(9, 5), normal(7, 5, seed=1)
    shuffled = (u[torch.randperm(9)], v[torch.randperm(7)])
    one, other = (simprop.simprop(a, b, D3, D5, sigma=0.1, bins=6) for a, b in ((u, v), shuffled))
    assert float(one) == pytest.approx(float(other), rel=1e-12)
    swapped = simprop.simprop(v, u, D5, D3, sigma=0.1, bins=6)
    assert float(one) == pytest.approx(float(swapped), rel=1e-12)


def test_simprop_is_zero_where_the_embeddings_have_the_expected_similarities() -> None:
    # Two stages a right angle apart would be at similarity .5; opposite directions are at 0, equal ones at 1.
    u = torch.tensor([[1.0, 0], [1, 0], [1, 0], [-1, 0]], dtype=torch.float64)
    p = [0.75, 0.25]
    assert float(simprop.simprop(u, 3 * u, p, p, sigma=0.1, bins=6)) == pytest.approx(0, abs=1e-12)
    assert float(simprop.simprop(u, u, p, p[::-1], sigma=0.1, bins=6)) > 0.1


def test_stop_gradient_and_divisor() -> None:
    u, v = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
    free = simprop.simprop(u, v, D3, D5, sigma=0.1, bins=6)
    stopped = simprop.simprop(u, v, D3, D5, sigma=0.1, bins=6, stop_gradient=True, divide="released")
    assert stopped.item() == pytest.approx(free.item() / 6, rel=1e-12)
    through_u = torch.autograd.grad(free, u)[0]
    with_u, with_v = torch.autograd.grad(stopped, (u, v), allow_unused=True)
    assert torch.allclose(with_u, through_u / 6) and with_v is None


@settings(max_examples=40, deadline=None)
@given(log_sigma=st.floats(-9, 1), bins=st.integers(2, 50), data=st.data())
def test_simprop_is_finite_and_not_negative(log_sigma: float, bins: int, data: st.DataObject) -> None:
    days = st.sampled_from(sorted(BIOLOGICAL))
    p_a, p_b = BIOLOGICAL[data.draw(days)], BIOLOGICAL[data.draw(days)]
    seed = data.draw(st.integers(0, 99))
    u, v = (normal(6, 4, seed=seed + i, dtype=torch.float32).requires_grad_() for i in (0, 1))
    loss = simprop.simprop(u, v, p_a, p_b, sigma=10**log_sigma, bins=bins)
    assert math.isfinite(float(loss.detach())) and float(loss.detach()) > -1e-5
    loss.backward()
    assert u.grad is not None and v.grad is not None
    assert torch.isfinite(u.grad).all() and torch.isfinite(v.grad).all()


def test_collapsed_and_zero_embeddings_have_finite_gradients() -> None:
    u = torch.cat([torch.zeros(1, 4), torch.ones(4, 4)]).requires_grad_()
    simprop.simprop(u, u, D3, D3, sigma=1e-3, bins=2).backward()
    assert u.grad is not None and torch.isfinite(u.grad).all()


def test_autocast_leaves_the_losses_in_float32() -> None:
    u, logits = normal(6, 4, dtype=torch.float32), normal(6, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = simprop.simprop(u, u, D3, D3, sigma=0.1, bins=6), prop.prop(logits, D3)
    outside = simprop.simprop(u, u, D3, D3, sigma=0.1, bins=6), prop.prop(logits, D3)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_exact_target_is_the_formula() -> None:
    for p_a, p_b in itertools.product(BIOLOGICAL.values(), repeat=2):
        found = simprop.target_histogram(p_a, torch.tensor(p_b, dtype=torch.float64), sigma=0.1, bins=6)
        assert found.tolist() == pytest.approx(target_loop(p_a, p_b, 6, 0.1), abs=1e-12)


def test_truncation_puts_up_to_8_of_100_slots_falsely_at_zero() -> None:
    left_over = {
        pair: simprop.truncated_counts(INDEX_ORDER[pair[0]], INDEX_ORDER[pair[1]], 100)[1]
        for pair in itertools.combinations_with_replacement(INDEX_ORDER, 2)
    }
    assert left_over["d0", "d0"] == left_over["d0", "d3"] == 0
    assert left_over["d3", "d3"] == 2  # .3481, .2419 twice and .1681 make 34 + 24 + 24 + 16
    assert max(left_over.values()) == left_over["d7", "d7"] == 8


def test_truncated_target_of_day_3_by_hand() -> None:
    found = simprop.target_histogram(D3, D3, sigma=0.1, bins=6, target="truncated", pairs_count=100)
    slots = [1.0] * (34 + 16) + [0.75] * (24 + 24) + [0.0] * 2
    assert found.tolist() == pytest.approx(histogram_loop(slots, [1.0] * 100, 6, 0.1), abs=1e-12)
    counts, left_over = simprop.truncated_counts([0.29, 0.71], [1, 0], 100)
    assert (
        counts.tolist() == [[29, 0], [71, 0]] and left_over == 0
    )  # .29 * 100 is 28.999... in floating point


def test_a_caller_cannot_spoil_a_later_target() -> None:
    first = simprop.target_histogram(D3, D5, sigma=0.1, bins=6, log=True)
    kept = first.clone()
    first.zero_()
    assert torch.equal(simprop.target_histogram(D3, D5, sigma=0.1, bins=6, log=True), kept)


@pytest.mark.parametrize("options", [{"pairs": "some"}, {"target": "none"}, {"divide": "b"}])
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        simprop.simprop(normal(3, 2), normal(3, 2), D3, D5, **({"sigma": 0.1, "bins": 6} | options))  # type: ignore[arg-type]
