"""The training loop: loss terms on drawn bags, schedules, mixed precision, checkpoints that resume exactly.

A run has one phase, or two where no term teaches the head its stages (L_SimProp alone): a head is then fitted
by L_prop on the embedding as it stands (bag labels only). Where nothing upstream of the head learns, each
cell's embedding is computed once and drawn in the place of its tokens.

Everything random is a function of (seed, phase, step); a run that was killed and resumes therefore ends with
the numbers of a run that was not (bit for bit on a CPU). A run whose loss is no longer finite stops there.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from myostage import losses, schemas
from myostage.checkpoints import Checkpoints, Progress
from myostage.config import NOT_IN_RUN_ID, RunSpec, Training
from myostage.encoder import Suffix
from myostage.errors import UserError

log = logging.getLogger(__name__)

# Losses stay on the device until so many steps have gathered: reading one waits for the GPU.
STEPS_PER_READOUT = 25
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
TERMS = ("simprop", "prop", "vat", "ot", "cell")
HISTORY_VALUES = ("loss", *TERMS, "learning_rate", "gradient_norm")
# Logits [N, K] and proportions [K] of bags A and B.
_Bags = tuple[tuple[Tensor, np.ndarray], tuple[Tensor, np.ndarray]]


class Diverged(UserError):
    """The loss of a run or its gradient is no longer finite: where, the last checkpoint, and how to mend it.

    ``steps`` is the number of steps that this process did before.
    """

    steps: int = 0


@dataclass(frozen=True)
class BagPair:
    """Two bags: the first ``cells_a`` rows of ``inputs`` are bag A, the rest bag B.

    ``inputs`` are tokens float16[N+M, T, D] or, from an embedded source, embeddings float32[N+M, E];
    ``p_a``, ``p_b`` are the proportions float64[K] of the bags' groups, or of their slides.
    """

    inputs: Tensor
    cells_a: int
    p_a: np.ndarray
    p_b: np.ndarray


@dataclass(frozen=True)
class LabelledCells:
    """Cells with their annotated ``stages`` int64[N]; ``inputs`` as in :class:`BagPair`."""

    inputs: Tensor
    stages: Tensor


class Source(Protocol):
    """Where the loop's draws come from."""

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


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision on a GPU; a CPU always computes in float32."""
    enabled = device.type == "cuda" and precision in AUTOCAST
    return torch.autocast(device.type, dtype=AUTOCAST.get(precision, torch.bfloat16), enabled=enabled)


def schedule(step: int, training: Training) -> float:
    """Factor on the learning rate of ``step``: linear warm-up to 1, then a cosine down to 0, or 1 throughout.

    The first step already moves (1 / warm-up steps); of a cosine, the one after the last would be 0.
    """
    rising = round(training.warmup * training.steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    if training.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (training.steps - rising)))


def fingerprint(spec: RunSpec, stages: Sequence[str], data: str) -> str:
    """What a checkpoint must share with a run to be resumed by it: specification, stages, training data."""
    shared = [spec.model_dump(mode="json", exclude=NOT_IN_RUN_ID), list(stages), data]
    text = json.dumps(shared, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
        Draws of tokens; of bag pairs, or of labelled cells where ``losses`` is ``cell``.
    suffix
        A fresh copy of the encoder's last blocks and norm; trained in place.
    checkpoints
        Of this run and its training data (:func:`fingerprint`); the newest one that fits is resumed.
    history_out, model_out
        ``schemas.HISTORY`` and safetensors (parameters of suffix and head, metadata ``spec``, ``stages``,
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
    model = StageModel(suffix, spec.training.hidden, len(stages)).to(device)
    history: list[tuple[float, ...]] = []
    resumed = checkpoints.load()
    if resumed is not None:
        model.load_state_dict(resumed["model"])
        history = [tuple(row) for row in resumed["history"].tolist()]
        log.info("%s: resumed at step %d of phase %d", spec.id, resumed["step"], resumed["phase"])
    begun = len(history)
    progress = Progress(spec.id, len(plan) * spec.training.steps, begun)
    try:
        for phase in plan:
            if resumed is not None and phase.number < resumed["phase"]:
                continue
            at = resumed if resumed is not None and phase.number == resumed["phase"] else None
            objective = _Objective(phase, model, spec.training, positions_of(spec.training, stages), device)
            _fit(objective, spec, source, checkpoints, history, progress, at)
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
    with schemas.atomic(path) as temporary:
        save_file(own, temporary, metadata)


def embed_with(model: StageModel, device: torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    """From tokens [N, T, D] to embeddings float32[N, E] of the model as it stands, on ``device``."""

    @torch.inference_mode()
    def embed(tokens: Tensor) -> Tensor:
        model.eval()
        with autocast(device, precision):
            return model.suffix(tokens.to(device)).float()

    return embed


def positions_of(training: Training, stages: Sequence[str]) -> list[int]:
    """Stage at every place of the order that similarity is measured on."""
    return [stages.index(name) for name in training.order or stages]


@dataclass(frozen=True)
class _Objective:
    """The terms that one phase minimises."""

    phase: _Phase
    model: StageModel
    training: Training
    positions: list[int]
    device: torch.device

    def terms(self, draw: BagPair | LabelledCells) -> dict[str, Tensor]:
        """The unweighted terms of one draw; those of a single bag are means over its two bags."""
        training = self.training
        inputs = draw.inputs.to(self.device, non_blocking=True)
        embedding = inputs if self.phase.frozen else self._embed(inputs)
        seen = embedding.detach() if training.head_gradient == "detached" else embedding
        logits = self._classify(seen)
        if isinstance(draw, LabelledCells):
            return {"cell": losses.cell(logits, draw.stages.to(self.device))}
        n, p_a, p_b = draw.cells_a, draw.p_a, draw.p_b
        bags = ((logits[:n], p_a), (logits[n:], p_b))
        compute: dict[str, Callable[[], Tensor]] = {
            "simprop": lambda: self._simprop(embedding[:n], embedding[n:], p_a, p_b),
            "prop": lambda: self._mixed(bags) if training.mix == "mixbag" else self._prop(bags),
            "vat": lambda: self._vat(inputs, seen, logits),
            "ot": lambda: _mean([losses.ot(bag, p, entropy=training.ot_entropy) for bag, p in bags]),
        }
        # In this order whatever the study file's, which is no part of a run's id.
        return {name: term() for name, term in compute.items() if name in self.phase.weights}

    def _embed(self, tokens: Tensor) -> Tensor:
        with autocast(self.device, self.training.precision):
            return self.model.suffix(tokens).float()

    def _classify(self, embedding: Tensor) -> Tensor:
        # Losses in float32, outside autocast: logarithms of small shares.
        with autocast(self.device, self.training.precision):
            return self.model.head(embedding).float()

    def _simprop(self, u: Tensor, v: Tensor, p_a: np.ndarray, p_b: np.ndarray) -> Tensor:
        training = self.training
        return losses.simprop(
            u,
            v,
            p_a[self.positions],
            p_b[self.positions],
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
        if self.phase.frozen or self.training.head_gradient == "detached":
            return losses.vat(self.model.head, seen, logits, radius=radius)
        # The model's own forward knows no autocast, whose rounding would drown so small a difference.
        return losses.vat(lambda tokens: self.model(tokens)[1], inputs, logits, radius=radius)


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def _fit(
    objective: _Objective,
    spec: RunSpec,
    source: Source,
    checkpoints: Checkpoints,
    history: list[tuple[float, ...]],
    progress: Progress,
    resumed: dict[str, Any] | None,
) -> None:
    """Run one phase from its first step, or from where ``resumed`` left it."""
    phase, model, training, device = objective.phase, objective.model, spec.training, objective.device
    if phase.frozen:
        source = source.embedded(embed_with(model, device, training.precision))
    model.train()
    model.head.requires_grad_(training.head == "trained")
    head = [parameter for parameter in model.head.parameters() if parameter.requires_grad]
    blocks = model.suffix.trainable("none" if phase.frozen else training.unfreeze)
    rates = ((head, training.learning_rate), (blocks, training.encoder_learning_rate))
    optimiser = torch.optim.AdamW(
        [{"params": part, "lr": rate, "peak": rate} for part, rate in rates if part],
        weight_decay=training.weight_decay,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and training.precision == "fp16")
    first = 0
    if resumed is not None:
        optimiser.load_state_dict(resumed["optimiser"])
        scaler.load_state_dict(resumed["scaler"])
        first = resumed["step"]

    pending: list[tuple[int, float, Tensor]] = []

    def read_out() -> None:
        """Move the pending losses into the history, refusing what is not finite."""
        if not pending:
            return
        rows = torch.stack([values for _, _, values in pending]).double().cpu().tolist()
        for (step, rate, _), (loss, *terms, norm) in zip(pending, rows, strict=True):
            # A GradScaler finds its scale by gradients that overflow and skips those steps by itself.
            if not (math.isfinite(loss) and (math.isfinite(norm) or scaler.is_enabled())):
                raise Diverged(
                    f"run {spec.id}: the loss is not finite at step {step} of phase {phase.number} "
                    f"(loss {loss}, gradient norm {norm}; {checkpoints.last()}); lower "
                    "training.learning_rate and training.encoder_learning_rate, or raise training.sigma"
                )
            history.append((phase.number, step, loss, *terms, rate, norm))
        progress.advance(len(pending), rows[-1][0])
        pending.clear()

    for step, draw in _draws(source, phase.number * training.steps, first, training.steps, device):
        factor = schedule(step, training)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        # What a term draws (a direction, a mixture) follows from the step alone, so that it can be resumed.
        drawn_from = np.random.SeedSequence([spec.seed, phase.number, step])
        torch.manual_seed(int(drawn_from.generate_state(1, np.uint64)[0]))
        terms = objective.terms(draw)
        loss = torch.stack([phase.weights[name] * term for name, term in terms.items()]).sum()
        norm = _update(loss, optimiser, scaler, [*head, *blocks], training.clip)
        missing = loss.new_tensor(math.nan)
        values = [loss, *(terms.get(name, missing) for name in TERMS), norm]
        pending.append(
            (
                step,
                training.learning_rate * factor if head else 0.0,
                torch.stack([value.detach().float() for value in values]),
            )
        )
        done = step + 1
        saving = done % training.checkpoint_every == 0 or done == training.steps
        if saving or len(pending) == STEPS_PER_READOUT:
            read_out()
        if saving:
            checkpoints.save(
                phase.number,
                done,
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "scaler": scaler.state_dict(),
                    "history": torch.tensor(history, dtype=torch.float64),
                },
            )


def _update(
    loss: Tensor,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[nn.Parameter],
    clip: float,
) -> Tensor:
    """One step down the gradient; its norm before clipping, 0 where the loss reaches no parameter."""
    if not loss.requires_grad:
        return loss.new_zeros(())
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    # Where only L_SimProp is minimised, the head has no gradient and is left as it is.
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    scaler.step(optimiser)
    scaler.update()
    return norm


def _draws(
    source: Source, offset: int, first: int, steps: int, device: torch.device
) -> Iterator[tuple[int, BagPair | LabelledCells]]:
    """The steps left with their draws; on a GPU the next draw is read while this one is computed on."""
    if device.type != "cuda":
        for step in range(first, steps):
            yield step, source.draw(offset + step)
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(source.draw, offset + first)
        for step in range(first, steps):
            draw = ahead.result()
            if step + 1 < steps:
                ahead = reader.submit(source.draw, offset + step + 1)
            yield step, draw


def write_history(path: Path, history: list[tuple[float, ...]], made_by: str) -> None:
    frame = pd.DataFrame(history, columns=["phase", "step", *HISTORY_VALUES])
    frame = frame.astype({"phase": "int32", "step": "int32"})
    schemas.write(path, frame, schemas.HISTORY, {"made_by": made_by})
