"""Annotated outlines (GeoJSON) matched with cells: labels to evaluate by, and a check of segmentation."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
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

Polygons = NDArray[np.object_]


def label_cells(
    cells_path: str | Path,
    annotations: str | Path,
    stages: Sequence[str],
    scale: float,
    out_labels: str | Path,
    out_quality: str | Path,
    slide: str,
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

    Returns
    -------
    int
        Labelled cells.

    Raises
    ------
    UserError
        The GeoJSON cannot be read; the feature at fault is named.
    """
    numbers, cells = _cells(cells_path)
    outlines, stage = read_annotations(annotations, stages, scale)
    cell, outline, iou = match(cells, outlines)
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
    logger.info("slide %s: %s, %d cells labelled", slide, matched, len(labels))
    return len(labels)


def read_annotations(
    path: str | Path, stages: Sequence[str], scale: float
) -> tuple[Polygons, NDArray[np.int32]]:
    """Read outlines and their stages.

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
        0..K-1; -1 where ``properties.classification.name`` is absent or no stage.

    Raises
    ------
    UserError
        The file is missing or no such GeoJSON.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: {why}; correct column annotations of the slide table") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no JSON ({error}); export the annotations again as GeoJSON") from None
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise UserError(f"{path}: no FeatureCollection; export the annotations again as GeoJSON")
    rank = {name: number for number, name in enumerate(stages)}
    unknown: Counter[str] = Counter()
    outlines = np.empty(len(features), object)
    stage = np.full(len(features), -1, np.int32)
    for number, feature in enumerate(features):
        outlines[number] = _polygon(feature, f"{path}: feature {number + 1}")
        name = _class_name(feature)
        if name in rank:
            stage[number] = rank[name]
        elif name is not None:
            unknown[name] += 1
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in unknown.most_common())
        logger.warning("%s: outlines without a stage of the study: %s", path, listed)
    return shapely.transform(outlines, lambda points: points * scale), stage


def _class_name(feature: dict[str, Any]) -> str | None:
    """QuPath's ``properties.classification.name``; None at any level that is absent."""
    node: Any = feature
    for key in ("properties", "classification", "name"):
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, str) else None


def _polygon(feature: Any, where: str) -> Any:
    try:
        geometry = shapely.geometry.shape(feature["geometry"])
    except (LookupError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
        raise UserError(f"{where} has no readable geometry ({error!r}); correct or delete it") from None
    if geometry.geom_type not in {"Polygon", "MultiPolygon"}:
        raise UserError(f"{where} is a {geometry.geom_type}, not the Polygon of a cell; delete it")
    geometry = _valid(geometry)
    if geometry.area == 0:
        raise UserError(f"{where} has no area; correct or delete it")
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
