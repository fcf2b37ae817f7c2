"""One run of a model of slide labels, from its specification to its predictions and its attention.

The model sees the frozen embeddings of all cells of one slide a step. Predictions are made for the slides
that the run's fold holds out and for slides that are only staged (fold -1).
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from myostage import tables
from myostage.cells.positions import positions
from myostage.errors import UserError
from myostage.features.held import Held
from myostage.learning import mil
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.loop import Diverged, code_of, fingerprint, fit, resume
from myostage.learning.outputs import save_model, slides_with_cells, write_history
from myostage.learning.runs import compute_on, finish, suffix_of, token_store
from myostage.learning.tables import ATTENTION, SLIDE_PREDICTIONS
from myostage.learning.train import as_arrays
from myostage.runtime.checkpoints import Checkpoints, Progress
from myostage.runtime.cost import measure
from myostage.spatial.graph import CellGraph, cell_graph
from myostage.spatial.roughness import energy_per_edge
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder

log = logging.getLogger(__name__)

NO_CLASS = -1


@dataclass(frozen=True)
class Bag:
    """A slide as a model sees it: its cells int32[n], their features float16[n, E], graph and class."""

    cells: NDArray[np.int32]
    features: Tensor
    graph: CellGraph
    target: int


def train_slide_run(
    spec: RunSpec,
    *,
    classes: Mapping[str, int],
    splits: Path,
    tokens: Mapping[str, Path],
    cells: Mapping[str, Path],
    model_out: Path,
    history_out: Path,
    predictions_out: Path,
    attention_out: Path,
    outcome_out: Path,
    checkpoint_dir: Path,
    encoder_weights: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    made_by: str = "",
) -> None:
    """Train one run of ``method: slide`` and predict the slides it holds out and those that are only staged.

    A run that diverges is no error: its files say so, as those of :func:`runs.train_run` do.

    Parameters
    ----------
    spec
        The run, with ``mil``, ``label`` and ``graph``.
    classes
        Class of every slide, 0..C-1; a slide that is not in it is predicted and not learnt from.
    splits
        ``SPLITS``: the run learns from the slides of all folds but its own.
    tokens
        Token file of every slide of ``splits`` under ``spec.encoder``; a single token per cell is a
        ready-made embedding.
    cells
        ``CELLS`` or ``POSITIONS`` of every slide: where cells lie.
    model_out, history_out, predictions_out, attention_out, outcome_out
        Safetensors, ``HISTORY``, ``SLIDE_PREDICTIONS``, ``ATTENTION``,
        ``OUTCOME``.
    checkpoint_dir, encoder_weights, device, threads, made_by
        See :func:`myostage.learning.runs.train_run`.

    Raises
    ------
    UserError
        Training slides of one class only, no slide to hold out, tokens or coordinates missing.
    """
    assert spec.mil is not None and spec.label is not None
    where = compute_on(device, threads)
    learnt, predicted = _slides(splits, spec, classes, tokens)
    names = list(spec.label.classes)
    with measure(str(where)) as cost:
        bags = {
            slide: _bag(spec, tokens[slide], cells[slide], classes.get(slide, NO_CLASS), encoder_weights)
            for slide in [*learnt, *predicted]
        }
        source = _Source(spec, {slide: bags[slide] for slide in learnt})
        checkpoints = Checkpoints(
            Path(checkpoint_dir), fingerprint(spec, names, source.digest()), code_of(spec, __file__)
        )
        torch.manual_seed(spec.seed)
        width = next(iter(bags.values())).features.shape[1]
        model = mil.build(spec.mil, width, spec.label.kind, len(names), mask_ratio=spec.training.mask_ratio)
        objective = _Objective(spec, model.to(where), where)
        resumed, history = resume(checkpoints, model, spec)
        begun, reason = len(history), ""
        try:
            fit(
                objective,
                spec,
                source.draw,
                checkpoints=checkpoints,
                history=history,
                progress=Progress(spec.id, spec.training.steps, begun),
                resumed=resumed,
                device=where,
            )
            model.eval()
            found = [_predict(model, slide, bags[slide], where, spec) for slide in predicted]
        except Diverged as error:
            log.error("%s", error)
            reason, found = str(error), []
        save_model(model_out, {} if reason else as_arrays(model), spec, len(names), made_by, failed=reason)
        write_history(history_out, history, spec, made_by)
        metadata = {"spec": spec.model_dump_json(), "made_by": made_by} | (
            {"failed": reason} if reason else {}
        )
        for path, table, part in (
            (predictions_out, SLIDE_PREDICTIONS, [row for row, _ in found]),
            (attention_out, ATTENTION, [rows for _, rows in found]),
        ):
            empty = pd.DataFrame(columns=table.schema.names)
            tables.write(path, pd.concat(part, ignore_index=True) if part else empty, table, metadata)
    finish(spec, outcome_out, checkpoints, cost, reason, len(history) - begun, where, made_by)


def _slides(
    splits: Path, spec: RunSpec, classes: Mapping[str, int], tokens: Mapping[str, Path]
) -> tuple[list[str], list[str]]:
    """Slides that a run learns from, and those that it predicts; none without cells."""
    table = slides_with_cells(splits, tokens).sort_values("slide")
    fold = dict(zip(table["slide"].astype(str), table["fold"], strict=True))
    learnt = [slide for slide in fold if fold[slide] not in (spec.fold, STAGED_ONLY) and slide in classes]
    if len({classes[slide] for slide in learnt}) < 2:
        assert spec.label is not None
        raise UserError(
            f"{splits}: without fold {spec.fold} there are no slides of two classes of "
            f"{', '.join(spec.label.classes)} to learn from; lower folds, or add slides"
        )
    if spec.fold not in fold.values():
        raise UserError(f"{splits}: fold {spec.fold} leaves no slide with cells to hold out; lower folds")
    return learnt, [slide for slide in fold if fold[slide] in (spec.fold, STAGED_ONLY)]


def _bag(spec: RunSpec, tokens: Path, cells: Path, target: int, encoder_weights: Path | None) -> Bag:
    assert spec.graph is not None
    changed = tokens.stat().st_mtime_ns if tokens.exists() else 0
    held = _held(spec.training.cache_mb)
    numbers, features = _features(tokens, changed, spec.encoder, encoder_weights, held)
    graph = cell_graph(positions(cells, numbers), spec.graph, seed=spec.seed)
    return Bag(numbers, features, graph, target)


@cache
def _held(limit_mb: float) -> Held:
    """What the runs of one process hold together."""
    return Held(limit_mb)


# Runs of one job share their slides; half precision, as tokens are.
@lru_cache(maxsize=4096)
def _features(
    tokens: Path, changed_ns: int, encoder: Encoder, encoder_weights: Path | None, held: Held
) -> tuple[NDArray[np.int32], Tensor]:
    """Cells int32[n] and their frozen embeddings float16[n, E]; ``changed_ns`` tells a file written anew."""
    store = token_store(tokens, encoder)
    suffix = None if store.shape[0] == 1 else suffix_of(encoder, encoder_weights).eval()

    @torch.inference_mode()
    def embed(part: Tensor) -> Tensor:
        return part[:, 0] if suffix is None else suffix(part.float()).half()

    parts = (embed(part) for _, part in store.stream())
    return store.cells, held.hold(parts, len(store), tokens.parent)


class _Source:
    """Draws one slide a step: any class is as likely, and then any of its slides."""

    def __init__(self, spec: RunSpec, bags: Mapping[str, Bag]) -> None:
        self._seed, self._bags = spec.seed, bags
        targets = sorted({bag.target for bag in bags.values()})
        self._of_class = [
            [slide for slide, bag in bags.items() if bag.target == target] for target in targets
        ]

    def draw(self, step: int) -> Bag:
        rng = np.random.default_rng([self._seed, step])
        slides = self._of_class[rng.integers(len(self._of_class))]
        return self._bags[slides[rng.integers(len(slides))]]

    def digest(self) -> str:
        """Of what is drawn from: features, neighbours and classes."""
        digest = hashlib.sha256()
        for slide, bag in self._bags.items():
            digest.update(f"{slide}\0{bag.target}\0{tuple(bag.features.shape)}".encode())
            digest.update(bag.features[[0, -1]].numpy().tobytes())
            digest.update(bag.graph.edges.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Objective:
    """The label of a slide, and whatever else the model regularises itself by."""

    spec: RunSpec
    model: mil.SlideModel
    device: torch.device
    phase: int = 0

    @property
    def weights(self) -> dict[str, float]:
        return {str(term): float(weight) for term, weight in self.spec.losses.items()}

    @property
    def module(self) -> nn.Module:
        return self.model

    @property
    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        return [(list(self.model.parameters()), self.spec.training.learning_rate)]

    def terms(self, draw: Bag) -> dict[str, Tensor]:
        features, graph = draw.features.to(self.device).float(), draw.graph.to(self.device)
        return self.model.terms(features, graph, draw.target, self.weights)


@torch.inference_mode()
def _predict(
    model: mil.SlideModel, slide: str, bag: Bag, device: torch.device, spec: RunSpec
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Row of ``SLIDE_PREDICTIONS`` and rows of ``ATTENTION`` of one slide."""
    logits, attention = model(bag.features.to(device).float(), bag.graph.to(device))
    probabilities = model.probabilities(logits).double().cpu().numpy()
    if not (np.isfinite(probabilities).all() and torch.isfinite(attention).all()):
        raise Diverged(
            f"run {spec.id}: the prediction of slide {slide} is not finite after the last step; lower "
            "training.learning_rate"
        )
    row = {
        "slide": slide,
        "label": bag.target,
        "predicted": int(probabilities.argmax()),
        "probabilities": probabilities,
        "cells": len(bag.cells),
        "energy": energy_per_edge(attention.cpu(), bag.graph),
    }
    rows = {
        "slide": slide,
        "cell": bag.cells,
        "logit": attention.float().cpu().numpy(),
        "weight": attention.double().softmax(0).float().cpu().numpy(),
    }
    return pd.DataFrame([row]), pd.DataFrame(rows)
