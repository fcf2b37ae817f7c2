"""A stage for every cell: the predictions of one experiment's runs joined, slide by slide.

Each run has a temperature of its own. Its probabilities are calibrated first and then averaged over runs, so
that a run that is too sure does not outweigh the others. The stage is the most probable before calibration.
A prior of the study is put into the probabilities of each run, calibrated or not, slide by slide.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation.tallies import list_priors, read_slide, read_splits
from myostage.learning.calibration import calibrate, entropy
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.predictions import read_learnt, read_run
from myostage.learning.priors import Prior, find_obstacle
from myostage.learning.tables import stages_table
from myostage.study.run import RunSpec
from myostage.study.sections.prediction import Prediction

Floats = NDArray[np.float64]


def stage_slides(
    runs: Sequence[tuple[RunSpec, Path]],
    splits: Path,
    out: Mapping[str, Path],
    stages: int,
    uncertain_below: float,
    prediction: Prediction,
    proportions: Mapping[str, ArrayLike],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write one table of staged cells per slide, probabilities averaged over the runs of one experiment.

    A held-out slide is averaged over the seeds of its own fold, a slide that is staged only over all runs;
    runs that failed are left out.

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
    uncertain_below
        Calibrated probability of its stage below which a cell is flagged.
    prediction, proportions
        The prior that is put into the probabilities of each run before they are averaged, and the proportions
        [K] of every group. The files' metadata say which, with what weight, or why it is not put in.
    metadata
        Goes into the written files.

    Raises
    ------
    UserError
        A slide that the splits or the predictions do not know, or whose runs all failed; runs that disagree
        about its cells.
    """
    split_of = read_splits(splits)
    prior = list_priors(prediction, split_of, proportions).get(prediction.prior)
    described = {spec.id: read_run(path, stages) for spec, path in runs}
    failed = {run: reason for run, (_, reason) in described.items() if reason is not None}
    for slide, target in out.items():
        if slide not in split_of:
            raise UserError(f"{splits}: no row for slide {slide}; delete the file and run the workflow again")
        fold = split_of[slide].fold
        of_fold = [(spec, path) for spec, path in runs if fold in (STAGED_ONLY, spec.fold)]
        if of_fold and all(spec.id in failed for spec, _ in of_fold):
            run = of_fold[0][0].id
            raise UserError(
                f"slide {slide} cannot be staged, because run {run} failed ({failed[run]}) and no other run "
                "predicts the slide; change the experiment's training, or name another one in look.experiment"
            )
        weights: list[float] = []
        obstacles: list[str] = []
        cells: NDArray[np.int64] | None = None
        total, total_calibrated, count = np.zeros((0, stages)), np.zeros((0, stages)), 0
        for spec, path in of_fold:
            if spec.id in failed:
                continue
            found, probabilities = read_slide(path, stages, slide)
            if cells is None:
                cells = found
                total, total_calibrated = np.zeros((found.size, stages)), np.zeros((found.size, stages))
            if not np.array_equal(cells, found):
                raise UserError(
                    f"{path}: its cells of slide {slide} are not those of the experiment's other runs; "
                    "delete it and run the workflow again"
                )
            calibrated = calibrate(probabilities, described[spec.id][0])
            if prior is not None:
                learnt = read_learnt(path, stages)
                probabilities, calibrated = (
                    prior.put(slide, values, learnt) for values in (probabilities, calibrated)
                )
                weights.append(prior.weigh(slide, learnt))
                obstacles.append(find_obstacle(learnt, prior.given.get(slide)))
            total += probabilities
            total_calibrated += calibrated
            count += 1
        expected = split_of[slide].cells
        if cells is None or cells.size != expected:
            raise UserError(
                f"{target}: slide {slide} has {expected} cells, but the experiment's runs predict "
                f"{0 if cells is None else cells.size}; delete their predictions and run the workflow again"
            )
        staged = _staged(slide, cells, total / count, total_calibrated / count, uncertain_below)
        said = {} if prior is None else _state(prior, weights, obstacles)
        tables.write(target, staged, stages_table(stages), (metadata or {}) | said)


def _state(prior: Prior, weights: Sequence[float], obstacles: Sequence[str]) -> dict[str, str]:
    """What the table of a slide says of the prior in its probabilities."""
    obstacle = next((reason for reason in obstacles if reason), "")
    if obstacle:
        return {"prior": "none", "prior_not_put_in": obstacle}
    return {"prior": prior.kind, "table_weight": f"{np.mean(weights):.4g}"}


def _staged(
    slide: str, cells: NDArray[np.int64], probabilities: Floats, calibrated: Floats, uncertain_below: float
) -> pa.Table:
    stages = probabilities.shape[1]
    stage = probabilities.argmax(1)
    columns = [
        pa.array([slide] * cells.size, pa.string()),
        pa.array(cells, pa.int32()),
        pa.array(stage, pa.int32()),
        *(
            pa.FixedSizeListArray.from_arrays(pa.array(shares.astype(np.float32).ravel()), stages)
            for shares in (probabilities, calibrated)
        ),
        pa.array(entropy(calibrated), pa.float32()),
        pa.array(calibrated[np.arange(cells.size), stage] < uncertain_below),
    ]
    return pa.table(columns, schema=stages_table(stages).schema)
