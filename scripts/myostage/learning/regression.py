"""Terms of the general ordinal-regression loss on bags: mse, dist, supcr, cell, and what they compare.

A bag has a target y in stages (0..K-1), a score (expected stage of its mean predicted stage distribution), an
embedding z_I (mean of its cells') and z_P (that of its perturbed cells, which are not healthy). The loss is a
weighted sum of MSE(y, score), Dist(y, score), SupCR(z_P, y) + SupCR(z_I, y) and MSE(z_I, z_W + z_P), z_W
being the embedding of healthy tissue. A step draws few bags; :class:`Queue` holds those of earlier steps.
Whatever autocast is on, all are computed in float32 (in float64 where their inputs are).
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.optimize.elementwise import find_root
from scipy.special import ndtr
from torch import Tensor, nn

from myostage.learning.losses import full_precision
from myostage.learning.stages import NO_INJURY

Floats = NDArray[np.float64]
LabelsBy = Literal["kde", "quantiles"]
Similarity = Literal["l2", "cosine"]
Perturbed = Literal["soft", "hard"]
Parts = Literal["whole", "halves"]

# Rank-N-Contrast's own (arXiv 2210.01189).
TEMPERATURES = {"l2": 2.0, "cosine": 0.1}
# Differences of targets (stages) that are equal but for the rounding of float32 are ties.
ROUNDING = 1e-5


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


def mse(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean of (score - target)^2 over bags (stages squared); ValueError unless both are [B], B above 0."""
    if scores.ndim != 1 or scores.shape != targets.shape or len(scores) == 0:
        raise ValueError(f"scores {tuple(scores.shape)} for targets {tuple(targets.shape)}")
    with torch.autocast(scores.device.type, enabled=False):
        return (full_precision(scores) - full_precision(targets)).square().mean()


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
    bags = len(embeddings)
    rows = bags if anchors is None else anchors
    if embeddings.ndim != 2 or targets.shape != (bags,) or not 1 <= rows <= bags:
        shapes = f"{tuple(embeddings.shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"embeddings {shapes} with {rows} anchors")
    if similarity not in TEMPERATURES:
        raise ValueError(f"similarity is l2 or cosine, not {similarity!r}")
    t = TEMPERATURES[similarity] if temperature is None else temperature
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


def cell(z_i: Tensor, z_w: Tensor, z_p: Tensor) -> Tensor:
    """Mean of (z_I - (z_W + z_P))^2 over bags and dimensions.

    Parameters
    ----------
    z_i, z_p
        Embedding of every bag and of its perturbed cells, [B, D] each.
    z_w
        Embedding of healthy tissue, [D] (:func:`reference`).

    Returns
    -------
    Tensor
        Scalar, at least 0.

    Raises
    ------
    ValueError
        Shapes that do not fit, or no bag.
    """
    if z_i.ndim != 2 or z_i.numel() == 0 or z_p.shape != z_i.shape or z_w.shape != z_i.shape[1:]:
        shapes = f"z_I {tuple(z_i.shape)}, z_W {tuple(z_w.shape)} and z_P {tuple(z_p.shape)}"
        raise ValueError(f"{shapes} cannot be compared")
    with torch.autocast(z_i.device.type, enabled=False):
        return (full_precision(z_i) - (full_precision(z_w) + full_precision(z_p))).square().mean()


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
