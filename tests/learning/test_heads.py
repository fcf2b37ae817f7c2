"""Ordinal classifiers against loops over stages and cells, their gradients, and what a study says of them."""

import math

import pytest
import torch
from torch import Tensor, nn

from myostage.errors import UserError
from myostage.learning.heads import LAST_LAYERS, Corn, CumulativeLink, build_head
from myostage.learning.terms.cross_entropy import cross_entropy
from myostage.learning.terms.prop import prop
from myostage.study.expand import expand
from myostage.study.sections.study import Study
from support import tiny
from support.formulas import D5, normal

ORDINAL = ("cumulative_link", "corn")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def last(classifier: str, stages: int) -> tuple[nn.Module, int]:
    """The ordinal layer in float64, with parameters that are no start, and the width of what it sees."""
    layer = CumulativeLink(stages) if classifier == "cumulative_link" else Corn()
    layer = layer.double()
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter += 0.1 * normal(*parameter.shape, seed=number)
    return layer, 1 if classifier == "cumulative_link" else stages - 1


def cumulative_loop(layer: nn.Module, score: float) -> list[float]:
    assert isinstance(layer, CumulativeLink)
    first, *gaps = (layer.start + 10 * layer.moved).tolist()
    thresholds = [first]
    for gap in gaps:
        thresholds.append(thresholds[-1] + math.exp(gap))
    below = [0.0, *(sigmoid(t - score) for t in thresholds), 1.0]
    return [below[k + 1] - below[k] for k in range(len(below) - 1)]


def corn_loop(row: list[float]) -> list[float]:
    beyond = [math.prod(sigmoid(x) for x in row[:k]) for k in range(len(row) + 1)]
    return [a - b for a, b in zip(beyond, [*beyond[1:], 0.0], strict=True)]


@pytest.mark.parametrize("stages", [2, 3, 6])
def test_cumulative_link_is_the_difference_of_two_sigmoids(stages: int) -> None:
    layer, width = last("cumulative_link", stages)
    scores = 2 * normal(7, width)
    wanted = [cumulative_loop(layer, float(score)) for score in scores]
    torch.testing.assert_close(layer(scores).exp(), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("stages", [2, 3, 6])
def test_corn_is_the_chain_of_conditional_probabilities(stages: int) -> None:
    layer, width = last("corn", stages)
    logits = 2 * normal(7, width)
    wanted = [corn_loop(row) for row in logits.tolist()]
    torch.testing.assert_close(layer(logits).exp(), torch.tensor(wanted, dtype=torch.float64))


def test_cross_entropy_of_corn_is_its_published_loss_up_to_the_number_of_tasks() -> None:
    layer, width = last("corn", 4)
    logits, labels = normal(9, width), torch.tensor([0, 1, 2, 3, 3, 0, 2, 1, 1])
    total, tasks = 0.0, 0
    for k in range(width):
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            if label >= k:  # a cell of the conditional subset S_k
                total -= math.log(sigmoid(row[k] if label > k else -row[k]))
                tasks += 1
    published = total / tasks
    assert float(cross_entropy(layer(logits), labels)) == pytest.approx(published * tasks / len(labels))


@pytest.mark.parametrize("classifier", ORDINAL)
def test_ordinal_log_probabilities_sum_to_one_and_stay_finite_far_out(classifier: str) -> None:
    layer, width = last(classifier, 5)
    layer = layer.float()
    for scale in (1.0, 30.0, 3000.0):
        inputs = (scale * normal(50, width)).float().requires_grad_()
        found = layer(inputs)
        torch.testing.assert_close(found.logsumexp(1), torch.zeros(50), atol=1e-5 * scale, rtol=0)
        assert found.isfinite().all()
        (gradient,) = torch.autograd.grad(found.sum(), inputs)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("classifier", ORDINAL)
def test_ordinal_gradients(classifier: str) -> None:
    layer, width = last(classifier, 4)

    def loss(inputs: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(layer.named_parameters()), parameters, strict=True))
        return prop(torch.func.functional_call(layer, named, (inputs,)), [0.1, 0.5, 0.4, 0.0])

    inputs = [normal(6, width), *(parameter.detach().clone() for parameter in layer.parameters())]
    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in inputs])


def test_thresholds_stay_in_order_whatever_is_learnt_and_start_at_equal_shares() -> None:
    layer = CumulativeLink(5)
    torch.testing.assert_close(layer(torch.zeros(1, 1)).exp(), torch.full((1, 5), 0.2))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    for seed in range(20):
        optimiser.zero_grad()
        prop(layer(normal(20, 1, seed=seed).float()), normal(5, seed=seed).softmax(0)).backward()
        optimiser.step()
        assert layer(torch.zeros(1, 1)).isfinite().all()
    assert layer.moved.abs().max().item() > 0.05


@pytest.mark.parametrize("classifier", LAST_LAYERS)
def test_heads_have_the_width_of_their_classifier_and_compute_in_float32(classifier: str) -> None:
    torch.manual_seed(0)
    head = build_head(8, (7, 6), 5, classifier)  # type: ignore[arg-type]
    widths = {"softmax": 5, "cumulative_link": 1, "corn": 4}
    assert head[4].out_features == widths[classifier]
    logits = head(normal(3, 8).float())
    assert logits.shape == (3, 5)
    if classifier in ORDINAL:
        torch.testing.assert_close(logits.log_softmax(1), logits)
        with torch.autocast("cpu", torch.bfloat16):
            assert head(normal(3, 8).float()).dtype == torch.float32
    found = prop(logits, D5)
    found.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_classifiers_make_runs_of_their_own_and_softmax_the_run_that_was() -> None:
    heads = {"name": "heads", "losses": {"prop": 1}, "vary": {"classifier": ["softmax", *ORDINAL]}}
    found = expand(Study(**tiny.of_cells({"name": "prop", "losses": {"prop": 1}}, heads)))
    ids = {label: runs[0].id for label, runs in found.items()}
    assert ids["heads[classifier=softmax]"] == ids["prop"]
    assert len(set(ids.values())) == 3
    assert "classifier" not in found["prop"][0].model_dump()["training"]
    kept = type(found["prop"][0]).model_validate_json(found["heads[classifier=corn]"][0].model_dump_json())
    assert kept.training.classifier == "corn"


def test_a_model_of_slide_labels_has_no_ordinal_classifier_of_cells() -> None:
    study = Study(**(tiny.study() | {"training": {"classifier": "corn"}}))
    with pytest.raises(UserError, match=r"learns labels of slides, which no corn classifies; set training"):
        expand(study)
