"""The regression terms on bags against slow loops written from the formulas, and cases computed by hand."""

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gaussian_kde
from torch import Tensor

from myostage.learning import regression
from myostage.learning.regression import Queue, Similarity
from support.formulas import normal

# With ties, and not in order.
TARGETS = torch.tensor([2.0, 0.5, 2.0, 3.25, 0.0, 0.5, 4.0, 1.0], dtype=torch.float64)
TEMPERATURES: dict[Similarity, float] = {"l2": 2.0, "cosine": 0.1}
LEVELS = [0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]


def softmax_loop(row: list[float]) -> list[float]:
    return [math.exp(x) / sum(map(math.exp, row)) for x in row]


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


def flags(*healthy: int) -> Tensor:
    return torch.tensor(healthy, dtype=torch.bool)


# --- score and mse


def test_expected_score_is_the_formula() -> None:
    logits = normal(7, 5)
    soft = [softmax_loop(row) for row in logits.tolist()]
    expected = sum(k * sum(row[k] for row in soft) / 7 for k in range(5))
    assert float(regression.expected_score(logits)) == pytest.approx(expected, rel=1e-12)
    assert float(regression.expected_score(torch.tensor([[0.0, 0, 200], [200, 0, 0]]))) == pytest.approx(1)
    assert torch.autograd.gradcheck(regression.expected_score, (logits.requires_grad_(),))
    with pytest.raises(ValueError, match="cells"):
        regression.expected_score(normal(0, 5))


def test_mse_by_hand() -> None:
    scores, targets = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 4.0, 3.0])
    assert float(regression.mse(scores, targets)) == pytest.approx(5 / 3)
    assert torch.autograd.gradcheck(
        regression.mse, (scores.double().requires_grad_(), targets.double().requires_grad_())
    )
    for other in (targets[:, None], targets[:1]):  # both would be broadcast
        with pytest.raises(ValueError, match="targets"):
            regression.mse(scores, other)


# --- pseudo-labels


def test_as_many_quantiles_as_targets_are_the_targets_sorted() -> None:
    targets = TARGETS.numpy()
    assert regression.pseudo_labels(targets, 8, "quantiles", 0, 4).tolist() == sorted(targets)
    assert regression.pseudo_labels(targets, 24, "quantiles", 0, 4).tolist() == sorted(targets.repeat(3))


@given(
    targets=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    count=st.integers(1, 40),
)
def test_quantiles_have_the_share_of_targets_below_and_above(targets: list[int], count: int) -> None:
    labels = regression.pseudo_labels(targets, count, "quantiles", 0, 4)
    n = len(targets)
    assert len(labels) == count
    for i, label in enumerate(labels):
        # whole numbers: at most (2 i + 1) / (2 count) of the targets are below, at most the rest above
        assert 2 * count * sum(y < label for y in targets) <= (2 * i + 1) * n
        assert 2 * count * sum(y > label for y in targets) <= (2 * count - 2 * i - 1) * n
    mirrored = regression.pseudo_labels([4 - y for y in targets], count, "quantiles", 0, 4)
    assert mirrored.tolist() == (4 - labels[::-1]).tolist()


@pytest.mark.parametrize("count", [1, 2, 7, 34])
@pytest.mark.parametrize("targets", [LEVELS, TARGETS.tolist(), [1.0, 1.1], [0.0, *[3.7] * 30]])
def test_kde_labels_split_the_density_within_the_scale_evenly(targets: list[float], count: int) -> None:
    labels = regression.pseudo_labels(targets, count, "kde", 0, 4)
    density = gaussian_kde(targets)
    # Trapezoids between the labels, each interval on its own grid.
    edges = [0.0, *labels, 4.0]
    assert edges == sorted(edges)
    masses = np.array(
        [
            np.trapezoid(density(grid), grid)
            for a, b in itertools.pairwise(edges)
            for grid in [np.linspace(a, b, 20001)]
        ]
    )
    expected = np.array([0.5, *[1.0] * (count - 1), 0.5]) / count
    assert masses / masses.sum() == pytest.approx(expected, abs=1e-6)


def test_kde_smears_the_mass_of_levels_and_quantiles_do_not() -> None:
    quantiles = regression.pseudo_labels(LEVELS, 40, "quantiles", 0, 4)
    kde = regression.pseudo_labels(LEVELS, 40, "kde", 0, 4)
    assert set(quantiles) == set(LEVELS)
    assert not set(kde) & set(LEVELS) and kde.min() > 0 and kde.max() < 4


@pytest.mark.parametrize("by", ["kde", "quantiles"])
def test_equal_targets_have_equal_labels(by: regression.LabelsBy) -> None:
    for targets in ([0.1] * 3, [0.1]):
        assert regression.pseudo_labels(targets, 4, by, 0, 4).tolist() == [0.1] * 4


def test_kde_of_nearly_equal_targets_is_finite() -> None:
    targets = np.array([0.1, 0.1 + 1e-16, 0.1 + 1e-15])
    labels = regression.pseudo_labels(targets, 7, "kde", 0, 4)
    assert labels == pytest.approx(0.1, abs=1e-14) and labels.tolist() == sorted(labels)


def test_pseudo_labels_that_do_not_exist_are_refused() -> None:
    for targets, count in (([], 3), ([1.0, 2.0], 0), ([1.0, math.nan], 3), ([[1.0]], 3)):
        with pytest.raises(ValueError, match="pseudo-labels"):
            regression.pseudo_labels(targets, count, "kde", 0, 4)
    with pytest.raises(ValueError, match="kde or quantiles"):
        regression.pseudo_labels([1.0], 3, "drawn", 0, 4)  # type: ignore[arg-type]
    for low, high in ((50, 60), (4, 0)):
        with pytest.raises(ValueError, match="no density"):
            regression.pseudo_labels([1.0, 1.5], 3, "kde", low, high)


# --- dist


def test_dist_is_the_least_mean_distance_over_all_assignments() -> None:
    for seed in range(5):
        scores, labels = normal(6, seed=seed), normal(6, seed=seed + 50)
        least = min(
            sum(abs(a - b) for a, b in zip(order, labels.tolist(), strict=True)) / 6
            for order in itertools.permutations(scores.tolist())
        )
        assert float(regression.dist(scores, labels)) == pytest.approx(least, rel=1e-12)


def test_dist_does_not_see_the_order_of_scores_or_labels() -> None:
    scores, labels = normal(9), normal(9, seed=1).numpy()
    expected = float(regression.dist(scores, labels))
    shuffled = regression.dist(scores[torch.randperm(9)], labels[::-1].copy())
    assert float(shuffled) == pytest.approx(expected, rel=1e-12)


def test_dist_sorts_scores_and_labels_in_one_direction() -> None:
    labels = np.array([0.0, 1.0, 3.0])
    assert float(regression.dist(torch.tensor([3.0, 0.0, 1.0]), labels)) == 0
    # against 3, 1, 0 it would be (2.5 + .5 + 3.5) / 3 in the place of .5
    assert float(regression.dist(torch.tensor([0.5, 1.5, 3.5]), labels)) == pytest.approx(0.5)


def test_gradient_of_dist() -> None:
    scores = normal(8).requires_grad_()
    labels = normal(8, seed=1).numpy()
    assert torch.autograd.gradcheck(lambda x: regression.dist(x, labels), (scores,))
    # A score above all labels goes down: the gradient has the sign of its own distance.
    high = torch.tensor([0.0, 9.0, 1.0], requires_grad=True)
    regression.dist(high, [0.5, 1.5, 2.5]).backward()
    assert high.grad is not None and high.grad.tolist() == pytest.approx([-1 / 3, 1 / 3, -1 / 3])


def test_dist_needs_as_many_labels_as_scores() -> None:
    for labels in (np.zeros(2), np.zeros(4), np.zeros((3, 1))):
        with pytest.raises(ValueError, match="pseudo-labels"):
            regression.dist(normal(3), labels)


# --- supcr


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
@pytest.mark.parametrize("temperature", [None, 0.7])
def test_supcr_is_the_formula(similarity: Similarity, temperature: float | None) -> None:
    v = normal(8, 3)
    used = temperature or TEMPERATURES[similarity]
    found = regression.supcr(v, TARGETS, similarity=similarity, temperature=temperature)
    assert float(found) == pytest.approx(supcr_loop(v, TARGETS, similarity, used), rel=1e-10)
    assert float(found) == pytest.approx(supcr_by_rank(v, TARGETS, similarity, used), rel=1e-10)
    single = regression.supcr(v.float(), TARGETS.float(), similarity=similarity, temperature=temperature)
    assert single.dtype == torch.float32 and float(single) == pytest.approx(float(found), rel=1e-4)


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_supcr_of_anchors_alone(similarity: Similarity) -> None:
    v = normal(8, 3)
    found = [
        float(regression.supcr(v, TARGETS, similarity=similarity, temperature=1.0, anchors=n))
        for n in range(1, 9)
    ]
    expected = [supcr_loop(v, TARGETS, similarity, 1.0, n) for n in range(1, 9)]
    assert found == pytest.approx(expected, rel=1e-10)
    whole = regression.supcr(v, TARGETS, similarity=similarity, temperature=1.0)
    assert found[-1] == pytest.approx(float(whole), rel=1e-12)


def test_supcr_by_hand() -> None:
    # Embeddings at 0, 1 and 3 of a line, targets 0, 1, 4, t = 1. Of the first, e.g., the second is nearer:
    # -log(e^-1 / (e^-1 + e^-3)); the third has itself alone to compete with: 0.
    v = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    first = math.log(1 + math.exp(-2))
    second = math.log(1 + math.exp(-1))
    third = math.log(1 + math.exp(-1))
    found = regression.supcr(v, torch.tensor([0.0, 1, 4]), similarity="l2", temperature=1.0)
    assert float(found) == pytest.approx((first + second + third) / 6, rel=1e-12)


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_a_bag_does_not_compete_with_itself_where_all_targets_are_ties(similarity: Similarity) -> None:
    # Equal embeddings of one target: each of the other 5 has 1/5. With the self term it would be log 6.
    v = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    loss = regression.supcr(v, torch.full((6,), 2.0), similarity=similarity)
    assert float(loss.detach()) == pytest.approx(math.log(5), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, v)
    assert torch.isfinite(gradient).all() and gradient.abs().max() < 1e-12
    # Of one target all others compete, whatever their embeddings.
    apart = normal(6, 3)
    found = regression.supcr(apart, torch.zeros(6), similarity=similarity, temperature=1.0)
    assert float(found) == pytest.approx(supcr_loop(apart, torch.zeros(6), similarity, 1.0), rel=1e-10)


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
@pytest.mark.parametrize("anchors", [None, 2])
def test_gradient_of_supcr_by_finite_differences(similarity: Similarity, anchors: int | None) -> None:
    v = normal(8, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: regression.supcr(x, TARGETS, similarity=similarity, temperature=0.5, anchors=anchors), (v,)
    )


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_supcr_where_some_embeddings_coincide_or_are_zero(similarity: Similarity) -> None:
    v = normal(8, 3)
    v[3] = v[0]
    v[4] = v[5] = 0
    v.requires_grad_()
    loss = regression.supcr(v, TARGETS, similarity=similarity)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert v.grad is not None and torch.isfinite(v.grad).all()
    assert v.grad[1].abs().max() > 0


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_one_bag_or_two_have_nothing_to_rank(similarity: Similarity) -> None:
    for bags in (1, 2):
        v = normal(bags, 3).requires_grad_()
        loss = regression.supcr(v, TARGETS[:bags], similarity=similarity)
        (gradient,) = torch.autograd.grad(loss, v)
        assert float(loss.detach()) == 0 and torch.equal(gradient, torch.zeros_like(v))


def test_supcr_is_stable_far_apart() -> None:
    v = (1e4 * normal(8, 3, dtype=torch.float32)).requires_grad_()
    loss = regression.supcr(v, TARGETS, similarity="l2")
    loss.backward()
    assert math.isfinite(float(loss.detach())) and v.grad is not None and torch.isfinite(v.grad).all()
    exact = regression.supcr(v.detach().double(), TARGETS, similarity="l2")
    assert float(loss.detach()) == pytest.approx(float(exact), rel=1e-5)


def test_supcr_sees_the_distance_of_near_embeddings_in_float32() -> None:
    v = 64 + (1e-3 * normal(8, 3)).float()
    found = regression.supcr(v, TARGETS, similarity="l2", temperature=1e-3)
    exact = supcr_loop(v.double(), TARGETS, "l2", 1e-3)
    assert float(found) == pytest.approx(exact, rel=1e-4)


def test_targets_that_differ_by_rounding_are_ties() -> None:
    v, y = normal(4, 3), torch.tensor([0.4, 0.1, 0.7, 1.3], dtype=torch.float64)
    whole = torch.tensor([1.0, 0.0, 2.0, 4.0], dtype=torch.float64)
    for x in (y, y.float()):
        assert x[0] - x[1] != x[2] - x[0]
    expected = supcr_loop(v, whole, "l2", 2.0)
    for targets in (y, y.float(), torch.cat([y[:2], y[2:].float()])):
        assert float(regression.supcr(v, targets, similarity="l2")) == pytest.approx(expected, rel=1e-10)


def test_supcr_prefers_embeddings_in_the_order_of_their_targets() -> None:
    line = TARGETS[:, None] * torch.ones(1, 3, dtype=torch.float64)
    ordered, shuffled = (
        float(regression.supcr(x, TARGETS, similarity="l2", temperature=0.1)) for x in (line, line.flip(0))
    )
    assert ordered < 0.5 * shuffled


def test_supcr_refuses_what_does_not_fit() -> None:
    v = normal(3, 2)
    for targets, anchors in ((TARGETS[:2], None), (TARGETS[:3], 4), (TARGETS[:3], 0)):
        with pytest.raises(ValueError, match="anchors"):
            regression.supcr(v, targets, similarity="l2", anchors=anchors)
    with pytest.raises(ValueError, match="similarity"):
        regression.supcr(v, TARGETS[:3], similarity="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature"):
        regression.supcr(v, TARGETS[:3], similarity="l2", temperature=0.0)


# --- perturbed cells and the cell term


def test_soft_perturbed_embedding_is_the_formula() -> None:
    embedding, logits, healthy = normal(7, 3), normal(7, 4, seed=1), (0, 3)
    weights = [1 - sum(softmax_loop(row)[k] for k in healthy) for row in logits.tolist()]
    expected = [
        sum(w * z for w, z in zip(weights, column, strict=True)) / sum(weights)
        for column in zip(*embedding.tolist(), strict=True)
    ]
    found = regression.perturbed_embedding(embedding, logits, healthy, "soft")
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda z, x: regression.perturbed_embedding(z, x, healthy, "soft"),
        (embedding.requires_grad_(), logits.requires_grad_()),
    )


def test_hard_perturbed_embedding_is_the_mean_of_cells_predicted_so() -> None:
    embedding = normal(5, 3).requires_grad_()
    stages = [3, 0, 1, 3, 2]
    logits = torch.nn.functional.one_hot(torch.tensor(stages), 4).double().requires_grad_()
    found = regression.perturbed_embedding(embedding, logits, [0, 3], "hard")
    assert torch.allclose(found, (embedding[2] + embedding[4]) / 2, atol=1e-15)
    through = torch.autograd.grad(found.sum(), (embedding, logits), allow_unused=True)
    assert through[0][:, 0].tolist() == [0, 0, 0.5, 0, 0.5] and through[1] is None


@pytest.mark.parametrize("how", ["soft", "hard"])
def test_a_bag_without_injury_adds_nothing(how: regression.Perturbed) -> None:
    embedding = normal(5, 3, dtype=torch.float32).requires_grad_()
    for row in ([0.0, 0.0, 60.0], [0.0, 0.0, 1000.0]):
        logits = torch.tensor([row] * 5, requires_grad=True)
        z_p = regression.perturbed_embedding(embedding, logits, [2], how)
        assert z_p.tolist() == [0, 0, 0]
        z_w = normal(3, dtype=torch.float32)
        assert float(regression.cell(z_w[None], z_w, z_p[None]).detach()) == 0
        # with a bag of zeros among others no gradient is lost or infinite
        bags = torch.stack([z_p, *normal(3, 3, dtype=torch.float32)])
        for similarity in TEMPERATURES:
            loss = regression.supcr(bags, TARGETS[:4], similarity=similarity)
            gradients = torch.autograd.grad(loss, (embedding, logits), allow_unused=True, retain_graph=True)
            assert all(g is None or torch.equal(g, torch.zeros_like(g)) for g in gradients)
    healthy_all = regression.perturbed_embedding(embedding, normal(5, 3), [0, 1, 2], how)
    assert healthy_all.tolist() == [0, 0, 0]
    assert regression.perturbed_embedding(embedding[:0], normal(0, 3), [2], how).tolist() == [0, 0, 0]


def test_a_little_injury_is_seen_in_float32() -> None:
    # 1 - .99999... would be a multiple of 6e-8; the sum over the injured stages is exact.
    embedding = normal(40, 3)
    logits = torch.cat([16 * torch.ones(40, 1), normal(40, 2)], 1).double()
    exact = regression.perturbed_embedding(embedding, logits, [0], "soft")
    single = regression.perturbed_embedding(embedding.float(), logits.float(), [0], "soft")
    assert single.dtype == torch.float32 and single.abs().sum() > 0
    assert single.tolist() == pytest.approx(exact.tolist(), rel=1e-4)


def test_perturbed_embedding_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="embeddings"):
        regression.perturbed_embedding(normal(4, 2), normal(5, 3), [0], "soft")
    for healthy in ([3], [-1]):
        with pytest.raises(ValueError, match="healthy"):
            regression.perturbed_embedding(normal(4, 2), normal(4, 3), healthy, "soft")
    with pytest.raises(ValueError, match="soft or hard"):
        regression.perturbed_embedding(normal(4, 2), normal(4, 3), [0], "all")  # type: ignore[arg-type]


def test_cell_is_the_definition_and_not_its_misprinted_expansion() -> None:
    z_i, z_w, z_p = normal(3, 4), normal(4, seed=1), normal(3, 4, seed=2)
    rows = [(z_i[b, d] - (z_w[d] + z_p[b, d])).item() ** 2 for b, d in itertools.product(range(3), range(4))]
    found = float(regression.cell(z_i, z_w, z_p))
    assert found == pytest.approx(sum(rows) / 12, rel=1e-12)
    misprint = float((z_w - (z_w + z_p)).square().mean())  # that is z_P alone
    assert abs(found - misprint) > 0.1
    assert float(regression.cell(z_w + z_p, z_w, z_p)) == pytest.approx(0, abs=1e-30)
    inputs = tuple(z.requires_grad_() for z in (z_i, z_w, z_p))
    assert torch.autograd.gradcheck(regression.cell, inputs)


def test_cell_refuses_what_would_be_broadcast() -> None:
    z_i, z_w, z_p = normal(3, 3), normal(3), normal(3, 3)
    for shapes in (
        (z_i, z_w[None], z_p),
        (z_i, z_w, z_p[:1]),
        (z_i[0], z_w, z_p[0]),
        (z_i[:0], z_w, z_p[:0]),
    ):
        with pytest.raises(ValueError, match="compared"):
            regression.cell(*shapes)


def test_halves() -> None:
    v = normal(2, 5, 6)
    assert all(part is v for part in regression.halves(v, "whole"))
    for_supcr, for_cell = regression.halves(v, "halves")
    assert torch.equal(for_supcr, v[..., :3]) and torch.equal(for_cell, v[..., 3:])
    odd = regression.halves(v[..., :5], "halves")
    assert [part.shape[-1] for part in odd] == [3, 2]
    with pytest.raises(ValueError, match="no halves"):
        regression.halves(v[..., :1], "halves")
    with pytest.raises(ValueError, match="whole or halves"):
        regression.halves(v, "thirds")  # type: ignore[arg-type]


# --- queue and reference


def push(queue: Queue, *numbers: int) -> None:
    """Bags whose every value is their number; the odd ones are healthy."""
    values = torch.tensor(numbers, dtype=torch.float32)
    queue.push(values[:, None].expand(-1, 3), values, values, values % 2 == 1)


def held(queue: Queue) -> list[float]:
    found = sorted(queue.scores.tolist())
    assert queue.embeddings.shape == (len(found), 3)
    assert torch.equal(queue.embeddings, queue.scores[:, None].expand(-1, 3))
    assert torch.equal(queue.targets, queue.scores) and torch.equal(queue.healthy, queue.scores % 2 == 1)
    return found


@given(
    size=st.integers(0, 5),
    pushes=st.lists(st.integers(0, 7), max_size=8),
)
def test_queue_holds_the_last_bags(size: int, pushes: list[int]) -> None:
    queue = Queue(size, 3)
    everything: list[int] = []
    for bags in pushes:
        new = list(range(len(everything), len(everything) + bags))
        push(queue, *new)
        everything += new
        assert held(queue) == everything[max(len(everything) - size, 0) :]


def test_queue_of_an_interrupted_run_goes_on_as_it_was() -> None:
    queue = Queue(4, 3)
    for step in range(3):
        push(queue, 2 * step, 2 * step + 1)
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    other = Queue(4, 3)
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        assert held(other) == held(queue)
        assert torch.equal(other.scores, queue.scores)
        assert torch.equal(other.reference(), queue.reference())  # type: ignore[arg-type]
        push(queue, 6, 7, 8)
        push(other, 6, 7, 8)
    partly = Queue(4, 3)
    push(partly, 1)
    other.load_state_dict(partly.state_dict())
    assert held(other) == [1]


def test_queue_passes_no_gradient_and_a_push_spoils_none() -> None:
    queue = Queue(3, 3)
    push(queue, 1, 2, 3)
    v = normal(2, 3, dtype=torch.float32).requires_grad_()
    seen = queue.embeddings
    before = seen.clone()
    loss = (v * seen[:2]).sum()
    queue.push(2 * v, v.sum(1), v.sum(1), flags(1, 0))
    assert not queue.embeddings.requires_grad and not queue.scores.requires_grad
    assert torch.equal(seen, before) and not torch.equal(queue.embeddings, before)
    loss.backward()
    assert v.grad is not None and torch.equal(v.grad, before[:2])


def test_queue_takes_bags_of_its_own_width_only() -> None:
    queue = Queue(3, 3)
    for embedding, scores in (
        (normal(2, 4), normal(2)),
        (normal(2, 3), normal(1)),
        (normal(2, 3), normal(2, 1)),
    ):
        with pytest.raises(ValueError, match="width 3"):
            queue.push(embedding, scores, scores, flags(1, 0))


def test_reference_is_the_mean_of_healthy_bags_of_step_and_queue() -> None:
    queue = Queue(4, 3)
    assert queue.reference() is None
    current = normal(2, 3, dtype=torch.float32).requires_grad_()
    assert regression.reference(current, flags(0, 0), queue) is None
    only = regression.reference(current, flags(0, 1), queue)
    assert only is not None and torch.equal(only, current[1])
    push(queue, 2, 1, 3)
    assert queue.reference().tolist() == [2, 2, 2]  # type: ignore[union-attr]
    from_queue = regression.reference(current, flags(0, 0), queue)
    assert from_queue is not None and from_queue.tolist() == [2, 2, 2]
    both = regression.reference(current, flags(1, 0), queue)
    assert both is not None
    assert both.tolist() == pytest.approx(((current[0] + 4) / 3).tolist(), rel=1e-6)
    (gradient,) = torch.autograd.grad(both.sum(), current)
    assert gradient.tolist() == [pytest.approx([1 / 3] * 3), [0, 0, 0]]
    push(queue, 4, 6, 8, 10)
    assert queue.reference() is None


def test_an_empty_queue_leaves_the_step_alone() -> None:
    queue = Queue(0, 3)
    push(queue, 1, 2)
    v = normal(2, 3)
    seen = torch.cat([v, queue.embeddings])
    assert seen.dtype == torch.float64 and torch.equal(seen, v)
    assert queue.reference() is None and regression.reference(v, flags(0, 0), queue) is None


# --- conflict


def test_conflict_is_the_cosine_of_the_gradients() -> None:
    w, unused, frozen = normal(3).requires_grad_(), normal(2).requires_grad_(), normal(2)
    a, b = normal(3, seed=1), normal(3, seed=2)
    one, other = (a * w).sum(), (b * w**2).sum()
    expected = -similarity_loop(a.tolist(), (-2 * b * w.detach()).tolist(), "cosine")
    assert float(regression.conflict(one, other, [w, unused, frozen])) == pytest.approx(expected, rel=1e-12)
    assert float(regression.conflict(one, -3 * one, iter([w]))) == pytest.approx(-1)
    assert float(regression.conflict(one, other, [w])) == pytest.approx(
        expected, rel=1e-12
    )  # graphs are kept
    assert w.grad is None


def test_conflict_of_tiny_gradients_is_seen_in_float32() -> None:
    w = torch.ones(2, requires_grad=True)
    one, other = 1e-30 * w[0], 1e-30 * w.sum()
    assert float(regression.conflict(one, other, [w])) == pytest.approx(math.sqrt(0.5))


def test_conflict_is_missing_where_a_gradient_is_zero() -> None:
    w, v = normal(3).requires_grad_(), normal(2).requires_grad_()
    one = w.sum()
    for other in (v.sum(), (0 * w).sum(), torch.tensor(1.0)):
        assert math.isnan(float(regression.conflict(one, other, [w])))
        assert math.isnan(float(regression.conflict(other, one, [w])))
    assert math.isnan(float(regression.conflict(one, one, [])))


# --- autocast


def test_autocast_leaves_the_terms_in_float32() -> None:
    v, w, logits = (normal(*shape, dtype=torch.float32) for shape in ((8, 64), (8, 64), (8, 5)))
    y, scores = TARGETS.float(), normal(8, dtype=torch.float32)
    queue = Queue(4, 64)
    queue.push(w, y, y, y > 1)

    def everything() -> list[Tensor | None]:
        return [
            regression.expected_score(logits),
            regression.mse(scores, y),
            regression.dist(scores, TARGETS),
            regression.supcr(v, y, similarity="l2"),
            regression.supcr(v, y, similarity="cosine"),
            regression.perturbed_embedding(v, logits, [0], "soft"),
            regression.perturbed_embedding(v, logits, [0], "hard"),
            regression.cell(v, w[0], w),
            regression.reference(v, y > 1, queue),
        ]

    outside = everything()
    with torch.autocast("cpu", torch.bfloat16):
        inside = everything()
    for a, b in zip(inside, outside, strict=True):
        assert a is not None and b is not None and a.dtype == torch.float32 and torch.equal(a, b)


def test_terms_of_half_precision_are_computed_in_float32() -> None:
    v, logits = normal(8, 64).bfloat16(), normal(8, 5).bfloat16()
    queue = Queue(2, 64)
    queue.push(v, v[:, 0], v[:, 1], flags(*[1] * 8))
    found = [
        regression.expected_score(logits),
        regression.mse(v[:, 0], v[:, 1]),
        regression.dist(v[:, 0], TARGETS),
        regression.supcr(v, v[:, 0], similarity="l2"),
        regression.supcr(v, v[:, 0], similarity="cosine"),
        regression.perturbed_embedding(v, logits, [0], "soft"),
        regression.cell(v, v[0], v),
        regression.reference(v, flags(*[1] * 8), queue),
    ]
    assert all(x is not None and x.dtype == torch.float32 for x in found)
