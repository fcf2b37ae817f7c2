"""The locks are what everything is installed from, and hold what is imported."""

import ast
import hashlib
import json
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "envs/lock.txt"
DEV = ROOT / "envs/dev.txt"
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return dict(PINNED.findall(path.read_text()))


def requirements(name: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)", (ROOT / "envs" / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize(("requirements_file", "lock"), [("requirements.in", LOCK), ("dev.in", DEV)])
def test_every_requirement_is_locked_with_hashes(requirements_file: str, lock: Path) -> None:
    assert requirements(requirements_file) <= set(pins(LOCK)) | set(pins(lock))
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text())
    assert all("--hash=sha256:" in entry for entry in entries if PINNED.match(entry))


def test_tests_and_linters_are_locked_on_top_of_what_a_study_needs() -> None:
    assert not set(pins(DEV)) & set(pins(LOCK))
    assert {"pytest", "ruff", "mypy"} <= set(pins(DEV))


def test_lock_names_no_index() -> None:
    for file in (LOCK, DEV, ROOT / "envs/uv.txt"):
        assert not re.search(r"index-url|https?://|find-links", file.read_text())


def imported(folder: str) -> set[str]:
    """Distributions that the Python files and notebooks below a folder import by name."""
    of_module = metadata.packages_distributions()
    found: set[str] = set()
    for path in sorted((ROOT / folder).rglob("*")):
        if path.suffix not in (".py", ".ipynb"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names} - {"tests", "docs"}:  # torchmil installs both
                found.update(dist.lower().replace("_", "-") for dist in of_module.get(name, ())[:1])
    return found


# Needed without being imported: the workflow itself and what its profile sends jobs with, codecs of TIFF
# files, the library behind openslide-python, the kernel of the notebooks, colours of code in a report.
NOT_IMPORTED = {
    "snakemake",
    "snakemake-executor-plugin-slurm",
    "imagecodecs",
    "openslide-bin",
    "ipykernel",
    "pygments",
}
COMES_WITH = {"pydantic-core": "pydantic", "ipython": "ipykernel"}


def test_what_is_imported_is_required_and_nothing_else() -> None:
    used = imported("scripts") | imported("notebooks")
    required = requirements("requirements.in")
    assert {COMES_WITH.get(name, name) for name in used} | NOT_IMPORTED == required
    assert imported("tests") | imported("benchmarks") <= required | requirements("dev.in")


def test_changelog_opens_with_the_version_that_is_cited() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited and latest
    assert cited[1] == latest[1]


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
