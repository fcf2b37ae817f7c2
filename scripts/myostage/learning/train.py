"""Training of stages: loss terms on drawn bags, in one phase or two.

A run has one phase, or two where no term teaches the head its stages (L_SimProp alone): a head is then fitted
by L_prop on the embedding as it stands (bag labels only). Where nothing upstream of the head learns, each
cell's embedding is computed once and drawn in the place of its tokens.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from myostage import tables
from myostage.errors import UserError
from myostage.features.encoder import Suffix
from myostage.learning import losses, regression
from myostage.learning.loop import Diverged, History, autocast, fit, write_history
from myostage.learning.mil import Reconstruction
from myostage.runtime.checkpoints import Checkpoints, Progress
from myostage.spatial.graph import CellGraph
from myostage.spatial.smoothing import sm
from myostage.study.run import RunSpec
from myostage.study.sections.mil import Mil
from myostage.study.sections.training import Training
from myostage.study.terms import REGRESSION_TERMS

log = logging.getLogger(__name__)

# Logits [N, K] and proportions [K] of bags A and B.
_Bags = tuple[tuple[Tensor, np.ndarray], tuple[Tensor, np.ndarray]]


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
    p_a: np.ndarray
    p_b: np.ndarray
    scores: tuple[float, float] = (0.0, 0.0)
    healthy: tuple[bool, bool] = (False, False)
    graph: CellGraph | None = None


@dataclass(frozen=True)
class LabelledCells:
    """Cells with their annotated ``stages`` int64[N]; ``inputs`` as in :class:`BagPair`."""

    inputs: Tensor
    stages: Tensor


class Source(Protocol):
    """Where the loop's draws come from."""

    @property
    def scores(self) -> NDArray[np.float64]:
        """The score of every slide that is learnt from, in stages."""
        ...

    def draw(self, step: int) -> BagPair | LabelledCells:
        """The draw of one step, a function of the source's seed and ``step`` alone."""
        ...

    def embedded(self, embed: Callable[[Tensor], Tensor]) -> "Source":
        """The same draws with ``embed(tokens)``, computed once per cell, in the place of tokens."""
        ...


class StageModel(nn.Module):
    """The trained suffix of the encoder and the 3-layer head on its embedding (OSLSP: E-128-64-K, ReLU)."""

    def __init__(self, suffix: Suffix, hidden: tuple[int, int], stages: int) -> None:
        super().__init__()
        self.suffix = suffix
        self.head = nn.Sequential(
            nn.Linear(suffix.embedding, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], stages),
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding float32[N, E] and logits float32[N, K] of tokens [N, T, D]."""
        embedding = self.suffix(tokens.float()).float()
        return embedding, self.head(embedding).float()


@dataclass(frozen=True)
class _Phase:
    """What one phase minimises and trains."""

    number: int
    weights: dict[str, float]
    frozen: bool


def phases(spec: RunSpec) -> list[_Phase]:
    """The phases of a run: its own, and that of a head fitted by L_prop where no term of it teaches the head.

    Raises
    ------
    UserError
        The specification leaves nothing to learn.
    """
    weights = {str(term): float(weight) for term, weight in spec.losses.items()}
    frozen = spec.training.unfreeze == "none"
    if frozen and spec.training.head == "frozen":
        raise UserError(
            f"run {spec.id}: training.head is frozen and training.unfreeze is none, so that nothing would "
            "learn; set training.head to trained, or training.unfreeze to attention or block"
        )
    if frozen and spec.head_afterwards:
        raise UserError(
            f"run {spec.id}: {'+'.join(weights)} trains the encoder, and training.unfreeze is none, so that "
            "nothing would learn; add the loss prop or set training.unfreeze to attention or block"
        )
    own = _Phase(0, weights, frozen)
    return [own, _Phase(1, {"prop": 1.0}, frozen=True)] if spec.head_afterwards else [own]


def train(
    spec: RunSpec,
    stages: Sequence[str],
    source: Source,
    suffix: Suffix,
    *,
    checkpoints: Checkpoints,
    history_out: Path,
    model_out: Path,
    device: torch.device,
    made_by: str,
) -> tuple[StageModel, int]:
    """Train one run and write its model and its history.

    Parameters
    ----------
    spec
        The run. ``losses`` names the terms and weights, ``training`` everything about the loop.
    stages
        Names of the K stages, in order.
    source
        Draws of tokens; of bag pairs, or of labelled cells where ``losses`` is ``cross_entropy``.
    suffix
        A fresh copy of the encoder's last blocks and norm; trained in place.
    checkpoints
        Of this run and its training data (:func:`fingerprint`); the newest one that fits is resumed.
    history_out, model_out
        ``HISTORY`` and safetensors (parameters of suffix and head, metadata ``spec``, ``stages``,
        ``made_by``).

    Returns
    -------
    StageModel
        The trained model, in eval mode, on ``device``.
    int
        Steps done by this process; fewer than the run's where it resumed.

    Raises
    ------
    Diverged
        The loss or its gradient is not finite; the history up to there is written, the model is not.
    UserError
        The specification leaves nothing to learn.
    """
    plan = phases(spec)
    torch.manual_seed(spec.seed)
    model = StageModel(suffix, spec.training.hidden, len(stages))
    module = nn.ModuleDict({"stages": model, **_helpers(spec, model.suffix.embedding)}).to(device)
    history: History = []
    resumed = checkpoints.load()
    if resumed is not None:
        module.load_state_dict(resumed["model"])
        history = [tuple(row) for row in resumed["history"].tolist()]
        log.info("%s: resumed at step %d of phase %d", spec.id, resumed["step"], resumed["phase"])
    begun = len(history)
    progress = Progress(spec.id, len(plan) * spec.training.steps, begun)
    try:
        for phase in plan:
            if resumed is not None and phase.number < resumed["phase"]:
                continue
            at = resumed if resumed is not None and phase.number == resumed["phase"] else None
            objective = _Objective(
                phase.number, phase.weights, module, phase.frozen, spec, tuple(stages), source, device
            )
            # A phase that trains no embedding computes each once.
            drawn = (
                source.embedded(embed_with(model, device, spec.training.precision))
                if phase.frozen
                else source
            )
            fit(
                objective,
                spec,
                drawn.draw,
                checkpoints=checkpoints,
                history=history,
                progress=progress,
                resumed=at,
                device=device,
            )
    except Diverged as error:
        error.steps = len(history) - begun
        write_history(history_out, history, made_by)
        raise
    model.eval()
    write_history(history_out, history, made_by)
    save_model(model_out, model.state_dict(), spec, len(stages), made_by)
    return model, len(history) - begun


def save_model(
    path: Path, tensors: dict[str, Tensor], spec: RunSpec, stages: int, made_by: str, failed: str = ""
) -> None:
    """Write a model as safetensors, atomically, with the specification that made it.

    ``failed`` says why there is no model; such a file holds no tensors.
    """
    metadata = {"spec": spec.model_dump_json(), "stages": str(stages), "made_by": made_by}
    metadata |= {"failed": failed} if failed else {}
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with tables.atomic(path) as temporary:
        save_file(own, temporary, metadata)


def embed_with(model: StageModel, device: torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    """From tokens [N, T, D] to embeddings float32[N, E] of the model as it stands, on ``device``."""

    @torch.inference_mode()
    def embed(tokens: Tensor) -> Tensor:
        model.eval()
        with autocast(device, precision):
            return model.suffix(tokens.to(device)).float()

    return embed


def smooths(training: Training, where: str) -> bool:
    """Whether Sm smooths a cell's logits or embedding at ``training`` or at ``prediction``."""
    return training.smooth != "none" and training.smooth_at in (where, "both")


def classify(
    model: StageModel, embedding: Tensor, training: Training, device: torch.device, graph: CellGraph | None
) -> Tensor:
    """Logits float32[N, K] of embeddings [N, E]; ``graph`` smooths one or the other, as the run asks for."""

    def smooth(values: Tensor) -> Tensor:
        assert graph is not None
        return sm(values, graph, training.smooth_alpha, training.smooth_steps)

    if graph is not None and training.smooth == "embedding":
        embedding = smooth(embedding)
    # Losses in float32, outside autocast: logarithms of small shares.
    with autocast(device, training.precision):
        logits = model.head(embedding).float()
    return smooth(logits) if graph is not None and training.smooth == "logits" else logits


# Every step asks for as many labels as the queue holds.
@lru_cache(maxsize=256)
def _pseudo_labels(scores: tuple[float, ...], count: int, by: Any, high: float) -> Tensor:
    return torch.from_numpy(regression.pseudo_labels(np.array(scores), count, by, 0.0, high))


def positions_of(training: Training, stages: Sequence[str]) -> list[int]:
    """Stage at every place of the order that similarity is measured on."""
    return [stages.index(name) for name in training.order or stages]


def _helpers(spec: RunSpec, width: int) -> dict[str, nn.Module]:
    """What learns or remembers beside the model while it is trained, and is dropped afterwards."""
    found: dict[str, nn.Module] = {}
    if "spatial_reconstruction" in spec.losses:
        sizes = Mil()
        found["reconstruction"] = Reconstruction(width, sizes.width, sizes.heads, sizes.layers)
    if spec.losses.keys() & REGRESSION_TERMS:
        found["queue"] = regression.Queue(spec.training.queue, 2 * width if spec.healthy else width)
    return found


@dataclass(frozen=True)
class _Objective:
    """The terms that one phase minimises; ``module`` holds the model and its helpers."""

    phase: int
    weights: dict[str, float]
    module: nn.ModuleDict
    frozen: bool
    spec: RunSpec
    stages: tuple[str, ...]
    source: Source
    device: torch.device

    @property
    def model(self) -> StageModel:
        model = self.module["stages"]
        assert isinstance(model, StageModel)
        return model

    @property
    def training(self) -> Training:
        return self.spec.training

    @property
    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        training, model = self.training, self.model
        model.head.requires_grad_(training.head == "trained")
        head = [parameter for parameter in model.head.parameters() if parameter.requires_grad]
        blocks = model.suffix.trainable("none" if self.frozen else training.unfreeze)
        own = (
            []
            if self.frozen or "reconstruction" not in self.module
            else [*self.module["reconstruction"].parameters()]
        )
        return [
            (head, training.learning_rate),
            (blocks, training.encoder_learning_rate),
            (own, training.learning_rate),
        ]

    def terms(self, draw: BagPair | LabelledCells) -> dict[str, Tensor]:
        """The unweighted terms of one draw; those of a single bag are means over its two bags."""
        training = self.training
        inputs = draw.inputs.to(self.device, non_blocking=True)
        embedding = inputs if self.frozen else self._embed(inputs)
        seen = embedding.detach() if training.head_gradient == "detached" else embedding
        graph = None if isinstance(draw, LabelledCells) or draw.graph is None else draw.graph.to(self.device)
        logits = classify(
            self.model, seen, training, self.device, graph if smooths(training, "training") else None
        )
        if isinstance(draw, LabelledCells):
            return {"cross_entropy": losses.cross_entropy(logits, draw.stages.to(self.device))}
        n, p_a, p_b = draw.cells_a, draw.p_a, draw.p_b
        bags = ((logits[:n], p_a), (logits[n:], p_b))
        compute: dict[str, Callable[[], Tensor]] = {
            "simprop": lambda: self._simprop(embedding[:n], embedding[n:], p_a, p_b),
            "prop": lambda: self._mixed(bags) if training.mix == "mixbag" else self._prop(bags),
            "vat": lambda: self._vat(inputs, seen, logits),
            "ot": lambda: _mean([losses.ot(bag, p, entropy=training.ot_entropy) for bag, p in bags]),
            "spatial_reconstruction": lambda: self.module["reconstruction"](
                embedding, graph, training.mask_ratio
            ),
        }
        # In this order whatever the study file's, which is no part of a run's id.
        terms = {name: term() for name, term in compute.items() if name in self.weights}
        if self.weights.keys() & REGRESSION_TERMS:
            terms |= self._regression(embedding, logits, draw)
        return terms

    def _regression(self, embedding: Tensor, logits: Tensor, draw: BagPair) -> dict[str, Tensor]:
        """Terms of the general ordinal-regression loss, on the two bags and those in the queue.

        L = MSE + Dist + SupCR(z_P) + SupCR(z_I) + MSE(z_I, z_W + z_P), each with its weight: z_I is the mean
        embedding of a bag, z_W that of uninjured bags, z_P that of the bag's cells that are not healthy.
        Where the study names nothing healthy there is no z_P, and z_I alone is ranked.
        """
        n = draw.cells_a
        queue = self.module["queue"]
        assert isinstance(queue, regression.Queue)
        bags = (slice(None, n), slice(n, None))
        scores = torch.stack([regression.expected_score(logits[bag]) for bag in bags])
        targets = scores.new_tensor(draw.scores)
        healthy = torch.tensor(draw.healthy, device=self.device)
        z = torch.stack(
            [embedding[bag].mean(0) for bag in bags]
        )  # z_I, with z_P beside it where there is one
        if self.spec.healthy:
            z = torch.cat([z, self._perturbed(embedding, logits, bags)], 1)
        compute: dict[str, Callable[[], Tensor | None]] = {
            "mse": lambda: regression.mse(scores, targets),
            "dist": lambda: self._dist(torch.cat([scores, queue.scores]), len(scores)),
            "supcr": lambda: self._supcr(z, targets, queue),
            "cell": lambda: self._cell(z, regression.reference(z, healthy, queue)),
        }
        terms = {name: term() for name, term in compute.items() if name in self.weights}
        queue.push(z.detach(), scores.detach(), targets, healthy)
        # Before the first bag of uninjured tissue there is no z_W to compare with.
        return {name: term for name, term in terms.items() if term is not None}

    def _perturbed(self, embedding: Tensor, logits: Tensor, bags: tuple[slice, slice]) -> Tensor:
        """z_P of both bags, [2, E]."""
        assert self.spec.healthy is not None
        numbers = [self.stages.index(stage) for stage in self.spec.healthy.stages]
        how = self.training.perturbed
        return torch.stack(
            [regression.perturbed_embedding(embedding[bag], logits[bag], numbers, how) for bag in bags]
        )

    def _dist(self, scores: Tensor, current: int) -> Tensor:
        training = self.training
        labels = _pseudo_labels(
            tuple(self.source.scores), len(scores), training.dist_labels, len(self.stages) - 1
        )
        return regression.dist(scores, labels.to(scores), anchors=current)

    def _supcr(self, z: Tensor, targets: Tensor, queue: regression.Queue) -> Tensor:
        """Of z_I, and of z_P where there is one."""
        training = self.training
        every, known = torch.cat([z, queue.embeddings]), torch.cat([targets, queue.targets])
        ranked = [
            regression.supcr(
                regression.halves(part, training.embedding_parts)[0],
                known,
                similarity=training.supcr_similarity,
                temperature=training.supcr_temperature,
                anchors=len(z),
            )
            for part in every.split(self.model.suffix.embedding, dim=1)
        ]
        return torch.stack(ranked).sum()

    def _cell(self, z: Tensor, reference: Tensor | None) -> Tensor | None:
        """MSE(z_I, z_W + z_P); none where no uninjured bag has been seen."""
        if reference is None:
            return None
        width = self.model.suffix.embedding
        z_i, z_p = z.split(width, dim=1)
        parts = (
            regression.halves(part, self.training.embedding_parts)[1]
            for part in (z_i, reference[:width], z_p)
        )
        return regression.cell(*parts)

    def _embed(self, tokens: Tensor) -> Tensor:
        with autocast(self.device, self.training.precision):
            return self.model.suffix(tokens).float()

    def _simprop(self, u: Tensor, v: Tensor, p_a: np.ndarray, p_b: np.ndarray) -> Tensor:
        training = self.training
        positions = positions_of(training, self.stages)
        return losses.simprop(
            u,
            v,
            p_a[positions],
            p_b[positions],
            sigma=training.sigma,
            bins=training.bins,
            pairs=training.pairs,
            target=training.target,
            stop_gradient=training.stop_gradient,
            divide=training.divide,
        )

    def _prop(self, bags: _Bags) -> Tensor:
        return _mean([losses.prop(logits, p, divide=self.training.divide) for logits, p in bags])

    def _mixed(self, bags: _Bags) -> Tensor:
        """L_prop of a mixture; its first cells are any, though those of a bag lie in their slide's order."""
        (a, p_a), (b, p_b) = (
            (logits[torch.randperm(len(logits)).to(logits.device)], p) for logits, p in bags
        )
        return losses.mixbag(a, b, p_a, p_b, divide=self.training.divide)

    def _vat(self, inputs: Tensor, seen: Tensor, logits: Tensor) -> Tensor:
        """Perturbs the tokens, or the embedding where the head's terms go no further back."""
        radius = self.training.vat_radius
        if self.frozen or self.training.head_gradient == "detached":
            return losses.vat(self.model.head, seen, logits, radius=radius)
        # The model's own forward knows no autocast, whose rounding would drown so small a difference.
        return losses.vat(lambda tokens: self.model(tokens)[1], inputs, logits, radius=radius)


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
