"""The section `training` of a study file."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from myostage.papers import DIST, MIXBAG, OSLSP, OSLSP_CODE, RNC, SM, SRMIL
from myostage.schema import Name, Section, key

EXPECTED_STAGE = "expected_stage"


class Training(Section):
    """One training run."""

    steps: PositiveInt = key(2000, "optimiser steps, each on one pair of bags")
    bag_size: int = key(100, "cells drawn into a bag", OSLSP_CODE, ge=2)
    bags: Literal["slide", "group"] = key("slide", "a bag's cells come from one slide, or from one group")
    sigma: PositiveFloat = key(0.1, "width of the histogram's Gaussian, in similarity (0 to 1)", OSLSP)
    bins: int = key(6, "bins of the similarity histogram on [0, 1]", OSLSP_CODE, ge=2)
    proportions: Literal["group", "slide"] = key(
        "group", "a bag's proportions: those of its group, or of its slide (`slide_proportions`)", OSLSP
    )
    proportion_noise: float = key(
        0.0,
        "how wrong the proportions are made, 0 to 1: (1 - t) p + t q, with q drawn from Dirichlet(1, ..., 1)",
        ge=0,
        le=1,
    )
    order: tuple[Name, ...] = key((), "order of the stages that similarity is measured on; none: `stages`")
    mix: Literal["none", "mixbag"] = key(
        "none", "`mixbag`: L_prop of a random mixture of the two bags takes the place of theirs", MIXBAG
    )
    vat_radius: PositiveFloat = key(
        0.1, "length of the adversarial perturbation of term `vat`, as a share of that of a cell's tokens"
    )
    ot_entropy: PositiveFloat = key(0.1, "entropic regularisation of the transport plan of term `ot`")
    pairs: Literal["all", "aligned"] = key(
        "all", "every cell of bag A with every cell of bag B, or i with i (the released code)"
    )
    target: Literal["exact", "truncated"] = key(
        "exact",
        "expected similarity of a pair of bags, or the released code's integer-truncated counts",
        OSLSP,
    )
    divide: Literal["none", "released"] = key(
        "none",
        "L_SimProp and L_prop as sums (OSLSP), or divided by `bins` and by the number of stages"
        " (the released code)",
        OSLSP,
    )
    stop_gradient: bool = key(False, "no gradient through bag B (true in the released code)")
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
    hidden: tuple[PositiveInt, PositiveInt] = key((128, 64), "hidden widths of the 3-layer head", OSLSP_CODE)
    score: Name = key(
        EXPECTED_STAGE,
        "target of `mse`, `dist`, `supcr`: the expected stage under the bag's proportions, or a numeric "
        "column of "
        "the slide table, whose smallest and largest value become the first and the last stage",
    )
    dist_labels: Literal["kde", "quantiles"] = key(
        "kde",
        "pseudo-labels of `dist`: quantiles of a kernel density of the training targets, or of themselves",
        DIST,
    )
    supcr_similarity: Literal["l2", "cosine"] = key(
        "l2", "similarity of `supcr`: minus the distance of two embeddings, or their cosine", RNC
    )
    supcr_temperature: PositiveFloat | None = key(
        None, "temperature of `supcr`; none: 2 with `l2`, .1 with `cosine`", RNC
    )
    queue: int = key(
        32, "bags of earlier steps that `dist`, `supcr` and `cell` see too, without gradient", ge=0
    )
    embedding_parts: Literal["whole", "halves"] = key(
        "whole", "`supcr` and `cell` both see the whole embedding, or one half each"
    )
    perturbed: Literal["soft", "hard"] = key(
        "soft",
        "cells that make up z_P of `supcr` and `cell`: all, weighted by their probability of not being "
        "healthy, or those "
        "predicted so",
    )
    mask_ratio: float = key(
        0.7, "share of cells that `spatial_reconstruction` and `srmil` hide, 0 to 1", SRMIL, gt=0, lt=1
    )
    smooth: Literal["none", "logits", "embedding"] = key(
        "none", "what of a cell Sm smooths over the graph: nothing, its stage logits, or its embedding"
    )
    smooth_at: Literal["training", "prediction", "both"] = key(
        "both", "where: over the drawn cells of a bag before its losses, over the slide when it is predicted"
    )
    smooth_alpha: float = key(0.5, "how much is smoothed, between 0 (nothing) and 1", SM, gt=0, lt=1)
    smooth_steps: PositiveInt = key(10, "steps T of Sm", SM)
    learning_rate: PositiveFloat = key(1e-3, "peak learning rate of the head (AdamW)")
    encoder_learning_rate: PositiveFloat = key(1e-4, "peak learning rate of the last block (AdamW)")
    weight_decay: float = key(0.05, "AdamW's weight decay", ge=0)
    schedule: Literal["cosine", "constant"] = key(
        "cosine", "learning rate after the warm-up: down to 0 by a cosine, or constant (the released code)"
    )
    warmup: float = key(0.1, "share of the steps of linear warm-up, 0 to 1", ge=0, lt=1)
    clip: PositiveFloat = key(1.0, "largest norm of the gradient")
    precision: Literal["fp32", "bf16", "fp16"] = key("bf16", "autocast on a GPU; a CPU always trains in fp32")
    checkpoint_every: PositiveInt = key(500, "steps between two checkpoints; changes no result")
    cache_mb: float = key(
        2000.0, "tokens a run keeps in memory, MB; more is streamed; changes no result", ge=0
    )
