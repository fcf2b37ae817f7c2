"""The vision transformer, split into a frozen prefix (all blocks but the last few) and a trained suffix.

The prefix runs once per cell and its tokens are stored; training touches the last blocks and the norm alone.
Geometry: a crop of 64 x 64 px, enlarged to the next multiple of the patch where the patch does not divide it.
"""

import difflib
import json
import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from myostage import tables
from myostage.cells.tables import CROP_PX, CROPS
from myostage.errors import UserError
from myostage.features import tokens
from myostage.runtime import weights
from myostage.study.sections.encoder import NOT_IN_TOKENS, Encoder, Pool

logger = logging.getLogger(__name__)

RANDOM_WEIGHTS_SEED = 0
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_POSITIONS = 10**5
SMALLEST_VARIANCE = 1e-12
_DINO_OFFSET = 0.1
"""Added to the new grid's side by DINO before it divides (vision_transformer.py of facebookresearch/dino)."""

Unfreeze = Literal["none", "attention", "block"]


class Prefix(nn.Module):
    """Patches, position embeddings and all blocks but the last ``trained_blocks``.

    Maps uint8 crops [B, 64, 64, 3] (RGB) to tokens [B, T, D], class and register tokens first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionTransformer, trained_blocks: int = 1) -> None:
        super().__init__()
        self.patch_embed = model.patch_embed
        self.blocks = model.blocks[:-trained_blocks]
        self.embed = _Positions(model)
        mean, std = normalisation(model)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.side: int = model.patch_embed.img_size[0]
        self.shape = (model.patch_embed.num_patches + model.num_prefix_tokens, int(model.embed_dim))
        self.requires_grad_(False).eval()

    def normalise(self, crops: Tensor) -> Tensor:
        """uint8 [B, 64, 64, 3] to normalised float [B, 3, side, side]."""
        # One affine map in place, and channels moved while they are bytes: on a tiny encoder this shows.
        images = crops.permute(0, 3, 1, 2).contiguous().to(self.mean.dtype)
        images = images.mul_(1 / (255 * self.std)).sub_(self.mean / self.std)
        if self.side != CROP_PX:
            images = F.interpolate(images, size=(self.side, self.side), mode="bicubic", antialias=True)
        return images

    def forward(self, crops: Tensor) -> Tensor:
        return self.blocks(self.embed(self.patch_embed(self.normalise(crops))))


class _Positions(nn.Module):
    """Class token, register tokens, position embeddings and the norm before the blocks."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.cls_token = model.cls_token
        self.reg_token = model.reg_token
        self.pos_embed = model.pos_embed
        self.no_embed_class = model.no_embed_class
        self.norm_pre = model.norm_pre

    def forward(self, patches: Tensor) -> Tensor:
        if patches.ndim == 4:  # models for any image size keep the grid: [B, h, w, D]
            patches = patches.flatten(1, 2)
        prefix = [
            token.expand(len(patches), -1, -1)
            for token in (self.cls_token, self.reg_token)
            if token is not None
        ]
        if self.pos_embed is None:
            joined = torch.cat([*prefix, patches], dim=1)
        elif self.no_embed_class:
            joined = torch.cat([*prefix, patches + self.pos_embed], dim=1)
        else:
            joined = torch.cat([*prefix, patches], dim=1) + self.pos_embed
        return self.norm_pre(joined)


class Suffix(nn.Module):
    """The last ``trained_blocks`` blocks, the norm and the pooling: tokens [B, T, D] to embeddings [B, E].

    E is D for the class token, and D more for each of what ``pool`` joins with it: the mean of the patch
    tokens and their standard deviation (of the patches as they are: divided by their number). Where the
    embedding is the class token alone, the very last block computes only what reaches it: the same numbers
    for a fraction of the work. Stored float16 tokens may be given as they are.
    """

    def __init__(self, model: VisionTransformer, pool: Pool, trained_blocks: int = 1) -> None:
        super().__init__()
        self.blocks = model.blocks[-trained_blocks:]
        self.norm = model.norm
        self.pool = pool
        self.depth = len(model.blocks)
        self.prefix_tokens: int = model.num_prefix_tokens
        self.embedding = int(model.embed_dim) * len(pool.split("+"))
        self._class_token_only = pool == "cls" and _is_plain(self.blocks[-1])

    def forward(self, stored: Tensor) -> Tensor:
        values = stored.to(next(self.blocks.parameters()).dtype)
        if self._class_token_only:
            return self.norm(_class_token(self.blocks[-1], self.blocks[:-1](values)))[:, 0]
        out = self.norm(self.blocks(values))
        if self.pool == "cls":
            return out[:, 0]
        patches = out[:, self.prefix_tokens :]
        joined = [out[:, 0], patches.mean(dim=1)]
        if self.pool == "cls+mean+sd":
            # the slope of a root is infinite at 0, where patches are equal
            joined.append(patches.var(dim=1, correction=0).clamp_min(SMALLEST_VARIANCE).sqrt())
        return torch.cat(joined, dim=1)

    def drop_paths(self, rate: float) -> None:
        """Skip both branches of a block with a probability while training (stochastic depth, as DINO).

        It rises by equal steps from 0 in the encoder's first block to ``rate`` in its last.
        """
        rates = torch.linspace(0, rate, self.depth).tolist()[-len(self.blocks) :]
        for block, own in zip(self.blocks, rates, strict=True):
            for name in ("drop_path1", "drop_path2", "drop_path"):
                if hasattr(block, name):
                    setattr(block, name, DropPath(own))

    def trainable(self, unfreeze: Unfreeze) -> list[nn.Parameter]:
        """Freeze all but what ``unfreeze`` names, and return that.

        Parameters
        ----------
        unfreeze : {"none", "attention", "block"}
            Nothing; the attention of every block (as the released code of OSLSP); or all of the blocks and
            the norm.
        """
        self.requires_grad_(False)
        choices: dict[Unfreeze, list[Any]] = {
            "none": [],
            "attention": [block.attn for block in self.blocks],
            "block": [self.blocks, self.norm],
        }
        parts = choices[unfreeze]
        chosen = [parameter for part in parts for parameter in part.parameters()]
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen


def _is_plain(block: nn.Module) -> bool:
    """Whether :func:`_class_token` knows the block; parallel, gated or rotary ones take the general way."""
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None
        and isinstance(block.attn.k_norm, nn.Identity)
        and block.attn.attn_drop.p == 0
        and isinstance(block.norm1, nn.LayerNorm)
        and block.norm1.bias is not None
    )


def _class_token(block: Any, x: Tensor) -> Tensor:
    """The output of a plain timm block for the class token alone: [B, T, D] to [B, 1, D].

    With a single query, q . (W_k y) = (W_k^T q) . y and sum_t a_t (W_v y_t) = W_v (sum_t a_t y_t): exact, and
    no key or value of any token is ever computed. Likewise the norm's gain and offset are applied to what is
    pooled, so that no gradient as large as the tokens is needed.
    """
    attention, norm = block.attn, block.norm1
    heads, width = attention.num_heads, attention.attn_dim
    w_q, w_k, w_v = attention.qkv.weight.split(width)
    b_q, _, b_v = (None, None, None) if attention.qkv.bias is None else attention.qkv.bias.split(width)
    y = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)  # [B, T, D], without gain and offset
    q = F.linear(y[:, 0] * norm.weight + norm.bias, w_q, b_q).unflatten(1, (heads, -1))  # [B, H, d]
    # The key bias and the norm's offset add the same to every score of the query, which softmax forgets.
    folded = torch.einsum(
        "bhd,hdc->bhc", attention.q_norm(q) * attention.scale, w_k.unflatten(0, (heads, -1))
    )
    shares = ((folded * norm.weight) @ y.transpose(1, 2)).softmax(-1)  # [B, H, T]
    pooled = (shares @ y) * norm.weight + norm.bias  # [B, H, D]
    pooled = torch.einsum("bhc,hdc->bhd", pooled, w_v.unflatten(0, (heads, -1))).flatten(1)
    pooled = attention.norm(pooled if b_v is None else pooled + b_v).unsqueeze(1)
    x = x[:, :1] + block.drop_path1(block.ls1(attention.proj_drop(attention.proj(pooled))))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def split(encoder: Encoder, tuned: Path | None = None) -> tuple[Prefix, Suffix]:
    """Frozen prefix and trainable suffix of a newly built encoder (see :func:`build`)."""
    model = build(encoder, tuned)
    count = encoder.trained_blocks if isinstance(encoder.trained_blocks, int) else len(model.blocks)
    return Prefix(model, count), Suffix(model, encoder.pool, count)


def build(encoder: Encoder, tuned: Path | None = None, *, any_size: bool = False) -> VisionTransformer:
    """The complete ViT for 64 px crops, without head, weights loaded, in evaluation mode.

    Random weights (``weights: none``) are the same every time: they are drawn from a fixed seed.

    Parameters
    ----------
    encoder : config.Encoder
    tuned : Path, optional
        Weights of an encoder that the study fine-tunes (``dino``): they stand in the place of ``weights``.
    any_size : bool
        The model takes images of any multiple of its patch, and resizes its position embeddings to each.

    Raises
    ------
    UserError
        timm knows no such model, it is no ViT with a class token, it has too few blocks, or its weights are
        absent, unreadable or of another geometry.
    ValueError
        ``dino`` is set and ``tuned`` is not given.
    """
    if encoder.dino is not None and tuned is None:
        raise ValueError(f"encoder {encoder.id} is fine-tuned; its weights file is to be given")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        model = _create(encoder, any_size)
    if model.cls_token is None:
        raise UserError(f"encoder.model: {encoder.model} has no class token; choose a ViT that has one")
    depth = len(model.blocks)
    if isinstance(encoder.trained_blocks, int) and encoder.trained_blocks >= depth:
        raise UserError(
            f"encoder.trained_blocks: {encoder.trained_blocks} leaves nothing frozen of "
            f"{encoder.model or 'the architecture'}, whose depth is {depth}; lower it below {depth}, or "
            "write all"
        )
    if encoder.dino is not None and tuned is not None:
        _load(model, read_state(tuned), encoder, str(tuned))
    elif encoder.weights == "pretrained":
        _load(model, _pretrained(encoder), encoder, str(encoder.model))
    elif encoder.weights_file is not None:
        _load(model, read_state(Path(encoder.weights_file)), encoder, encoder.weights_file)
    return model.eval()


def _create(encoder: Encoder, any_size: bool) -> VisionTransformer:
    """The bare model at the crop's size, as timm initialises it."""
    shape = encoder.architecture
    if shape is not None:
        return VisionTransformer(
            img_size=_side(shape.patch_px),
            patch_size=shape.patch_px,
            embed_dim=shape.width,
            depth=shape.depth,
            num_heads=shape.heads,
            num_classes=0,
            dynamic_img_size=any_size,
        )
    with torch.device("meta"):  # geometry alone: nothing is allocated
        native = _timm(encoder, pretrained=False)
    geometry: dict[str, Any] = {"img_size": _side(native.patch_embed.patch_size[0])}
    if any_size:
        geometry["dynamic_img_size"] = True
    return _timm(encoder, pretrained=False, **geometry)


def _side(patch_px: int) -> int:
    """Smallest multiple of the patch that holds the crop, px."""
    return math.ceil(CROP_PX / patch_px) * patch_px


def _timm(encoder: Encoder, *, pretrained: bool, **geometry: Any) -> VisionTransformer:
    name = str(encoder.model)
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **geometry)
    except RuntimeError as error:
        if not ("nknown model" in str(error) or "nvalid pretrained tag" in str(error)):
            raise
        near = difflib.get_close_matches(name, timm.list_models("vit*", pretrained=True), n=1)
        hint = f"; the nearest name is {near[0]}" if near else ""
        raise UserError(f"encoder.model: timm {timm.__version__} knows no model {name}{hint}") from None
    if not isinstance(model, VisionTransformer):
        raise UserError(
            f"encoder.model: {name} is a {type(model).__name__}, not a plain ViT, so it cannot be split at "
            "its last block; choose a timm vit_* model"
        )
    return model


def _pretrained(encoder: Encoder) -> dict[str, Tensor]:
    """The published weights at their own grid, before any position embedding is resized."""
    name = str(encoder.model)
    with torch.device("meta"):
        published: dict[str, Any] = vars(_timm(encoder, pretrained=False))["pretrained_cfg"]
    # timm itself would only warn, and go on with random weights.
    source = published.get("hf_hub_id") or published.get("url")
    if not source:
        raise UserError(
            f"encoder.weights: timm publishes no pretrained weights for {name}; give a .safetensors or "
            ".pth file, or a model name with a tag such as vit_base_patch8_224.dino"
        )
    try:
        return _timm(encoder, pretrained=True).state_dict()
    except Exception as error:  # what a missing network or cache raises depends on the hub client's version
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"encoder.weights: the pretrained weights of {name} are neither in the local cache nor to be had "
            f"({reason}); download model.safetensors of {source} where there is a network and give its path "
            "as encoder.weights, or copy that machine's cache, set HF_HOME to it and HF_HUB_OFFLINE=1"
        ) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Weights of a .safetensors or .pth file by timm's names.

    Of a DINO checkpoint the teacher's backbone is taken; wrappers (``module.``, ``backbone.``) are stripped
    and heads left out.

    Raises
    ------
    UserError
        The file is missing, not readable, or holds no tensors.
    """
    if not path.is_file():
        raise UserError(
            f"encoder.weights: there is no file {path}; correct the path, or write pretrained or none"
        )
    try:
        state = weights.read(path)
    except ValueError as error:
        raise UserError(
            f"encoder.weights: {path} is no readable weights file ({error}); fetch it again"
        ) from None
    for wrapper in ("teacher", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    found = state.items() if isinstance(state, dict) else ()
    tensors = {str(name): tensor for name, tensor in found if isinstance(tensor, Tensor)}
    if not tensors:
        raise UserError(
            f"encoder.weights: {path} holds no weights (a dictionary of tensors); give a ViT's state dict"
        )
    for wrapper in ("module.", "backbone."):
        inside = {
            key.removeprefix(wrapper): value for key, value in tensors.items() if key.startswith(wrapper)
        }
        tensors = inside or tensors
    return {k: v for k, v in tensors.items() if not k.startswith(("head.", "fc.")) and k != "mask_token"}


def _load(model: VisionTransformer, state: dict[str, Tensor], encoder: Encoder, origin: str) -> None:
    """Load strictly, after resizing the position embeddings by the encoder's rule."""
    state = dict(state)
    wanted = model.state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unknown:
        parts = [
            f"{what} {_shorten(keys)}"
            for what, keys in (("lacks", missing), ("has unknown", unknown))
            if keys
        ]
        raise UserError(
            f"encoder.weights: {origin} does not fit {encoder.model or 'the architecture'}: "
            f"it {' and '.join(parts)}; give the model these weights belong to"
        )
    if "pos_embed" in state:
        _check_positions(state["pos_embed"], wanted["pos_embed"], origin)
        state["pos_embed"] = resize_positions(
            state["pos_embed"],
            grid=model.patch_embed.grid_size[0],
            prefix_tokens=0 if model.no_embed_class else model.num_prefix_tokens,
            rule=encoder.pos_embed,
        )
    unlike = weights.faults(state, wanted)
    if unlike:
        raise UserError(
            f"encoder.weights: {origin} does not fit: {_shorten(unlike)}; "
            "correct the patch, width, depth or heads, or give the model these weights belong to"
        )
    model.load_state_dict(state, strict=True)


def _check_positions(found: Tensor, wanted: Tensor, origin: str) -> None:
    """Position embeddings may be of another grid, so that they are looked at before they are resized."""
    shape = list(found.shape)
    fits = len(shape) == 3 and shape[0] == 1 and shape[1] <= MOST_POSITIONS and shape[2] == wanted.shape[2]
    if not fits or not found.is_floating_point() or found.layout != torch.strided:
        raise UserError(
            f"encoder.weights: {origin} does not fit: pos_embed is {found.dtype} {shape} where "
            f"{wanted.dtype} [1, patches, {wanted.shape[2]}] is needed; give the model they belong to"
        )


def _shorten(items: list[str], most: int = 4) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def resize_positions(
    positions: Tensor, *, grid: int, prefix_tokens: int, rule: Literal["dino", "timm"]
) -> Tensor:
    """Resize square position embeddings to another square grid.

    Parameters
    ----------
    positions : Tensor [1, prefix_tokens + g * g, D]
        The checkpoint's embeddings.
    grid : int
        Side of the new grid, patches.
    prefix_tokens : int
        Leading embeddings that belong to no patch; copied.
    rule : {"dino", "timm"}
        ``timm``: bicubic, antialiased, to the exact size. ``dino``: bicubic without antialias by a scale of
        (grid + 0.1) / g, as facebookresearch/dino does; the 0.1 shifts the sampling points and so the
        numbers.

    Returns
    -------
    Tensor [1, prefix_tokens + grid * grid, D]
        Unchanged where the grid is the same.

    Raises
    ------
    UserError
        The checkpoint's grid is not square.
    """
    count = positions.shape[1] - prefix_tokens
    old = math.isqrt(max(count, 0))
    if old * old != count or old == 0:
        raise UserError(
            f"encoder.weights: {count} position embeddings form no square grid; give weights trained on "
            "square images"
        )
    if old == grid:
        return positions
    if rule == "timm":
        return resample_abs_pos_embed(
            positions, new_size=[grid, grid], old_size=[old, old], num_prefix_tokens=prefix_tokens
        )
    leading, patches = positions[:, :prefix_tokens], positions[:, prefix_tokens:]
    square = patches.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (grid + _DINO_OFFSET) / old
    resized = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat(
        [leading, resized.permute(0, 2, 3, 1).reshape(1, grid * grid, -1).to(positions.dtype)], dim=1
    )


def normalisation(model: VisionTransformer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the model's training images; ImageNet's where it names none."""
    published: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    return tuple(published.get("mean") or IMAGENET_MEAN), tuple(published.get("std") or IMAGENET_STD)


def embed_slide(
    crops_path: str | Path,
    out_tokens: str | Path,
    encoder: Encoder,
    device: str | torch.device = "cpu",
    *,
    prefix: Prefix | None = None,
    made_by: str = "",
) -> int:
    """Run the frozen prefix over a slide's crops and store their tokens.

    Streams row group by row group; on a GPU in float16 autocast, on a CPU in float32. The tokens are stored
    in float16 (relative error of the embedding about 2e-4).

    Parameters
    ----------
    crops_path, out_tokens : str or Path
        Table ``crops`` to read, token store to write.
    encoder : config.Encoder
        Which encoder, and how many cells at once (``batch_size``).
    device : str or torch.device
        Where to compute.
    prefix : Prefix, optional
        An already loaded prefix of the same encoder, for many slides in one process.
    made_by : str
        Provenance to keep in the file.

    Returns
    -------
    int
        Cells embedded; 0 makes an empty store.

    Raises
    ------
    UserError
        The crops or the encoder's weights cannot be read, or a token exceeds float16's range.
    """
    where = torch.device(device)
    frozen = (split(encoder)[0] if prefix is None else prefix).to(where)
    count, width = frozen.shape
    metadata = {
        "encoder": encoder.model_dump_json(exclude=NOT_IN_TOKENS),
        "pos_embed": encoder.pos_embed,
        "versions": json.dumps({"torch": torch.__version__, "timm": timm.__version__}),
    } | ({"made_by": made_by} if made_by else {})
    autocast = torch.autocast(where.type, torch.float16, enabled=where.type == "cuda")
    with (
        tables.open_table(crops_path, CROPS) as crops,
        tokens.writer(out_tokens, tokens=count, width=width, metadata=metadata) as out,
        torch.inference_mode(),
        autocast,
    ):
        for batch in crops.iter_batches(batch_size=encoder.batch_size):
            cells = batch.column("cell").to_numpy()
            images = torch.from_numpy(crop_pixels(batch.column("image")))
            if where.type == "cuda":
                images = images.pin_memory().to(where, non_blocking=True)
            stored = frozen(images).to(torch.float16).cpu()
            # A float32 sum of finite float16 numbers is finite: one pass over the tokens.
            if not math.isfinite(float(stored.sum(dtype=torch.float32))):
                raise UserError(
                    f"{crops_path}: tokens of {encoder.model or 'the encoder'} exceed the range of float16 "
                    f"in cells {cells[0]} to {cells[-1]}; choose another encoder or repair its weights"
                )
            out.write(cells, stored)
    logger.info("%s: %d cells, %d x %d tokens each", out_tokens, out.written, count, width)
    return out.written


def device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def crop_pixels(column: pa.FixedSizeBinaryArray) -> np.ndarray:
    """Images of an Arrow column of table ``crops`` as uint8[n, 64, 64, 3] (a copy, writable)."""
    size = CROP_PX * CROP_PX * 3
    raw = np.frombuffer(column.buffers()[1], np.uint8, len(column) * size, column.offset * size)
    return raw.reshape(len(column), CROP_PX, CROP_PX, 3).copy()
