"""Phantoms: same seed same file, truth that fits the picture, counts that follow the proportions."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from scipy import stats
from shapely.geometry import Polygon
from shapely.strtree import STRtree
from skimage.draw import polygon as rasterise

from myostage.config import Phantom
from myostage.errors import UserError
from myostage.phantom import MATURITY, draw_slide, stage_maturity

STAGES = ("damaged", "small_myotube", "large_myotube", "recovered", "intact")
SMALL = Phantom(width_um=320.0, height_um=280.0)
MIXED = (0.1, 0.2, 0.3, 0.2, 0.2)


def draw(folder: Path, name: str, shares: tuple[float, ...], phantom: Phantom = SMALL, **differs: Any) -> int:
    keys = {"stages": STAGES, "animal": "a1", "slide": "s1"} | differs
    return draw_slide(
        folder / f"{name}.tif",
        folder / f"{name}.geojson",
        phantom=phantom,
        proportions=np.array(shares),
        **keys,
    )


def truth(path: Path) -> tuple[list[Polygon], list[str]]:
    features = json.loads(path.read_text())["features"]
    outlines = [Polygon(feature["geometry"]["coordinates"][0]) for feature in features]
    return outlines, [feature["properties"]["classification"]["name"] for feature in features]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One mixed slide, ``mixed.tif`` with ``mixed.geojson``, for all tests that only look."""
    folder = tmp_path_factory.mktemp("phantom")
    draw(folder, "mixed", MIXED)
    return folder


def test_another_process_draws_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    code = (
        "import numpy as np; from myostage.config import Phantom; from myostage.phantom import draw_slide; "
        f"draw_slide({str(tmp_path / 'm.tif')!r}, {str(tmp_path / 'm.geojson')!r}, "
        f"phantom=Phantom(width_um=320, height_um=280), stages={STAGES!r}, "
        f"proportions=np.array({MIXED!r}), animal='a1', slide='s1')"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
    for suffix in ("tif", "geojson"):
        first, second = (folder / f"mixed.{suffix}").read_bytes(), (tmp_path / f"m.{suffix}").read_bytes()
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.geojson", "m.tif"]


@pytest.mark.parametrize("change", [{"slide": "s2"}, {"animal": "a2"}, {"phantom": Phantom(seed=1, **{
    "width_um": 320.0, "height_um": 280.0})}], ids=["slide", "animal", "seed"])  # fmt: skip
def test_another_slide_animal_or_seed_is_another_picture(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    draw(tmp_path, "other", MIXED, **change)
    assert (tifffile.imread(tmp_path / "other.tif") != tifffile.imread(folder / "mixed.tif")).mean() > 0.5


def test_openslide_reads_levels_and_resolution(folder: Path) -> None:
    with openslide.OpenSlide(folder / "mixed.tif") as slide:
        assert slide.level_dimensions == ((640, 560), (320, 280), (160, 140))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-4)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, rel=1e-4)
        whole = np.asarray(slide.read_region((0, 0), 0, (640, 560)).convert("RGB")).astype(float)
        half = np.asarray(slide.read_region((0, 0), 1, (320, 280)).convert("RGB")).astype(float)
    assert np.abs(whole.reshape(280, 2, 320, 2, 3).mean((1, 3)) - half).mean() < 4


def test_outlines_are_valid_apart_and_inside_the_slide(folder: Path) -> None:
    outlines, _ = truth(folder / "mixed.geojson")
    assert all(outline.is_valid and outline.area > 0 for outline in outlines)
    bounds = np.array([outline.bounds for outline in outlines])
    assert bounds.min() >= 0 and bounds[:, 2].max() <= 640 and bounds[:, 3].max() <= 560
    tree = STRtree(outlines)
    for index, outline in enumerate(outlines):
        for other in tree.query(outline):
            assert other == index or outline.intersection(outlines[other]).area < 0.01 * outline.area


def test_truth_lies_on_stained_tissue_and_glass_is_empty(folder: Path) -> None:
    image = tifffile.imread(folder / "mixed.tif").astype(float)
    covered = np.zeros(image.shape[:2], bool)
    for outline in truth(folder / "mixed.geojson")[0]:
        x, y = outline.exterior.xy
        covered[rasterise(np.array(y), np.array(x), covered.shape)] = True
    saturation = image.max(2) - image.min(2)
    assert np.median(saturation[covered]) > 60
    assert np.median(saturation[~covered]) < 40
    corners = np.concatenate([image[:20, :20], image[-20:, -20:]]).reshape(-1, 3)
    assert corners.mean(0).min() > 225


def test_stages_look_as_they_should(tmp_path: Path) -> None:
    size, redness, blueness = {}, {}, {}
    for index, stage in enumerate(STAGES):
        draw(tmp_path, stage, tuple(np.eye(5)[index]))
        outlines, names = truth(tmp_path / f"{stage}.geojson")
        assert set(names) == {stage}
        image = tifffile.imread(tmp_path / f"{stage}.tif").astype(float)
        colours = []
        for outline in outlines:
            x, y = outline.exterior.xy
            colours.append(np.median(image[rasterise(np.array(y), np.array(x), image.shape[:2])], 0))
        red, green, blue = np.mean(colours, 0)
        size[stage] = np.mean([outline.area for outline in outlines])
        redness[stage], blueness[stage] = red - green, blue - green
    assert size["small_myotube"] < size["large_myotube"] < size["recovered"] < size["intact"]
    assert redness["damaged"] < redness["recovered"] < redness["intact"]
    purple = {stage: blueness[stage] / redness[stage] for stage in STAGES}
    assert purple["small_myotube"] > purple["large_myotube"] > purple["recovered"] > purple["intact"]


def test_counts_follow_the_proportions_and_neighbours_share_stages(tmp_path: Path) -> None:
    phantom = Phantom(mpp=2.0)  # layout alone matters here, and coarse px are quickly painted
    counts, alike = np.zeros(5), []
    for slide in ("s1", "s2", "s3", "s4"):
        assert draw(tmp_path, slide, MIXED, phantom, slide=slide) >= 200
        outlines, names = truth(tmp_path / f"{slide}.geojson")
        stage = np.array([STAGES.index(name) for name in names])
        counts += np.bincount(stage, minlength=5)
        centre = np.array([outline.centroid.coords[0] for outline in outlines])
        distance = np.hypot(*(centre[:, None] - centre[None]).transpose(2, 0, 1))
        alike.append(np.mean(stage[np.argsort(distance, 1)[:, 1:6]] == stage[:, None]))
    assert stats.chisquare(counts, counts.sum() * np.array(MIXED)).pvalue > 1e-3
    # Five stages scattered at random agree with a neighbour in .22 of all cases.
    assert min(alike) > 0.35


def test_known_stages_keep_their_look_in_any_order() -> None:
    assert stage_maturity(STAGES[::-1]).tolist() == [MATURITY[stage] for stage in STAGES[::-1]]
    assert stage_maturity(("low", "middle", "high")).tolist() == [0.0, 2.0, 4.0]
    with pytest.raises(UserError, match="oedema"):
        stage_maturity(("intact", "oedema"))


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit the 5 stages"):
        draw(tmp_path, "short", (0.5, 0.5))
    with pytest.raises(UserError, match="width_um"):
        draw(tmp_path, "tiny", MIXED, Phantom(width_um=40.0, height_um=40.0))
    assert not list(tmp_path.iterdir())
