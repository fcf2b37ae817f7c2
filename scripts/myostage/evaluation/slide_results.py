"""What the runs of models of slide labels amount to: metrics with intervals, and comparisons.

Slides are measured by their class, cells by the attention they get: a cell is injured where its annotated
stage is none of the healthy ones. Annotated stages are used here to measure, and never to learn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myostage import tables
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.evaluation.experiments import (
    Design,
    Families,
    Floats,
    Measure,
    add_up,
    evaluate_all,
    list_comparisons,
    list_families,
    list_runs,
    measure_seeds,
    read_outcome,
    write_rows,
)
from myostage.evaluation.localisation import ROUNDING
from myostage.evaluation.metrics.attention import ENERGY, INSTANCE_AUROC, INSTANCE_F1
from myostage.evaluation.metrics.record import Metric
from myostage.evaluation.metrics.slide_labels import RANKED, choose_classed, measure_classed, measure_ranked
from myostage.evaluation.tables import COMPARISONS, METRICS, RUNS
from myostage.evaluation.tallies import PerCell, Split, held_out, read_splits
from myostage.evaluation.weighted import auroc
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.tables import ATTENTION, SLIDE_PREDICTIONS
from myostage.study.run import RunSpec
from myostage.study.sections.compare import Compare
from myostage.study.sections.slide_label import LabelKind

# Probabilities of a slide and attention of its cells, float32, sum to 1 within this.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SlideRun:
    """A run of a model of slide labels, and what it wrote."""

    spec: RunSpec
    predictions: Path
    attention: Path


@dataclass(frozen=True)
class SlideTally:
    """One held-out slide under one run."""

    label: int  # -1: none
    predicted: int
    probabilities: Floats  # [C]
    cells: int
    energy: float
    labelled: int = 0  # cells
    auroc: float = (
        np.nan
    )  # of the attention logit for injured cells; nan where the labelled ones are of one kind
    injured: tuple[int, int, int] = (0, 0, 0)  # labelled cells: rightly, predicted, truly injured


def evaluate_slides(
    experiments: Mapping[str, Sequence[SlideRun]],
    outcomes: Mapping[str, Path],
    histories: Mapping[str, Path],
    splits: Path,
    labels: Mapping[str, Path],
    *,
    healthy: Sequence[int],
    kinds: Mapping[str, LabelKind],
    classes: Mapping[str, int],
    compare: Compare,
    against: Mapping[str, str],
    families: Families,
    metrics_out: Path,
    comparisons_out: Path,
    runs_out: Path | None = None,
    reference_of: Mapping[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the metrics and comparisons of all experiments with models of slide labels.

    The value of an experiment is the mean over its seeds of the metric on the held-out slides of all folds; a
    seed of which a run failed is left out. Intervals and tests take animals and runs as noise, see
    :mod:`myostage.evaluation.intervals`. Slides without cells are left out, and slides without a label where
    the class is measured.

    The metrics are those of :mod:`myostage.evaluation.metrics.slide_labels` and of
    :mod:`myostage.evaluation.metrics.attention`. ``instance_auroc`` is the mean over the slides with labelled
    cells of both kinds; for ``instance_f1`` a cell is predicted to be injured where its attention exceeds 1/n
    on its slide of n cells. What is undefined is missing, or has no row where no slide can show it.

    Parameters
    ----------
    experiments
        Label of every experiment, and its runs. A run that failed is not read.
    outcomes
        Table of the outcome of every run, by its id.
    histories
        History of every run, by its id.
    splits
        Table of splits.
    labels
        Table of annotated stages of the cells of every slide that has one. Without any, cells are not
        measured.
    healthy
        Stages of uninjured cells.
    kinds, classes
        Kind and number of classes C of the label of every experiment.
    compare
        The experiment that all others are compared with (the first by default), level and power of the tests.
        Experiments of different slide labels are compared in cells and energy alone.
    against
        Label of an experiment -> label of the one that it changes something of.
    families
        Which comparisons are tested, and which together.
    metrics_out, comparisons_out, runs_out
        Tables to write; None: not written.
    reference_of
        Label -> reference, for experiments whose reference is not that of ``compare``.
    metadata
        Goes into the written files.

    Raises
    ------
    UserError
        Predictions that do not cover their fold or hold numbers that are no probabilities, attention that is
        not that of their cells, an outcome of another run.
    """
    split_of = read_splits(splits)
    truth = PerCell(labels, LABELS, "stage", -1)
    # A run that two experiments share is read once.
    runs = {run.spec.id: (run, classes[name]) for name, listed in experiments.items() for run in listed}
    outcome = {name: read_outcome(outcomes[name], name) for name in runs}
    held = {
        name: tally_slides(run, split_of, number, truth, healthy)
        for name, (run, number) in runs.items()
        if outcome[name]["status"] == "ok"
    }
    measured = any(slide in labels and row.fold != STAGED_ONLY for slide, row in split_of.items())
    of_cells = _list_keys([*([INSTANCE_AUROC, INSTANCE_F1] if measured else []), ENERGY])
    names = {name: (*_list_keys([*RANKED, *choose_classed(kinds[name])]), *of_cells) for name in experiments}
    specs = {name: [run.spec for run in listed] for name, listed in experiments.items()}
    measures = {
        name: partial(_measure, splits=split_of, kind=kinds[name], classes=classes[name])
        for name in experiments
    }
    evaluated, rows = evaluate_all(specs, held, names, measures)
    label_of = {name: listed[0].spec.label for name, listed in experiments.items()}
    compared = list_comparisons(
        evaluated,
        list_families(evaluated, compare, against, reference_of=reference_of),
        families,
        lambda one, other: names[one] if label_of[one] == label_of[other] else of_cells,
        compare,
    )
    write_rows(METRICS, rows, metrics_out, metadata)
    write_rows(COMPARISONS, compared, comparisons_out, metadata)
    if runs_out is not None:
        write_rows(RUNS, list_runs(specs, outcome, histories), runs_out, metadata)


def tally_slides(
    run: SlideRun, splits: Mapping[str, Split], classes: int, truth: PerCell, healthy: Sequence[int]
) -> dict[str, SlideTally]:
    """What is left of every slide with cells that a run holds out.

    Parameters
    ----------
    run
        A run that did not fail.
    splits
        Splits by slide.
    classes
        Number of classes C.
    truth
        Annotated stage of every cell, -1 where it has none.
    healthy
        Stages of uninjured cells.

    Raises
    ------
    UserError
        See :func:`evaluate_slides`.
    """
    predicted = {row["slide"]: row for row in _predictions(run, splits, classes)}
    attention = dict(_attention(run.attention))
    counted = held_out(splits, run.spec.fold)
    found: dict[str, SlideTally] = {}
    for slide in sorted(predicted.keys() | attention.keys()):
        cells, logits, weights = attention.get(slide, (np.empty(0, np.int64), np.empty(0), np.empty(0)))
        wanted = predicted[slide]["cells"] if slide in predicted else 0
        distinct = np.count_nonzero(np.bincount(cells))
        if (cells.size, distinct) != (wanted, wanted):
            raise UserError(
                f"{run.attention}: {cells.size} rows for {distinct} cells of slide {slide}, which has "
                f"{wanted} cells in {run.predictions}; delete both files and run the workflow again"
            )
        if not wanted or slide not in counted:
            continue
        if np.isnan(logits).any() or not abs(weights.sum() - 1) < SUM_TOLERANCE:
            raise UserError(
                f"{run.attention}: the attention to the cells of slide {slide} is no distribution; delete "
                "the file and the run's model, and run the workflow again"
            )
        row = predicted[slide]
        stage = truth.of(slide, cells)
        known = stage >= 0
        injured = ~np.isin(stage[known], list(healthy))
        chosen = weights[known] > (1 + ROUNDING) / cells.size
        found[slide] = SlideTally(
            row["label"],
            row["predicted"],
            np.array(row["probabilities"]),
            row["cells"],
            np.nan if row["energy"] is None else row["energy"],
            int(known.sum()),
            float(auroc(logits[known], injured, np.ones(injured.size))) if known.any() else np.nan,
            (int((chosen & injured).sum()), int(chosen.sum()), int(injured.sum())),
        )
    return found


def _predictions(run: SlideRun, splits: Mapping[str, Split], classes: int) -> list[dict[str, Any]]:
    """Rows of the slides that a run predicts, checked."""
    path = run.predictions
    again = "delete the file and run the workflow again"
    rows = tables.read_arrow(path, SLIDE_PREDICTIONS).to_pylist()
    known = [slide for slide, row in splits.items() if row.fold in (run.spec.fold, STAGED_ONLY)]
    slides = [row["slide"] for row in rows]
    if wrong := sorted(set(slides) - set(known)):
        raise UserError(f"{path}: slide {wrong[0]} is not held out in fold {run.spec.fold}; {again}")
    needed = {slide for slide in held_out(splits, run.spec.fold) if splits[slide].cells}
    if missing := sorted(needed - set(slides)):
        raise UserError(f"{path}: slide {missing[0]} of fold {run.spec.fold} is not predicted; {again}")
    if len(set(slides)) < len(slides):
        raise UserError(f"{path}: a slide is predicted twice; {again}")
    for row in rows:
        probabilities = np.array(row["probabilities"], dtype=np.float64)
        right = probabilities.size == classes and abs(probabilities.sum() - 1) < SUM_TOLERANCE
        if not (right and -1 <= row["label"] < classes and 0 <= row["predicted"] < classes):
            raise UserError(
                f"{path}: slide {row['slide']} has label {row['label']}, class {row['predicted']} and "
                f"probabilities {row['probabilities']}, which are not those of {classes} classes; {again}"
            )
    return rows


def _attention(path: Path) -> Iterator[tuple[str, tuple[NDArray[np.int64], Floats, Floats]]]:
    """Slide, and its cells, logits and weights, [n] each."""
    table = tables.read_arrow(path, ATTENTION).combine_chunks()
    cell, logit, weight = (table[name].to_numpy().astype(np.float64) for name in ("cell", "logit", "weight"))
    slides = table["slide"].combine_chunks().dictionary_encode()
    code = slides.indices.to_numpy()
    order = np.argsort(code, kind="stable")
    ends = np.bincount(code, minlength=len(slides.dictionary)).cumsum()
    for slide, start, end in zip(slides.dictionary.to_pylist(), [0, *ends], ends, strict=False):
        rows = order[start:end]
        yield slide, (cell[rows].astype(np.int64), logit[rows], weight[rows])


def _list_keys(metrics: Sequence[Metric]) -> tuple[str, ...]:
    return tuple(metric.key for metric in metrics)


def _measure(
    seeds: Sequence[Mapping[str, SlideTally]], splits: Mapping[str, Split], kind: LabelKind, classes: int
) -> list[Measure]:
    """What the held-out slides, the same for each seed, can be measured by."""

    def measure(
        metrics: Sequence[Metric],
        statistic: Callable[[Floats, Floats], Floats],
        which: Callable[[SlideTally], bool],
        values: Callable[[SlideTally], Sequence[float] | Floats],
        cells: Callable[[SlideTally], int],
    ) -> list[Measure]:
        """Of the slides that it can be measured on, if there are any."""
        slides = tuple(slide for slide in sorted(seeds[0]) if which(seeds[0][slide]))
        if not slides:
            return []
        found = np.array([[values(seed[slide]) for seed in seeds] for slide in slides], dtype=np.float64)
        count = sum(cells(seeds[0][slide]) for slide in slides)
        return [Measure(_list_keys(metrics), statistic, slides, found, count, Design.of(slides, splits))]

    def of_sums(metric: Metric) -> Callable[[Floats, Floats], Floats]:
        return add_up(lambda sums: metric.compute(sums)[..., None])

    confused = np.eye(classes**2)
    return [
        *measure(
            RANKED,
            measure_seeds(partial(measure_ranked, kind=kind)),
            lambda tally: tally.label >= 0,
            lambda tally: [tally.label, *tally.probabilities],
            lambda tally: tally.cells,
        ),
        *measure(
            choose_classed(kind),
            add_up(partial(measure_classed, kind=kind)),
            lambda tally: tally.label >= 0,
            lambda tally: confused[tally.label * classes + tally.predicted],
            lambda tally: tally.cells,
        ),
        *measure(
            [INSTANCE_AUROC],
            of_sums(INSTANCE_AUROC),
            lambda tally: not np.isnan(tally.auroc),
            lambda tally: [tally.auroc, 1.0],
            lambda tally: tally.labelled,
        ),
        *measure(
            [INSTANCE_F1],
            of_sums(INSTANCE_F1),
            lambda tally: tally.labelled > 0,
            lambda tally: tally.injured,
            lambda tally: tally.labelled,
        ),
        *measure(
            [ENERGY],
            of_sums(ENERGY),
            lambda tally: not np.isnan(tally.energy),
            lambda tally: [tally.energy, 1.0],
            lambda tally: tally.cells,
        ),
    ]
