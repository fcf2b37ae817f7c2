"""Stages, histogram and losses against slow loops written from the formulas, and pairs computed by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from myostage import losses
from myostage.histogram import BLOCK, log_soft_histogram, soft_histogram
from myostage.stages import expected_stage, pair_distribution, similarity, stage_levels

# Proportions per day after injury in the released code, index order:
# damaged, intact, recovered, large myotube, small myotube.
INDEX_ORDER: dict[str, list[float]] = {
    "d0": [0, 1, 0, 0, 0],
    "d3": [0.59, 0, 0, 0, 0.41],
    "d5": [0.17, 0, 0, 0.55, 0.28],
    "d7": [0.12, 0, 0.06, 0.77, 0.05],
    "d14": [0.01, 0, 0.97, 0.01, 0],
}
# damaged, small myotube, large myotube, recovered, intact
BIOLOGICAL = {day: [p[0], p[4], p[3], p[2], p[1]] for day, p in INDEX_ORDER.items()}
D3, D5 = BIOLOGICAL["d3"], BIOLOGICAL["d5"]
ORDERS = {"biological": BIOLOGICAL, "index": INDEX_ORDER}


def histogram_loop(similarities: list[float], weights: list[float], bins: int, sigma: float) -> list[float]:
    mass = []
    for m in range(bins):
        centre = (m + 0.5) / bins
        terms = (
            w * math.exp(-((s - centre) ** 2) / (2 * sigma**2))
            for s, w in zip(similarities, weights, strict=True)
        )
        mass.append(sum(terms))
    return [x / sum(mass) for x in mass]


def target_loop(p_a: list[float], p_b: list[float], bins: int, sigma: float) -> list[float]:
    k = len(p_a)
    grid = list(itertools.product(range(k), range(k)))
    return histogram_loop(
        [1 - abs(i - j) / (k - 1) for i, j in grid], [p_a[i] * p_b[j] for i, j in grid], bins, sigma
    )


def kl_loop(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def cosine_loop(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def simprop_loop(u: Tensor, v: Tensor, p_a: list[float], p_b: list[float], bins: int, sigma: float) -> float:
    s = [(1 + cosine_loop(a, b)) / 2 for a in u.tolist() for b in v.tolist()]
    return kl_loop(target_loop(p_a, p_b, bins, sigma), histogram_loop(s, [1.0] * len(s), bins, sigma))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- stages


def test_similarity_of_three_stages() -> None:
    assert similarity(3).tolist() == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    assert stage_levels(3).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="two stages"):
        similarity(1)


def test_expected_stage() -> None:
    assert expected_stage([0.5, 0, 0.5]) == 1
    assert expected_stage(BIOLOGICAL["d0"]) == 4


@pytest.mark.parametrize(
    ("order", "a", "b", "expected"),
    [
        (BIOLOGICAL, "d0", "d0", {1.0: 1.0}),
        (BIOLOGICAL, "d3", "d3", {1.0: 0.59**2 + 0.41**2, 0.75: 2 * 0.59 * 0.41}),
        (INDEX_ORDER, "d3", "d3", {1.0: 0.59**2 + 0.41**2, 0.0: 2 * 0.59 * 0.41}),
        (BIOLOGICAL, "d0", "d3", {0.0: 0.59, 0.25: 0.41}),
    ],
)
def test_pairs_by_hand(order: dict[str, list[float]], a: str, b: str, expected: dict[float, float]) -> None:
    values, weights = pair_distribution(order[a], order[b])
    assert values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert dict(zip(values, weights, strict=True)) == pytest.approx(dict.fromkeys(values, 0.0) | expected)


def test_stage_order_decides_the_expected_similarity_of_day_3() -> None:
    mean = {name: np.dot(*pair_distribution(order["d3"], order["d3"])) for name, order in ORDERS.items()}
    assert mean == pytest.approx({"biological": 0.879, "index": 0.516}, abs=5e-4)


# --- histogram


@settings(max_examples=60, deadline=None)
@given(
    s=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    bins=st.integers(2, 40),
    sigma=st.floats(0.05, 2),
    data=st.data(),
)
def test_histogram_is_the_formula(s: list[float], bins: int, sigma: float, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 5), min_size=len(s), max_size=len(s)))
    found = soft_histogram(
        torch.tensor(s, dtype=torch.float64), bins, sigma, torch.tensor(weights, dtype=torch.float64)
    )
    assert found.tolist() == pytest.approx(histogram_loop(s, weights, bins, sigma), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    s=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    bins=st.integers(2, 64),
    log_sigma=st.floats(-12, 2),
)
def test_histogram_sums_to_one_and_has_finite_gradients_for_any_sigma(
    s: list[float], bins: int, log_sigma: float
) -> None:
    similarities = torch.tensor(s, dtype=torch.float32, requires_grad=True)
    log = log_soft_histogram(similarities, bins, 10**log_sigma)
    assert torch.isfinite(log).all()
    assert float(log.exp().sum().detach()) == pytest.approx(1, abs=1e-5)
    log.sum().backward()
    assert similarities.grad is not None
    assert torch.isfinite(similarities.grad).all()


def test_narrow_kernel_counts() -> None:
    s = torch.tensor([0.25, 0.25, 0.75, 0.25])
    assert soft_histogram(s, 2, 1e-6).tolist() == [0.75, 0.25]


def test_weight_zero_takes_no_part() -> None:
    s = torch.tensor([0.1, 0.9], dtype=torch.float64, requires_grad=True)
    some = soft_histogram(s, 6, 0.1, torch.tensor([0.0, 3.0]))
    assert torch.allclose(some, soft_histogram(s[1:], 6, 0.1), atol=1e-15)
    some[5].backward()
    assert s.grad is not None
    assert s.grad[0] == 0 and s.grad[1] != 0


def test_histogram_gradient_by_finite_differences() -> None:
    s = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_soft_histogram(x, 5, 0.1), (s,))
    assert torch.autograd.gradcheck(lambda x: soft_histogram(x, 2, 0.3, torch.ones(3, 4)), (s,))


def test_blocks_of_bins_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[Tensor, Tensor]:
        s = normal(40).sigmoid().requires_grad_()
        log = log_soft_histogram(s, 7, 0.1)
        return log.detach(), torch.autograd.grad(log[3], s)[0]

    whole = run()
    monkeypatch.setattr("myostage.histogram.BLOCK", 80)
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(whole, run(), strict=True))


def test_all_pairs_keep_no_pairs_by_bins_tensor_for_the_gradient() -> None:
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    n, bins = 300, 50
    u, v = (normal(n, 8, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses.simprop(u, v, D3, D5, sigma=0.1, bins=bins)
    assert n * n * bins > 2 * BLOCK, "the example must be larger than a block"
    assert sum(saved) < 3 * n * n


@pytest.mark.parametrize(
    ("bins", "sigma", "size"), [(1, 0.1, 3), (6, 0.0, 3), (6, math.nan, 3), (6, math.inf, 3), (6, 0.1, 0)]
)
def test_histogram_refuses(bins: int, sigma: float, size: int) -> None:
    with pytest.raises(ValueError, match=r"histogram|sigma"):
        soft_histogram(torch.rand(size), bins, sigma)


# --- L_SimProp


@pytest.mark.parametrize(("bins", "sigma"), [(2, 0.1), (6, 0.1), (31, 0.03), (50, 0.5)])
def test_simprop_is_the_formula(bins: int, sigma: float) -> None:
    u, v = normal(9, 5), normal(7, 5, seed=1)
    found = losses.simprop(u, v, D3, D5, sigma=sigma, bins=bins)
    assert float(found) == pytest.approx(simprop_loop(u, v, D3, D5, bins, sigma), rel=1e-9)
    half = losses.simprop(u.float(), v.float(), D3, D5, sigma=sigma, bins=bins)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(found), rel=1e-4)


def test_aligned_pairs_are_the_diagonal() -> None:
    u, v = normal(8, 5), normal(8, 5, seed=1)
    s = [(1 + cosine_loop(a, b)) / 2 for a, b in zip(u.tolist(), v.tolist(), strict=True)]
    expected = kl_loop(target_loop(D3, D5, 6, 0.1), histogram_loop(s, [1.0] * 8, 6, 0.1))
    found = losses.simprop(u, v, D3, D5, sigma=0.1, bins=6, pairs="aligned")
    assert float(found) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="one size"):
        losses.simprop(u, v[:7], D3, D5, sigma=0.1, bins=6, pairs="aligned")


@pytest.mark.parametrize("pairs", ["all", "aligned"])
@pytest.mark.parametrize("target", ["exact", "truncated"])
def test_simprop_gradient_by_finite_differences(pairs: losses.Pairs, target: losses.Target) -> None:
    u, v = normal(5, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: losses.simprop(a, b, D3, D5, sigma=0.1, bins=6, pairs=pairs, target=target), (u, v)
    )


def test_simprop_does_not_see_the_order_of_cells_of_all_pairs() -> None:
    u, v = normal(9, 5), normal(7, 5, seed=1)
    shuffled = (u[torch.randperm(9)], v[torch.randperm(7)])
    one, other = (losses.simprop(a, b, D3, D5, sigma=0.1, bins=6) for a, b in ((u, v), shuffled))
    assert float(one) == pytest.approx(float(other), rel=1e-12)
    swapped = losses.simprop(v, u, D5, D3, sigma=0.1, bins=6)
    assert float(one) == pytest.approx(float(swapped), rel=1e-12)


def test_simprop_is_zero_where_the_embeddings_have_the_expected_similarities() -> None:
    # Two stages a right angle apart would be at similarity .5; opposite directions are at 0, equal ones at 1.
    u = torch.tensor([[1.0, 0], [1, 0], [1, 0], [-1, 0]], dtype=torch.float64)
    p = [0.75, 0.25]
    assert float(losses.simprop(u, 3 * u, p, p, sigma=0.1, bins=6)) == pytest.approx(0, abs=1e-12)
    assert float(losses.simprop(u, u, p, p[::-1], sigma=0.1, bins=6)) > 0.1


def test_stop_gradient_and_divisor() -> None:
    u, v = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).requires_grad_()
    free = losses.simprop(u, v, D3, D5, sigma=0.1, bins=6)
    stopped = losses.simprop(u, v, D3, D5, sigma=0.1, bins=6, stop_gradient=True, divide="released")
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
    loss = losses.simprop(u, v, p_a, p_b, sigma=10**log_sigma, bins=bins)
    assert math.isfinite(float(loss.detach())) and float(loss.detach()) > -1e-5
    loss.backward()
    assert u.grad is not None and v.grad is not None
    assert torch.isfinite(u.grad).all() and torch.isfinite(v.grad).all()


def test_collapsed_and_zero_embeddings_have_finite_gradients() -> None:
    u = torch.cat([torch.zeros(1, 4), torch.ones(4, 4)]).requires_grad_()
    losses.simprop(u, u, D3, D3, sigma=1e-3, bins=2).backward()
    assert u.grad is not None and torch.isfinite(u.grad).all()


def test_autocast_leaves_the_losses_in_float32() -> None:
    u, logits = normal(6, 4, dtype=torch.float32), normal(6, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses.simprop(u, u, D3, D3, sigma=0.1, bins=6), losses.prop(logits, D3)
    outside = losses.simprop(u, u, D3, D3, sigma=0.1, bins=6), losses.prop(logits, D3)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


# --- targets


def test_exact_target_is_the_formula() -> None:
    for p_a, p_b in itertools.product(BIOLOGICAL.values(), repeat=2):
        found = losses.target_histogram(p_a, torch.tensor(p_b, dtype=torch.float64), sigma=0.1, bins=6)
        assert found.tolist() == pytest.approx(target_loop(p_a, p_b, 6, 0.1), abs=1e-12)


def test_truncation_puts_up_to_8_of_100_slots_falsely_at_zero() -> None:
    left_over = {
        pair: losses.truncated_counts(INDEX_ORDER[pair[0]], INDEX_ORDER[pair[1]], 100)[1]
        for pair in itertools.combinations_with_replacement(INDEX_ORDER, 2)
    }
    assert left_over["d0", "d0"] == left_over["d0", "d3"] == 0
    assert left_over["d3", "d3"] == 2  # .3481, .2419 twice and .1681 make 34 + 24 + 24 + 16
    assert max(left_over.values()) == left_over["d7", "d7"] == 8


def test_truncated_target_of_day_3_by_hand() -> None:
    found = losses.target_histogram(D3, D3, sigma=0.1, bins=6, target="truncated", pairs_count=100)
    slots = [1.0] * (34 + 16) + [0.75] * (24 + 24) + [0.0] * 2
    assert found.tolist() == pytest.approx(histogram_loop(slots, [1.0] * 100, 6, 0.1), abs=1e-12)
    counts, left_over = losses.truncated_counts([0.29, 0.71], [1, 0], 100)
    assert (
        counts.tolist() == [[29, 0], [71, 0]] and left_over == 0
    )  # .29 * 100 is 28.999... in floating point


def test_a_caller_cannot_spoil_a_later_target() -> None:
    first = losses.target_histogram(D3, D5, sigma=0.1, bins=6, log=True)
    kept = first.clone()
    first.zero_()
    assert torch.equal(losses.target_histogram(D3, D5, sigma=0.1, bins=6, log=True), kept)


# --- L_prop and the cell term


def test_prop_is_the_formula() -> None:
    logits = normal(9, 5)
    soft = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits.tolist()]
    mean = [sum(column) / 9 for column in zip(*soft, strict=True)]
    assert float(losses.prop(logits, D3)) == pytest.approx(kl_loop(D3, mean), rel=1e-12)
    released = losses.prop(logits, D3, divide="released")
    assert float(released) == pytest.approx(kl_loop(D3, mean) / 5, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: losses.prop(x, D3), (logits.requires_grad_(),))


def test_prop_of_certain_wrong_cells_is_finite() -> None:
    logits = torch.tensor([[200.0, 0, 0]] * 4, requires_grad=True)
    loss = losses.prop(logits, [0, 1, 0])
    assert float(loss.detach()) == pytest.approx(200)
    loss.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert losses.prop(logits, [1, 0, 0]).item() == 0


def test_prop_sees_proportions_and_no_cell() -> None:
    logits = torch.tensor([[50.0, 0], [0, 50.0], [0, 50.0], [50.0, 0]])
    assert float(losses.prop(logits, [0.5, 0.5])) == pytest.approx(0, abs=1e-6)
    assert float(losses.prop(logits, [0.75, 0.25])) > 0.1


def test_cell_term_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    assert float(losses.cell(logits, torch.tensor([1, 0]))) == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2
    )


@pytest.mark.parametrize("options", [{"pairs": "some"}, {"target": "none"}, {"divide": "b"}])
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        losses.simprop(normal(3, 2), normal(3, 2), D3, D5, **({"sigma": 0.1, "bins": 6} | options))  # type: ignore[arg-type]
