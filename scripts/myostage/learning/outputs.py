"""What a run reads of the slides and writes of itself, trained or not: no torch is imported here."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import save_file

from myostage import tables
from myostage.errors import Damaged, UserError
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.priors import Learnt
from myostage.learning.tables import HISTORY, OUTCOME, SPLITS, predictions_table
from myostage.runtime.cost import Cost
from myostage.study.run import RunSpec

Batch = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float16]]
"""Cells int32[n], probabilities float32[n, K] and L2-normalised embeddings float16[n, E] (E = 0: none)."""
History = list[tuple[float, ...]]
"""Rows of ``HISTORY``: its columns and the run's terms."""


def slides_with_cells(splits: Path, files: Mapping[str, Path]) -> pd.DataFrame:
    """Rows of ``SPLITS`` with cells; UserError where a file is missing for a slide among them."""
    table = tables.read(splits, SPLITS)
    table = table[table["cells"] > 0]
    missing = sorted(set(table["slide"]) - set(files))
    if missing:
        raise UserError(f"{splits}: no token file is given for slide {', '.join(missing)}; embed it first")
    return table


def learnt_and_predicted(
    splits: Path, fold: int, files: Mapping[str, Path]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of ``SPLITS`` that a fold learns from, and those it predicts: held out or staged only."""
    table = slides_with_cells(splits, files)
    learnt = table[(table["fold"] != fold) & (table["fold"] != STAGED_ONLY)]
    held_out = table[table["fold"] == fold]
    for rows, lacking in ((learnt, "train on"), (held_out, "hold out")):
        if rows.empty:
            raise UserError(f"{splits}: fold {fold} leaves no slide with cells to {lacking}; lower folds")
    return learnt, table[(table["fold"] == fold) | (table["fold"] == STAGED_ONLY)]


def cell_numbers(path: Path) -> NDArray[np.int32]:
    """Cell numbers int32[n] of a slide's tokens or crops, in their order.

    Raises
    ------
    UserError
        The file is missing, damaged, or has no cells.
    """
    with tables.open_parquet(path, "cells") as file:
        if "cell" not in file.schema_arrow.names:
            raise Damaged(f"{path}: no table of cells")
        return file.read(columns=["cell"]).column("cell").to_numpy().astype(np.int32, copy=False)


def save_model(
    path: Path,
    arrays: Mapping[str, NDArray[np.generic]],
    spec: RunSpec,
    stages: int,
    made_by: str,
    failed: str = "",
    temperature: float = math.nan,
    learnt: Learnt | None = None,
) -> None:
    """Write a model as safetensors, atomically, with the specification that made it.

    ``failed`` says why there is no model; such a file holds no arrays. ``temperature`` calibrates what it
    predicts; nan: it has none. ``learnt`` lets the proportions of a slide be put into what it predicts.
    """
    metadata = {"spec": spec.model_dump_json(), "stages": str(stages), "made_by": made_by}
    metadata |= {"failed": failed} if failed else {}
    metadata |= {} if math.isnan(temperature) else {"temperature": repr(temperature)}
    metadata |= {} if learnt is None else {"learnt": learnt.as_json()}
    with tables.atomic(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary, metadata)


def write_history(path: Path, history: History, spec: RunSpec, made_by: str) -> None:
    """Write the table of a run's steps."""
    frame = pd.DataFrame(history, columns=[*HISTORY.schema.names, *spec.terms])
    frame = frame.astype({"phase": "int32", "step": "int32"})
    tables.write(path, frame, HISTORY, {"made_by": made_by})


def write_predictions(
    path: Path,
    slides: Iterator[tuple[str, Iterator[Batch]]],
    stages: int,
    spec: RunSpec,
    made_by: str,
    failed: str = "",
    temperature: float = math.nan,
    learnt: Learnt | None = None,
) -> None:
    """Stream predictions into ``predictions_table(stages)``; no row group holds two slides.

    ``failed`` says why there are none; ``temperature`` calibrates them (nan: nothing does), ``learnt``
    lets the proportions of a slide be put into them.
    """
    table = predictions_table(stages)
    metadata = {"spec": spec.model_dump_json(), "made_by": made_by} | ({"failed": failed} if failed else {})
    metadata |= {} if math.isnan(temperature) else {"temperature": repr(temperature)}
    metadata |= {} if learnt is None else {"learnt": learnt.as_json()}
    with tables.writer(path, table, metadata) as out:
        for slide, batches in slides:
            for cells, probabilities, embedding in batches:
                n, width = embedding.shape
                offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
                columns = [
                    pa.array([slide] * n, pa.string()),
                    pa.array(cells, pa.int32()),
                    pa.array(probabilities.argmax(1).astype(np.int32)),
                    pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), stages),
                    pa.ListArray.from_arrays(offsets, pa.array(embedding.ravel(), pa.float16())),
                ]
                arrays = [
                    column.cast(field.type) for column, field in zip(columns, table.schema, strict=True)
                ]
                out.write_table(pa.Table.from_arrays(arrays, schema=out.schema))


def write_outcome(
    path: Path,
    spec: RunSpec,
    cost: Cost,
    made_by: str,
    *,
    reason: str = "",
    steps: int = 0,
    device: str = "cpu",
    temperature: float = math.nan,
) -> None:
    """Write the row of ``OUTCOME``; ``reason`` says why the run failed, ``device`` names what it used."""
    row = {
        "run": spec.id,
        "status": "failed" if reason else "ok",
        "reason": reason,
        "device": device,
        "steps": steps,
        "temperature": temperature,
    }
    tables.write(path, pd.DataFrame([row | asdict(cost)]), OUTCOME, {"made_by": made_by})
