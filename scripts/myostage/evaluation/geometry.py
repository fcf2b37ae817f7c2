"""How the embedding is ordered: cosine similarity of stages, and neighbours by stage and by animal.

Embeddings of two runs live in two spaces, so only cells that one run holds out are compared. Predictions are
streamed: of each run, sums of unit vectors per slide and stage are kept, and of these their products.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from myostage import tables
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.evaluation.experiments import Design
from myostage.evaluation.intervals import estimate_effect, find_pseudo_values
from myostage.evaluation.tables import CORRELATIONS, SIMILARITIES
from myostage.evaluation.tallies import read_splits
from myostage.learning.folds import STAGED_ONLY
from myostage.learning.stages import similarity
from myostage.learning.tables import SPLITS, predictions_table
from myostage.study.run import RunSpec

Floats = NDArray[np.float64]
Runs = Sequence[tuple[RunSpec, Path]]

READ_ROWS = 4096
LEAST_PAIRS = 3  # a rank correlation of fewer says nothing
NEIGHBOURS = 15
LEAST_CELLS = 5  # a map of fewer shows nothing
COMPONENTS = 20
PERPLEXITY = 30.0
ITERATIONS = 500


@dataclass(frozen=True)
class Products:
    """What the labelled cells that one run holds out say about stages, in numbers that add up over slides.

    ``cells`` int64[n, K] are their numbers by slide and stage, ``dots`` float64[n, n, K, K] the products of
    the summed unit vectors of stage k of one slide and k' of another.
    """

    slides: tuple[str, ...]
    cells: NDArray[np.int64]
    dots: Floats

    def mean(self, weights: Floats) -> Floats:
        """Mean cosine of every two stages, [r, K, K], with each slide taken ``weights`` [r, n] times.

        nan where there is no pair of cells. A cell is compared neither with itself nor with a copy of itself,
        so that a resample in which a slide comes twice looks no more alike than its slides are.
        """
        found = np.einsum("rs,stkl,rt->rkl", weights, self.dots, weights, optimize=True)
        cells = weights @ self.cells
        pairs = cells[:, :, None] * cells[:, None, :]
        k = np.arange(self.cells.shape[1])
        itself = weights**2 @ self.cells  # unit vectors: the product of each with itself is 1
        found[:, k, k] -= itself
        pairs[:, k, k] -= itself
        return np.divide(found, pairs, out=np.full_like(found, np.nan), where=pairs > 0)


def similarities(
    experiments: Mapping[str, Runs],
    labels: Mapping[str, Path],
    splits: Path,
    stages: int,
    similarities_out: Path,
    correlations_out: Path,
) -> None:
    """Write how alike cells of two annotated stages are, and whether this follows sim(k, k').

    The cosine of two stages is the mean over pairs of different held-out cells of one run, then over the runs
    that have such pairs. Spearman's rho compares the K (K + 1) / 2 cosines with sim(k, k') of OSLSP
    (arXiv 2505.04150); its interval takes animals and runs for noise, see
    :mod:`myostage.evaluation.intervals`, and is missing where no seed has held out all of these slides.

    Parameters
    ----------
    experiments
        Label of every experiment, and its runs with their predictions. One without an embedded, labelled
        held-out cell (majorities, runs that all failed) is left out.
    labels
        Table of labels of every slide that has one.
    splits
        Table of splits.
    stages
        Number of stages K.
    similarities_out, correlations_out
        ``SIMILARITIES`` and ``CORRELATIONS`` to write; what no cell can tell is missing.

    Raises
    ------
    UserError
        A table is missing or damaged, an embedding is no direction, a label is no stage of the study.
    """
    expected = similarity(stages)
    upper = np.triu_indices(stages)
    split_of = read_splits(splits)
    fold_of = {slide: row.fold for slide, row in split_of.items() if row.fold >= 0}
    truth = {slide: _stages(path, stages) for slide, path in labels.items() if slide in fold_of}
    read: dict[Path, Products] = {}  # a run that two experiments share is read once
    similarity_rows: list[dict[str, Any]] = []
    correlation_rows: list[dict[str, Any]] = []
    for name, runs in experiments.items():
        for spec, path in runs:
            if path not in read:
                held_out = {slide: known for slide, known in truth.items() if fold_of[slide] == spec.fold}
                read[path] = _products(path, held_out, stages)
        embedded = [(spec.seed, read[path]) for spec, path in runs if read[path].slides]
        found = [products for _, products in embedded]
        if not found:
            continue
        cells = {slide: own.sum() for of in found for slide, own in zip(of.slides, of.cells, strict=True)}
        slides = sorted(cells)
        cosines = _over_runs(found, slides, np.ones((1, len(slides))))[0]
        rho = spearman(cosines[upper], expected[upper])
        low, high = _find_interval(embedded, slides, expected, Design.of(slides, split_of), rho)
        similarity_rows += [
            {
                "experiment": name,
                "stage_a": a,
                "stage_b": b,
                "cosine": cosines[a, b],
                "expected": expected[a, b],
            }
            for a, b in np.ndindex(stages, stages)
        ]
        extent = {"slides": len(slides), "cells": int(sum(cells.values()))}
        correlation_rows.append({"experiment": name, "rho": rho, "low": low, "high": high, **extent})
    for out, rows, schema in (
        (similarities_out, similarity_rows, SIMILARITIES),
        (correlations_out, correlation_rows, CORRELATIONS),
    ):
        tables.write(out, pd.DataFrame(rows, columns=schema.schema.names), schema)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rho: Pearson's correlation of ranks, ties sharing their mean rank (Spearman 1904).

    Entries that are nan in either are left out; nan where fewer than three remain or one of them is constant.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < LEAST_PAIRS:
        return float("nan")
    x, y = (rank - rank.mean() for rank in (rankdata(first[known]), rankdata(second[known])))
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread > 0 else float("nan")


def held_out_cells(
    predictions: str | Path,
    labels: Mapping[str, str | Path],
    splits: str | Path,
    stages: int,
    most: int,
    seed: int = 0,
) -> tuple[pd.DataFrame, Floats]:
    """Labelled held-out cells of one run with their unit embeddings, drawn evenly over stages.

    Parameters
    ----------
    predictions
        Predictions of the run.
    labels, splits, stages
        See :func:`similarities`.
    most
        Cells at most; a stage with fewer than its share leaves the rest to the others.
    seed
        Seed of the draw.

    Returns
    -------
    cells : DataFrame
        ``slide``, ``cell``, ``stage`` (annotated), ``group``, ``animal``, in the order of the file.
    embedding : float64[n, E]
        Without rows where the run has no embedding of a labelled held-out cell.

    Raises
    ------
    UserError
        See :func:`similarities`.
    """
    table = tables.read(splits, SPLITS).set_index("slide")
    learnt = table.index[table["fold"] != STAGED_ONLY]
    truth = {slide: _stages(path, stages) for slide, path in labels.items() if slide in learnt}
    # The stages come first: of the embeddings only those of drawn cells are kept.
    known = [stage for _, _, stage, _ in _stream(predictions, truth, stages, embedded=False)]
    taken = _evenly(np.concatenate([np.empty(0, np.int64), *known]), most, seed)
    frames, parts, done = [], [], 0
    for slide, cell, stage, unit in _stream(predictions, truth, stages):
        here = taken[done : done + cell.size]
        done += cell.size
        if unit.shape[1] and here.any():
            frames.append(pd.DataFrame({"slide": slide, "cell": cell[here], "stage": stage[here]}))
            parts.append(unit[here])
    columns = ["slide", "cell", "stage"]
    cells = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return cells.join(table[["group", "animal"]], on="slide"), np.concatenate(parts or [np.empty((0, 0))])


def plane(embedding: Floats, seed: int = 0) -> Floats:
    """A 2-D map of embeddings [n, E], float64[n, 2]: PCA to at most 20 components, then t-SNE.

    (van der Maaten and Hinton 2008, by scikit-learn.) Who is near is kept, how far is not. Fewer than
    ``LEAST_CELLS`` cells all lie at the origin.
    """
    cells, width = embedding.shape
    if cells < LEAST_CELLS:
        return np.zeros((cells, 2))
    reduced = PCA(min(COMPONENTS, cells, width), random_state=seed).fit_transform(embedding)
    perplexity = min(PERPLEXITY, (cells - 1) / 3)
    settled = TSNE(2, perplexity=perplexity, init="pca", max_iter=ITERATIONS, random_state=seed)
    # One thread: sums come in one order, and threads that wait for each other cost more than they bring.
    with threadpool_limits(1):
        return np.asarray(settled.fit_transform(reduced), dtype=np.float64)


@dataclass(frozen=True)
class Purity:
    """Share of a cell's nearest neighbours that share something with it, and what chance would give."""

    found: float
    chance: float

    @property
    def excess(self) -> float:
        """0 at chance, 1 where all neighbours share it; nan where chance alone makes all of them do so."""
        return (self.found - self.chance) / (1 - self.chance) if self.chance < 1 else float("nan")


def neighbours(embedding: Floats, count: int = NEIGHBOURS) -> NDArray[np.int64]:
    """The ``count`` cells (all others, where they are fewer) most alike to each by cosine, int64[n, count].

    ``embedding`` are unit vectors [n, E], n at least 2; the nearest comes first, and no cell is its own
    neighbour.
    """
    search = NearestNeighbors(n_neighbors=min(count, len(embedding) - 1)).fit(embedding)
    return np.asarray(search.kneighbors(return_distance=False), dtype=np.int64)


def purity(near: NDArray[np.int64], kind: ArrayLike, within: ArrayLike | None = None) -> Purity:
    """Mean share of neighbours [n, m] that are of a cell's own ``kind`` [n].

    With ``within`` [n], only neighbours of the same ``within`` count, and chance is that of a cell drawn from
    those of the same: how far animals are told apart among cells of one stage. Cells without such a
    neighbour, or without such another cell, take no part.
    """
    own = np.unique(np.asarray(kind), return_inverse=True)[1]
    of = np.zeros_like(own) if within is None else np.unique(np.asarray(within), return_inverse=True)[1]
    like = of[near] == of[:, None]
    same = (own[near] == own[:, None]) & like
    table = np.zeros((of.max() + 1, own.max() + 1))
    np.add.at(table, (of, own), 1)
    others, alike = table.sum(1)[of] - 1, table[of, own] - 1
    some = like.any(1) & (others > 0)
    if not some.any():
        return Purity(float("nan"), float("nan"))
    share = same[some].sum(1) / like[some].sum(1)
    return Purity(float(share.mean()), float((alike[some] / others[some]).mean()))


def purities(embedding: Floats, cells: pd.DataFrame) -> dict[str, Purity]:
    """Whether stage or animal orders unit embeddings [n, E] of ``cells`` (columns ``stage``, ``animal``).

    Returns
    -------
    dict
        :func:`purity` of ``stage``, of ``animal``, of ``stage within animal`` and of ``animal within stage``;
        nan with fewer than ``LEAST_CELLS`` cells.
    """
    stage, animal = cells["stage"].to_numpy(dtype=np.int64), cells["animal"].to_numpy(dtype=str)
    asked = {
        "stage": (stage, None),
        "animal": (animal, None),
        "stage within animal": (stage, animal),
        "animal within stage": (animal, stage),
    }
    if len(cells) < LEAST_CELLS:
        return dict.fromkeys(asked, Purity(float("nan"), float("nan")))
    near = neighbours(embedding)
    return {name: purity(near, *kinds) for name, kinds in asked.items()}


def _products(path: Path, truth: Mapping[str, pd.Series], stages: int) -> Products:
    """The :class:`Products` of one run; without slides where it has no embedding of a labelled cell."""
    sums: dict[str, Floats] = {}
    cells: dict[str, NDArray[np.int64]] = {}
    for slide, _, stage, unit in _stream(path, truth, stages):
        if unit.shape[1]:
            np.add.at(sums.setdefault(slide, np.zeros((stages, unit.shape[1]))), stage, unit)
            counts = cells.setdefault(slide, np.zeros(stages, np.int64))
            counts += np.bincount(stage, minlength=stages)
    if not sums:
        return Products((), np.zeros((0, stages), np.int64), np.zeros((0, 0, stages, stages)))
    slides = tuple(sorted(sums))
    stacked = np.stack([sums[slide] for slide in slides])  # [n, K, E]
    dots = np.einsum("ske,tle->stkl", stacked, stacked, optimize=True)
    return Products(slides, np.stack([cells[slide] for slide in slides]), dots)


def _over_runs(found: Sequence[Products], slides: Sequence[str], weights: Floats) -> Floats:
    """Mean cosines [r, K, K], over the runs that have any, with ``slides`` taken ``weights`` [r, n] times."""
    at = {slide: place for place, slide in enumerate(slides)}
    stages = found[0].cells.shape[1]
    total, count = np.zeros((2, len(weights), stages, stages))
    for products in found:
        cosines = products.mean(weights[:, [at[slide] for slide in products.slides]])
        known = np.isfinite(cosines)
        total += np.where(known, cosines, 0.0)
        count += known
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _find_interval(
    found: Sequence[tuple[int, Products]], slides: Sequence[str], expected: Floats, design: Design, rho: float
) -> tuple[float, float]:
    """95 % interval about rho, from the pseudo-values of the seeds that have all slides."""
    seeds: dict[int, list[Products]] = {}
    for seed, products in found:
        seeds.setdefault(seed, []).append(products)
    wanted = set(slides)
    complete = [own for own in seeds.values() if {slide for one in own for slide in one.slides} == wanted]
    if not complete or design.folds.size < 2:
        return float("nan"), float("nan")
    upper = np.triu_indices(len(expected))

    def statistic(weights: Floats) -> Floats:
        given = np.atleast_2d(weights)
        cosines = [_over_runs(own, slides, given) for own in complete]
        by_seed = [[spearman(one[upper], expected[upper]) for one in of_seed] for of_seed in cosines]
        return np.array(by_seed).T.reshape(*weights.shape[:-1], len(complete), 1)

    pseudo = find_pseudo_values(statistic, design.animals)
    estimate = estimate_effect(pseudo[0], design.folds, design.days)
    low, high = replace(estimate, value=np.asarray(rho)).find_interval()
    return max(float(low), -1.0), min(float(high), 1.0)


def _evenly(stage: NDArray[np.int64], most: int, seed: int) -> NDArray[np.bool_]:
    """Which cells are drawn: one of every stage, another of every stage, until there are enough."""
    order = np.random.default_rng(seed).permutation(stage.size)
    turn = pd.Series(stage[order]).groupby(stage[order]).cumcount().to_numpy()
    taken = np.zeros(stage.size, dtype=bool)
    taken[order[np.argsort(turn, kind="stable")[:most]]] = True
    return taken


def _stages(path: str | Path, stages: int) -> pd.Series:
    """Annotated stage by cell number."""
    known = tables.read(path, LABELS, ["cell", "stage"]).set_index("cell")["stage"]
    if not known.between(0, stages - 1).all():
        raise UserError(
            f"{path}: stages {known.min()} to {known.max()} in a study of {stages} stages; "
            "delete the labels and run the workflow again"
        )
    return known


def _stream(
    path: str | Path, truth: Mapping[str, pd.Series], stages: int, embedded: bool = True
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64], Floats]]:
    """Labelled cells of the slides in ``truth``: slide, cells [n], stages [n], unit embeddings [n, E].

    E is 0 where a run has no embeddings, or none are asked for.
    """
    columns = ["slide", "cell", *(["embedding"] if embedded else [])]
    with tables.open_table(path, predictions_table(stages)) as file:
        for batch in file.iter_batches(READ_ROWS, columns=columns):
            slides = batch.column("slide").dictionary_encode()
            code = slides.indices.to_numpy()
            cell = batch.column("cell").to_numpy().astype(np.int64)
            vectors = np.empty((cell.size, 0))
            if embedded and cell.size:
                flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
                vectors = flat.astype(np.float64).reshape(cell.size, -1)
            for number, slide in enumerate(slides.dictionary.to_pylist()):
                if slide not in truth:
                    continue
                known = truth[slide].reindex(cell[code == number])
                rows = np.flatnonzero(code == number)[known.notna().to_numpy()]
                if rows.size:
                    yield slide, cell[rows], known.dropna().to_numpy(np.int64), _unit(vectors[rows], path)


def _unit(vectors: Floats, path: str | Path) -> Floats:
    """Vectors [n, E] of length 1 again: their float16 is not quite."""
    if vectors.shape[1] == 0:
        return vectors
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise UserError(
            f"{path}: a cell's embedding is no direction (zero or not finite); delete the file and the run's "
            "model, and run the workflow again"
        )
    return vectors / length
