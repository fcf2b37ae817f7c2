"""Metrics of staged cells, from counts that add up over slides: confusions and ranked probability scores."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myostage.evaluation.metrics.record import Floats, Metric


@dataclass(frozen=True)
class Counts:
    """Cells by true (row) and predicted (column) stage, [..., K, K], and their summed rps, [...]."""

    matrix: Floats
    rps: Floats

    @property
    def total(self) -> Floats:
        return self.matrix.sum((-2, -1))

    @property
    def true(self) -> Floats:
        """Cells by true stage, [..., K]."""
        return self.matrix.sum(-1)

    @property
    def predicted(self) -> Floats:
        return self.matrix.sum(-2)

    @property
    def right(self) -> Floats:
        """Cells staged rightly, by stage, [..., K]."""
        return np.diagonal(self.matrix, axis1=-2, axis2=-1)

    @property
    def distance(self) -> NDArray[np.int64]:
        """Stages between the true and the predicted one, [K, K]."""
        k = np.arange(self.matrix.shape[-1])
        return np.abs(k[:, None] - k[None, :])


def accuracy(cells: Counts) -> Floats:
    """Share of cells on the diagonal."""
    return cells.right.sum(-1) / cells.total


def rmse(cells: Counts) -> Floats:
    """Root mean squared error of the predicted stage."""
    return np.sqrt((cells.matrix * cells.distance**2).sum((-2, -1)) / cells.total)


def mae(cells: Counts) -> Floats:
    """Mean absolute error of the predicted stage."""
    return (cells.matrix * cells.distance).sum((-2, -1)) / cells.total


def kappa(cells: Counts) -> Floats:
    """Cohen's kappa, quadratic weights; undefined when all cells and predictions are one stage."""
    squares = (cells.matrix * cells.distance**2).sum((-2, -1))
    chance = cells.true[..., :, None] * cells.predicted[..., None, :]
    return 1 - squares * cells.total / (chance * cells.distance**2).sum((-2, -1))


def macro_f1(cells: Counts) -> Floats:
    """Mean F1 of the stages that are true or predicted anywhere."""
    either = cells.true + cells.predicted
    return _mean_where(2 * cells.right / either, either > 0)


def amae(cells: Counts) -> Floats:
    """Mean over the true stages of their MAE, so that every stage weighs the same."""
    return _mean_where((cells.matrix * cells.distance).sum(-1) / cells.true, cells.true > 0)


def mean_rps(cells: Counts) -> Floats:
    """Mean ranked probability score."""
    return cells.rps / cells.total


METRICS = (
    Metric("accuracy", "accuracy", True, 0, 1, accuracy),
    Metric("rmse", "RMSE", False, 0, np.inf, rmse, "stages"),
    Metric("mae", "MAE", False, 0, np.inf, mae, "stages"),
    Metric("kappa", "quadratic kappa", True, -1, 1, kappa, worth=0.1),
    Metric("macro_f1", "macro-F1", True, 0, 1, macro_f1),
    Metric("amae", "AMAE", False, 0, np.inf, amae, "stages"),
    Metric("rps", "RPS", False, 0, np.inf, mean_rps),
)
NAMES = tuple(metric.key for metric in METRICS)


def measure_counts(matrix: ArrayLike, rps_sum: ArrayLike) -> Floats:
    """All METRICS of many confusion matrices at once.

    Parameters
    ----------
    matrix
        Cells by true and predicted stage, [..., K, K].
    rps_sum
        Ranked probability score summed over the same cells, [...].

    Returns
    -------
    float64[..., metrics]
        In the order of ``METRICS``; nan where undefined.
    """
    counts = Counts(np.asarray(matrix, dtype=np.float64), np.asarray(rps_sum, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([metric.compute(counts) for metric in METRICS], axis=-1)


def measure_cells(truth: ArrayLike, probabilities: ArrayLike, stages: int) -> dict[str, float]:
    """All METRICS of predicted stage probabilities; the predicted stage is the most probable one.

    Parameters
    ----------
    truth
        True stages 0..K-1, [n].
    probabilities
        Stage probabilities, [n, K].
    stages
        Number of stages K.

    Raises
    ------
    ValueError
        Shapes that do not fit, a stage outside 0..K-1.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != stages:
        raise ValueError(f"probabilities of shape {scores.shape} for {stages} stages")
    found = measure_counts(confusion(truth, scores.argmax(1), stages), rps(truth, scores).sum())
    return {name: float(value) for name, value in zip(NAMES, found, strict=True)}


def confusion(truth: ArrayLike, predicted: ArrayLike, stages: int) -> NDArray[np.int64]:
    """Cells by true (row) and predicted (column) stage, int64[K, K].

    Raises
    ------
    ValueError
        Different lengths, or a stage outside 0..K-1.
    """
    rows, columns = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise ValueError(f"{rows.shape} true and {columns.shape} predicted stages")
    for values in (rows, columns):
        if values.size and not (values.min() >= 0 and values.max() < stages):
            raise ValueError(f"stages are 0 to {stages - 1}, found {values.min()} to {values.max()}")
    return np.bincount(rows * stages + columns, minlength=stages * stages).reshape(stages, stages)


def rps(truth: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Ranked probability score of every cell, [n].

    sum over k < K - 1 of (P(stage <= k) - [truth <= k])^2 (Epstein 1969): a sum, not divided by K - 1, so
    that a certain prediction one stage off costs 1.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    stages = np.asarray(truth)
    if scores.ndim != 2 or stages.shape != scores.shape[:1]:
        raise ValueError(f"{stages.shape} true stages for probabilities of shape {scores.shape}")
    cumulative = scores[:, :-1].cumsum(1)  # [n, K-1]
    reached = stages[:, None] <= np.arange(scores.shape[1] - 1)
    return np.square(cumulative - reached).sum(1)


def _mean_where(values: Floats, some: NDArray[np.bool_]) -> Floats:
    """Mean over the last axis of the values that count."""
    return np.where(some, values, 0.0).sum(-1) / some.sum(-1)
