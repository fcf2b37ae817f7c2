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
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay
from shapely.geometry import Polygon
from shapely.strtree import STRtree
from skimage.draw import polygon as rasterise

from myostage.errors import UserError
from myostage.phantom.draw import draw_slide
from myostage.phantom.muscle import MATURITY, Region, stage_maturity
from myostage.study.inputs import read_proportions, read_slides
from myostage.study.load import load_study
from myostage.study.sections.phantom import Phantom

STAGES = ("damaged", "small_myotube", "large_myotube", "recovered", "intact")
SMALL = Phantom(width_um=320.0, height_um=280.0)
MIXED = (0.1, 0.2, 0.3, 0.2, 0.2)
ROUND = Phantom(tissue="round_cells", width_um=120.0, height_um=105.0, mpp=0.3)
MATURING = ("blast", "early", "middle", "late", "last", "done")
EVEN = (1 / 6,) * 6


def draw(folder: Path, name: str, shares: tuple[float, ...], phantom: Phantom = SMALL, **differs: Any) -> int:
    keys = {
        "stages": STAGES if phantom.tissue == "muscle" else MATURING,
        "animal": "a1",
        "slide": "s1",
    } | differs
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


def covered(outline: Polygon, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels within an outline."""
    x, y = outline.exterior.xy
    return rasterise(np.array(y), np.array(x), shape[:2])


def layout(folder: Path, name: str, stages: tuple[str, ...], mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres (um) and stages of the cells of a slide."""
    outlines, names = truth(folder / f"{name}.geojson")
    centres = mpp * np.array([outline.centroid.coords[0] for outline in outlines])
    return centres, np.array([stages.index(name) for name in names])


def agreement(centres: np.ndarray, kinds: np.ndarray) -> float:
    """Share of the five nearest cells that are of a cell's own kind, over all cells."""
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    return float(np.mean(kinds[np.argsort(distance, 1)[:, 1:6]] == kinds[:, None]))


def follow(counts: np.ndarray, shares: Any) -> bool:
    """Whether counts are drawn from ``shares``, where those are not 0."""
    shares = np.array(shares)
    drawn = shares > 0
    expected = counts.sum() * shares[drawn]
    return not counts[~drawn].any() and stats.chisquare(counts[drawn], expected).pvalue > 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One mixed slide of each tissue, ``mixed`` and ``round``, for all tests that only look."""
    folder = tmp_path_factory.mktemp("phantom")
    draw(folder, "mixed", MIXED)
    draw(folder, "round", EVEN, ROUND)
    return folder


def test_another_process_draws_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    lines = [
        "import numpy as np; from myostage.study.sections.phantom import Phantom",
        "from myostage.phantom.draw import draw_slide",
    ]
    for name, phantom, stages, shares in (("mixed", SMALL, STAGES, MIXED), ("round", ROUND, MATURING, EVEN)):
        files = [str(tmp_path / f"{name}.{suffix}") for suffix in ("tif", "geojson")]
        lines.append(
            f"draw_slide(*{files!r}, phantom=Phantom(**{phantom.model_dump()!r}), stages={stages!r}, "
            f"proportions=np.array({shares!r}), animal='a1', slide='s1')"
        )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, env=environment)
    made = sorted(file.name for file in tmp_path.iterdir())
    assert made == ["mixed.geojson", "mixed.tif", "round.geojson", "round.tif"]
    for name in made:
        first, second = (folder / name).read_bytes(), (tmp_path / name).read_bytes()
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


@pytest.mark.parametrize("change", [{"slide": "s2"}, {"animal": "a2"}, {"seed": 1}], ids=str)
@pytest.mark.parametrize(
    ("name", "shares", "phantom", "differs"), [("mixed", MIXED, SMALL, 0.5), ("round", EVEN, ROUND, 0.3)]
)
def test_another_slide_animal_or_seed_is_another_picture(
    folder: Path, tmp_path: Path, name: str, shares: Any, phantom: Phantom, differs: float, change: Any
) -> None:
    seed = {"seed": change["seed"]} if "seed" in change else {}
    named = {key: value for key, value in change.items() if key != "seed"}
    draw(tmp_path, "other", shares, phantom.model_copy(update=seed), **named)
    other, first = (
        tifffile.imread(path / f"{file}.tif") for path, file in ((tmp_path, "other"), (folder, name))
    )
    assert (other != first).mean() > differs


def test_openslide_reads_levels_and_resolution(folder: Path) -> None:
    with openslide.OpenSlide(folder / "mixed.tif") as slide:
        assert slide.level_dimensions == ((640, 560), (320, 280), (160, 140))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-4)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, rel=1e-4)
        whole = np.asarray(slide.read_region((0, 0), 0, (640, 560)).convert("RGB")).astype(float)
        half = np.asarray(slide.read_region((0, 0), 1, (320, 280)).convert("RGB")).astype(float)
    assert np.abs(whole.reshape(280, 2, 320, 2, 3).mean((1, 3)) - half).mean() < 4


@pytest.mark.parametrize(("name", "size"), [("mixed", (640, 560)), ("round", (400, 350))])
def test_outlines_are_valid_apart_and_inside_the_slide(
    folder: Path, name: str, size: tuple[int, int]
) -> None:
    outlines, _ = truth(folder / f"{name}.geojson")
    assert all(outline.is_valid and outline.area > 0 for outline in outlines)
    bounds = np.array([outline.bounds for outline in outlines])
    assert bounds.min() >= 0 and bounds[:, 2].max() <= size[0] and bounds[:, 3].max() <= size[1]
    tree = STRtree(outlines)
    for index, outline in enumerate(outlines):
        for other in tree.query(outline):
            assert other == index or outline.intersection(outlines[other]).area < 0.01 * outline.area


def test_truth_lies_on_stained_tissue_and_glass_is_empty(folder: Path) -> None:
    image = tifffile.imread(folder / "mixed.tif").astype(float)
    tissue = np.zeros(image.shape[:2], bool)
    for outline in truth(folder / "mixed.geojson")[0]:
        tissue[covered(outline, image.shape)] = True
    saturation = image.max(2) - image.min(2)
    assert np.median(saturation[tissue]) > 60
    assert np.median(saturation[~tissue]) < 40
    corners = np.concatenate([image[:20, :20], image[-20:, -20:]]).reshape(-1, 3)
    assert corners.mean(0).min() > 225


def test_stages_look_as_they_should(tmp_path: Path) -> None:
    size, redness, blueness = {}, {}, {}
    for index, stage in enumerate(STAGES):
        draw(tmp_path, stage, tuple(np.eye(5)[index]))
        outlines, names = truth(tmp_path / f"{stage}.geojson")
        assert set(names) == {stage}
        image = tifffile.imread(tmp_path / f"{stage}.tif").astype(float)
        colours = [np.median(image[covered(outline, image.shape)], 0) for outline in outlines]
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
        centres, stage = layout(tmp_path, slide, STAGES, phantom.mpp)
        counts += np.bincount(stage, minlength=5)
        alike.append(agreement(centres, stage))
    assert follow(counts, MIXED)
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
    for shares, tissue, side in ((MIXED, "muscle", 40.0), (EVEN, "round_cells", 30.0)):
        with pytest.raises(UserError, match="width_um"):
            draw(tmp_path, "tiny", shares, Phantom(tissue=tissue, width_um=side, height_um=side))
    assert not list(tmp_path.iterdir())


# --- injured region ---------------------------------------------------------------------------------------

COARSE = Phantom(mpp=4.0)  # quickly painted: layout alone matters
HURT = (0.2, 0.3, 0.5, 0.0, 0.0)


def regional(folder: Path, slide: str, region: Region, **differs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Centres (um) and stages of a slide with an injured region."""
    keys = {"shares": HURT, "phantom": COARSE, "stages": STAGES} | differs
    draw(folder, slide, slide=slide, region=region, **keys)
    return layout(folder, slide, keys["stages"], keys["phantom"].mpp)


def pieces(centres: np.ndarray, member: np.ndarray) -> int:
    """Connected parts of the cells that are members, over Delaunay's triangulation of all cells."""
    corners = Delaunay(centres).simplices
    edges = np.concatenate([corners[:, :2], corners[:, 1:], corners[:, ::2]])
    a, b = edges[member[edges].all(1)].T
    part = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(member),) * 2))[1]
    return len(np.unique(part[member]))


@pytest.fixture(scope="module")
def injured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Centres and stages of two slides with each border, half of the cells injured."""
    folder = tmp_path_factory.mktemp("region")
    return {
        border: [regional(folder, slide, Region(border, 0.5, (4,))) for slide in ("s1", "s2")]
        for border in ("sharp", "diffuse")
    }


def test_a_sharp_region_is_one_piece_and_a_diffuse_one_interleaves(injured: dict[str, Any]) -> None:
    for centres, stage in injured["sharp"]:
        assert pieces(centres, stage < 4) == 1
        assert agreement(centres, stage < 4) > 0.85  # scattered at random: .5
    for centres, stage in injured["diffuse"]:
        assert pieces(centres, stage < 4) > 1
        assert 0.58 < agreement(centres, stage < 4) < 0.82


def test_injury_falls_gradually_across_a_diffuse_border(injured: dict[str, Any]) -> None:
    thirds = []
    for centres, stage in injured["diffuse"]:
        hurt = stage < 4
        from_core = np.hypot(*(centres - centres[hurt].mean(0)).T)
        thirds.append([part.mean() for part in np.array_split(hurt[np.argsort(from_core)], 3)])
    inner, middle, outer = np.mean(thirds, axis=0)
    assert inner > 0.75 and 0.3 < middle < 0.7 and 0.02 < outer < 0.3


@pytest.mark.parametrize("border", ["sharp", "diffuse"])
def test_stages_within_the_region_lie_mixed(injured: dict[str, Any], border: str) -> None:
    inside = [(centres[stage < 4], stage[stage < 4]) for centres, stage in injured[border]]
    # .2, .3, .5 scattered at random agree in .38; ordered, in more than .6
    assert np.mean([agreement(centres, stage) for centres, stage in inside]) < 0.48


@pytest.mark.parametrize(
    ("stages", "shares", "region", "expected"),
    [
        (STAGES, HURT, Region("sharp", 0.3, (4,)), (0.06, 0.09, 0.15, 0.0, 0.7)),
        (STAGES, HURT, Region("diffuse", 0.4, (3, 4)), (0.08, 0.12, 0.2, 0.3, 0.3)),
        (STAGES, (0.1, 0.1, 0.2, 0.45, 0.15), Region("diffuse", 0.4, (3, 4)), (0.1, 0.1, 0.2, 0.45, 0.15)),
        (tuple("abcde"), (0.1, 0.6, 0.3, 0.0, 0.0), Region("sharp", 0.75, (0,)), (0.25, 0.5, 0.25, 0.0, 0.0)),
    ],
    ids=["no healthy stage", "two of them", "as the proportions", "the first is healthy"],
)
def test_the_share_says_how_many_cells_are_injured(
    tmp_path: Path, stages: tuple[str, ...], shares: tuple[float, ...], region: Region, expected: Any
) -> None:
    counts = np.zeros(5)
    for slide in ("s1", "s2"):
        centres, stage = regional(tmp_path, slide, region, shares=shares, stages=stages)
        assert region.border == "diffuse" or pieces(centres, ~np.isin(stage, region.healthy)) == 1
        counts += np.bincount(stage, minlength=5)
    assert follow(counts, expected) and counts.sum() > 400


def test_share_0_is_healthy_and_share_1_is_not(tmp_path: Path) -> None:
    # a group of healthy slides holds no injured stage, and needs none
    for share, shares, kinds in ((0.0, HURT, {4}), (1.0, HURT, {0, 1, 2}), (0.0, (0, 0, 0, 0, 1), {4})):
        region = Region("diffuse", share, (4,))
        _, stage = regional(tmp_path, "s", region, shares=shares, phantom=SMALL)
        assert set(stage) == kinds


def test_a_region_is_drawn_again_byte_for_byte(tmp_path: Path) -> None:
    region = Region("diffuse", 0.5, (4,))
    for name in ("first", "second"):
        draw(tmp_path, name, MIXED, region=region)
    draw(tmp_path, "sharp", MIXED, region=Region("sharp", 0.5, (4,)))
    for suffix in ("tif", "geojson"):
        first, second, sharp = (
            (tmp_path / f"{name}.{suffix}").read_bytes() for name in ("first", "second", "sharp")
        )
        assert first == second != sharp


def test_without_a_region_the_layout_is_what_it_was_before_there_were_any(folder: Path) -> None:
    _, names = truth(folder / "mixed.geojson")
    assert len(names) == 72
    assert [STAGES.index(name) for name in names[:15]] == [1, 4, 0, 2, 1, 0, 1, 2, 1, 2, 1, 3, 4, 3, 4]


def test_regions_that_cannot_be_are_named(tmp_path: Path) -> None:
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="from 0 to 1"):
            draw(tmp_path, "share", HURT, region=Region("sharp", share, (4,)))
    with pytest.raises(UserError, match="no injured stage"):
        draw(tmp_path, "healthy", (0, 0, 0, 0, 1), region=Region("sharp", 0.5, (4,)))
    with pytest.raises(UserError, match="muscle only"):
        draw(tmp_path, "round", EVEN, ROUND, region=Region("sharp", 0.5, (5,)))
    assert not list(tmp_path.iterdir())


# --- round cells ------------------------------------------------------------------------------------------


def test_round_cells_lie_on_a_light_ground(folder: Path) -> None:
    image = tifffile.imread(folder / "round.tif").astype(float)
    cells = np.zeros(image.shape[:2], bool)
    for outline in truth(folder / "round.geojson")[0]:
        cells[covered(outline, image.shape)] = True
        assert 4 * np.pi * outline.area / outline.length**2 > 0.8
    assert 0.25 < cells.mean() < 0.45
    brightness = image.mean(2)
    assert np.median(brightness[~cells]) > 220 and np.median(brightness[cells]) < 170


def test_maturing_cells_shrink_and_turn_from_blue_to_pink(tmp_path: Path) -> None:
    size, nucleus, pink = [], [], []
    for index, stage in enumerate(MATURING):
        draw(tmp_path, stage, tuple(np.eye(6)[index]), ROUND)
        outlines, names = truth(tmp_path / f"{stage}.geojson")
        assert set(names) == {stage}
        image = tifffile.imread(tmp_path / f"{stage}.tif").astype(float)
        inside, tints = [], []
        for outline in outlines:
            pixels = image[covered(outline, image.shape)]
            dark = pixels[:, 0] < 125  # red is what haematoxylin takes and eosin leaves
            inside.append(dark.sum())
            red, _, blue = pixels[~dark].mean(0)
            tints.append(red - blue)
        size.append(np.mean([outline.area for outline in outlines]))
        nucleus.append(np.mean(inside))
        pink.append(np.mean(tints))
    assert (np.diff(size) < 0).all() and size[0] > 2 * size[-1]
    assert (np.diff(nucleus[1:]) < 0).all() and nucleus[-1] < 0.25 * nucleus[1]
    assert (np.diff(pink) > 0).all() and pink[0] < 0 < pink[-1]


@pytest.mark.parametrize("tissue", [SMALL, ROUND], ids=["muscle", "round cells"])
def test_dials_at_their_defaults_draw_the_same_bytes(tissue: Phantom, tmp_path: Path) -> None:
    own = (0.55, 0.045, 0.04) if tissue.tissue == "muscle" else (0.27, 0.05, 0.03)
    shares = MIXED if tissue.tissue == "muscle" else EVEN
    draw(tmp_path, "plain", shares, tissue)
    dialled = tissue.model_copy(update=dict(zip(("overlap", "stain", "animal"), own, strict=True)))
    draw(tmp_path, "dialled", shares, dialled)
    for ending in ("tif", "geojson"):
        assert (tmp_path / f"plain.{ending}").read_bytes() == (tmp_path / f"dialled.{ending}").read_bytes()


@pytest.mark.parametrize("tissue", [SMALL, ROUND], ids=["muscle", "round cells"])
def test_the_more_stages_overlap_the_less_size_tells_the_stage(tissue: Phantom, tmp_path: Path) -> None:
    # of these stages the one is larger than the other by far
    names = STAGES[1:4:2] if tissue.tissue == "muscle" else MATURING[::5]
    explained = []
    for overlap in (0.0, 0.5, 2.0):
        draw(tmp_path, "s", (0.5, 0.5), tissue.model_copy(update={"overlap": overlap}), stages=names)
        outlines, of = truth(tmp_path / "s.geojson")
        size = np.log([outline.area for outline in outlines])
        explained.append(np.corrcoef(size, np.array(of) == names[0])[0, 1] ** 2)
    assert explained[0] > 0.5 and explained[0] > explained[1] > explained[2] + 0.05


@pytest.mark.parametrize("tissue", [SMALL, ROUND], ids=["muscle", "round cells"])
def test_dials_of_animals_set_how_far_they_differ_in_stain_and_size(tissue: Phantom, tmp_path: Path) -> None:
    shares = MIXED if tissue.tissue == "muscle" else EVEN

    def spread(**dials: float) -> tuple[float, float]:
        stains, sizes = [], []
        for animal in ("a1", "a2", "a3", "a4"):
            draw(tmp_path, "s", shares, tissue.model_copy(update=dials), animal=animal)
            stains.append(np.log(255 - tifffile.imread(tmp_path / "s.tif").mean()))
            areas = [outline.area for outline in truth(tmp_path / "s.geojson")[0]]
            sizes.append(np.log(np.median(areas)) / 2)
        return float(np.std(stains)), float(np.std(sizes))

    alike = spread(stain=0, animal=0)
    stained, sized = spread(stain=0.4, animal=0), spread(stain=0, animal=0.2)
    assert stained[0] > 3 * alike[0] and sized[1] > 3 * alike[1]


def test_days_may_hold_every_stage(tmp_path: Path) -> None:
    for day, shares in {"early": (0.4, 0.3, 0.15, 0.1, 0.05), "late": (0.05, 0.1, 0.15, 0.3, 0.4)}.items():
        draw(tmp_path, day, shares)
        names = truth(tmp_path / f"{day}.geojson")[1]
        assert set(names) == set(STAGES)
        assert (names.count("damaged") > names.count("intact")) is (day == "early")


def test_round_cells_follow_the_proportions_and_any_names_do(tmp_path: Path) -> None:
    coarse = Phantom(tissue="round_cells", width_um=250.0, height_um=250.0, mpp=2.0)
    shares = np.array((0.05, 0.2, 0.35, 0.4))
    counts = np.zeros(4)
    for slide in ("s1", "s2", "s3"):
        # names of muscle mean nothing here
        names = ("intact", "b", "c", "damaged")
        drawn = draw(tmp_path, slide, tuple(shares), coarse, slide=slide, stages=names)
        outlines, found = truth(tmp_path / f"{slide}.geojson")
        assert drawn == len(outlines) >= 150
        counts += [found.count(name) for name in names]
    assert follow(counts, shares)


def test_neighbouring_stages_overlap_in_size(tmp_path: Path) -> None:
    coarse = Phantom(tissue="round_cells", width_um=300.0, height_um=300.0, mpp=2.0)
    areas = []
    for index in (2, 3, 4):
        draw(tmp_path, "s", tuple(np.eye(6)[index]), coarse)
        areas.append([outline.area for outline in truth(tmp_path / "s.geojson")[0]])
    near = np.mean(np.array(areas[0])[:, None] > np.array(areas[1])[None])
    far = np.mean(np.array(areas[0])[:, None] > np.array(areas[2])[None])
    assert 0.7 < near < 0.97 < far


def test_the_transfer_study_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    study = load_study("config/transfer.yaml")  # with its tables and training images
    assert study.phantom is not None and study.phantom.tissue == "round_cells"
    assert len(read_slides(study)) == 15 and len(study.stages) == 6
    means = [share @ np.arange(6) for share in read_proportions(study).values()]
    assert (np.diff(means) > 0).all()
