"""Latent algebra: whether z_W + z_P of a held-out slide lies nearest to its own z_I.

z_I is the mean embedding of the slide's cells, z_W that of the cells of the fold's held-out slides of healthy
groups, z_P the mean of the slide's cells weighted by their probability of not being healthy: what the cell
term MSE(z_I, z_W + z_P) pulls together in training. Here z_I and z_W are of the cells with even numbers and
z_P of the others, lest a slide be found by the very cells that it shares with itself. Embeddings of two runs
live in two spaces, so slides are compared within what one run holds out. Predictions are streamed: of each
slide two sums are kept.
"""

import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation.intervals import find_mean
from myostage.evaluation.tables import ALGEBRA
from myostage.evaluation.tallies import held_out, read_splits
from myostage.learning.stages import NO_INJURY
from myostage.learning.tables import predictions_table
from myostage.study.run import RunSpec

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Runs = Sequence[tuple[RunSpec, Path]]

READ_ROWS = 4096
# Cosines nearer to each other than this are ties: they differ by the order of sums.
TIE = 1e-9

MEASURES = ("reciprocal_rank", "reciprocal_rank_p", "top_1", "own_minus_others")
SUMMARY = (
    "experiment",
    *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")),
    "reciprocal_rank_chance",
    "top_1_chance",
    "slides",
    "folds",
)


def algebra(
    experiments: Mapping[str, Runs],
    splits: Path,
    stages: int,
    healthy_stages: Sequence[int],
    healthy_groups: Sequence[str],
    out: Path,
) -> None:
    """Write how near z_W + z_P of every injured held-out slide lies to its z_I and to those of others.

    Where a run learnt its two terms on half of the embedding each (``embedding_parts: halves``), only the
    second half counts, that of the cell term. The weights of z_P are soft whatever the run's ``perturbed``:
    all runs are measured alike.

    Parameters
    ----------
    experiments
        Label of every experiment, and its runs with their predictions. A run without embeddings (baselines,
        failures), without a healthy held-out slide or with fewer than two injured ones gives no rows.
    splits
        Table of splits.
    stages
        Number of stages K.
    healthy_stages
        Stages of uninjured cells, 0..K-1.
    healthy_groups
        Groups of uninjured slides; a slide of any other group is injured.
    out
        ``ALGEBRA`` to write.

    Raises
    ------
    UserError
        A table is missing or damaged, an embedding or probability is not finite.
    ValueError
        A healthy stage outside 0..K-1.
    """
    if not set(healthy_stages) <= set(range(stages)):
        raise ValueError(f"healthy stages {list(healthy_stages)} are not all in 0 to {stages - 1}")
    split_of = read_splits(splits)
    of_run: dict[Path, list[dict[str, Any]]] = {}  # a run that two experiments share is read once
    rows: list[dict[str, Any]] = []
    for name, runs in experiments.items():
        for spec, path in runs:
            if path not in of_run:
                wanted = held_out(split_of, spec.fold)
                healthy = {slide for slide in wanted if split_of[slide].group in healthy_groups}
                halves = spec.training.embedding_parts == "halves"
                sums = _sums(path, stages, healthy_stages, set(wanted), halves)
                of_run[path] = _compared(sums, healthy, path)
            key = {"experiment": name, "fold": spec.fold, "seed": spec.seed}
            rows += [key | row | {"animal": split_of[row["slide"]].animal} for row in of_run[path]]
    tables.write(out, pd.DataFrame(rows, columns=ALGEBRA.schema.names), ALGEBRA)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Ranks and cosines of every experiment, mean over the seeds of each slide and then over animals.

    Parameters
    ----------
    table
        Rows of ``ALGEBRA``.

    Returns
    -------
    DataFrame
        One row per experiment, columns ``SUMMARY``: the mean reciprocal rank, that by z_P alone, the share of
        slides that rank first, and own - others, each with its 95 % interval over animals (missing for a
        single animal); what a random order of n candidates gives, H_n / n and 1 / n; numbers of slides and
        folds.
    """
    harmonic = np.cumsum(1 / np.arange(1, table["candidates"].max() + 1)) if len(table) else np.empty(0)
    candidates = table["candidates"].to_numpy(np.int64)
    values = table[["experiment", "slide", "animal"]].assign(
        reciprocal_rank=1 / table["rank"],
        reciprocal_rank_p=1 / table["rank_p"],
        top_1=(table["rank"] == 1).astype(float),
        own_minus_others=table["own"] - table["others"],
        reciprocal_rank_chance=harmonic[candidates - 1] / candidates,
        top_1_chance=1 / candidates,
    )
    rows: list[dict[str, Any]] = []
    for name, own in values.groupby("experiment", sort=False):
        of_slide = own.drop(columns="experiment").groupby(["slide", "animal"]).mean()
        found = find_mean(of_slide[list(MEASURES)], of_slide.index.get_level_values("animal"))
        row: dict[str, Any] = {
            f"{measure}{end}": value
            for end, of_measure in zip(("", "_low", "_high"), found, strict=True)
            for measure, value in zip(MEASURES, of_measure, strict=True)
        }
        row |= {chance: of_slide[chance].mean() for chance in ("reciprocal_rank_chance", "top_1_chance")}
        folds = table.loc[table["experiment"] == name, "fold"].nunique()
        rows.append({"experiment": name, **row, "slides": len(of_slide), "folds": folds})
    return pd.DataFrame(rows, columns=list(SUMMARY))


def _sums(
    path: Path, stages: int, healthy_stages: Sequence[int], wanted: Set[str], halves: bool
) -> dict[str, Floats]:
    """[2, 1 + E] of every wanted slide: cells and summed embedding of those with even numbers; of the others
    the same, weighted by P(not healthy).

    Empty where the run has no embeddings.
    """
    sums: dict[str, Floats] = {}
    injured = [stage for stage in range(stages) if stage not in healthy_stages]
    with tables.open_table(path, predictions_table(stages)) as file:
        for batch in file.iter_batches(READ_ROWS, columns=["slide", "cell", "probabilities", "embedding"]):
            vectors = batch.column("embedding").flatten().to_numpy(zero_copy_only=False).astype(np.float64)
            if vectors.size == 0:
                continue
            vectors = vectors.reshape(len(batch), -1)  # [n, E]
            if halves:
                vectors = np.array_split(vectors, 2, axis=1)[1]
            flat = batch.column("probabilities").flatten().to_numpy(zero_copy_only=False)
            probabilities = flat.astype(np.float64).reshape(-1, stages)
            weight = probabilities[:, injured].sum(1)
            even = batch.column("cell").to_numpy() % 2 == 0
            counted = np.column_stack([np.ones(len(batch)), vectors])  # [n, 1 + E]
            slides = batch.column("slide").dictionary_encode()
            code = slides.indices.to_numpy()
            for number, slide in enumerate(slides.dictionary.to_pylist()):
                if slide not in wanted:
                    continue
                here = code == number
                part = np.stack([even[here], weight[here] * ~even[here]]) @ counted[here]
                if not np.isfinite(part).all():
                    raise UserError(
                        f"{path}: an embedding or probability of slide {slide} is not finite; delete the "
                        "file and the run's model, and run the workflow again"
                    )
                sums[slide] = sums.get(slide, 0) + part
    return sums


def _compared(sums: Mapping[str, Floats], healthy: Set[str], path: Path) -> list[dict[str, Any]]:
    """One row per injured slide of a run; none, with a line in the log, where there is nothing to compare."""
    injured = sorted(sums.keys() - healthy)
    reference = [sums[slide][0] for slide in sorted(sums.keys() & healthy)]
    if not reference or len(injured) < 2:
        logger.warning(
            "%s: %d embedded held-out slides of healthy groups and %d of others, where 1 and 2 are needed: "
            "no latent algebra of this run",
            path,
            len(reference),
            len(injured),
        )
        return []
    stacked = np.stack([sums[slide] for slide in injured])  # [n, 2, 1 + E]
    cells, weight = stacked[:, 0, :1], stacked[:, 1, :1]
    # a slide of a single cell may have no even one, and then no direction
    z_i = stacked[:, 0, 1:] / cells.clip(1)
    z_p = np.divide(stacked[:, 1, 1:], weight, out=np.zeros_like(z_i), where=weight >= NO_INJURY)
    pooled = np.sum(reference, axis=0)
    z_w = pooled[1:] / max(pooled[0], 1)
    # Ties count against a slide: an embedding that has collapsed to a point must not look like a hit.
    cosines, alone = (_unit(sum_) @ _unit(z_i).T for sum_ in (z_w + z_p, z_p))  # [n, n] each
    rank, rank_p = ((found >= found.diagonal()[:, None] - TIE).sum(1) for found in (cosines, alone))
    own = cosines.diagonal()
    others = (cosines.sum(1) - own) / (len(injured) - 1)
    return [
        {"slide": slide, "own": a, "others": b, "rank": place, "rank_p": plain, "candidates": len(injured)}
        for slide, a, b, place, plain in zip(injured, own, others, rank, rank_p, strict=True)
    ]


def _unit(vectors: Floats) -> Floats:
    """Rows of length 1; a row of zeros, which has no direction, stays and has cosine 0 with everything."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
