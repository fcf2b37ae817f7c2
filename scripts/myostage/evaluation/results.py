"""What the runs of a study amount to: metrics with intervals, comparisons, scores, confusion."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myostage import tables
from myostage.cells.tables import CELLS, LABELS
from myostage.evaluation.experiments import (
    GROUP,
    PRIOR,
    Design,
    Families,
    Floats,
    Measure,
    add_up,
    base,
    begin_row,
    collect_seeds,
    evaluate_all,
    label_with,
    list_comparisons,
    list_families,
    list_runs,
    measure_seeds,
    read_outcome,
    write_rows,
)
from myostage.evaluation.metrics import calibration, composition, expected_stage
from myostage.evaluation.metrics import cells as of_cells
from myostage.evaluation.tables import (
    CHOICES,
    COMPARISONS,
    CONFUSION,
    METRICS,
    RELIABILITY,
    RUNS,
    SCORES,
    WRONG_TABLES,
)
from myostage.evaluation.tallies import PerCell, Split, Tally, held_out, list_priors, read_splits, tally_run
from myostage.evaluation.weighted import mean_of
from myostage.evaluation.wrong_tables import measure_wrong_tables
from myostage.learning import tables as learning_tables
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.predictions import read_learnt
from myostage.learning.priors import Learnt, Prior
from myostage.study.run import RunSpec
from myostage.study.sections.compare import Compare
from myostage.study.sections.prediction import Prediction

Runs = Sequence[tuple[RunSpec, Path]]
Seeds = Sequence[Mapping[str, Tally]]
"""The held-out slides of every seed, all folds together."""

# The method that says of every cell what is given of its group.
GROUP_ALONE = "group_majority"
# Slides of the same mean stage differ in its last digits, by how many cells they have; ranks must not.
STAGE_DECIMALS = 9


def evaluate_runs(
    experiments: Mapping[str, Runs],
    outcomes: Mapping[str, Path],
    histories: Mapping[str, Path],
    splits: Path,
    proportions: Mapping[str, NDArray[np.floating]],
    stages: int,
    labels: Mapping[str, Path],
    areas: Mapping[str, Path] | None,
    *,
    compare: Compare,
    against: Mapping[str, str],
    baselines: Sequence[str],
    label_learners: Sequence[str],
    families: Families,
    prediction: Prediction,
    metrics_out: Path,
    comparisons_out: Path,
    scores_out: Path,
    carried: Mapping[str, Mapping[str, str]],
    confusion_out: Path,
    reliability_out: Path,
    runs_out: Path,
    choices: Mapping[str, Path] | None = None,
    choices_out: Path | None = None,
    wrong_tables_out: Path | None = None,
    slide_level: bool = False,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the metrics, comparisons, scores, confusion and runs of all experiments of a study.

    The value of an experiment is the mean over its seeds of the metric on the held-out cells of all folds
    pooled; a seed of which a run failed is left out. Intervals and tests take animals and runs as noise, see
    :mod:`myostage.evaluation.intervals`. Slides without a group are staged only: they have scores, averaged
    over all runs, and no metrics.

    Parameters
    ----------
    experiments
        Label of every experiment, and its runs with their predictions.
    outcomes
        Table of the outcome of every run, by its id.
    histories
        History of every run, by its id.
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
    compare
        The experiment that all others are compared with, the metric that the best baseline is best in, and
        level and power of the tests.
    against
        Label of an experiment -> label of the one that it changes something of.
    baselines, label_learners
        Labels. The experiments that are neither are compared with the best baseline.
    families
        Which comparisons are tested, and which together, so that a wide grid does not drown the question.
    prediction
        Which priors every experiment that learns is measured with, in rows of labels of their own, and which
        its scores are made with.
    metrics_out, comparisons_out, scores_out, confusion_out, reliability_out, runs_out
        Tables to write.
    choices, choices_out
        Choices of every run that chose its settings, by its id, and the table to write of them.
    wrong_tables_out
        Table of what priors make of wrong proportions, to be written where a study has any.
    slide_level
        Whether the expected stage of slides with labelled cells is measured too, see
        :func:`measure_expected_stage`.
    metadata
        Goes into the written files.

    Raises
    ------
    UserError
        Predictions that do not cover their fold, hold numbers that are no probabilities, or cells that the
        table of cells does not know; an outcome of another run.
    """
    split_of = read_splits(splits)
    truth = PerCell(labels, LABELS, "stage", -1)
    area = None if areas is None else PerCell(areas, CELLS, "area_um2", np.nan)
    measured = any(slide in labels and row.fold != STAGED_ONLY for slide, row in split_of.items())
    names = [*((*of_cells.NAMES, *calibration.NAMES) if measured else ())]
    names += [*(expected_stage.NAMES if measured and slide_level else ()), *composition.NAMES]
    # A run that two experiments share is read once.
    paths = {spec.id: (spec, path) for runs in experiments.values() for spec, path in runs}
    outcome = {run: read_outcome(outcomes[run], run) for run in paths}
    tallies = {
        run: tally_run(spec, path, split_of, stages, truth, area)
        for run, (spec, path) in paths.items()
        if outcome[run]["status"] == "ok"
    }
    held = {run: _held_out(found, paths[run][0].fold, split_of) for run, found in tallies.items()}
    rare = _find_rare(held.values()) if slide_level else None

    def measures(seeds: Seeds) -> list[Measure]:
        return _measure(seeds, split_of, proportions, rare)

    # With a prior the distance to the given proportions measures what was put in.
    of_cell = [name for name in names if name not in composition.NAMES]

    def measure_cells(seeds: Seeds) -> list[Measure]:
        return [measure for measure in measures(seeds) if measure.names != composition.NAMES]

    specs = {name: [spec for spec, _ in runs] for name, runs in experiments.items()}
    evaluated, measured_rows = evaluate_all(
        specs, held, dict.fromkeys(specs, names), dict.fromkeys(specs, measures)
    )
    learnt = {run: read_learnt(paths[run][1], stages) for run in tallies}
    learning = {
        name: listed
        for name, listed in specs.items()
        if any(learnt.get(spec.id) is not None for spec in listed)
    }
    of_kind = list_priors(prediction, split_of, proportions)
    priors = list(of_kind.values())
    confusions, reliabilities = [], []
    counted = {"none": (specs, tallies, held)}
    for prior in priors:
        labelled = {label_with(name, prior.kind): listed for name, listed in learning.items()}
        put = {
            run: tally_run(*paths[run], split_of, stages, truth, area, prior)
            for run in dict.fromkeys(spec.id for listed in learning.values() for spec in listed)
            if run in tallies
        }
        put_held = {run: _held_out(found, paths[run][0].fold, split_of) for run, found in put.items()}
        further, further_rows = evaluate_all(
            labelled, put_held, dict.fromkeys(labelled, of_cell), dict.fromkeys(labelled, measure_cells)
        )
        evaluated, measured_rows = evaluated | further, measured_rows + further_rows
        counted[prior.kind] = labelled, put, put_held
    for of_label, _, of_runs in counted.values():
        for name, listed in of_label.items():
            seeds = list(collect_seeds(name, listed, of_runs).values())
            confusions += _list_confusions(name, seeds)
            reliabilities += _list_reliability(name, seeds)
    shown = of_kind.get(prediction.prior)
    scores = []
    for name, listed in specs.items():
        prior_of = shown if name in learning else None
        predicted = counted[prior_of.kind][1] if prior_of else tallies
        of_run = {spec.id: predicted[spec.id] for spec in listed if spec.id in predicted}
        scores += _list_scores(name, of_run, split_of, prior_of, learnt)
    plain = {name: evaluated[name] for name in specs}
    pairs = list_families(plain, compare, against, baselines, label_learners)
    if priors:
        pairs |= _list_prior_families(specs, learning, priors)
    compared = list_comparisons(
        evaluated, pairs, families, lambda one, other: names if one == base(one) else of_cell, compare
    )
    if wrong_tables_out is not None:
        given = {group: np.asarray(share, np.float64) for group, share in proportions.items()}
        wrong = [
            row
            for name, listed in learning.items()
            if families.parts.get(name, "main") == "main"
            for row in measure_wrong_tables(
                name, _finished(name, listed, paths, held), priors, given, split_of, stages, truth
            )
        ]
        write_rows(WRONG_TABLES, wrong, wrong_tables_out, metadata)
    write_rows(METRICS, measured_rows, metrics_out, metadata)
    write_rows(COMPARISONS, compared, comparisons_out, metadata)
    write_rows(SCORES, scores, scores_out, metadata, carried)
    write_rows(CONFUSION, confusions, confusion_out, metadata)
    write_rows(RELIABILITY, reliabilities, reliability_out, metadata)
    write_rows(RUNS, list_runs(specs, outcome, histories), runs_out, metadata)
    if choices_out is not None:
        write_rows(CHOICES, _list_choices(specs, choices or {}), choices_out, metadata)


def _list_choices(
    experiments: Mapping[str, Sequence[RunSpec]], choices: Mapping[str, Path]
) -> list[dict[str, Any]]:
    return [
        begin_row(name, spec) | row
        for name, specs in experiments.items()
        for spec in specs
        if spec.id in choices
        for row in tables.read_arrow(choices[spec.id], learning_tables.CHOICES).to_pylist()
    ]


def _held_out(tallies: Mapping[str, Tally], fold: int, splits: Mapping[str, Split]) -> dict[str, Tally]:
    """Without the slides that are staged only, sorted by slide."""
    return {slide: tallies[slide] for slide in held_out(splits, fold) if slide in tallies}


def _measure(
    seeds: Seeds,
    splits: Mapping[str, Split],
    proportions: Mapping[str, NDArray[np.floating]],
    rare: frozenset[str] | None,
) -> list[Measure]:
    """What the held-out slides, the same for each seed, can be measured by."""
    slides = tuple(sorted(seeds[0])) if seeds else ()
    labelled = tuple(slide for slide in slides if seeds[0][slide].labelled)
    measures: list[Measure] = []
    if labelled:
        # [slides, seeds, K * K + 1]: the confusion matrix, then the summed rps
        counts = [[np.append(seed[slide].confusion, seed[slide].rps) for seed in seeds] for slide in labelled]
        cells = sum(seeds[0][slide].labelled for slide in labelled)
        design = Design.of(labelled, splits)
        measures.append(
            Measure(of_cells.NAMES, add_up(_measure_cells), labelled, np.array(counts), cells, design)
        )
        sums = np.array([[seed[slide].confidences.ravel() for seed in seeds] for slide in labelled])
        scaled = add_up(calibration.measure_calibration)
        measures.append(Measure(calibration.NAMES, scaled, labelled, sums, cells, design))
        if rare is not None:
            measures.append(measure_expected_stage(seeds, labelled, rare, design))
    if slides:
        # [slides, seeds, metrics + 1]: those of a slide, then 1, so that a sum holds its number of terms
        shares = [
            [
                [
                    *composition.measure_composition(
                        seed[slide].composition, proportions[splits[slide].group]
                    ),
                    1.0,
                ]
                for seed in seeds
            ]
            for slide in slides
        ]
        cells = sum(seeds[0][slide].cells for slide in slides)
        design = Design.of(slides, splits)
        measures.append(Measure(composition.NAMES, add_up(mean_of), slides, np.array(shares), cells, design))
    return measures


def _measure_cells(counts: Floats) -> Floats:
    """Metrics of cells of summed counts [..., K * K + 1]."""
    stages = round((counts.shape[-1] - 1) ** 0.5)
    return of_cells.measure_counts(
        counts[..., :-1].reshape(*counts.shape[:-1], stages, stages), counts[..., -1]
    )


def measure_expected_stage(
    seeds: Seeds, slides: tuple[str, ...], rare: frozenset[str], design: Design
) -> Measure:
    """Predicted against true expected stage of slides, of which some are ``rare``."""
    values = [
        [[_predict_stage(seed[slide]), _find_true_stage(seed[slide]), float(slide in rare)] for seed in seeds]
        for slide in slides
    ]
    cells = sum(seeds[0][slide].labelled for slide in slides)
    statistic = measure_seeds(expected_stage.measure_stages)
    return Measure(expected_stage.NAMES, statistic, slides, np.array(values), cells, design)


def _predict_stage(tally: Tally) -> float:
    return float(np.round(tally.composition @ np.arange(tally.composition.size), STAGE_DECIMALS))


def _find_true_stage(tally: Tally) -> float:
    cells = tally.confusion.sum(1)
    return float(cells @ np.arange(cells.size) / cells.sum())


def _find_rare(held: Iterable[Mapping[str, Tally]]) -> frozenset[str]:
    """Held-out slides of the rarest true expected stages: of all runs, so that each has the same ones."""
    true = {
        slide: _find_true_stage(tally) for found in held for slide, tally in found.items() if tally.labelled
    }
    slides = sorted(true)
    return frozenset(np.array(slides)[expected_stage.find_tail([true[slide] for slide in slides])].tolist())


def _finished(
    name: str, specs: Sequence[RunSpec], paths: Mapping[str, tuple[RunSpec, Path]], held: Mapping[str, Any]
) -> list[Runs]:
    """The runs of each seed of which no run failed."""
    return [
        [paths[spec.id] for spec in specs if spec.seed == seed] for seed in collect_seeds(name, specs, held)
    ]


def _list_prior_families(
    specs: Mapping[str, Sequence[RunSpec]],
    learning: Mapping[str, Sequence[RunSpec]],
    priors: Sequence[Prior],
) -> dict[str, list[tuple[str, str]]]:
    """Each prior against none; with and without against the first experiment that knows the group alone."""
    put = {name: [label_with(name, prior.kind) for prior in priors] for name in learning}
    alone = next((name for name, listed in specs.items() if listed[0].method == GROUP_ALONE), None)
    to_group = [(label, alone) for name, labels in put.items() for label in (name, *labels)] if alone else []
    return {PRIOR: [(label, name) for name, labels in put.items() for label in labels], GROUP: to_group}


def _list_scores(
    experiment: str,
    runs: Mapping[str, Mapping[str, Tally]],
    splits: Mapping[str, Split],
    prior: Prior | None,
    learnt: Mapping[str, Learnt | None],
) -> list[dict[str, Any]]:
    """Scores of every slide, mean over the runs that predict it, and the prior that they are made with."""
    found: dict[str, list[Tally]] = {}
    weights: dict[str, list[float]] = {}
    for run, tallies in runs.items():
        for slide, tally in tallies.items():
            found.setdefault(slide, []).append(tally)
            weight = prior.weigh(slide, learnt[run]) if prior else np.nan
            weights.setdefault(slide, []).append(weight)
    rows = []
    for row in splits.values():
        if row.slide not in found:
            continue
        weight = float(np.mean(weights[row.slide]))
        rows.append(
            {
                "experiment": experiment,
                "slide": row.slide,
                "group": row.group,
                "animal": row.animal,
                "cells": found[row.slide][0].cells,
                "recovery_score": float(np.mean([tally.recovery_score for tally in found[row.slide]])),
                "true_recovery_score": found[row.slide][0].true_recovery_score,
                "proportions": np.mean([tally.composition for tally in found[row.slide]], axis=0),
                "prior": prior.kind if prior and np.isfinite(weight) else "none",
                "table_weight": weight,
            }
        )
    return rows


def _list_confusions(experiment: str, seeds: Seeds) -> list[dict[str, Any]]:
    matrices = [np.sum([tally.confusion for tally in seed.values()], axis=0) for seed in seeds if seed]
    mean = np.mean(matrices, axis=0) if matrices else np.zeros((0, 0))
    if not mean.any():
        return []
    return [
        {"experiment": experiment, "true_stage": true, "predicted_stage": predicted, "cells": cells}
        for (true, predicted), cells in np.ndenumerate(mean)
    ]


def _list_reliability(experiment: str, seeds: Seeds) -> list[dict[str, Any]]:
    sums = [np.sum([tally.confidences for tally in seed.values()], axis=0) for seed in seeds if seed]
    if not sums:
        return []
    return [
        {
            "experiment": experiment,
            "stage": stage,
            "calibrated": kind == calibration.CALIBRATED,
            "low": place / calibration.BINS,
            "high": (place + 1) / calibration.BINS,
            "cells": cells,
            "confidence": confidence / cells,
            "accuracy": right / cells,
        }
        for kind, by_stage in enumerate(np.mean(sums, axis=0))
        for stage, bins in enumerate(by_stage)
        for place, (cells, confidence, right) in enumerate(bins)
        if cells
    ]
