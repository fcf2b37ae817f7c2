"""Squared error of the bags' scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myostage.learning.options import Scored
from myostage.learning.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


def _compute(step: BagStep, options: Scored) -> Tensor:
    return mse(step.ordinal.scores, step.ordinal.targets)


TERM = Term(
    title="MSE of the score",
    unit="stages2",
    meaning="squared error of a bag's expected stage against `training.score`",
    compute={"proportions": _compute},
    options=Scored,
    teaches="head",
    place=80,
    regression=True,
)


def mse(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean of (score - target)^2 over bags (stages squared); ValueError unless both are [B], B above 0."""
    import torch

    from myostage.learning.shares import full_precision

    if scores.ndim != 1 or scores.shape != targets.shape or len(scores) == 0:
        raise ValueError(f"scores {tuple(scores.shape)} for targets {tuple(targets.shape)}")
    with torch.autocast(scores.device.type, enabled=False):
        return (full_precision(scores) - full_precision(targets)).square().mean()
