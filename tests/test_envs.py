"""The lock is what everything is installed from."""

import hashlib
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "envs/lock.txt"
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return dict(PINNED.findall(path.read_text()))


def test_every_requirement_is_locked_with_hashes() -> None:
    names = re.findall(r"^([a-z0-9-]+)", (ROOT / "envs/requirements.in").read_text(), re.MULTILINE)
    locked = pins(LOCK)
    assert set(names) <= set(locked)
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK.read_text())
    assert all("--hash=sha256:" in entry for entry in entries if PINNED.match(entry))


def test_lock_names_no_index() -> None:
    for file in (LOCK, ROOT / "envs/uv.txt"):
        assert not re.search(r"index-url|https?://|find-links", file.read_text())


@pytest.mark.parametrize("name", ["myostage.yaml", "myostage.def"])
def test_environments_name_this_lock(name: str) -> None:
    named = re.search(r"# lock sha256: (\w+)", (ROOT / "envs" / name).read_text())
    assert named, f"envs/{name} names no lock"
    assert named[1] == hashlib.sha256(LOCK.read_bytes()).hexdigest(), "run `make lock`"


def test_conda_and_container_install_the_lock_and_nothing_else() -> None:
    for name in ("myostage.post-deploy.sh", "myostage.def"):
        installs = re.findall(r"pip install .*", (ROOT / "envs" / name).read_text())
        assert len(installs) == 2
        assert all("--require-hashes" in line for line in installs)
        assert "--no-deps" in installs[1]


@pytest.mark.parametrize(
    "package", ["cellpose", "numpy", "torch", "torchvision", "snakemake-executor-plugin-slurm"]
)
def test_installed_is_what_is_locked(package: str) -> None:
    assert metadata.version(package).split("+")[0] == pins(LOCK)[package]


def test_cellpose_and_the_slurm_plugin_are_both_current() -> None:
    locked = pins(LOCK)
    assert locked["cellpose"] == "3.1.1.3"
    assert int(locked["snakemake-executor-plugin-slurm"].split(".")[0]) >= 2


def test_masks_are_those_under_the_numpy_that_cellpose_declares() -> None:
    """``masks_numpy_2_0.png`` was made from ``tile.png`` by the same model under numpy 2.0.2.

    On the machine that made it the installed numpy gives the same label to every pixel; another processor may
    round a few pixels at outlines differently.
    """
    from myostage.cells import cellpose
    from myostage.study.sections.segmentation import Segmentation

    segmentation = Segmentation(model=str(ROOT / "config/demo/cellpose.pt"), diameter_um=30)
    tile = np.asarray(Image.open(ROOT / "tests/data/tile.png"))
    wanted = np.asarray(Image.open(ROOT / "tests/data/masks_numpy_2_0.png"))
    found = cellpose.CellposeRunner(segmentation, None, 1.0, device="cpu").masks(tile[None])[0]
    assert wanted.max() == found.max() == 63
    assert np.mean((found > 0) == (wanted > 0)) > 0.999
