"""What the runs of a study amount to: metrics with intervals, comparisons, scores, confusion.

A run that failed has no predictions: its rows are missing values, and its experiment is what its other seeds
make of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from myostage import schemas
from myostage.comparisons import Key, difference, holm, paired_differences, paired_seeds, paired_test
from myostage.config import Compare, RunSpec
from myostage.errors import UserError
from myostage.metrics import (
    COMPOSITION_NAMES,
    HIGHER_IS_BETTER,
    NAMES,
    bootstrap,
    composition_metrics,
    summarise,
)
from myostage.tallies import STAGED_ONLY, PerCell, Split, Tally, held_out, read_splits, tally_run

Floats = NDArray[np.float64]
Runs = Sequence[tuple[RunSpec, Path]]
Seeds = Sequence[Mapping[str, Tally]]
"""The held-out slides of every seed, all folds together."""

ALL = -1  # fold and seed of the rows about a whole experiment

_TABLES = (schemas.METRICS, schemas.COMPARISONS, schemas.SCORES, schemas.CONFUSION, schemas.RUNS)


@dataclass(frozen=True)
class Measure:
    """Metrics of some slides: their additive counts, and what maps the sum of these to the metrics."""

    names: tuple[str, ...]
    statistic: Callable[[Floats], Floats]  # [..., seeds, n] -> [..., m]
    counts: Floats  # [slides, seeds, n]
    cells: int

    def of_seeds(self, seeds: Sequence[int]) -> Floats:
        """Counts of the seeds at these places, [slides, len(seeds), n]."""
        return self.counts[:, list(seeds)]


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
            for name, value in zip(measure.names, measure.statistic(measure.counts.sum(0)), strict=True)
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
    runs_out: Path,
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
    metrics_out, comparisons_out, scores_out, confusion_out, runs_out
        Tables to write.
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
    truth = PerCell(labels, schemas.LABELS, "stage", -1)
    area = None if areas is None else PerCell(areas, schemas.CELLS, "area_um2", np.nan)
    measured = any(slide in labels and row.fold != STAGED_ONLY for slide, row in split_of.items())
    names = (*NAMES, *COMPOSITION_NAMES) if measured else COMPOSITION_NAMES
    # A run that two experiments share is read once.
    paths = {spec.id: (spec, path) for runs in experiments.values() for spec, path in runs}
    outcome = {run: _outcome(outcomes[run], run) for run in paths}
    tallies = {
        run: tally_run(spec, path, split_of, stages, truth, area)
        for run, (spec, path) in paths.items()
        if outcome[run]["status"] == "ok"
    }
    held = {run: _held_out(found, paths[run][0].fold, split_of) for run, found in tallies.items()}
    of_run = {run: _measures([found], split_of, proportions) for run, found in held.items()}
    evaluated: dict[str, Evaluated] = {}
    rows: dict[str, list[dict[str, Any]]] = {table.name: [] for table in _TABLES}
    for name, runs in experiments.items():
        specs = [spec for spec, _ in runs]
        seeds = _whole_seeds(name, specs, held)
        whole = {"experiment": name, "run": "", "fold": ALL, "seed": ALL}
        measures = _measures(list(seeds.values()), split_of, proportions) if seeds else None
        metric_rows = [
            row
            for spec in specs
            for row in _metric_rows(_key(name, spec), of_run.get(spec.id), names, repeats)
        ]
        evaluated[name] = Evaluated(
            specs[0].trained, specs[0].folds, _by_run(metric_rows, names), list(seeds), measures or []
        )
        rows["metrics"] += metric_rows + _metric_rows(whole, measures, names, repeats)
        rows["scores"] += _score_rows(
            name, [tallies[spec.id] for spec in specs if spec.id in tallies], split_of
        )
        rows["confusion"] += _confusion_rows(name, list(seeds.values()))
        rows["runs"] += [_key(name, spec) | outcome[spec.id] for spec in specs]
    pairs = _families(evaluated, compare, against, baselines, ceilings)
    rows["comparisons"] = _comparison_rows(evaluated, pairs, parts, names, compare, repeats)
    for table, path in zip(
        _TABLES, (metrics_out, comparisons_out, scores_out, confusion_out, runs_out), strict=True
    ):
        frame = pd.DataFrame(rows[table.name], columns=table.schema.names)
        schemas.write(path, frame, table, metadata)


def _outcome(path: Path, run: str) -> dict[str, Any]:
    """The one row of a run's outcome."""
    rows = schemas.read_arrow(path, schemas.OUTCOME).to_pylist()
    if [row["run"] for row in rows] != [run]:
        raise UserError(
            f"{path}: not the outcome of run {run}; delete the run's folder and run the workflow again"
        )
    return rows[0]


def _key(experiment: str, spec: RunSpec) -> dict[str, Any]:
    """What the rows of one run start with."""
    return {"experiment": experiment, "run": spec.id, "fold": spec.fold, "seed": spec.seed}


def _held_out(tallies: Mapping[str, Tally], fold: int, splits: Mapping[str, Split]) -> dict[str, Tally]:
    """Without the slides that are staged only, sorted by slide."""
    return {slide: tallies[slide] for slide in held_out(splits, fold) if slide in tallies}


def _whole_seeds(
    name: str, specs: Sequence[RunSpec], held: Mapping[str, Mapping[str, Tally]]
) -> dict[int, dict[str, Tally]]:
    """Held-out slides of all folds by seed, for the seeds of which no run failed."""
    folds: dict[int, set[int]] = {}
    for spec in specs:
        folds.setdefault(spec.seed, set()).add(spec.fold)
    if len({frozenset(of_seed) for of_seed in folds.values()}) > 1:
        raise ValueError(f"experiment {name}: its seeds hold out different slides; give all folds of each")
    failed = {spec.seed for spec in specs if spec.id not in held}
    seeds: dict[int, dict[str, Tally]] = {seed: {} for seed in sorted(folds.keys() - failed)}
    for spec in specs:
        if spec.seed in seeds:
            seeds[spec.seed].update(held[spec.id])
    return seeds


def _measures(
    seeds: Seeds, splits: Mapping[str, Split], proportions: Mapping[str, NDArray[np.floating]]
) -> list[Measure]:
    """What the held-out slides, the same for each seed, can be measured by."""
    slides = sorted(seeds[0]) if seeds else []
    labelled = [slide for slide in slides if seeds[0][slide].labelled]
    measures: list[Measure] = []
    if labelled:
        # [slides, seeds, K * K + 1]: the confusion matrix, then the summed rps
        counts = [[np.append(seed[slide].confusion, seed[slide].rps) for seed in seeds] for slide in labelled]
        cells = sum(seeds[0][slide].labelled for slide in labelled)
        measures.append(Measure(NAMES, _mean_metrics, np.array(counts), cells))
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
        cells = sum(seeds[0][slide].cells for slide in slides)
        measures.append(Measure(COMPOSITION_NAMES, _mean_composition, np.array(shares), cells))
    return measures


def _mean_metrics(counts: Floats) -> Floats:
    """Metrics [..., 7] of summed counts [..., seeds, K * K + 1], mean over seeds."""
    stages = round((counts.shape[-1] - 1) ** 0.5)
    matrix = counts[..., :-1].reshape(*counts.shape[:-1], stages, stages)
    return summarise(matrix, counts[..., -1]).mean(-2)


def _mean_composition(sums: Floats) -> Floats:
    """kl and l1 [..., 2] of summed [..., seeds, 3], mean over slides, then over seeds."""
    return (sums[..., :-1] / sums[..., -1:]).mean(-2)


def _metric_rows(
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
            "slides": len(measure.counts),
            "cells": measure.cells,
        }
        for measure in measures
        for name, value, low, high in zip(
            measure.names, *bootstrap(measure.counts, measure.statistic, repeats), strict=True
        )
    ]


def _by_run(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[Key, float]]:
    """Metric -> fold and seed -> value."""
    values: dict[str, dict[Key, float]] = {name: {} for name in names}
    for row in rows:
        values[row["metric"]][row["fold"], row["seed"]] = row["value"]
    return values


def _families(
    evaluated: Mapping[str, Evaluated],
    compare: Compare,
    against: Mapping[str, str],
    baselines: Sequence[str],
    ceilings: Sequence[str],
) -> dict[str, list[tuple[str, str]]]:
    """Experiments and what each is compared with, by family.

    A label that is none of the experiments is one of another study, whose models stage this one's slides.
    """
    reference = compare.reference or next(iter(evaluated))
    known = {label: evaluated[label] for label in baselines if label in evaluated}
    best = _best(known, compare.metric)
    contenders = [label for label in evaluated if label not in baselines and label not in ceilings]
    families = {
        "reference": [(label, reference) for label in evaluated if label != reference],
        "baseline": [(label, best) for label in contenders] if best is not None else [],
        "against": list(against.items()),
    }
    return {
        family: [pair for pair in pairs if evaluated.keys() >= set(pair)]
        for family, pairs in families.items()
    }


def _best(evaluated: Mapping[str, Evaluated], metric: str) -> str | None:
    """The best experiment by a metric, or by ``kl`` where no cell is labelled; None: all failed."""
    pooled = {label: experiment.pooled for label, experiment in evaluated.items() if experiment.measures}
    shown = metric if any(metric in values for values in pooled.values()) else "kl"
    sign = -1 if shown in HIGHER_IS_BETTER else 1
    ranked = {label: sign * values[shown] for label, values in pooled.items() if not np.isnan(values[shown])}
    return min(ranked, key=lambda label: ranked[label], default=None)


def _comparison_rows(
    evaluated: Mapping[str, Evaluated],
    families: Mapping[str, Sequence[tuple[str, str]]],
    parts: Mapping[str, str],
    names: Sequence[str],
    compare: Compare,
    repeats: int,
) -> list[dict[str, Any]]:
    """Every comparison in every metric, corrected within its family, part and metric."""
    rows: list[dict[str, Any]] = []
    together: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for family, pairs in families.items():
        for one, other in pairs:
            for row in _compared(evaluated[one], evaluated[other], names, compare, repeats):
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
    for mine, theirs in zip(one.measures, other.measures, strict=True) if whole else ():
        found = difference(
            mine.of_seeds([list(one.seeds).index(seed) for seed, _ in whole]),
            theirs.of_seeds([list(other.seeds).index(seed) for _, seed in whole]),
            mine.statistic,
            repeats,
        )
        for name, *values in zip(mine.names, *found, strict=True):
            value, low, high = map(float, values)
            pooled[name] = value, low, high, len(mine.counts)
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
