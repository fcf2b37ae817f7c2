"""How wrong the table of proportions may be at prediction: tables are made wrong, nothing is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from myostage.evaluation.experiments import Design, Measure, add_up
from myostage.evaluation.intervals import estimate_effect
from myostage.evaluation.metrics import cells as of_cells
from myostage.evaluation.metrics.cells import confusion, rps
from myostage.evaluation.metrics.registry import METRICS
from myostage.evaluation.tallies import PerCell, Split, held_out, read_slide
from myostage.learning.predictions import read_learnt
from myostage.learning.priors import Learnt, Prior
from myostage.learning.proportions import perturbed
from myostage.study.run import RunSpec

Floats = NDArray[np.float64]

# Shares of a table that are drawn, and how many tables are drawn for each.
STRENGTHS, DRAWS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0), 4
# Labelled cells of a slide that are counted, evenly spaced: what differs is compared within the same cells.
COUNTED = 2000


@dataclass(frozen=True)
class _Cells:
    """Some labelled cells of a held-out slide under one run."""

    probabilities: Floats
    stages: NDArray[np.int64]
    learnt: Learnt | None

    def count(self, probabilities: Floats) -> Floats:
        """Confusion matrix, flat, and the summed rps, [K * K + 1]."""
        matrix = confusion(self.stages, probabilities.argmax(1), probabilities.shape[1])
        return np.append(matrix.ravel().astype(float), rps(self.stages, probabilities).sum())


def measure_wrong_tables(
    experiment: str,
    seeds: Sequence[Sequence[tuple[RunSpec, Path]]],
    priors: Sequence[Prior],
    proportions: Mapping[str, Floats],
    splits: Mapping[str, Split],
    stages: int,
    truth: PerCell,
) -> list[dict[str, Any]]:
    """Rows of WRONG_TABLES of one experiment; none without labelled cells of slides with a group.

    Parameters
    ----------
    experiment
        Its label.
    seeds
        The runs of all folds, of each seed of which no run failed.
    priors
        Each as the study has it; their tables are made wrong, see :func:`perturbed`, for all runs and priors
        alike.
    proportions
        Proportions [K] of every group.
    splits, stages, truth
        See :func:`myostage.evaluation.tallies.tally_run`.
    """
    cells = [_read(runs, splits, stages, truth) for runs in seeds]
    if not cells or not cells[0]:
        return []
    slides = tuple(sorted(cells[0]))
    design, number = Design.of(slides, splits), sum(len(cells[0][slide].stages) for slide in slides)

    def measure(counts: list[list[Floats]]) -> Measure:
        statistic = add_up(
            lambda sums: of_cells.measure_counts(
                sums[..., :-1].reshape(*sums.shape[:-1], stages, stages), sums[..., -1]
            )
        )
        return Measure(of_cells.NAMES, statistic, slides, np.array(counts), number, design)

    plain = measure(
        [[of_seed[slide].count(of_seed[slide].probabilities) for of_seed in cells] for slide in slides]
    )
    rows = []
    for prior in priors:
        weights = [prior.weigh(slide, of_seed[slide].learnt) for of_seed in cells for slide in slides]
        for t in STRENGTHS:
            draws = [
                {slide: wrong[splits[slide].group] for slide in slides}
                for wrong in (perturbed(proportions, t, seed) for seed in range(DRAWS if t else 1))
            ]
            counts = [
                [
                    one.count(replace(prior, given=given).put(slide, one.probabilities, one.learnt))
                    for one in (of_seed[slide] for of_seed in cells)
                    for given in draws
                ]
                for slide in slides
            ]
            put = measure(counts)
            shape = len(of_cells.NAMES), design.folds.size, len(cells), len(draws)
            paired = put.pseudo_values.reshape(shape).mean(-1) - plain.pseudo_values
            for place, name in enumerate(of_cells.NAMES):
                value, without = put.by_seed.mean(0)[place], plain.by_seed.mean(0)[place]
                estimate = estimate_effect(paired[place], design.folds, learns=True)
                low, high = replace(estimate, value=np.asarray(value - without)).find_interval()
                rows.append(
                    {
                        "experiment": experiment,
                        "prior": prior.kind,
                        "t": t,
                        "metric": name,
                        "value": value,
                        "without": without,
                        "difference": value - without,
                        "low": float(low),
                        "high": float(high),
                        "table_weight": float(np.nanmean(weights)) if np.isfinite(weights).any() else np.nan,
                        "draws": len(draws),
                        "animals": design.folds.size,
                        "cells": number,
                    }
                )
    return rows


def _read(
    runs: Sequence[tuple[RunSpec, Path]], splits: Mapping[str, Split], stages: int, truth: PerCell
) -> dict[str, _Cells]:
    """Labelled cells of the slides with a group that the runs of one seed hold out."""
    found = {}
    for spec, path in runs:
        learnt = read_learnt(path, stages)
        for slide in held_out(splits, spec.fold):
            cells, probabilities = read_slide(path, stages, slide)
            known = truth.of(slide, cells).astype(np.int64)
            places = np.flatnonzero(known >= 0)
            places = places[np.linspace(0, len(places) - 1, min(len(places), COUNTED)).astype(int)]
            if len(places) and splits[slide].group:
                found[slide] = _Cells(probabilities[places], known[places], learnt)
    return found


def find_limits(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Up to which t a prior does more good than harm, by experiment and prior of WRONG_TABLES.

    Returns
    -------
    DataFrame
        ``experiment``, ``prior``, ``gain``, ``low``, ``high`` (with the given table, better above 0),
        ``limit`` (t at which the gain becomes 0, straight between two t; infinite: it does not; 0: nothing is
        gained), ``draws``, ``animals``, ``cells``.
    """
    sign = METRICS[metric].sign
    found = []
    for (experiment, prior), part in rows[rows["metric"] == metric].groupby(
        ["experiment", "prior"], sort=False
    ):
        part = part.sort_values("t")
        t, gain = part["t"].to_numpy(), sign * part["difference"].to_numpy()
        lost = np.flatnonzero(gain <= 0)
        if not len(lost):
            limit = np.inf
        elif lost[0] == 0:
            limit = 0.0
        else:
            after = lost[0]
            limit = float(np.interp(0, [gain[after], gain[after - 1]], [t[after], t[after - 1]]))
        low, high = sorted(sign * part[["low", "high"]].iloc[0].to_numpy(float))
        extent = part.iloc[-1][["draws", "animals", "cells"]].to_list()
        found.append((experiment, prior, gain[0], low, high, limit, *extent))
    names = ["experiment", "prior", "gain", "low", "high", "limit", "draws", "animals", "cells"]
    return pd.DataFrame(found, columns=names)
