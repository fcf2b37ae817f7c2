"""Metrics of the predicted class of slides."""

from dataclasses import dataclass

import numpy as np

from myostage.evaluation.metrics import cells
from myostage.evaluation.metrics.record import Floats, Metric
from myostage.evaluation.weighted import auroc, divisor, mean_of


@dataclass(frozen=True)
class Ranked:
    """Label and probabilities of slides, [slides, 1 + C], and how often each counts, [..., slides]."""

    weights: Floats
    values: Floats
    kind: str  # of label: binary, multiclass or ordinal


@dataclass(frozen=True)
class Classed:
    """Slides by their class and the predicted one, [..., C, C]."""

    matrix: Floats
    kind: str

    @property
    def counts(self) -> cells.Counts:
        return cells.Counts(self.matrix, self.matrix[..., 0, 0])


def bag_auroc(slides: Ranked) -> Floats:
    """Of the probability of the second class; of more than two classes the mean of each against the rest.

    The mean is over the classes that have both sides.
    """
    label, probabilities = slides.values[:, 0], slides.values[:, 1:]
    sought = range(1, 2) if slides.kind == "binary" else range(probabilities.shape[1])
    each = np.stack([auroc(probabilities[:, one], label == one, slides.weights) for one in sought], axis=-1)
    defined = ~np.isnan(each)
    return mean_of(np.stack([np.where(defined, each, 0.0).sum(-1), defined.sum(-1)], axis=-1))[..., 0]


def bag_accuracy(slides: Classed) -> Floats:
    """Share of slides whose class is predicted."""
    return cells.accuracy(slides.counts)


def bag_f1(slides: Classed) -> Floats:
    """F1 of the second of two classes, or macro-F1."""
    if slides.kind != "binary":
        return cells.macro_f1(slides.counts)
    matrix = slides.matrix
    return 2 * matrix[..., 1, 1] / divisor(matrix[..., 1].sum(-1) + matrix[..., 1, :].sum(-1))


def bag_kappa(slides: Classed) -> Floats:
    """Cohen's kappa, quadratic weights."""
    return cells.kappa(slides.counts)


def bag_mae(slides: Classed) -> Floats:
    """Mean absolute error of the class."""
    return cells.mae(slides.counts)


RANKED = (Metric("bag_auroc", "slide AUROC", True, 0, 1, bag_auroc, decimals=2),)
CLASSED = (
    Metric("bag_accuracy", "slide accuracy", True, 0, 1, bag_accuracy, decimals=2),
    Metric("bag_f1", "slide F1", True, 0, 1, bag_f1, decimals=2),
    Metric("bag_kappa", "slide quadratic kappa", True, -1, 1, bag_kappa, decimals=2),
)
# of ordinal classes alone
ORDINAL = (Metric("bag_mae", "slide MAE", False, 0, np.inf, bag_mae, "classes", decimals=2, may_lead=False),)
METRICS = (*RANKED, *CLASSED, *ORDINAL)


def choose_classed(kind: str) -> tuple[Metric, ...]:
    """Metrics of the class alone that a kind of label has."""
    return (*CLASSED, *ORDINAL) if kind == "ordinal" else CLASSED


def measure_ranked(weights: Floats, values: Floats, kind: str) -> Floats:
    """Metrics of RANKED, [..., 1], of label and probabilities, [slides, 1 + C]."""
    slides = Ranked(weights, values, kind)
    return np.stack([metric.compute(slides) for metric in RANKED], axis=-1)


def measure_classed(sums: Floats, kind: str) -> Floats:
    """Metrics of :func:`choose_classed`, [..., 3 or 4]; ``sums``: slides by true and predicted class."""
    classes = round(sums.shape[-1] ** 0.5)
    slides = Classed(sums.reshape(*sums.shape[:-1], classes, classes), kind)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([metric.compute(slides) for metric in choose_classed(kind)], axis=-1)
