"""Training of stages: loss terms on drawn bags, in one phase or two.

A run has one phase, or two where no term teaches the head its stages (L_SimProp alone): a head is then fitted
by L_prop on the embedding as it stands (bag labels only). Where nothing upstream of the head learns, each
cell's embedding is computed once and drawn in the place of its tokens.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from myostage.errors import UserError
from myostage.features.encoder import Suffix
from myostage.features.projection import Projection
from myostage.learning import term
from myostage.learning.heads import build_head
from myostage.learning.loop import Diverged, autocast, fit, resume
from myostage.learning.outputs import write_history
from myostage.learning.regression import Queue
from myostage.learning.steps import BagPair, BagStep, CellStep, LabelledCells
from myostage.runtime.checkpoints import Checkpoints, Progress
from myostage.schema import Section
from myostage.spatial.graph import CellGraph
from myostage.spatial.smoothing import sm
from myostage.study.run import HEAD_TERM, RunSpec
from myostage.study.sections.training import Classifier, Training

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where the loop's draws come from."""

    @property
    def scores(self) -> NDArray[np.float64]:
        """The score of every slide that is learnt from, in stages."""
        ...

    @property
    def prior(self) -> NDArray[np.float64]:
        """The proportions [K] that bags have on average."""
        ...

    def draw(self, step: int) -> BagPair | LabelledCells:
        """The draw of one step, a function of the source's seed and ``step`` alone."""
        ...

    def embedded(self, embed: Callable[[Tensor], Tensor]) -> "Source":
        """The same draws with ``embed(tokens)``, computed once per cell, in the place of tokens."""
        ...


class StageModel(nn.Module):
    """The trained suffix of the encoder and the head on its embedding.

    Where features are ready-made a learnt projection takes the suffix's place.
    """

    def __init__(
        self,
        suffix: Suffix | Projection,
        hidden: tuple[int, int],
        stages: int,
        classifier: Classifier = "softmax",
    ) -> None:
        super().__init__()
        self.suffix = suffix
        self.head = build_head(suffix.embedding, hidden, stages, classifier)

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
    return [own, _Phase(1, {HEAD_TERM: 1.0}, frozen=True)] if spec.head_afterwards else [own]


def train(
    spec: RunSpec,
    stages: Sequence[str],
    source: Source,
    suffix: Suffix | Projection,
    *,
    checkpoints: Checkpoints,
    history_out: Path | None,
    device: torch.device,
    made_by: str,
) -> tuple[StageModel, int]:
    """Train one run and write its history, where it is asked for.

    Parameters
    ----------
    spec
        The run. ``losses`` names the terms and weights, ``training`` everything about the loop.
    stages
        Names of the K stages, in order.
    source
        Draws of tokens; of bag pairs, or of labelled cells where ``losses`` is ``cross_entropy``.
    suffix
        A fresh copy of the encoder's last blocks and norm, or a fresh projection; trained in place.
    checkpoints
        Of this run and its training data (:func:`fingerprint`); the newest one that fits is resumed.
    history_out
        ``HISTORY`` to write.

    Returns
    -------
    StageModel
        The trained model, in eval mode, on ``device``.
    int
        Steps done by this process; fewer than the run's where it resumed.

    Raises
    ------
    Diverged
        The loss or its gradient is not finite; the history up to there is written.
    UserError
        The specification leaves nothing to learn.
    """
    plan = phases(spec)
    if spec.training.drop_path:
        if not isinstance(suffix, Suffix):
            raise UserError(
                f"run {spec.id}: training.drop_path skips blocks of an encoder, and ready-made features have "
                "none; set it to 0"
            )
        suffix.drop_paths(spec.training.drop_path)
    torch.manual_seed(spec.seed)
    model = StageModel(suffix, spec.training.hidden, len(stages), spec.training.classifier)
    module = nn.ModuleDict({"stages": model, **_helpers(spec, model.suffix.embedding)}).to(device)
    resumed, history = resume(checkpoints, module, spec)
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
        if history_out is not None:
            write_history(history_out, history, spec, made_by)
        raise
    model.eval()
    if history_out is not None:
        write_history(history_out, history, spec, made_by)
    return model, len(history) - begun


def as_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """The parameters and buffers of a model, by name."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


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


def _helpers(spec: RunSpec, width: int) -> dict[str, nn.Module]:
    """What learns or remembers beside the model while it is trained, and is dropped afterwards."""
    makers = {name: term.TERMS[name].helper for name in term.ordered(spec.losses)}
    found: dict[str, nn.Module] = {name: make(width) for name, make in makers.items() if make}
    if term.which(spec.losses, regression=True):
        found["queue"] = Queue(spec.training.queue, 2 * width if spec.healthy else width)
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

    @cached_property
    def options(self) -> dict[str, Section]:
        """The options of every term."""
        return {name: term.options_of(name, self.training) for name in self.weights}

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
        helpers = [] if self.frozen else [part for name, part in self.module.items() if name != "stages"]
        own = [parameter for helper in helpers for parameter in helper.parameters()]
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
            cells = CellStep(logits, draw.stages.to(self.device))
            return term.values("supervised", self.weights, cells, self.options)
        step = BagStep(
            self.spec,
            self.stages,
            draw,
            self.model,
            self.module,
            self.frozen,
            self.source,
            inputs,
            embedding,
            seen,
            logits,
            ((logits[: draw.cells_a], draw.p_a), (logits[draw.cells_a :], draw.p_b)),
            graph,
        )
        terms = term.values("proportions", self.weights, step, self.options)
        if term.which(self.weights, regression=True):
            step.ordinal.remember()
        return terms

    def _embed(self, tokens: Tensor) -> Tensor:
        with autocast(self.device, self.training.precision):
            return self.model.suffix(tokens).float()
