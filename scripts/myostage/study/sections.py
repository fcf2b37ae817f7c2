"""The sections of a study file: every key with its type, limits, meaning, default and source.

One frozen pydantic model per section, unknown keys forbidden. What no single section can know (tables, files,
the grid of runs) is in config.py.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

OSLSP = "OSLSP, arXiv 2505.04150"
OSLSP_CODE = "OSLSP's released code"
MYOREGENTRACK = "MyoRegenTrack, Sci Rep 14:27044"
LLP_VAT = "LLP-VAT, arXiv 1910.13188"
MIXBAG = "MixBag, arXiv 2308.08822"
CELLPOSE = "Cellpose 3"
SM = "Sm, arXiv 2410.03276"
SRMIL = "SRMIL, arXiv 2602.19487"
DIST = "Dist loss, arXiv 2411.15216"
RNC = "Rank-N-Contrast, arXiv 2210.01189"
DINO = "DINO"
OURS = "ours"

EXPECTED_STAGE = "expected_stage"

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MPP_RANGE = (0.05, 5.0)


class UnsetVariable(ValueError):
    """A path names environment variables that are not set."""

    def __init__(self, text: str, names: list[str]) -> None:
        listed = ", ".join(names)
        super().__init__(f"{text} needs the environment variable {listed}, which is not set; export it")
        self.names = names


def expand_path(text: str) -> str:
    """``text`` with ``$VARIABLE``, ``${VARIABLE}``, ``~`` replaced; UnsetVariable if one is not set."""
    named = [plain or braced for plain, braced in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text)]
    unset = [name for name in named if not os.environ.get(name)]
    if unset:
        raise UnsetVariable(text, unset)
    text = os.path.expandvars(text)
    return str(Path(text).expanduser()) if text.startswith("~") else text


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
FileName = Annotated[str, AfterValidator(expand_path)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
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


# Metrics are declared in evaluation/metrics, which is imported by name: the digest of the code behind a run
# follows import statements, and how a metric is computed is no part of a run.
_metrics: Any = import_module("myostage.evaluation.metrics.registry")
MAY_BE_QUOTED: tuple[str, ...] = _metrics.MAY_BE_QUOTED
if TYPE_CHECKING:
    LeadMetric: TypeAlias = str
    LeadSlideMetric: TypeAlias = str
else:
    LeadMetric, LeadSlideMetric = Literal[_metrics.MAY_LEAD], Literal[_metrics.MAY_LEAD_SLIDES]


def key(default: Any, meaning: str, source: str = OURS, **constraints: Any) -> Any:
    """A key of a section: default (``...``: required), meaning with unit, and where the default is from."""
    return Field(default, description=meaning, json_schema_extra={"source": source}, **constraints)


class Section(BaseModel):
    """A section of the study file: frozen, unknown keys forbidden, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, data: Any) -> Any:
        # pydantic would read `steps: true` as one step
        if isinstance(data, Mapping):
            for name, value in data.items():
                field = cls.model_fields.get(str(name))
                if isinstance(value, bool) and field is not None and field.annotation is not bool:
                    raise ValueError(f"{name} is {str(value).lower()}, where a true or false means nothing")
        return data


def _digest(specification: dict[str, Any]) -> str:
    text = json.dumps(specification, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def exactly_one(data: Any, default: str, other: str) -> Any:
    """Drop the default of ``default`` where ``other`` stands in the file; ValueError if both or none do."""
    if not isinstance(data, Mapping):
        return data
    if data.get(other) is not None and data.get(default) is not None:
        raise ValueError(f"has both {default} and {other}; keep one of them")
    if data.get(other) is None and default in data and data[default] is None:
        raise ValueError(f"has neither {default} nor {other}; give one of them")
    return {**data, default: None} if data.get(other) is not None else data


def nearest(word: str, valid: Iterable[str]) -> str:
    """``" (did you mean X?)"``, or nothing where no valid word is near."""
    found = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


class Phantom(Section):
    """Slides drawn instead of scanned, with known truth."""

    tissue: Literal["muscle", "round_cells"] = key(
        "muscle", "regenerating fibres, or round cells that mature (smaller, denser, redder) stage by stage"
    )
    seed: Seed = key(0, "seed of the drawing")
    width_um: PositiveFloat = key(700.0, "width of a slide, um")
    height_um: PositiveFloat = key(600.0, "height of a slide, um")
    mpp: float = key(0.5, "resolution of the slide file, um/px", ge=MPP_RANGE[0], le=MPP_RANGE[1])


class Tiling(Section):
    """Tissue mask and tiles."""

    mpp: float = key(
        0.5, "the study's mpp: resolution at which cells are found, um/px", ge=MPP_RANGE[0], le=MPP_RANGE[1]
    )
    tile_px: int = key(256, "side of a tile, px at `mpp`", OSLSP, ge=64)
    overlap_px: int = key(
        96, "overlap of neighbouring tiles, px at `mpp`; best two cell diameters, less than half a tile", ge=0
    )
    mask_mpp: PositiveFloat = key(4.0, "resolution of the tissue mask, um/px")
    min_tissue_um2: float = key(2500.0, "smaller pieces of tissue are dropped, um2", ge=0)
    max_hole_um2: float = key(2500.0, "smaller holes in tissue are filled, um2", ge=0)
    min_tissue: float = key(0.05, "least share of tissue in a tile, 0 to 1", ge=0, le=1)

    @model_validator(mode="after")
    def _overlap(self) -> Self:
        if 2 * self.overlap_px >= self.tile_px:
            raise ValueError(
                f"overlap_px is {self.overlap_px}, which is not less than half of tile_px ({self.tile_px}); "
                f"lower it below {self.tile_px / 2:g} or enlarge the tiles"
            )
        return self


def _as_file(model: str | None) -> str | None:
    is_file = model is not None and ("/" in model or Path(model).suffix != "")
    return model if is_file else None


class CellposeTraining(Section):
    """Cellpose trained from images with masks before anything is segmented."""

    images: FileName = key(..., "TSV of training images; columns below")
    start: FileName | None = key(
        None, "Cellpose model, name or file, whose weights are trained on; none: new ones"
    )
    epochs: PositiveInt = key(100, "passes over the images")
    learning_rate: PositiveFloat = key(0.1, "peak learning rate of SGD")
    batch_size: PositiveInt = key(8, "crops per step; fewer make more steps of an epoch, for few images")
    small_net: bool = key(
        False, "8, 16, 32, 64 feature maps instead of 32, 64, 128, 256: faster on a CPU; not with `start`"
    )
    seed: Seed = key(0, "seed of the initial weights and of the crops")

    @model_validator(mode="after")
    def _one_net(self) -> Self:
        if self.start is not None and self.small_net:
            raise ValueError("start names a net that has a size of its own; leave small_net out")
        return self

    @property
    def start_file(self) -> str | None:
        """The model to start from where it is a file, not a name that Cellpose knows."""
        return _as_file(self.start)


class Segmentation(Section):
    """Cellpose on the tiles."""

    model: FileName | None = key(
        "cyto3", "name of a Cellpose model, or a file; leave out with `train`", CELLPOSE, min_length=1
    )
    sha256: str | None = key(
        None, "checksum of the model file, refused when it differs", pattern="^[0-9a-f]{64}$"
    )
    train: CellposeTraining | None = key(None, "train the model first; leave out with `model`")
    diameter_um: PositiveFloat = key(
        40.0, "typical cell diameter, um", f"{MYOREGENTRACK}: 40 px at about 1 um/px"
    )
    flow_threshold: float = key(0.4, "largest error of a cell's flow field; 0: off", CELLPOSE, ge=0)
    cellprob_threshold: float = key(0.0, "least cell logit of a pixel", CELLPOSE)
    min_area_um2: float = key(40.0, "smaller cells are dropped, um2", f"{MYOREGENTRACK}: 40 px", ge=0)
    normalise: Literal["tile", "slide"] = key(
        "tile", "intensities stretched to the 1-99 % percentiles of each tile, or of the slide", CELLPOSE
    )
    batch_size: PositiveInt = key(8, "tiles evaluated at once; changes no result", CELLPOSE)

    @model_validator(mode="before")
    @classmethod
    def _one_model(cls, data: Any) -> Any:
        return exactly_one(data, "model", "train")

    @property
    def model_file(self) -> str | None:
        """The model where it is a file, not a name that Cellpose knows."""
        return _as_file(self.model)


class Crop(Section):
    """The image of one cell, 64 x 64 px (OSLSP)."""

    mpp: float | None = key(
        None, "resolution of a crop, um/px; none: that of the tiling", OSLSP, ge=MPP_RANGE[0], le=MPP_RANGE[1]
    )
    white: int = key(
        205,
        "crops whose mean R, G and B all reach this are dropped, 1 to 255; 256: none",
        MYOREGENTRACK,
        ge=1,
        le=256,
    )


class Architecture(Section):
    """A ViT that timm has no name for."""

    patch_px: PositiveInt = key(8, "side of a patch, px", OSLSP)
    width: PositiveInt = key(192, "embedding dimension, a multiple of `heads`")
    depth: int = key(4, "blocks; all but the last are frozen", ge=2)
    heads: PositiveInt = key(3, "attention heads")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if 64 % self.patch_px:
            raise ValueError(f"patch_px {self.patch_px} does not divide the crop's 64 px")
        return self


class Dino(Section):
    """The encoder fine-tuned on all crops of the study by DINO: without labels and without proportions."""

    steps: PositiveInt = key(2000, "optimiser steps")
    batch_size: int = key(64, "crops per step, each seen in several views", ge=2)
    learning_rate: PositiveFloat = key(1e-4, "peak learning rate (AdamW)")
    weight_decay: float = key(0.04, "AdamW's weight decay", DINO, ge=0)
    prototypes: PositiveInt = key(4096, "outputs of the projection head; DINO has 65536 for ImageNet")
    local_crops: int = key(4, "small views of a crop beside its two large ones", ge=0)
    momentum: float = key(0.996, "of the teacher at the start, rising to 1", DINO, ge=0, lt=1)
    teacher_temperature: PositiveFloat = key(0.04, "softmax temperature of the teacher", DINO)
    seed: Seed = key(0, "seed of views, batches and the projection head")
    checkpoint_every: PositiveInt = key(200, "steps between two checkpoints; changes no result")


# keys of an encoder that leave its cached tokens as they are
NOT_IN_TOKENS: dict[str, Any] = {"batch_size": True, "pool": True, "dino": {"checkpoint_every"}}


class Encoder(Section):
    """The vision transformer: all blocks but the last few are frozen, their tokens cached."""

    model: str | None = key(
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
    pool: Literal["cls", "cls+mean"] = key(
        "cls",
        "embedding: CLS token (OSLSP), or CLS joined with the mean patch token (MyoRegenTrack)",
        OSLSP_CODE,
    )
    trained_blocks: PositiveInt = key(
        1, "last blocks that are kept trainable: the cache holds the tokens that enter them", OSLSP
    )
    dino: Dino | None = key(None, "fine-tune the whole encoder by DINO before anything is cached")
    batch_size: PositiveInt = key(64, "cells embedded at once; changes no result")

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
        label = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model or "vit") + ("-dino" if self.dino else "")
        return f"{label}-{_digest(self.model_dump(exclude=NOT_IN_TOKENS))}"

    @property
    def weights_file(self) -> str | None:
        """The weights where they are a file."""
        return None if self.weights in ("pretrained", "none") else self.weights


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


class Graph(Section):
    """Which cells of a slide are neighbours, for everything spatial."""

    by: Literal["nearest", "radius", "delaunay"] = key(
        "nearest",
        "the nearest `neighbours` of every cell, all within `radius_um`, or Delaunay's triangulation",
    )
    neighbours: PositiveInt = key(8, "neighbours of a cell, with `by: nearest`; joined both ways")
    radius_um: PositiveFloat | None = key(
        None, "longest edge, um; none: any length, not with `by: radius`; of tiles, their sides"
    )
    coordinates: Literal["true", "permuted"] = key(
        "true", "where cells lie, or a control: the same places dealt to the slide's cells at random", SRMIL
    )

    @model_validator(mode="after")
    def _radius(self) -> Self:
        if self.by == "radius" and self.radius_um is None:
            raise ValueError("by: radius needs radius_um; give the longest distance of two neighbours, um")
        return self


class Healthy(Section):
    """What counts as uninjured: the reference that injured tissue is told from."""

    groups: tuple[str, ...] = key(..., "groups of uninjured slides", min_length=1)
    stages: tuple[Name, ...] = key(..., "stages of uninjured cells", min_length=1)


LabelKind = Literal["binary", "multiclass", "ordinal"]


class SlideLabel(Section):
    """A label of whole slides."""

    kind: LabelKind = key(..., "binary: the second class is sought; ordinal: `classes` stand in order")
    column: Name = key("group", "column of the slide table that says the class")
    classes: dict[Name, tuple[str, ...]] = key(
        ..., "class -> values of the column; a slide with another value is not learnt from", min_length=2
    )

    @model_validator(mode="after")
    def _classes(self) -> Self:
        values = [value for listed in self.classes.values() for value in listed]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"classes name {', '.join(twice)} twice; a value belongs to one class")
        if self.kind == "binary" and len(self.classes) != 2:
            raise ValueError(
                f"kind is binary and there are {len(self.classes)} classes; name two, or multiclass"
            )
        return self


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
    smooth_steps: PositiveInt = key(10, "steps T of the operator", SM)
    spectral_norm: bool = key(True, "spectral norm on the linear layers after Sm", SM)
    attention_width: PositiveInt = key(64, "hidden width of the attention")
    width: PositiveInt = key(64, "width of an attention head of `smtap`, `srmil` and the transformers", SRMIL)
    heads: PositiveInt = key(4, "attention heads of `smtap`, `srmil` and the transformers", SRMIL)
    layers: PositiveInt = key(2, "layers of `smtap`, of the transformers, and of both ends of `srmil`", SRMIL)

    @model_validator(mode="after")
    def _layers(self) -> Self:
        if self.model == "transmil" and self.layers < 2:
            raise ValueError("transmil has two layers or more and layers is 1; raise it")
        return self


# keys that change how fast a run is and not what it yields
NOT_IN_RUN_ID: dict[str, Any] = {
    "training": {"checkpoint_every", "cache_mb"},
    "encoder": {"batch_size": True, "dino": {"checkpoint_every"}},
}

Method = Literal["proportions", "slide", "supervised", "majority", "group_majority"]
LEARNING = ("proportions", "slide", "supervised")

Part = Literal["main", "grid", "design", "proportions", "regression", "attention", "spatial"]

# Terms of the general ordinal-regression loss, and those that a model of slide labels has.
REGRESSION_TERMS = frozenset({"mse", "dist", "supcr", "cell"})
SLIDE_TERMS = frozenset({"slide", "slide_masked", "spatial_reconstruction"})
# SRMIL's weights: .2 (CE of the hidden + CE of the whole graph) + 1.8 reconstruction.
SRMIL_LOSSES: dict[Term, float] = {"slide": 0.2, "slide_masked": 0.2, "spatial_reconstruction": 1.8}

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


class Apply(Section):
    """Slides staged with the models of another study."""

    study: FileName = key(..., "study file whose runs are used")
    experiment: str = key(
        ..., "its experiment; of a grid the full label, as in `combined[sigma=0.1]`", min_length=1
    )


class Compare(Section):
    """How experiments are compared: paired over folds and seeds, Holm-corrected."""

    reference: str | None = key(None, "experiment that all others are compared with; none: the first")
    metric: LeadMetric = key(
        "accuracy", "what the summary speaks of; all metrics are compared; `kl` where no cell is labelled"
    )
    slides: str | None = key(
        None,
        "experiment of `method: slide` that the others of the same label are compared with; none: the first",
    )
    slide_metric: LeadSlideMetric = key(
        "bag_auroc", "what the summary speaks of for models of slide labels; all metrics are compared"
    )
    alpha: float = key(0.05, "level of the tests, 0 to 1", gt=0, lt=0.5)
    power: float = key(0.8, "power of the minimum detectable difference, 0 to 1", gt=0.5, lt=1)


class Jobs(Section):
    """How work is cut into jobs; changes no result."""

    slides_per_job: PositiveInt = key(1, "slides handled by one job, one after another")
    threads: PositiveInt = key(2, "threads of a job that computes")
    runs_per_job: PositiveInt = key(1, "training runs handled by one job, one after another")
    scratch: str | None = key(
        None,
        "folder of the computing node that a training job copies its tokens to first, such as "
        "`$SLURM_TMPDIR`; none: they are read where they are",
    )


class Features(Section):
    """Ready-made features of a public benchmark, as torchmil's data sets have them."""

    dataset: Literal["camelyon16", "panda", "rsna"] = key(..., "torchmil's data set")
    root: FileName = key(..., "folder it was extracted to; $VARIABLES are expanded")
    features: Name = key("UNI", "which of its features: `UNI`, `resnet50_bt`, ...")
    patch_px: PositiveInt = key(512, "side of a patch, px; not for rsna")


class Look(Section):
    """What the figures show."""

    experiment: str | None = key(None, "experiment of the maps and galleries; none: the first")
    compared: tuple[str, ...] = key(
        (), "experiments whose confusion matrices stand side by side; none: the first four that learn"
    )
    slides: tuple[str, ...] = key((), "slides drawn as maps; none: the middle one")
    gallery: PositiveInt = key(8, "crops per stage in the gallery")
    attention: tuple[str, ...] = key(
        (),
        "experiments of `method: slide` whose attention stands side by side, first one without Sm; none: the "
        "reference and the first with Sm",
    )


class Study(Section):
    """A study file."""

    study: Name = key(..., "name of the folder below `results`")
    results: FileName = key("results", "folder of all results")
    stages: tuple[Name, ...] = key(..., "stages in order of recovery, at least two", min_length=2)
    proportions: FileName | None = key(
        None, "TSV of the proportions of each group; columns below; needed for every experiment"
    )
    slide_proportions: FileName | None = key(
        None, "TSV of the proportions of each slide, for `training.proportions: slide`; columns below"
    )
    quoted: FileName | None = key(
        None, "TSV of published figures, shown beside ours in a block of their own; columns below"
    )
    normalise: bool = key(
        False, "divide each row of proportions by its sum, so that counts and percentages do too"
    )
    input: Literal["slides", "crops", "features"] = key(
        "slides", "what the study starts from: slides, ready-made crops, or ready-made features"
    )
    features: Features | None = key(None, "a public benchmark; with `input: features`")
    slides: FileName | None = key(None, "TSV of slides; columns below; not with `input: crops`")
    crops: FileName | None = key(None, "TSV of crops; columns below; with `input: crops`")
    phantom: Phantom | None = key(None, "draw the slides of the table first")
    on_bad_slide: Literal["fail", "skip"] = key(
        "fail", "an unusable slide stops the study, or is left out and named with its reason"
    )
    tiling: Tiling = key(Tiling(), "tissue mask and tiles")
    segmentation: Segmentation = key(Segmentation(), "Cellpose on the tiles")
    crop: Crop = key(Crop(), "the image of one cell")
    encoder: Encoder = key(Encoder(), "the vision transformer")
    training: Training = key(Training(), "one training run")
    graph: Graph = key(Graph(), "which cells are neighbours")
    healthy: Healthy | None = key(
        None, "uninjured groups and stages: needed by the loss `cell` and by `method: slide`, used by `supcr`"
    )
    slide_labels: dict[Name, SlideLabel] = key({}, "labels of slides by name, for `method: slide`")
    mil: Mil = key(Mil(), "a model of slide labels")
    folds: int = key(5, "folds, grouped by animal, stratified by group", ge=2)
    seeds: tuple[Seed, ...] = key((0, 1, 2), "seeds; each fold is trained with each", min_length=1)
    experiments: tuple[Experiment, ...] = key((), "what is run; none only with `apply`")
    apply: Apply | None = key(None, "stage the slides with the models of another study")
    compare: Compare = key(Compare(), "how experiments are compared")
    jobs: Jobs = key(Jobs(), "how work is cut into jobs")
    look: Look = key(Look(), "what the figures show")

    @property
    def table(self) -> str:
        """The table that names the slides."""
        return str(self.crops if self.input == "crops" else self.slides)

    @property
    def crop_mpp(self) -> float:
        """Resolution of the crops, um/px."""
        return self.crop.mpp or self.tiling.mpp


class RunSpec(Section):
    """One run: everything that shapes its numbers, and nothing else."""

    method: Method
    losses: dict[Term, PositiveFloat]
    training: Training
    encoder: Encoder
    mil: Mil | None = None
    label: SlideLabel | None = None
    graph: Graph | None = None
    healthy: Healthy | None = None
    folds: int
    fold: int
    seed: int

    @property
    def trained(self) -> bool:
        """Whether the run learns anything; baselines do not."""
        return self.method in LEARNING

    @property
    def head_afterwards(self) -> bool:
        """Whether a head is fitted by L_prop afterwards, since no term of the run's own teaches it."""
        taught = self.losses.keys() & {"prop", "ot", "mse", "dist"}
        ranks = self.losses.keys() & {"simprop", "supcr"}
        return bool(ranks) and not taught and self.training.head == "trained"

    @property
    def spatial(self) -> bool:
        """Whether it needs to know where cells lie."""
        return self.graph is not None

    @cached_property
    def id(self) -> str:
        """Readable label and short hash of the specification."""
        label = "+".join(sorted(self.losses)) if self.method == "proportions" else self.method
        label = self.mil.model if self.mil else label
        return f"{label}-f{self.fold}-s{self.seed}-{_digest(self.model_dump(exclude=NOT_IN_RUN_ID))}"
