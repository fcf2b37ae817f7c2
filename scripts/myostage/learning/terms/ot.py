"""Cross-entropy with optimal-transport pseudo-labels, which meet the proportions of the bag."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from myostage.learning.term import Term
from myostage.papers import PLOT
from myostage.schema import Positive, Section, key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


# Sinkhorn's iterations. The entropy falls to its own value from the span of the costs: at the default entropy
# the shares of 100 cells of which a classifier is quite sure are then met to .01; at a fixed entropy, to .3.
SINKHORN_ITERATIONS = 50
SINKHORN_DECAY = 0.8


class Options(Section):
    """Options of the transport plan."""

    ot_entropy: Positive = key(0.1, "entropic regularisation of the transport plan of term `ot`")


def _compute(step: BagStep, options: Options) -> Tensor:
    import torch

    return torch.stack([ot(logits, p, entropy=options.ot_entropy) for logits, p in step.bags]).mean()


TERM = Term(
    title="transport cross-entropy",
    unit="nats",
    meaning="cross-entropy with optimal-transport pseudo-labels",
    source=PLOT,
    compute={"proportions": _compute},
    options=Options,
    teaches="head",
    place=40,
)


def ot(logits: Tensor, p: ArrayLike | Tensor, *, entropy: float) -> Tensor:
    """Mean cross-entropy of the cells of a bag with their optimal-transport pseudo-labels.

    The pseudo-labels are constants: the rows of :func:`transport_plan`, times N. The labels themselves meet
    the proportions, as in PLOT (Liu et al., IJCAI 2021, arXiv 2105.10635). Unlike there, they are soft, made
    anew in every bag and step from the start, and learnt by plain cross-entropy without mixup.

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].
    entropy
        Weight of the plan's entropy, in nats of cost, above 0.

    Returns
    -------
    Tensor
        Scalar, at least 0; nats.

    Raises
    ------
    ValueError
        No cells, as many logits as there are no stages, or an entropy that is not above 0.
    """
    import torch

    from myostage.learning.shares import full_precision

    with torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits).log_softmax(1)
        return -(transport_plan(logits, p, entropy=entropy) * scores).sum()


def transport_plan(logits: Tensor, p: ArrayLike | Tensor, *, entropy: float) -> Tensor:
    """Entropic optimal transport between cells of mass 1/N and stages of mass p_k, without gradient.

    The T that minimises sum_ik T_ik C_ik + entropy sum_ik T_ik log T_ik at those marginals, C = -log softmax
    of the logits: Sinkhorn's iteration (Cuturi, NIPS 2013) on logarithms, the entropy falling to its value.

    Parameters
    ----------
    logits, p, entropy
        As in :func:`ot`.

    Returns
    -------
    Tensor[N, K]
        Rows sum to 1/N, columns to p_k as far as the iteration has come; 0 where p_k is 0.

    Raises
    ------
    ValueError
        As :func:`ot`.
    """
    import torch

    from myostage.learning.shares import checked_shares, full_precision

    if not entropy > 0:
        raise ValueError(f"the entropy of a transport plan must be above 0, not {entropy}")
    wanted = checked_shares(logits, p)
    held = wanted > 0
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        scores = full_precision(logits).log_softmax(1)
        gain = scores[:, held.to(scores.device)]  # -C of the stages that hold any cell, [N, H]
        log_mass = wanted[held].log().to(gain)
        price = torch.zeros_like(log_mass)  # of a stage, by which too many cells are kept from it
        decay = SINKHORN_DECAY ** torch.arange(SINKHORN_ITERATIONS).to(gain)
        for now in ((gain.max() - gain.min()) * decay).clamp_min(entropy):
            rows = ((gain - price) / now).log_softmax(1)
            price += now * (rows.logsumexp(0) - math.log(len(rows)) - log_mass)
        plan = torch.zeros_like(scores)
        plan[:, held.to(scores.device)] = ((gain - price) / entropy).softmax(1) / len(scores)
    return plan
