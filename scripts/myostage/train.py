"""The training loop: loss terms on drawn bags, schedules, mixed precision, checkpoints that resume exactly.

A run has one phase, or two where L_SimProp alone was asked for: it trains no classifier, so that a head is
fitted afterwards by L_prop on the embedding as it then stands (bag labels only). Where nothing upstream of
the head learns, each cell's embedding is computed once and drawn in the place of its tokens.

Everything random is a function of (seed, phase, step); a run that was killed and resumes therefore ends with
the numbers of a run that was not (bit for bit on a CPU).
"""

import hashlib
import json
import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from myostage import losses, schemas
from myostage.config import NOT_IN_RUN_ID, RunSpec, Training
from myostage.encoder import Suffix
from myostage.errors import UserError

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0
# What torch.load raises for a file that is cut short, overwritten or none of ours.
DAMAGED = (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError)
# Losses stay on the device until so many steps have gathered: reading one waits for the GPU.
STEPS_PER_READOUT = 25
# Two, because a machine that dies may take the newest with it.
CHECKPOINTS_KEPT = 2
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
HISTORY_VALUES = ("loss", "simprop", "prop", "cell", "learning_rate", "gradient_norm")


@dataclass(frozen=True)
class BagPair:
    """Two bags: the first ``cells_a`` rows of ``inputs`` are bag A, the rest bag B.

    ``inputs`` are tokens float16[N+M, T, D] or, from an embedded source, embeddings float32[N+M, E];
    ``p_a``, ``p_b`` are the proportions float64[K] of the bags' groups.
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
    """Factor on the learning rate of ``step``: linear warm-up to 1, then a cosine down to 0.

    The first step already moves (1 / warm-up steps), the one after the last would be 0.
    """
    rising = round(training.warmup * training.steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (training.steps - rising)))


def fingerprint(spec: RunSpec, stages: int, data: str) -> str:
    """What a checkpoint must share with a run to be resumed by it: specification and training data."""
    text = json.dumps([spec.model_dump(mode="json", exclude=NOT_IN_RUN_ID), stages, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run in their folder, newest last."""

    folder: Path
    fingerprint: str

    def save(self, phase: int, step: int, state: dict[str, Any]) -> None:
        """Write the state before ``step`` of ``phase``, atomically, and drop all but the newest."""
        with schemas.atomic(self.folder / f"phase{phase}-step{step:08d}.pt") as temporary:
            torch.save({"fingerprint": self.fingerprint, "phase": phase, "step": step, **state}, temporary)
        for old in self._paths()[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest usable state; what is damaged or of another run is named in the log and deleted."""
        for path in reversed(self._paths()):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                found = state["fingerprint"]
            except DAMAGED as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("checkpoint %s is damaged and ignored (%s)", path, reason)
            else:
                if found == self.fingerprint:
                    return state
                log.warning("checkpoint %s is of another specification or other data and ignored", path)
            path.unlink()
        return None

    def clear(self) -> None:
        """Delete all checkpoints: the run's model is written."""
        for path in self._paths():
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def last(self) -> str:
        """The newest checkpoint in words."""
        paths = self._paths()
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("phase*-step*.pt"))


@dataclass
class _Progress:
    """A line with rate and remaining time every few seconds."""

    run: str
    total: int
    done: int
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    begun_at: int = field(init=False)

    def __post_init__(self) -> None:
        self.begun_at = self.done

    def advance(self, steps: int, loss: float) -> None:
        self.done += steps
        now = time.monotonic()
        if now - self.told < PROGRESS_SECONDS and self.done < self.total:
            return
        self.told = now
        rate = (self.done - self.begun_at) / max(now - self.started, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        log.info(
            "%s: step %d of %d, %.1f steps/s, %.0f s left, loss %.4f",
            self.run,
            self.done,
            self.total,
            rate,
            left,
            loss,
        )


@dataclass(frozen=True)
class _Phase:
    """What one phase minimises and trains."""

    number: int
    weights: dict[str, float]
    frozen: bool


def phases(spec: RunSpec) -> list[_Phase]:
    """The phases of a run; L_SimProp without L_prop is followed by a head fitted by L_prop."""
    weights = {str(term): float(weight) for term, weight in spec.losses.items()}
    frozen = spec.training.unfreeze == "none"
    if "simprop" not in weights or "prop" in weights:
        return [_Phase(0, weights, frozen)]
    if frozen:
        raise UserError(
            f"run {spec.id}: simprop alone trains the encoder, and training.unfreeze is none, so that "
            "nothing would learn; add the loss prop or set training.unfreeze to attention or block"
        )
    return [_Phase(0, weights, frozen=False), _Phase(1, {"prop": 1.0}, frozen=True)]


def train(
    spec: RunSpec,
    stages: int,
    source: Source,
    suffix: Suffix,
    *,
    checkpoint_dir: Path,
    history_out: Path,
    model_out: Path,
    device: torch.device,
    made_by: str,
    data: str = "",
) -> StageModel:
    """Train one run and write its model and its history.

    Parameters
    ----------
    spec
        The run. ``losses`` names the terms and weights, ``training`` everything about the loop.
    stages
        K.
    source
        Draws of tokens; of bag pairs, or of labelled cells where ``losses`` is ``cell``.
    suffix
        A fresh copy of the encoder's last block and norm; trained in place.
    checkpoint_dir
        Folder of this run's checkpoints; one that fits is resumed, all are deleted at the end.
    history_out, model_out
        ``schemas.HISTORY`` and safetensors (parameters of suffix and head, metadata ``spec``, ``stages``,
        ``made_by``).
    data
        Digest of what ``source`` draws from: a checkpoint made from other data is not resumed.

    Returns
    -------
    StageModel
        The trained model, in eval mode, on ``device``.

    Raises
    ------
    UserError
        The loss or its gradient is not finite, or the specification leaves nothing to learn.
    """
    plan = phases(spec)
    torch.manual_seed(spec.seed)
    model = StageModel(suffix, spec.training.hidden, stages).to(device)
    checkpoints = Checkpoints(checkpoint_dir, fingerprint(spec, stages, data))
    history: list[tuple[float, ...]] = []
    resumed = checkpoints.load()
    if resumed is not None:
        model.load_state_dict(resumed["model"])
        history = [tuple(row) for row in resumed["history"].tolist()]
        log.info("%s: resumed at step %d of phase %d", spec.id, resumed["step"], resumed["phase"])
    progress = _Progress(spec.id, len(plan) * spec.training.steps, len(history))
    for phase in plan:
        if resumed is not None and phase.number < resumed["phase"]:
            continue
        at = resumed if resumed is not None and phase.number == resumed["phase"] else None
        _fit(phase, spec, model, source, checkpoints, history, progress, at, device)
    model.eval()
    _write_history(history_out, history, made_by)
    save_model(model_out, model.state_dict(), spec, stages, made_by)
    checkpoints.clear()
    return model


def save_model(path: Path, tensors: dict[str, Tensor], spec: RunSpec, stages: int, made_by: str) -> None:
    """Write a model as safetensors, atomically, with the specification that made it."""
    metadata = {"spec": spec.model_dump_json(), "stages": str(stages), "made_by": made_by}
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


def _fit(
    phase: _Phase,
    spec: RunSpec,
    model: StageModel,
    source: Source,
    checkpoints: Checkpoints,
    history: list[tuple[float, ...]],
    progress: _Progress,
    resumed: dict[str, Any] | None,
    device: torch.device,
) -> None:
    """Run one phase from its first step, or from where ``resumed`` left it."""
    training = spec.training
    trained = model.suffix.trainable("none" if phase.frozen else training.unfreeze)
    if phase.frozen:
        source = source.embedded(embed_with(model, device, training.precision))
    model.train()
    head = list(model.head.parameters())
    groups = [{"params": head, "lr": training.learning_rate}]
    if trained:
        groups.append({"params": trained, "lr": training.encoder_learning_rate})
    optimiser = torch.optim.AdamW(groups, weight_decay=training.weight_decay)
    peaks = [group["lr"] for group in optimiser.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and training.precision == "fp16")
    first = 0
    if resumed is not None:
        optimiser.load_state_dict(resumed["optimiser"])
        scaler.load_state_dict(resumed["scaler"])
        torch.set_rng_state(resumed["rng"])
        first = resumed["step"]

    pending: list[tuple[int, float, Tensor]] = []

    def read_out() -> None:
        """Move the pending losses into the history, refusing what is not finite."""
        if not pending:
            return
        rows = torch.stack([values for _, _, values in pending]).double().cpu().tolist()
        for (step, rate, _), (loss, simprop, prop, cell, norm) in zip(pending, rows, strict=True):
            # A GradScaler finds its scale by gradients that overflow and skips those steps by itself.
            if not (math.isfinite(loss) and (math.isfinite(norm) or scaler.is_enabled())):
                raise UserError(
                    f"run {spec.id}: the loss is not finite at step {step} of phase {phase.number} "
                    f"(loss {loss}, gradient norm {norm}; {checkpoints.last()}); lower "
                    "training.learning_rate and training.encoder_learning_rate, or raise training.sigma"
                )
            history.append((phase.number, step, loss, simprop, prop, cell, rate, norm))
        progress.advance(len(pending), rows[-1][0])
        pending.clear()

    for step, draw in _draws(source, phase.number * training.steps, first, training.steps, device):
        factor = schedule(step, training)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        inputs = draw.inputs.to(device, non_blocking=True)
        with autocast(device, training.precision):
            embedding, logits = _forward(model, inputs, training, phase.frozen)
        # Losses in float32, outside autocast: logarithms of small shares.
        terms = _terms(draw, embedding, logits, phase.weights, training)
        loss = torch.stack([weight * terms[name] for name, weight in phase.weights.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        # Where only L_SimProp is minimised, the head has no gradient and is left as it is.
        norm = nn.utils.clip_grad_norm_([*head, *trained], training.clip)
        scaler.step(optimiser)
        scaler.update()
        missing = loss.new_tensor(math.nan)
        values = [loss, *(terms.get(name, missing) for name in ("simprop", "prop", "cell")), norm]
        pending.append(
            (step, optimiser.param_groups[0]["lr"], torch.stack([value.detach().float() for value in values]))
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
                    "rng": torch.get_rng_state(),
                    "history": torch.tensor(history, dtype=torch.float64),
                },
            )


def _forward(model: StageModel, inputs: Tensor, training: Training, frozen: bool) -> tuple[Tensor, Tensor]:
    """Embedding and logits of a draw, with the gradient cut where the specification cuts it."""
    embedding = inputs if frozen else model.suffix(inputs).float()
    detached = training.head_gradient == "detached"
    return embedding, model.head(embedding.detach() if detached else embedding).float()


def _terms(
    draw: BagPair | LabelledCells,
    embedding: Tensor,
    logits: Tensor,
    weights: dict[str, float],
    training: Training,
) -> dict[str, Tensor]:
    """The unweighted loss terms of one draw; L_prop is the mean over its two bags."""
    if isinstance(draw, LabelledCells):
        return {"cell": losses.cell(logits, draw.stages.to(logits.device))}
    n = draw.cells_a
    terms: dict[str, Tensor] = {}
    if "simprop" in weights:
        terms["simprop"] = losses.simprop(
            embedding[:n],
            embedding[n:],
            draw.p_a,
            draw.p_b,
            sigma=training.sigma,
            bins=training.bins,
            pairs=training.pairs,
            target=training.target,
            stop_gradient=training.stop_gradient,
            divide=training.divide,
        )
    if "prop" in weights:
        bags = ((logits[:n], draw.p_a), (logits[n:], draw.p_b))
        terms["prop"] = torch.stack([losses.prop(bag, p, divide=training.divide) for bag, p in bags]).mean()
    return terms


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


def _write_history(path: Path, history: list[tuple[float, ...]], made_by: str) -> None:
    frame = pd.DataFrame(history, columns=["phase", "step", *HISTORY_VALUES])
    frame = frame.astype({"phase": "int32", "step": "int32"})
    schemas.write(path, frame, schemas.HISTORY, {"made_by": made_by})
