"""The split of the ViT is exact, weights are loaded strictly, position rules are the two named ones."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from timm.layers import SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from myostage import tables
from myostage.cells.tables import CROPS
from myostage.errors import UserError
from myostage.features import encoder as enc
from myostage.features import tokens
from myostage.study.sections.encoder import Architecture, Encoder

TINY = Architecture(patch_px=16, width=32, depth=3, heads=4)


def tiny(**keys: object) -> Encoder:
    return Encoder.model_validate(
        {"model": None, "architecture": TINY, "weights": "none", "batch_size": 16} | keys
    )


def crops(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 64, 64, 3), generator=generator, dtype=torch.uint8)


def whole(model: nn.Module, images: Tensor) -> Tensor:
    """timm's own forward of normalised images, tokens after the norm."""
    return model.forward_features(images)


GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {"patch_size": 16},
    "registers, no class position": {"patch_size": 16, "reg_tokens": 4, "no_embed_class": True},
    "registers with positions": {"patch_size": 16, "reg_tokens": 4},
    "layer scale, query norm": {
        "patch_size": 16,
        "init_values": 0.3,
        "qk_norm": True,
        "scale_attn_norm": True,
    },
    "any image size, norm before": {"patch_size": 16, "dynamic_img_size": True, "pre_norm": True},
    "no positions, no biases": {"patch_size": 16, "pos_embed": "none", "qkv_bias": False, "proj_bias": False},
    "swiglu": {"patch_size": 16, "mlp_layer": SwiGLU},
    "parallel blocks": {"patch_size": 16, "block_fn": ParallelScalingBlock},
    "patch that does not divide the crop": {"patch_size": 14, "img_size": 70},
}


@torch.no_grad()
def vit(keys: dict[str, Any]) -> VisionTransformer:
    """A ViT of three blocks in which every bias and scale counts, those that start at 0 or 1 too."""
    torch.manual_seed(3)
    geometry = {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 0} | keys
    model = VisionTransformer(**geometry).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("trained_blocks", [1, 2])
@pytest.mark.parametrize("keys", GEOMETRIES.values(), ids=list(GEOMETRIES))
@torch.no_grad()
def test_prefix_and_suffix_are_the_whole_model(keys: dict[str, Any], trained_blocks: int) -> None:
    model = vit(keys)
    prefix = enc.Prefix(model, trained_blocks)
    images = crops(2)
    expected = whole(model, prefix.normalise(images))
    stored = prefix(images)
    assert tuple(stored.shape[1:]) == prefix.shape
    both = enc.Suffix(model, "cls+mean", trained_blocks)
    assert len(prefix.blocks) + len(both.blocks) == 3 and len(both.blocks) == trained_blocks
    mean = expected[:, model.num_prefix_tokens :].mean(dim=1)
    assert torch.equal(both(stored), torch.cat([expected[:, 0], mean], dim=1))
    spread = enc.Suffix(model, "cls+mean+sd", trained_blocks)
    assert (both.embedding, spread.embedding) == (64, 96)
    sd = expected[:, model.num_prefix_tokens :].numpy().std(axis=1)
    torch.testing.assert_close(spread(stored)[:, 64:], torch.from_numpy(sd), rtol=1e-5, atol=1e-6)
    assert torch.equal(spread(stored)[:, :64], both(stored)) and sd.min() > 0.01
    cls = enc.Suffix(model, "cls", trained_blocks)
    torch.testing.assert_close(cls(stored), expected[:, 0], rtol=0, atol=2e-6)


def test_equal_patches_have_no_spread_and_pass_a_finite_gradient() -> None:
    model = vit({"patch_size": 16}).double()
    stored = torch.randn(2, 1, 32, dtype=torch.float64).expand(2, 17, 32).clone().requires_grad_()
    suffix = enc.Suffix(model, "cls+mean+sd")
    spread = suffix(stored)[:, 64:]
    assert spread.max() <= 2e-6
    (gradient,) = torch.autograd.grad(spread.sum(), stored)
    assert gradient.isfinite().all()


def test_the_spread_of_patches_passes_the_gradient_of_its_formula() -> None:
    suffix = enc.Suffix(vit({"patch_size": 16}).double(), "cls+mean+sd")
    stored = torch.randn(2, 17, 32, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: suffix(x)[:, 64:], stored, fast_mode=True)


@torch.no_grad()
def test_a_model_of_timm_is_built_for_the_crop() -> None:
    prefix, suffix = enc.split(tiny(model="vit_tiny_patch16_224", architecture=None))
    assert prefix.shape == (17, 192) and suffix.embedding == 192
    assert suffix(prefix(crops(2))).shape == (2, 192)
    assert tuple(prefix.mean.flatten().tolist()) == (0.5, 0.5, 0.5)  # this model's own, not ImageNet's


SHORT_CUT: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"init_values": 0.3},
    "norm of the pooled values": {"scale_attn_norm": True},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "registers": {"reg_tokens": 4},
}


@pytest.mark.parametrize("trained_blocks", [1, 2])
@pytest.mark.parametrize("keys", SHORT_CUT.values(), ids=list(SHORT_CUT))
def test_class_token_short_cut_is_the_whole_block_forward_and_backward(
    keys: dict[str, Any], trained_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vit({"patch_size": 16} | keys).double()
    suffix = enc.Suffix(model, "cls", trained_blocks)
    parameters = dict(suffix.named_parameters())
    stored = torch.randn(3, 16 + model.num_prefix_tokens, 32, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 32, dtype=torch.float64)

    def gradients(embedding: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((embedding * weights).sum(), [stored, *parameters.values()]))

    whole_blocks = model.norm(model.blocks[-trained_blocks:](stored))[:, 0]
    short = suffix(stored)
    torch.testing.assert_close(short, whole_blocks, rtol=0, atol=1e-13)
    expected = gradients(whole_blocks)
    for name, one, other in zip(["tokens", *parameters], gradients(short), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=name)
    assert all(gradient.abs().max() > 1e-3 for gradient in expected)  # nothing is compared with zeros
    # the short cut was indeed taken: without it the numbers are those of the whole block to the last bit
    assert not torch.equal(short, whole_blocks)
    monkeypatch.setattr(suffix, "_class_token_only", False)
    assert torch.equal(suffix(stored), whole_blocks)


def test_normalisation_is_imagenets_on_rgb() -> None:
    prefix, _ = enc.split(tiny())
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    images[..., 0] = 255
    red = prefix.normalise(images)[0, :, 5, 7]
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    torch.testing.assert_close(red, torch.tensor(expected))


@pytest.mark.parametrize("trained_blocks", [1, 2])
def test_unfreeze_names_what_is_trained(trained_blocks: int) -> None:
    prefix, suffix = enc.split(tiny(trained_blocks=trained_blocks))
    names = {id(parameter): name for name, parameter in suffix.named_parameters()}

    def trained(unfreeze: enc.Unfreeze) -> set[str]:
        chosen = {names[id(parameter)] for parameter in suffix.trainable(unfreeze)}
        assert chosen == {name for name, parameter in suffix.named_parameters() if parameter.requires_grad}
        return chosen

    assert trained("block") == set(names.values())
    attention = {
        f"blocks.{block}.attn.{part}.{kind}"
        for block in range(3 - trained_blocks, 3)
        for part in ("qkv", "proj")
        for kind in ("weight", "bias")
    }
    assert trained("attention") == attention
    assert trained("none") == set()
    assert not any(parameter.requires_grad for parameter in prefix.parameters())


def test_a_prefix_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match=r"encoder.trained_blocks: 3 leaves nothing frozen.*depth is 3"):
        enc.split(tiny(trained_blocks=3))
    assert len(enc.split(tiny(trained_blocks=2))[0].blocks) == 1


@torch.no_grad()
def test_all_blocks_are_trained_on_the_tokens_that_enter_the_first() -> None:
    model = enc.build(tiny(trained_blocks="all"))
    prefix, suffix = enc.split(tiny(trained_blocks="all"))
    images = crops(2)
    assert (len(prefix.blocks), len(suffix.blocks)) == (0, 3)
    expected = whole(model, prefix.normalise(images))[:, 0]
    torch.testing.assert_close(suffix(prefix(images)), expected, rtol=0, atol=2e-6)
    assert len(suffix.trainable("attention")) == 3 * 4


@pytest.mark.parametrize("count", [1, 3])
def test_paths_are_dropped_at_the_rates_of_their_blocks_in_training_alone(count: int) -> None:
    suffix = enc.Suffix(vit({"patch_size": 16}), "cls", count)
    suffix.drop_paths(0.2)
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in suffix.blocks]
    assert rates == [(pytest.approx(rate),) * 2 for rate in (0.0, 0.1, 0.2)[-count:]]
    stored = torch.randn(64, 17, 32)
    plain = enc.Suffix(vit({"patch_size": 16}), "cls", count)(stored)
    assert torch.equal(suffix.eval()(stored), plain)
    assert not torch.equal(suffix.train()(stored), plain)


def test_a_fine_tuned_encoder_is_built_from_its_own_file(tmp_path: Path) -> None:
    tuned = tmp_path / "tuned.safetensors"
    state = {name: value + 1 for name, value in enc.build(tiny()).state_dict().items()}
    safetensors.torch.save_file(state, tuned)
    # its original weights are not even looked for
    encoder = tiny(dino={}, weights="nowhere/to/be/found.pth")
    loaded = enc.build(encoder, tuned).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    prefix, _ = enc.split(encoder, tuned)
    assert torch.equal(prefix.patch_embed.proj.weight, state["patch_embed.proj.weight"])
    with pytest.raises(ValueError, match="weights file is to be given"):
        enc.split(encoder)
    safetensors.torch.save_file(state | {"norm.bias": torch.zeros(5)}, tuned)
    with pytest.raises(UserError, match=r"tuned\.safetensors does not fit: norm.bias"):
        enc.build(encoder, tuned)


@torch.no_grad()
def test_a_model_for_any_size_is_the_same_at_the_crops_size() -> None:
    fixed, free = enc.build(tiny()), enc.build(tiny(), any_size=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(whole(free, images), whole(fixed, images))
    assert whole(free, images[..., :32, :32]).shape == (2, 1 + 4, 32)


def test_random_weights_are_the_same_every_time_and_leave_the_callers_seed_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second = enc.build(tiny()).state_dict(), enc.build(tiny()).state_dict()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)


def _grid(old: int, width: int = 8, prefix: int = 1) -> Tensor:
    return torch.randn(1, prefix + old * old, width, generator=torch.Generator().manual_seed(1))


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def test_dino_rule_samples_at_the_scale_of_the_released_code() -> None:
    """Against a bicubic written out by hand: sample i lies at (i + .5) * 28 / 8.1 - .5, borders repeated."""
    old, new = 28, 8
    positions = _grid(old)
    at = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    matrix = np.zeros((new, old))
    for row, centre in enumerate(at):
        base = int(np.floor(centre))
        for tap in range(base - 1, base + 3):
            matrix[row, min(max(tap, 0), old - 1)] += _cubic(np.array(centre - tap))
    square = positions[0, 1:].double().numpy().reshape(old, old, -1)
    expected = np.einsum("ia,jb,abd->ijd", matrix, matrix, square).reshape(new * new, -1)
    resized = enc.resize_positions(positions, grid=new, prefix_tokens=1, rule="dino")
    assert torch.equal(resized[:, :1], positions[:, :1])
    np.testing.assert_allclose(resized[0, 1:].numpy(), expected, atol=2e-5)


def test_the_two_rules_differ_and_keep_an_equal_grid() -> None:
    positions = _grid(28)
    dino, timms = (
        enc.resize_positions(positions, grid=8, prefix_tokens=1, rule=rule) for rule in ("dino", "timm")
    )
    assert dino.shape == timms.shape == (1, 65, 8)
    assert (dino - timms).norm() / timms.norm() > 0.3
    for rule in ("dino", "timm"):
        assert torch.equal(enc.resize_positions(_grid(8), grid=8, prefix_tokens=1, rule=rule), _grid(8))
    with pytest.raises(UserError, match="65 position embeddings form no square grid"):
        enc.resize_positions(_grid(8), grid=4, prefix_tokens=0, rule="timm")


def _checkpoint(folder: Path, form: str, state: dict[str, Tensor]) -> Path:
    if form == "safetensors":
        path = folder / "w.safetensors"
        safetensors.torch.save_file(state, path)
        return path
    wrapped: dict[str, object] = {
        "plain": state,
        "dino": {
            "student": {"module.backbone.cls_token": torch.zeros(1)},
            "teacher": {f"backbone.{key}": value for key, value in state.items()}
            | {"head.mlp.0.weight": torch.zeros(2, 2)},
            "args": argparse.Namespace(arch="vit_base"),
            "epoch": 3,
        },
        "module": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    }[form]  # type: ignore[assignment]
    torch.save(wrapped, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize("form", ["safetensors", "plain", "dino", "module"])
def test_weights_files_in_every_usual_wrapping(tmp_path: Path, form: str) -> None:
    larger = VisionTransformer(img_size=224, patch_size=16, embed_dim=32, depth=3, num_heads=4, num_classes=0)
    path = _checkpoint(tmp_path, form, larger.state_dict())
    loaded = enc.build(tiny(weights=str(path), pos_embed="dino")).state_dict()
    expected = enc.resize_positions(larger.state_dict()["pos_embed"], grid=4, prefix_tokens=1, rule="dino")
    assert torch.equal(loaded["pos_embed"], expected)
    for key, value in larger.state_dict().items():
        assert key == "pos_embed" or torch.equal(loaded[key], value)


def test_weights_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    state = enc.build(tiny()).state_dict()
    path = tmp_path / "w.safetensors"

    def refusal(content: dict[str, Tensor]) -> str:
        safetensors.torch.save_file(content, path)
        with pytest.raises(UserError) as caught:
            enc.build(tiny(weights=str(path)))
        return str(caught.value)

    assert "lacks norm.bias" in refusal({k: v for k, v in state.items() if k != "norm.bias"})
    assert "has unknown blocks.9.x" in refusal(state | {"blocks.9.x": torch.zeros(1)})
    assert "norm.bias [5] where [32] is needed" in refusal(state | {"norm.bias": torch.zeros(5)})
    path.write_bytes(b"half a file")
    with pytest.raises(UserError, match="no readable weights file"):
        enc.build(tiny(weights=str(path)))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no weights"):
        enc.build(tiny(weights=str(tmp_path / "list.pth")))
    with pytest.raises(UserError, match=r"there is no file .*gone\.pth"):
        enc.build(tiny(weights=str(tmp_path / "gone.pth")))


def test_models_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(UserError, match="nearest name is vit_base_patch8_224"):
        enc.build(tiny(model="vit_base_patch8_24.dino", architecture=None))
    with pytest.raises(UserError, match="resnet18 is a ResNet"):
        enc.build(tiny(model="resnet18", architecture=None))
    with pytest.raises(UserError, match="no class token"):
        enc.build(tiny(model="vit_wee_patch16_reg1_gap_256", architecture=None))


def test_absent_pretrained_weights_name_the_file_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"model\.safetensors of timm/vit_tiny_patch16_224.*HF_HUB_OFFLINE=1"):
        enc.build(tiny(model="vit_tiny_patch16_224.augreg_in21k", architecture=None, weights="pretrained"))
    with pytest.raises(UserError, match="publishes no pretrained weights for vit_small_patch16_36x1_224"):
        enc.build(tiny(model="vit_small_patch16_36x1_224", architecture=None, weights="pretrained"))


def _write_crops(path: Path, images: Tensor, cells: np.ndarray) -> None:
    pixels = pa.array([image.numpy().tobytes() for image in images], pa.binary(64 * 64 * 3))
    table = pa.table([pa.array(cells), pixels], schema=CROPS.schema)
    tables.write(path, table, CROPS)


def test_embedding_a_slide_stores_the_prefix_tokens(tmp_path: Path) -> None:
    images, cells = crops(40), np.arange(40, dtype=np.int32) + 5
    _write_crops(tmp_path / "crops.parquet", images, cells)
    encoder = tiny(pos_embed="timm")
    count = enc.embed_slide(
        tmp_path / "crops.parquet", tmp_path / "tokens.parquet", encoder, made_by="a test"
    )
    store = tokens.TokenStore(tmp_path / "tokens.parquet")
    with torch.no_grad():
        expected = enc.split(encoder)[0](images)
    assert count == len(store) == 40 and np.array_equal(store.cells, cells)
    torch.testing.assert_close(store.read().float(), expected, rtol=1e-3, atol=1e-3)
    assert store.metadata["pos_embed"] == "timm" and store.metadata["made_by"] == "a test"
    assert Encoder.model_validate_json(store.metadata["encoder"]).architecture == TINY


def test_a_slide_without_cells_gives_an_empty_store(tmp_path: Path) -> None:
    _write_crops(tmp_path / "crops.parquet", crops(0), np.empty(0, np.int32))
    assert enc.embed_slide(tmp_path / "crops.parquet", tmp_path / "tokens.parquet", tiny()) == 0
    store = tokens.TokenStore(tmp_path / "tokens.parquet")
    assert len(store) == 0 and store.shape == (17, 32) and list(store.stream()) == []


def test_tokens_beyond_float16_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    _write_crops(tmp_path / "crops.parquet", crops(3), np.arange(3, dtype=np.int32))
    prefix, _ = enc.split(tiny())
    prefix.patch_embed.proj.bias.data.fill_(1e6)
    with pytest.raises(UserError, match="exceed the range of float16 in cells 0 to 2"):
        enc.embed_slide(tmp_path / "crops.parquet", tmp_path / "tokens.parquet", tiny(), prefix=prefix)
    assert [path.name for path in tmp_path.iterdir()] == ["crops.parquet"]
