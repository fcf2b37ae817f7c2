"""What the terms of ordinal regression share: scores, z_P, queue, reference, and their precision."""

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from myostage.learning import regression
from myostage.learning.regression import Queue
from myostage.learning.terms import cell, dist, mse, supcr
from myostage.learning.terms.supcr import Similarity
from support.formulas import normal

# With ties, and not in order.
TARGETS = torch.tensor([2.0, 0.5, 2.0, 3.25, 0.0, 0.5, 4.0, 1.0], dtype=torch.float64)


TEMPERATURES: dict[Similarity, float] = {"l2": 2.0, "cosine": 0.1}


def softmax_loop(row: list[float]) -> list[float]:
    return [math.exp(x) / sum(map(math.exp, row)) for x in row]


def similarity_loop(a: list[float], b: list[float], similarity: Similarity) -> float:
    if similarity == "l2":
        return -math.dist(a, b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def flags(*healthy: int) -> Tensor:
    return torch.tensor(healthy, dtype=torch.bool)


def test_expected_score_is_the_formula() -> None:
    logits = normal(7, 5)
    soft = [softmax_loop(row) for row in logits.tolist()]
    expected = sum(k * sum(row[k] for row in soft) / 7 for k in range(5))
    assert float(regression.expected_score(logits)) == pytest.approx(expected, rel=1e-12)
    assert float(regression.expected_score(torch.tensor([[0.0, 0, 200], [200, 0, 0]]))) == pytest.approx(1)
    assert torch.autograd.gradcheck(regression.expected_score, (logits.requires_grad_(),))
    with pytest.raises(ValueError, match="cells"):
        regression.expected_score(normal(0, 5))


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
        assert float(cell.cell(z_w[None], z_w, z_p[None]).detach()) == 0
        # with a bag of zeros among others no gradient is lost or infinite
        bags = torch.stack([z_p, *normal(3, 3, dtype=torch.float32)])
        for similarity in TEMPERATURES:
            loss = supcr.supcr(bags, TARGETS[:4], similarity=similarity)
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


def test_autocast_leaves_the_terms_in_float32() -> None:
    v, w, logits = (normal(*shape, dtype=torch.float32) for shape in ((8, 64), (8, 64), (8, 5)))
    y, scores = TARGETS.float(), normal(8, dtype=torch.float32)
    queue = Queue(4, 64)
    queue.push(w, y, y, y > 1)

    def everything() -> list[Tensor | None]:
        return [
            regression.expected_score(logits),
            mse.mse(scores, y),
            dist.dist(scores, TARGETS),
            supcr.supcr(v, y, similarity="l2"),
            supcr.supcr(v, y, similarity="cosine"),
            regression.perturbed_embedding(v, logits, [0], "soft"),
            regression.perturbed_embedding(v, logits, [0], "hard"),
            cell.cell(v, w[0], w),
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
        mse.mse(v[:, 0], v[:, 1]),
        dist.dist(v[:, 0], TARGETS),
        supcr.supcr(v, v[:, 0], similarity="l2"),
        supcr.supcr(v, v[:, 0], similarity="cosine"),
        regression.perturbed_embedding(v, logits, [0], "soft"),
        cell.cell(v, v[0], v),
        regression.reference(v, flags(*[1] * 8), queue),
    ]
    assert all(x is not None and x.dtype == torch.float32 for x in found)
