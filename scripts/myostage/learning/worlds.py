"""Every experiment in a drawn world: trained in memory by the same losses and loop as on slides.

Animals of the first fold are held out. A run takes seconds, so that none leaves checkpoints: what a killed
job had finished stays, and the run that it was at is trained anew.
"""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from myostage import tables
from myostage.errors import UserError
from myostage.features.projection import Moments, Projection
from myostage.features.tokens import TokenStore
from myostage.learning.baseline import BASELINES
from myostage.learning.choice import hold_in, mean_divergence, write_choices
from myostage.learning.folds import assign_folds
from myostage.learning.loop import Diverged
from myostage.learning.outputs import write_history, write_outcome
from myostage.learning.runs import BagSource, Embeddings, compute_on, projected
from myostage.learning.tables import CHOICES, WORLD_PREDICTIONS
from myostage.learning.train import StageModel, classify, embed_with, train
from myostage.runtime.checkpoints import Checkpoints
from myostage.runtime.cost import measure
from myostage.study.run import RunSpec
from myostage.worlds.draw import Drawn

log = logging.getLogger(__name__)

HELD_OUT = 0  # the fold


@dataclass(frozen=True, eq=False)
class Features(Embeddings):
    """Features float32[n, 1, D] of an animal, read as a token store of one token a cell."""

    path = Path()

    def stream(self) -> Iterator[tuple[NDArray[np.int32], Tensor]]:
        yield self.cells, self.values


@dataclass(frozen=True)
class _NoCheckpoints(Checkpoints):
    """Of runs that are over sooner than they would be read."""

    def save(self, phase: int, step: int, state: dict[str, Any]) -> None:
        pass

    def load(self) -> dict[str, Any] | None:
        return None

    def last(self) -> str:
        return "worlds leave no checkpoint"


@dataclass(frozen=True)
class World:
    """A drawn world, cut into what is learnt from and what is held out; ``folds`` as in the study."""

    drawn: Drawn
    folds: int

    @cached_property
    def slides(self) -> pd.DataFrame:
        """Rows of ``SPLITS``: an animal is a slide."""
        drawn = self.drawn
        table = pd.DataFrame({"slide": drawn.names, "group": drawn.groups, "animal": drawn.names})
        table["cells"] = np.bincount(drawn.animals, minlength=len(drawn.names))
        return table.assign(fold=assign_folds(table, self.folds))

    @property
    def learnt(self) -> pd.DataFrame:
        return self.slides[self.slides["fold"] != HELD_OUT]

    @property
    def held_out(self) -> pd.DataFrame:
        return self.slides[self.slides["fold"] == HELD_OUT]

    def store(self, slide: str) -> TokenStore:
        """Features of one animal."""
        values = self.drawn.features[self._rows(slide), None]
        store = Features(torch.from_numpy(values), np.arange(len(values), dtype=np.int32))
        # the sampler reads features in memory as it does tokens
        return cast(TokenStore, store)

    def stages(self, slide: str) -> NDArray[np.int64]:
        return self.drawn.stages[self._rows(slide)]

    def _rows(self, slide: str) -> NDArray[np.int64]:
        return np.flatnonzero(self.drawn.animals == self.drawn.names.index(slide))


def run_in_world(
    spec: RunSpec,
    stages: Sequence[str],
    world: World,
    *,
    predictions_out: Path,
    history_out: Path,
    outcome_out: Path,
    choices: Path | None = None,
    threads: int | None = None,
    made_by: str = "",
) -> None:
    """Train one experiment in a world, or ask a baseline, and predict the cells held out.

    A run that diverges is no error: its outcome says so, and its predictions have no rows.

    Parameters
    ----------
    spec
        The run.
    stages
        Names of the K stages, in order.
    world
        The world.
    predictions_out, history_out, outcome_out
        ``WORLD_PREDICTIONS``, ``HISTORY``, ``OUTCOME`` to write.
    choices
        ``CHOICES`` of :func:`choose_in_pilots`, where the run chooses its settings.
    threads
        Threads torch may use.
    made_by
        What is written into the files' metadata.

    Raises
    ------
    UserError
        No candidate of ``choices`` could be trained, or nothing would learn.
    """
    device = compute_on("cpu", threads)  # a step is too small for a GPU
    if choices is not None:
        spec = _chosen(spec, choices)
    reason, steps, probabilities = "", 0, np.empty((0, len(stages)))
    with measure(str(device)) as cost:
        if not spec.trained:
            write_history(history_out, [], spec, made_by)
            predict, groups = BASELINES[spec.method].predict, set(world.learnt["group"])
            shares = [predict(world.drawn.given, groups, str(group)) for group in world.held_out["group"]]
            probabilities = np.repeat(shares, world.held_out["cells"], axis=0)
        else:
            try:
                model, steps = _train(spec, stages, world, world.learnt, history_out, device, made_by)
                probabilities = np.concatenate(
                    [_predict(model, spec, world.store(slide), device) for slide in world.held_out["slide"]]
                )
            except Diverged as error:
                log.error("%s", error)
                reason, steps = str(error), error.steps
    _write_predictions(predictions_out, world, probabilities, made_by)
    write_outcome(outcome_out, spec, cost, made_by, reason=reason, steps=steps)


def choose_in_pilots(
    spec: RunSpec,
    stages: Sequence[str],
    pilots: Sequence[World],
    choices_out: Path,
    *,
    threads: int | None = None,
    made_by: str = "",
) -> None:
    """Write ``CHOICES`` of an experiment: each candidate is trained once in each pilot world.

    What is compared is the KL of given from mean predicted proportions of animals that are held in; no label
    and no world that is evaluated is read. Pilots hold in another part of their animals each.
    """
    device, choose = compute_on("cpu", threads), spec.training.choose
    assert choose is not None
    divergences, slides = [], 0
    for number, candidate in enumerate(spec.candidates):
        of_pilots, slides = [], 0
        for place, world in enumerate(pilots):
            fitted_on, held_in = hold_in(world.learnt, choose.parts, spec.id)[place % choose.parts]
            slides += len(held_in)
            try:
                model, _ = _train(candidate, stages, world, fitted_on, None, device, made_by)
                of_pilots.append(_divergence(model, candidate, world, held_in, device))
            except Diverged as error:
                log.warning("%s", error)
                of_pilots.append(math.inf)
        divergences.append(float(np.mean(of_pilots)))
        log.info("%s: candidate %d, KL of proportions %.4f", spec.id, number, divergences[-1])
    write_choices(choices_out, spec, divergences, slides, made_by)


def _train(
    spec: RunSpec,
    stages: Sequence[str],
    world: World,
    slides: pd.DataFrame,
    history_out: Path | None,
    device: torch.device,
    made_by: str,
) -> tuple[StageModel, int]:
    stores = {slide: world.store(slide) for slide in slides["slide"]}
    labels = {slide: world.stages(slide) for slide in stores} if spec.method == "supervised" else None
    source = BagSource(spec, stores, slides, world.drawn.given, device, labels, cache_mb=0)
    rows = np.isin(world.drawn.animals, slides.index)
    moments = Moments.of(world.drawn.features[rows])
    suffix = Projection(moments.mean, moments.sd, projected(spec), spec.seed)
    checkpoints = _NoCheckpoints(Path(), "")
    return train(
        spec,
        stages,
        source,
        suffix,
        checkpoints=checkpoints,
        history_out=history_out,
        device=device,
        made_by=made_by,
    )


@torch.inference_mode()
def _predict(
    model: StageModel, spec: RunSpec, store: TokenStore, device: torch.device
) -> NDArray[np.float32]:
    """Probabilities [n, K] of every cell of an animal."""
    embed = embed_with(model, device, spec.training.precision)
    embedding = torch.cat([embed(tokens) for _, tokens in store.stream()])
    found: NDArray[np.float32] = classify(model, embedding, spec.training, device, None).softmax(1).numpy()
    if not np.isfinite(found).all():
        raise Diverged(f"run {spec.id}: its probabilities are not finite; lower training.learning_rate")
    return found


def _divergence(
    model: StageModel, spec: RunSpec, world: World, slides: pd.DataFrame, device: torch.device
) -> float:
    predicted = {
        slide: _predict(model, spec, world.store(slide), device).mean(0, dtype=np.float64)
        for slide in slides["slide"]
    }
    given = {
        slide: world.drawn.given[group] for slide, group in zip(slides["slide"], slides["group"], strict=True)
    }
    return mean_divergence(predicted, given)


def _chosen(spec: RunSpec, choices: Path) -> RunSpec:
    """The run under the settings that were chosen for it."""
    table = tables.read(choices, CHOICES)
    chosen = table.loc[table["chosen"], "candidate"]
    if chosen.empty:
        raise UserError(
            f"{choices}: no candidate of training.choose could be trained; lower its learning rates"
        )
    return spec.candidates[int(chosen.iloc[0])]


def _write_predictions(path: Path, world: World, probabilities: NDArray[Any], made_by: str) -> None:
    held = world.held_out if len(probabilities) else world.held_out.iloc[:0]
    truth = [world.stages(slide) for slide in held["slide"]]
    frame = pd.DataFrame(
        {
            "animal": np.repeat(held["slide"].to_numpy(), held["cells"]),
            "group": np.repeat(held["group"].to_numpy(), held["cells"]),
            "true_stage": np.concatenate(truth).astype(np.int32) if truth else np.empty(0, np.int32),
            "probabilities": pd.Series(list(probabilities.astype(np.float32)), dtype=object),
        }
    )
    given = json.dumps({group: share.tolist() for group, share in world.drawn.given.items()})
    tables.write(path, frame, WORLD_PREDICTIONS, {"made_by": made_by, "given": given})
