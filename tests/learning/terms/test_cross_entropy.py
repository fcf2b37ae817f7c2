"""Cross-entropy with cell labels, by hand."""

import math

import pytest
import torch

from myostage.learning.terms import cross_entropy


def test_cell_term_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    assert float(cross_entropy.cross_entropy(logits, torch.tensor([1, 0]))) == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2
    )
