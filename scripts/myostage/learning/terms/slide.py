"""The loss of a slide's label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myostage.learning.term import Term
from myostage.papers import SRMIL_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.mil import SlideStep


def _compute(step: SlideStep, options: object) -> Tensor:
    return step.model.slide_loss(step.features, step.graph, step.target)


TERM = Term(
    title="loss of the slide's label",
    unit="nats",
    meaning="the label of a slide",
    compute={"slide": _compute},
    teaches="head",
    place=50,
    implied={"slide": 1.0, "srmil": SRMIL_WEIGHTS["slide"]},
)
