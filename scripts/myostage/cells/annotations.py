"""Annotated outlines (GeoJSON) matched with cells: labels to evaluate by, and a check of segmentation."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from myostage import tables
from myostage.cells.geojson import NoCollectionError, read_features
from myostage.cells.tables import CELLS, LABELS, SEGMENTATION_QUALITY
from myostage.errors import UserError, printable

logger = logging.getLogger(__name__)

MIN_IOU = 0.5
"""Least overlap of a cell and an outline that are the same: the usual threshold of instance segmentation."""

OUTLINES = 1024
"""Annotated outlines in memory at a time."""
MOST_PX = 1e7
MOST_NAMED = 10

Polygons = NDArray[np.object_]


def label_cells(
    cells_path: str | Path,
    annotations: str | Path,
    stages: Sequence[str],
    scale: float,
    out_labels: str | Path,
    out_quality: str | Path,
    slide: str,
    um: float,
) -> int:
    """Give cells the stage of the annotated outline they overlap, and count hits and misses.

    Parameters
    ----------
    cells_path : str or Path
        ``CELLS``.
    annotations : str or Path
        GeoJSON in px of the slide's largest level, as QuPath writes it.
    stages : sequence of str
        Stages in order; outlines classified otherwise count for the segmentation only.
    scale : float
        Pixels at the study's mpp per pixel of the slide's largest level: slide.mpp / tiling.mpp.
    out_labels : str or Path
        ``LABELS``.
    out_quality : str or Path
        ``SEGMENTATION_QUALITY``, one row.
    slide : str
    um : float
        Pixels at the study's mpp per um: 1 / tiling.mpp. Outlines that fit the cells as um are refused.

    Returns
    -------
    int
        Labelled cells.

    Raises
    ------
    UserError
        The GeoJSON cannot be read, or its coordinates are um.
    """
    cells = _Cells(cells_path)
    matched, outlined = _matched(cells, stream_annotations(annotations, stages, scale))
    if len(matched) < outlined / 10:
        fitting, _ = _matched(cells, stream_annotations(annotations, stages, um))
        if len(fitting) > max(len(matched), outlined / 2):
            raise UserError(
                f"{annotations}: {len(matched)} of {outlined} outlines lie on a cell, but {len(fitting)} "
                "if their coordinates were um; export them in px of the slide's largest level"
            )
    labels = matched[matched["stage"] >= 0]
    quality = {
        "slide": [slide],
        "true_positives": [len(matched)],
        "false_positives": [len(cells.numbers) - len(matched)],
        "false_negatives": [outlined - len(matched)],
    }
    tables.write(out_labels, labels.sort_values("cell"), LABELS)
    tables.write(out_quality, pd.DataFrame(quality), SEGMENTATION_QUALITY)
    tell = logger.info if len(labels) else logger.warning
    said = f"{len(matched)} of {outlined} outlines matched"
    tell("slide %s: %s, %d cells labelled", slide, said, len(labels))
    return len(labels)


def read_annotations(
    path: str | Path, stages: Sequence[str], scale: float
) -> tuple[Polygons, NDArray[np.int32]]:
    """All outlines and stages of :func:`stream_annotations` at once."""
    none = np.empty(0, object), np.empty(0, np.int32)
    parts = [none, *stream_annotations(path, stages, scale)]
    outlines, stage = (np.concatenate(part) for part in zip(*parts, strict=True))
    return outlines, stage


def stream_annotations(
    path: str | Path, stages: Sequence[str], scale: float
) -> Iterator[tuple[Polygons, NDArray[np.int32]]]:
    """Read outlines and their stages. Features that are no outlines are left out, and the log counts them.

    Parameters
    ----------
    path : str or Path
        GeoJSON: a FeatureCollection, or a list of features, of Polygons or MultiPolygons.
    stages : sequence of str
    scale : float
        Factor on the coordinates.

    Yields
    ------
    outlines : object[n]
        Shapely polygons, n up to ``OUTLINES``.
    stage : int32[n]
        0..K-1; -1 where ``properties.classification`` (its ``name``, or itself) is absent or no stage.

    Raises
    ------
    UserError
        The file is missing, no such GeoJSON, or all of its features are no outlines.
    """
    rank: dict[str | None, int] = {name: number for number, name in enumerate(stages)}
    unknown: Counter[str] = Counter()
    for found, names in _outlines(path):
        unknown.update(name for name in names if name is not None and name not in rank)
        outlines = np.empty(len(found), object)
        outlines[:] = found
        stage = np.array([rank.get(name, -1) for name in names], np.int32)
        yield shapely.transform(outlines, lambda points: points * scale), stage
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in unknown.most_common(MOST_NAMED))
        logger.warning("%s: outlines without a stage of the study: %s", path, printable(listed))


def check_annotations(paths: Iterable[str]) -> None:
    """Read files of annotations, so that a fault of theirs is known before hours are spent.

    Raises
    ------
    UserError
        Files that cannot be read, all of them named.
    """
    faults = []
    for path in paths:
        try:
            for _ in _outlines(path):
                pass
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))


def _outlines(path: str | Path) -> Iterator[tuple[list[Any], list[str | None]]]:
    """The outlines of a file and the names of their classes, up to ``OUTLINES`` at a time."""
    read, odd = 0, 0
    some: list[str] = []
    features = _features(path)
    while part := list(itertools.islice(features, OUTLINES)):
        outlines, names = [], []
        for number, feature in enumerate(part, read + 1):
            try:
                outlines.append(_polygon(feature))
                names.append(_class_name(feature))
            except ValueError as error:
                odd += 1
                some = [*some, f"feature {number} {error}"][:MOST_NAMED]
        read += len(part)
        yield outlines, names
    if odd:
        rest = f" and {odd - MOST_NAMED} more" if odd > MOST_NAMED else ""
        said = f"{odd} of {read} features are no outlines: {', '.join(some)}{rest}"
        if odd == read:
            raise UserError(f"{path}: {said}; export the outlines of cells as Polygons")
        logger.warning("%s: %s; they are left out", path, said)


def _features(path: str | Path) -> Iterator[Any]:
    try:
        yield from read_features(path)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: {why}; correct column annotations of the slide table") from None
    except NoCollectionError:
        raise UserError(f"{path}: no FeatureCollection; export the annotations again as GeoJSON") from None
    except (ValueError, RecursionError) as error:  # of UTF-8, of JSON, of a number of thousands of digits
        raise UserError(f"{path}: no JSON ({error}); export the annotations again as GeoJSON") from None


def _class_name(feature: dict[str, Any]) -> str | None:
    """``properties.classification``: text, or as QuPath has it an object with a name; None where absent."""
    properties = feature.get("properties")
    found = properties.get("classification") if isinstance(properties, dict) else None
    name = found.get("name") if isinstance(found, dict) else found
    return name if isinstance(name, str) else None


def _polygon(feature: Any) -> Any:
    """The outline of a feature; ValueError says what it is instead."""
    try:
        with np.errstate(invalid="ignore"):  # of NaN, which is refused below
            geometry = shapely.geometry.shape(feature["geometry"])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, shapely.errors.ShapelyError):
        raise ValueError("has no readable geometry") from None
    kind = geometry.geom_type
    if kind not in {"Polygon", "MultiPolygon"}:
        raise ValueError(f"is a {kind}")
    if not (np.abs(shapely.get_coordinates(geometry)) < MOST_PX).all():
        raise ValueError("has coordinates that are no px of a slide")
    geometry = _valid(geometry)
    if geometry.area == 0:
        raise ValueError("has no area")
    return geometry


def _valid(geometry: Any) -> Any:
    """The same area without self-crossings, which hand-drawn outlines have and intersections do not stand."""
    return geometry if shapely.is_valid(geometry) else shapely.buffer(shapely.make_valid(geometry), 0)


def _matched(
    cells: "_Cells", annotations: Iterator[tuple[Polygons, NDArray[np.int32]]]
) -> tuple[pd.DataFrame, int]:
    """Cells that are matched, as ``cell``, ``stage`` (-1: none) and ``iou``, and the number of outlines."""
    outlined, parts = 0, [(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0), np.empty(0, np.int32))]
    for outlines, of_outlines in annotations:
        near = cells.near(outlines)
        cell, outline, iou = overlaps(cells.polygons(near), outlines)
        parts.append((near[cell], outline + outlined, iou, of_outlines[outline]))
        outlined += len(outlines)
    cell, outline, iou, stage = (np.concatenate(part) for part in zip(*parts, strict=True))
    pairs = pd.DataFrame({"cell": cells.numbers[cell], "stage": stage, "iou": iou})
    return pairs.iloc[best(cell, outline, iou)], outlined


class _Cells:
    """The outlines of a slide's cells, as numbers: shapes, 10 times as large, are made of some at a time.

    Attributes
    ----------
    numbers : int32[n]
        Their numbers within the slide.
    """

    def __init__(self, path: str | Path) -> None:
        table = tables.read_arrow(path, CELLS, ["cell", "polygon"]).combine_chunks()
        self.numbers: NDArray[np.int32] = table["cell"].to_numpy()
        self._points = pc.list_flatten(table["polygon"]).to_numpy().reshape(-1, 2)
        self._counts = pc.list_value_length(table["polygon"]).to_numpy().astype(np.int64) // 2
        self._starts = np.cumsum(self._counts) - self._counts
        self._low, self._high = (np.full((len(self.numbers), 2), np.nan, np.float32) for _ in range(2))
        some = self._counts > 0
        if some.any():
            self._low[some] = np.minimum.reduceat(self._points, self._starts[some])
            self._high[some] = np.maximum.reduceat(self._points, self._starts[some])
        self._by_x = np.argsort(self._low[:, 0])
        # and a pixel, for differences in float32 are rounded
        self._widest = 1 + float(np.nanmax(self._high[:, 0] - self._low[:, 0], initial=0))

    def near(self, outlines: Polygons) -> NDArray[np.intp]:
        """Rows of the cells whose bounding boxes meet that of an outline, ascending."""
        from_left = self._low[self._by_x, 0]
        boxes = shapely.bounds(outlines)
        first = np.searchsorted(from_left, boxes[:, 0] - self._widest)
        last = np.searchsorted(from_left, boxes[:, 2], side="right")
        found = np.zeros(len(self.numbers), bool)
        for low, high, (left, top, _, bottom) in zip(first, last, boxes, strict=True):
            rows = self._by_x[low:high]
            meets = (
                (self._high[rows, 0] >= left) & (self._high[rows, 1] >= top) & (self._low[rows, 1] <= bottom)
            )
            found[rows[meets]] = True
        return np.flatnonzero(found)

    def polygons(self, rows: NDArray[np.intp]) -> Polygons:
        """Valid shapely polygons of the cells in ``rows``."""
        cells = np.full(len(rows), shapely.Polygon(), object)
        counts = self._counts[rows]
        closed = np.flatnonzero(counts >= 3)  # fewer points enclose nothing
        if len(closed):
            ring = np.repeat(np.arange(len(closed)), counts[closed])
            within = np.arange(len(ring)) - np.repeat(
                np.cumsum(counts[closed]) - counts[closed], counts[closed]
            )
            points = self._points[self._starts[rows[closed]][ring] + within].astype(np.float64)
            cells[closed] = shapely.polygons(shapely.linearrings(points, indices=ring))
        crossed = ~shapely.is_valid(cells)
        cells[crossed] = [_valid(cell) for cell in cells[crossed]]
        return cells


def overlaps(
    cells: Polygons, outlines: Polygons
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Pairs of a cell and an outline that may be the same, by their overlap.

    Parameters
    ----------
    cells, outlines : object[n], object[m]
        Valid shapely polygons in the same coordinates.

    Returns
    -------
    cell, outline : int[pairs]
        Indices of the partners.
    iou : float64[pairs]
        Intersection over union, at least .5.
    """
    outline, cell = shapely.STRtree(cells).query(outlines, predicate="intersects")
    common = shapely.area(shapely.intersection(cells[cell], outlines[outline]))
    iou = common / (shapely.area(cells[cell]) + shapely.area(outlines[outline]) - common)
    same = iou >= MIN_IOU
    return cell[same], outline[same], iou[same]


def best(cell: NDArray[np.intp], outline: NDArray[np.intp], iou: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which of the pairs match cells and outlines one to one, the best overlap first."""
    # Above .5 a shape has one partner among shapes that do not overlap; annotations may: the best goes first.
    taken_cells, taken_outlines, chosen = set(), set(), []
    for pair in np.lexsort((outline, cell, -iou)):
        if cell[pair] not in taken_cells and outline[pair] not in taken_outlines:
            taken_cells.add(cell[pair])
            taken_outlines.add(outline[pair])
            chosen.append(pair)
    return np.array(chosen, np.intp)
