"""A run that learns nothing: each cell of a slide gets the probabilities that a baseline gives its group.

No torch is imported here: such a run costs its tables and no more.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from myostage.learning.baseline import BASELINES, Floats
from myostage.learning.outputs import (
    Batch,
    cell_numbers,
    learnt_and_predicted,
    save_model,
    write_history,
    write_outcome,
    write_predictions,
)
from myostage.runtime.cost import measure
from myostage.study.run import RunSpec

PROBABILITIES = "probabilities"
"""What the model file holds: the probabilities [K] of a cell of no group."""


def predict_baseline(
    spec: RunSpec,
    *,
    stages: Sequence[str],
    proportions: Mapping[str, Floats],
    splits: Path,
    crops: Mapping[str, Path],
    model_out: Path,
    history_out: Path,
    predictions_out: Path,
    outcome_out: Path,
    made_by: str = "",
) -> None:
    """Predict the slides that a baseline's fold holds out and those that are only staged.

    Parameters
    ----------
    spec
        The run; its method is a key of :data:`BASELINES`.
    stages
        Names of the K stages, in order.
    proportions
        Proportions [K] of every group.
    splits
        ``SPLITS``.
    crops
        Crops, or ready-made features, of every slide: the numbers of its cells are read.
    model_out, history_out, predictions_out, outcome_out
        See :func:`myostage.learning.runs.train_run`; the history is empty.
    made_by
        What is written into the files' metadata.

    Raises
    ------
    UserError
        Nothing to learn from or hold out; the cells of a slide are missing.
    """
    learnt, predicted = learnt_and_predicted(splits, spec.fold, crops)
    with measure("cpu") as cost:
        predict, trained = BASELINES[spec.method].predict, set(learnt["group"])
        save_model(model_out, {PROBABILITIES: predict(proportions, trained, "")}, spec, len(stages), made_by)
        write_history(history_out, [], spec, made_by)
        batches = (
            (str(slide), repeat(cell_numbers(crops[slide]), predict(proportions, trained, group)))
            for slide, group in zip(predicted["slide"], predicted["group"], strict=True)
        )
        write_predictions(predictions_out, batches, len(stages), spec, made_by)
    write_outcome(outcome_out, spec, cost, made_by)


def repeat(cells: NDArray[np.int32], share: Floats) -> Iterator[Batch]:
    """The same probabilities for every cell."""
    probabilities = np.tile(share.astype(np.float32), (len(cells), 1))
    yield cells, probabilities, np.empty((len(cells), 0), np.float16)
