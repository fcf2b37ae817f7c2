"""What the runs of an experiment amount to, whatever they predict: metrics, comparisons and their families.

A run that failed has no predictions: its rows are missing values, and its experiment is what its other seeds
make of it.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation.comparisons import (
    Key,
    find_corrected_p,
    holm,
    paired_differences,
    paired_seeds,
)
from myostage.evaluation.convergence import CHANGE, UNKNOWN, measure_change
from myostage.evaluation.intervals import (
    Estimate,
    estimate_by_folds,
    estimate_effect,
    find_lack,
    find_pseudo_values,
    find_spread,
)
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.tallies import Split
from myostage.learning.tables import HISTORY, OUTCOME
from myostage.study.run import RunSpec
from myostage.study.sections.compare import Compare

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], Floats]
"""How often each slide counts [..., slides], and values [slides, seeds, n], to metrics [..., seeds, m]."""
Found = TypeVar("Found")
"""What is left of a slide under one run."""

PRIOR, GROUP = "prior", "group"
"""Families: an experiment with a prior against itself without, and each against knowing the group alone."""

ALL = -1  # fold and seed of the rows about a whole experiment
NO_INTERVAL = {"low": np.nan, "high": np.nan, "method": "", "trusted": False} | dict.fromkeys(
    ("low_folds", "high_folds"), np.nan
)


@dataclass(frozen=True)
class Design:
    """The animal of every slide [slides], and the fold and day of every animal [n], animals sorted."""

    animals: NDArray[np.str_]
    folds: NDArray[np.int64]
    days: NDArray[np.str_]

    @classmethod
    def of(cls, slides: Sequence[str], splits: Mapping[str, Split]) -> "Design":
        """Of slides that are held out; an animal with slides of several days is a stratum with its like."""
        folds: dict[str, int] = {}
        days: dict[str, set[str]] = {}
        for slide in slides:
            row = splits[slide]
            folds[row.animal] = row.fold
            days.setdefault(row.animal, set()).add(row.group)
        animals = sorted(folds)
        return cls(
            np.array([splits[slide].animal for slide in slides]),
            np.array([folds[animal] for animal in animals]),
            np.array(["\n".join(sorted(days[animal])) for animal in animals]),
        )

    def is_trusted(self, days: bool) -> bool:
        """Whether an interval covers as it says; ``days``: whether they are strata, as of a value."""
        strata = np.unique(self.days).size if days else 1
        return not find_lack(self.folds.size, np.unique(self.folds).size, strata)


@dataclass(frozen=True)
class Measure:
    """Metrics of some slides: a few values of each, and what maps these to the metrics."""

    names: tuple[str, ...]
    statistic: Statistic
    slides: tuple[str, ...]
    values: Floats  # [slides, seeds, n]
    cells: int
    design: Design = field(repr=False)

    @cached_property
    def by_seed(self) -> Floats:
        """The metrics of all slides, [seeds, m]."""
        return self.statistic(np.ones(len(self.slides)), self.values)

    @cached_property
    def pseudo_values(self) -> Floats:
        """By metric, animal and seed, see :func:`myostage.evaluation.intervals.find_pseudo_values`."""
        return find_pseudo_values(lambda weights: self.statistic(weights, self.values), self.design.animals)


def label_with(experiment: str, prior: str) -> str:
    """The label of an experiment whose stages have a prior put into them."""
    return f"{experiment}[prior={prior}]"


def base(label: str) -> str:
    """The experiment that a label is of, with a prior or without."""
    return re.sub(r"\[prior=(group|transport)\]$", "", label)


def add_up(metrics: Callable[[Floats], Floats]) -> Statistic:
    """Of values that add up over slides: ``metrics`` maps sums [..., seeds, n] to [..., seeds, m]."""
    return lambda weights, values: metrics(np.tensordot(weights, values, axes=1))


def measure_seeds(metrics: Callable[[Floats, Floats], Floats]) -> Statistic:
    """Of values that do not: ``metrics`` maps weights [..., slides] and values [slides, n] to [..., m]."""
    return lambda weights, values: np.stack(
        [metrics(weights, values[:, seed]) for seed in range(values.shape[1])], axis=-2
    )


@dataclass(frozen=True)
class Evaluated:
    """What is left of the runs of one experiment."""

    learns: bool  # with noise of its own: what depends on no seed is paired with every seed
    folds: int
    runs: Mapping[str, Mapping[Key, float]]  # metric -> fold and seed -> value
    seeds: Sequence[int]  # those that lack no fold
    measures: Sequence[Measure]  # over these seeds; none where no seed is left

    @property
    def pooled(self) -> dict[str, float]:
        """Metrics of all folds and seeds."""
        return {
            name: float(value)
            for measure in self.measures
            for name, value in zip(measure.names, measure.by_seed.mean(0), strict=True)
        }


def evaluate_all(
    experiments: Mapping[str, Sequence[RunSpec]],
    held: Mapping[str, Mapping[str, Found]],
    names: Mapping[str, Sequence[str]],
    measures: Mapping[str, Callable[[Sequence[Mapping[str, Found]]], list[Measure]]],
) -> tuple[dict[str, Evaluated], list[dict[str, Any]]]:
    """Every experiment, and the rows of METRICS of all.

    Parameters
    ----------
    experiments
        Label and runs of every experiment.
    held
        Run id -> what is left of every slide that the run holds out; without the runs that failed.
    names
        Metrics of an experiment, which have a row, missing, where a run failed.
    measures
        What the held-out slides of an experiment, the same for each seed, can be measured by.
    """
    evaluated: dict[str, Evaluated] = {}
    rows: list[dict[str, Any]] = []
    for name, specs in experiments.items():
        runs: list[dict[str, Any]] = []
        for spec in specs:
            of_run = measures[name]([held[spec.id]]) if spec.id in held else None
            runs += _list_metrics(begin_row(name, spec), of_run, names[name])
        seeds = collect_seeds(name, specs, held)
        whole = measures[name](list(seeds.values())) if seeds else None
        learns = specs[0].network
        by_run: dict[str, dict[Key, float]] = {metric: {} for metric in names[name]}
        for row in runs:
            by_run[row["metric"]][row["fold"], row["seed"]] = row["value"]
        evaluated[name] = Evaluated(learns, specs[0].folds, by_run, list(seeds), whole or [])
        everything = {"experiment": name, "run": "", "fold": ALL, "seed": ALL}
        rows += [*runs, *_list_metrics(everything, whole, names[name], learns)]
    return evaluated, rows


def _list_metrics(
    row: Mapping[str, Any],
    measures: Sequence[Measure] | None,
    names: Sequence[str],
    learns: bool | None = None,
) -> list[dict[str, Any]]:
    """Rows of a run, or of an experiment that ``learns`` or does not.

    ``measures`` None: it failed, which its rows show by values that are missing. A run has no interval: its
    noise of training cannot be known from it.
    """
    if measures is None:
        missing = {"value": np.nan, **NO_INTERVAL, "animals": 0, "slides": 0, "cells": 0}
        return [{**row, "metric": name, **missing} for name in names]
    rows = []
    for measure in measures:
        design, values = measure.design, measure.by_seed.mean(0)
        extent = {"animals": design.folds.size, "slides": len(measure.slides), "cells": measure.cells}
        intervals: list[dict[str, Any]] = [NO_INTERVAL] * len(measure.names)
        if learns is not None:
            found = estimate_effect(measure.pseudo_values, design.folds, design.days, learns=learns)
            by_folds = estimate_by_folds(measure.pseudo_values, design.folds, design.days)
            trusted = design.is_trusted(days=True)
            ends = zip(*_limit(measure, found, values), *_limit(measure, by_folds, values), strict=True)
            intervals = [
                dict(zip(("low", "high", "low_folds", "high_folds"), four, strict=True))
                | {"method": found.method, "trusted": trusted and bool(np.isfinite(four[0]))}
                for four in ends
            ]
        rows += [
            {**row, "metric": name, "value": value, **interval, **extent}
            for name, value, interval in zip(measure.names, values, intervals, strict=True)
        ]
    return rows


def _limit(measure: Measure, estimate: Estimate, values: Floats) -> tuple[Floats, Floats]:
    """The interval about these values [m], within what the metrics can be."""
    low, high = replace(estimate, value=values).find_interval()
    limits = np.array([[METRICS[name].low, METRICS[name].high] for name in measure.names])
    return np.maximum(low, limits[:, 0]), np.minimum(high, limits[:, 1])


def list_runs(
    experiments: Mapping[str, Sequence[RunSpec]],
    outcome: Mapping[str, dict[str, Any]],
    histories: Mapping[str, Path],
) -> list[dict[str, Any]]:
    """Rows of RUNS; ``histories`` has the table of every run by its id."""
    changes = {
        run: measure_change(tables.read(histories[run], HISTORY)) if row["status"] == "ok" else UNKNOWN
        for run, row in outcome.items()
    }
    return [
        begin_row(name, spec) | outcome[spec.id] | dict(zip(CHANGE, changes[spec.id], strict=True))
        for name, specs in experiments.items()
        for spec in specs
    ]


def write_rows(
    table: tables.Table,
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    metadata: dict[str, str] | None,
    carried: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Write rows as a table, which may have none; ``carried`` are further columns by slide."""
    frame = tables.carry(pd.DataFrame(rows, columns=table.schema.names), carried)
    tables.write(path, frame, table, metadata)


def read_outcome(path: Path, run: str) -> dict[str, Any]:
    """The one row of a run's outcome."""
    rows = tables.read_arrow(path, OUTCOME).to_pylist()
    if [row["run"] for row in rows] != [run]:
        raise UserError(
            f"{path}: not the outcome of run {run}; delete the run's folder and run the workflow again"
        )
    return rows[0]


def begin_row(experiment: str, spec: RunSpec) -> dict[str, Any]:
    """What the rows of one run start with."""
    return {"experiment": experiment, "run": spec.id, "fold": spec.fold, "seed": spec.seed}


def collect_seeds(
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


def list_families(
    evaluated: Mapping[str, Evaluated],
    compare: Compare,
    against: Mapping[str, str],
    baselines: Sequence[str] = (),
    label_learners: Sequence[str] = (),
    reference_of: Mapping[str, str] | None = None,
) -> dict[str, list[tuple[str, str]]]:
    """Experiments and what each is compared with, by family.

    ``reference_of`` has those whose reference is not the study's.
    A label that is none of the experiments is one of another study, whose models stage this one's slides.
    """
    reference = compare.reference or next(iter(evaluated))
    known = {label: evaluated[label] for label in baselines if label in evaluated}
    best = _find_best(known, compare.metric)
    contenders = [label for label in evaluated if label not in baselines and label not in label_learners]
    references = {label: (reference_of or {}).get(label, reference) for label in evaluated}
    pairs = {
        "reference": [pair for pair in references.items() if pair[0] != pair[1]],
        "baseline": [(label, best) for label in contenders] if best is not None else [],
        "against": list(against.items()),
    }
    return {
        family: [pair for pair in listed if evaluated.keys() >= set(pair)] for family, listed in pairs.items()
    }


def _find_best(evaluated: Mapping[str, Evaluated], metric: str) -> str | None:
    """The best experiment by a metric, or by ``kl`` where no cell is labelled; None: all failed."""
    pooled = {label: experiment.pooled for label, experiment in evaluated.items() if experiment.measures}
    shown = metric if any(metric in values for values in pooled.values()) else "kl"
    sign = -METRICS[shown].sign
    ranked = {label: sign * values[shown] for label, values in pooled.items() if not np.isnan(values[shown])}
    return min(ranked, key=lambda label: ranked[label], default=None)


@dataclass(frozen=True)
class Families:
    """Which comparisons are tested, and which of them together.

    Parameters
    ----------
    question
        The two experiments that the study is about; their comparison is corrected for no other.
    parts
        Label -> part of the study (``main`` where it has none).
    baselines
        Labels that are tested against the reference together, apart from the others of their part.
    untested
        Labels that no question is asked of: label learners, majorities, random features, controls.
    """

    question: Collection[str] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    baselines: Collection[str] = ()
    untested: Collection[str] = ()

    def find_group(self, family: str, experiment: str, reference: str) -> tuple[str, ...] | None:
        """What Holm corrects within; None: not tested.

        The question alone, baselines, each sweep (experiment that varies a key) and the rest of each part; in
        the families of priors each part.
        """
        if base(experiment) in self.untested:
            return None
        if family in (PRIOR, GROUP):
            return family, self.parts.get(base(experiment), "main")
        if self.question and {experiment, reference} == set(self.question):
            return ("question",)
        name, _, point = experiment.partition("[")
        role = "baselines" if experiment in self.baselines else name if point else ""
        return family, self.parts.get(experiment, "main"), role


def list_comparisons(
    evaluated: Mapping[str, Evaluated],
    pairs: Mapping[str, Sequence[tuple[str, str]]],
    families: Families,
    names: Callable[[str, str], Sequence[str]],
    compare: Compare,
) -> list[dict[str, Any]]:
    """Every comparison in every metric that ``names`` has for two experiments: rows of COMPARISONS."""
    rows: list[dict[str, Any]] = []
    together: dict[tuple[str, ...], list[tuple[dict[str, Any], Estimate]]] = {}
    for family, listed in pairs.items():
        for one, other in listed:
            group = families.find_group(family, one, other)
            for row, estimate in _compare(evaluated[one], evaluated[other], names(one, other)):
                row = {"experiment": one, "reference": other, "family": family, **row, "tests": 0}
                row |= dict.fromkeys(("p", "p_holm", "minimum_detectable", "animals_needed"), np.nan)
                if group is not None:
                    together.setdefault((*group, row["metric"]), []).append((row, estimate))
                rows.append(row)
    for tested in together.values():
        p = [float(estimate.p) for _, estimate in tested]
        tests = int(np.isfinite(p).sum())
        for (row, estimate), plain, corrected in zip(tested, p, holm(p), strict=True):
            row |= {"p": plain, "p_holm": corrected, "tests": tests if np.isfinite(plain) else 0}
            # What is found whatever the others of its family show: Holm's first step.
            level = compare.alpha / max(tests, 1), compare.power
            row["minimum_detectable"] = float(estimate.find_detectable(*level))
            row["animals_needed"] = estimate.find_units(row["animals"], METRICS[row["metric"]].worth, *level)
    return rows


def _compare(
    one: Evaluated, other: Evaluated, names: Sequence[str]
) -> Iterator[tuple[dict[str, Any], Estimate]]:
    """Difference of two experiments in every metric, and what it is tested by."""
    learns = {"experiment_learns": one.learns, "reference_learns": other.learns}
    seeds = paired_seeds(set(one.seeds), set(other.seeds), **learns)
    found: dict[str, tuple[dict[str, Any], Estimate]] = {}
    theirs = {measure.names: measure for measure in other.measures}
    for measure in one.measures if seeds else ():
        if measure.names in theirs and set(measure.names) <= set(names):
            places = [(list(one.seeds).index(a), list(other.seeds).index(b)) for a, b in seeds]
            either = one.learns or other.learns
            found |= dict(
                zip(measure.names, subtract(measure, theirs[measure.names], places, either), strict=True)
            )
    unknown = np.array(np.nan)
    nothing = Estimate(unknown, unknown, unknown, "")
    for name in names:
        a, b = one.runs[name], other.runs[name]
        pairs = paired_seeds({seed for _, seed in a}, {seed for _, seed in b}, **learns)
        differences = paired_differences(a, b, pairs)
        row, estimate = found.get(name, (_describe(nothing, nothing), nothing))
        of_pairs = {"pairs": differences.size, "p_corrected": find_corrected_p(differences, one.folds)}
        yield {"metric": name, "animals": 0, "slides": 0, "effect_size": np.nan, **row, **of_pairs}, estimate


def subtract(
    one: Measure, other: Measure, places: Sequence[tuple[int, int]], learns: bool = True
) -> list[tuple[dict[str, Any], Estimate]]:
    """One minus the other in each metric, paired by animal and by seeds at these places.

    ``learns``: whether either of the two does.
    """
    if one.slides != other.slides:
        raise ValueError(f"{len(one.slides)} and {len(other.slides)} slides that are not the same")
    mine, theirs = map(list, zip(*places, strict=True))
    paired = one.pseudo_values[..., mine] - other.pseudo_values[..., theirs]  # [m, n, pairs of seeds]
    values = (one.by_seed[mine] - other.by_seed[theirs]).mean(0)
    folds = one.design.folds
    spread = find_spread(paired)
    rows = []
    for value, difference, sd in zip(values, paired, spread, strict=True):
        estimate, by_folds = (
            replace(found, value=np.asarray(value))
            for found in (
                estimate_effect(difference, folds, learns=learns),
                estimate_by_folds(difference, folds),
            )
        )
        row = _describe(estimate, by_folds) | {"animals": folds.size, "slides": len(one.slides)}
        row["trusted"] = bool(estimate.error >= 0) and one.design.is_trusted(days=False)
        row["effect_size"] = value / sd if estimate.error > 0 else np.nan
        rows.append((row, estimate))
    return rows


def _describe(estimate: Estimate, by_folds: Estimate) -> dict[str, Any]:
    """Difference, intervals and how they were made, for a row of COMPARISONS."""
    low, high = map(float, estimate.find_interval())
    low_folds, high_folds = map(float, by_folds.find_interval())
    return {
        "difference": float(estimate.value),
        "low": low,
        "high": high,
        "method": estimate.method if np.isfinite(low) else "",
        "trusted": False,
        "low_folds": low_folds,
        "high_folds": high_folds,
        "p_folds": float(by_folds.p),
    }
