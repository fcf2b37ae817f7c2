"""One run from its specification to its predictions: training slides, held-out slides, baselines.

Predictions are made for the slides that the run's fold holds out and for slides that are only staged (fold
-1); they are streamed, so that memory does not grow with the slides.
"""

import copy
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from myostage import tables
from myostage.cells.positions import positions
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.features.encoder import Suffix, split
from myostage.features.held import Held
from myostage.features.projection import Projection, moments_of
from myostage.features.tokens import TokenStore
from myostage.learning.bags import Bag, BagSampler, Floats
from myostage.learning.baseline_runs import PROBABILITIES, repeat
from myostage.learning.calibration import fit_temperature
from myostage.learning.choice import Scores, best_of, hold_in, mean_divergence, write_choices
from myostage.learning.loop import Diverged, code_of, fingerprint
from myostage.learning.outputs import (
    Batch,
    cell_numbers,
    learnt_and_predicted,
    save_model,
    write_outcome,
    write_predictions,
)
from myostage.learning.priors import Learnt
from myostage.learning.probe import Probe, predict_slides
from myostage.learning.proportions import perturbed
from myostage.learning.steps import BagPair, LabelledCells
from myostage.learning.term import which
from myostage.learning.train import (
    StageModel,
    as_arrays,
    classify,
    embed_with,
    smooths,
    train,
)
from myostage.runtime.checkpoints import Checkpoints
from myostage.runtime.cost import Cost, measure
from myostage.spatial.graph import CellGraph, cell_graph
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import NOT_IN_TOKENS, Encoder

log = logging.getLogger(__name__)

# Supervised runs draw from all training slides alike, whatever their group.
_EVERY_SLIDE = "all training slides"

# Cells of a training slide that a temperature is fitted on, of a slide that settings are chosen by, and how
# many lie together.
SCALED_BY, CHOSEN_BY, SAMPLED_TOGETHER = 256, 2048, 16

# Rows of a batch where a slide's predictions are smoothed together.
ROWS = 4096


def train_run(
    spec: RunSpec,
    *,
    stages: Sequence[str],
    proportions: Mapping[str, Floats],
    splits: Path,
    tokens: Mapping[str, Path],
    model_out: Path,
    history_out: Path,
    predictions_out: Path,
    outcome_out: Path,
    checkpoint_dir: Path,
    choices_out: Path | None = None,
    slide_proportions: Mapping[str, Floats] | None = None,
    scores: Mapping[str, float] | None = None,
    cells: Mapping[str, Path] | None = None,
    labels: Mapping[str, Path] | None = None,
    encoder_weights: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    made_by: str = "",
) -> None:
    """Train one run and predict the slides it holds out and those that are only staged.

    A run with ``training.choose`` chooses its settings first, by the proportions of training slides that it
    holds in; what it is then trained and predicted with is what another run with these settings would be.

    A run that diverges is no error: its files say so. The history ends at its last finite step, the model has
    no tensors, the predictions have no rows, and its checkpoint stays.

    Parameters
    ----------
    spec
        The run; a baseline is none of these, see :mod:`myostage.learning.baseline_runs`.
    stages
        Names of the K stages, in order.
    proportions
        Proportions [K] of every group.
    splits
        ``SPLITS``: the run learns from the slides of all folds but its own.
    tokens
        Token file of every slide of ``splits`` under ``spec.encoder``.
    model_out, history_out, predictions_out, outcome_out
        Safetensors with the run's metadata, ``HISTORY``, ``predictions_table(K)``,
        ``OUTCOME``: how the run ended and what training and prediction cost.
    checkpoint_dir
        Where the run leaves checkpoints and resumes from.
    choices_out
        ``CHOICES`` of a run that chooses its settings.
    slide_proportions
        Proportions [K] of every slide, for ``training.proportions: slide``.
    scores
        Score of every slide, in stages, where ``training.score`` names a column.
    cells
        ``CELLS`` of every slide: where cells lie, for a run that is spatial.
    labels
        ``LABELS`` of the slides that have them; read by ``supervised`` runs only.
    encoder_weights
        Weights of an encoder that was fine-tuned (``spec.encoder.dino``).
    device
        ``cuda`` or ``cpu``; by default a GPU where there is one.
    threads
        Threads torch may use; by default as many as it likes.
    made_by
        What is written into the files' metadata.

    Raises
    ------
    UserError
        Nothing to train on or hold out; tokens, labels or proportions missing; nothing that would learn.
    """
    where = compute_on(device, threads)
    learnt, predicted = learnt_and_predicted(splits, spec.fold, tokens)
    checkpoints, remembered, reason, steps, temperature = None, None, "", 0, math.nan
    with measure(str(where)) as cost:
        try:
            given = _Given(
                stages,
                tokens,
                cells or {},
                proportions,
                slide_proportions or {},
                scores,
                encoder_weights,
                where,
                made_by,
            )
            if spec.training.choose:
                assert choices_out is not None
                remembered = Scores(Path(checkpoint_dir) / "choice.json")
                spec, steps = _choose(spec, learnt, given, remembered, Path(choices_out))
            source = given.source(spec, learnt, (labels or {}) if spec.method == "supervised" else None)
            checkpoints = given.checkpoints(spec, source, Path(checkpoint_dir))
            model, further = given.train(spec, source, checkpoints, Path(history_out))
            steps += further
            seen = _predict_sample(model, source, cells or {}, spec, where)
            given_shares = [source.given[slide] for slide in seen]
            temperature = _temperature(list(seen.values()), given_shares, spec)
            found = Learnt.fitted(list(seen.values()), given_shares, source.composition)
            save_model(model_out, as_arrays(model), spec, len(stages), made_by, "", temperature, found)
            batches = _predict(model, _stores(spec, predicted, tokens), cells or {}, spec, where)
            write_predictions(predictions_out, batches, len(stages), spec, made_by, "", temperature, found)
        except Diverged as error:
            log.error("%s", error)
            reason, steps = str(error), steps + error.steps
            save_model(model_out, {}, spec, len(stages), made_by, failed=reason)
            write_predictions(predictions_out, iter(()), len(stages), spec, made_by, failed=reason)
    if remembered is not None and not reason:
        remembered.forget()
    finish(spec, outcome_out, checkpoints, cost, reason, steps, where, made_by, temperature)


@dataclass(frozen=True)
class _Given:
    """What a run learns from, beside the slides and the labels of supervised runs; see :func:`train_run`."""

    stages: Sequence[str]
    tokens: Mapping[str, Path]
    cells: Mapping[str, Path]
    proportions: Mapping[str, Floats]
    slide_proportions: Mapping[str, Floats]
    scores: Mapping[str, float] | None
    encoder_weights: Path | None
    device: torch.device
    made_by: str

    def source(
        self, spec: RunSpec, slides: pd.DataFrame, labels: Mapping[str, Path] | None = None
    ) -> "BagSource":
        """Draws from ``slides``; of labelled cells alone where ``labels`` are given."""
        stores = _stores(spec, slides, self.tokens)
        labelled = None if labels is None else _labelled(spec, stores, labels)
        # Where cells lie matters to the drawn bags only if something of training is spatial.
        drawn_graph = bool(which(spec.losses, spatial=True)) or smooths(spec.training, "training")
        places = _places(stores, self.cells) if drawn_graph else None
        shares = self.shares(spec)
        return BagSource(spec, stores, slides, shares, self.device, labelled, places, self.scores)

    def shares(self, spec: RunSpec) -> dict[str, Floats]:
        """Proportions by group, or by slide, as wrong as the run asks for."""
        shares = self.slide_proportions if spec.training.proportions == "slide" else self.proportions
        return perturbed(shares, spec.training.proportion_noise, spec.seed)

    def checkpoints(self, spec: RunSpec, source: "BagSource", folder: Path) -> Checkpoints:
        return Checkpoints(folder, fingerprint(spec, self.stages, source.digest()), code_of(spec, __file__))

    def train(
        self, spec: RunSpec, source: "BagSource", checkpoints: Checkpoints, history_out: Path | None
    ) -> tuple[StageModel, int]:
        """See :func:`myostage.learning.train.train`."""
        return train(
            spec,
            self.stages,
            source,
            fresh_suffix(spec, source.stores.values(), self.encoder_weights),
            checkpoints=checkpoints,
            history_out=history_out,
            device=self.device,
            made_by=self.made_by,
        )


def _choose(
    spec: RunSpec, learnt: pd.DataFrame, given: _Given, remembered: Scores, choices_out: Path
) -> tuple[RunSpec, int]:
    """The run under the best of its settings, and steps done here; ``learnt`` are its training slides.

    Raises
    ------
    Diverged
        Every candidate diverged.
    """
    choose = spec.training.choose
    assert choose is not None
    parts, done = hold_in(learnt, choose.parts, spec.id), 0
    divergences: list[float] = []
    reason = "each diverged before the run was resumed"
    for number, candidate in enumerate(spec.candidates):
        total = 0.0
        for part, (fitted_on, held_in) in enumerate(parts):
            source = given.source(candidate, fitted_on)
            checkpoints = given.checkpoints(
                candidate, source, remembered.path.parent / f"candidate{number}-part{part}"
            )
            divergence = remembered.of(checkpoints.recipe)
            if divergence is None:
                try:
                    model, steps = given.train(candidate, source, checkpoints, None)
                    divergence = _divergence(model, candidate, held_in, given)
                except Diverged as error:
                    divergence, steps, reason = math.inf, error.steps, str(error)
                done += steps
                remembered.keep(checkpoints.recipe, divergence)
            checkpoints.clear()
            total += divergence * len(held_in)
        divergences.append(total / len(learnt))
        log.info("%s: candidate %d, KL of proportions %.4f", spec.id, number, divergences[-1])
    write_choices(choices_out, spec, divergences, len(learnt), given.made_by)
    best = best_of(divergences)
    if not math.isfinite(divergences[best]):
        failure = Diverged(f"run {spec.id}: no candidate of training.choose could be trained ({reason})")
        failure.steps = done
        raise failure
    return spec.candidates[best], done


def _divergence(model: StageModel, spec: RunSpec, slides: pd.DataFrame, given: _Given) -> float:
    """KL of given from mean predicted proportions of ``slides``, see :func:`mean_divergence`."""
    stores = _sampled(_stores(spec, slides, given.tokens), CHOSEN_BY, spec)
    predicted = {
        slide: np.concatenate([probabilities for _, probabilities, _ in batches]).mean(0, dtype=np.float64)
        for slide, batches in _predict(model, stores, given.cells, spec, given.device)
    }
    return mean_divergence(predicted, _shares_of(slides, spec, given.shares(spec)))


def _shares_of(slides: pd.DataFrame, spec: RunSpec, shares: Mapping[str, Floats]) -> dict[str, Floats]:
    """The proportions [K] of every slide, of ``shares`` by group or by slide."""
    named = slides["slide"] if spec.training.proportions == "slide" else slides["group"]
    return {str(slide): shares[name] for slide, name in zip(slides["slide"], named, strict=True)}


def finish(
    spec: RunSpec,
    outcome_out: Path,
    checkpoints: Checkpoints | None,
    cost: Cost,
    reason: str,
    steps: int,
    device: torch.device,
    made_by: str,
    temperature: float = math.nan,
) -> None:
    """Write the row of ``OUTCOME``; the checkpoints go unless there is a ``reason`` why the run failed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    write_outcome(
        outcome_out, spec, cost, made_by, reason=reason, steps=steps, device=name, temperature=temperature
    )
    if checkpoints is not None and not reason:
        checkpoints.clear()


def _stores(spec: RunSpec, slides: pd.DataFrame, tokens: Mapping[str, Path]) -> dict[str, TokenStore]:
    return {str(slide): token_store(tokens[slide], spec.encoder) for slide in slides["slide"]}


def _places(stores: Mapping[str, TokenStore], cells: Mapping[str, Path]) -> dict[str, Floats]:
    """Centroids float64[n, 2] of the rows of every store, um."""
    missing = sorted(stores.keys() - cells.keys())
    if missing:
        raise UserError(
            f"where the cells of slide {', '.join(missing)} lie is not known, and the run is spatial; start "
            "from "
            "slides, or remove what needs neighbours"
        )
    return {slide: positions(cells[slide], store.cells) for slide, store in stores.items()}


def predict_run(
    model_path: Path,
    tokens: Mapping[str, Path],
    predictions_out: Path,
    *,
    cells: Mapping[str, Path] | None = None,
    device: str | None = None,
    threads: int | None = None,
    made_by: str = "",
) -> None:
    """Predict slides, of this study or another, with the model of a finished run.

    Parameters
    ----------
    model_path
        ``model.safetensors`` of the run.
    tokens
        Token file of every slide, made by the encoder the run was trained on.
    predictions_out
        ``predictions_table(K)`` to write.
    cells, device, threads, made_by
        See :func:`train_run`.

    Raises
    ------
    UserError
        The model is missing, failed or is no model of a run, or the tokens are another encoder's.
    """
    where = compute_on(device, threads)
    spec, stages, tensors, temperature, learnt = read_model(model_path)
    if not spec.trained:
        share = tensors[PROBABILITIES].numpy()
        batches = ((slide, repeat(cell_numbers(path), share)) for slide, path in tokens.items())
        write_predictions(predictions_out, batches, stages, spec, made_by)
        return
    if spec.method == "probe":
        probe = Probe(**{name: tensor.numpy() for name, tensor in tensors.items()})
        staged = predict_slides(
            probe, {slide: token_store(path, spec.encoder) for slide, path in tokens.items()}
        )
        write_predictions(predictions_out, staged, stages, spec, made_by, "", temperature, learnt)
        return
    # What was trained lies in the model file; only the geometry is built anew.
    suffix = (
        Projection.empty(len(tensors["suffix.mean"]), projected(spec))
        if spec.encoder.projection
        else suffix_of(spec.encoder.model_copy(update={"weights": "none", "dino": None}))
    )
    model = StageModel(suffix, spec.training.hidden, stages, spec.training.classifier)
    model.load_state_dict(tensors)
    stores = {slide: token_store(path, spec.encoder) for slide, path in tokens.items()}
    predicted = _predict(model.to(where), stores, cells or {}, spec, where)
    write_predictions(predictions_out, predicted, stages, spec, made_by, "", temperature, learnt)


def read_model(path: Path) -> tuple[RunSpec, int, dict[str, Tensor], float, Learnt | None]:
    """Specification, number of stages K, tensors, temperature (nan: none) and what a run's model file says of
    what it learnt (None: nothing of cells).

    Raises
    ------
    UserError
        The file is missing, damaged, was not written by a run, or by one that failed.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        spec, stages = RunSpec.model_validate_json(metadata["spec"]), int(metadata["stages"])
        temperature = float(metadata.get("temperature", math.nan))
        learnt = Learnt.from_json(metadata["learnt"]) if "learnt" in metadata else None
    except FileNotFoundError:
        raise UserError(f"{path}: the run's model is missing; run the workflow to make it") from None
    except (SafetensorError, KeyError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a model written by a run of this workflow ({reason}); "
            "delete it and run the workflow again"
        ) from None
    if "failed" in metadata:
        raise UserError(f"{path}: there is no model, for the run failed ({metadata['failed']})")
    return spec, stages, tensors, temperature, learnt


def compute_on(device: str | None, threads: int | None) -> torch.device:
    """The device to compute on, a GPU where there is one, with torch's number of threads set."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def token_store(path: Path, encoder: Encoder | None = None) -> TokenStore:
    """An opened token store, shared by the runs of one process; made by ``encoder``, where one is given.

    Raises
    ------
    UserError
        The file is missing, damaged, or holds another encoder's tokens.
    """
    path = Path(path)
    changed = path.stat().st_mtime_ns if path.exists() else 0
    store = _open_store(path, changed)
    if encoder is not None:
        wanted = encoder.model_dump_json(exclude=NOT_IN_TOKENS)
        found = store.metadata.get("encoder", "unknown")
        if found == "unknown" or json.loads(found) != json.loads(wanted):
            raise UserError(
                f"{path}: the tokens are of encoder {found}, but the run needs {wanted}; "
                "embed the slide with that one"
            )
    return store


@lru_cache(maxsize=8192)
def _open_store(path: Path, changed_ns: int) -> TokenStore:
    """``changed_ns`` keeps a file that was written anew from being taken for the old one."""
    return TokenStore(path)


def fresh_suffix(
    spec: RunSpec, stores: Iterable[TokenStore], tuned: Path | None = None
) -> Suffix | Projection:
    """What a run trains upstream of its head: :func:`suffix_of`, or the projection of ready-made features.

    ``stores`` hold the features of the slides that it learns from, which these are standardised by.
    """
    if not spec.encoder.projection:
        return suffix_of(spec.encoder, tuned)
    moments = moments_of(stores)
    return Projection(moments.mean, moments.sd, projected(spec), spec.seed)


def projected(spec: RunSpec) -> int | None:
    """Width that ready-made features are projected to; None where nothing but the head learns."""
    return None if spec.training.unfreeze == "none" else spec.encoder.projection


def suffix_of(encoder: Encoder, tuned: Path | None = None) -> Suffix:
    """A fresh copy of the encoder's last blocks and norm; the encoder itself is built once per process.

    ``tuned`` holds the weights of an encoder that was fine-tuned.
    """
    return copy.deepcopy(_suffix(encoder, tuned))


@lru_cache(maxsize=2)
def _suffix(encoder: Encoder, tuned: Path | None) -> Suffix:
    return split(encoder, tuned)[1]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings float32[n, E] of one slide, read as a token store is by a sampler that keeps none itself."""

    values: Tensor
    cells: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def read_rows(self, rows: NDArray[np.int64]) -> Tensor:
        return self.values[torch.as_tensor(rows, device=self.values.device)]


class BagSource:
    """Draws of :class:`bags.BagSampler` for the training loop: pairs of bags, or cells with their stages.

    Parameters
    ----------
    spec
        The run.
    stores
        Tokens, or embeddings, of every slide.
    slides
        Rows of ``SPLITS`` to learn from.
    proportions
        Proportions [K] to learn from, of every group, or of every slide (``training.proportions``).
    device
        Where draws are delivered.
    stages
        Annotated stage int64[n] of every row of a slide's store, -1 where it has none. Without it, draws are
        pairs of bags with their proportions; with it, only labelled cells are drawn, from all
        slides alike.
    places
        Centroid float64[n, 2] of every row of a slide's store, um: draws then bring the graph of their cells.
    scores
        Score of every slide, in stages; without, that of a bag is the expected stage under its proportions.
    cache_mb
        Instead of ``training.cache_mb``.
    """

    def __init__(
        self,
        spec: RunSpec,
        stores: Mapping[str, TokenStore],
        slides: pd.DataFrame,
        proportions: Mapping[str, Floats],
        device: torch.device,
        stages: Mapping[str, NDArray[np.int64]] | None = None,
        places: Mapping[str, Floats] | None = None,
        scores: Mapping[str, float] | None = None,
        cache_mb: float | None = None,
    ) -> None:
        self._spec, self.stores, self._slides, self._device = spec, stores, slides, device
        self._stages, self._places, self._scores = stages, places, scores
        self._proportions = proportions
        training = spec.training
        self._sampler = BagSampler(
            stores,
            slides if stages is None else slides.assign(group=_EVERY_SLIDE),
            proportions if stages is None else {_EVERY_SLIDE: np.ones(1)},
            training.bag_size,
            training.bags if stages is None else "group",
            spec.seed,
            cache_mb=training.cache_mb if cache_mb is None else cache_mb,
            device=device,
            draw_from=None if stages is None else {s: np.flatnonzero(k >= 0) for s, k in stages.items()},
            proportions_of=training.proportions if stages is None else "group",
        )

    @property
    def given(self) -> dict[str, Floats]:
        """The proportions [K] of every slide that is learnt from."""
        return _shares_of(self._slides, self._spec, self._proportions)

    @property
    def composition(self) -> Floats:
        """The mean composition [K] of what is drawn: groups alike, or all labelled cells alike."""
        shares = pd.DataFrame(self.given).T  # [slides, K]
        if self._stages is not None:
            cells = [int((self._stages[slide] >= 0).sum()) for slide in shares.index]
            return np.average(shares.to_numpy(), axis=0, weights=cells)
        groups = self._slides.set_index("slide")["group"]
        return shares.groupby(groups).mean().to_numpy().mean(0)

    @property
    def scores(self) -> Floats:
        """The score of every slide that is learnt from, in stages."""
        return np.array([self._score({slide: 1}, share) for slide, share in self.given.items()])

    @cached_property
    def prior(self) -> Floats:
        """The proportions [K] that bags have on average: groups alike, and the slides of each."""
        given, slides = self.given, self._slides.groupby("group")["slide"]
        return np.mean([np.mean([given[slide] for slide in own], axis=0) for _, own in slides], axis=0)

    def _score(self, cells: Mapping[str, int], p: Floats) -> float:
        """Of a bag with so many ``cells`` of each slide and proportions ``p`` [K], in stages."""
        if self._scores is None:
            return float(p @ np.arange(len(p)))
        return float(np.average([self._scores[slide] for slide in cells], weights=list(cells.values())))

    def _graph(self, bags: tuple[Bag, Bag]) -> CellGraph | None:
        """Neighbours among the drawn cells of each slide of each bag."""
        if self._places is None or self._spec.graph is None:
            return None
        drawn = [self._places[slide][rows] for bag in bags for slide, rows in bag.rows.items()]
        return cell_graph(
            np.concatenate(drawn), self._spec.graph, seed=self._spec.seed, parts=[len(part) for part in drawn]
        )

    def draw(self, step: int) -> BagPair | LabelledCells:
        """The two bags of ``step``; of labelled cells, both joined into one batch."""
        a, b = self._sampler.pair(step)
        inputs = torch.cat([a.tokens, b.tokens])
        if self._stages is None:
            cells = [{slide: len(rows) for slide, rows in bag.rows.items()} for bag in (a, b)]
            healthy = self._spec.healthy.groups if self._spec.healthy else ()
            return BagPair(
                inputs,
                len(a.tokens),
                a.proportions,
                b.proportions,
                (self._score(cells[0], a.proportions), self._score(cells[1], b.proportions)),
                (a.group in healthy, b.group in healthy),
                self._graph((a, b)),
            )
        stages = [self._stages[slide][rows] for bag in (a, b) for slide, rows in bag.rows.items()]
        return LabelledCells(inputs, torch.from_numpy(np.concatenate(stages)))

    def embedded(self, embed: Callable[[Tensor], Tensor]) -> "BagSource":
        """The same draws of embeddings, computed once per cell and held in the place of tokens."""
        cells = sum(len(store) for store in self.stores.values())
        log.info("%s: embedding %d cells once", self._spec.id, cells)
        self._sampler.forget()
        held = Held(self._spec.training.cache_mb)
        embeddings = {}
        for slide, store in self.stores.items():
            values = held.hold((embed(tokens) for _, tokens in store.stream()), len(store), store.path.parent)
            # The sampler asks for rows and their number only, which embeddings answer as tokens do.
            embeddings[slide] = cast(TokenStore, Embeddings(values, store.cells))
        return BagSource(
            self._spec,
            embeddings,
            self._slides,
            self._proportions,
            self._device,
            self._stages,
            self._places,
            self._scores,
            cache_mb=0,
        )

    def digest(self) -> str:
        """Of what is drawn from: cells, proportions, labels, and each slide's first and last tokens."""
        digest = hashlib.sha256()
        for slide, group in sorted(zip(self._slides["slide"], self._slides["group"], strict=True)):
            store = self.stores[slide]
            digest.update(f"{slide}\0{group}\0{store.shape}".encode())
            digest.update(store.cells.tobytes())
            digest.update(store.read_rows([0, len(store) - 1]).numpy().tobytes())
            named = slide if self._spec.training.proportions == "slide" else group
            digest.update(np.asarray(self._proportions[named], np.float64).tobytes())
            if self._stages is not None:
                digest.update(self._stages[slide].tobytes())
            if self._places is not None:
                digest.update(self._places[slide].tobytes())
            if self._scores is not None:
                digest.update(np.float64(self._scores[slide]).tobytes())
        return digest.hexdigest()


def _labelled(
    spec: RunSpec, stores: Mapping[str, TokenStore], labels: Mapping[str, Path]
) -> dict[str, NDArray[np.int64]]:
    """Annotated stages of the training slides' rows, refused where they do not fill a bag."""
    stages = {slide: stages_of_rows(store, labels.get(slide)) for slide, store in stores.items()}
    found = sum(int((rows >= 0).sum()) for rows in stages.values())
    if found < spec.training.bag_size:
        raise UserError(
            f"run {spec.id}: supervised training draws {spec.training.bag_size} labelled cells, and the "
            f"training slides have {found}; annotate more, lower training.bag_size or drop the experiment"
        )
    return stages


def stages_of_rows(store: TokenStore, labels: Path | None) -> NDArray[np.int64]:
    """Annotated stage of every row of a store; -1: none."""
    stages = np.full(len(store), -1, np.int64)
    if labels is not None:
        table = tables.read(labels, LABELS, ["cell", "stage"])
        # Labelled cells whose crop was dropped have no row.
        known = table.set_index("cell")["stage"].reindex(store.cells)
        stages[known.notna().to_numpy()] = known.dropna().to_numpy(np.int64)
    return stages


@dataclass(frozen=True)
class Sampled:
    """Some rows of a token store, with the reading methods of one."""

    store: TokenStore
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, store: TokenStore, most: int) -> "Sampled":
        """At most ``most`` rows in evenly spaced runs of SAMPLED_TOGETHER: few row groups are read."""
        count = len(store)
        starts = np.linspace(0, count - SAMPLED_TOGETHER, most // SAMPLED_TOGETHER).astype(np.int64)
        spaced = (starts[:, None] + np.arange(SAMPLED_TOGETHER)).ravel()
        return cls(store, np.arange(count) if count <= most else spaced)

    @property
    def cells(self) -> NDArray[np.int32]:
        return self.store.cells[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def stream(self) -> Iterator[tuple[NDArray[np.int32], Tensor]]:
        yield self.cells, self.store.read_rows(self.rows)


def _sampled(stores: Mapping[str, TokenStore], most: int, spec: RunSpec) -> dict[str, TokenStore]:
    """At most ``most`` cells of each slide; all where it is smoothed, since a sample has other neighbours."""
    if smooths(spec.training, "prediction"):
        return dict(stores)
    return {slide: cast(TokenStore, Sampled.of(store, most)) for slide, store in stores.items()}


def _predict_sample(
    model: StageModel, source: BagSource, cells_of: Mapping[str, Path], spec: RunSpec, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """Probabilities [n, K] of cells of each training slide."""
    stores = _sampled(source.stores, SCALED_BY, spec)
    return {
        slide: np.concatenate([probabilities for _, probabilities, _ in batches])
        for slide, batches in _predict(model, stores, cells_of, spec, device)
    }


def _temperature(
    probabilities: Sequence[NDArray[np.float32]], given: Sequence[Floats], spec: RunSpec
) -> float:
    """Temperature of a trained run, by cells of its training slides and the proportions given for these."""
    temperature = fit_temperature(probabilities, given)
    if math.isnan(temperature):
        log.warning(
            "%s: the training bags determine no temperature; its probabilities are not calibrated", spec.id
        )
    return temperature


def _predict(
    model: StageModel,
    stores: Mapping[str, TokenStore],
    cells_of: Mapping[str, Path],
    spec: RunSpec,
    device: torch.device,
) -> Iterator[tuple[str, Iterator[Batch]]]:
    """Batches of predictions of each slide, one row group of tokens at a time; a smoothed slide at once."""
    embed = embed_with(model, device, spec.training.precision)
    smoothed = smooths(spec.training, "prediction")

    def parts(slide: str, store: TokenStore) -> Iterator[tuple[NDArray[np.int32], Tensor, CellGraph | None]]:
        """Cells, embeddings, and their graph where they are smoothed."""
        if not smoothed:
            yield from ((cells, embed(tokens), None) for cells, tokens in store.stream())
        elif len(store):
            assert spec.graph is not None
            places = _places({slide: store}, cells_of)[slide]
            graph = cell_graph(places, spec.graph, seed=spec.seed).to(device)
            yield store.cells, torch.cat([embed(tokens) for _, tokens in store.stream()]), graph

    def batches(slide: str, store: TokenStore) -> Iterator[Batch]:
        for cells, embedding, graph in parts(slide, store):
            with torch.inference_mode():
                logits = classify(model, embedding, spec.training, device, graph)
                probabilities = logits.softmax(1).cpu().numpy()
                unit = torch.nn.functional.normalize(embedding, dim=1).half().cpu().numpy()
            if not np.isfinite(probabilities).all():
                raise Diverged(
                    f"run {spec.id}: the probabilities of slide {slide} are not finite after the last step; "
                    "lower training.learning_rate and training.encoder_learning_rate"
                )
            for first in range(0, len(cells), ROWS):
                rows = slice(first, first + ROWS)
                yield cells[rows], probabilities[rows], unit[rows]

    for slide, store in stores.items():
        yield slide, batches(slide, store)
