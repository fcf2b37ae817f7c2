"""A learnt axis through the embedding, with stages in order on it: transport to the proportions of a bag."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myostage.learning.term import Term
from myostage.papers import OURS
from myostage.schema import Positive, Section, key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


class Options(Section):
    """Options of the learnt axis."""

    axis_noise: Positive = key(
        0.4, "standard deviation of the cells of one stage along the axis of `axis`, in stages", OURS
    )


def _compute(step: BagStep, options: Options) -> Tensor:
    import torch

    middle = (len(step.stages) - 1) / 2  # where the axis starts
    places = step.helpers["axis"](step.embedding)[:, 0] + middle
    bags = ((places[: step.cells_a], step.p_a), (places[step.cells_a :], step.p_b))
    return torch.stack([axis(found, p, options.axis_noise) for found, p in bags]).mean()


def _helper(width: int) -> Any:
    from torch import nn

    return nn.Linear(width, 1)


TERM = Term(
    title="L_axis",
    unit="stages2",
    meaning="places of cells on a learnt axis against those that the bag's proportions imply",
    source=OURS,
    compute={"proportions": _compute},
    options=Options,
    teaches="embedding",
    encoder_only=True,
    place=14,
    helper=_helper,
)


def axis(places: Tensor, p: ArrayLike | Tensor, noise: float) -> Tensor:
    """L_axis: squared distance of the sorted places of cells from the quantiles that proportions imply.

    Cells of stage k are to lie at k + ``noise`` N(0, 1), so that overlap costs nothing; those of a bag then
    follow F(x) = sum_k p_k Phi((x - k) / noise). 1-D optimal transport pairs in order: mean over i of
    (x_(i) - F^-1((i - 1/2) / N))^2.

    Parameters
    ----------
    places
        Of the cells of a bag on the axis, [N], in stages.
    p
        Proportions of the bag's group, [K].
    noise
        Above 0, in stages.

    Returns
    -------
    Tensor
        Scalar, at least 0, in stages squared.

    Raises
    ------
    ValueError
        No cells, proportions that are no list or hold no cells, or a noise that is not above 0.
    """
    import torch

    from myostage.learning.shares import full_precision

    shares = np.asarray(p.cpu() if isinstance(p, torch.Tensor) else p, dtype=np.float64)
    if places.ndim != 1 or len(places) == 0 or shares.ndim != 1 or not shares.sum() > 0 or not noise > 0:
        raise ValueError(
            f"places of shape {tuple(places.shape)}, proportions {shares} and noise {noise} make no axis"
        )
    wanted = _quantiles(tuple(shares.tolist()), noise, len(places))
    with torch.autocast(places.device.type, enabled=False):
        ranked = full_precision(places).sort().values
        return (ranked - torch.from_numpy(wanted).to(ranked)).square().mean()


# A study has few groups and every step asks for two of them.
@lru_cache(maxsize=1024)
def _quantiles(p: tuple[float, ...], noise: float, cells: int) -> NDArray[np.float64]:
    """Quantiles at (i - 1/2) / N of the mixture of N(k, noise^2) in shares p, [N], to 1e-9 of a stage."""
    from scipy.special import ndtr

    shares = np.array(p) / sum(p)
    k = np.arange(len(p))
    levels = (np.arange(cells) + 0.5) / cells
    low, high = np.full(cells, -10 * noise), np.full(cells, k[-1] + 10 * noise)
    while (high - low).max() > 1e-9:
        middle = (low + high) / 2
        below = ndtr((middle[:, None] - k) / noise) @ shares < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2
