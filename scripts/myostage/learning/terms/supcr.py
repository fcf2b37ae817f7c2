"""SupCR: bags nearer in target are to be more similar in embedding (Rank-N-Contrast)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from myostage.learning.options import Parted, Queued, Scored
from myostage.learning.term import Term
from myostage.papers import RNC, RNC_TEMPERATURES
from myostage.schema import Positive, key

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.learning.steps import BagStep


Similarity = Literal["l2", "cosine"]

# Differences of targets (stages) that are equal but for the rounding of float32 are ties.
ROUNDING = 1e-5


class Options(Scored, Queued, Parted):
    """Options of SupCR."""

    supcr_similarity: Similarity = key(
        "l2", "similarity of `supcr`: minus the distance of two embeddings, or their cosine", RNC
    )
    supcr_temperature: Positive | None = key(
        None, "temperature of `supcr`; none: 2 with `l2`, .1 with `cosine`", RNC
    )


def _compute(step: BagStep, options: Options) -> Tensor:
    """Of z_I, and of z_P where there is one."""
    import torch

    from myostage.learning.regression import halves

    bags = step.ordinal
    every = torch.cat([bags.embeddings, bags.queue.embeddings])
    known = torch.cat([bags.targets, bags.queue.targets])
    ranked = [
        supcr(
            halves(part, options.embedding_parts)[0],
            known,
            similarity=options.supcr_similarity,
            temperature=options.supcr_temperature,
            anchors=len(bags.embeddings),
        )
        for part in every.split(step.width, dim=1)
    ]
    return torch.stack(ranked).sum()


def _faults(training: Any, used: bool) -> list[str]:
    if not used or training.queue:
        return []
    return ["supcr ranks three bags or more, and a step has two; set training.queue above 0"]


TERM = Term(
    title="SupCR",
    unit="nats",
    meaning="embeddings of bags, ranked by their score",
    source=RNC,
    compute={"proportions": _compute},
    options=Options,
    teaches="embedding",
    encoder_only=True,
    place=92,
    regression=True,
    healthy="used",
    faults=_faults,
)


def supcr(
    embeddings: Tensor,
    targets: Tensor,
    *,
    similarity: Similarity,
    temperature: float | None = None,
    anchors: int | None = None,
) -> Tensor:
    """Rank-N-Contrast: bags nearer in target are to be more similar in embedding (arXiv 2210.01189).

    Mean over pairs i != j of -log(exp(s_ij / t) / sum of exp(s_ik / t) over all k != i with
    |y_i - y_k| >= |y_i - y_j|). Bags of the same target compete with one another, and never i with itself.

    Parameters
    ----------
    embeddings
        [B, D], one row per bag.
    targets
        [B], in stages; they are ties where they differ by less than the rounding of float32.
    similarity
        ``l2``: s = -|v_i - v_j|, with gradient 0 where two embeddings are one. ``cosine``.
    temperature
        t, above 0; none: 2 with ``l2``, .1 with ``cosine``.
    anchors
        Only the first so many rows are i, all others j and k; none: every row.

    Returns
    -------
    Tensor
        Scalar, at least 0; 0 with gradient 0 for one bag or two: there is nothing to rank.

    Raises
    ------
    ValueError
        Shapes that do not fit, no bag, an unknown similarity, a temperature that is not above 0, or more
        anchors than bags.
    """
    import torch
    import torch.nn.functional as F

    from myostage.learning.shares import full_precision

    bags = len(embeddings)
    rows = bags if anchors is None else anchors
    if embeddings.ndim != 2 or targets.shape != (bags,) or not 1 <= rows <= bags:
        shapes = f"{tuple(embeddings.shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"embeddings {shapes} with {rows} anchors")
    if similarity not in RNC_TEMPERATURES:
        raise ValueError(f"similarity is l2 or cosine, not {similarity!r}")
    t = RNC_TEMPERATURES[similarity] if temperature is None else temperature
    if not t > 0:
        raise ValueError(f"the temperature of supcr must be above 0, not {temperature}")
    with torch.autocast(embeddings.device.type, enabled=False):
        v, y = full_precision(embeddings), full_precision(targets)
        if similarity == "l2":
            # by matrix product, near embeddings would lose their distance to cancellation
            s = -torch.cdist(v[:rows], v, compute_mode="donot_use_mm_for_euclid_dist")
        else:
            unit = F.normalize(v, dim=1)
            s = unit[:rows] @ unit.T
        other = ~torch.eye(rows, bags, dtype=torch.bool, device=v.device)
        s = (s / t)[other].view(rows, bags - 1)
        d = (y[:rows, None] - y).abs()[other].view(rows, bags - 1)
        ranked = d[:, None, :] >= d[:, :, None] - ROUNDING  # [i, j, k]
        competing = s[:, None, :].masked_fill(~ranked, -torch.inf).logsumexp(2)  # [i, j]
        return (competing - s).sum() / max(s.numel(), 1)
