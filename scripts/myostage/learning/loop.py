"""The loop that every training shares: schedule, mixed precision, clipping, history, checkpoints that resume.

What is minimised is an :class:`Objective`. Everything random is a function of (seed, phase, step); a run that
was killed and resumes therefore ends with the numbers of a run that was not (bit for bit on a CPU). A run
whose loss is no longer finite stops there.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from myostage.errors import UserError
from myostage.learning.outputs import History
from myostage.learning.regression import conflict
from myostage.learning.term import opposed
from myostage.runtime import provenance
from myostage.runtime.checkpoints import Checkpoints, Progress
from myostage.study.run import NOT_IN_RUN_ID, RunSpec
from myostage.study.sections.training import Training

log = logging.getLogger(__name__)

# Losses stay on the device until so many steps have gathered: reading one waits for the GPU.
STEPS_PER_READOUT = 25
# Steps between two measurements of how far the gradients of two terms agree: each costs two backward passes.
STEPS_PER_CONFLICT = 10
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(UserError):
    """The loss of a run or its gradient is no longer finite: where, the last checkpoint, and how to mend it.

    ``steps`` is the number of steps that this process did before.
    """

    steps: int = 0


class Objective(Protocol):
    """What one phase of a run minimises and trains."""

    @property
    def phase(self) -> int:
        """Number of the phase, from 0."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of every term."""
        ...

    @property
    def module(self) -> nn.Module:
        """What a checkpoint holds."""
        ...

    @property
    def groups(self) -> Sequence[tuple[list[nn.Parameter], float]]:
        """Parameters that learn, with their peak learning rates; the first group's is put on record."""
        ...

    def terms(self, draw: Any) -> dict[str, Tensor]:
        """The unweighted terms of one draw; those that it says nothing about are left out."""
        ...


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


def fingerprint(spec: RunSpec, classes: Sequence[str], data: str) -> str:
    """What a checkpoint must share with a run to be resumed by it: specification, classes, training data."""
    shared = [spec.model_dump(mode="json", exclude=NOT_IN_RUN_ID), list(classes), data]
    text = json.dumps(shared, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def code_of(spec: RunSpec, trainer: str) -> tuple[Path, ...]:
    """The files whose code shapes a run: the module that trains it, and its loss terms and baseline."""
    return (Path(trainer), *(provenance.LIBRARY / file for file in spec.code))


def resume(
    checkpoints: Checkpoints, module: nn.Module, spec: RunSpec
) -> tuple[dict[str, Any] | None, History]:
    """The newest checkpoint that fits, if any, and the history up to it; ``module`` gets its state."""
    resumed = checkpoints.load()
    if resumed is None:
        return None, []
    module.load_state_dict(resumed["model"])
    log.info("%s: resumed at step %d of phase %d", spec.id, resumed["step"], resumed["phase"])
    return resumed, [tuple(row) for row in resumed["history"].tolist()]


def fit(
    objective: Objective,
    spec: RunSpec,
    draw: Callable[[int], Any],
    *,
    checkpoints: Checkpoints,
    history: History,
    progress: Progress,
    resumed: dict[str, Any] | None,
    device: torch.device,
) -> None:
    """Run one phase from its first step, or from where ``resumed`` left it.

    Parameters
    ----------
    objective
        Terms, weights and parameters of the phase.
    spec
        The run; ``training`` has everything about the loop.
    draw
        The draw of a step, a function of its number alone.
    checkpoints, progress
        Of the run.
    history
        Rows so far; those of this phase are appended.
    resumed
        The checkpoint to go on from, if it is of this phase; the module has its state already.
    device
        Where it is computed.

    Raises
    ------
    Diverged
        The loss or its gradient is not finite.
    """
    training, module = spec.training, objective.module
    module.train()
    groups = [(part, peak) for part, peak in objective.groups if part]
    parameters = [parameter for part, _ in groups for parameter in part]
    optimiser = torch.optim.AdamW(
        [
            {"params": decaying, "lr": peak, "peak": peak, "weight_decay": decay}
            for part, peak in groups
            for decaying, decay in _decays(part, training)
        ]
    )
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and training.precision == "fp16")
    first = 0
    if resumed is not None:
        optimiser.load_state_dict(resumed["optimiser"])
        scaler.load_state_dict(resumed["scaler"])
        first = resumed["step"]
    recorded = objective.groups[0][1] if objective.groups[0][0] else 0.0
    pending: list[tuple[int, float, Tensor]] = []

    def read_out() -> None:
        """Move the pending losses into the history, refusing what is not finite."""
        if not pending:
            return
        rows = torch.stack([values for _, _, values in pending]).double().cpu().tolist()
        for (step, rate, _), (loss, agreement, norm, *terms) in zip(pending, rows, strict=True):
            # A GradScaler finds its scale by gradients that overflow and skips those steps by itself.
            if not (math.isfinite(loss) and (math.isfinite(norm) or scaler.is_enabled())):
                raise Diverged(
                    f"run {spec.id}: the loss is not finite at step {step} of phase {objective.phase} "
                    f"(loss {loss}, gradient norm {norm}; {checkpoints.last()}); lower "
                    "training.learning_rate and training.encoder_learning_rate, or raise training.sigma"
                )
            history.append((objective.phase, step, loss, agreement, rate, norm, *terms))
        progress.advance(len(pending), rows[-1][0])
        pending.clear()

    # torch.manual_seed also formats the stack for every kind of GPU that is not there, each time
    seed = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    offset = objective.phase * training.steps
    for step, drawn in _draws(lambda step: draw(offset + step), first, training.steps, device):
        factor = schedule(step, training)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        # What a term draws (a direction, a mask) follows from the step alone, so that it can be resumed.
        drawn_from = np.random.SeedSequence([spec.seed, objective.phase, step])
        seed(int(drawn_from.generate_state(1, np.uint64)[0]))
        terms = objective.terms(drawn)
        loss = torch.stack([objective.weights[name] * term for name, term in terms.items()]).sum()
        missing = loss.new_tensor(math.nan)
        agreement = missing
        pair = opposed(terms) if step % STEPS_PER_CONFLICT == 0 else None
        if pair is not None:
            one, other = pair
            agreement = conflict(terms[one], terms[other], parameters)
        norm = _update(loss, optimiser, scaler, parameters, training)
        values = [loss, agreement, norm, *(terms.get(name, missing) for name in spec.terms)]
        pending.append((step, recorded * factor, torch.stack([value.detach().float() for value in values])))
        done = step + 1
        saving = done % training.checkpoint_every == 0 or done == training.steps
        if saving or len(pending) == STEPS_PER_READOUT:
            read_out()
        if saving:
            checkpoints.save(
                objective.phase,
                done,
                {
                    "model": module.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "scaler": scaler.state_dict(),
                    "history": torch.tensor(history, dtype=torch.float64),
                },
            )


def _decays(part: list[nn.Parameter], training: Training) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters with their weight decay; with ``decay: matrices`` biases and gains have none."""
    if training.decay == "all":
        return [(part, training.weight_decay)]
    matrices = [parameter for parameter in part if parameter.ndim > 1]
    others = [parameter for parameter in part if parameter.ndim <= 1]
    return [(kept, decay) for kept, decay in ((matrices, training.weight_decay), (others, 0.0)) if kept]


def _update(
    loss: Tensor,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[nn.Parameter],
    training: Training,
) -> Tensor:
    """One step down the gradient; its norm before clipping, 0 where the loss reaches no parameter."""
    if not loss.requires_grad:
        return loss.new_zeros(())
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    # Where only L_SimProp is minimised, the head has no gradient and is left as it is.
    if training.clip_by == "parameter":
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        for parameter in parameters:
            nn.utils.clip_grad_norm_([parameter], training.clip)
    else:
        norm = nn.utils.clip_grad_norm_(parameters, training.clip)
    scaler.step(optimiser)
    scaler.update()
    return norm


def _draws(
    draw: Callable[[int], Any], first: int, steps: int, device: torch.device
) -> Iterator[tuple[int, Any]]:
    """The steps left with their draws; on a GPU the next draw is read while this one is computed on."""
    if device.type != "cuda":
        for step in range(first, steps):
            yield step, draw(step)
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(draw, first)
        for step in range(first, steps):
            drawn = ahead.result()
            if step + 1 < steps:
                ahead = reader.submit(draw, step + 1)
            yield step, drawn
