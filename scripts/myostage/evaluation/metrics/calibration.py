"""Metrics of calibration, from sums over staged cells by confidence, which add up over slides.

The confidence of a cell is the probability of its predicted stage. Where it is calibrated, a share c of the
cells of confidence c is staged rightly.
"""

import numpy as np
from numpy.typing import ArrayLike

from myostage.evaluation.metrics.record import Floats, Metric

# Equal bins of confidence from 0 to 1.
BINS = 10
AS_PREDICTED, CALIBRATED = 0, 1


def sum_confidences(truth: ArrayLike, probabilities: ArrayLike) -> Floats:
    """Cells, summed confidence and cells staged rightly, by predicted stage and bin of confidence.

    Parameters
    ----------
    truth
        True stages, [n].
    probabilities
        Stage probabilities, [n, K].

    Returns
    -------
    float64[K, BINS, 3]
    """
    scores = np.asarray(probabilities, np.float64)
    stage, confidence = scores.argmax(1), scores.max(1)
    place = stage * BINS + np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    values = (None, confidence, stage == np.asarray(truth))
    size = scores.shape[1] * BINS
    sums = [np.bincount(place, weights, minlength=size) for weights in values]
    return np.stack(sums, axis=-1).reshape(-1, BINS, 3).astype(np.float64)


def expected_error(sums: Floats, kind: int) -> Floats:
    """Mean over cells of the distance of a bin's mean confidence to its accuracy (Naeini et al. 2015), [...].

    Of few cells it is too large, since the accuracy of a bin varies. ``sums`` are [..., 2, K, BINS, 3].
    """
    bins = sums[..., kind, :, :, :].sum(-3)
    return np.abs(bins[..., 1] - bins[..., 2]).sum(-1) / bins[..., 0].sum(-1)


METRICS = (
    Metric(
        *("ece", "calibration error", False, 0, 1, lambda sums: expected_error(sums, AS_PREDICTED)),
        may_lead=False,
    ),
    Metric(
        *("ece_calibrated", "calibration error, scaled", False, 0, 1),
        lambda sums: expected_error(sums, CALIBRATED),
        may_lead=False,
    ),
)
NAMES = tuple(metric.key for metric in METRICS)


def measure_calibration(sums: Floats) -> Floats:
    """All METRICS [..., 2] of summed confidences [..., 2 * K * BINS * 3]; nan without a cell."""
    parts = sums.reshape(*sums.shape[:-1], 2, -1, BINS, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([metric.compute(parts) for metric in METRICS], axis=-1)
