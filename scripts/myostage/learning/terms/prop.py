"""L_prop: the mean predicted shares of a bag's stages against its proportions; of a mixture, MixBag's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import ArrayLike

from myostage.learning.options import Divided
from myostage.learning.term import Term
from myostage.papers import MIXBAG, MIXBAG_Z, OSLSP
from myostage.schema import key

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from myostage.learning.steps import Bag, BagStep


Divide = Literal["none", "released"]


class Options(Divided):
    """Options of L_prop."""

    mix: Literal["none", "mixbag"] = key(
        "none", "`mixbag`: L_prop of a random mixture of the two bags takes the place of theirs", MIXBAG
    )
    prop_bags: Literal["both", "first"] = key(
        "both", "L_prop as the mean of both bags', or bag A's alone (the released code)", OSLSP
    )


def _compute(step: BagStep, options: Options) -> Tensor:
    import torch

    if options.mix == "none":
        return torch.stack(
            [prop(logits, p, divide=options.divide) for logits, p in drawn(step.bags, options.prop_bags)]
        ).mean()
    # the first cells of a mixture are any, though those of a bag lie in their slide's order
    (a, p_a), (b, p_b) = (
        (logits[torch.randperm(len(logits)).to(logits.device)], p) for logits, p in step.bags
    )
    return mixbag(a, b, p_a, p_b, divide=options.divide)


def _faults(training: Any, used: bool) -> list[str]:
    return [] if used or training.mix == "none" else [f"mix: {training.mix} mixes bags for prop; add prop: 1"]


TERM = Term(
    title="L_prop",
    unit="nats",
    meaning="mean predicted proportions of a bag; 1 in OSLSP",
    source=OSLSP,
    compute={"proportions": _compute},
    options=Options,
    teaches="head",
    place=20,
    faults=_faults,
)


def drawn(bags: Sequence[Bag], which: Literal["both", "first"]) -> Sequence[Bag]:
    """The bags of a step that L_prop is of."""
    return bags[:1] if which == "first" else bags


def prop(logits: Tensor, p: ArrayLike | Tensor, *, divide: Divide = "none") -> Tensor:
    """L_prop = sum_k p_k log(p_k / mean_i softmax(logits_i)_k), with 0 log 0 = 0 (OSLSP, arXiv 2505.04150).

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.
    p
        Proportions of the bag's group, [K].
    divide
        ``released``: divided by the number of stages.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        No cells, or as many logits as there are no stages.
    """
    import torch

    from myostage.learning.shares import checked_shares, divisor, log_mean_share

    wanted = checked_shares(logits, p)
    with torch.autocast(logits.device.type, enabled=False):
        found = log_mean_share(logits)
        wanted = wanted.to(found)
        loss = (torch.xlogy(wanted, wanted) - wanted * found).sum()
    return loss / divisor(divide, logits.shape[1])


def mixbag(
    logits_a: Tensor,
    logits_b: Tensor,
    p_a: ArrayLike | Tensor,
    p_b: ArrayLike | Tensor,
    *,
    divide: Divide = "none",
    generator: torch.Generator | None = None,
) -> Tensor:
    """L_prop of a random mixture of two bags: :func:`mixed_prop` of some cells of A and the rest of B.

    MixBag (Asanomi et al., ICCV 2023, arXiv 2308.08822) with uniform gamma: of n = min(N, M) cells, any
    number from 1 to n - 1 is as likely to be bag A's. The first ones are taken: cells
    that lie in some order are to be shuffled before.

    Parameters
    ----------
    logits_a, logits_b
        The bags, [N, K] and [M, K], at least two cells each.
    p_a, p_b
        Their proportions, [K] each.
    divide
        ``released``: divided by the number of stages.
    generator
        Source of gamma, on the CPU; none: torch's global one.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        A bag of fewer than two cells, or as many logits as there are no stages.
    """
    import torch

    cells = min(len(logits_a), len(logits_b))
    if cells < 2:
        raise ValueError(f"bags of {len(logits_a)} and {len(logits_b)} cells cannot be mixed")
    cells_a = int(torch.randint(1, cells, (), generator=generator))
    mixture = torch.cat([logits_a[:cells_a], logits_b[: cells - cells_a]])
    return mixed_prop(mixture, cells_a, p_a, p_b, divide=divide)


def mixed_prop(
    logits: Tensor, cells_a: int, p_a: ArrayLike | Tensor, p_b: ArrayLike | Tensor, *, divide: Divide = "none"
) -> Tensor:
    """L_prop of a mixed bag, in which a stage within the interval of its sampled share adds nothing.

    MixBag (arXiv 2308.08822): of cells_a = gamma N cells of bag A and (1 - gamma) N of bag B the expected
    shares are p = gamma p_a + (1 - gamma) p_b, but those cells are a sample. With q the mean over cells of
    softmax(logits), a stage is left alone where |q_k - p_k| <= z (gamma s_a + (1 - gamma) s_b), s being the
    standard error sqrt(p (1 - p) / cells) of either sample and z of 99 %, as in the released code (which
    weights s_a by z in the place of gamma).

    Deviation: any other stage adds p_k log(p_k / q_k) - p_k + q_k, not the first summand alone. With no stage
    left alone the sum is L_prop, since p and q sum to 1; with some, it still is at least 0 and still pulls
    down a share that is too large, which the first summand would push up.

    Parameters
    ----------
    logits
        [N, K]: ``cells_a`` cells of bag A and N - ``cells_a`` of bag B.
    cells_a
        At least 1, less than N.
    p_a, p_b
        Proportions of the bags, [K] each.
    divide
        ``released``: divided by the number of stages.

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        A mixture without a cell of either bag, or as many logits as there are no stages.
    """
    import torch

    from myostage.learning.shares import checked_shares, divisor, log_mean_share

    a, b = checked_shares(logits, p_a), checked_shares(logits, p_b)
    cells_b = len(logits) - cells_a
    if cells_a < 1 or cells_b < 1:
        raise ValueError(f"{cells_a} cells of bag A and {cells_b} of bag B are no mixture")
    with torch.autocast(logits.device.type, enabled=False):
        found = log_mean_share(logits)
        a, b = a.to(found), b.to(found)
        gamma = cells_a / len(logits)
        wanted = gamma * a + (1 - gamma) * b
        reach = MIXBAG_Z * (gamma * _standard_error(a, cells_a) + (1 - gamma) * _standard_error(b, cells_b))
        share = found.exp()
        parts = torch.xlogy(wanted, wanted) - wanted * found - wanted + share
        loss = torch.where((share - wanted).abs() <= reach, 0, parts).sum()
    return loss / divisor(divide, logits.shape[1])


def _standard_error(p: Tensor, cells: int) -> Tensor:
    """Of the shares of stages in a sample of ``cells`` from proportions ``p``."""
    return (p * (1 - p) / cells).clamp_min(0).sqrt()
