"""Cross-entropy of labelled cells with soft ordinal labels: the supervised ceiling only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from myostage.learning.term import Term
from myostage.papers import SORD
from myostage.schema import Section, key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import CellStep


Metric = Literal["absolute", "squared"]


class Options(Section):
    """Options of the soft labels."""

    sord_distance: Metric = key(
        "absolute", "distance of two stages, in stages, that the soft labels of `sord` fall off with"
    )


def _compute(step: CellStep, options: Options) -> Tensor:
    return sord(step.logits, step.labels, distance=options.sord_distance)


TERM = Term(
    title="cross-entropy, soft ordinal labels",
    unit="nats",
    meaning="cross-entropy with cell labels that adjacent stages share",
    source=SORD,
    compute={"supervised": _compute},
    options=Options,
    teaches="head",
    place=96,
)


def sord(logits: Tensor, labels: Tensor, *, distance: Metric = "absolute") -> Tensor:
    """Mean cross-entropy of cells with labels softmax_k(-d(k, stage)) (SORD, Diaz & Marathe, CVPR 2019).

    Published distances d are |k - stage|, its square, or that of logarithms; stages have no ratio, so the
    third is left out. Which of them is best depends on the task there; the default is ours.

    Parameters
    ----------
    logits
        [N, K].
    labels
        Stages [N], 0 to K - 1.
    distance
        ``absolute`` or ``squared``.

    Returns
    -------
    Tensor
        Scalar, nats; at least the entropy of the labels.
    """
    import torch

    from myostage.learning.shares import full_precision

    with torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits).log_softmax(1)
        away = (torch.arange(logits.shape[1]).to(labels) - labels[:, None]).abs().to(scores)
        soft = (-(away.square() if distance == "squared" else away)).softmax(1)
        return -(soft * scores).sum(1).mean()
