"""LLP-DC's loss of single cells: cross-entropy with the likeliest labels that meet the proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from myostage.learning.term import Term
from myostage.papers import LLP_DC, OURS
from myostage.schema import Section, key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


class Options(Section):
    """Options of the pseudo-labels."""

    llp_dc_threshold: float = key(
        0.6, "probability below which `llp_dc` leaves a pseudo-label out", LLP_DC, ge=0, lt=1
    )
    llp_dc_noise: float = key(
        0.1,
        "noise on a cell's tokens that learn the pseudo-labels of `llp_dc`, as a share of their norm",
        OURS,
        ge=0,
        le=10,
    )


def _compute(step: BagStep, options: Options) -> Tensor:
    import torch

    forward, inputs = step.forward
    inputs = inputs.float()
    noise = torch.randn(inputs.shape).to(inputs)
    length = inputs.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    strong = forward(inputs + options.llp_dc_noise * length.view(-1, *[1] * (inputs.ndim - 1)) * noise)
    parts = (slice(None, step.cells_a), slice(step.cells_a, None))
    return torch.stack(
        [
            llp_dc(logits, strong[part], p, threshold=options.llp_dc_threshold)
            for part, (logits, p) in zip(parts, step.bags, strict=True)
        ]
    ).mean()


TERM = Term(
    title="LLP-DC, single cells",
    unit="nats",
    meaning="cross-entropy with pseudo-labels that meet the proportions; 0.5 beside `prop: 1` in LLP-DC",
    source=LLP_DC,
    compute={"proportions": _compute},
    options=Options,
    teaches="head",
    place=46,
)


def llp_dc(logits: Tensor, strong: Tensor, p: ArrayLike | Tensor, *, threshold: float) -> Tensor:
    """Mean over cells of the cross-entropy of ``strong`` with pseudo-labels made of ``logits``.

    The instance-level loss of LLP-DC (Ma et al., CVPR Findings 2026, arXiv 2603.21153), as in its code; the
    bag-level loss beside it is L_prop. Pseudo-labels are the assignment of cells to stages of the largest
    product of probabilities among those with the bag's counts (there as a minimum-cost flow, here as the
    assignment problem, which is the same). A cell counts where its pseudo-label has a probability of at least
    ``threshold``.

    Deviation: ``strong`` are logits of the cells' tokens with Gaussian noise, where the paper has strong
    augmentations of an image; there is no average of the model's weights.

    Parameters
    ----------
    logits, strong
        Of the cells as they are and as they were perturbed, [N, K] each; no gradient reaches ``logits``.
    p
        Proportions of the bag's group, [K].
    threshold
        From 0 to 1.

    Returns
    -------
    Tensor
        Scalar, at least 0; nats.

    Raises
    ------
    ValueError
        No cells, or as many logits as there are no stages.
    """
    import torch
    import torch.nn.functional as F

    from myostage.learning.shares import checked_shares, full_precision

    checked_shares(logits, p)
    with torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits.detach()).log_softmax(1)
        labels = torch.from_numpy(assign(scores.cpu().numpy(), p)).to(logits.device)
        kept = scores.gather(1, labels[:, None])[:, 0].exp() >= threshold
        return (F.cross_entropy(full_precision(strong), labels, reduction="none") * kept).mean()


def assign(scores: ArrayLike, p: ArrayLike) -> np.ndarray:
    """Stages int64[N] of the largest sum of ``scores`` [N, K], of each as many as ``p`` [K] says."""
    from scipy.optimize import linear_sum_assignment

    from myostage.learning.shares import apportion

    gains = np.asarray(scores)
    places = np.repeat(np.arange(gains.shape[1]), apportion(p, len(gains)))
    rows, columns = linear_sum_assignment(gains[:, places], maximize=True)
    labels = np.empty(len(gains), np.int64)
    labels[rows] = places[columns]
    return labels
