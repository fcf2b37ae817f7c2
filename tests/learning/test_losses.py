"""Stages and losses against slow loops written from the formulas, and pairs computed by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from myostage.learning import losses
from myostage.learning.stages import expected_stage, pair_distribution, similarity, stage_levels
from support.formulas import histogram_loop, normal

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
    assert float(losses.cross_entropy(logits, torch.tensor([1, 0]))) == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2
    )


@pytest.mark.parametrize("options", [{"pairs": "some"}, {"target": "none"}, {"divide": "b"}])
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(options.values()))):
        losses.simprop(normal(3, 2), normal(3, 2), D3, D5, **({"sigma": 0.1, "bins": 6} | options))  # type: ignore[arg-type]


# --- MixBag


def test_mixed_prop_is_prop_where_no_stage_is_within_its_interval() -> None:
    # Both bags hold one stage alone: no sampling error, every interval is a point.
    logits = normal(9, 3)
    for a, b, cells_a in (([1, 0, 0], [0, 1, 0], 3), ([0, 0, 1], [1, 0, 0], 6)):
        expected = [(cells_a * x + (9 - cells_a) * y) / 9 for x, y in zip(a, b, strict=True)]
        found = losses.mixed_prop(logits, cells_a, a, b)
        assert float(found) == pytest.approx(float(losses.prop(logits, expected)), rel=1e-12)
        released = losses.mixed_prop(logits, cells_a, a, b, divide="released")
        assert float(released) == pytest.approx(float(found) / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("share", "inside"), [(0.5, True), (0.66, True), (0.661, False), (0.34, True), (0.339, False)]
)
def test_interval_of_a_mixed_bag_by_hand(share: float, inside: bool) -> None:
    # 25 of 100 cells from p = .8, 75 from .4: expected .5, half-width
    # 2.5758 (.25 sqrt(.8 .2 / 25) + .75 sqrt(.4 .6 / 75)) = .1608.
    logits = torch.tensor([[share, 1 - share]], dtype=torch.float64).log().expand(100, 2)
    found = float(losses.mixed_prop(logits, 25, [0.8, 0.2], [0.4, 0.6]))
    expected = 0.0 if inside else kl_loop([0.5, 0.5], [share, 1 - share])
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_mixed_prop_pulls_down_a_share_that_alone_is_too_large() -> None:
    # Stage 0 is above its interval, the others just within theirs.
    p = [0.4, 0.3, 0.3]
    half = 2.5758 * math.sqrt(0.24 / 40)  # both halves of 80 cells
    q = [0.4 + 1.05 * half, 0.3 - 0.525 * half, 0.3 - 0.525 * half]
    logits = torch.tensor([q], dtype=torch.float64).log().repeat(80, 1).requires_grad_()
    loss = losses.mixed_prop(logits, 40, p, p)
    assert float(loss.detach()) == pytest.approx(0.4 * math.log(0.4 / q[0]) - 0.4 + q[0], rel=1e-9)
    assert float(loss.detach()) > 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, 0] > 0).all() and (gradient[:, 1:] < 0).all()
    assert torch.autograd.gradcheck(
        lambda x: losses.mixed_prop(x, 4, p, p), (4 * normal(6, 3).requires_grad_(),)
    )


def test_mixbag_mixes_the_first_cells_of_both_bags() -> None:
    logits_a, logits_b = normal(5, 3), normal(7, 3, seed=1)
    p_a, p_b = [1, 0, 0], [0, 0.5, 0.5]
    mixtures = [
        losses.mixed_prop(torch.cat([logits_a[:n], logits_b[: 5 - n]]), n, p_a, p_b) for n in range(1, 5)
    ]
    torch.manual_seed(0)
    found = [float(losses.mixbag(logits_a, logits_b, p_a, p_b)) for _ in range(160)]
    counts = [sum(abs(x - float(mixture)) < 1e-12 for x in found) for mixture in mixtures]
    assert sum(counts) == 160 and min(counts) > 18  # 40 each, four standard deviations are 22
    repeated = [
        float(losses.mixbag(logits_a, logits_b, p_a, p_b, generator=torch.Generator().manual_seed(3)))
        for _ in range(2)
    ]
    assert repeated[0] == repeated[1]


def test_mixtures_that_are_none_are_refused() -> None:
    for cells_a in (0, 4, -1):
        with pytest.raises(ValueError, match="no mixture"):
            losses.mixed_prop(normal(4, 2), cells_a, [0.5, 0.5], [1, 0])
    with pytest.raises(ValueError, match="cannot be mixed"):
        losses.mixbag(normal(1, 2), normal(4, 2), [0.5, 0.5], [1, 0])
    with pytest.raises(ValueError, match="proportions"):
        losses.mixed_prop(normal(4, 2), 2, [0.5, 0.5], [1, 0, 0])


# --- LLP-VAT


def kl_of_logits(clean: Tensor, other: Tensor) -> Tensor:
    p, log_q = clean.softmax(1), other.log_softmax(1)
    return (p * (p.log() - log_q)).sum(1).mean()


def classifier(seed: int = 0) -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


def test_vat_perturbs_a_linear_classifier_of_two_stages_along_its_weights() -> None:
    # Its prediction depends on one direction alone; the random start decides about the sign.
    x, weight = normal(8, 6), normal(6, 2, seed=1)
    direction = F.normalize(weight[:, 0] - weight[:, 1], dim=0)
    for cell in x.split(1):
        step = 0.1 * cell.norm() * direction
        possible = [float(kl_of_logits(cell @ weight, (cell + sign * step) @ weight)) for sign in (1, -1)]
        found = float(losses.vat(lambda y: y @ weight, cell, cell @ weight, radius=0.1))
        assert min(abs(found - value) for value in possible) < 1e-9


@pytest.mark.parametrize("shape", [(40, 12), (40, 5, 12)])
def test_vat_is_worse_than_any_random_direction_of_its_length(shape: tuple[int, ...]) -> None:
    model, x = classifier(), normal(*shape, dtype=torch.float32)
    torch.manual_seed(0)

    def forward(inputs: Tensor) -> Tensor:
        return model(inputs if inputs.ndim == 2 else inputs.mean(1))

    with torch.no_grad():
        logits = forward(x)
        lengths = 0.2 * x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
        randoms = []
        for seed in range(20):
            r = normal(*shape, seed=seed, dtype=torch.float32)
            r *= lengths / r.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))
            randoms.append(float(kl_of_logits(logits, forward(x + r))))
    found = float(losses.vat(forward, x, logits, radius=0.2).detach())
    assert found > max(randoms) > 0
    assert found > float(losses.vat(forward, x, logits, radius=0.1).detach()) > 0


def test_vat_of_a_constant_classifier_is_zero() -> None:
    constant = torch.ones(3, requires_grad=True)
    x = normal(8, 4, dtype=torch.float32)
    loss = losses.vat(lambda y: 0 * y[:, :3] + constant, x, constant.expand(8, 3), radius=0.5)
    loss.backward()
    assert float(loss.detach()) == 0
    assert constant.grad is not None and torch.isfinite(constant.grad).all()


def test_vat_reaches_the_parameters_and_not_through_the_clean_branch() -> None:
    model = classifier()
    x = normal(8, 12, dtype=torch.float32).half().requires_grad_()
    logits = model(x.float())
    logits.retain_grad()
    torch.manual_seed(5)
    loss = losses.vat(model, x, logits, radius=0.1)
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is None and x.grad is None
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)
    torch.manual_seed(5)
    assert torch.equal(losses.vat(model, x, logits, radius=0.1), loss)
    torch.manual_seed(6)
    assert not torch.equal(losses.vat(model, x, logits, radius=0.1), loss)


def test_vat_computes_in_float32_within_autocast() -> None:
    model, x = classifier(), normal(8, 12, dtype=torch.float32)
    logits = model(x).detach()
    generators = (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
    outside = losses.vat(model, x, logits, radius=0.1, generator=generators[0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses.vat(model, x, logits, radius=0.1, generator=generators[1])
    assert torch.equal(inside, outside)


# --- optimal-transport pseudo-labels


@pytest.mark.parametrize("sure", [1.0, 3.0])
def test_transport_plan_meets_its_marginals_and_is_of_its_form(sure: float) -> None:
    logits = sure * normal(60, 5)
    plan = losses.transport_plan(logits, D5, entropy=1.0)
    assert torch.allclose(plan.sum(1), torch.full((60,), 1 / 60, dtype=torch.float64), atol=1e-15)
    assert plan.sum(0).tolist() == pytest.approx(D5, abs=1e-5)
    assert (plan[:, 3:] == 0).all() and (plan[:, :3] > 0).all()
    # The optimum is unique and is a_i softmax_ik^(1 / entropy) b_k: what is left of the ratio has rank one.
    rest = (plan[:, :3].log() - logits.log_softmax(1)[:, :3]).exp()
    assert torch.linalg.svdvals(rest)[1] < 1e-12 * torch.linalg.svdvals(rest)[0]


def test_transport_plan_of_a_sure_classifier_that_is_wrong_still_meets_the_shares() -> None:
    logits = 10 * normal(100, 5)
    plan = losses.transport_plan(logits, [0.12, 0.05, 0.77, 0.06, 0], entropy=0.1)
    assert plan.sum(0).tolist() == pytest.approx([0.12, 0.05, 0.77, 0.06, 0], abs=0.01)


def test_transport_without_entropy_is_the_best_assignment() -> None:
    logits = normal(8, 3)
    counts = [1, 4, 3]
    assigned = losses.transport_plan(logits, [n / 8 for n in counts], entropy=1e-3) * 8
    scores = logits.log_softmax(1)
    labels = [k for k, n in enumerate(counts) for _ in range(n)]

    def gain(rows: tuple[int, ...]) -> float:
        return float(scores[range(8), rows].sum())

    best = max(set(itertools.permutations(labels)), key=gain)
    assert assigned.argmax(1).tolist() == list(best)
    assert float(assigned.max(1).values.min()) > 0.99
    found = losses.ot(logits, [n / 8 for n in counts], entropy=1e-3)
    assert float(found) == pytest.approx(-gain(best) / 8, abs=1e-3)


def test_ot_by_hand() -> None:
    # A classifier that says nothing is given the proportions; one stage alone is plain cross-entropy.
    assert float(losses.ot(torch.zeros(6, 5), D5, entropy=0.1)) == pytest.approx(math.log(5), rel=1e-6)
    logits = normal(6, 3)
    found = losses.ot(logits, [0, 1, 0], entropy=0.1)
    assert float(found) == pytest.approx(float(losses.cross_entropy(logits, torch.ones(6))), rel=1e-12)


def test_ot_does_not_see_the_order_of_cells() -> None:
    logits = normal(30, 5)
    shuffle = torch.randperm(30)
    plan = losses.transport_plan(logits, D3, entropy=0.1)
    assert torch.allclose(plan[shuffle], losses.transport_plan(logits[shuffle], D3, entropy=0.1), atol=1e-14)
    one, other = (float(losses.ot(x, D3, entropy=0.1)) for x in (logits, logits[shuffle]))
    assert one == pytest.approx(other, rel=1e-12)


def test_gradient_of_ot_is_that_with_the_plan_held_fixed() -> None:
    logits = normal(7, 5).requires_grad_()
    plan = losses.transport_plan(logits, D5, entropy=0.3)
    assert not plan.requires_grad
    (found,) = torch.autograd.grad(losses.ot(logits, D5, entropy=0.3), logits)
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
        losses.ot(normal(4, 5), D3, entropy=0.0)
    with pytest.raises(ValueError, match="proportions"):
        losses.ot(normal(4, 5), D3[:3], entropy=0.1)
