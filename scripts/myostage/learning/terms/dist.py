"""Dist loss: sorted scores of bags against those of bags that are spread as the training bags are."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myostage.learning.options import Queued, Scored
from myostage.learning.term import Term
from myostage.papers import DIST
from myostage.schema import key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


Floats = NDArray[np.float64]
LabelsBy = Literal["kde", "quantiles"]


class Options(Scored, Queued):
    """Options of Dist loss."""

    dist_labels: LabelsBy = key(
        "kde",
        "pseudo-labels of `dist`: quantiles of a kernel density of the training targets, or of themselves",
        DIST,
    )


def _compute(step: BagStep, options: Options) -> Tensor:
    import torch

    bags = step.ordinal
    scores = torch.cat([bags.scores, bags.queue.scores])
    labels = _pseudo_labels(tuple(step.source.scores), len(scores), options.dist_labels, len(step.stages) - 1)
    return dist(scores, torch.from_numpy(labels).to(scores), anchors=len(bags.scores))


# Every step asks for as many labels as the queue holds.
@lru_cache(maxsize=256)
def _pseudo_labels(scores: tuple[float, ...], count: int, by: LabelsBy, high: float) -> Floats:
    return pseudo_labels(np.array(scores), count, by, 0.0, high)


TERM = Term(
    title="Dist",
    unit="stages",
    meaning="sorted scores of bags against their sorted pseudo-labels",
    source=DIST,
    compute={"proportions": _compute},
    options=Options,
    teaches="head",
    place=90,
    regression=True,
)


def pseudo_labels(targets: ArrayLike, count: int, by: LabelsBy, low: float, high: float) -> Floats:
    """The targets that ``count`` bags would have if they were spread as the training bags are.

    They are the quantiles at (i + 1/2) / count of the training targets, or of a Gaussian kernel density of
    them (Scott's bandwidth, std n^(-1/5)) restricted to [low, high], as for Dist loss (arXiv 2411.15216).

    Parameters
    ----------
    targets
        Of the training bags, [n], in stages.
    count
        Number of labels, at least 1.
    by
        ``quantiles``: of the targets as they are, so that no mass leaves a level; half-way between two of
        them where both are such a quantile. ``kde``: of the density; of targets that are all equal, which
        have none, the labels equal them.
    low, high
        Ends of the scale, in stages; without effect on ``quantiles``.

    Returns
    -------
    float64[count]
        Ascending.

    Raises
    ------
    ValueError
        No targets or labels, a target that is not finite, an unknown ``by``, or a density with no mass
        between ``low`` and ``high``.
    """
    from scipy.optimize.elementwise import find_root
    from scipy.special import ndtr

    values = np.sort(np.asarray(targets, dtype=np.float64))
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all() or count < 1:
        raise ValueError(f"{count} pseudo-labels of targets {values}")
    n = values.size
    odd = 2 * np.arange(count) + 1  # quantiles are odd / (2 count)
    if by == "quantiles":
        # In whole numbers, because rounding would decide where a quantile falls between two targets.
        return (values[(odd * n - 1) // (2 * count)] + values[odd * n // (2 * count)]) / 2
    if by != "kde":
        raise ValueError(f"pseudo-labels are by kde or quantiles, not {by!r}")
    if values[0] == values[-1]:
        return np.full(count, values[0])
    bandwidth = values.std(ddof=1) * n ** (-1 / 5)

    def mass_below(x: Floats) -> Floats:
        return ndtr((x[..., None] - values) / bandwidth).mean(-1)

    below, reached = mass_below(np.array([low, high]))
    if not below < reached:
        raise ValueError(f"targets from {values[0]} to {values[-1]} have no density from {low} to {high}")
    wanted = below + (reached - below) * odd / (2 * count)
    ends = np.full(count, low, dtype=np.float64), np.full(count, high, dtype=np.float64)
    return find_root(lambda x, mass: mass_below(x) - mass, ends, args=(wanted,)).x


def dist(scores: Tensor, labels: ArrayLike | Tensor, *, anchors: int | None = None) -> Tensor:
    """Mean distance of the sorted scores from the sorted pseudo-labels (Dist loss, arXiv 2411.15216).

    The paper's soft sort has the same value and gradient where its regularisation is weak.

    Parameters
    ----------
    scores
        [B], in stages; the gradient goes here.
    labels
        :func:`pseudo_labels`, [B], in any order.
    anchors
        The mean is over the first so many scores, each at its place among all; none: over every score.

    Returns
    -------
    Tensor
        Scalar, at least 0, in stages.

    Raises
    ------
    ValueError
        No scores, another number of labels, or more anchors than scores.
    """
    import torch

    from myostage.learning.shares import full_precision

    fixed = torch.as_tensor(labels).to(scores.device)
    if scores.ndim != 1 or scores.shape != fixed.shape or len(scores) == 0:
        raise ValueError(f"pseudo-labels of shape {tuple(fixed.shape)} for scores {tuple(scores.shape)}")
    rows = len(scores) if anchors is None else anchors
    if not 1 <= rows <= len(scores):
        raise ValueError(f"{len(scores)} scores with {rows} anchors")
    with torch.autocast(scores.device.type, enabled=False):
        ascending, places = full_precision(scores).sort()
        apart = (ascending - fixed.to(ascending).sort().values).abs()
        return apart[places < rows].mean()
