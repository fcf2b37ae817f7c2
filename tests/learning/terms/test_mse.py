"""Squared error of scores, by hand."""

import pytest
import torch

from myostage.learning.terms import mse


def test_mse_by_hand() -> None:
    scores, targets = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 4.0, 3.0])
    assert float(mse.mse(scores, targets)) == pytest.approx(5 / 3)
    assert torch.autograd.gradcheck(
        mse.mse, (scores.double().requires_grad_(), targets.double().requires_grad_())
    )
    for other in (targets[:, None], targets[:1]):  # both would be broadcast
        with pytest.raises(ValueError, match="targets"):
            mse.mse(scores, other)
