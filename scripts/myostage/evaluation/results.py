"""What the runs of a study amount to: metrics with intervals, comparisons, scores, confusion.

A run that failed has no predictions: its rows are missing values, and its experiment is what its other seeds
make of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from myostage import tables
from myostage.cells.tables import CELLS, LABELS
from myostage.errors import UserError
from myostage.evaluation.comparisons import Key, holm, paired_differences, paired_seeds, paired_test
from myostage.evaluation.metrics import calibration, composition, expected_stage, registry
from myostage.evaluation.metrics import cells as of_cells
from myostage.evaluation.resampling import resample
from myostage.evaluation.tables import COMPARISONS, CONFUSION, METRICS, RELIABILITY, RUNS, SCORES
from myostage.evaluation.tallies import PerCell, Split, Tally, held_out, read_splits, tally_run
from myostage.evaluation.weighted import mean_of
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.tables import OUTCOME
from myostage.study.run import RunSpec
from myostage.study.sections.compare import Compare

Floats = NDArray[np.float64]
Runs = Sequence[tuple[RunSpec, Path]]
Seeds = Sequence[Mapping[str, Tally]]
"""The held-out slides of every seed, all folds together."""
Statistic = Callable[[Floats, Floats], Floats]
"""How often each slide counts [..., slides], and values [slides, seeds, n], to metrics [..., seeds, m]."""
Found = TypeVar("Found")
"""What is left of a slide under one run."""

ALL = -1  # fold and seed of the rows about a whole experiment

# Slides of the same mean stage differ in its last digits, by how many cells they have; ranks must not.
STAGE_DECIMALS = 9


@dataclass(frozen=True)
class Measure:
    """Metrics of some slides: a few values of each, and what maps these to the metrics."""

    names: tuple[str, ...]
    statistic: Statistic
    slides: tuple[str, ...]
    values: Floats  # [slides, seeds, n]
    cells: int

    def at(self, weights: Floats, seeds: Sequence[int] | None = None) -> Floats:
        """Metrics [..., m] where slides count so often [..., slides]: mean over the seeds at these places."""
        values = self.values if seeds is None else self.values[:, list(seeds)]
        return self.statistic(weights, values).mean(-2)


def additive(metrics: Callable[[Floats], Floats]) -> Statistic:
    """Of values that add up over slides: ``metrics`` maps sums [..., seeds, n] to [..., seeds, m]."""
    return lambda weights, values: metrics(np.tensordot(weights, values, axes=1))


def per_seed(metrics: Callable[[Floats, Floats], Floats]) -> Statistic:
    """Of values that do not: ``metrics`` maps weights [..., slides] and values [slides, n] to [..., m]."""
    return lambda weights, values: np.stack(
        [metrics(weights, values[:, seed]) for seed in range(values.shape[1])], axis=-2
    )


@dataclass(frozen=True)
class Evaluated:
    """What is left of the runs of one experiment."""

    learns: bool
    folds: int
    runs: Mapping[str, Mapping[Key, float]]  # metric -> fold and seed -> value
    seeds: Sequence[int]  # those that lack no fold
    measures: Sequence[Measure]  # over these seeds; none where no seed is left

    @property
    def pooled(self) -> dict[str, float]:
        """Metrics of the whole experiment."""
        return {
            name: float(value)
            for measure in self.measures
            for name, value in zip(measure.names, measure.at(np.ones(len(measure.slides))), strict=True)
        }


def evaluate_runs(
    experiments: Mapping[str, Runs],
    outcomes: Mapping[str, Path],
    splits: Path,
    proportions: Mapping[str, NDArray[np.floating]],
    stages: int,
    labels: Mapping[str, Path],
    areas: Mapping[str, Path] | None,
    *,
    compare: Compare,
    against: Mapping[str, str],
    baselines: Sequence[str],
    ceilings: Sequence[str],
    parts: Mapping[str, str],
    metrics_out: Path,
    comparisons_out: Path,
    scores_out: Path,
    confusion_out: Path,
    reliability_out: Path,
    runs_out: Path,
    slide_level: bool = False,
    repeats: int = 1000,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the metrics, comparisons, scores, confusion and runs of all experiments of a study.

    The value of an experiment is the mean over its seeds of the metric on the held-out cells of all folds
    pooled; a seed of which a run failed is left out. Its interval resamples slides, the same ones for every
    seed and experiment. Slides without a group are staged only: they have scores, averaged over all runs, and
    no metrics.

    Parameters
    ----------
    experiments
        Label of every experiment, and its runs with their predictions.
    outcomes
        Table of the outcome of every run, by its id.
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
    baselines, ceilings
        Labels. The experiments that are neither are compared with the best baseline.
    parts
        Label -> part of the study (``main`` where it has none): Holm corrects within a part, so that a wide
        grid does not drown the main question.
    metrics_out, comparisons_out, scores_out, confusion_out, reliability_out, runs_out
        Tables to write.
    slide_level
        Whether the expected stage of slides with labelled cells is measured too, see :func:`stage_measure`.
    repeats
        Resamples of the bootstrap.
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
    rare = _rare(held.values()) if slide_level else None

    def measures(seeds: Seeds) -> list[Measure]:
        return _measures(seeds, split_of, proportions, rare)

    specs = {name: [spec for spec, _ in runs] for name, runs in experiments.items()}
    evaluated, measured_rows = evaluate_all(
        specs, held, dict.fromkeys(specs, names), dict.fromkeys(specs, measures), repeats
    )
    scores, confusions, reliabilities = [], [], []
    for name, listed in specs.items():
        scores += _score_rows(name, [tallies[spec.id] for spec in listed if spec.id in tallies], split_of)
        seeds = list(whole_seeds(name, listed, held).values())
        confusions += _confusion_rows(name, seeds)
        reliabilities += _reliability_rows(name, seeds)
    pairs = families(evaluated, compare, against, baselines, ceilings)
    compared = comparison_rows(evaluated, pairs, parts, lambda *_: names, compare, repeats)
    write_rows(METRICS, measured_rows, metrics_out, metadata)
    write_rows(COMPARISONS, compared, comparisons_out, metadata)
    write_rows(SCORES, scores, scores_out, metadata)
    write_rows(CONFUSION, confusions, confusion_out, metadata)
    write_rows(RELIABILITY, reliabilities, reliability_out, metadata)
    write_rows(RUNS, run_rows(specs, outcome), runs_out, metadata)


def evaluate_all(
    experiments: Mapping[str, Sequence[RunSpec]],
    held: Mapping[str, Mapping[str, Found]],
    names: Mapping[str, Sequence[str]],
    measures: Mapping[str, Callable[[Sequence[Mapping[str, Found]]], list[Measure]]],
    repeats: int,
) -> tuple[dict[str, Evaluated], list[dict[str, Any]]]:
    """Every experiment, and the rows of METRICS of all; see :func:`evaluate`."""
    evaluated: dict[str, Evaluated] = {}
    rows: list[dict[str, Any]] = []
    for name, specs in experiments.items():
        evaluated[name], found = evaluate(name, specs, held, names[name], measures[name], repeats)
        rows += found
    return evaluated, rows


def run_rows(
    experiments: Mapping[str, Sequence[RunSpec]], outcome: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of RUNS."""
    return [key(name, spec) | outcome[spec.id] for name, specs in experiments.items() for spec in specs]


def write_rows(
    table: tables.Table, rows: Sequence[Mapping[str, Any]], path: Path, metadata: dict[str, str] | None
) -> None:
    """Write rows as a table, which may have none."""
    tables.write(path, pd.DataFrame(rows, columns=table.schema.names), table, metadata)


def evaluate(
    name: str,
    specs: Sequence[RunSpec],
    held: Mapping[str, Mapping[str, Found]],
    names: Sequence[str],
    measures: Callable[[Sequence[Mapping[str, Found]]], list[Measure]],
    repeats: int,
) -> tuple[Evaluated, list[dict[str, Any]]]:
    """One experiment, and the rows of METRICS of its runs and of it.

    Parameters
    ----------
    name, specs
        Label and runs of the experiment.
    held
        Run id -> what is left of every slide that the run holds out; without the runs that failed.
    names
        Metrics that have a row, missing, where a run failed.
    measures
        What the held-out slides, the same for each seed, can be measured by.
    repeats
        Resamples of the bootstrap.
    """
    rows: list[dict[str, Any]] = []
    for spec in specs:
        of_run = measures([held[spec.id]]) if spec.id in held else None
        rows += metric_rows(key(name, spec), of_run, names, repeats)
    seeds = whole_seeds(name, specs, held)
    whole = measures(list(seeds.values())) if seeds else None
    found = Evaluated(specs[0].trained, specs[0].folds, _by_run(rows, names), list(seeds), whole or [])
    everything = {"experiment": name, "run": "", "fold": ALL, "seed": ALL}
    return found, rows + metric_rows(everything, whole, names, repeats)


def read_outcome(path: Path, run: str) -> dict[str, Any]:
    """The one row of a run's outcome."""
    rows = tables.read_arrow(path, OUTCOME).to_pylist()
    if [row["run"] for row in rows] != [run]:
        raise UserError(
            f"{path}: not the outcome of run {run}; delete the run's folder and run the workflow again"
        )
    return rows[0]


def key(experiment: str, spec: RunSpec) -> dict[str, Any]:
    """What the rows of one run start with."""
    return {"experiment": experiment, "run": spec.id, "fold": spec.fold, "seed": spec.seed}


def _held_out(tallies: Mapping[str, Tally], fold: int, splits: Mapping[str, Split]) -> dict[str, Tally]:
    """Without the slides that are staged only, sorted by slide."""
    return {slide: tallies[slide] for slide in held_out(splits, fold) if slide in tallies}


def whole_seeds(
    name: str, specs: Sequence[RunSpec], held: Mapping[str, Mapping[str, Found]]
) -> dict[int, dict[str, Found]]:
    """Held-out slides of all folds by seed, for the seeds of which no run failed."""
    folds: dict[int, set[int]] = {}
    for spec in specs:
        folds.setdefault(spec.seed, set()).add(spec.fold)
    if len({frozenset(of_seed) for of_seed in folds.values()}) > 1:
        raise ValueError(f"experiment {name}: its seeds hold out different slides; give all folds of each")
    failed = {spec.seed for spec in specs if spec.id not in held}
    seeds: dict[int, dict[str, Found]] = {seed: {} for seed in sorted(folds.keys() - failed)}
    for spec in specs:
        if spec.seed in seeds:
            seeds[spec.seed].update(held[spec.id])
    return seeds


def _measures(
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
        measures.append(Measure(of_cells.NAMES, additive(_cell_metrics), labelled, np.array(counts), cells))
        sums = np.array([[seed[slide].confidences.ravel() for seed in seeds] for slide in labelled])
        scaled = additive(calibration.measure_calibration)
        measures.append(Measure(calibration.NAMES, scaled, labelled, sums, cells))
        if rare is not None:
            measures.append(stage_measure(seeds, labelled, rare))
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
        measures.append(Measure(composition.NAMES, additive(mean_of), slides, np.array(shares), cells))
    return measures


def _cell_metrics(counts: Floats) -> Floats:
    """Metrics of cells of summed counts [..., K * K + 1]."""
    stages = round((counts.shape[-1] - 1) ** 0.5)
    return of_cells.measure_counts(
        counts[..., :-1].reshape(*counts.shape[:-1], stages, stages), counts[..., -1]
    )


def stage_measure(seeds: Seeds, slides: tuple[str, ...], rare: frozenset[str]) -> Measure:
    """Predicted against true expected stage of slides, of which some are ``rare``."""
    values = [
        [[_predicted_stage(seed[slide]), _true_stage(seed[slide]), float(slide in rare)] for seed in seeds]
        for slide in slides
    ]
    cells = sum(seeds[0][slide].labelled for slide in slides)
    statistic = per_seed(expected_stage.measure_stages)
    return Measure(expected_stage.NAMES, statistic, slides, np.array(values), cells)


def _predicted_stage(tally: Tally) -> float:
    return float(np.round(tally.composition @ np.arange(tally.composition.size), STAGE_DECIMALS))


def _true_stage(tally: Tally) -> float:
    cells = tally.confusion.sum(1)
    return float(cells @ np.arange(cells.size) / cells.sum())


def _rare(held: Iterable[Mapping[str, Tally]]) -> frozenset[str]:
    """Held-out slides of the rarest true expected stages: of all runs, so that each has the same ones."""
    true = {slide: _true_stage(tally) for found in held for slide, tally in found.items() if tally.labelled}
    slides = sorted(true)
    return frozenset(np.array(slides)[expected_stage.find_tail([true[slide] for slide in slides])].tolist())


def metric_rows(
    row: Mapping[str, Any], measures: Sequence[Measure] | None, names: Sequence[str], repeats: int
) -> list[dict[str, Any]]:
    """Rows of a run or experiment; None: it failed, which its rows show by values that are missing."""
    if measures is None:
        missing = {"value": np.nan, "low": np.nan, "high": np.nan, "slides": 0, "cells": 0}
        return [{**row, "metric": name, **missing} for name in names]
    return [
        {
            **row,
            "metric": name,
            "value": value,
            "low": low,
            "high": high,
            "slides": len(measure.slides),
            "cells": measure.cells,
        }
        for measure in measures
        for name, value, low, high in zip(
            measure.names, *resample(len(measure.slides), measure.at, repeats), strict=True
        )
    ]


def _by_run(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[Key, float]]:
    """Metric -> fold and seed -> value."""
    values: dict[str, dict[Key, float]] = {name: {} for name in names}
    for row in rows:
        values[row["metric"]][row["fold"], row["seed"]] = row["value"]
    return values


def families(
    evaluated: Mapping[str, Evaluated],
    compare: Compare,
    against: Mapping[str, str],
    baselines: Sequence[str] = (),
    ceilings: Sequence[str] = (),
    reference_of: Mapping[str, str] | None = None,
) -> dict[str, list[tuple[str, str]]]:
    """Experiments and what each is compared with, by family.

    ``reference_of`` has those whose reference is not the study's.
    A label that is none of the experiments is one of another study, whose models stage this one's slides.
    """
    reference = compare.reference or next(iter(evaluated))
    known = {label: evaluated[label] for label in baselines if label in evaluated}
    best = _best(known, compare.metric)
    contenders = [label for label in evaluated if label not in baselines and label not in ceilings]
    references = {label: (reference_of or {}).get(label, reference) for label in evaluated}
    pairs = {
        "reference": [pair for pair in references.items() if pair[0] != pair[1]],
        "baseline": [(label, best) for label in contenders] if best is not None else [],
        "against": list(against.items()),
    }
    return {
        family: [pair for pair in listed if evaluated.keys() >= set(pair)] for family, listed in pairs.items()
    }


def _best(evaluated: Mapping[str, Evaluated], metric: str) -> str | None:
    """The best experiment by a metric, or by ``kl`` where no cell is labelled; None: all failed."""
    pooled = {label: experiment.pooled for label, experiment in evaluated.items() if experiment.measures}
    shown = metric if any(metric in values for values in pooled.values()) else "kl"
    sign = -registry.METRICS[shown].sign
    ranked = {label: sign * values[shown] for label, values in pooled.items() if not np.isnan(values[shown])}
    return min(ranked, key=lambda label: ranked[label], default=None)


def comparison_rows(
    evaluated: Mapping[str, Evaluated],
    families: Mapping[str, Sequence[tuple[str, str]]],
    parts: Mapping[str, str],
    names: Callable[[str, str], Sequence[str]],
    compare: Compare,
    repeats: int,
) -> list[dict[str, Any]]:
    """Every comparison in every metric that ``names`` has for two experiments.

    Corrected within its family, part and metric.
    """
    rows: list[dict[str, Any]] = []
    together: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for family, pairs in families.items():
        for one, other in pairs:
            for row in _compared(evaluated[one], evaluated[other], names(one, other), compare, repeats):
                row = {"experiment": one, "reference": other, "family": family, **row}
                together.setdefault((family, parts.get(one, "main"), row["metric"]), []).append(row)
                rows.append(row)
    for tested in together.values():
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = p
    return rows


def _compared(
    one: Evaluated, other: Evaluated, names: Sequence[str], compare: Compare, repeats: int
) -> Iterator[dict[str, Any]]:
    """Difference of two experiments in every metric, without Holm's correction."""
    learns = {"experiment_learns": one.learns, "reference_learns": other.learns}
    whole = paired_seeds(set(one.seeds), set(other.seeds), **learns)
    pooled: dict[str, tuple[float, float, float, int]] = {}
    theirs = {measure.names: measure for measure in other.measures}
    for measure in one.measures if whole else ():
        if measure.names in theirs and set(measure.names) <= set(names):
            places = [(list(one.seeds).index(a), list(other.seeds).index(b)) for a, b in whole]
            found = difference(measure, theirs[measure.names], places, repeats)
            for name, *values in zip(measure.names, *found, strict=True):
                value, low, high = map(float, values)
                pooled[name] = value, low, high, len(measure.slides)
    for name in names:
        a, b = one.runs[name], other.runs[name]
        seeds = paired_seeds({seed for _, seed in a}, {seed for _, seed in b}, **learns)
        test = paired_test(
            paired_differences(a, b, seeds), one.folds, alpha=compare.alpha, power=compare.power
        )
        value, low, high, slides = pooled.get(name, (np.nan, np.nan, np.nan, 0))
        yield {
            "metric": name,
            "difference": value,
            "low": low,
            "high": high,
            "pairs": test.pairs,
            "slides": slides,
            "effect_size": test.effect_size,
            "p": test.p,
            "minimum_detectable": test.minimum_detectable,
        }


def difference(
    one: Measure, other: Measure, places: Sequence[tuple[int, int]], repeats: int
) -> tuple[Floats, Floats, Floats]:
    """One minus the other with its interval, both on the same resampled slides and paired seeds."""
    if one.slides != other.slides:
        raise ValueError(f"{len(one.slides)} and {len(other.slides)} slides that are not the same")
    mine, theirs = zip(*places, strict=True)
    return resample(
        len(one.slides), lambda weights: one.at(weights, mine) - other.at(weights, theirs), repeats
    )


def _score_rows(
    experiment: str, runs: Sequence[Mapping[str, Tally]], splits: Mapping[str, Split]
) -> list[dict[str, Any]]:
    """Scores of every slide, mean over the runs that predict it."""
    found: dict[str, list[Tally]] = {}
    for run in runs:
        for slide, tally in run.items():
            found.setdefault(slide, []).append(tally)
    return [
        {
            "experiment": experiment,
            "slide": row.slide,
            "group": row.group,
            "animal": row.animal,
            "cells": found[row.slide][0].cells,
            "recovery_score": float(np.mean([tally.recovery_score for tally in found[row.slide]])),
            "true_recovery_score": found[row.slide][0].true_recovery_score,
            "proportions": np.mean([tally.composition for tally in found[row.slide]], axis=0),
        }
        for row in splits.values()
        if row.slide in found
    ]


def _confusion_rows(experiment: str, seeds: Seeds) -> list[dict[str, Any]]:
    matrices = [np.sum([tally.confusion for tally in seed.values()], axis=0) for seed in seeds if seed]
    mean = np.mean(matrices, axis=0) if matrices else np.zeros((0, 0))
    if not mean.any():
        return []
    return [
        {"experiment": experiment, "true_stage": true, "predicted_stage": predicted, "cells": cells}
        for (true, predicted), cells in np.ndenumerate(mean)
    ]


def _reliability_rows(experiment: str, seeds: Seeds) -> list[dict[str, Any]]:
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
