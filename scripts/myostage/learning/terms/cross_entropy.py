"""Cross-entropy with the stages of labelled cells: the supervised ceiling only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myostage.learning.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import CellStep


def _compute(step: CellStep, options: object) -> Tensor:
    return cross_entropy(step.logits, step.labels)


TERM = Term(
    title="cross-entropy, cell labels",
    unit="nats",
    meaning="cross-entropy with cell labels",
    compute={"supervised": _compute},
    teaches="head",
    place=95,
    implied={"supervised": 1.0},
)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of cells [N, K] with their stages [N] (nats): the supervised ceiling only."""
    import torch
    import torch.nn.functional as F

    from myostage.learning.shares import full_precision

    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(full_precision(logits), labels.long())
