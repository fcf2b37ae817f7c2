"""Staged cells for other programs: QuPath GeoJSON and CSV, written cell by cell."""

import json
import math
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from myostage import palette, tables
from myostage.cells.outlines import outlines
from myostage.cells.tables import CELLS
from myostage.learning.predictions import read_stages

# Cells held in memory at once.
BATCH = 4096

_MEASURED = {
    "area_um2": "Area µm^2",
    "perimeter_um": "Perimeter µm",
    "min_feret_um": "Min Feret µm",
    "max_feret_um": "Max Feret µm",
    "circularity": "Circularity",
    "solidity": "Solidity",
}


def export(
    cells: str | Path,
    predictions: str | Path,
    stages: Sequence[str],
    scale: float,
    geojson_out: str | Path,
    csv_out: str | Path,
) -> int:
    """Both exports of one slide, by :func:`export_slide` and :func:`export_csv`; returns cells written."""
    export_csv(cells, predictions, stages, csv_out)
    return export_slide(cells, predictions, stages, scale, geojson_out)


def export_slide(
    cells: str | Path,
    predictions: str | Path,
    stages: Sequence[str],
    scale: float,
    out: str | Path,
    colours: np.ndarray | None = None,
) -> int:
    """Write the staged cells of one slide as GeoJSON that QuPath opens as detections.

    Cells that were not staged (dropped as background) are written without a class, so that no outline
    is lost. Ids depend on slide and cell only: an export made again replaces, and does not double.

    Parameters
    ----------
    cells : path
        CELLS table of the slide.
    predictions : path
        Table of :func:`stages_table` of this slide.
    stages : sequence of str
        Names of the stages.
    scale : float
        Level-0 px per px of the study (``tiling.mpp / slide.mpp``); QuPath counts in level-0 px.
    out : path
        File to write, atomically.
    colours : uint8[K, 3], optional
        Colours of the stages; by default those of every figure.

    Returns
    -------
    int
        Cells written.

    Raises
    ------
    UserError
        A table is missing or damaged.
    """
    rgb = (palette.stage_rgb(len(stages)) if colours is None else colours).tolist()
    classes = [{"name": name, "color": colour} for name, colour in zip(stages, rgb, strict=True)]
    written = 0
    with tables.atomic(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for batch, known, slide in _batches(cells, predictions, len(stages)):
            rows = batch.drop_columns(["polygon"]).to_pylist()
            for row, outline in zip(rows, outlines(batch["polygon"]), strict=True):
                file.write(",\n" if written else "\n")
                stage = known.get(row["cell"])
                feature = _feature(slide, row, outline * scale, scale, stage, stages, classes)
                # dumps: json.dump encodes in Python, several times slower.
                file.write(json.dumps(feature, separators=(",", ":"), allow_nan=False, ensure_ascii=False))
                written += 1
        file.write("\n]}\n")
    return written


def export_csv(cells: str | Path, predictions: str | Path, stages: Sequence[str], out: str | Path) -> int:
    """Write the cells of one slide as CSV: measurements, stage (empty: not staged), probabilities ``p_*``,
    calibrated ones ``calibrated_*``, their entropy (nats) and whether the stage is uncertain (1 or 0).

    Returns
    -------
    int
        Cells written.
    """
    columns = ["cell", "x_px", "y_px", "x_um", "y_um", *_MEASURED, "border"]
    shares = [f"{kind}_{name}" for kind in ("p", "calibrated") for name in stages]
    header = ["slide", *columns, "stage", *shares, "entropy_nats", "uncertain"]
    written = 0
    with tables.atomic(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(header) + "\n")
        for batch, known, slide in _batches(cells, predictions, len(stages)):
            rows = batch.select(columns).to_pandas()
            rows.insert(0, "slide", slide)
            found = [known.get(cell) for cell in rows["cell"]]
            rows["stage"] = ["" if one is None else stages[one.stage] for one in found]
            missing = np.full(len(shares), np.nan)
            rows[shares] = np.array(
                [missing if one is None else [*one.probabilities, *one.calibrated] for one in found]
            ).reshape(-1, len(shares))
            rows["entropy_nats"] = [np.nan if one is None else one.entropy for one in found]
            rows["uncertain"] = ["" if one is None else int(one.uncertain) for one in found]
            rows.to_csv(file, header=False, index=False, float_format="%.6g")
            written += len(rows)
    return written


def _batches(
    cells: str | Path, predictions: str | Path, stages: int
) -> Iterator[tuple[pa.Table, dict[int, Any], str]]:
    """Cells a batch at a time, with the row of the table of stages by cell and the slide's name."""
    staged = read_stages(predictions, stages)
    known = dict(zip(staged["cell"].tolist(), staged.itertuples(), strict=True))
    # A slide without a staged cell has no row to name it; its cells table lies in a folder of that name.
    slide = str(staged["slide"].iloc[0]) if len(staged) else Path(cells).parent.name
    with tables.open_table(cells, CELLS) as file:
        for batch in file.iter_batches(BATCH):
            yield pa.Table.from_batches([batch]), known, slide


def _feature(
    slide: str,
    row: dict[str, Any],
    outline: np.ndarray,
    scale: float,
    staged: Any,
    stages: Sequence[str],
    classes: list[dict[str, Any]],
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "detection", "name": f"cell {row['cell']}"}
    known = {title: row[name] for name, title in _MEASURED.items() if row[name] is not None}
    measurements = {title: round(value, 4) for title, value in known.items() if math.isfinite(value)}
    if staged is not None:
        properties["classification"] = classes[staged.stage]
        measurements |= {
            f"{kind} {name}": round(float(value), 5)
            for kind, values in (("p", staged.probabilities), ("calibrated", staged.calibrated))
            for name, value in zip(stages, values, strict=True)
        }
        measurements |= {"Entropy nats": round(staged.entropy, 5), "Uncertain": int(staged.uncertain)}
    properties["measurements"] = measurements
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"myostage/{slide}/{row['cell']}")),
        "geometry": _geometry(outline, (row["x_px"] * scale, row["y_px"] * scale)),
        "properties": properties,
    }


def _geometry(outline: np.ndarray, centroid: tuple[float, float]) -> dict[str, Any]:
    """A closed ring; a point where an outline has too few corners to enclose anything."""
    ring = np.round(outline.astype(np.float64), 2).tolist()
    if len(ring) > 1 and ring[0] == ring[-1]:
        ring.pop()
    if len(ring) < 3:
        return {"type": "Point", "coordinates": [round(value, 2) for value in centroid]}
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
