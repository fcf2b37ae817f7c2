"""Features of hidden cells, reconstructed from those of their neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from myostage.learning.options import Hiding
from myostage.learning.term import Term
from myostage.papers import SRMIL, SRMIL_WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.mil import SlideStep
    from myostage.learning.steps import BagStep


def _of_bags(step: BagStep, options: Hiding) -> Tensor:
    value: Tensor = step.helpers["spatial_reconstruction"](step.embedding, step.graph, options.mask_ratio)
    return value


def _of_slide(step: SlideStep, options: Hiding) -> Tensor | None:
    return None if step.masked is None else step.masked.reconstruction()


def _helper(width: int) -> Any:
    """The autoencoder of `srmil` without super-node, at its default widths."""
    from myostage.learning.mil import Reconstruction
    from myostage.study.sections.mil import Mil

    sizes = Mil()
    return Reconstruction(width, sizes.width, sizes.heads, sizes.layers)


TERM = Term(
    title="reconstruction",
    unit="1 - cosine",
    meaning="hidden cells from their neighbours",
    source=SRMIL,
    compute={"proportions": _of_bags, "slide": _of_slide},
    options=Hiding,
    teaches="nothing",
    encoder_only=True,
    place=70,
    implied={"srmil": SRMIL_WEIGHTS["spatial_reconstruction"]},
    spatial=True,
    helper=_helper,
)
