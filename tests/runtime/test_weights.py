"""Files of weights that others give: hostile, damaged, of another kind."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from myostage.cells.cellpose import Network, load_network
from myostage.errors import UserError
from myostage.features.encoder import build, read_state
from myostage.study.sections.encoder import Encoder


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, harm: Path) -> None:
        self.harm = harm

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.harm}",)


def header(path: Path, text: bytes, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)


def deflated(path: Path) -> None:
    torch.save({"w": torch.zeros(4096)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


NO_WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "empty.pt": lambda path: path.write_bytes(b""),
    "text.pt": lambda path: path.write_text("hello"),
    "text.safetensors": lambda path: path.write_text("hello, this is text"),
    "hostile.pt": lambda path: torch.save(Hostile(path.with_name("harm")), path),
    "hostile.pth": lambda path: path.write_bytes(pickle.dumps(Hostile(path.with_name("harm")))),
    "tensor.pt": lambda path: torch.save(torch.zeros(3), path),
    "list.pt": lambda path: torch.save([torch.zeros(3)], path),
    "nothing.pt": lambda path: torch.save({"model": None}, path),
    "numbers.pt": lambda path: torch.save({1: 2}, path),
    "compressed.pt": deflated,
    "header.safetensors": lambda path: header(path, b"{}", 2**62),
    "long header.safetensors": lambda path: header(path, b"{" + b" " * 99, 2**33),
    "deep header.safetensors": lambda path: header(path, b"[" * 100_000),
    "no text.safetensors": lambda path: header(path, b"\xff\xfe{}"),
    "shape.safetensors": lambda path: header(
        path, json.dumps({"w": {"dtype": "F32", "shape": [10**9] * 2, "data_offsets": [0, 4]}}).encode()
    ),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_files_that_hold_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    NO_WEIGHTS[name](path)
    with pytest.raises(UserError, match=r"(is no readable weights file|holds no weights)") as error:
        read_state(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="not a Cellpose 1-3 network") as error:
        load_network(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


SMALL = {"patch_px": 8, "width": 96, "depth": 2, "heads": 3}
ODD: dict[str, tuple[Callable[[dict[str, Tensor], str], Any], str]] = {
    "nan": (lambda state, name: state[name].fill_(float("nan")), "NaN or infinite"),
    "one infinite": (lambda state, name: state[name].view(-1)[0].fill_(float("inf")), "NaN or infinite"),
    "integers": (lambda state, name: state.update({name: state[name].long()}), "int64"),
    "complex": (lambda state, name: state.update({name: state[name].to(torch.complex64)}), "complex64"),
    "sparse": (lambda state, name: state.update({name: state[name].to_sparse()}), ""),
    "shape": (lambda state, name: state.update({name: state[name].reshape(-1)[:1].clone()}), "where"),
    "no axes": (lambda state, name: state.update({name: torch.zeros(())}), ""),
    "repeated": (lambda state, name: state.update({name: torch.zeros(1).expand(1, 10**10, 96)}), "where"),
    "missing": (lambda state, name: state.pop(name), ""),
    "unknown": (lambda state, name: state.update({"spare\x1b": state[name]}), ""),
}


@pytest.mark.parametrize("name", ["pos_embed", "blocks.0.attn.qkv.weight", "norm.bias"])
@pytest.mark.parametrize("kind", ODD)
def test_weights_that_fit_no_encoder_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    change, reason = ODD[kind]
    path = tmp_path / "w.pth"
    state = build(
        Encoder.model_validate({"model": None, "architecture": SMALL, "weights": "none"})
    ).state_dict()
    change(state, name)
    torch.save(state, path)
    with pytest.raises(UserError, match=f"(?s){reason}") as error:
        build(Encoder.model_validate({"model": None, "architecture": SMALL, "weights": str(path)}))
    assert str(path) in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "name", ["output.2.weight", "diam_mean", "downsample.down.res_down_0.conv.conv_0.2.weight"]
)
@pytest.mark.parametrize("kind", ODD)
def test_weights_that_fit_no_cellpose_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    change, reason = ODD[kind]
    if (kind, name) in {("missing", "diam_mean"), ("shape", "diam_mean")}:
        pytest.skip("the oldest models have none; it has one number")
    state = Network((2, 4, 256)).state_dict()
    change(state, name)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(
        UserError, match=f"not a Cellpose 1-3 network .*{reason if name != 'diam_mean' else ''}"
    ):
        load_network(tmp_path / "m.pt")


@pytest.mark.parametrize("diameter", [0.0, -5.0, 1e30])
def test_a_cellpose_diameter_that_is_none_is_refused(tmp_path: Path, diameter: float) -> None:
    state = Network((2, 4, 256)).state_dict()
    state["diam_mean"].fill_(diameter)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(UserError, match="its diameters are"):
        load_network(tmp_path / "m.pt")


def test_sound_weights_are_read_as_they_are(tmp_path: Path) -> None:
    state = {"w": torch.arange(6.0).reshape(2, 3)}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save({"teacher": state, "args": None}, tmp_path / "w.pth")
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        assert torch.equal(read_state(path)["w"], state["w"])
