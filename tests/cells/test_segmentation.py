"""From a slide to its table of cells; models that must not be mistaken; training on a study's images."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shapely.geometry import Polygon

from myostage import tables
from myostage.cells.cellpose import (
    BLOCK_PX,
    SMALL_WIDTHS,
    CellposeRunner,
    Network,
    as_cellpose,
    find_block,
    find_model,
)
from myostage.cells.segmentation import segment_slide, slide_limits, train_cellpose
from myostage.cells.tables import CELLS
from myostage.errors import UserError
from myostage.phantom.draw import draw_slide
from myostage.slides.slide import open_slide
from myostage.slides.tables import TILES
from myostage.slides.tissue import tile_grid
from myostage.study.sections.phantom import Phantom
from myostage.study.sections.segmentation import CellposeTraining, Segmentation
from myostage.study.sections.tiling import Tiling

ROOT = Path(__file__).parents[2]
DEMO_MODEL = ROOT / "config" / "demo" / "cellpose.pt"
REAL = Path(os.environ.get("MYOSTAGE_REAL_DATA", ROOT.parent / "shared" / "data"))
MPP = 0.5
TILING = Tiling(mpp=MPP, tile_px=128, overlap_px=48)
SEGMENTATION = Segmentation(model=str(DEMO_MODEL), diameter_um=10, min_area_um2=5, batch_size=3)


class Oracle:
    """A model that reads the label from the colour of the pixel, and remembers how it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.limits: tuple[float, float] | None = None

    def masks(self, tiles: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
        self.batches.append(len(tiles))
        self.limits = limits
        labels = tiles[..., 0].astype(np.int32) + 256 * tiles[..., 1].astype(np.int32)
        return np.where(tiles[..., 2] == 7, labels, 0)


def lattice(width: int, height: int) -> np.ndarray:
    """Discs 21 px wide; the last ones of each row are cut by the slide's edge."""
    y, x = np.mgrid[:height, :width]
    inside = (x % 25 - 12) ** 2 + (y % 25 - 12) ** 2 <= 10**2
    return np.where(inside, 1 + x // 25 + (-(-width // 25)) * (y // 25), 0).astype(np.int32)


def slide_of(
    folder: Path, truth: np.ndarray, tiles: pd.DataFrame | None = None
) -> tuple[SimpleNamespace, Path]:
    """A slide in which every cell has a colour of its own, and its tiles."""
    colours = np.stack([truth % 256, truth // 256, np.full_like(truth, 7)], axis=-1)
    image = np.where((truth > 0)[..., None], colours, 255).astype(np.uint8)
    path = folder / "slide.png"
    Image.fromarray(image).save(path)
    frame = tile_grid(truth.shape[1], truth.shape[0], TILING).assign(tissue=1.0) if tiles is None else tiles
    tables.write(folder / "tiles.parquet", frame, TILES)
    row = SimpleNamespace(slide="s1", path=str(path), mpp=MPP, status="ok", reason="")
    return row, folder / "tiles.parquet"


def segmented(folder: Path, truth: np.ndarray, segmentation: Segmentation = SEGMENTATION) -> pd.DataFrame:
    row, tiles = slide_of(folder, truth)
    out = folder / "cells.parquet"
    count = segment_slide(row, tiles, TILING, segmentation, None, out, folder / "qc.png", model=Oracle())
    cells = tables.read(out, CELLS)
    assert count == len(cells)
    return cells


def test_every_cell_of_a_slide_once_with_its_measurements(tmp_path: Path) -> None:
    truth = lattice(310, 260)
    cells = segmented(tmp_path, truth)
    assert cells.cell.tolist() == list(range(truth.max()))
    at = truth[cells.y_px.astype(int), cells.x_px.astype(int)]
    assert sorted(at) == list(range(1, truth.max() + 1))
    true = pd.Series(np.bincount(truth.ravel())[at], dtype=float) * MPP**2
    assert np.allclose(cells.area_um2, true)
    assert np.allclose(cells.x_um, cells.x_px * MPP)
    whole = cells[~cells.border]
    assert whole.min_feret_um.between(10, 10.6).all()
    assert whole.circularity.between(0.9, 1).all()
    edge = np.unique(np.concatenate([truth[-1], truth[0], truth[:, 0], truth[:, -1]]))
    assert set(at[cells.border]) == set(edge[edge > 0])
    first = Polygon(cells.polygon[0].reshape(-1, 2))
    assert first.is_valid
    assert first.centroid.coords[0] == pytest.approx((cells.x_px[0], cells.y_px[0]), abs=0.05)
    with Image.open(tmp_path / "qc.png") as picture:
        assert picture.size == (310, 260)


def test_tiles_are_evaluated_in_batches_and_slide_percentiles_reach_the_model(tmp_path: Path) -> None:
    truth = lattice(310, 260)
    row, tiles = slide_of(tmp_path, truth)
    model = Oracle()
    by_slide = SEGMENTATION.model_copy(update={"normalise": "slide"})
    segment_slide(row, tiles, TILING, by_slide, None, tmp_path / "c.parquet", tmp_path / "q.png", model=model)
    assert max(model.batches) == 3 and sum(model.batches) == len(tables.read(tiles, TILES))
    grey = np.asarray(Image.open(row.path)).mean(axis=-1)
    assert model.limits == pytest.approx(np.percentile(grey, [1, 99]), abs=3)


def test_a_slide_of_one_colour_has_limits_to_divide_by(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), (90, 90, 90)).save(tmp_path / "grey.png")
    from myostage.cells.merging import Tile

    with open_slide(tmp_path / "grey.png", MPP) as slide:
        low, high = slide_limits(slide, [Tile(0, 0, 0, (0, 0, 200, 200))], TILING)
    assert (low, high) == (90, 91)


@pytest.mark.parametrize("status", ["ok", "skipped"])
def test_no_tiles_give_an_empty_table_and_ask_for_no_model(tmp_path: Path, status: str) -> None:
    row, tiles = slide_of(
        tmp_path, lattice(200, 200), tile_grid(200, 200, TILING).assign(tissue=0.0).iloc[:0]
    )
    row.status = status
    row.path = row.path if status == "ok" else "nowhere.svs"
    absent = Segmentation(model="nowhere.pt")
    assert segment_slide(row, tiles, TILING, absent, None, tmp_path / "c.parquet", tmp_path / "q.png") == 0
    assert tables.read(tmp_path / "c.parquet", CELLS).empty
    assert (tmp_path / "q.png").exists()


def test_no_cells_give_an_empty_table(tmp_path: Path) -> None:
    assert segmented(tmp_path, np.zeros((200, 200), dtype=np.int32)).empty


def test_cells_below_the_least_area_are_dropped(tmp_path: Path) -> None:
    cells = segmented(tmp_path, lattice(310, 260), SEGMENTATION.model_copy(update={"min_area_um2": 70.0}))
    assert 0 < len(cells) < lattice(310, 260).max()
    assert cells.area_um2.min() >= 70


def spots(seed: int = 0, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A pale image with dark discs of 30 px, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), dtype=np.int32)
    y, x = np.mgrid[:size, :size]
    for number, (row, column) in enumerate(np.ndindex(size // 36, size // 36), start=1):
        cx, cy = 20 + 36 * column + rng.uniform(-2, 2), 20 + 36 * row + rng.uniform(-2, 2)
        labels[(x - cx) ** 2 + (y - cy) ** 2 <= 15**2] = number
    image = np.where(labels[..., None] > 0, (170, 80, 140), (240, 230, 238)) + rng.normal(
        0, 4, (size, size, 3)
    )
    return image.clip(0, 255).astype(np.uint8), labels


def test_batches_give_the_masks_of_cellpose_itself_one_by_one(tmp_path: Path) -> None:
    segmentation = Segmentation(model=str(DEMO_MODEL), diameter_um=30, batch_size=2)
    runner = CellposeRunner(segmentation, None, mpp=1.0, device="cpu")
    phantom = Phantom(seed=1, width_um=300, height_um=300)
    drawing = {"phantom": phantom, "stages": ("young", "old"), "proportions": np.array([0.5, 0.5])}
    draw_slide(tmp_path / "s.tif", tmp_path / "s.geojson", animal="a", slide="s", **drawing)
    with open_slide(tmp_path / "s.tif") as slide:
        tiles = np.stack([slide.read(x, x, 192, 192, 1.0) for x in (0, 100)])
    together = runner.masks(tiles)
    assert (runner.evaluate(tiles, None) == together).all()
    bare = as_cellpose(runner.model.net, 30.0)
    for tile, masks in zip(tiles, together, strict=True):
        expected = bare.eval(tile, channels=[0, 0], diameter=30.0, normalize={"norm3D": False})[0]
        assert expected.max() > 5
        assert (masks == expected).all()


@pytest.mark.parametrize(("side_px", "scale"), [(256, 1.0), (250, 1.0), (256, 0.71), (300, 1.5)])
def test_a_tile_passes_the_network_in_one_piece(side_px: int, scale: float, tmp_path: Path) -> None:
    Network(SMALL_WIDTHS).save_model(str(tmp_path / "model.pt"))
    segmentation = Segmentation(model=str(tmp_path / "model.pt"), diameter_um=30 / scale)
    runner = CellposeRunner(segmentation, None, mpp=1.0, device="cpu")
    seen: list[tuple[int, ...]] = []
    runner.model.net.register_forward_pre_hook(lambda net, inputs: seen.append(tuple(inputs[0].shape)))
    runner.masks(np.zeros((1, side_px, side_px, 3), np.uint8))
    block = find_block(side_px, scale)
    assert seen == [(1, 2, block, block)]


def test_a_side_too_large_for_one_piece_is_left_to_the_blocks_of_cellpose() -> None:
    assert find_block(512, 1.0) == 528 and find_block(600, 1.0) == BLOCK_PX


@pytest.mark.parametrize("widths", [SMALL_WIDTHS, (2, 4, 256)])
def test_networks_of_any_width_are_recognised_from_their_file(
    tmp_path: Path, widths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    net = Network(widths).eval()
    torch.save(net.state_dict(), tmp_path / "model.pt")
    runner = CellposeRunner(Segmentation(model=str(tmp_path / "model.pt")), None, mpp=1.0, device="cpu")
    data = torch.rand(1, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(runner.model.net(data)[0], net(data)[0])
        assert net(data)[1].shape == (1, 256)
    assert runner.masks(np.zeros((2, 64, 64, 3), dtype=np.uint8)).shape == (2, 64, 64)


def test_a_model_that_is_not_the_one_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(reason: str, **section: object) -> None:
        with pytest.raises(UserError, match=reason) as caught:
            CellposeRunner(Segmentation.model_validate(section), None, mpp=1.0, device="cpu")
        assert "\n" not in str(caught.value)

    junk, partial = tmp_path / "junk.pt", tmp_path / "partial.pt"
    junk.write_bytes(b"no model")
    state = Network((2, 4, 256)).state_dict()
    state.pop("output.2.weight")
    torch.save(state, partial)
    refuse("there is no file cyto33, and Cellpose has no model of that name", model="cyto33")
    refuse("not a Cellpose 1-3 network", model=str(junk))
    refuse("not a Cellpose 1-3 network", model=str(partial))
    refuse("transformer", model="transformer_cp3")
    refuse("has sha256 [0-9a-f]{64}, but segmentation.sha256 asks for 00", model=str(junk), sha256="00" * 32)
    monkeypatch.setattr("cellpose.models.MODEL_DIR", tmp_path / "models")
    monkeypatch.setattr("cellpose.models._MODEL_URL", f"file://{tmp_path}/nowhere")
    refuse("CELLPOSE_LOCAL_MODELS_PATH", model="cyto3")
    with pytest.raises(UserError, match=r"missing\.pt: the Cellpose model is missing"):
        CellposeRunner(Segmentation(), tmp_path / "missing.pt", mpp=1.0)


def test_a_named_model_is_found_in_the_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cyto3").write_bytes(b"weights")
    monkeypatch.setattr("cellpose.models.MODEL_DIR", tmp_path)
    assert find_model("cyto3") == tmp_path / "cyto3"


def training_table(folder: Path, mpp: str = "1.0", masks: np.ndarray | None = None) -> CellposeTraining:
    image, labels = spots()
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray((labels if masks is None else masks).astype(np.uint16)).save(folder / "masks.png")
    table = folder / "images.tsv"
    table.write_text(f"image\tmasks\tmpp\n{folder / 'image.png'}\t{folder / 'masks.png'}\t{mpp}\n")
    return CellposeTraining(images=str(table), epochs=2, small_net=True)


def test_training_is_reproducible_and_its_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("myostage.cells.segmentation.TRAINING_CROPS", 2)
    training = training_table(tmp_path)
    for name in ("a.pt", "b.pt"):
        train_cellpose(training, diameter_um=30, mpp=1.0, out_model=tmp_path / name, device="cpu")
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert float(a["diam_labels"]) == pytest.approx(30, abs=1.5)
    CellposeRunner(Segmentation(model=None, train=training), tmp_path / "a.pt", mpp=1.0, device="cpu")


def test_unusable_training_images_are_named(tmp_path: Path) -> None:
    def refuse(reason: str, training: CellposeTraining) -> None:
        with pytest.raises(UserError, match=reason):
            train_cellpose(training, diameter_um=30, mpp=1.0, out_model=tmp_path / "m.pt", device="cpu")

    refuse(r"row 2, column mpp: is 90", training_table(tmp_path, mpp="90"))
    refuse("holds 0 cells", training_table(tmp_path, masks=np.zeros((256, 256))))
    refuse("masks of the same size", training_table(tmp_path, masks=np.zeros((16, 16))))
    training = training_table(tmp_path)
    (tmp_path / "masks.png").write_bytes(b"junk")
    refuse(r"masks\.png: no PNG or JPEG or TIFF that can be opened", training)
    (tmp_path / "image.png").unlink()
    refuse(r"image\.png: no such file or directory; correct the table .*images\.tsv", training)
    Path(training.images).write_text("image\tmasks\na\tb\n")
    refuse("column mpp is missing", training)
    refuse("no such table", CellposeTraining(images=str(tmp_path / "none.tsv")))
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.real
def test_a_real_section_is_segmented_without_a_pixel_claimed_twice(tmp_path: Path) -> None:
    path = REAL / "muscle-section" / "section.jpg"
    if not path.exists():
        pytest.skip(f"no real data at {REAL}; set MYOSTAGE_REAL_DATA")
    with Image.open(path) as image:
        image.crop((300, 1500, 812, 2012)).save(tmp_path / "part.png")
    tiling = Tiling(mpp=1.0, tile_px=256, overlap_px=96)
    tables.write(tmp_path / "tiles.parquet", tile_grid(512, 512, tiling).assign(tissue=1.0), TILES)
    row = SimpleNamespace(slide="part", path=str(tmp_path / "part.png"), mpp=1.0, status="ok", reason="")
    segmentation = Segmentation(model=str(DEMO_MODEL), diameter_um=30)
    out = tmp_path / "cells.parquet"
    count = segment_slide(
        row, tmp_path / "tiles.parquet", tiling, segmentation, None, out, tmp_path / "q.png"
    )
    assert count > 30
    polygons = [Polygon(points.reshape(-1, 2)) for points in tables.read(out, CELLS).polygon]
    separate = sum(polygon.area for polygon in polygons)
    union = polygons[0]
    for polygon in polygons[1:]:
        union = union.union(polygon)
    assert union.area == pytest.approx(separate, rel=1e-6)
    metadata = pq.read_schema(out).metadata
    assert json.loads(f'"{metadata[b"cellpose_sha256"].decode()}"') and metadata[b"cellpose"].startswith(
        b"3."
    )
