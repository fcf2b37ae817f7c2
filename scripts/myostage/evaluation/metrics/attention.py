"""Metrics of the attention that cells get; each is computed from sums over slides, [..., values]."""

import numpy as np

from myostage.evaluation.metrics.record import Floats, Metric
from myostage.evaluation.weighted import divisor, mean_of


def mean_over_slides(sums: Floats) -> Floats:
    """Mean of a value per slide: of its sum and the number of slides."""
    return mean_of(sums)[..., 0]


def instance_f1(sums: Floats) -> Floats:
    """F1 of cells: of those injured and predicted so, those predicted so, those injured."""
    return 2 * sums[..., 0] / divisor(sums[..., 1] + sums[..., 2])


INSTANCE_AUROC = Metric(
    "instance_auroc", "cell AUROC of the attention", True, 0, 1, mean_over_slides, decimals=2
)
INSTANCE_F1 = Metric("instance_f1", "cell F1 of the attention", True, 0, 1, instance_f1, decimals=2)
# less energy is smoother attention, which is no gain in itself
ENERGY = Metric(
    *("energy", "Dirichlet energy of the attention", False, 0, np.inf),
    mean_over_slides,
    "per edge",
    decimals=2,
    may_lead=False,
)
METRICS = (INSTANCE_AUROC, INSTANCE_F1, ENERGY)
