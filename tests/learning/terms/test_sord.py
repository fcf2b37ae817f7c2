"""Soft ordinal labels against a loop, and the gradient of their cross-entropy."""

import math

import pytest
import torch

from myostage.learning.terms.sord import Metric, sord
from support.formulas import normal


@pytest.mark.parametrize(("distance", "power"), [("absolute", 1), ("squared", 2)])
def test_sord_is_the_cross_entropy_with_labels_that_fall_off_with_distance(
    distance: Metric, power: int
) -> None:
    logits, labels = normal(8, 4), [0, 3, 1, 2, 2, 0, 3, 1]
    total = 0.0
    for row, stage in zip(logits.log_softmax(1).tolist(), labels, strict=True):
        weights = [math.exp(-(abs(k - stage) ** power)) for k in range(4)]
        total -= sum(w / sum(weights) * score for w, score in zip(weights, row, strict=True))
    assert float(sord(logits, torch.tensor(labels), distance=distance)) == pytest.approx(total / 8, rel=1e-12)


def test_sord_prefers_the_stage_next_to_the_label_to_one_far_off() -> None:
    scores = 4 * torch.eye(5)
    label = torch.tensor([1])
    losses = [float(sord(scores[[k]], label)) for k in range(5)]
    assert losses[1] < losses[2] < losses[3] < losses[4]
    # the best prediction is the soft label itself, whose most probable stage is the label
    soft = (-(torch.arange(5.0) - 1).abs()).log_softmax(0)
    assert float(sord(soft[None], label)) < losses[1]


def test_sord_gradient() -> None:
    labels = torch.tensor([0, 2, 3, 1])
    assert torch.autograd.gradcheck(lambda x: sord(x, labels), [normal(4, 4).requires_grad_()])
