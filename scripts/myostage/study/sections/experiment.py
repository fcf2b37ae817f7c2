"""The section `experiment` of a study file."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from myostage.papers import OSLSP
from myostage.schema import Name, Section, key
from myostage.study.terms import Method, Term

Part = Literal["main", "grid", "design", "proportions", "regression", "attention", "spatial"]


# What an experiment starts from; its own keys come on top. `released` is OSLSP's released code as it runs:
# no weights are loaded, schedules are not applied, and the head neither learns nor passes a gradient on.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {"losses": {}, "training": {}, "encoder": {}},
    "released": {
        "losses": {"simprop": 1.0, "prop": 1.0},
        "training": {
            "sigma": 0.1,
            "bins": 6,
            "pairs": "aligned",
            "target": "truncated",
            "divide": "released",
            "stop_gradient": True,
            "head_gradient": "detached",
            "unfreeze": "attention",
            "head": "frozen",
            "schedule": "constant",
            "warmup": 0.0,
        },
        "encoder": {"weights": "none"},
    },
}


class Experiment(Section):
    """One row of the results: a method over all folds and seeds, and over a grid where `vary` names one."""

    name: Name = key(..., "unique name, shown in tables and figures")
    method: Method = key(
        "proportions",
        "`proportions`: learn from proportions (OSLSP); `slide`: from a label of each slide, by a model of "
        "`mil`; `supervised`: from cell labels, a ceiling; "
        "`majority`: predict the stage most common in training; "
        "`group_majority`: the stages given for the cell's own group",
        OSLSP,
    )
    preset: Literal["none", "released"] = key(
        "none",
        "losses, training and encoder to start from; `released`: as the released code of OSLSP runs",
    )
    losses: dict[Term, PositiveFloat] = key(
        {},
        "loss terms and their weights. simprop: L_SimProp, prop: L_prop (OSLSP weighs both 1); vat: virtual "
        "adversarial consistency (LLP-VAT); ot: cross-entropy with optimal-transport pseudo-labels; mse, "
        "dist, "
        "supcr, cell: general ordinal regression on the bags' `training.score`; spatial_reconstruction: "
        "hidden "
        "cells from their neighbours (SRMIL). `supervised` implies cross_entropy: 1; `slide` slide: 1, and "
        "with "
        "`srmil` slide: 0.2, slide_masked: 0.2, spatial_reconstruction: 1.8",
    )
    training: dict[str, Any] = key({}, "keys of `training` that differ here")
    encoder: dict[str, Any] = key({}, "keys of `encoder` that differ here")
    mil: dict[str, Any] = key({}, "keys of `mil` that differ here, with `method: slide`")
    graph: dict[str, Any] = key({}, "keys of `graph` that differ here")
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = key(
        {}, "keys of `training`, or `losses.TERM`, `mil.KEY`, `graph.KEY`, each with the values of a grid"
    )
    part: Part = key(
        "main",
        "where it is shown: the main table, the grid of sigma and bins, the forest plot of design choices, "
        "the curve of wrong proportions, or the table of ordinal regression, of smooth attention or of "
        "spatial "
        "regularisation; changes no result",
    )
    baseline: bool = key(False, "whether it is a baseline that others are compared with; majorities are")
    against: str | None = key(
        None, "experiment that this one changes something of, compared with beside `compare.reference`"
    )
