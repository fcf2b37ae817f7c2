"""Every cell once: cells of overlapping tiles, merged at the tiles' borders while tiles stream by.

A cell belongs to the tile whose core holds its centroid. That alone would lose or double the cells whose
centroid lies within a px or two of a core's edge, because two tiles never outline a cell alike. Hence two
passes:

1. uncut cells with their centroid in their tile's core are taken, tile by tile; one that shares half of the
   smaller of the two with a cell taken from an adjacent tile is that cell and is dropped;
2. once all adjacent tiles are through pass 1, its left-over cells may fill gaps by the same test: whole
   cells that just miss the core, cells no core claims, and cells cut by the tile's edge.

A cell that is taken loses the pixels that neighbours took before, so no two cells share a pixel. Only tiles
that a later tile can still overlap are remembered: memory grows with the width of the slide, never with its
height.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SAME_CELL = 0.5
"""Share of the smaller of two masks that both hold, from which they are one cell."""


@dataclass(frozen=True)
class Tile:
    """One row of the tiles table; px at the study's mpp."""

    number: int
    x: int
    y: int
    core: tuple[int, int, int, int]

    def owns(self, x: float, y: float, slack: float = 0.0) -> bool:
        """Whether the half-open core, widened by ``slack`` px, holds a point."""
        x0, y0, x1, y1 = self.core
        return x0 - slack <= x < x1 + slack and y0 - slack <= y < y1 + slack


@dataclass
class Cell:
    """A mask in the slide: ``mask[h, w]`` with its top left pixel at (x0, y0).

    ``cut``: the edge of its tile runs through it; ``border``: that, or the edge of the slide.
    """

    tile: Tile
    x0: int
    y0: int
    mask: NDArray[np.bool_]
    cut: bool
    border: bool

    def __post_init__(self) -> None:
        rows, columns = self.mask.sum(axis=1), self.mask.sum(axis=0)
        self.area = int(rows.sum())
        self.x = self.x0 + 0.5 + float(columns @ np.arange(columns.size)) / self.area
        self.y = self.y0 + 0.5 + float(rows @ np.arange(rows.size)) / self.area

    @property
    def x1(self) -> int:
        return self.x0 + self.mask.shape[1]

    @property
    def y1(self) -> int:
        return self.y0 + self.mask.shape[0]


@dataclass
class _Visited:
    tile: Tile
    taken: list[Cell]
    left_over: list[Cell]


def merge(
    labelled: Iterable[tuple[Tile, NDArray[np.integer]]],
    tiles: Sequence[Tile],
    *,
    tile_px: int,
    width_px: int,
    height_px: int,
    slack_px: float,
    min_area_px: float,
) -> Iterator[Cell]:
    """Stream the cells of a slide, each once and none sharing a pixel with another.

    Parameters
    ----------
    labelled
        Tiles, row by row, each with its label image int[tile_px, tile_px], 0 where there is no cell.
    tiles
        All tiles of the slide in the same order.
    width_px, height_px
        Size of the slide; what lies beyond is cut off.
    slack_px
        How far outside its tile's core an uncut cell's centroid may lie to fill a gap.
    min_area_px
        Smaller cells are dropped, before and after clipping.
    """
    tops = np.array([tile.y for tile in tiles])

    def claimed(x: float, y: float) -> bool:
        first, last = np.searchsorted(tops, [y - tile_px, y], side="right")
        return any(tile.owns(x, y) for tile in tiles[first:last])

    visited: deque[_Visited] = deque()
    unsettled: deque[_Visited] = deque()

    def take(cell: Cell, by: _Visited) -> Iterator[Cell]:
        clipped = _clip(cell, _neighbours(by.tile, visited, tile_px), tile_px, min_area_px)
        if clipped is not None:
            by.taken.append(clipped)
            yield clipped

    def settle(before_y: float) -> Iterator[Cell]:
        while unsettled and unsettled[0].tile.y + tile_px <= before_y:
            tile = unsettled.popleft()
            for cell in sorted(tile.left_over, key=lambda cell: cell.cut):  # uncut cells first
                slack = 0.0 if cell.cut else slack_px
                if tile.tile.owns(cell.x, cell.y, slack) or not claimed(cell.x, cell.y):
                    yield from take(cell, tile)
            tile.left_over = []
        oldest = unsettled[0].tile.y if unsettled else before_y
        while visited and visited[0].tile.y + tile_px <= oldest:
            visited.popleft()

    for tile, labels in labelled:
        yield from settle(tile.y)
        current = _Visited(tile, [], [])
        visited.append(current)
        unsettled.append(current)
        for cell in _cells(labels, tile, width_px, height_px):
            if cell.area < min_area_px:
                continue
            if tile.owns(cell.x, cell.y) and not cell.cut:
                yield from take(cell, current)
            else:
                current.left_over.append(cell)
    yield from settle(np.inf)


def _cells(labels: NDArray[np.integer], tile: Tile, width_px: int, height_px: int) -> Iterator[Cell]:
    """The cells of one tile, one connected piece each, cut off at the slide's edge."""
    left, top = max(0, -tile.x), max(0, -tile.y)
    labels = labels[top : height_px - tile.y, left : width_px - tile.x]
    h, w = labels.shape
    tile_x, tile_y = tile.x + left, tile.y + top
    for label, window in enumerate(ndimage.find_objects(labels.astype(np.int32, copy=False)), start=1):
        if window is None:
            continue
        mask, (down, right) = _largest_piece(labels[window] == label)
        row, column = window[0].start + down, window[1].start + right
        bottom, end = row + mask.shape[0], column + mask.shape[1]
        x0, y0, x1, y1 = tile_x + column, tile_y + row, tile_x + end, tile_y + bottom
        touches = (
            (column == 0, x0 == 0),
            (row == 0, y0 == 0),
            (end == w, x1 == width_px),
            (bottom == h, y1 == height_px),
        )
        cut = any(at_tile and not at_slide for at_tile, at_slide in touches)
        yield Cell(tile, x0, y0, mask, cut=cut, border=cut or any(at_slide for _, at_slide in touches))


def _largest_piece(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The largest 4-connected piece of a mask that is not empty, and the (row, column) of its window."""
    pieces, count = ndimage.label(mask)
    if count == 1:
        keep = mask
    else:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        keep = pieces == sizes.argmax()
    rows, columns = np.flatnonzero(keep.any(axis=1)), np.flatnonzero(keep.any(axis=0))
    return keep[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(rows[0]), int(columns[0]))


def _neighbours(tile: Tile, visited: Iterable[_Visited], tile_px: int) -> list[Cell]:
    """Cells taken by the tiles that overlap this one; the cells of one tile never share a pixel."""
    return [
        cell
        for other in visited
        if other.tile is not tile
        and abs(other.tile.x - tile.x) < tile_px
        and abs(other.tile.y - tile.y) < tile_px
        for cell in other.taken
    ]


def _area_within(cell: Cell, tile: Tile, tile_px: int) -> int:
    rows = slice(max(0, tile.y - cell.y0), max(0, tile.y + tile_px - cell.y0))
    columns = slice(max(0, tile.x - cell.x0), max(0, tile.x + tile_px - cell.x0))
    return int(np.count_nonzero(cell.mask[rows, columns]))


def _clip(cell: Cell, others: Iterable[Cell], tile_px: int, min_area_px: float) -> Cell | None:
    """What others leave of a cell; None where it is one of them, or too little is left."""
    free: NDArray[np.bool_] | None = None
    for other in others:
        x0, x1 = max(cell.x0, other.x0), min(cell.x1, other.x1)
        y0, y1 = max(cell.y0, other.y0), min(cell.y1, other.y1)
        if x0 >= x1 or y0 >= y1:
            continue
        here = (slice(y0 - cell.y0, y1 - cell.y0), slice(x0 - cell.x0, x1 - cell.x0))
        there = other.mask[y0 - other.y0 : y1 - other.y0, x0 - other.x0 : x1 - other.x0]
        shared = np.count_nonzero(cell.mask[here] & there)
        areas = cell.area, other.area
        if cell.cut and other.cut:  # no tile holds all of it: compare what both tiles can see
            areas = _area_within(cell, other.tile, tile_px), _area_within(other, cell.tile, tile_px)
        if shared and shared >= SAME_CELL * min(areas):
            return None
        if shared:
            free = cell.mask.copy() if free is None else free
            free[here] &= ~there
    if free is None:
        return cell
    if np.count_nonzero(free) <= SAME_CELL * cell.area:
        return None
    mask, (down, right) = _largest_piece(free)
    if np.count_nonzero(mask) < min_area_px:
        return None
    return Cell(cell.tile, cell.x0 + right, cell.y0 + down, mask, cell.cut, cell.border)
