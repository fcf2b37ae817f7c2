"""The section `experiment` of a study file."""

from typing import Annotated, Any, Literal

from pydantic import Field

from myostage.learning.baseline import BASELINES
from myostage.learning.term import TERMS, names
from myostage.papers import OSLSP, OSLSP_BINS, OSLSP_SIGMA
from myostage.schema import Name, Positive, Section, Text, key
from myostage.study.methods import Method, TermName

Part = Literal["main", "rivals", "grid", "design", "proportions", "regression", "attention", "spatial"]


# What an experiment starts from; its own keys come on top. `released` is OSLSP's released code: no weights
# are loaded, schedules are not applied, the head neither learns nor passes a gradient.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {"losses": {}, "training": {}, "encoder": {}},
    "released": {
        "losses": {"simprop": 1.0, "prop": 1.0},
        "training": {
            "sigma": OSLSP_SIGMA,
            "bins": OSLSP_BINS,
            "bag_size": 100,
            "pairs": "aligned",
            "target": "truncated",
            "divide": "released",
            "stop_gradient": True,
            "head_gradient": "detached",
            "unfreeze": "attention",
            "head": "frozen",
            "schedule": "constant",
            "warmup": 0.0,
            "prop_bags": "first",
            "learning_rate": 1e-3,
            "encoder_learning_rate": 1e-3,
            "weight_decay": 0.01,
            "decay": "matrices",
            "clip": 3.0,
            "clip_by": "parameter",
            "drop_path": 0.1,
        },
        "encoder": {"weights": "none", "pool": "cls", "trained_blocks": "all"},
    },
}


_METHODS = (
    "`proportions`: learn from proportions (OSLSP); `slide`: from a label of each slide, by a model of "
    "`mil`; `supervised`: from cell labels, by the same network; "
    "`probe`: from cell labels, by a logistic regression on the frozen tokens; "
) + "; ".join(f"`{name}`: {BASELINES[name].meaning}" for name in BASELINES.names())
_LOSSES = "loss terms (below) and their weights; none: {}".format(
    ", ".join(
        f"`{asked}` {name}: {weight:g}" for name in names() for asked, weight in TERMS[name].implied.items()
    )
)


class Experiment(Section):
    """One row of the results: a method over all folds and seeds, and over the grid of `vary`."""

    name: Name = key(..., "unique name, shown in tables and figures")
    method: Method = key(
        "proportions",
        _METHODS,
        OSLSP,
    )
    preset: Literal["none", "released"] = key(
        "none",
        "losses, training and encoder to start from; `released`: those of OSLSP's released code, which "
        "starts from random weights, trains the attention of every block and leaves the head frozen",
    )
    losses: dict[TermName, Positive] = key({}, _LOSSES, max_length=1000)
    training: dict[str, Any] = key({}, "keys of `training` that differ here", max_length=1000)
    encoder: dict[str, Any] = key({}, "keys of `encoder` that differ here", max_length=1000)
    mil: dict[str, Any] = key({}, "keys of `mil` that differ here, with `method: slide`", max_length=1000)
    graph: dict[str, Any] = key({}, "keys of `graph` that differ here", max_length=1000)
    vary: dict[Text, Annotated[list[Any], Field(min_length=1, max_length=1000)]] = key(
        {},
        "keys of `training`, or `losses.TERM`, `mil.KEY`, `graph.KEY`, each with the values of a grid",
        max_length=1000,
    )
    part: Part = key(
        "main",
        "where it is shown: the main table, the table of rivals, the grid of sigma and bins, the forest plot "
        "of design choices, the curve of wrong proportions, or the table of ordinal regression, of smooth "
        "attention or of spatial regularisation; changes no result",
    )
    baseline: bool = key(False, "whether it is a baseline that others are compared with; majorities are")
    against: Text | None = key(
        None, "experiment that this one changes something of, compared with beside `compare.reference`"
    )
