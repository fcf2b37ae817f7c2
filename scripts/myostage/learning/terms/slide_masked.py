"""The loss of a slide's label where part of its cells are hidden, as `srmil` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myostage.learning.options import Hiding
from myostage.learning.term import Term
from myostage.papers import SRMIL, SRMIL_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.mil import SlideStep


def _compute(step: SlideStep, options: Hiding) -> Tensor | None:
    return None if step.masked is None else step.masked.slide_loss(step.target)


TERM = Term(
    title="loss of the slide's label, cells hidden",
    unit="nats",
    meaning="the label of a slide with hidden cells",
    source=SRMIL,
    compute={"slide": _compute},
    options=Hiding,
    teaches="head",
    place=60,
    implied={"srmil": SRMIL_WEIGHTS["slide_masked"]},
)
