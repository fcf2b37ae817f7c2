"""The section `training` of a study file: the keys of the loop, and the options of every loss term."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt, create_model

from myostage.learning.term import TERMS, names
from myostage.papers import OSLSP, OSLSP_CODE, SM
from myostage.schema import Count, Number, Positive, Section, Width, key
from myostage.study.sections.choose import Choose

Classifier = Literal["softmax", "cumulative_link", "corn"]


class Loop(Section):
    """One training run."""

    steps: Count = key(2000, "optimiser steps, each on one pair of bags")
    bag_size: int = key(100, "cells drawn into a bag", OSLSP_CODE, ge=2, le=100_000)
    bags: Literal["slide", "group"] = key("slide", "a bag's cells come from one slide, or from one group")
    proportions: Literal["group", "slide"] = key(
        "group", "a bag's proportions: those of its group, or of its slide (`slide_proportions`)", OSLSP
    )
    proportion_noise: float = key(
        0.0,
        "how wrong the proportions are made, 0 to 1: (1 - t) p + t q, with q drawn from Dirichlet(1, ..., 1)",
        ge=0,
        le=1,
    )
    head_gradient: Literal["through", "detached"] = key(
        "through", "L_prop reaches the encoder, or stops at the embedding (the released code)"
    )
    unfreeze: Literal["none", "attention", "block"] = key(
        "block",
        "what of the encoder's `trained_blocks` and norm is trained: nothing, their attention (the released"
        " code), or all",
        OSLSP,
    )
    head: Literal["trained", "frozen"] = key(
        "trained", "the head learns, or keeps its random start (the released code)"
    )
    hidden: tuple[Width, Width] = key((128, 64), "hidden widths of the 3-layer head", OSLSP_CODE)
    classifier: Classifier = key(
        "softmax",
        "what makes probabilities of stages of the head's last layer: softmax, or the order of `stages`, by "
        "proportional odds (`cumulative_link`) or by conditional probabilities (`corn`, arXiv 2111.08851)",
        OSLSP,
    )
    smooth: Literal["none", "logits", "embedding"] = key(
        "none", "what of a cell Sm smooths over the graph: nothing, its stage logits, or its embedding"
    )
    smooth_at: Literal["training", "prediction", "both"] = key(
        "both", "where: over the drawn cells of a bag before its losses, over the slide when it is predicted"
    )
    smooth_alpha: float = key(0.5, "how much is smoothed, between 0 (nothing) and 1", SM, gt=0, lt=1)
    smooth_steps: PositiveInt = key(10, "steps T of Sm", SM, le=10_000)
    learning_rate: Positive = key(1e-3, "peak learning rate of the head (AdamW)")
    encoder_learning_rate: Positive = key(1e-4, "peak learning rate of the last block (AdamW)")
    weight_decay: Number = key(0.05, "AdamW's weight decay", ge=0)
    decay: Literal["all", "matrices"] = key(
        "all", "what decays: all that learns, or no biases and gains (the released code)"
    )
    schedule: Literal["cosine", "constant"] = key(
        "cosine", "learning rate after the warm-up: down to 0 by a cosine, or constant (the released code)"
    )
    warmup: float = key(0.1, "share of the steps of linear warm-up, 0 to 1", ge=0, lt=1)
    clip: Positive = key(1.0, "largest norm of the gradient")
    clip_by: Literal["all", "parameter"] = key(
        "all", "whose norm: that of all parameters together, or of each by itself (the released code)"
    )
    drop_path: float = key(
        0.0,
        "probability of skipping a branch of the encoder's last block in training, falling to 0 in its first "
        "(the released code: .1)",
        ge=0,
        lt=1,
    )
    precision: Literal["fp32", "bf16", "fp16"] = key("bf16", "autocast on a GPU; a CPU always trains in fp32")
    checkpoint_every: Count = key(500, "steps between two checkpoints; changes no result")
    cache_mb: Number = key(
        2000.0,
        "tokens, or embeddings that it trains no more, a run keeps in memory, MB; changes no result",
        ge=0,
    )
    choose: Choose | None = key(
        None, "settings that a run of `method: proportions` chooses for itself, without cell labels"
    )


if TYPE_CHECKING:

    class Training(Loop):
        """The keys of the loop and the options of every term."""

        def __init__(self, **keys: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    # the first base of a model comes last among its keys
    _BASES = list(dict.fromkeys(TERMS[name].options for name in names()))[::-1]
    Training = create_model("Training", __base__=(*_BASES, Loop), __doc__=Loop.__doc__, __module__=__name__)
