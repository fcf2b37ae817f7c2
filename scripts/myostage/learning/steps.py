"""What the loss terms of one step see: two bags, labelled cells, or a slide."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from myostage.learning.regression import Queue, expected_score, perturbed_embedding
from myostage.spatial.graph import CellGraph
from myostage.study.run import RunSpec

if TYPE_CHECKING:
    from myostage.learning.train import Source, StageModel

# Logits [N, K] and proportions [K].
Bag = tuple[Tensor, NDArray[np.float64]]


@dataclass(frozen=True)
class BagPair:
    """Two bags: the first ``cells_a`` rows of ``inputs`` are bag A, the rest bag B.

    ``inputs`` are tokens float16[N+M, T, D] or, from an embedded source, embeddings float32[N+M, E];
    ``p_a``, ``p_b`` are the proportions float64[K] of the bags' groups, or of their slides; ``scores`` what
    they are to score, in stages, and ``healthy`` whether they are of uninjured groups; ``graph`` joins
    neighbours among the drawn cells, where a run asks for it.
    """

    inputs: Tensor
    cells_a: int
    p_a: NDArray[np.float64]
    p_b: NDArray[np.float64]
    scores: tuple[float, float] = (0.0, 0.0)
    healthy: tuple[bool, bool] = (False, False)
    graph: CellGraph | None = None


@dataclass(frozen=True)
class LabelledCells:
    """Cells with their annotated ``stages`` int64[N]; ``inputs`` as in :class:`BagPair`."""

    inputs: Tensor
    stages: Tensor


@dataclass(frozen=True)
class CellStep:
    """Logits [N, K] of labelled cells and their stages int64[N]."""

    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class BagStep:
    """A :class:`BagPair` with what the model makes of it.

    Parameters
    ----------
    spec, stages
        The run, and the names of its K stages.
    draw
        The two bags; their proportions stand in it.
    model
        The model (:class:`myostage.learning.train.StageModel`), from tokens to embedding and logits.
    helpers
        What terms learn or remember beside the model, by name, and the ``queue`` of earlier bags.
    frozen
        Whether nothing upstream of the head learns; ``inputs`` are then embeddings.
    source
        Where the bags are from; it knows the score of every slide that is learnt from.
    inputs, embedding, seen, logits
        Of all cells of both bags: tokens or embeddings, embedding [N+M, E], the embedding as the head sees it
        (without gradient where ``training.head_gradient`` is detached), logits [N+M, K].
    bags
        Logits and proportions of bag A and of bag B, cut once: gradients of all terms meet in these slices.
    graph
        Neighbours among the drawn cells, where the run asks for it.
    """

    spec: RunSpec
    stages: tuple[str, ...]
    draw: BagPair
    model: "StageModel"
    helpers: nn.ModuleDict
    frozen: bool
    source: "Source"
    inputs: Tensor
    embedding: Tensor
    seen: Tensor
    logits: Tensor
    bags: tuple[Bag, Bag]
    graph: CellGraph | None

    @property
    def cells_a(self) -> int:
        return self.draw.cells_a

    @property
    def p_a(self) -> NDArray[np.float64]:
        return self.draw.p_a

    @property
    def p_b(self) -> NDArray[np.float64]:
        return self.draw.p_b

    @property
    def detached(self) -> bool:
        """Whether the head passes no gradient on to the embedding."""
        return self.spec.training.head_gradient == "detached"

    @property
    def forward(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """What makes logits, and of what: tokens, or embeddings where the head's terms go no further back."""
        if self.frozen or self.detached:
            return self.model.head, self.seen
        # The model's own forward knows no autocast, whose rounding would drown a small perturbation.
        return lambda tokens: self.model(tokens)[1], self.inputs

    @property
    def width(self) -> int:
        """Width E of an embedding."""
        return self.embedding.shape[1]

    @cached_property
    def ordinal(self) -> "Ordinal":
        """The bags as ordinal regression sees them."""
        return Ordinal.of(self)


@dataclass(frozen=True)
class Ordinal:
    """Two bags as the general ordinal-regression loss sees them, and those of earlier steps.

    L = MSE + Dist + SupCR(z_P) + SupCR(z_I) + MSE(z_I, z_W + z_P), each with its weight: z_I is the mean
    embedding of a bag, z_W that of uninjured bags, z_P that of the bag's cells that are not healthy. Where
    the study names nothing healthy there is no z_P, and z_I alone is ranked.

    ``embeddings`` [2, E] are z_I or, with z_P beside it, [2, 2 E]; ``scores`` and ``targets`` [2] in stages;
    ``healthy`` bool[2]: whether the bag is of an uninjured group.
    """

    embeddings: Tensor
    scores: Tensor
    targets: Tensor
    healthy: Tensor
    queue: Queue

    @classmethod
    def of(cls, step: BagStep) -> "Ordinal":
        bags = (slice(None, step.cells_a), slice(step.cells_a, None))
        queue = step.helpers["queue"]
        assert isinstance(queue, Queue)
        scores = torch.stack([expected_score(step.logits[bag]) for bag in bags])
        targets = scores.new_tensor(step.draw.scores)
        healthy = torch.tensor(step.draw.healthy, device=scores.device)
        z = torch.stack([step.embedding[bag].mean(0) for bag in bags])
        reference = step.spec.healthy
        if reference:
            numbers = [step.stages.index(stage) for stage in reference.stages]
            how = step.spec.training.perturbed
            perturbed = [
                perturbed_embedding(step.embedding[bag], step.logits[bag], numbers, how) for bag in bags
            ]
            z = torch.cat([z, torch.stack(perturbed)], 1)
        return cls(z, scores, targets, healthy, queue)

    def remember(self) -> None:
        """Push the bags into the queue, without gradient."""
        self.queue.push(self.embeddings.detach(), self.scores.detach(), self.targets, self.healthy)
