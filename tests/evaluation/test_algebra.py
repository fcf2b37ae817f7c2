"""Latent algebra on embeddings built so that the answer is known, and against a loop over cells."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation import algebra
from myostage.evaluation.tables import ALGEBRA
from myostage.learning.tables import SPLITS, predictions_table
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.training import Training

K = 3
HEALTHY_STAGES = (2,)
WIDTH = 8
CELLS = 12

Cells = tuple[np.ndarray, np.ndarray]
"""Probabilities [n, K] and embeddings [n, E]."""


def spec_of(fold: int = 0, seed: int = 0, **training: Any) -> RunSpec:
    return RunSpec(
        method="proportions",
        losses={"prop": 1.0, "supcr": 1.0},  # a term with an option of halves
        training=Training(**training),
        encoder=Encoder(),
        folds=2,
        fold=fold,
        seed=seed,
    )


def write_splits(folder: Path, slides: dict[str, tuple[str, int]]) -> Path:
    """Slides with their group and fold."""
    path = folder / "splits.parquet"
    frame = pd.DataFrame(
        [
            {"slide": slide, "group": group, "animal": slide, "cells": CELLS, "fold": fold}
            for slide, (group, fold) in slides.items()
        ],
        columns=SPLITS.schema.names,
    )
    tables.write(path, frame, SPLITS)
    return path


def write_run(path: Path, slides: dict[str, Cells], shuffled: bool = False) -> Path:
    """Every cell twice, with an even and an odd number: of the former z_I is made, of the latter z_P."""
    parts = [
        pd.DataFrame(
            {
                "slide": slide,
                "cell": np.arange(2 * len(p)),
                "stage": p.argmax(1).repeat(2),
                "probabilities": list(p.astype(np.float32).repeat(2, 0)),
                "embedding": list(z.astype(np.float16).repeat(2, 0)),
            }
        )
        for slide, (p, z) in slides.items()
    ]
    table = predictions_table(K)
    frame = pd.concat(parts) if parts else pd.DataFrame(columns=table.schema.names)
    if shuffled:
        frame = frame.sample(frac=1, random_state=0)
    tables.write(path, pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False), table)
    return path


def measure(
    folder: Path, splits: Path, experiments: dict[str, list[tuple[RunSpec, Path]]], **changes: Any
) -> pd.DataFrame:
    out = folder / "algebra.parquet"
    arguments: dict[str, Any] = {"healthy_stages": HEALTHY_STAGES, "healthy_groups": ["d0"]} | changes
    algebra.algebra(experiments, splits, K, out=out, **arguments)
    return tables.read(out, ALGEBRA)


def certain(stages: list[int]) -> np.ndarray:
    return np.eye(K)[stages]


def axis(*numbers: int) -> np.ndarray:
    return np.eye(WIDTH)[list(numbers)]


FOLDS = {"well": ("d0", 0), "a": ("d3", 0), "b": ("d3", 0), "c": ("d5", 0), "other": ("d3", 1)}


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    return write_splits(tmp_path, FOLDS)


def drawn(seed: int = 0, slides: tuple[str, ...] = ("well", "a", "b", "c")) -> dict[str, Cells]:
    rng = np.random.default_rng(seed)
    found = {}
    for slide in slides:
        z = rng.normal(size=(CELLS, WIDTH)) + rng.normal(size=WIDTH)
        found[slide] = (
            rng.dirichlet(np.ones(K), CELLS).astype(np.float32),
            (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float16),
        )
    return found


def by_hand(slides: dict[str, Cells], columns: slice = slice(None)) -> dict[str, tuple[float, float, int]]:
    """Own, others and rank of a, b and c, cell by cell."""
    z_w = np.mean([z[columns].astype(float) for z in slides["well"][1]], axis=0)
    z_i, sums = {}, {}
    for slide in ("a", "b", "c"):
        whole, weighed, total = np.zeros_like(z_w), np.zeros_like(z_w), 0.0
        for p, z in zip(*slides[slide], strict=True):
            weight = 1 - float(p[2])
            whole += z[columns].astype(float) / CELLS
            weighed += weight * z[columns].astype(float)
            total += weight
        z_i[slide], sums[slide] = whole, z_w + weighed / total
    found = {}
    for slide, guess in sums.items():
        cosine = {
            other: float(guess @ z / np.linalg.norm(guess) / np.linalg.norm(z)) for other, z in z_i.items()
        }
        rest = [value for other, value in cosine.items() if other != slide]
        found[slide] = (
            cosine[slide],
            sum(rest) / len(rest),
            1 + sum(value > cosine[slide] for value in rest),
        )
    return found


@pytest.mark.parametrize("parts", ["whole", "halves"])
def test_rows_are_those_of_a_loop_over_cells(
    tmp_path: Path, splits: Path, parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(algebra, "READ_ROWS", 5)  # batches cut slides and hold several
    slides = drawn()
    run = write_run(tmp_path / "p.parquet", slides, shuffled=True)
    found = measure(tmp_path, splits, {"one": [(spec_of(seed=4, embedding_parts=parts), run)]})
    wanted = by_hand(slides, slice(WIDTH // 2, None) if parts == "halves" else slice(None))
    assert found["slide"].tolist() == ["a", "b", "c"]
    assert set(zip(found["experiment"], found["fold"], found["seed"], strict=True)) == {("one", 0, 4)}
    assert (found["candidates"] == 3).all()
    for row in found.itertuples():
        own, others, rank = wanted[row.slide]
        assert (row.own, row.others) == pytest.approx((own, others), abs=1e-6)
        assert row.rank == rank


def test_slides_built_as_reference_plus_perturbation_rank_first(tmp_path: Path, splits: Path) -> None:
    # half of each slide is reference tissue on axis 0, the other half lies on an axis of its own
    slides: dict[str, Cells] = {"well": (certain([2] * 4), axis(0, 0, 0, 0))}
    for number, slide in enumerate("abc", start=1):
        slides[slide] = certain([2, 2, 0, 1]), axis(0, 0, number, number)
    run = write_run(tmp_path / "p.parquet", slides)
    found = measure(tmp_path, splits, {"exact": [(spec_of(), run)]})
    np.testing.assert_allclose(found["own"], 1, atol=1e-12)
    np.testing.assert_allclose(found["others"], 0.5, atol=1e-12)
    assert (found["rank"] == 1).all()
    row = algebra.summary(found).iloc[0]
    assert (row["reciprocal_rank"], row["top_1"], row["own_minus_others"]) == pytest.approx((1, 1, 0.5))
    assert (row["reciprocal_rank_low"], row["reciprocal_rank_high"]) == (1, 1)
    assert row["reciprocal_rank_chance"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert row["top_1_chance"] == pytest.approx(1 / 3)
    assert (row["slides"], row["folds"]) == (3, 1)


def test_a_slide_is_not_found_by_cells_that_it_shares_with_itself(tmp_path: Path, splits: Path) -> None:
    # even cells of a slide look like the odd ones of another: what z_P says of a slide is told by other cells
    slides = {"well": (certain([2]), axis(0)), "a": (certain([0]), axis(1)), "b": (certain([0]), axis(2))}
    run = write_run(tmp_path / "p.parquet", slides)
    frame = tables.read(run, predictions_table(K))
    odd = frame["cell"] % 2 == 1
    own = frame.loc[odd & frame["slide"].isin(["a", "b"]), "embedding"]
    frame.loc[own.index, "embedding"] = pd.Series(list(own[::-1]), index=own.index)
    table = predictions_table(K)
    tables.write(run, pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False), table)
    found = measure(tmp_path, splits, {"one": [(spec_of(), run)]})
    assert found["rank"].tolist() == [2, 2] and found["rank_p"].tolist() == [2, 2]


def test_z_p_alone_is_ranked_beside_the_sum(tmp_path: Path, splits: Path) -> None:
    # uninjured tissue makes up most of every slide: z_P alone, which lies elsewhere, does not tell a from b
    slides: dict[str, Cells] = {"well": (certain([2] * 4), axis(0, 0, 0, 0))}
    slides["a"] = certain([2, 2, 0, 1]), axis(0, 0, 1, 1)
    slides["b"] = certain([2, 2, 0, 1]), axis(0, 0, 2, 2)
    found = measure(tmp_path, splits, {"one": [(spec_of(), write_run(tmp_path / "p.parquet", slides))]})
    assert found["rank"].tolist() == [1, 1] and found["rank_p"].tolist() == [1, 1]
    slides["b"] = certain([2, 2, 0, 1]), axis(0, 0, 1, 1)
    found = measure(tmp_path, splits, {"one": [(spec_of(), write_run(tmp_path / "q.parquet", slides))]})
    assert found["rank_p"].tolist() == [2, 2]


def test_a_slide_of_healthy_cells_alone_has_no_perturbation(tmp_path: Path, splits: Path) -> None:
    slides = {
        "well": (certain([2]), axis(0)),
        # float32 probabilities of the healthy stages that sum to a little less than 1
        "a": (np.array([[3e-8, 3e-8, 1 - 6e-8]]), axis(1)),
        "b": (certain([0]), axis(2)),
    }
    run = write_run(tmp_path / "p.parquet", slides)
    found = measure(tmp_path, splits, {"one": [(spec_of(), run)]}).set_index("slide")
    assert found.loc["a", "own"] == pytest.approx(0)  # z_W alone, and not z_W + z_I
    assert found.loc["b", "own"] == pytest.approx(np.sqrt(0.5))


def test_a_collapsed_embedding_ranks_last(tmp_path: Path, splits: Path) -> None:
    point = np.full((CELLS, WIDTH), WIDTH**-0.5)
    slides = {slide: (p, point) for slide, (p, _) in drawn().items()}
    found = measure(tmp_path, splits, {"one": [(spec_of(), write_run(tmp_path / "p.parquet", slides))]})
    assert (found["rank"] == 3).all()
    row = algebra.summary(found).iloc[0]
    assert row["reciprocal_rank"] < row["reciprocal_rank_chance"]
    assert row["own_minus_others"] == pytest.approx(0, abs=1e-9)


def test_embeddings_that_cancel_have_cosine_0(tmp_path: Path, splits: Path) -> None:
    both = np.concatenate([axis(0), -axis(0)])
    slides = {slide: (certain([0, 0]), both) for slide in ("well", "a", "b")}
    found = measure(tmp_path, splits, {"one": [(spec_of(), write_run(tmp_path / "p.parquet", slides))]})
    assert (found[["own", "others"]] == 0).all(axis=None)
    assert (found["rank"] == 2).all()


@pytest.mark.parametrize(
    "slides", [("a", "b", "c"), ("well", "a"), ("well",), ()], ids=lambda held: "+".join(held) or "failed"
)
def test_a_run_without_both_sides_gives_no_rows(
    tmp_path: Path, splits: Path, slides: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_run(tmp_path / "whole.parquet", drawn())
    lacking = write_run(tmp_path / "lacking.parquet", drawn(slides=slides))
    with caplog.at_level(logging.WARNING):
        found = measure(tmp_path, splits, {"one": [(spec_of(), whole), (spec_of(seed=1), lacking)]})
    assert set(found["seed"]) == {0}
    assert str(lacking) in caplog.text and str(whole) not in caplog.text


def test_baselines_without_embeddings_give_no_rows(tmp_path: Path, splits: Path) -> None:
    slides = {slide: (p, np.empty((CELLS, 0))) for slide, (p, _) in drawn().items()}
    run = write_run(tmp_path / "p.parquet", slides)
    assert measure(tmp_path, splits, {"majority": [(spec_of(), run)]}).empty


def test_slides_of_other_folds_take_no_part(tmp_path: Path) -> None:
    splits = write_splits(tmp_path, FOLDS | {"bare": ("", -1)})
    more = write_run(tmp_path / "more.parquet", drawn() | drawn(1, ("other", "bare")))
    less = write_run(tmp_path / "less.parquet", drawn())
    found = measure(tmp_path, splits, {"more": [(spec_of(), more)], "less": [(spec_of(), less)]})
    columns = ["slide", "own", "others", "rank", "candidates"]
    more_rows, less_rows = (found.loc[found["experiment"] == name, columns] for name in ("more", "less"))
    np.testing.assert_array_equal(more_rows.to_numpy(), less_rows.to_numpy())


def test_two_experiments_share_a_run_that_is_read_once(
    tmp_path: Path, splits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    sums = algebra._sums
    monkeypatch.setattr(algebra, "_sums", lambda path, *rest: read.append(path) or sums(path, *rest))
    run = write_run(tmp_path / "p.parquet", drawn())
    found = measure(tmp_path, splits, {"one": [(spec_of(), run)], "two": [(spec_of(), run)]})
    assert read == [run]
    assert found.groupby("experiment")["own"].apply(tuple).nunique() == 1


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path, splits: Path) -> None:
    slides = drawn()
    slides["b"][1][3, 2] = np.nan
    run = write_run(tmp_path / "p.parquet", slides)
    with pytest.raises(UserError, match=r"p\.parquet.*slide b is not finite"):
        measure(tmp_path, splits, {"one": [(spec_of(), run)]})


def test_a_healthy_stage_that_there_is_not_is_refused(tmp_path: Path, splits: Path) -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        measure(tmp_path, splits, {}, healthy_stages=[K])


def rows_of(ranks: dict[tuple[str, int], int], candidates: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "experiment": "one",
                "fold": int(slide > "b"),
                "seed": seed,
                "slide": slide,
                "animal": slide,
                "own": 0.9,
                "others": 0.9 - 0.1 * rank,
                "rank": rank,
                "rank_p": candidates,
                "candidates": candidates,
            }
            for (slide, seed), rank in ranks.items()
        ]
    )


def test_a_summary_means_over_seeds_before_slides() -> None:
    # a failed run leaves slide b with one seed, and b weighs as much as a
    row = algebra.summary(rows_of({("a", 0): 1, ("a", 1): 2, ("b", 0): 4})).iloc[0]
    assert row["reciprocal_rank"] == pytest.approx((0.75 + 0.25) / 2)
    assert row["top_1"] == pytest.approx((0.5 + 0) / 2)
    assert row["own_minus_others"] == pytest.approx((0.15 + 0.4) / 2)
    assert (row["slides"], row["folds"]) == (2, 1)
    half = 12.706 * 0.25  # t of one degree of freedom, standard error (.75 - .25) / 2
    ends = row[["reciprocal_rank_low", "reciprocal_rank_high"]].tolist()
    assert ends == pytest.approx([0.5 - half, 0.5 + half], rel=1e-3)
    sections = rows_of({("a", 0): 1, ("b", 0): 4}).assign(animal="one")
    assert np.isnan(algebra.summary(sections).iloc[0]["reciprocal_rank_low"])  # of one animal


def test_ranks_at_random_meet_their_chance_level() -> None:
    rng = np.random.default_rng(3)
    ranks = {(f"s{number}", 0): int(rank) for number, rank in enumerate(rng.integers(1, 5, 2000))}
    row = algebra.summary(rows_of(ranks)).iloc[0]
    for name in ("reciprocal_rank", "top_1"):
        assert row[f"{name}_low"] < row[f"{name}_chance"] < row[f"{name}_high"]


def test_a_single_slide_has_no_interval_and_no_rows_no_summary() -> None:
    row = algebra.summary(rows_of({("a", 0): 1})).iloc[0]
    assert row["reciprocal_rank"] == 1 and np.isnan(row["reciprocal_rank_low"])
    empty = algebra.summary(rows_of({("a", 0): 1}).iloc[:0])
    assert empty.empty and tuple(empty.columns) == algebra.SUMMARY
