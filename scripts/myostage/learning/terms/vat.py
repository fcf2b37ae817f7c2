"""Virtual adversarial consistency: a cell's prediction under the small change that moves it most."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from myostage.learning.term import Term
from myostage.papers import LLP_VAT
from myostage.schema import Positive, Section, key

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from myostage.learning.steps import BagStep


class Options(Section):
    """Options of the adversarial consistency."""

    vat_radius: Positive = key(
        0.1, "length of the adversarial perturbation of term `vat`, as a share of that of a cell's tokens"
    )


def _compute(step: BagStep, options: Options) -> Tensor:
    forward, inputs = step.forward
    return vat(forward, inputs, step.logits, radius=options.vat_radius)


TERM = Term(
    title="adversarial consistency",
    unit="nats",
    meaning="virtual adversarial consistency of every cell",
    source=LLP_VAT,
    compute={"proportions": _compute},
    options=Options,
    teaches="nothing",
    place=30,
)


def vat(
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    logits: Tensor,
    *,
    radius: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Virtual adversarial consistency: mean over cells of KL(softmax(logits) || softmax(forward(x + r))).

    LLP-VAT (Tsai & Lin, ACML 2020, arXiv 1910.13188) adds it to L_prop. r is the perturbation of its length
    that changes a cell's prediction most, to second order, found by one step of power iteration: the gradient
    of the KL at a random r of that length. The length is relative, since tokens have no scale of their own.

    Parameters
    ----------
    forward
        From inputs to logits [N, K]; no cell may depend on another.
    inputs
        Tokens [N, T, D] or embeddings [N, E], of any floating dtype; no gradient reaches them.
    logits
        ``forward(inputs)``, [N, K]; constants here, the gradient goes through the perturbed cells alone.
    radius
        Length of r as a share of the norm of the cell's inputs.
    generator
        Source of the random direction, on the CPU; none: torch's global one.

    Returns
    -------
    Tensor
        Scalar, at least 0; nats.
    """
    import torch
    import torch.nn.functional as F

    from myostage.learning.shares import full_precision

    device = inputs.device
    # Seeded from the CPU's generator, whose state checkpoints hold, and drawn where the inputs are.
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.autocast(device.type, enabled=False):
        x = full_precision(inputs.detach())
        clean = full_precision(logits.detach()).log_softmax(1)
        length = radius * x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))

        def divergence(r: Tensor) -> Tensor:
            """Sum over cells."""
            found = full_precision(forward(x + r)).log_softmax(1)
            return F.kl_div(found, clean, reduction="sum", log_target=True)

        start = torch.empty_like(x).normal_(generator=torch.Generator(device).manual_seed(seed))
        start = (length * _unit(start)).requires_grad_()
        (steepest,) = torch.autograd.grad(divergence(start), start)
        return divergence(length * _unit(steepest)) / len(x)


def _unit(x: Tensor) -> Tensor:
    """Every cell's part scaled to length 1; what is 0 stays 0."""
    import torch.nn.functional as F

    # below this the squares of a norm underflow in float32
    return F.normalize(x.flatten(1), dim=1, eps=1e-18).view_as(x)
