"""Evaluation of a small study of five slides, three folds and two seeds, against its cells joined by hand."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from myostage import metrics, results, schemas
from myostage.config import Encoder, RunSpec, Training
from myostage.errors import UserError

K = 4
FOLD = {"s1": 0, "s2": 0, "s3": 1, "s4": 2, "bare": -1}
CELLS = {"s1": 30, "s2": 7, "s3": 50, "s4": 25, "bare": 12}
SEEDS = (0, 1)
GIVEN = {"d0": np.array([0.1, 0.2, 0.3, 0.4]), "d3": np.array([0.5, 0.5, 0, 0])}


def group(slide: str) -> str:
    return {"bare": "", "s1": "d0", "s2": "d3"}.get(slide, "d3")


def numbers(slide: str) -> NDArray[np.int64]:
    """Cell numbers with gaps, as after dropped crops."""
    return np.arange(CELLS[slide]) * 2 + 1


@dataclass(frozen=True)
class StudyFiles:
    folder: Path
    splits: Path
    runs: list[tuple[RunSpec, Path]]
    labels: dict[str, Path]
    areas: dict[str, Path]
    truth: dict[str, NDArray[np.int64]]
    area: dict[str, NDArray[np.float64]]
    probabilities: dict[tuple[int, int, str], NDArray[np.float64]]  # fold, seed, slide

    def evaluate(self, **changes: Any) -> dict[str, pd.DataFrame]:
        out = {name: self.folder / f"{name}.parquet" for name in ("metrics", "scores", "confusion")}
        arguments: dict[str, Any] = {f"{name}_out": path for name, path in out.items()} | {
            "experiments": {"both": self.runs},
            "splits": self.splits,
            "proportions": GIVEN,
            "stages": K,
            "labels": self.labels,
            "areas": self.areas,
            "repeats": 200,
        }
        results.evaluate_runs(**(arguments | changes))
        tables = (schemas.METRICS, schemas.SCORES, schemas.CONFUSION)
        return {
            name: schemas.read(path, table) for (name, path), table in zip(out.items(), tables, strict=True)
        }

    def held_out(self, seed: int, slide: str) -> NDArray[np.float64]:
        return self.probabilities[FOLD[slide], seed, slide]


def write_predictions(path: Path, slides: dict[str, NDArray[np.float64]], row_group: int = 16) -> None:
    table = schemas.predictions_table(K)
    with schemas.writer(path, table) as out:
        for slide, p in slides.items():
            frame = pd.DataFrame({"slide": slide, "cell": numbers(slide)[: len(p)], "stage": p.argmax(1)})
            frame["probabilities"] = list(p.astype(np.float32))
            frame["embedding"] = pd.Series([np.ones(3, np.float16)] * len(p))
            arrow = pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False)
            out.write_table(arrow, row_group_size=row_group)


def spec(fold: int, seed: int) -> RunSpec:
    return RunSpec(
        method="proportions",
        losses={"prop": 1.0},
        training=Training(),
        encoder=Encoder(),
        folds=3,
        fold=fold,
        seed=seed,
    )


@pytest.fixture
def study(tmp_path: Path) -> StudyFiles:
    rng = np.random.default_rng(5)
    splits = pd.DataFrame(
        [(s, group(s), f"animal of {s}", CELLS[s], FOLD[s]) for s in ("s3", "s1", "bare", "s4", "s2")],
        columns=schemas.SPLITS.schema.names,
    )
    schemas.write(tmp_path / "splits.parquet", splits, schemas.SPLITS)
    truth = {s: rng.integers(0, K, CELLS[s]) for s in FOLD if s != "bare"}
    truth["s4"][5:] = -1  # annotated in part
    area = {s: rng.uniform(100, 4000, CELLS[s]).astype(np.float32).astype(np.float64) for s in FOLD}
    labels, areas = {}, {}
    for slide in FOLD:
        areas[slide] = tmp_path / f"{slide}.cells.parquet"
        cells: dict[str, Any] = {name: [0] * CELLS[slide] for name in schemas.CELLS.schema.names}
        cells |= {"cell": numbers(slide), "area_um2": area[slide], "polygon": [[0.0]] * CELLS[slide]}
        cells["border"] = [False] * CELLS[slide]
        schemas.write(areas[slide], pd.DataFrame(cells), schemas.CELLS)
        if slide in truth:
            known = truth[slide] >= 0
            frame = pd.DataFrame({"cell": numbers(slide)[known], "stage": truth[slide][known], "iou": 1.0})
            labels[slide] = tmp_path / f"{slide}.labels.parquet"
            schemas.write(labels[slide], frame, schemas.LABELS)
    probabilities: dict[tuple[int, int, str], NDArray[np.float64]] = {}
    runs: list[tuple[RunSpec, Path]] = []
    for fold in range(3):
        for seed in SEEDS:
            slides = {s: rng.dirichlet(np.full(K, 0.4), CELLS[s]) for s in FOLD if FOLD[s] in (fold, -1)}
            slides = {s: p.astype(np.float32).astype(np.float64) for s, p in slides.items()}
            path = tmp_path / f"{fold}-{seed}.parquet"
            write_predictions(path, slides)
            runs.append((spec(fold, seed), path))
            probabilities |= {(fold, seed, s): p for s, p in slides.items()}
    return StudyFiles(tmp_path, tmp_path / "splits.parquet", runs, labels, areas, truth, area, probabilities)


def value(frame: pd.DataFrame, metric: str, run: str = "") -> pd.Series:
    rows = frame[(frame["run"] == run) & (frame["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def by_hand(study: StudyFiles, slides: list[str], seed: int) -> dict[str, float]:
    truth = np.concatenate([study.truth[s] for s in slides])
    p = np.concatenate([study.held_out(seed, s) for s in slides])
    return metrics.metrics(truth[truth >= 0], p[truth >= 0], K)


def test_experiment_is_the_mean_over_seeds_of_pooled_held_out_cells(study: StudyFiles) -> None:
    found = study.evaluate()["metrics"]
    for name in metrics.NAMES:
        row = value(found, name)
        seeds = [by_hand(study, ["s1", "s2", "s3", "s4"], seed)[name] for seed in SEEDS]
        assert row["value"] == pytest.approx(np.mean(seeds), rel=1e-9)
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["fold"], row["seed"], row["slides"], row["cells"]) == (-1, -1, 4, 30 + 7 + 50 + 5)


def test_runs_have_rows_of_their_own(study: StudyFiles) -> None:
    found = study.evaluate()["metrics"]
    for run, slides in ((spec(0, 1), ["s1", "s2"]), (spec(1, 1), ["s3"])):
        row = value(found, "rmse", run.id)
        assert row["value"] == pytest.approx(by_hand(study, slides, 1)["rmse"])
        assert (row["fold"], row["seed"], row["slides"]) == (run.fold, 1, len(slides))
        assert np.isnan(row["low"]) == (len(slides) == 1)
    assert found["run"].nunique() == 1 + 6


def test_composition_is_compared_slide_by_slide(study: StudyFiles) -> None:
    found = study.evaluate(labels={})
    assert set(found["metrics"]["metric"]) == {"kl", "l1"}
    assert found["confusion"].empty
    l1 = [
        np.abs(study.held_out(seed, s).mean(0) - GIVEN[group(s)]).sum()
        for seed in SEEDS
        for s in ("s1", "s2", "s3", "s4")
    ]
    row = value(found["metrics"], "l1")
    assert row["value"] == pytest.approx(np.mean(l1)) and row["cells"] == 30 + 7 + 50 + 25


def test_scores_weigh_by_area_and_average_runs(study: StudyFiles) -> None:
    levels = np.arange(K) / (K - 1)
    weighted, plain = (
        study.evaluate(areas=areas)["scores"].set_index("slide") for areas in (study.areas, None)
    )
    for slide in FOLD:
        runs = [p for (_, _, s), p in study.probabilities.items() if s == slide]
        assert len(runs) == (6 if slide == "bare" else 2)
        scores = [np.average(p @ levels, weights=study.area[slide]) for p in runs]
        assert weighted.loc[slide, "recovery_score"] == pytest.approx(np.mean(scores))
        assert plain.loc[slide, "recovery_score"] == pytest.approx(np.mean([p @ levels for p in runs]))
        shares = np.mean([p.mean(0) for p in runs], axis=0)
        assert np.array(weighted.loc[slide, "proportions"]) == pytest.approx(shares)
        assert weighted.loc[slide, "cells"] == CELLS[slide]
        assert weighted.loc[slide, "group"] == group(slide)


def test_confusion_is_the_mean_over_seeds(study: StudyFiles) -> None:
    found = study.evaluate()["confusion"]
    expected = np.zeros((K, K))
    for seed in SEEDS:
        for slide, truth in study.truth.items():
            for t, p in zip(truth, study.held_out(seed, slide).argmax(1), strict=True):
                if t >= 0:
                    expected[t, p] += 1 / len(SEEDS)
    table = found.pivot(index="true_stage", columns="predicted_stage", values="cells")
    assert table.to_numpy() == pytest.approx(expected)


def test_batches_do_not_matter(study: StudyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study.evaluate()
    monkeypatch.setattr(results, "READ_ROWS", 9)
    pieces = study.evaluate()
    for name, frame in whole.items():
        pd.testing.assert_frame_equal(frame, pieces[name])


def test_a_run_of_two_experiments_is_read_once(study: StudyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    stream = results._stream
    monkeypatch.setattr(results, "_stream", lambda path, stages: read.append(path) or stream(path, stages))  # type: ignore[func-returns-value]
    found = study.evaluate(experiments={"a": study.runs, "b": study.runs})["metrics"]
    assert len(read) == len(study.runs)
    a, b = (found[found["experiment"] == name].drop(columns="experiment") for name in ("a", "b"))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


def test_study_of_staged_slides_only_has_scores_and_no_metrics(study: StudyFiles) -> None:
    table = schemas.read(study.splits, schemas.SPLITS)
    schemas.write(study.splits, table[table["fold"] == -1], schemas.SPLITS)
    path = study.folder / "bare.predictions.parquet"
    write_predictions(path, {"bare": study.probabilities[0, 0, "bare"]})
    found = study.evaluate(experiments={"applied": [(spec(0, 0), path)]}, proportions={}, labels={})
    assert found["metrics"].empty and found["confusion"].empty
    assert found["scores"]["slide"].tolist() == ["bare"]


def test_a_group_baseline_may_leave_out_slides_without_a_group(study: StudyFiles) -> None:
    path = study.folder / "group.parquet"
    write_predictions(path, {"s3": np.tile(GIVEN["d3"], (50, 1))})
    found = study.evaluate(experiments={"group": [(spec(1, 0), path)]})
    assert value(found["metrics"], "l1")["value"] == 0
    assert found["scores"]["slide"].tolist() == ["s3"]


@pytest.mark.parametrize(
    ("slides", "message"),
    [
        ({"s3": 49}, r"49 cells of slide s3 .* have 50"),
        ({}, r"0 cells of slide s3"),
        ({"s3": 50, "s1": 3}, r"slide s1 is not held out in fold 1"),
        ({"s3": 50, "bare": 4}, r"4 cells of slide bare"),
    ],
)
def test_predictions_must_cover_their_fold(study: StudyFiles, slides: dict[str, int], message: str) -> None:
    path = study.folder / "broken.parquet"
    write_predictions(path, {slide: np.full((n, K), 1 / K) for slide, n in slides.items()})
    with pytest.raises(UserError, match=message) as error:
        study.evaluate(experiments={"broken": [(spec(1, 0), path)]})
    assert str(path) in str(error.value)


def test_numbers_that_are_no_probabilities_are_refused(study: StudyFiles) -> None:
    path = study.folder / "broken.parquet"
    broken = np.full((50, K), 1 / K)
    broken[17, 2] = np.nan
    write_predictions(path, {"s3": broken})
    with pytest.raises(UserError, match="sum to 1"):
        study.evaluate(experiments={"broken": [(spec(1, 0), path)]})


def test_cells_without_area_are_refused(study: StudyFiles) -> None:
    path = study.folder / "short.parquet"
    schemas.write(path, schemas.read(study.areas["s1"], schemas.CELLS).iloc[1:], schemas.CELLS)
    with pytest.raises(UserError, match="cell 1 of slide s1 is in no table of cells"):
        study.evaluate(areas=study.areas | {"s1": path})


def test_staged_slides_average_seeds_of_their_fold_or_all_runs(study: StudyFiles) -> None:
    out = {slide: study.folder / "staged" / f"{slide}.parquet" for slide in ("s2", "bare")}
    results.stage_slides(study.runs, study.splits, out, K, {"made_by": "test"})
    for slide, path in out.items():
        found = schemas.read(path, schemas.predictions_table(K))
        mean = np.mean([p for (_, _, s), p in study.probabilities.items() if s == slide], axis=0)
        assert found["cell"].tolist() == numbers(slide).tolist()
        assert np.allclose(np.stack(found["probabilities"].tolist()), mean, atol=1e-6)
        assert found["stage"].tolist() == mean.argmax(1).tolist()
        assert set(found["slide"]) == {slide} and found["embedding"].map(len).eq(0).all()


def test_slide_without_cells_is_staged_as_an_empty_table(study: StudyFiles) -> None:
    table = schemas.read(study.splits, schemas.SPLITS)
    empty = pd.DataFrame([("glass", "d0", "a9", 0, 1)], columns=table.columns)
    schemas.write(study.splits, pd.concat([table, empty]), schemas.SPLITS)
    out = study.folder / "glass.parquet"
    results.stage_slides(study.runs, study.splits, {"glass": out}, K)
    assert schemas.read(out, schemas.predictions_table(K)).empty
    assert "glass" not in set(study.evaluate()["scores"]["slide"])


def test_staging_refuses_what_it_cannot_stage(study: StudyFiles) -> None:
    out = study.folder / "x.parquet"
    with pytest.raises(UserError, match="no row for slide s9"):
        results.stage_slides(study.runs, study.splits, {"s9": out}, K)
    with pytest.raises(UserError, match="s3 has 50 cells, but the experiment's runs predict 0"):
        results.stage_slides(study.runs[:2], study.splits, {"s3": out}, K)
    other = study.folder / "other.parquet"
    write_predictions(other, {"s3": np.full((49, K), 1 / K)})
    with pytest.raises(UserError, match="not those of the experiment's other runs"):
        results.stage_slides([*study.runs, (spec(1, 2), other)], study.splits, {"s3": out}, K)
    assert not out.exists()


def test_seeds_must_hold_out_the_same_slides(study: StudyFiles) -> None:
    with pytest.raises(ValueError, match="different slides"):
        study.evaluate(experiments={"holes": study.runs[:3]})


def test_labels_of_another_study_are_refused(study: StudyFiles) -> None:
    frame = pd.DataFrame({"cell": [1], "stage": [K], "iou": [1.0]})
    path = study.folder / "foreign.parquet"
    schemas.write(path, frame, schemas.LABELS)
    with pytest.raises(UserError, match=f"stage {K} of a study of {K} stages"):
        replace(study, labels=study.labels | {"s1": path}).evaluate()
