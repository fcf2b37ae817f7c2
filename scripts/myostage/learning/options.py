"""Keys of the section `training` that several loss terms share."""

from typing import Literal

from myostage.papers import OSLSP, SRMIL
from myostage.schema import Name, Section, key

EXPECTED_STAGE = "expected_stage"


class Divided(Section):
    """What a sum is divided by."""

    divide: Literal["none", "released"] = key(
        "none",
        "L_SimProp and L_prop as sums (OSLSP), or divided by `bins` and by the number of stages"
        " (the released code)",
        OSLSP,
    )


class Scored(Section):
    """What bags are scored by."""

    score: Name = key(
        EXPECTED_STAGE,
        "target of `mse`, `dist`, `supcr`: the expected stage under the bag's proportions, or a numeric "
        "column of "
        "the slide table, whose smallest and largest value become the first and the last stage",
    )


class Queued(Section):
    """Bags of earlier steps."""

    queue: int = key(
        32,
        "bags of earlier steps that `dist`, `supcr` and `cell` see too, without gradient",
        ge=0,
        le=100_000,
    )


class Parted(Section):
    """The parts of an embedding, and the cells that make up z_P."""

    embedding_parts: Literal["whole", "halves"] = key(
        "whole", "`supcr` and `cell` both use all of the embedding, or a half each"
    )
    perturbed: Literal["soft", "hard"] = key(
        "soft",
        "cells that make up z_P of `supcr` and `cell`: all, weighted by their probability of not being "
        "healthy, or those "
        "predicted so",
    )


class Hiding(Section):
    """How many cells are hidden."""

    mask_ratio: float = key(
        0.7, "share of cells that `spatial_reconstruction` and `srmil` hide, 0 to 1", SRMIL, gt=0, lt=1
    )
