"""L_prop of mini-bags, samples of a bag, with proportions perturbed as those of a sample are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from myostage.learning.term import Term
from myostage.papers import MINIBAG, OURS
from myostage.schema import Section, key

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from myostage.learning.steps import BagStep


class Options(Section):
    """Options of the mini-bags."""

    minibag_cells: int = key(25, "cells of a mini-bag of term `minibag`", MINIBAG, ge=1, le=100_000)
    minibags: int = key(4, "mini-bags that `minibag` draws from each of the two bags", OURS, ge=1, le=1000)


def _compute(step: BagStep, options: Options) -> Tensor:
    return minibag(step.bags, cells=options.minibag_cells, minibags=options.minibags)


def _faults(training: Any, used: bool) -> list[str]:
    if not used or training.minibag_cells <= training.bag_size:
        return []
    return [
        f"minibag_cells is {training.minibag_cells} and a bag has {training.bag_size} cells; lower "
        "minibag_cells, or raise bag_size"
    ]


TERM = Term(
    title="L_prop of mini-bags",
    unit="nats",
    meaning="L_prop of samples of a bag, with perturbed proportions",
    source=MINIBAG,
    compute={"proportions": _compute},
    options=Options,
    teaches="head",
    place=45,
    faults=_faults,
)


def minibag(bags: Any, *, cells: int, minibags: int, generator: torch.Generator | None = None) -> Tensor:
    """L_prop of mini-bags, each against the counts of a sample of the bag, weighted by their probability.

    Kubo et al. (arXiv 2408.14130) with their code: of a bag of N cells, ``cells`` are drawn without
    replacement; since how many are of each stage is not known, that is drawn too, from the multivariate
    hypergeometric distribution of so many draws from the bag's counts. What is improbable weighs less: by the
    probability of the drawn counts, over the sum of these in the step, so that weights sum to 1.

    Deviations: a bag is itself a sample of its slide, whose counts N p are made whole by largest remainders
    (there rounded down); weights add the mini-bags up, without the further division by their number.

    Parameters
    ----------
    bags
        Logits [N, K] and proportions [K] of every bag.
    cells
        Cells of a mini-bag, at most N.
    minibags
        Mini-bags of each bag.
    generator
        Source of what is drawn, on the CPU; none: torch's global one.

    Returns
    -------
    Tensor
        Scalar, at least 0; nats.

    Raises
    ------
    ValueError
        A bag of fewer than ``cells`` cells, or as many logits as there are no stages.
    """
    import torch

    from myostage.learning.shares import apportion
    from myostage.learning.terms.prop import prop

    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    losses, chances = [], []
    for logits, p in bags:
        if cells > len(logits):
            raise ValueError(f"a mini-bag of {cells} cells of a bag of {len(logits)}")
        counts = apportion(p, len(logits))
        for _ in range(minibags):
            rows = torch.from_numpy(rng.choice(len(logits), cells, replace=False)).to(logits.device)
            drawn = rng.multivariate_hypergeometric(counts, cells)
            losses.append(prop(logits[rows], drawn / cells))
            chances.append(log_chance(counts, drawn))
    found = torch.stack(losses)
    return (torch.tensor(chances, dtype=torch.float64).softmax(0).to(found) * found).sum()


def log_chance(counts: ArrayLike, drawn: ArrayLike) -> float:
    """Logarithm of the probability of ``drawn`` [K] in a sample of ``counts`` [K] without replacement."""
    from scipy.stats import multivariate_hypergeom

    return float(multivariate_hypergeom.logpmf(drawn, counts, int(np.sum(drawn))))
