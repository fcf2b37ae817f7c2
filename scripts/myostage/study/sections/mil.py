"""The section `mil` of a study file."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from myostage.papers import SM, SRMIL
from myostage.schema import Name, Section, key

MilModel = Literal[
    "abmil", "dsmil", "clam", "transmil", "transformer_abmil", "mean", "max", "smap", "smtap", "srmil"
]


# torchmil's models tell two classes apart, or places on one scale.
ONE_LOGIT = ("abmil", "dsmil", "clam", "transmil", "transformer_abmil")


SmOperator = Literal["sm", "sm_exact", "random_walk", "total_variation"]


class Mil(Section):
    """A model of slide labels: multiple instance learning on the frozen embeddings of a slide's cells."""

    label: Name | None = key(None, "one of `slide_labels`; none: the first")
    model: MilModel = key(
        "smap",
        "`abmil`, `dsmil`, `clam`, `transmil`, `transformer_abmil`: as torchmil has them; `mean`, `max`: "
        "pooling; "
        "`smap`, `smtap`: attention smoothed by Sm, without and with a transformer; `srmil`: spatially "
        "regularised",
        SM,
    )
    placement: Literal["early", "mid", "late"] = key(
        "early",
        "Sm acts on the features, on the hidden layer of the attention, or on the attention logits",
        SM,
    )
    operator: SmOperator = key(
        "sm",
        "what smooths: `sm` in `smooth_steps` steps, `sm_exact` by conjugate gradients, or in its place the "
        "random-walk Laplacian or total variation",
        SM,
    )
    alpha: Literal["trainable"] | Annotated[float, Field(gt=0, lt=1)] = key(
        0.5, "how much is smoothed, between 0 (nothing) and 1; `trainable`: learnt, through a sigmoid", SM
    )
    smooth_steps: PositiveInt = key(10, "steps T of the operator", SM, le=10_000)
    spectral_norm: bool = key(True, "spectral norm on the linear layers after Sm", SM)
    attention_width: PositiveInt = key(64, "hidden width of the attention", le=8192)
    width: PositiveInt = key(
        64, "width of an attention head of `smtap`, `srmil` and the transformers", SRMIL, le=8192
    )
    heads: PositiveInt = key(4, "attention heads of `smtap`, `srmil` and the transformers", SRMIL, le=256)
    layers: PositiveInt = key(
        2, "layers of `smtap`, of the transformers, and of both ends of `srmil`", SRMIL, le=128
    )
    srmil_form: Literal["plain", "released"] = key(
        "plain",
        "`srmil` of linear layers and graph attention alone, on standardised features; or as its authors "
        "released it: with residuals, norms and dropout, on features as they are, which it also reconstructs",
    )

    @model_validator(mode="after")
    def _layers(self) -> Self:
        if self.model == "transmil" and self.layers < 2:
            raise ValueError("transmil has two layers or more and layers is 1; raise it")
        return self
