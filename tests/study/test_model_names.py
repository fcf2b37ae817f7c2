"""Names of models are known before anything runs, as Cellpose and timm know them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from cellpose import models

from myostage.errors import UserError
from myostage.study import model_names
from myostage.study.load import load_study, notes
from support import tiny


def test_the_names_of_cellpose_are_those_of_its_module() -> None:
    assert set(model_names.cellpose_names()) == set(models.MODEL_NAMES) - set(model_names.TRANSFORMERS)


def test_every_vit_of_timm_is_known() -> None:
    names = [*timm.list_models(module="vision_transformer"), *timm.list_models(module="deit")]
    names += [name for name in timm.list_models(pretrained=True) if name.partition(".")[0] in names]
    assert len(names) > 200
    assert [name for name in names if model_names.timm_fault("encoder.model", name)] == []


def test_nothing_heavy_is_imported() -> None:
    asked = (
        "import sys; from myostage.study import model_names as m; m.timm_names(); m.cellpose_names(); "
        "print({'torch', 'timm', 'cellpose'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=tiny.ROOT / "scripts", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_base_patch8_224.dinoo", r"has no model .*\(did you mean vit_base_patch8_224.dino\?\)"),
        ("resnet50", "no plain ViT that"),
        ("hf-hub:nobody", "has no model hf-hub:nobody; name one, or one of the hub as hf-hub:OWNER/NAME"),
    ],
)
def test_the_name_of_an_encoder_is_checked_where_an_experiment_names_it(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = {"name": "prop", "losses": {"prop": 1}, "encoder": {"model": name, "weights": "none"}}
    study = tiny.lay_out(tmp_path, tiny.of_cells(experiment))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"experiments\[prop\]\.encoder\.model.*{words}"):
        load_study(study)


def test_what_would_be_fetched_is_named_with_the_place_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLPOSE_LOCAL_MODELS_PATH", str(tmp_path / "cellpose"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    changes: dict[str, Any] = {
        "segmentation": {"model": "cyto2"},
        "encoder": {"model": "vit_base_patch8_224.dino"},
    }
    study = tiny.lay_out(tmp_path, tiny.of_cells({"name": "prop", "losses": {"prop": 1}}, **changes))
    monkeypatch.chdir(tmp_path)
    *_, cell, encoder = notes(load_study(study))
    assert cell.endswith(f"bring it to {tmp_path}/cellpose/cyto2torch_0")
    assert "model.safetensors of timm/vit_base_patch8_224.dino elsewhere" in encoder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set and encoder\.model vit_base.* name it as"):
        load_study(study)
    (tmp_path / "cellpose").mkdir()
    (tmp_path / "cellpose/cyto2torch_0").touch()
    weights = tmp_path / "hub/models--timm--vit_base_patch8_224.dino/snapshots/1/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert not [said for said in notes(load_study(study)) if "fetched" in said]
