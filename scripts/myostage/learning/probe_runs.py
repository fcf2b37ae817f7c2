"""A run of the linear probe, from its specification to its predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from myostage.errors import UserError
from myostage.learning.baseline import Floats
from myostage.learning.calibration import fit_temperature
from myostage.learning.folds import assign_folds
from myostage.learning.outputs import (
    learnt_and_predicted,
    save_model,
    write_history,
    write_outcome,
    write_predictions,
)
from myostage.learning.priors import Learnt
from myostage.learning.probe import fit_probe, predict, predict_slides, summarise
from myostage.learning.runs import stages_of_rows, token_store
from myostage.runtime.cost import measure
from myostage.study.run import RunSpec

# Parts that the training animals are dealt into, at most, and labelled cells that are learnt from.
PARTS, MOST_CELLS = 3, 10_000


def train_probe(
    spec: RunSpec,
    *,
    stages: Sequence[str],
    proportions: Mapping[str, Floats],
    splits: Path,
    tokens: Mapping[str, Path],
    labels: Mapping[str, Path],
    model_out: Path,
    history_out: Path,
    predictions_out: Path,
    outcome_out: Path,
    threads: int | None = None,
    made_by: str = "",
) -> None:
    """Fit the probe on labelled cells of training animals and predict the slides that are held out.

    Parameters are those of :func:`myostage.learning.runs.train_run`; the history is empty, and the model file
    holds ``weights`` [K, F] and ``bias`` [K]. Of more than ``MOST_CELLS`` labelled cells, evenly spaced ones
    are learnt from. ``proportions`` calibrate, as those of other runs do.

    Raises
    ------
    UserError
        Nothing to learn from or hold out, labelled cells of fewer than two training animals, or tokens
        missing.
    """
    learnt, predicted = learnt_and_predicted(splits, spec.fold, tokens)
    with measure("cpu") as cost, threadpool_limits(threads):
        stores = {slide: token_store(tokens[slide], spec.encoder) for slide in learnt["slide"]}
        known = {slide: stages_of_rows(store, labels.get(slide)) for slide, store in stores.items()}
        learnt = learnt.assign(cells=[int((known[slide] >= 0).sum()) for slide in learnt["slide"]])
        learnt = learnt[learnt["cells"] > 0]
        animals = learnt["animal"].nunique()
        if animals < 2:
            raise UserError(
                f"run {spec.id}: the probe needs labelled cells of two training animals, and has those of "
                f"{animals}; annotate more, lower folds or drop the experiment"
            )
        share = min(1.0, MOST_CELLS / learnt["cells"].sum())
        rows = {slide: _take(np.flatnonzero(known[slide] >= 0), share) for slide in learnt["slide"]}
        features = {slide: summarise(stores[slide].read_rows(taken).numpy()) for slide, taken in rows.items()}
        part = np.repeat(
            assign_folds(learnt, min(PARTS, animals)).to_numpy(), [len(taken) for taken in rows.values()]
        )
        truth = np.concatenate([known[slide][taken] for slide, taken in rows.items()])
        parts = [(part != held_in, part == held_in) for held_in in np.unique(part)]
        probe = fit_probe(np.concatenate(list(features.values())), truth, parts, len(stages))
        seen = [predict(probe, values) for values in features.values()]
        given = [proportions[group] for group in learnt["group"]]
        temperature = fit_temperature(seen, given)
        of_cells = Learnt.fitted(seen, given, np.bincount(truth, minlength=len(stages)) / len(truth))
        save_model(model_out, probe._asdict(), spec, len(stages), made_by, "", temperature, of_cells)
        write_history(history_out, [], spec, made_by)
        held_out = {slide: token_store(tokens[slide], spec.encoder) for slide in predicted["slide"]}
        batches = predict_slides(probe, held_out)
        write_predictions(predictions_out, batches, len(stages), spec, made_by, "", temperature, of_cells)
    write_outcome(outcome_out, spec, cost, made_by, temperature=temperature)


def _take(rows: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Evenly spaced rows, this share of them and at least one."""
    count = max(1, round(share * len(rows)))
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
