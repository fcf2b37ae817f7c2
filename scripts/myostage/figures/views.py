"""What figures and exports need, read from the tables: outlines, staged cells, chosen crops, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from myostage import tables
from myostage.cells.tables import CELLS, CROP_PX, CROPS, LABELS
from myostage.errors import UserError
from myostage.evaluation import formatting, selection
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.tables import CONFUSION
from myostage.learning.predictions import read_stages
from myostage.learning.tables import ATTENTION, HISTORY
from myostage.slides.checking import reason_skipped

MEASUREMENTS = (
    "area_um2",
    "perimeter_um",
    "min_feret_um",
    "max_feret_um",
    "circularity",
    "solidity",
)


def staged_cells(cells: str | Path, predictions: str | Path, stages: int) -> pd.DataFrame:
    """Measurements of every segmented cell with its stage; -1 where the cell was not staged."""
    columns = ["cell", "x_px", "y_px", "x_um", "y_um", *MEASUREMENTS, "border"]
    frame = tables.read(cells, CELLS, columns)
    known = read_stages(predictions, stages)["stage"]
    frame["stage"] = known.reindex(frame["cell"]).fillna(-1).to_numpy(dtype=np.int32)
    return frame


def grouped_cells(
    cells: Mapping[str, str | Path],
    predictions: Mapping[str, str | Path],
    groups: Mapping[str, str],
    stages: int,
) -> pd.DataFrame:
    """Cells of all slides with ``slide`` and ``group`` before the columns of :func:`staged_cells`."""
    parts = []
    for slide, path in cells.items():
        frame = staged_cells(path, predictions[slide], stages)
        frame.insert(0, "slide", slide)
        frame.insert(1, "group", groups[slide])
        parts.append(frame)
    names = ["slide", "group", "cell", "stage", *MEASUREMENTS, "border"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def summary(cells: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles of the sizes of whole cells, per slide: one row per slide and measurement."""
    whole = cells[~cells["border"].astype(bool)]
    rows = []
    for (group, slide), part in whole.groupby(["group", "slide"], sort=False):
        for name in ("min_feret_um", "area_um2"):
            low, middle, high = np.quantile(part[name], [0.25, 0.5, 0.75])
            rows.append((group, slide, len(part), name, low, middle, high))
    return pd.DataFrame(rows, columns=["group", "slide", "cells", "measurement", "q25", "median", "q75"])


def pick(predictions: Sequence[pd.DataFrame], stages: int, per_stage: int) -> pd.DataFrame:
    """Choose the most and the least certain cells of every predicted stage.

    Parameters
    ----------
    predictions : sequence of DataFrame
        The tables of :func:`staged` of all slides.
    stages : int
        K.
    per_stage : int
        Crops per stage; the first half (rounded up) most certain, the rest least certain, none twice.

    Returns
    -------
    DataFrame
        ``slide``, ``cell``, ``stage``, ``probability`` (of that stage), ``kind`` (most or least),
        ``place`` (column in the gallery), ordered by stage and place.
    """
    parts = []
    for table in predictions:
        # Only the largest probability is kept: a study's tables need not fit into memory together.
        probability = [float(np.max(row)) for row in table["probabilities"]]
        parts.append(table[["slide", "cell", "stage"]].assign(probability=probability))
    if not parts:
        return pd.DataFrame(columns=["slide", "cell", "stage", "probability", "kind", "place"])
    frame = pd.concat(parts, ignore_index=True)
    frame = frame.sort_values(["probability", "slide", "cell"], ascending=[False, True, True], kind="stable")
    most = (per_stage + 1) // 2
    chosen = []
    for stage in range(stages):
        rows = frame[frame["stage"] == stage]
        top = rows.head(most)
        low = rows.iloc[len(top) :].tail(per_stage - most)
        chosen.append(top.assign(kind="most", place=np.arange(len(top))))
        chosen.append(low.assign(kind="least", place=most + np.arange(len(low))))
    return pd.concat(chosen, ignore_index=True)


def images(crops: Mapping[str, str | Path], chosen: pd.DataFrame) -> np.ndarray:
    """Crops of the chosen cells (columns ``slide``, ``cell``), uint8[n, 64, 64, 3], in their order.

    Files are streamed by row group, so that memory holds the chosen crops and one row group.

    Raises
    ------
    UserError
        A slide has no crops file, or a chosen cell no crop.
    """
    out = np.zeros((len(chosen), CROP_PX, CROP_PX, 3), dtype=np.uint8)
    found = np.zeros(len(chosen), dtype=bool)
    slides = chosen["slide"].to_numpy()
    cells = chosen["cell"].to_numpy()
    for slide in dict.fromkeys(slides):
        if slide not in crops:
            raise UserError(f"slide {slide} is staged but no crops file was given for it; add it to `crops`")
        rows = np.flatnonzero(slides == slide)
        with tables.open_table(crops[slide], CROPS) as file:
            for group in range(file.num_row_groups):
                numbers = file.read_row_group(group, columns=["cell"])["cell"].to_numpy()
                wanted = rows[np.isin(cells[rows], numbers)]
                if len(wanted) == 0:
                    continue
                column = file.read_row_group(group, columns=["image"])["image"]
                position = {int(cell): at for at, cell in enumerate(numbers)}
                for row in wanted:
                    raw = column[position[int(cells[row])]].as_py()
                    out[row] = np.frombuffer(raw, dtype=np.uint8).reshape(out.shape[1:])
                found[wanted] = True
    if not found.all():
        first = int(np.flatnonzero(~found)[0])
        raise UserError(
            f"{crops[slides[first]]}: no crop of the staged cell {cells[first]} of slide {slides[first]}; "
            "delete the slide's tokens and run the workflow again"
        )
    return out


def truth(labels: Mapping[str, str | Path], chosen: pd.DataFrame) -> np.ndarray:
    """Annotated stage of cells (columns ``slide``, ``cell``), int32[n]; -1 where there is none."""
    out = np.full(len(chosen), -1, dtype=np.int32)
    slides = chosen["slide"].to_numpy()
    for slide in dict.fromkeys(slides):
        if slide in labels:
            known = tables.read(labels[slide], LABELS, ["cell", "stage"]).set_index("cell")["stage"]
            rows = slides == slide
            out[rows] = known.reindex(chosen["cell"].to_numpy()[rows]).fillna(-1).to_numpy(dtype=np.int32)
    return out


def counts(
    slides: pd.DataFrame, cells: Mapping[str, str | Path], crops: Mapping[str, str | Path]
) -> pd.DataFrame:
    """What became of the cells of every slide: one row per row of ``slides``.

    Returns
    -------
    DataFrame
        ``slide``, ``group``, ``status``, ``reason``, ``cells`` (segmented), ``border`` (cut by an edge),
        ``crops`` (kept), ``dropped`` (crops of background); 0 where a slide has no table.
    """
    out = slides[["slide", "group", "status", "reason"]].reset_index(drop=True)
    borders = {
        slide: tables.read(path, CELLS, ["border"])["border"].astype(bool) for slide, path in cells.items()
    }
    kept = {slide: len(tables.read(path, CROPS, ["cell"])) for slide, path in crops.items()}
    for slide, reason in left_out(slides, crops).items():
        out.loc[out["slide"] == slide, ["status", "reason"]] = ["skipped", reason]
    out["cells"] = [len(borders.get(slide, ())) for slide in out["slide"]]
    out["border"] = [int(sum(borders.get(slide, ()))) for slide in out["slide"]]
    out["crops"] = [kept.get(slide, 0) for slide in out["slide"]]
    out["dropped"] = out["cells"] - out["crops"]
    return out


def left_out(slides: pd.DataFrame, crops: Mapping[str, str | Path]) -> dict[str, str]:
    """Slides that no cell comes from because they cannot be used, and why.

    Parameters
    ----------
    slides : DataFrame
        The slides table: what could not be opened has the status skipped.
    crops : mapping of slide to path
        Its crops: what failed later says so there (:func:`slides.skip`).
    """
    unopened = slides[slides["status"] != "ok"]
    reasons = {slide: reason for slide, path in crops.items() if (reason := reason_skipped(path))}
    reasons |= dict(zip(unopened["slide"], unopened["reason"], strict=True))
    return {slide: reasons[slide] for slide in slides["slide"] if slide in reasons}


def confusion(path: str | Path, experiment: str, stages: int) -> np.ndarray:
    """Confusion matrix of an experiment, float[K, K]: rows annotated, columns predicted."""
    table = tables.read(path, CONFUSION)
    rows = table[table["experiment"] == experiment]
    matrix = np.zeros((stages, stages))
    np.add.at(matrix, (rows["true_stage"].to_numpy(), rows["predicted_stage"].to_numpy()), rows["cells"])
    return matrix


def histories(paths: Mapping[str, Sequence[str | Path]]) -> pd.DataFrame:
    """Training histories as one table: ``experiment``, ``run`` (number), the columns of HISTORY and of the
    terms of any run, missing where a run does not have one.

    ``step`` runs on through the phases, so that the head fitted after L_SimProp follows its encoder.
    """
    parts = []
    for experiment, files in paths.items():
        for run, path in enumerate(files):
            history = tables.read(path, HISTORY)
            lengths = history.groupby("phase")["step"].max() + 1
            offset = lengths.cumsum().shift(fill_value=0)
            history["step"] += history["phase"].map(offset)
            parts.append(history.assign(experiment=experiment, run=run))
    if not parts:
        return pd.DataFrame(columns=["experiment", "run", *HISTORY.schema.names])
    return pd.concat(parts, ignore_index=True)


def attention(paths: Sequence[str | Path], slides: Sequence[str]) -> pd.DataFrame:
    """Attention to the cells of slides, mean over the runs that hold them out.

    Parameters
    ----------
    paths : sequence of path
        ATTENTION tables of an experiment's runs.
    slides : sequence of str

    Returns
    -------
    DataFrame
        ``slide``, ``cell``, ``logit`` (mean), ``runs``; no row of a slide that no run holds out.
    """
    parts = []
    for path in paths:
        table = tables.read(path, ATTENTION, ["slide", "cell", "logit"])
        parts.append(table[table["slide"].isin(list(slides))])
    if not parts:
        return pd.DataFrame(columns=["slide", "cell", "logit", "runs"])
    logits = pd.concat(parts).astype({"logit": np.float64}).groupby(["slide", "cell"])["logit"]
    return logits.agg(logit="mean", runs="size").reset_index()


def attended(
    cells: Mapping[str, str | Path],
    labels: Mapping[str, str | Path],
    runs: Mapping[str, Sequence[str | Path]],
    healthy: Sequence[int],
    table: tables.Table = CELLS,
) -> pd.DataFrame:
    """Cells of slides, whether they are injured, and the attention of each experiment to them.

    Parameters
    ----------
    cells : mapping of slide to path
        Their tables, with cell, x_um and y_um.
    labels : mapping of slide to path
        LABELS of the slides that have any.
    runs : mapping of experiment to paths
        ATTENTION tables of its runs.
    healthy : sequence of int
        Stages of uninjured cells.
    table : Table
        What ``cells`` are: CELLS, or POSITIONS of ready-made features.

    Returns
    -------
    DataFrame
        ``slide``, ``experiment``, ``cell``, ``x_um``, ``y_um``, ``injured`` (1 or 0; missing without a
        label), ``logit``, ``runs`` (missing and 0 where no run attends to the cell); cells in the order of
        their table.
    """
    logits = {experiment: attention(paths, list(cells)) for experiment, paths in runs.items()}
    parts = []
    for slide, path in cells.items():
        frame = tables.read(path, table, ["cell", "x_um", "y_um"])
        frame.insert(0, "slide", slide)
        stage = truth(labels, frame)
        frame["injured"] = np.where(stage < 0, np.nan, ~np.isin(stage, healthy))
        for experiment, found in logits.items():
            joined = frame.merge(found, on=["slide", "cell"], how="left")
            joined.insert(1, "experiment", experiment)
            runs_of = joined["runs"].fillna(0).astype(int)
            parts.append(joined.assign(logit=joined["logit"].astype(np.float64), runs=runs_of))
    columns = ["slide", "experiment", "cell", "x_um", "y_um", "injured", "logit", "runs"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def difference_columns(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of :func:`selection.find_to_controls` as columns of a table, indexed by experiment."""
    text = formatting.tabulate_differences(rows)[["reference", "difference", "p (Holm)", "pairs"]]
    return text.rename(
        columns={"reference": "control", "difference": f"{METRICS[metric].title} minus control"}
    )


def best_row(rows: pd.DataFrame, metric: str) -> Any:
    """The first of the best values of a metric."""
    return next(
        selection.iterate_rows(
            rows.sort_values("value", ascending=not METRICS[metric].higher_is_better, kind="stable")
        )
    )
