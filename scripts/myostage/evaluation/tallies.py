"""Predictions of a run reduced to additive counts per slide.

Predictions are streamed, so that memory does not grow with the number of cells; embeddings are never read.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation.metrics.calibration import AS_PREDICTED, BINS, CALIBRATED, sum_confidences
from myostage.evaluation.metrics.cells import confusion, rps
from myostage.learning.calibration import calibrate
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.predictions import read_learnt, read_run
from myostage.learning.priors import Prior
from myostage.learning.stages import stage_levels
from myostage.learning.tables import SPLITS, predictions_table
from myostage.study.run import RunSpec
from myostage.study.sections.prediction import Prediction

Floats = NDArray[np.float64]

READ_ROWS = 65_536


@dataclass(frozen=True)
class Split:
    """One row of the table of splits."""

    slide: str
    group: str
    animal: str
    cells: int
    fold: int


@dataclass
class Tally:
    """Additive counts of one slide under one run."""

    confusion: NDArray[np.int64]  # labelled cells by true and predicted stage [K, K]
    probabilities: Floats  # summed over cells [K]
    confidences: Floats  # of labelled cells, as predicted and calibrated [2, K, BINS, 3]
    rps: float = 0.0  # summed over labelled cells
    cells: int = 0
    level: float = 0.0  # expected level, 0 to 1, summed with the cells' weights
    weight: float = 0.0  # summed area, or number of cells where there are no areas
    true_level: float = 0.0  # level of the annotated stage, summed with the labelled cells' weights
    true_weight: float = 0.0  # weight of the labelled cells

    @classmethod
    def empty(cls, stages: int) -> "Tally":
        confidences = np.zeros((2, stages, BINS, 3))
        return cls(np.zeros((stages, stages), np.int64), np.zeros(stages), confidences)

    @property
    def labelled(self) -> int:
        return int(self.confusion.sum())

    @property
    def composition(self) -> Floats:
        """Predicted share of every stage [K]."""
        return self.probabilities / self.cells

    @property
    def recovery_score(self) -> float:
        """Weighted mean level."""
        return self.level / self.weight

    @property
    def true_recovery_score(self) -> float:
        """Weighted mean level of the annotated stages; nan without any."""
        return self.true_level / self.true_weight if self.true_weight else np.nan


@dataclass
class PerCell:
    """A number per cell of every slide, read once per slide and looked up by cell number."""

    paths: Mapping[str, Path]
    table: tables.Table
    column: str
    missing: float
    _slides: dict[str, Floats] = field(default_factory=dict)

    def of(self, slide: str, cells: NDArray[np.int64]) -> Floats:
        """Values of ``cells``; ``missing`` where the table has no such cell."""
        if slide not in self._slides:
            self._slides[slide] = self._read(slide)
        values = self._slides[slide]
        known = cells < values.size
        found = np.full(cells.size, self.missing)
        found[known] = values[cells[known]]
        return found

    def _read(self, slide: str) -> Floats:
        if slide not in self.paths:
            return np.empty(0)
        frame = tables.read(self.paths[slide], self.table, ["cell", self.column])
        cell = frame["cell"].to_numpy()
        values = np.full(cell.max() + 1 if cell.size else 0, self.missing)
        values[cell] = frame[self.column]
        return values


def read_splits(path: Path) -> dict[str, Split]:
    """Splits by slide, sorted by name."""
    rows = tables.read_arrow(path, SPLITS).to_pylist()
    return {row["slide"]: Split(**row) for row in sorted(rows, key=lambda row: row["slide"])}


def list_priors(
    prediction: Prediction, splits: Mapping[str, Split], proportions: Mapping[str, ArrayLike]
) -> dict[str, Prior]:
    """The priors of a study by kind; ``proportions`` [K] of every group."""
    given = {
        slide: np.asarray(proportions[row.group], np.float64)
        for slide, row in splits.items()
        if row.group in proportions
    }
    settings = given, prediction.strength, prediction.table_error
    return {kind: Prior(kind, *settings) for kind in prediction.priors}


def held_out(splits: Mapping[str, Split], fold: int) -> list[str]:
    """Slides that a run of ``fold`` holds out, and none of those that are staged only."""
    return [slide for slide, row in splits.items() if row.fold == fold != STAGED_ONLY]


def tally_run(
    spec: RunSpec,
    path: Path,
    splits: Mapping[str, Split],
    stages: int,
    truth: PerCell,
    area: PerCell | None,
    prior: Prior | None = None,
) -> dict[str, Tally]:
    """Counts of every slide that a run predicts, complete for the slides it holds out.

    Parameters
    ----------
    spec, path
        The run and its predictions.
    splits
        Splits by slide.
    stages
        Number of stages K.
    truth
        Annotated stage of every cell, -1 where it has none.
    area
        Weight of every cell in the recovery score, nan where it is unknown; None: every cell weighs the same.
    prior
        What is put into the probabilities, slide by slide, before they are counted.

    Raises
    ------
    UserError
        Predictions that do not cover their fold, hold numbers that are no probabilities, or cells that the
        table of cells does not know.
    """
    found: dict[str, Tally] = {}
    levels = stage_levels(stages)
    temperature, _ = read_run(path, stages)
    wanted = {slide: row.cells for slide, row in splits.items() if row.fold in (spec.fold, STAGED_ONLY)}
    learnt = read_learnt(path, stages) if prior else None
    for slide, cells, raw in _stream(path, stages) if prior is None else _by_slide(path, stages):
        if slide not in wanted:
            raise UserError(
                f"{path}: slide {slide} is not held out in fold {spec.fold}; "
                "delete the file and run the workflow again"
            )
        probabilities = raw if prior is None else prior.put(slide, raw, learnt)
        tally = found.setdefault(slide, Tally.empty(stages))
        tally.cells += cells.size
        tally.probabilities += probabilities.sum(0)
        weights = np.ones(cells.size) if area is None else area.of(slide, cells)
        if np.isnan(weights).any():
            raise UserError(
                f"{path}: cell {cells[np.isnan(weights)][0]} of slide {slide} is in no table of cells; "
                "delete the predictions and run the workflow again"
            )
        tally.level += float(weights @ (probabilities @ levels))
        tally.weight += float(weights.sum())
        stage = truth.of(slide, cells).astype(np.int64)
        known = stage >= 0
        if known.any():
            if stage.max() >= stages:
                raise UserError(
                    f"{truth.paths[slide]}: stage {stage.max()} of a study of {stages} stages; "
                    "delete the labels and run the workflow again"
                )
            tally.confusion += confusion(stage[known], probabilities[known].argmax(1), stages)
            tally.rps += float(rps(stage[known], probabilities[known]).sum())
            calibrated = calibrate(raw if prior else raw[known], temperature)
            calibrated = prior.put(slide, calibrated, learnt)[known] if prior else calibrated
            for kind, scores in ((AS_PREDICTED, probabilities[known]), (CALIBRATED, calibrated)):
                tally.confidences[kind] += sum_confidences(stage[known], scores)
            tally.true_level += float(weights[known] @ levels[stage[known]])
            tally.true_weight += float(weights[known].sum())
    needed = held_out(splits, spec.fold)
    for slide, number in wanted.items():
        predicted = found[slide].cells if slide in found else 0
        # A baseline that knows groups only has nothing to say about a slide without one.
        if predicted != number and (predicted or slide in needed):
            raise UserError(
                f"{path}: {predicted} cells of slide {slide} are predicted where the splits have {number}; "
                "delete the file and run the workflow again"
            )
    return found


def read_slide(path: Path, stages: int, slide: str) -> tuple[NDArray[np.int64], Floats]:
    """Cells [n], ascending, and probabilities [n, K] of one slide.

    Only the row groups that may hold it are read.
    """
    wanted = pc.field("slide") == slide
    found = tables.read_where(path, predictions_table(stages), ["cell", "probabilities"], wanted)
    found = found.sort_by("cell").combine_chunks()
    probabilities = [_probabilities(chunk, stages, path) for chunk in found["probabilities"].chunks]
    return (
        found["cell"].to_numpy().astype(np.int64),
        np.concatenate(probabilities) if probabilities else np.zeros((0, stages)),
    )


def _stream(path: Path, stages: int) -> Iterator[tuple[str, NDArray[np.int64], Floats]]:
    """Slide, cells [n] and probabilities [n, K], one slide after another within each batch of rows."""
    with tables.open_table(path, predictions_table(stages)) as file:
        for batch in file.iter_batches(READ_ROWS, columns=["slide", "cell", "probabilities"]):
            slides = batch.column("slide").dictionary_encode()
            code = slides.indices.to_numpy()
            cell = batch.column("cell").to_numpy().astype(np.int64)
            probabilities = _probabilities(batch.column("probabilities"), stages, path)
            for number, slide in enumerate(slides.dictionary.to_pylist()):
                rows = code == number
                yield slide, cell[rows], probabilities[rows]


def _by_slide(path: Path, stages: int) -> Iterator[tuple[str, NDArray[np.int64], Floats]]:
    """Slide, cells [n] and probabilities [n, K], all of a slide together."""
    for slide, parts in itertools.groupby(_stream(path, stages), key=lambda part: part[0]):
        _, cells, probabilities = zip(*parts, strict=True)
        yield slide, np.concatenate(cells), np.concatenate(probabilities)


def _probabilities(column: pa.Array, stages: int, path: Path) -> Floats:
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, stages)
    # float32 rows sum to 1 within 1e-6; nan fails the comparison too.
    if values.shape[0] != len(column) or not (np.abs(values.sum(1) - 1) < 1e-3).all():
        raise UserError(
            f"{path}: a cell's probabilities do not sum to 1; delete the file and the run's model, and run "
            "the workflow again"
        )
    return values
