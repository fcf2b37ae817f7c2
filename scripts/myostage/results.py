"""What the runs of a study amount to: metrics with intervals, scores, confusion, staged slides.

Predictions are streamed and reduced to additive counts per run and slide, so that memory does not grow
with the number of cells; embeddings are never read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from myostage import schemas
from myostage.config import RunSpec
from myostage.errors import UserError
from myostage.metrics import (
    COMPOSITION_NAMES,
    NAMES,
    bootstrap,
    composition_metrics,
    confusion,
    rps,
    summarise,
)
from myostage.stages import stage_levels

Floats = NDArray[np.float64]
Runs = Sequence[tuple[RunSpec, Path]]

READ_ROWS = 65_536
STAGED_ONLY = -1  # fold of slides that nothing is learnt from
ALL = -1  # fold and seed of the rows about a whole experiment


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
    rps: float = 0.0  # summed over labelled cells
    cells: int = 0
    level: float = 0.0  # expected level, 0 to 1, summed with the cells' weights
    weight: float = 0.0  # summed area, or number of cells where there are no areas

    @classmethod
    def empty(cls, stages: int) -> "Tally":
        return cls(np.zeros((stages, stages), np.int64), np.zeros(stages))

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


@dataclass
class _PerCell:
    """A number per cell of every slide, read once per slide and looked up by cell number."""

    paths: Mapping[str, Path]
    table: schemas.Table
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
        frame = schemas.read(self.paths[slide], self.table, ["cell", self.column])
        cell = frame["cell"].to_numpy()
        values = np.full(cell.max() + 1 if cell.size else 0, self.missing)
        values[cell] = frame[self.column]
        return values


def evaluate_runs(
    experiments: Mapping[str, Runs],
    splits: Path,
    proportions: Mapping[str, NDArray[np.floating]],
    stages: int,
    labels: Mapping[str, Path],
    areas: Mapping[str, Path] | None,
    *,
    metrics_out: Path,
    scores_out: Path,
    confusion_out: Path,
    repeats: int = 1000,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the metrics, scores and confusion of all experiments of a study.

    The value of an experiment is the mean over its seeds of the metric on the held-out cells of all folds
    pooled. Its interval resamples slides, the same ones for every seed and experiment. Slides without a group
    are staged only: they have scores, averaged over all runs, and no metrics.

    Parameters
    ----------
    experiments
        Label of every experiment, and its runs with their predictions.
    splits
        Table of splits.
    proportions
        Given proportions of every group, [K].
    stages
        Number of stages K.
    labels
        Table of labels of every slide that has one. Without any, ``kl`` and ``l1`` are all there is.
    areas
        Table of cells of every slide, to weigh the recovery score by area; None: every cell weighs the same.
    metrics_out, scores_out, confusion_out
        Tables to write.
    repeats
        Resamples of the bootstrap.
    metadata
        Goes into the written files.

    Raises
    ------
    UserError
        Predictions that do not cover their fold, hold numbers that are no probabilities, or cells that the
        table of cells does not know.
    """
    split_of = _read_splits(splits)
    truth = _PerCell(labels, schemas.LABELS, "stage", -1)
    area = None if areas is None else _PerCell(areas, schemas.CELLS, "area_um2", np.nan)
    tallies: dict[Path, dict[str, Tally]] = {}  # a run that two experiments share is read once
    metric_rows: list[dict[str, Any]] = []
    score_rows: list[dict[str, Any]] = []
    confusion_rows: list[dict[str, Any]] = []
    for name, runs in experiments.items():
        by_seed: dict[int, dict[str, Tally]] = {}
        everywhere: dict[str, list[Tally]] = {}
        for spec, path in runs:
            if path not in tallies:
                tallies[path] = _tally(spec, path, split_of, stages, truth, area)
            found = tallies[path]
            held_out = {slide: found[slide] for slide in _held_out(split_of, spec.fold) if slide in found}
            by_seed.setdefault(spec.seed, {}).update(held_out)
            for slide, tally in found.items():
                everywhere.setdefault(slide, []).append(tally)
            row = {"experiment": name, "run": spec.id, "fold": spec.fold, "seed": spec.seed}
            metric_rows += _metric_rows(row, [held_out], split_of, proportions, repeats)
        seeds = list(by_seed.values())
        if any(seed.keys() != seeds[0].keys() for seed in seeds):
            raise ValueError(
                f"experiment {name}: its seeds hold out different slides; give all folds of each"
            )
        row = {"experiment": name, "run": "", "fold": ALL, "seed": ALL}
        metric_rows += _metric_rows(row, seeds, split_of, proportions, repeats)
        score_rows += _score_rows(name, everywhere, split_of)
        confusion_rows += _confusion_rows(name, seeds)
    for path, rows, out in (
        (metrics_out, metric_rows, schemas.METRICS),
        (scores_out, score_rows, schemas.SCORES),
        (confusion_out, confusion_rows, schemas.CONFUSION),
    ):
        schemas.write(path, pd.DataFrame(rows, columns=out.schema.names), out, metadata)


def stage_slides(
    runs: Runs,
    splits: Path,
    out: Mapping[str, Path],
    stages: int,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write one table of predictions per slide, probabilities averaged over the runs of one experiment.

    A held-out slide is averaged over the seeds of its own fold, a slide that is staged only over all runs.
    Embeddings of different runs have no mean: they are left empty.

    Parameters
    ----------
    runs
        Runs of the experiment and their predictions.
    splits
        Table of splits.
    out
        File to write for every slide.
    stages
        Number of stages K.
    metadata
        Goes into the written files.

    Raises
    ------
    UserError
        A slide that the splits or the predictions do not know, runs that disagree about its cells.
    """
    split_of = _read_splits(splits)
    schema = schemas.predictions_table(stages)
    for slide, target in out.items():
        if slide not in split_of:
            raise UserError(f"{splits}: no row for slide {slide}; delete the file and run the workflow again")
        fold = split_of[slide].fold
        cells: NDArray[np.int64] | None = None
        total, count = np.zeros((0, stages)), 0
        for spec, path in runs:
            if fold not in (STAGED_ONLY, spec.fold):
                continue
            found, probabilities = _read_slide(path, schema, slide)
            if cells is None:
                cells, total = found, np.zeros((found.size, stages))
            if not np.array_equal(cells, found):
                raise UserError(
                    f"{path}: its cells of slide {slide} are not those of the experiment's other runs; "
                    "delete it and run the workflow again"
                )
            total += probabilities
            count += 1
        expected = split_of[slide].cells
        if cells is None or cells.size != expected:
            raise UserError(
                f"{target}: slide {slide} has {expected} cells, but the experiment's runs predict "
                f"{0 if cells is None else cells.size}; delete their predictions and run the workflow again"
            )
        schemas.write(target, _staged(slide, cells, total / count, schema), schema, metadata)


def _tally(
    spec: RunSpec,
    path: Path,
    splits: Mapping[str, Split],
    stages: int,
    truth: _PerCell,
    area: _PerCell | None,
) -> dict[str, Tally]:
    """Counts of every slide that a run predicts, complete for the slides it holds out."""
    found: dict[str, Tally] = {}
    levels = stage_levels(stages)
    wanted = {slide: row.cells for slide, row in splits.items() if row.fold in (spec.fold, STAGED_ONLY)}
    for slide, cells, probabilities in _stream(path, stages):
        if slide not in wanted:
            raise UserError(
                f"{path}: slide {slide} is not held out in fold {spec.fold}; "
                "delete the file and run the workflow again"
            )
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
    held_out = _held_out(splits, spec.fold)
    for slide, number in wanted.items():
        predicted = found[slide].cells if slide in found else 0
        # A baseline that knows groups only has nothing to say about a slide without one.
        if predicted != number and (predicted or slide in held_out):
            raise UserError(
                f"{path}: {predicted} cells of slide {slide} are predicted where the splits have {number}; "
                "delete the file and run the workflow again"
            )
    return found


def _stream(path: Path, stages: int) -> Iterator[tuple[str, NDArray[np.int64], Floats]]:
    """Slide, cells [n] and probabilities [n, K], one slide after another within each batch of rows."""
    with schemas.open_table(path, schemas.predictions_table(stages)) as file:
        for batch in file.iter_batches(READ_ROWS, columns=["slide", "cell", "probabilities"]):
            slides = batch.column("slide").dictionary_encode()
            code = slides.indices.to_numpy()
            cell = batch.column("cell").to_numpy().astype(np.int64)
            probabilities = _probabilities(batch.column("probabilities"), stages, path)
            for number, slide in enumerate(slides.dictionary.to_pylist()):
                rows = code == number
                yield slide, cell[rows], probabilities[rows]


def _read_slide(path: Path, schema: schemas.Table, slide: str) -> tuple[NDArray[np.int64], Floats]:
    """Cells, ascending, and probabilities of one slide; only the row groups that may hold it are read."""
    with schemas.open_table(path, schema):
        rows = ds.dataset(path, format="parquet")
    found = rows.to_table(["cell", "probabilities"], filter=pc.field("slide") == slide)
    found = found.sort_by("cell").combine_chunks()
    stages = schema.schema.field("probabilities").type.list_size
    probabilities = [_probabilities(chunk, stages, path) for chunk in found["probabilities"].chunks]
    return (
        found["cell"].to_numpy().astype(np.int64),
        np.concatenate(probabilities) if probabilities else np.zeros((0, stages)),
    )


def _probabilities(column: pa.Array, stages: int, path: Path) -> Floats:
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, stages)
    # float32 rows sum to 1 within 1e-6; nan fails the comparison too.
    if values.shape[0] != len(column) or not (np.abs(values.sum(1) - 1) < 1e-3).all():
        raise UserError(
            f"{path}: a cell's probabilities do not sum to 1; delete the file and the run's model, and run "
            "the workflow again"
        )
    return values


def _read_splits(path: Path) -> dict[str, Split]:
    """Splits by slide, sorted by name: the order that the bootstrap draws from."""
    rows = schemas.read_arrow(path, schemas.SPLITS).to_pylist()
    return {row["slide"]: Split(**row) for row in sorted(rows, key=lambda row: row["slide"])}


def _held_out(splits: Mapping[str, Split], fold: int) -> list[str]:
    """Slides that a run of ``fold`` holds out, and none of those that are staged only."""
    return [slide for slide, row in splits.items() if row.fold == fold != STAGED_ONLY]


def _metric_rows(
    row: dict[str, Any],
    seeds: Sequence[Mapping[str, Tally]],
    splits: Mapping[str, Split],
    proportions: Mapping[str, NDArray[np.floating]],
    repeats: int,
) -> list[dict[str, Any]]:
    """Rows of one run (one seed) or one experiment (all seeds, with the same slides each)."""
    slides = sorted(seeds[0]) if seeds else []
    labelled = [slide for slide in slides if seeds[0][slide].labelled]
    rows: list[dict[str, Any]] = []

    def add(names: Sequence[str], values: tuple[Floats, Floats, Floats], slides: int, cells: int) -> None:
        for name, value, low, high in zip(names, *values, strict=True):
            extent = {"value": value, "low": low, "high": high, "slides": slides, "cells": cells}
            rows.append(row | {"metric": name} | extent)

    if labelled:
        # [slides, seeds, K * K + 1]: the confusion matrix, then the summed rps
        counts = [[np.append(seed[slide].confusion, seed[slide].rps) for seed in seeds] for slide in labelled]
        add(
            NAMES,
            bootstrap(counts, _mean_metrics, repeats),
            len(labelled),
            sum(seeds[0][slide].labelled for slide in labelled),
        )
    if slides:
        # [slides, seeds, 3]: kl and l1 of a slide, then 1, so that a sum holds its number of terms
        shares = [
            [
                [
                    *composition_metrics(seed[slide].composition, proportions[splits[slide].group]).values(),
                    1.0,
                ]
                for seed in seeds
            ]
            for slide in slides
        ]
        add(
            COMPOSITION_NAMES,
            bootstrap(shares, _mean_composition, repeats),
            len(slides),
            sum(seeds[0][slide].cells for slide in slides),
        )
    return rows


def _mean_metrics(counts: Floats) -> Floats:
    """Metrics [..., 7] of summed counts [..., seeds, K * K + 1], mean over seeds."""
    stages = round((counts.shape[-1] - 1) ** 0.5)
    matrix = counts[..., :-1].reshape(*counts.shape[:-1], stages, stages)
    return summarise(matrix, counts[..., -1]).mean(-2)


def _mean_composition(sums: Floats) -> Floats:
    """kl and l1 [..., 2] of summed [..., seeds, 3], mean over slides, then over seeds."""
    return (sums[..., :-1] / sums[..., -1:]).mean(-2)


def _score_rows(
    experiment: str, tallies: Mapping[str, Sequence[Tally]], splits: Mapping[str, Split]
) -> list[dict[str, Any]]:
    return [
        {
            "experiment": experiment,
            "slide": row.slide,
            "group": row.group,
            "animal": row.animal,
            "cells": tallies[row.slide][0].cells,
            "recovery_score": float(np.mean([tally.recovery_score for tally in tallies[row.slide]])),
            "proportions": np.mean([tally.composition for tally in tallies[row.slide]], axis=0),
        }
        for row in splits.values()
        if row.slide in tallies
    ]


def _confusion_rows(experiment: str, seeds: Sequence[Mapping[str, Tally]]) -> list[dict[str, Any]]:
    matrices = [np.sum([tally.confusion for tally in seed.values()], axis=0) for seed in seeds if seed]
    mean = np.mean(matrices, axis=0) if matrices else np.zeros((0, 0))
    if not mean.any():
        return []
    return [
        {"experiment": experiment, "true_stage": true, "predicted_stage": predicted, "cells": cells}
        for (true, predicted), cells in np.ndenumerate(mean)
    ]


def _staged(slide: str, cells: NDArray[np.int64], probabilities: Floats, schema: schemas.Table) -> pa.Table:
    stages = probabilities.shape[1]
    columns = [
        pa.array([slide] * cells.size, pa.string()),
        pa.array(cells, pa.int32()),
        pa.array(probabilities.argmax(1), pa.int32()),
        pa.FixedSizeListArray.from_arrays(pa.array(probabilities.astype(np.float32).ravel()), stages),
        pa.array([[]] * cells.size, pa.list_(pa.float16())),
    ]
    return pa.table(columns, schema=schema.schema.with_metadata(None))
