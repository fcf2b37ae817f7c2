"""Cells of overlapping tiles: each once, none sharing a pixel, whatever tiles disagree about."""

import gc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myostage.cells.merging import Cell, Tile, merge
from myostage.slides.tissue import tile_grid
from myostage.study.sections.tiling import Tiling

TILE, OVERLAP = 64, 24
TILING = Tiling(tile_px=TILE, overlap_px=OVERLAP)
Labels = np.ndarray
View = Callable[[Labels, Tile], Labels]


def grid(width: int, height: int) -> list[Tile]:
    rows = tile_grid(width, height, TILING).itertuples()
    return [
        Tile(row.tile, row.x_px, row.y_px, (row.core_x0_px, row.core_y0_px, row.core_x1_px, row.core_y1_px))
        for row in rows
    ]


def seen(truth: Labels, tile: Tile) -> Labels:
    """What a perfect model sees of a tile; beyond the slide there is nothing."""
    out = np.zeros((TILE, TILE), dtype=truth.dtype)
    part = truth[tile.y : tile.y + TILE, tile.x : tile.x + TILE]
    out[: part.shape[0], : part.shape[1]] = part
    return out


def merged(truth: Labels, view: View = seen, tiles: list[Tile] | None = None, slack: float = 6) -> list[Cell]:
    height, width = truth.shape
    tiles = grid(width, height) if tiles is None else tiles
    labelled = ((tile, view(truth, tile)) for tile in tiles)
    size = {"width_px": width, "height_px": height, "tile_px": TILE}
    return list(merge(labelled, tiles, slack_px=slack, min_area_px=4, **size))


def painted(cells: list[Cell], shape: tuple[int, ...]) -> Labels:
    """Label image of cells; fails where two share a pixel."""
    out = np.zeros(shape, dtype=np.int32)
    for number, cell in enumerate(cells, start=1):
        window = out[cell.y0 : cell.y1, cell.x0 : cell.x1]
        assert not (window[cell.mask] > 0).any(), "two cells share a pixel"
        window[cell.mask] = number
    return out


def discs(width: int, height: int, seed: int) -> Labels:
    """Touching discs 6 to 20 px wide, scattered over a slide and cut by its edges."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width), dtype=np.int32)
    count = 0
    for _ in range(width * height // 60):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(3, 10)
        window = np.s_[max(0, int(cy - r)) : int(cy + r) + 2, max(0, int(cx - r)) : int(cx + r) + 2]
        y, x = np.mgrid[window]
        y, x = (
            y[: out[window].shape[0], : out[window].shape[1]],
            x[: out[window].shape[0], : out[window].shape[1]],
        )
        disc = (x - cx) ** 2 + (y - cy) ** 2 <= r**2
        if np.count_nonzero(disc) >= 4 and not out[window][disc].any():
            count += 1
            out[window][disc] = count
    return out


def lattice(width: int, height: int) -> Labels:
    """Discs 17 px wide that touch neither one another nor the slide's edge."""
    y, x = np.mgrid[:height, :width]
    inside = (
        ((x % 23 - 11) ** 2 + (y % 21 - 10) ** 2 <= 8**2) & (x // 23 < width // 23) & (y // 21 < height // 21)
    )
    return np.where(inside, 1 + x // 23 + (width // 23) * (y // 21), 0).astype(np.int32)


@settings(max_examples=12, deadline=None)
@given(st.integers(20, 220), st.integers(20, 220), st.integers(0, 1000))
def test_perfect_views_give_back_every_cell_once_and_exactly(width: int, height: int, seed: int) -> None:
    truth = discs(width, height, seed)
    cells = merged(truth)
    again = painted(cells, truth.shape)
    assert len(cells) == truth.max()
    assert ((again > 0) == (truth > 0)).all()
    pairs = np.unique(np.stack([truth[truth > 0], again[truth > 0]]), axis=1)
    assert pairs.shape[1] == truth.max(), "a cell was cut in two or two were joined"


@pytest.mark.parametrize("shift", [-2, 2])
def test_tiles_that_disagree_about_a_centroid_neither_lose_nor_double_the_cell(shift: int) -> None:
    """Neighbouring tiles see each cell moved to opposite sides: the classic failure at borders."""
    truth = lattice(207, 210)

    def disagreeing(labels: Labels, tile: Tile) -> Labels:
        direction = shift if tile.number % 2 else -shift
        return seen(np.roll(labels, (direction, direction), axis=(0, 1)), tile)

    owned_alone = sum(
        tile.owns(x + move, y + move)
        for tile in grid(207, 210)
        for move in [shift if tile.number % 2 else -shift]
        for x in np.arange(11.5, 207, 23)
        for y in np.arange(10.5, 210, 21)
    )
    assert owned_alone != truth.max(), "the views do not put the rule of the core to the test"
    cells = merged(truth, disagreeing)
    painted(cells, truth.shape)
    centres = truth[[int(cell.y) for cell in cells], [int(cell.x) for cell in cells]]
    assert sorted(centres.tolist()) == list(range(1, truth.max() + 1))


def test_one_tile_joins_what_the_other_splits_and_no_tissue_is_counted_twice() -> None:
    truth = np.zeros((64, 104), dtype=np.int32)  # two tiles, at x 0 and 40, cores meet at 52
    truth[20:40, 44:52], truth[20:40, 52:60] = 1, 2

    def joins(labels: Labels, tile: Tile) -> Labels:
        return seen((labels > 0).astype(np.int32) if tile.number == 0 else labels, tile)

    cells = merged(truth, joins)
    assert painted(cells, truth.shape).astype(bool).sum() <= np.count_nonzero(truth)
    assert sorted(cell.area for cell in cells) == [160, 160]


def test_a_cell_wider_than_the_overlap_is_one_cell_that_is_marked() -> None:
    truth = np.zeros((64, 104), dtype=np.int32)
    truth[20:40, 10:95] = 1
    cells = merged(truth)
    assert len(cells) == 1
    assert cells[0].border


def test_cells_are_not_lost_where_the_neighbouring_tile_holds_no_tissue() -> None:
    truth = np.zeros((64, 144), dtype=np.int32)
    truth[20:40, 54:63] = 1  # beyond the first core, in the first tile
    tiles = grid(144, 64)
    assert not tiles[0].owns(58.5, 30)
    assert len(merged(truth, tiles=tiles[:1])) == 1
    assert len(merged(truth, tiles=tiles)) == 1


def test_border_is_the_slides_edge_or_the_tiles() -> None:
    truth = np.zeros((64, 64), dtype=np.int32)
    truth[0:8, 20:30], truth[30:40, 30:40] = 1, 2
    assert [cell.border for cell in merged(truth)] == [True, False]


def test_masks_beyond_the_slide_are_cut_off() -> None:
    tiles = [Tile(0, 0, 0, (0, 0, 40, 30))]
    labels = np.zeros((TILE, TILE), dtype=np.int32)
    labels[10:50, 10:60] = 1
    (cell,) = merge(
        [(tiles[0], labels)], tiles, tile_px=TILE, width_px=40, height_px=30, slack_px=5, min_area_px=1
    )
    assert (cell.x1, cell.y1, cell.border) == (40, 30, True)


def test_centroids_count_from_the_corner_of_the_slide() -> None:
    truth = np.zeros((64, 104), dtype=np.int32)
    truth[20:30, 80:90] = 1
    (cell,) = merged(truth)
    assert (cell.x, cell.y) == (85, 25)


def test_small_cells_are_dropped_and_no_tile_is_no_cell() -> None:
    truth = np.zeros((64, 64), dtype=np.int32)
    truth[5, 5:8] = 1
    assert merged(truth) == []
    assert merged(truth, tiles=[]) == []


def test_memory_does_not_grow_with_the_height_of_the_slide() -> None:
    """Of a slide 60 tiles high only a few tiles' cells may be remembered at any time."""
    truth = discs(TILE, 40 * 60, seed=1)
    tiles = grid(TILE, 40 * 60)
    remembered: list[int] = []

    def counting() -> Iterator[tuple[Tile, Labels]]:
        for tile in tiles:
            if tile.number % 15 == 8:
                remembered.append(sum(type(item) is Cell for item in gc.get_objects()))
            yield tile, seen(truth, tile)

    for _ in merge(counting(), tiles, tile_px=TILE, width_px=TILE, height_px=2400, slack_px=6, min_area_px=4):
        pass
    assert 0 < max(remembered) < truth.max() / 5
