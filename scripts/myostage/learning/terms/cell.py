"""The cell term: the embedding of a bag is that of uninjured tissue plus that of the bag's injured cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from myostage.learning.options import Parted, Queued
from myostage.learning.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


class Options(Queued, Parted):
    """Options of the cell term."""


def _compute(step: BagStep, options: Options) -> Tensor | None:
    """MSE(z_I, z_W + z_P); None before the first bag of uninjured tissue, when there is no z_W."""
    from myostage.learning.regression import halves, reference

    bags = step.ordinal
    z_w = reference(bags.embeddings, bags.healthy, bags.queue)
    if z_w is None:
        return None
    z_i, z_p = bags.embeddings.split(step.width, dim=1)
    parts = (halves(part, options.embedding_parts)[1] for part in (z_i, z_w[: step.width], z_p))
    return cell(*parts)


TERM = Term(
    title="cell term",
    meaning="embedding of a bag against that of uninjured tissue plus that of its injured cells",
    compute={"proportions": _compute},
    options=Options,
    teaches="nothing",
    encoder_only=True,
    place=94,
    regression=True,
    healthy="needed",
    conflict="supcr",
)


def cell(z_i: Tensor, z_w: Tensor, z_p: Tensor) -> Tensor:
    """Mean of (z_I - (z_W + z_P))^2 over bags and dimensions.

    Parameters
    ----------
    z_i, z_p
        Embedding of every bag and of its perturbed cells, [B, D] each.
    z_w
        Embedding of healthy tissue, [D] (:func:`reference`).

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        Shapes that do not fit, or no bag.
    """
    import torch

    from myostage.learning.shares import full_precision

    if z_i.ndim != 2 or z_i.numel() == 0 or z_p.shape != z_i.shape or z_w.shape != z_i.shape[1:]:
        shapes = f"z_I {tuple(z_i.shape)}, z_W {tuple(z_w.shape)} and z_P {tuple(z_p.shape)}"
        raise ValueError(f"{shapes} cannot be compared")
    with torch.autocast(z_i.device.type, enabled=False):
        return (full_precision(z_i) - (full_precision(z_w) + full_precision(z_p))).square().mean()
