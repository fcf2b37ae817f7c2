"""Terms of the general ordinal-regression loss on bags: mse, dist, supcr, cell, and what they compare.

A bag has a target y in stages (0..K-1), a score (expected stage of its mean predicted stage distribution), an
embedding z_I (mean of its cells') and z_P (that of its perturbed cells, which are not healthy). The loss is a
weighted sum of MSE(y, score), Dist(y, score), SupCR(z_P, y) + SupCR(z_I, y) and MSE(z_I, z_W + z_P), z_W
being the embedding of healthy tissue. A step draws few bags; :class:`Queue` holds those of earlier steps.
Whatever autocast is on, all are computed in float32 (in float64 where their inputs are).
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myostage.learning.shares import full_precision
from myostage.learning.stages import NO_INJURY

Perturbed = Literal["soft", "hard"]
Parts = Literal["whole", "halves"]


def expected_score(logits: Tensor) -> Tensor:
    """Expected stage of a bag, sum_k k mean_i softmax(logits_i)_k.

    Parameters
    ----------
    logits
        [N, K], one row per cell of the bag.

    Returns
    -------
    Tensor
        Scalar, 0 to K - 1 stages.

    Raises
    ------
    ValueError
        No cells.
    """
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(
            f"a bag's score needs logits of cells and stages, not of shape {tuple(logits.shape)}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        shares = full_precision(logits).softmax(1).mean(0)  # [K]
        return (torch.arange(len(shares), device=shares.device) * shares).sum()


def perturbed_embedding(embedding: Tensor, logits: Tensor, healthy: Sequence[int], how: Perturbed) -> Tensor:
    """z_P of a bag: mean embedding of its perturbed cells; zeros where it has none, so that z_I = z_W there.

    Parameters
    ----------
    embedding, logits
        Of its cells, [N, D] and [N, K].
    healthy
        Stages of uninjured tissue, 0..K-1.
    how
        ``soft``: every cell, weighted by its probability of not being healthy. ``hard``: the cells whose
        most probable stage is not healthy, which passes no gradient to the logits.

    Returns
    -------
    Tensor[D]

    Raises
    ------
    ValueError
        Embeddings and logits of different cells, a stage that does not exist, an unknown ``how``.
    """
    if embedding.ndim != 2 or logits.ndim != 2 or len(embedding) != len(logits):
        raise ValueError(f"embeddings {tuple(embedding.shape)} for logits {tuple(logits.shape)}")
    stages = logits.shape[1]
    if not set(healthy) <= set(range(stages)):
        raise ValueError(f"healthy stages {list(healthy)} of {stages} stages")
    if how not in ("soft", "hard"):
        raise ValueError(f"perturbed is soft or hard, not {how!r}")
    injured = [stage for stage in range(stages) if stage not in healthy]
    with torch.autocast(embedding.device.type, enabled=False):
        cells, scores = full_precision(embedding), full_precision(logits)
        shares = scores.softmax(1) if how == "soft" else F.one_hot(scores.argmax(1), stages)
        weights = shares[:, injured].sum(1).to(cells)  # 1 - that of the healthy, without cancellation
        total = weights.sum()
        return torch.where(total < NO_INJURY, 0.0, weights @ cells / total.clamp_min(NO_INJURY))


def halves(embedding: Tensor, how: Parts) -> tuple[Tensor, Tensor]:
    """What supcr and what cell see of embeddings [..., D].

    ``whole``: both everything. ``halves``: supcr the first half, cell the second (of an odd D, the smaller).
    ValueError for an unknown ``how``, or a D of 1, which has no halves.
    """
    if how == "whole":
        return embedding, embedding
    if how != "halves":
        raise ValueError(f"embedding parts are whole or halves, not {how!r}")
    if embedding.shape[-1] < 2:
        raise ValueError(f"embeddings {tuple(embedding.shape)} have no halves")
    first, second = embedding.tensor_split(2, dim=-1)
    return first, second


class Queue(nn.Module):
    """Ring of the last ``size`` bags of earlier steps, without gradient; its state dict restores it exactly.

    Buffers are replaced, not written to, so that a loss that has seen the queue can still be differentiated
    after a push.
    """

    _embeddings: Tensor
    _scores: Tensor
    _targets: Tensor
    _healthy: Tensor
    _pushed: Tensor

    def __init__(self, size: int, width: int) -> None:
        """An empty queue for bags with embeddings of ``width``; of size 0 it stays empty."""
        super().__init__()
        self.size = size
        self.register_buffer("_embeddings", torch.zeros(size, width))
        self.register_buffer("_scores", torch.zeros(size))
        self.register_buffer("_targets", torch.zeros(size))
        self.register_buffer("_healthy", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("_pushed", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, embedding: Tensor, scores: Tensor, targets: Tensor, healthy: Tensor) -> None:
        """Take up bags in the place of the oldest; of more than ``size``, the last.

        Parameters
        ----------
        embedding
            [B, D].
        scores, targets
            [B], in stages.
        healthy
            bool[B], whether the bag is of a healthy group.

        Raises
        ------
        ValueError
            Another width, or parts of different numbers of bags.
        """
        bags = len(embedding)
        shapes = [tuple(part.shape) for part in (embedding, scores, targets, healthy)]
        if shapes != [(bags, self._embeddings.shape[1]), (bags,), (bags,), (bags,)]:
            raise ValueError(f"bags of shapes {shapes} for a queue of width {self._embeddings.shape[1]}")
        kept = min(bags, self.size)
        self._pushed = self._pushed + bags
        places = (self._pushed - kept + torch.arange(kept, device=self._pushed.device)) % max(self.size, 1)

        def taken_up(ring: Tensor, new: Tensor) -> Tensor:
            return ring.index_copy(0, places, new[bags - kept :].to(ring))

        self._embeddings = taken_up(self._embeddings, embedding)
        self._scores = taken_up(self._scores, scores)
        self._targets = taken_up(self._targets, targets)
        self._healthy = taken_up(self._healthy, healthy)

    @property
    def embeddings(self) -> Tensor:
        """[n, D] of the n bags held."""
        return self._embeddings[: int(self._pushed)]

    @property
    def scores(self) -> Tensor:
        """[n], in stages."""
        return self._scores[: int(self._pushed)]

    @property
    def targets(self) -> Tensor:
        """[n], in stages."""
        return self._targets[: int(self._pushed)]

    @property
    def healthy(self) -> Tensor:
        """bool[n], whether the bag is of a healthy group."""
        return self._healthy[: int(self._pushed)]

    def reference(self) -> Tensor | None:
        """Mean embedding [D] of the bags of healthy groups; none where the queue holds none."""
        return _mean(self.embeddings[self.healthy])


def reference(current: Tensor, healthy: Tensor, queue: Queue) -> Tensor | None:
    """z_W, the mean embedding of the bags of healthy groups, each counting once.

    Parameters
    ----------
    current
        Embeddings [B, D] of the step's bags, which the queue does not hold yet; the gradient goes here.
    healthy
        bool[B], whether the bag is of a healthy group.
    queue
        Bags of earlier steps.

    Returns
    -------
    Tensor[D] or None
        None where neither holds such a bag.
    """
    return _mean(torch.cat([full_precision(current)[healthy], queue.embeddings[queue.healthy]]))


def conflict(one: Tensor, other: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Cosine of the gradients of two terms: below 0, a small step down either leads up the other.

    Parameters
    ----------
    one, other
        Scalars; their graphs are kept.
    parameters
        The gradient is with respect to all of them as one vector; what requires none is left out.

    Returns
    -------
    Tensor
        float64 scalar, -1 to 1; nan where either gradient is 0.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not (trained and one.requires_grad and other.requires_grad):
        return torch.full((), torch.nan, dtype=torch.float64, device=one.device)
    a, b = _gradient(one, trained), _gradient(other, trained)
    return (a @ b) / (a.norm() * b.norm())


def _gradient(term: Tensor, parameters: list[Tensor]) -> Tensor:
    """As one vector, in float64: squares of a small gradient underflow in float32."""
    parts = torch.autograd.grad(
        term, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten().double() for part in parts])


def _mean(bags: Tensor) -> Tensor | None:
    return bags.mean(0) if len(bags) else None
