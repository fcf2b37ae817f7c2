"""Terms and methods."""

from typing import Literal

Term = Literal[
    "simprop",
    "prop",
    "vat",
    "ot",
    "mse",
    "dist",
    "supcr",
    "cell",
    "spatial_reconstruction",
    "slide",
    "slide_masked",
    "cross_entropy",
]


Method = Literal["proportions", "slide", "supervised", "majority", "group_majority"]


LEARNING = ("proportions", "slide", "supervised")


# Terms of the general ordinal-regression loss, and those that a model of slide labels has.
REGRESSION_TERMS = frozenset({"mse", "dist", "supcr", "cell"})


SLIDE_TERMS = frozenset({"slide", "slide_masked", "spatial_reconstruction"})


# SRMIL's weights: .2 (CE of the hidden + CE of the whole graph) + 1.8 reconstruction.
SRMIL_LOSSES: dict[Term, float] = {"slide": 0.2, "slide_masked": 0.2, "spatial_reconstruction": 1.8}
