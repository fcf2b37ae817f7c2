"""Annotated outlines (GeoJSON) matched with cells: labels to evaluate by, and a check of segmentation."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from myostage import tables
from myostage.cells.tables import CELLS, LABELS, SEGMENTATION_QUALITY
from myostage.errors import UserError

logger = logging.getLogger(__name__)

MIN_IOU = 0.5
"""Least overlap of a cell and an outline that are the same: the usual threshold of instance segmentation."""

MOST_BYTES = 2**27
"""Of a file of annotations, which takes ten times as much memory while it is read."""
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
    numbers, cells = _cells(cells_path)
    outlines, stage = read_annotations(annotations, stages, scale)
    cell, outline, iou = match(cells, outlines)
    if len(cell) < len(outlines) / 10:
        in_um = shapely.transform(outlines, lambda points: points * um / scale)
        if len(fitting := match(cells, in_um)[0]) > max(len(cell), len(outlines) / 2):
            raise UserError(
                f"{annotations}: {len(cell)} of {len(outlines)} outlines lie on a cell, but {len(fitting)} "
                "if their coordinates were um; export them in px of the slide's largest level"
            )
    staged = stage[outline] >= 0
    labels = pd.DataFrame({"cell": numbers[cell], "stage": stage[outline], "iou": iou})[staged]
    quality = {
        "slide": [slide],
        "true_positives": [len(cell)],
        "false_positives": [len(cells) - len(cell)],
        "false_negatives": [len(outlines) - len(cell)],
    }
    tables.write(out_labels, labels.sort_values("cell"), LABELS)
    tables.write(out_quality, pd.DataFrame(quality), SEGMENTATION_QUALITY)
    matched = f"{len(cell)} of {len(outlines)} outlines matched"
    tell = logger.info if len(labels) else logger.warning
    tell("slide %s: %s, %d cells labelled", slide, matched, len(labels))
    return len(labels)


def read_annotations(
    path: str | Path, stages: Sequence[str], scale: float
) -> tuple[Polygons, NDArray[np.int32]]:
    """Read outlines and their stages. Features that are no outlines are left out, and the log counts them.

    Parameters
    ----------
    path : str or Path
        GeoJSON: a FeatureCollection, or a list of features, of Polygons or MultiPolygons.
    stages : sequence of str
    scale : float
        Factor on the coordinates.

    Returns
    -------
    outlines : object[n]
        Shapely polygons.
    stage : int32[n]
        0..K-1; -1 where ``properties.classification`` (its ``name``, or itself) is absent or no stage.

    Raises
    ------
    UserError
        The file is missing, too large, no such GeoJSON, or all of its features are no outlines.
    """
    found, names = _outlines(path)
    rank = {name: number for number, name in enumerate(stages)}
    stage = np.array([rank.get(name, -1) for name in names], np.int32)
    unknown = Counter(name for name in names if name is not None and name not in rank)
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in unknown.most_common(MOST_NAMED))
        logger.warning("%s: outlines without a stage of the study: %s", path, listed)
    outlines = np.empty(len(found), object)
    outlines[:] = found
    return shapely.transform(outlines, lambda points: points * scale), stage


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
            _outlines(path)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))


def _outlines(path: str | Path) -> tuple[list[Any], list[str | None]]:
    """The outlines of a file and the names of their classes."""
    features = _features(path)
    outlines, names, odd = [], [], []
    for number, feature in enumerate(features, 1):
        try:
            outlines.append(_polygon(feature))
            names.append(_class_name(feature))
        except ValueError as error:
            odd.append(f"feature {number} {error}")
    if odd:
        rest = f" and {len(odd) - MOST_NAMED} more" if len(odd) > MOST_NAMED else ""
        said = f"{len(odd)} of {len(features)} features are no outlines: {', '.join(odd[:MOST_NAMED])}{rest}"
        if not outlines:
            raise UserError(f"{path}: {said}; export the outlines of cells as Polygons")
        logger.warning("%s: %s; they are left out", path, said)
    return outlines, names


def _features(path: str | Path) -> list[Any]:
    try:
        size = Path(path).stat().st_size
        if size > MOST_BYTES:
            raise UserError(
                f"{path}: {size >> 20:,} MiB, where {MOST_BYTES >> 20} MiB of annotations are the limit; "
                "export only the outlines, without measurements, or those of fewer cells"
            )
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: {why}; correct column annotations of the slide table") from None
    except (ValueError, RecursionError) as error:  # of UTF-8, of JSON, of a number of thousands of digits
        raise UserError(f"{path}: no JSON ({error}); export the annotations again as GeoJSON") from None
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise UserError(f"{path}: no FeatureCollection; export the annotations again as GeoJSON")
    return features


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


def _cells(path: str | Path) -> tuple[NDArray[np.int32], Polygons]:
    table = tables.read_arrow(path, CELLS, ["cell", "polygon"])
    numbers, outlines = table["cell"].to_numpy(), table["polygon"]
    points = pc.list_flatten(outlines).to_numpy().reshape(-1, 2).astype(np.float64)
    counts = pc.list_value_length(outlines).to_numpy() // 2
    cells = np.full(len(numbers), shapely.Polygon(), object)
    closed = counts >= 3  # fewer points enclose nothing
    if closed.any():
        cell_of_point = np.repeat(np.arange(len(counts)), counts)
        used = closed[cell_of_point]
        ring = (np.cumsum(closed) - 1)[cell_of_point[used]]
        cells[closed] = shapely.polygons(shapely.linearrings(points[used], indices=ring))
    crossed = ~shapely.is_valid(cells)
    cells[crossed] = [_valid(cell) for cell in cells[crossed]]
    return numbers, cells


def match(
    cells: Polygons, outlines: Polygons
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Match cells with outlines one to one, the best overlap first.

    Parameters
    ----------
    cells, outlines : object[n], object[m]
        Valid shapely polygons in the same coordinates.

    Returns
    -------
    cell, outline : int[matches]
        Indices of the partners.
    iou : float32[matches]
        Intersection over union, at least .5.
    """
    # Above .5 a shape has one partner among shapes that do not overlap; annotations may: the best goes first.
    outline, cell = shapely.STRtree(cells).query(outlines, predicate="intersects")
    common = shapely.area(shapely.intersection(cells[cell], outlines[outline]))
    iou = common / (shapely.area(cells[cell]) + shapely.area(outlines[outline]) - common)
    taken_cells, taken_outlines, chosen = set(), set(), []
    for pair in np.lexsort((outline, cell, -iou)):
        if iou[pair] < MIN_IOU:
            break
        if cell[pair] not in taken_cells and outline[pair] not in taken_outlines:
            taken_cells.add(cell[pair])
            taken_outlines.add(outline[pair])
            chosen.append(pair)
    return cell[chosen], outline[chosen], iou[chosen].astype(np.float32)
