"""Where the gradients of L_SimProp and L_prop go at the start of a run, checked by finite differences."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation.tables import GRADIENTS
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.runs import compute_on, fresh_suffix, token_store
from myostage.learning.steps import BagPair
from myostage.learning.tables import SPLITS
from myostage.learning.terms.prop import drawn, prop
from myostage.learning.terms.simprop import positions_of, simprop
from myostage.learning.train import StageModel
from myostage.study.run import RunSpec

Floats = NDArray[np.float64]

LOSSES = ("simprop", "prop")
CELLS = 20
# Of a direction whose entries are about 1: far above the rounding of float64, far below any weight.
STEP = 1e-5


@dataclass(frozen=True)
class _Start:
    """What finite differences hold as it is: the embedding [N+M, E], and which units of the head are on."""

    embedding: Tensor
    active: dict[int, Tensor]

    @classmethod
    def of(cls, head: nn.Sequential, embedding: Tensor) -> "_Start":
        values, active = embedding.detach(), {}
        for number, layer in enumerate(head):
            if isinstance(layer, nn.ReLU):
                active[number] = values > 0
            values = layer(values)
        return cls(embedding.detach(), active)

    def classify(self, head: nn.Sequential, values: Tensor) -> Tensor:
        """Logits [N+M, K]; a kink within the step would be no fault of the gradient."""
        for number, layer in enumerate(head):
            values = values * self.active[number] if number in self.active else layer(values)
        return values


def gradient_flow(
    spec: RunSpec,
    *,
    stages: Sequence[str],
    proportions: Mapping[str, Floats],
    splits: Path,
    tokens: Mapping[str, Path],
    gradients_out: Path,
    encoder_weights: Path | None = None,
    cells: int = CELLS,
    threads: int | None = None,
) -> None:
    """Write the gradient of L_SimProp and of L_prop with respect to every parameter of suffix and head.

    The model is that of the run before its first step, in float64 on the CPU. Bag A and bag B are of the two
    groups whose proportions differ most. Along one random direction d per parameter w, the slope that the
    gradient gives stands beside the central difference (L(w + h d) - L(w - h d)) / 2h; what the specification
    passes no gradient through (bag B, the embedding before the head) is then held as it is, and the head
    keeps to the linear piece of its ReLUs that it starts on.

    Parameters
    ----------
    spec
        The run; ``losses`` is not looked at.
    stages
        Names of the K stages, in order.
    proportions
        Proportions [K] of every group.
    splits
        ``SPLITS``: the bags are of slides that the run learns from.
    tokens
        Token file of every slide under ``spec.encoder``.
    gradients_out
        ``GRADIENTS`` to write.
    encoder_weights
        Weights of an encoder that was fine-tuned (``spec.encoder.dino``).
    cells
        Cells of a bag, at most.
    threads
        Threads torch may use; by default as many as it likes.

    Raises
    ------
    UserError
        The run's fold leaves no slide with a group and cells, or tokens are missing or another encoder's.
    """
    device = compute_on("cpu", threads)
    learnt = _learnt(spec, splits, tokens)
    draw = _two_bags(spec, learnt, tokens, proportions, cells)
    torch.manual_seed(spec.seed)  # as training does: the head starts as it does there
    stores = (token_store(tokens[slide], spec.encoder) for slide in learnt["slide"])
    suffix = fresh_suffix(spec, stores, encoder_weights)
    model = StageModel(suffix, spec.training.hidden, len(stages), spec.training.classifier)
    model = model.to(device, torch.float64).eval()
    positions = positions_of(spec.training.order, stages)
    embedding = model.suffix(draw.inputs)
    start = _Start.of(model.head, embedding)
    parameters = dict(model.named_parameters())
    found = {
        loss: torch.autograd.grad(
            value, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for loss, value in zip(LOSSES, _values(spec, model, draw, positions, embedding), strict=True)
    }
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, (name, parameter) in enumerate(parameters.items()):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        differences = _differences(spec, model, draw, positions, start, parameter, direction)
        for loss, difference in zip(LOSSES, differences.tolist(), strict=True):
            gradient = found[loss][number]
            rows.append(
                {
                    "loss": loss,
                    "parameter": name,
                    "part": part_of(name),
                    "norm": float(gradient.norm()),
                    "slope": float((gradient * direction).sum()),
                    "finite_difference": difference,
                }
            )
    frame = pd.DataFrame(rows).sort_values("loss", key=lambda loss: loss.map(LOSSES.index), kind="stable")
    tables.write(gradients_out, frame, GRADIENTS)


def part_of(parameter: str) -> str:
    """Part of the model that a parameter belongs to: attention, mlp, norm, projection or head.

    A layer scale counts to what it scales, a norm within the attention to the attention.
    """
    if parameter.startswith("head."):
        return "head"
    parts = {"attn": "attention", "ls1": "attention", "mlp": "mlp", "ls2": "mlp", "network": "projection"}
    return next((part for name, part in parts.items() if f".{name}." in parameter), "norm")


def _learnt(spec: RunSpec, splits: Path, tokens: Mapping[str, Path]) -> pd.DataFrame:
    """Rows of ``SPLITS`` that the run learns from."""
    table = tables.read(splits, SPLITS)
    learnt = table[(table["cells"] > 0) & ~table["fold"].isin((spec.fold, STAGED_ONLY))]
    if learnt.empty:
        raise UserError(f"{splits}: fold {spec.fold} leaves no slide with cells to learn from; lower folds")
    missing = sorted(set(learnt["slide"]) - set(tokens))
    if missing:
        raise UserError(f"{splits}: no token file is given for slide {', '.join(missing)}; embed it first")
    return learnt


def _two_bags(
    spec: RunSpec,
    learnt: pd.DataFrame,
    tokens: Mapping[str, Path],
    proportions: Mapping[str, Floats],
    cells: int,
) -> BagPair:
    """Bags of the two groups whose proportions differ most, of a slide each."""
    groups = sorted(set(learnt["group"]))
    pairs = itertools.combinations_with_replacement(groups, 2)
    pair = max(pairs, key=lambda pair: float(np.abs(proportions[pair[0]] - proportions[pair[1]]).sum()))
    # Of a single group the first and the last slide.
    of_a, of_b = (sorted(learnt.loc[learnt["group"] == group, "slide"]) for group in pair)
    stores = [token_store(tokens[slide], spec.encoder) for slide in (of_a[0], of_b[-1])]
    # Bags of one size, which aligned pairs need.
    size = min(cells, *(len(store) for store in stores))
    rows = [np.linspace(0, len(store) - 1, size).round().astype(np.int64) for store in stores]
    inputs = torch.cat([store.read_rows(own) for store, own in zip(stores, rows, strict=True)])
    return BagPair(inputs.double(), size, proportions[pair[0]], proportions[pair[1]])


def _values(
    spec: RunSpec,
    model: StageModel,
    draw: BagPair,
    positions: list[int],
    embedding: Tensor,
    start: _Start | None = None,
) -> Tensor:
    """L_SimProp and L_prop [2]; with ``start``, what no gradient is passed through is taken from there."""
    training, n = spec.training, draw.cells_a
    seen, bag_b = embedding, embedding[n:]
    if training.head_gradient == "detached":
        seen = start.embedding if start else embedding.detach()
    if training.stop_gradient and start:
        bag_b = start.embedding[n:]
    of_pairs = simprop(
        embedding[:n],
        bag_b,
        draw.p_a[positions],
        draw.p_b[positions],
        sigma=training.sigma,
        bins=training.bins,
        pairs=training.pairs,
        target=training.target,
        stop_gradient=training.stop_gradient,
        divide=training.divide,
    )
    logits = start.classify(model.head, seen) if start else model.head(seen)
    of_bags = [
        prop(bag, p, divide=training.divide)
        for bag, p in drawn(((logits[:n], draw.p_a), (logits[n:], draw.p_b)), training.prop_bags)
    ]
    return torch.stack([of_pairs, torch.stack(of_bags).mean()])


@torch.no_grad()
def _differences(
    spec: RunSpec,
    model: StageModel,
    draw: BagPair,
    positions: list[int],
    start: _Start,
    parameter: Tensor,
    direction: Tensor,
) -> Tensor:
    """Central differences of both losses along ``direction`` of one parameter, [2]."""
    weight = parameter.clone()
    values = []
    for sign in (1, -1):
        parameter.copy_(weight + sign * STEP * direction)
        values.append(_values(spec, model, draw, positions, model.suffix(draw.inputs), start))
    parameter.copy_(weight)
    return (values[0] - values[1]) / (2 * STEP)
