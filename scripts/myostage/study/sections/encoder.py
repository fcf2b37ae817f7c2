"""The section `encoder` of a study file."""

import re
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from myostage.papers import DINO, OSLSP, OSLSP_CODE
from myostage.schema import (
    Count,
    FileName,
    Number,
    Positive,
    Section,
    Seed,
    Text,
    Width,
    digest,
    exactly_one,
    key,
    nearest,
)

Pool = Literal["cls", "cls+mean", "cls+mean+sd"]


class Architecture(Section):
    """A ViT that timm has no name for."""

    patch_px: PositiveInt = key(8, "side of a patch, px", OSLSP, le=64)
    width: PositiveInt = key(192, "embedding dimension, a multiple of `heads`", le=8192)
    depth: int = key(4, "blocks; all but the last are frozen", ge=2, le=128)
    heads: PositiveInt = key(3, "attention heads", le=256)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if 64 % self.patch_px:
            raise ValueError(f"patch_px {self.patch_px} does not divide the crop's 64 px")
        return self


class Dino(Section):
    """The encoder tuned by DINO on crops: one per fold, for all seeds; no label, no proportion is read."""

    crops: Literal["training", "all"] = key(
        "training",
        "what it learns from: the crops of the fold's training animals, or `all`, held-out ones too "
        "(transductive: the experiment's name has to say so)",
    )

    steps: Count = key(2000, "optimiser steps")
    batch_size: int = key(64, "crops per step, each seen in several views", ge=2, le=65_536)
    learning_rate: Positive = key(1e-4, "peak learning rate (AdamW)")
    weight_decay: Number = key(0.04, "AdamW's weight decay", DINO, ge=0)
    prototypes: PositiveInt = key(
        4096, "outputs of the projection head; DINO has 65536 for ImageNet", le=1_000_000
    )
    local_crops: int = key(4, "small views of a crop beside its two large ones", ge=0, le=100)
    momentum: float = key(0.996, "of the teacher at the start, rising to 1", DINO, ge=0, lt=1)
    teacher_temperature: Positive = key(0.04, "softmax temperature of the teacher", DINO)
    seed: Seed = key(
        0,
        "seed of views, batches and the projection head; all `seeds` share it, so that no interval counts it",
    )
    checkpoint_every: Count = key(200, "steps between two checkpoints; changes no result")


# keys of an encoder that leave its cached tokens as they are
NOT_IN_TOKENS: dict[str, Any] = {
    "batch_size": True,
    "pool": True,
    "projection": True,
    "dino": {"checkpoint_every"},
}
# width of the projection of ready-made features, where none is named
PROJECTION = 64


class Encoder(Section):
    """The vision transformer: all blocks but the last few are frozen, their tokens cached."""

    model: Text | None = key(
        "vit_base_patch8_224.dino", "timm name of a ViT; leave out with `architecture`", OSLSP, min_length=1
    )
    architecture: Architecture | None = key(None, "a ViT of our own geometry; leave out with `model`")
    weights: FileName = key(
        "pretrained",
        "`pretrained` (timm's), `none` (random, seeded), or a .safetensors, .pth, .pt or .bin file",
        OSLSP,
    )
    pos_embed: Literal["dino", "timm"] = key(
        "dino",
        "rule that resizes position embeddings to the crop: bicubic as in DINO, or antialiased as in timm",
        DINO,
    )
    pool: Pool = key(
        "cls",
        "embedding: CLS token (OSLSP), or CLS joined with the mean of the patch tokens (MyoRegenTrack), or "
        "with their mean and standard deviation; the cached tokens are the same",
        OSLSP_CODE,
    )
    trained_blocks: Annotated[int, Field(gt=0, le=128)] | Literal["all"] = key(
        1,
        "last blocks that are kept trainable, or `all`: the cache holds the tokens that enter them",
        OSLSP,
    )
    projection: Width | None = key(
        None,
        "width of the learnt projection that takes the trained blocks' place where features are ready-made; "
        f"none: {PROJECTION}",
        exclude_if=lambda value: value is None,
    )
    dino: Dino | None = key(None, "fine-tune all blocks of the encoder by DINO before tokens are cached")
    batch_size: PositiveInt = key(64, "cells embedded at once; changes no result", le=65_536)

    @model_validator(mode="before")
    @classmethod
    def _one_geometry(cls, data: Any) -> Any:
        return exactly_one(data, "model", "architecture")

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if self.weights == "pretrained" and self.architecture is not None:
            raise ValueError(
                "weights: pretrained needs a timm `model`; with `architecture` name a weights file, or none"
            )
        if self.weights not in ("pretrained", "none") and not self.weights.endswith(
            (".safetensors", ".pth", ".pt", ".bin")
        ):
            raise ValueError(
                f"weights is {self.weights!r}, not pretrained, none or a .safetensors, .pth, .pt or .bin file"
                + nearest(self.weights, ("pretrained", "none"))
            )
        return self

    @cached_property
    def id(self) -> str:
        """Readable label and short hash of everything that shapes the tokens."""
        return f"{self._label}-{digest(self.model_dump(exclude=NOT_IN_TOKENS))}"

    @property
    def _label(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.model or "vit") + ("-dino" if self.dino else "")

    def of_fold(self, fold: int, folds: int) -> "Encoder":
        """The encoder that a run of this fold reads: its own where DINO tunes it on the training animals."""
        if self.dino is None or self.dino.crops == "all":
            return self
        return FoldEncoder(**self.model_dump(), fold=fold, folds=folds)

    @property
    def weights_file(self) -> str | None:
        """The weights where they are a file."""
        return None if self.weights in ("pretrained", "none") else self.weights


class FoldEncoder(Encoder):
    """An encoder that DINO tunes on the crops of the animals that ``fold`` of ``folds`` learns from."""

    fold: int
    folds: int

    @property
    def _label(self) -> str:
        return f"{super()._label}-f{self.fold}"


def read_encoder(settings: dict[str, Any]) -> Encoder:
    """An encoder from plain values."""
    return (FoldEncoder if "fold" in settings else Encoder)(**settings)
