from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from myostage import tables
from myostage.slides.slide import open_slide
from myostage.slides.tables import TILES
from myostage.slides.tissue import tile_grid, tile_slide, tissue_mask
from myostage.study.sections.tiling import Tiling
from support.slide_files import real, write_pyramid

PINK = (214, 120, 170)


def glass(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Empty glass: nearly white, slightly yellow, noisy."""
    noise = np.random.default_rng(seed).normal(0, 2, (height, width, 3))
    return (np.array([240.0, 240.0, 232.0]) + noise).clip(0, 255).astype(np.uint8)


def slide_row(path: Path, mpp: float | None = None, status: str = "ok") -> SimpleNamespace:
    return SimpleNamespace(slide="s", path=str(path), mpp=mpp, status=status, reason="the file is empty")


@given(width=st.integers(1, 1500), height=st.integers(1, 1500), tile=st.integers(64, 300), data=st.data())
def test_cores_partition_the_slide_and_lie_within_their_tiles(
    width: int, height: int, tile: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, (tile - 1) // 2))
    grid = tile_grid(width, height, Tiling(tile_px=tile, overlap_px=overlap))
    owners = np.zeros((height, width), np.int16)
    for row in grid.itertuples():
        assert row.core_x0_px < row.core_x1_px and row.core_y0_px < row.core_y1_px
        owners[row.core_y0_px : row.core_y1_px, row.core_x0_px : row.core_x1_px] += 1
        # Half an overlap around a centroid is within the tile that owns it, or cut by the slide.
        for side, (start, low, high) in zip(
            (width, height),
            ((row.x_px, row.core_x0_px, row.core_x1_px), (row.y_px, row.core_y0_px, row.core_y1_px)),
            strict=True,
        ):
            assert start >= 0 and (start + tile <= side or start == 0)
            assert low == 0 or low - start >= overlap // 2
            assert high == side or start + tile - high >= overlap // 2
    assert (owners == 1).all()
    assert grid.tile.tolist() == list(range(len(grid)))


def test_mask_finds_the_tissue_drops_specks_and_fills_holes(tmp_path: Path) -> None:
    pixels = glass(800, 1000)
    y, x = np.mgrid[:800, :1000]
    tissue = (x - 400) ** 2 + (y - 400) ** 2 < 250**2
    pixels[tissue] = PINK
    pixels[395:405, 395:405] = glass(10, 10)  # a hole of 100 um2 x 4
    pixels[700:716, 900:916] = PINK  # a speck of 1024 um2
    with open_slide(write_pyramid(tmp_path / "s.tif", pixels, 2.0)) as slide:
        mask = tissue_mask(slide, Tiling(mpp=2.0))
        kept = tissue_mask(slide, Tiling(mpp=2.0, min_tissue_um2=500))
    expected = tissue.reshape(400, 2, 500, 2).mean(axis=(1, 3)) > 0.5
    assert mask.shape == (400, 500)
    assert (mask & expected).sum() / (mask | expected).sum() > 0.97
    assert mask[200, 200] and not mask[354, 454] and kept[354, 454]


@pytest.mark.parametrize("shade", [(255, 255, 255), (238, 232, 224), (0, 0, 0), (3, 0, 5), (128, 128, 128)])
def test_uniform_pictures_have_no_tissue_unless_stained(tmp_path: Path, shade: tuple[int, int, int]) -> None:
    blank = np.full((300, 300, 3), shade, np.uint8)
    with open_slide(write_pyramid(tmp_path / "s.tif", blank, 1.0)) as slide:
        assert not tissue_mask(slide, Tiling(mpp=1.0)).any()
    with open_slide(write_pyramid(tmp_path / "t.tif", np.full_like(blank, PINK), 1.0)) as slide:
        assert tissue_mask(slide, Tiling(mpp=1.0)).all()


def test_tissue_of_two_shades_is_not_split(tmp_path: Path) -> None:
    pixels = np.full((400, 400, 3), PINK, np.uint8)
    pixels[:, :200] = (235, 190, 215)  # pale, but stained
    with open_slide(write_pyramid(tmp_path / "s.tif", pixels, 1.0)) as slide:
        assert tissue_mask(slide, Tiling(mpp=1.0)).all()


def test_tile_slide_keeps_tiles_with_tissue(tmp_path: Path) -> None:
    pixels = glass(600, 900)
    pixels[:, :300] = PINK
    path = write_pyramid(tmp_path / "s.tif", pixels, 1.0)
    tiling = Tiling(mpp=1.0, tile_px=200, overlap_px=50)
    count = tile_slide(slide_row(path), tiling, tmp_path / "tiles.parquet", tmp_path / "qc.png")
    tiles = tables.read(tmp_path / "tiles.parquet", TILES)
    assert count == len(tiles) == 12  # three of six columns, four rows
    assert tiles.tile.tolist() == list(range(12)) and tiles.x_px.max() < 300
    assert np.isclose(tiles.tissue, np.clip((300 - tiles.x_px) / 200, 0, 1), atol=0.03).all()
    picture = np.asarray(Image.open(tmp_path / "qc.png"))
    assert picture.shape[1] == 900 and picture.shape[0] > 600
    assert (picture[..., 2] > picture[..., 0] + 100).any()  # the tiles


def test_a_slide_smaller_than_a_tile_is_one_tile(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", np.full((90, 120, 3), PINK, np.uint8), 1.0)
    assert tile_slide(slide_row(path), Tiling(mpp=1.0), tmp_path / "tiles.parquet", tmp_path / "qc.png") == 1
    tile = tables.read(tmp_path / "tiles.parquet", TILES).iloc[0]
    assert tile[["x_px", "y_px", "core_x1_px", "core_y1_px"]].tolist() == [0, 0, 120, 90]
    assert tile.tissue == pytest.approx(90 * 120 / 256**2, rel=0.05)


@pytest.mark.parametrize(
    ("setting", "status", "reason"),
    [
        ({}, "ok", "no tissue of min_tissue_um2 2500 um2 or more"),
        ({"min_tissue_um2": 0, "min_tissue": 0.9}, "ok", "no tile is tissue by min_tissue 0.9"),
        ({}, "skipped", "the file is empty"),
    ],
)
def test_no_tiles_is_a_table_with_a_reason(tmp_path: Path, setting: dict, status: str, reason: str) -> None:
    pixels = glass(400, 400)
    pixels[100:140, 100:140] = PINK
    path = write_pyramid(tmp_path / "s.tif", pixels, 1.0)
    out, picture = tmp_path / "tiles.parquet", tmp_path / "qc.png"
    assert tile_slide(slide_row(path, status=status), Tiling(mpp=1.0, **setting), out, picture) == 0
    assert tables.read(out, TILES).empty
    assert reason in pq.read_schema(out).metadata[b"reason"].decode()
    assert Image.open(picture).size[0] > 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "mpp", "low", "high"),
    [
        ("slides/cmu-1-small-region.svs", 0.499, 0.3, 0.42),
        ("slides/tcga-cr-7395-01a-01-ts1.svs", 0.25, 0.6, 0.7),
        ("muscle-section/section.jpg", 1.0, 0.48, 0.55),
        ("muscle-fibres/fibres_01.tif", 0.2773, 0.99, 1.0),
    ],
)
def test_real_tissue(name: str, mpp: float, low: float, high: float) -> None:
    with open_slide(real(name), mpp) as slide:
        assert low <= tissue_mask(slide, Tiling(mpp=1.0)).mean() <= high
