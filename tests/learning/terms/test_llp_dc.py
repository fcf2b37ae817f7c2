"""Pseudo-labels that meet the proportions against every assignment, and the loss that learns them."""

import itertools
import math

import pytest
import torch

from myostage.learning.terms.llp_dc import assign, llp_dc
from support.formulas import D5, normal


def test_labels_are_the_likeliest_of_all_with_the_counts() -> None:
    scores = (3 * normal(7, 3)).log_softmax(1)
    counts = [2, 4, 1]
    every = set(itertools.permutations([k for k, n in enumerate(counts) for _ in range(n)]))
    best = max(every, key=lambda labels: sum(float(scores[i, k]) for i, k in enumerate(labels)))
    assert assign(scores.numpy(), [n / 7 for n in counts]).tolist() == list(best)


def test_llp_dc_is_cross_entropy_with_the_labels_that_are_likely_enough() -> None:
    logits, strong = 3 * normal(20, 5), normal(20, 5, seed=1)
    labels = assign(logits.log_softmax(1).numpy(), D5)
    total = 0.0
    for own, changed, label in zip(logits.softmax(1), strong.softmax(1), labels, strict=True):
        if own[label] >= 0.6:
            total -= math.log(changed[label])
    assert total > 0
    assert float(llp_dc(logits, strong, D5, threshold=0.6)) == pytest.approx(total / 20, rel=1e-12)
    assert float(llp_dc(torch.zeros(6, 5), strong[:6], D5, threshold=0.6)) == 0


def test_llp_dc_gradient_reaches_the_perturbed_cells_alone_and_refusal() -> None:
    logits, strong = normal(9, 5).requires_grad_(), normal(9, 5, seed=1).requires_grad_()
    llp_dc(logits, strong, D5, threshold=0.1).backward()
    assert logits.grad is None and strong.grad is not None and float(strong.grad.abs().sum()) > 0
    fixed = logits.detach()
    assert torch.autograd.gradcheck(
        lambda x: llp_dc(fixed, x, D5, threshold=0.1), [strong.detach().requires_grad_()]
    )
    with pytest.raises(ValueError, match="proportions"):
        llp_dc(fixed, fixed, D5[:3], threshold=0.1)
