"""Evaluation of a small study of five slides, three folds and two seeds, against its cells joined by hand."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from myostage import tables
from myostage.cells.tables import CELLS, LABELS
from myostage.errors import UserError
from myostage.evaluation import comparisons, experiments, results, tallies, wrong_tables
from myostage.evaluation.experiments import Families
from myostage.evaluation.intervals import estimate_effect
from myostage.evaluation.metrics import calibration, composition, expected_stage
from myostage.evaluation.metrics import cells as of_cells
from myostage.evaluation.metrics.expected_stage import find_tail
from myostage.evaluation.metrics.registry import METRICS as METRIC
from myostage.evaluation.tables import (
    CHOICES,
    COMPARISONS,
    CONFUSION,
    METRICS,
    RELIABILITY,
    RUNS,
    SCORES,
    WRONG_TABLES,
)
from myostage.evaluation.weighted import spearman, wasserstein
from myostage.export import cell_stages
from myostage.learning import tables as learning_tables
from myostage.learning.priors import FEARED, Learnt, put_table
from myostage.learning.tables import HISTORY, OUTCOME, SPLITS, predictions_table, stages_table
from myostage.study.run import RunSpec
from myostage.study.sections.compare import Compare
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.prediction import Prediction
from myostage.study.sections.training import Training

K = 4
FOLD = {"s1": 0, "s2": 0, "s3": 1, "s4": 2, "bare": -1}
CELLS_OF = {"s1": 30, "s2": 7, "s3": 50, "s4": 25, "bare": 12}
SEEDS = (0, 1)
TABLES = {
    "metrics": METRICS,
    "comparisons": COMPARISONS,
    "scores": SCORES,
    "confusion": CONFUSION,
    "reliability": RELIABILITY,
    "runs": RUNS,
}
GIVEN = {"d0": np.array([0.1, 0.2, 0.3, 0.4]), "d3": np.array([0.5, 0.5, 0, 0])}


def group(slide: str) -> str:
    return {"bare": "", "s1": "d0", "s2": "d3"}.get(slide, "d3")


def numbers(slide: str) -> NDArray[np.int64]:
    """Cell numbers with gaps, as after dropped crops."""
    return np.arange(CELLS_OF[slide]) * 2 + 1


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

    def evaluate(self, failed: tuple[tuple[int, int], ...] = (), **changes: Any) -> dict[str, pd.DataFrame]:
        """The tables; runs of the folds and seeds in ``failed`` leave none but their outcome."""
        out = {name: self.folder / f"{name}.parquet" for name in TABLES}
        experiments = changes.get("experiments", {"both": self.runs})
        runs = {spec.id: spec for listed in experiments.values() for spec, _ in listed}
        arguments: dict[str, Any] = {f"{name}_out": path for name, path in out.items()} | {
            "experiments": experiments,
            "outcomes": {
                run: write_outcome(self.folder / f"{run}.outcome.parquet", run, (s.fold, s.seed) in failed)
                for run, s in runs.items()
            },
            "histories": dict.fromkeys(
                runs, write_losses(self.folder / "history.parquet", np.repeat([2.0, 1.0], (80, 20)))
            ),
            "splits": self.splits,
            "proportions": GIVEN,
            "stages": K,
            "labels": self.labels,
            "areas": self.areas,
            "compare": Compare(),
            "against": {},
            "baselines": [],
            "label_learners": [],
            "families": Families(),
            "prediction": Prediction(),
            "carried": {},
        }
        results.evaluate_runs(**(arguments | changes))
        return {name: tables.read(path, TABLES[name]) for name, path in out.items()}

    def held_out(self, seed: int, slide: str) -> NDArray[np.float64]:
        return self.probabilities[FOLD[slide], seed, slide]


def write_predictions(
    path: Path,
    slides: dict[str, NDArray[np.float64]],
    row_group: int = 16,
    temperature: float | None = None,
    learnt: Learnt | None = None,
) -> None:
    table = predictions_table(K)
    metadata = {"temperature": repr(temperature)} if temperature else {}
    metadata |= {"learnt": learnt.as_json()} if learnt else {}
    with tables.writer(path, table, metadata) as out:
        for slide, p in slides.items():
            frame = pd.DataFrame({"slide": slide, "cell": numbers(slide)[: len(p)], "stage": p.argmax(1)})
            frame["probabilities"] = list(p.astype(np.float32))
            frame["embedding"] = pd.Series([np.ones(3, np.float16)] * len(p))
            arrow = pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False)
            out.write_table(arrow, row_group_size=row_group)


def write_losses(path: Path, losses: NDArray[np.float64]) -> Path:
    frame = pd.DataFrame({"phase": 0, "step": range(len(losses)), "loss": losses})
    tables.write(path, frame.reindex(columns=HISTORY.schema.names).astype({"loss": "float32"}), HISTORY)
    return path


def write_outcome(path: Path, run: str, failed: bool) -> Path:
    row: dict[str, Any] = {"run": run, "status": "failed" if failed else "ok", "device": "cpu", "steps": 7}
    row |= {"reason": "its loss was nan" if failed else "", "seconds": 2.5, "cpu_seconds": 3.0}
    row |= {"peak_memory_mb": 100.0, "joules": None, "temperature": 1.25}
    tables.write(path, pd.DataFrame([row]), OUTCOME)
    return path


def spec(fold: int, seed: int, weight: float = 1.0) -> RunSpec:
    return RunSpec(
        method="proportions",
        losses={"prop": weight},
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
        [(s, group(s), f"animal of {s}", CELLS_OF[s], FOLD[s]) for s in ("s3", "s1", "bare", "s4", "s2")],
        columns=SPLITS.schema.names,
    )
    tables.write(tmp_path / "splits.parquet", splits, SPLITS)
    truth = {s: rng.integers(0, K, CELLS_OF[s]) for s in FOLD if s != "bare"}
    truth["s4"][5:] = -1  # annotated in part
    area = {s: rng.uniform(100, 4000, CELLS_OF[s]).astype(np.float32).astype(np.float64) for s in FOLD}
    labels, areas = {}, {}
    for slide in FOLD:
        areas[slide] = tmp_path / f"{slide}.cells.parquet"
        cells: dict[str, Any] = {name: [0] * CELLS_OF[slide] for name in CELLS.schema.names}
        cells |= {"cell": numbers(slide), "area_um2": area[slide], "polygon": [[0.0]] * CELLS_OF[slide]}
        cells["border"] = [False] * CELLS_OF[slide]
        tables.write(areas[slide], pd.DataFrame(cells), CELLS)
        if slide in truth:
            known = truth[slide] >= 0
            frame = pd.DataFrame({"cell": numbers(slide)[known], "stage": truth[slide][known], "iou": 1.0})
            labels[slide] = tmp_path / f"{slide}.labels.parquet"
            tables.write(labels[slide], frame, LABELS)
    probabilities: dict[tuple[int, int, str], NDArray[np.float64]] = {}
    runs: list[tuple[RunSpec, Path]] = []
    for fold in range(3):
        for seed in SEEDS:
            slides = {s: rng.dirichlet(np.full(K, 0.4), CELLS_OF[s]) for s in FOLD if FOLD[s] in (fold, -1)}
            slides = {s: p.astype(np.float32).astype(np.float64) for s, p in slides.items()}
            path = tmp_path / f"{fold}-{seed}.parquet"
            write_predictions(path, slides)
            runs.append((spec(fold, seed), path))
            probabilities |= {(fold, seed, s): p for s, p in slides.items()}
    return StudyFiles(tmp_path, tmp_path / "splits.parquet", runs, labels, areas, truth, area, probabilities)


def other_runs(
    study: StudyFiles, weight: float, better: float = 0.0, seeds: tuple[int, ...] = SEEDS
) -> list[tuple[RunSpec, Path]]:
    """Runs of another experiment, whose cells are a share ``better`` nearer to their true stage."""
    runs = []
    for fold in range(3):
        for seed in seeds:
            slides = {}
            for slide in (s for s in FOLD if FOLD[s] in (fold, -1)):
                p = study.probabilities[fold, seed, slide]
                known = study.truth.get(slide, np.full(len(p), -1))
                right = np.eye(K)[known] * (known >= 0)[:, None] + p * (known < 0)[:, None]
                slides[slide] = (1 - better) * p + better * right
            path = study.folder / f"{weight}-{fold}-{seed}.parquet"
            write_predictions(path, slides)
            runs.append((spec(fold, seed, weight), path))
    return runs


def majority(study: StudyFiles) -> list[tuple[RunSpec, Path]]:
    """Every cell the same, with one seed."""
    runs = []
    for fold in range(3):
        path = study.folder / f"majority-{fold}.parquet"
        slides = {s: np.tile([0.1, 0.2, 0.4, 0.3], (CELLS_OF[s], 1)) for s in FOLD if FOLD[s] in (fold, -1)}
        write_predictions(path, slides)
        run = RunSpec.model_validate({**spec(fold, 0).model_dump(), "method": "majority", "losses": {}})
        runs.append((run, path))
    return runs


def value(frame: pd.DataFrame, metric: str, run: str = "") -> pd.Series:
    rows = frame[(frame["run"] == run) & (frame["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def by_hand(study: StudyFiles, slides: list[str], seed: int) -> dict[str, float]:
    truth = np.concatenate([study.truth[s] for s in slides])
    p = np.concatenate([study.held_out(seed, s) for s in slides])
    return of_cells.measure_cells(truth[truth >= 0], p[truth >= 0], K)


def test_experiment_is_the_mean_over_seeds_of_pooled_held_out_cells(study: StudyFiles) -> None:
    found = study.evaluate()["metrics"]
    for name in of_cells.NAMES:
        row = value(found, name)
        seeds = [by_hand(study, ["s1", "s2", "s3", "s4"], seed)[name] for seed in SEEDS]
        assert row["value"] == pytest.approx(np.mean(seeds), rel=1e-9)
        assert row["low"] <= row["value"] <= row["high"] and row["low_folds"] < row["high_folds"]
        assert (row["method"], row["trusted"]) == ("animals and runs", False)  # of four animals
        assert (row["fold"], row["seed"]) == (-1, -1)
        assert (row["animals"], row["slides"], row["cells"]) == (4, 4, 30 + 7 + 50 + 5)


def test_runs_have_rows_of_their_own(study: StudyFiles) -> None:
    found = study.evaluate()["metrics"]
    for run, slides in ((spec(0, 1), ["s1", "s2"]), (spec(1, 1), ["s3"])):
        row = value(found, "rmse", run.id)
        assert row["value"] == pytest.approx(by_hand(study, slides, 1)["rmse"])
        assert (row["fold"], row["seed"], row["slides"]) == (run.fold, 1, len(slides))
        assert np.isnan(row["low"]) and row["method"] == ""  # its noise of training is not known
    assert found["run"].nunique() == 1 + 6


def test_calibration_is_measured_before_and_after_each_run_is_scaled_by_its_temperature(
    study: StudyFiles,
) -> None:
    temperatures = {(fold, seed): 0.5 + fold + seed for fold in (0, 1, 2) for seed in SEEDS}
    for run, path in study.runs:
        held = {
            s: p for (fold, seed, s), p in study.probabilities.items() if (fold, seed) == (run.fold, run.seed)
        }
        write_predictions(path, held, temperature=temperatures[run.fold, run.seed])
    found = study.evaluate()
    errors = {kind: [] for kind in (False, True)}
    cells = {kind: [] for kind in (False, True)}
    for seed in SEEDS:
        for kind in errors:
            parts = []
            for slide in ("s1", "s2", "s3", "s4"):
                known = study.truth[slide] >= 0
                p = study.held_out(seed, slide)[known].astype(np.float32).astype(float)
                power = p ** (1 / temperatures[FOLD[slide], seed] if kind else 1)
                p = power / power.sum(1, keepdims=True)
                right = p.argmax(1) == study.truth[slide][known]
                parts.append(pd.DataFrame({"stage": p.argmax(1), "confidence": p.max(1), "right": right}))
            frame = pd.concat(parts)
            bins = np.minimum(np.floor(frame["confidence"] * 10), 9)
            gaps = frame.groupby(bins)[["confidence", "right"]].sum()
            errors[kind].append((gaps["confidence"] - gaps["right"]).abs().sum() / len(frame))
            cells[kind].append(frame.assign(bin=bins))
    for kind, name in ((False, "ece"), (True, "ece_calibrated")):
        assert value(found["metrics"], name)["value"] == pytest.approx(np.mean(errors[kind]), rel=1e-6)
        rows = found["reliability"][found["reliability"]["calibrated"] == kind]
        joined = pd.concat(cells[kind]).groupby(["stage", "bin"])
        assert rows["cells"].tolist() == (joined.size() / 2).tolist()
        np.testing.assert_allclose(rows["confidence"], joined["confidence"].mean(), rtol=1e-6)
        np.testing.assert_allclose(rows["accuracy"], joined["right"].mean())
        assert rows["low"].tolist() == [place / 10 for _, place in joined.groups]


def test_choices_of_runs_are_joined_by_experiment(study: StudyFiles) -> None:
    run, other = study.runs[0][0], study.runs[1][0]
    rows = {"candidate": [0, 1], "settings": ["steps 1", "steps 2"], "divergence": [0.5, np.nan]}
    path, out = study.folder / "run.choices.parquet", study.folder / "choices.parquet"
    frame = pd.DataFrame(rows | {"slides": 4, "chosen": [True, False]})
    tables.write(path, frame, learning_tables.CHOICES)
    study.evaluate()
    assert not out.exists()
    study.evaluate(choices={run.id: path}, choices_out=out)
    found = tables.read(out, CHOICES)
    assert found["run"].tolist() == [run.id] * 2 and other.id not in set(found["run"])
    assert set(found["experiment"]) == {"both"} and (found["fold"] == run.fold).all()
    pd.testing.assert_frame_equal(found[frame.columns], frame, check_dtype=False)


def test_composition_is_compared_slide_by_slide(study: StudyFiles) -> None:
    found = study.evaluate(labels={})
    assert set(found["metrics"]["metric"]) == {"kl", "l1"}
    assert found["confusion"].empty and found["reliability"].empty
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
        assert weighted.loc[slide, "cells"] == CELLS_OF[slide]
        assert weighted.loc[slide, "group"] == group(slide)
        if slide == "bare":
            assert np.isnan(weighted.loc[slide, "true_recovery_score"])
            continue
        known = study.truth[slide] >= 0
        true = levels[study.truth[slide][known]]
        expected = np.average(true, weights=study.area[slide][known])
        assert weighted.loc[slide, "true_recovery_score"] == pytest.approx(expected)
        assert plain.loc[slide, "true_recovery_score"] == pytest.approx(true.mean())


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
    monkeypatch.setattr(tallies, "READ_ROWS", 9)
    pieces = study.evaluate()
    for name, frame in whole.items():
        pd.testing.assert_frame_equal(frame, pieces[name])


def test_a_run_of_two_experiments_is_read_once(study: StudyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    stream = tallies._stream
    monkeypatch.setattr(tallies, "_stream", lambda path, stages: read.append(path) or stream(path, stages))  # type: ignore[func-returns-value]
    found = study.evaluate(experiments={"a": study.runs, "b": study.runs})["metrics"]
    assert len(read) == len(study.runs)
    a, b = (found[found["experiment"] == name].drop(columns="experiment") for name in ("a", "b"))
    pd.testing.assert_frame_equal(a.reset_index(drop=True), b.reset_index(drop=True))


def test_study_of_staged_slides_only_has_scores_and_no_metrics(study: StudyFiles) -> None:
    table = tables.read(study.splits, SPLITS)
    tables.write(study.splits, table[table["fold"] == -1], SPLITS)
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
    tables.write(path, tables.read(study.areas["s1"], CELLS).iloc[1:], CELLS)
    with pytest.raises(UserError, match="cell 1 of slide s1 is in no table of cells"):
        study.evaluate(areas=study.areas | {"s1": path})


def test_staged_slides_average_seeds_of_their_fold_or_all_runs(study: StudyFiles) -> None:
    out = {slide: study.folder / "staged" / f"{slide}.parquet" for slide in ("s2", "bare")}
    cell_stages.stage_slides(study.runs, study.splits, out, K, 0.5, Prediction(), GIVEN, {"made_by": "test"})
    for slide, path in out.items():
        found = tables.read(path, stages_table(K))
        mean = np.mean([p for (_, _, s), p in study.probabilities.items() if s == slide], axis=0)
        assert found["cell"].tolist() == numbers(slide).tolist()
        assert np.allclose(np.stack(found["probabilities"].tolist()), mean, atol=1e-6)
        assert found["stage"].tolist() == mean.argmax(1).tolist()
        assert set(found["slide"]) == {slide}
        np.testing.assert_array_equal(
            *(np.stack(found[name].tolist()) for name in ("calibrated", "probabilities"))
        )


def test_runs_are_calibrated_each_by_its_temperature_and_then_averaged(study: StudyFiles) -> None:
    seeds = [study.probabilities[1, seed, "s3"] for seed in SEEDS]
    of_fold = [(spec, path) for spec, path in study.runs if spec.fold == 1]
    for (_, path), p, temperature in zip(of_fold, seeds, (0.5, 3.0), strict=True):
        write_predictions(path, {"s3": p}, temperature=temperature)
    out = study.folder / "staged" / "s3.parquet"
    cell_stages.stage_slides(of_fold, study.splits, {"s3": out}, K, 0.45, Prediction(), GIVEN)
    found = tables.read(out, stages_table(K))
    powers = [p.astype(np.float32) ** (1 / t) for p, t in zip(seeds, (0.5, 3.0), strict=True)]
    wanted = np.mean([power / power.sum(1, keepdims=True) for power in powers], axis=0)
    np.testing.assert_allclose(np.stack(found["calibrated"].tolist()), wanted, atol=1e-6)
    np.testing.assert_allclose(found["entropy"], stats.entropy(wanted, axis=1), atol=1e-5)
    plain = np.mean(seeds, axis=0)
    np.testing.assert_allclose(np.stack(found["probabilities"].tolist()), plain, atol=1e-6)
    assert found["stage"].tolist() == plain.argmax(1).tolist()
    of_stage = wanted[np.arange(len(wanted)), plain.argmax(1)]
    assert found["uncertain"].tolist() == (of_stage < 0.45).tolist()
    assert 0 < found["uncertain"].sum() < len(found)


def test_slide_without_cells_is_staged_as_an_empty_table(study: StudyFiles) -> None:
    table = tables.read(study.splits, SPLITS)
    empty = pd.DataFrame([("glass", "d0", "a9", 0, 1)], columns=table.columns)
    tables.write(study.splits, pd.concat([table, empty]), SPLITS)
    out = study.folder / "glass.parquet"
    cell_stages.stage_slides(study.runs, study.splits, {"glass": out}, K, 0.5, Prediction(), GIVEN)
    assert tables.read(out, stages_table(K)).empty
    assert "glass" not in set(study.evaluate()["scores"]["slide"])


def test_staging_refuses_what_it_cannot_stage(study: StudyFiles) -> None:
    out = study.folder / "x.parquet"
    with pytest.raises(UserError, match="no row for slide s9"):
        cell_stages.stage_slides(study.runs, study.splits, {"s9": out}, K, 0.5, Prediction(), GIVEN)
    with pytest.raises(UserError, match="s3 has 50 cells, but the experiment's runs predict 0"):
        cell_stages.stage_slides(study.runs[:2], study.splits, {"s3": out}, K, 0.5, Prediction(), GIVEN)
    other = study.folder / "other.parquet"
    write_predictions(other, {"s3": np.full((49, K), 1 / K)})
    with pytest.raises(UserError, match="not those of the experiment's other runs"):
        cell_stages.stage_slides(
            [*study.runs, (spec(1, 2), other)], study.splits, {"s3": out}, K, 0.5, Prediction(), GIVEN
        )
    assert not out.exists()


def test_seeds_must_hold_out_the_same_slides(study: StudyFiles) -> None:
    with pytest.raises(ValueError, match="different slides"):
        study.evaluate(experiments={"holes": study.runs[:3]})


def test_labels_of_another_study_are_refused(study: StudyFiles) -> None:
    frame = pd.DataFrame({"cell": [1], "stage": [K], "iou": [1.0]})
    path = study.folder / "foreign.parquet"
    tables.write(path, frame, LABELS)
    with pytest.raises(UserError, match=f"stage {K} of a study of {K} stages"):
        replace(study, labels=study.labels | {"s1": path}).evaluate()


def test_runs_say_how_they_ended_and_what_they_cost(study: StudyFiles) -> None:
    found = study.evaluate(failed=((1, 0),), experiments={"a": study.runs, "b": study.runs})["runs"]
    assert found["experiment"].tolist() == ["a"] * 6 + ["b"] * 6
    assert found["run"].tolist() == [run.id for run, _ in study.runs] * 2
    failed = found[found["status"] == "failed"]
    assert failed[["fold", "seed", "reason"]].to_numpy().tolist() == [[1, 0, "its loss was nan"]] * 2
    assert set(found["seconds"]) == {2.5} and found["joules"].isna().all()
    ended = found[found["status"] == "ok"]
    assert set(ended["loss_change"]) == {-0.5} and set(ended["loss_noise"]) == {0}
    assert failed["loss_change"].isna().all()


def test_a_failed_run_is_missing_and_its_seed_left_out(study: StudyFiles) -> None:
    study.runs[2][1].unlink()  # nothing is read of a run that failed
    found = study.evaluate(failed=((1, 0),))
    for name in (*of_cells.NAMES, *composition.NAMES):
        row = value(found["metrics"], name, spec(1, 0).id)
        assert row[["value", "low", "high"]].isna().all() and (row["slides"], row["cells"]) == (0, 0)
    row = value(found["metrics"], "rmse")
    assert row["value"] == pytest.approx(by_hand(study, ["s1", "s2", "s3", "s4"], 1)["rmse"])
    assert row["slides"] == 4
    assert found["confusion"]["cells"].sum() == 30 + 7 + 50 + 5
    levels = np.arange(K) / (K - 1)
    scores = found["scores"].set_index("slide")["recovery_score"]
    expected = np.average(study.probabilities[1, 1, "s3"] @ levels, weights=study.area["s3"])
    assert scores["s3"] == pytest.approx(expected)


def test_an_experiment_without_a_whole_seed_is_there_and_missing(study: StudyFiles) -> None:
    other = other_runs(study, 2.0)
    failed = {(0, 0): study.runs[0], (2, 1): study.runs[5]}
    found = study.evaluate(
        failed=tuple(failed),
        experiments={"gone": study.runs, "gone too": other},
        baselines=["gone"],
        against={"gone too": "gone"},
    )
    pooled = found["metrics"].query("run == '' and experiment == 'gone'")
    assert pooled["metric"].tolist() == [*of_cells.NAMES, *calibration.NAMES, *composition.NAMES]
    assert pooled["value"].isna().all() and not pooled[["slides", "cells"]].to_numpy().any()
    assert found["confusion"].empty
    assert set(found["scores"]["slide"]) == set(FOLD)
    compared = found["comparisons"]
    assert set(compared["family"]) == {"reference", "against"}  # no baseline is the best one
    assert compared["difference"].isna().all() and set(compared["slides"]) == {0}
    every = tuple((fold, seed) for fold in range(3) for seed in SEEDS)
    found = study.evaluate(failed=every, labels={})
    assert found["metrics"]["metric"].unique().tolist() == ["kl", "l1"]
    assert found["metrics"]["value"].isna().all() and found["scores"].empty


def test_outcome_of_another_run_is_refused(study: StudyFiles) -> None:
    path = write_outcome(study.folder / "foreign.outcome.parquet", "foreign", failed=False)
    with pytest.raises(UserError, match=f"not the outcome of run {spec(0, 0).id}"):
        study.evaluate(outcomes={run.id: path for run, _ in study.runs})


def expected_stages(study: StudyFiles, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted and true expected stage of the slides with labels, in the order of their names."""
    slides = sorted(study.truth)
    true = [study.truth[s][study.truth[s] >= 0].mean() for s in slides]
    return np.array([(study.held_out(seed, s) @ np.arange(K)).mean() for s in slides]), np.array(true)


def scipy_stage_metrics(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> list[float]:
    constant = len(set(predicted)) == 1 or len(set(true)) == 1
    rho = np.nan if constant else stats.spearmanr(predicted, true).statistic
    return [float(np.abs(predicted - true).mean()), rho, stats.wasserstein_distance(predicted, true)]


def test_expected_stages_of_slides_are_measured_when_asked_for_alone(study: StudyFiles) -> None:
    plain, found = study.evaluate(), study.evaluate(slide_level=True)
    for name in ("metrics", "comparisons"):
        added = found[name]["metric"].isin(expected_stage.NAMES)
        assert added.any() or name == "comparisons"
        pd.testing.assert_frame_equal(plain[name], found[name][~added].reset_index(drop=True))
    by_seed = [scipy_stage_metrics(*expected_stages(study, seed)) for seed in SEEDS]
    for name, of_seeds in zip(expected_stage.NAMES, zip(*by_seed, strict=True), strict=False):
        row = value(found["metrics"], name)
        assert row["value"] == pytest.approx(np.mean(of_seeds), abs=1e-8)
        assert (row["slides"], row["cells"]) == (4, 30 + 7 + 50 + 5)
    unlabelled = study.evaluate(slide_level=True, labels={})["metrics"]
    assert set(unlabelled["metric"]) == {"kl", "l1"}


def test_the_tail_is_the_rarest_third_of_all_slides(study: StudyFiles) -> None:
    true = expected_stages(study, 0)[1]
    width = true.std(ddof=1) * true.size ** (-1 / 5)
    density = [np.exp(-np.square((true - at) / width) / 2).sum() for at in true]
    rare = np.argsort(density)[:2]  # of four slides, rounded up
    errors = [np.abs(np.subtract(*expected_stages(study, seed)))[rare].mean() for seed in SEEDS]
    found = study.evaluate(slide_level=True)["metrics"]
    assert value(found, "stage_tail_mae")["value"] == pytest.approx(np.mean(errors))
    for run, _ in study.runs:
        held = [place for place, slide in enumerate(sorted(study.truth)) if FOLD[slide] == run.fold]
        chosen = [place for place in held if place in rare]
        error = np.abs(np.subtract(*expected_stages(study, run.seed)))[chosen]
        expected = error.mean() if chosen else np.nan
        assert value(found, "stage_tail_mae", run.id)["value"] == pytest.approx(expected, nan_ok=True)


def test_intervals_of_slide_metrics_are_those_of_their_pseudo_values(study: StudyFiles) -> None:
    """By scipy on the slides that are left; every slide is of an animal of its own."""
    found = study.evaluate(slide_level=True)["metrics"]
    folds, days = [FOLD[slide] for slide in sorted(study.truth)], [group(s) for s in sorted(study.truth)]
    by_seed = [expected_stages(study, seed) for seed in SEEDS]
    for place, name in enumerate(expected_stage.NAMES[:3]):
        whole = np.array([scipy_stage_metrics(*of_seed)[place] for of_seed in by_seed])
        left = [
            [scipy_stage_metrics(*(np.delete(v, slide) for v in of_seed))[place] for of_seed in by_seed]
            for slide in range(4)
        ]
        estimate = estimate_effect(4 * whole - 3 * np.array(left), folds, days)
        ends = np.array(estimate.find_interval()) - estimate.value + whole.mean()
        low, high = np.clip(ends, METRIC[name].low, METRIC[name].high)
        assert value(found, name)[["low", "high"]].tolist() == pytest.approx([low, high], abs=1e-7)


def test_slides_all_told_the_same_have_no_rank_and_slides_all_alike_no_tail(study: StudyFiles) -> None:
    """The sums of equal probabilities differ in their last digits by the number of cells."""
    found = study.evaluate(slide_level=True, experiments={"same": majority(study)})["metrics"]
    assert np.isnan(value(found, "stage_spearman")["value"]) and value(found, "stage_mae")["value"] > 0
    for path in study.labels.values():
        tables.write(path, tables.read(path, LABELS).assign(stage=2), LABELS)
    found = study.evaluate(slide_level=True)["metrics"]
    assert np.isnan(value(found, "stage_tail_mae")["value"])
    assert np.isnan(value(found, "stage_spearman")["value"]) and value(found, "stage_w1")["value"] > 0


def test_slide_metrics_are_compared_and_missing_where_runs_failed(study: StudyFiles) -> None:
    experiments = {"both": study.runs, "better": other_runs(study, 2.0, 0.4)}
    table = study.evaluate(slide_level=True, experiments=experiments)
    whole = table["metrics"].query("run == ''").set_index(["experiment", "metric"])["value"]
    for name in expected_stage.NAMES:
        row = compared(table["comparisons"], "reference", "better", name)
        assert row["difference"] == pytest.approx(whole["better", name] - whole["both", name])
    row = compared(table["comparisons"], "reference", "better", "stage_mae")
    assert (row["pairs"], row["slides"]) == (6, 4) and row["difference"] < 0
    failed = study.evaluate(slide_level=True, failed=((1, 0),))["metrics"]
    assert np.isnan(value(failed, "stage_w1", spec(1, 0).id)["value"])
    predicted, true = expected_stages(study, 1)
    assert value(failed, "stage_mae")["value"] == pytest.approx(np.abs(predicted - true).mean())


@given(seed=st.integers(0, 10_000), n=st.integers(1, 25), distinct=st.integers(1, 30))
def test_weights_are_how_often_a_value_counts(seed: int, n: int, distinct: int) -> None:
    """Values with ties, drawn several times or never, against scipy on the values written out."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, distinct, (2, n)) / 7
    times = np.concatenate([np.ones((1, n), int), rng.multinomial(n, np.full(n, 1 / n), size=3)])
    rho, apart = spearman(x, y, times), wasserstein(x, y, times)
    for row, found_rho, found_apart in zip(times, rho, apart, strict=True):
        a, b = np.repeat(x, row), np.repeat(y, row)
        constant = len(set(a)) == 1 or len(set(b)) == 1
        expected = np.nan if constant else stats.spearmanr(a, b).statistic
        assert found_rho == pytest.approx(expected, nan_ok=True, abs=1e-9)
        assert found_apart == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)


def test_the_tail_of_few_or_equal_values() -> None:
    assert find_tail([]).tolist() == [] and not find_tail([1.0]).any()
    assert not find_tail([2.0, 2.0, 2.0]).any()
    assert find_tail([0.0, 0.1, 0.05, 3.0]).sum() == 2 and find_tail([0.0, 0.1, 0.05, 3.0])[3]
    assert find_tail([0.0, 0.1, 3.0]).tolist() == [False, False, True]


def compared(frame: pd.DataFrame, family: str, experiment: str, metric: str) -> pd.Series:
    rows = frame[
        (frame["family"] == family) & (frame["experiment"] == experiment) & (frame["metric"] == metric)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


SLIDES = ("s1", "s2", "s3", "s4")


def distance(runs: list[tuple[RunSpec, Path]], slide: str, seed: int) -> float:
    """l1 of predicted and given proportions of a slide."""
    (path,) = (path for run, path in runs if (run.fold, run.seed) == (FOLD[slide], seed))
    _, p = tallies.read_slide(path, K, slide)
    return float(np.abs(p.mean(0) - GIVEN[group(slide)]).sum())


def test_comparisons_are_paired_by_fold_and_seed(study: StudyFiles) -> None:
    better, both = other_runs(study, 2.0, 0.4), study.runs
    found = study.evaluate(
        experiments={"better": better, "both": both},
        compare=Compare(reference="both", alpha=0.1, power=0.9),
    )
    table = found["comparisons"]
    assert set(table["metric"]) == {*of_cells.NAMES, *calibration.NAMES, *composition.NAMES}
    assert table[["experiment", "reference", "family"]].drop_duplicates().to_numpy().tolist() == [
        ["better", "both", "reference"]
    ]
    for metric in ("accuracy", "rmse", "l1"):
        values = (
            found["metrics"].query(f"metric == '{metric}'").set_index(["experiment", "fold", "seed"])["value"]
        )
        pairs = [values["better", f, s] - values["both", f, s] for f in range(3) for s in SEEDS]
        row = compared(table, "reference", "better", metric)
        assert row["difference"] == pytest.approx(values["better", -1, -1] - values["both", -1, -1])
        assert row["low"] <= row["difference"] <= row["high"]
        assert (row["pairs"], row["slides"]) == (6, 4)
        assert row["p"] == row["p_holm"] and row["tests"] == 1
        assert (row["p"] < 0.05) == (row["low"] > 0 or row["high"] < 0)
        assert (row["p_folds"] < 0.05) == (row["low_folds"] > 0 or row["high_folds"] < 0)
        assert row["p_corrected"] == pytest.approx(comparisons.find_corrected_p(pairs, 3))
    # l1 is a mean over slides.
    per_slide = np.array(
        [[distance(better, s, seed) - distance(both, s, seed) for seed in SEEDS] for s in SLIDES]
    )
    estimate = estimate_effect(per_slide, [FOLD[slide] for slide in SLIDES])
    row = compared(table, "reference", "better", "l1")
    assert row[["low", "high", "p", "minimum_detectable"]].tolist() == pytest.approx(
        [*estimate.find_interval(), float(estimate.p), float(estimate.find_detectable(0.1, 0.9))]
    )
    assert row["animals_needed"] == estimate.find_units(int(row["animals"]), 0.05, 0.1, 0.9)
    assert row["effect_size"] == pytest.approx(estimate.value / per_slide.mean(1).std(ddof=1))
    assert compared(table, "reference", "better", "accuracy")["difference"] > 0


def test_families_and_their_correction(study: StudyFiles) -> None:
    """The best baseline by the metric is the reference of all that are no baseline and no ceiling."""
    experiments = {
        "prop": study.runs,
        "weak": other_runs(study, 2.0, 0.1),
        "strong": other_runs(study, 3.0, 0.4),
        "ceiling": other_runs(study, 4.0, 0.9),
        "most common": majority(study),
        "same": study.runs,
    }
    roles = {"baselines": ["weak", "strong", "most common"], "label_learners": ["ceiling"]}
    for metric in ("accuracy", "rmse"):
        table = study.evaluate(
            experiments=experiments, **roles, against={"same": "weak"}, compare=Compare(metric=metric)
        )["comparisons"]
        pairs = table.groupby("family")[["experiment", "reference"]].apply(
            lambda rows: set(rows.itertuples(index=False, name=None))
        )
        assert pairs["reference"] == {(name, "prop") for name in experiments if name != "prop"}
        assert pairs["baseline"] == {("prop", "strong"), ("same", "strong")}
        assert pairs["against"] == {("same", "weak")}
    rows = table[table["family"] == "reference"]
    same = rows[rows["experiment"] == "same"]
    assert not same[["difference", "low", "high"]].to_numpy().any()
    assert set(same["p"]) == {1} and same[["effect_size", "minimum_detectable"]].isna().all(axis=None)
    unlabelled = study.evaluate(experiments=experiments, **roles, labels={})
    kl = unlabelled["metrics"].query("run == '' and metric == 'kl'").set_index("experiment")["value"]
    best = unlabelled["comparisons"].query("family == 'baseline'")["reference"].unique().tolist()
    assert best == [kl[roles["baselines"]].idxmin()]


def test_holm_corrects_the_question_alone_then_baselines_then_each_sweep(study: StudyFiles) -> None:
    """What is no question has no p, and the minimum detectable effect is that at the corrected level."""
    labels = ["prop", "combined", "plain", "weak", "strong", "ceiling", "bag[n=1]", "bag[n=2]", "grid[n=1]"]
    experiments = {
        label: other_runs(study, 2.0 + place, 0.05 * place) if place else study.runs
        for place, label in enumerate(labels)
    }
    parts = dict.fromkeys(labels[6:], "design")
    families = Families(("combined", "prop"), parts, ("weak", "strong"), ("ceiling",))
    table = study.evaluate(experiments=experiments, families=families, label_learners=["ceiling"])[
        "comparisons"
    ]
    rows = table[table["metric"] == "accuracy"].set_index("experiment")
    sizes = {"combined": 1, "plain": 1, "weak": 2, "strong": 2, "ceiling": 0}
    sizes |= {"bag[n=1]": 2, "bag[n=2]": 2, "grid[n=1]": 1}
    assert rows["tests"].to_dict() == sizes
    untested = rows.loc["ceiling"]
    assert untested[["p", "p_holm", "minimum_detectable"]].isna().all() and np.isfinite(untested["low"])
    for together in (["weak", "strong"], ["bag[n=1]", "bag[n=2]"]):
        own = rows.loc[together]
        assert own["p_holm"].tolist() == pytest.approx(comparisons.holm(own["p"]).tolist())
    for row in rows[rows["tests"] > 0].itertuples():
        assert (row.p < 0.05) == (row.low > 0 or row.high < 0)
    alone = study.evaluate(
        experiments={name: experiments[name] for name in ("prop", "weak")}, families=families
    )["comparisons"]
    uncorrected = compared(alone, "reference", "weak", "accuracy")["minimum_detectable"]
    assert 1.1 < rows.loc["weak", "minimum_detectable"] / uncorrected < 1.6


def test_a_baseline_of_one_seed_is_paired_with_every_seed(study: StudyFiles) -> None:
    found = study.evaluate(experiments={"most common": majority(study), "both": study.runs})
    values = found["metrics"].query("metric == 'mae'").set_index(["experiment", "fold", "seed"])["value"]
    row = compared(found["comparisons"], "reference", "both", "mae")
    assert row["pairs"] == 6 and row["method"] == "animals and runs"
    assert row["difference"] == pytest.approx(values["both", -1, -1] - values["most common", -1, -1])
    assert row["low"] < row["high"]


def test_a_comparison_is_over_the_seeds_that_both_have(study: StudyFiles) -> None:
    """Fold 1 of seed 0 failed in one: five pairs are left, and seed 1 alone is whole."""
    other = other_runs(study, 2.0, 0.4)
    outcomes = {
        run.id: write_outcome(study.folder / f"{run.id}.x.parquet", run.id, run == spec(1, 0))
        for run, _ in [*study.runs, *other]
    }
    found = study.evaluate(experiments={"both": study.runs, "better": other}, outcomes=outcomes)
    row = compared(found["comparisons"], "reference", "better", "mae")
    assert (row["pairs"], row["slides"]) == (5, 4)
    alone = study.evaluate(experiments={"both": study.runs[1::2], "better": other[1::2]})["comparisons"]
    assert row["method"] == "folds"
    for name in ("difference", "low", "high", "p"):
        assert row[name] == pytest.approx(compared(alone, "reference", "better", "mae")[name])


def fail(path: Path, reason: str) -> None:
    """Predictions as a failed run leaves them: no rows, and the reason."""
    with tables.writer(path, predictions_table(K), {"failed": reason}):
        pass


def test_staging_leaves_out_runs_that_failed(study: StudyFiles) -> None:
    fail(study.runs[2][1], "the loss at step 3 is nan")  # fold 1, seed 0
    out = {slide: study.folder / "staged" / f"{slide}.parquet" for slide in ("s3", "bare")}
    cell_stages.stage_slides(study.runs, study.splits, out, K, 0.5, Prediction(), GIVEN)
    for slide, path in out.items():
        left = [p for key, p in study.probabilities.items() if key[2] == slide and key[:2] != (1, 0)]
        found = tables.read(path, stages_table(K))["probabilities"].tolist()
        assert len(left) == (5 if slide == "bare" else 1)
        assert np.allclose(np.stack(found), np.mean(left, axis=0), atol=1e-6)
    fail(study.runs[3][1], "the loss at step 4 is nan")
    with pytest.raises(
        UserError, match=rf"slide s3 .* run {spec(1, 0).id} failed \(the loss at step 3 is nan\)"
    ):
        cell_stages.stage_slides(study.runs, study.splits, out, K, 0.5, Prediction(), GIVEN)


def test_scores_carry_what_the_slide_table_has_besides(study: StudyFiles) -> None:
    found = study.evaluate(carried={"s1": {"treatment": "drug"}})["scores"]
    assert set(found[found.slide == "s1"].treatment) == {"drug"}
    assert set(found[found.slide != "s1"].treatment) == {""}


# --- priors

LEARNT = Learnt(np.array([0.4, 0.3, 0.2, 0.1]), np.linspace(1, 0.5, len(FEARED)))
PUT = Prediction(prior="transport", compare=("group",), table_error=0.2)
WEIGHT = float(np.interp(0.2, FEARED, LEARNT.weights))


@pytest.fixture
def learnt(study: StudyFiles) -> StudyFiles:
    """The study with runs that say what they were trained under, and half-knowing cells."""
    rng = np.random.default_rng(3)
    for run, path in study.runs:
        held = {}
        for slide, fold in FOLD.items():
            if fold in (run.fold, -1):
                stage = study.truth.get(slide, rng.integers(0, K, CELLS_OF[slide]))
                odds = rng.normal(0, 1, (CELLS_OF[slide], K)) + 1.2 * np.eye(K)[stage]
                held[slide] = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
                study.probabilities[run.fold, run.seed, slide] = held[slide].astype(np.float32).astype(float)
        write_predictions(path, held, temperature=1.5, learnt=LEARNT)
    return study


def test_an_experiment_has_rows_with_each_prior_as_computed_by_hand(learnt: StudyFiles) -> None:
    found = learnt.evaluate(prediction=PUT)
    plain = learnt.evaluate(experiments={"both": learnt.runs})
    for kind in ("group", "transport"):
        right = cells = 0
        for slide in ("s1", "s2", "s3", "s4"):
            for seed in SEEDS:
                put = put_table(
                    kind, learnt.held_out(seed, slide), GIVEN[group(slide)], LEARNT.composition, WEIGHT
                )
                known = learnt.truth[slide] >= 0
                right += int((put.argmax(1)[known] == learnt.truth[slide][known]).sum())
                cells += int(known.sum())
        rows = found["metrics"].query(f"experiment == 'both[prior={kind}]' and metric == 'accuracy'")
        assert rows.query("run == ''")["value"].item() == pytest.approx(right / cells)
        assert len(rows) == 1 + len(learnt.runs)
    own = found["metrics"].query("experiment == 'both'").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, plain["metrics"])
    assert set(found["confusion"]["experiment"]) == {"both", "both[prior=transport]", "both[prior=group]"}
    assert set(found["reliability"]["experiment"]) == set(found["confusion"]["experiment"])
    # the distance to what was put in is no result
    assert not found["metrics"].query("experiment != 'both' and metric == 'kl'").size


def test_priors_are_compared_with_none_in_a_family_of_their_own(learnt: StudyFiles) -> None:
    rows = learnt.evaluate(prediction=PUT)["comparisons"].query("metric == 'accuracy'")
    assert set(zip(rows["experiment"], rows["reference"], rows["family"], strict=True)) == {
        ("both[prior=group]", "both", "prior"),
        ("both[prior=transport]", "both", "prior"),
    }
    assert set(rows["tests"]) == {2}
    assert (rows["p_holm"] >= rows["p"]).all()


def test_scores_use_the_prior_of_the_study_and_state_it(learnt: StudyFiles) -> None:
    scores = learnt.evaluate(prediction=PUT)["scores"].set_index("slide")
    np.testing.assert_allclose(
        scores.loc["s1", "proportions"],
        np.mean(
            [
                put_table(
                    "transport", learnt.held_out(seed, "s1"), GIVEN["d0"], LEARNT.composition, WEIGHT
                ).mean(0)
                for seed in SEEDS
            ],
            axis=0,
        ),
        atol=1e-6,
    )
    assert scores.loc["s1", "prior"] == "transport"
    assert scores.loc["s1", "table_weight"] == pytest.approx(WEIGHT)
    assert scores.loc["bare", "prior"] == "none" and np.isnan(scores.loc["bare", "table_weight"])
    off = learnt.evaluate(prediction=Prediction(compare=("transport",)))["scores"]
    assert set(off["prior"]) == {"none"}


def test_staging_puts_the_prior_in_and_says_so_or_why_not(learnt: StudyFiles) -> None:
    out = {slide: learnt.folder / f"{slide}.stages.parquet" for slide in ("s3", "bare")}
    cell_stages.stage_slides(learnt.runs, learnt.splits, out, K, 0.5, PUT, GIVEN)
    staged = tables.read(out["s3"], stages_table(K))
    wanted = np.mean(
        [
            put_table("transport", learnt.held_out(seed, "s3"), GIVEN["d3"], LEARNT.composition, WEIGHT)
            for seed in SEEDS
        ],
        axis=0,
    )
    np.testing.assert_allclose(np.stack(staged["probabilities"]), wanted, atol=1e-6)
    assert staged["stage"].tolist() == wanted.argmax(1).tolist()
    said = pa.parquet.read_schema(out["s3"]).metadata
    assert said[b"prior"] == b"transport" and float(said[b"table_weight"]) == pytest.approx(WEIGHT, abs=1e-4)
    said = pa.parquet.read_schema(out["bare"]).metadata
    assert said[b"prior"] == b"none" and b"no group" in said[b"prior_not_put_in"]
    plain = np.mean([learnt.probabilities[f, s, "bare"] for f in range(3) for s in SEEDS], axis=0)
    bare = tables.read(out["bare"], stages_table(K))
    np.testing.assert_allclose(np.stack(bare["probabilities"]), plain, atol=1e-6)


def test_wrong_tables_are_measured_by_how_wrong_they_are(learnt: StudyFiles) -> None:
    out = learnt.folder / "wrong.parquet"
    metrics = learnt.evaluate(prediction=PUT, wrong_tables_out=out)["metrics"]
    rows = tables.read(out, WRONG_TABLES)
    right = metrics.query("run == '' and metric == 'accuracy'").set_index("experiment")["value"]
    for kind in ("group", "transport"):
        part = rows.query(f"prior == '{kind}' and metric == 'accuracy'").sort_values("t")
        assert part["t"].tolist() == list(wrong_tables.STRENGTHS)
        assert part["without"].to_numpy() == pytest.approx(right["both"])
        if kind == "group":  # transport scales the labelled cells of a slide alone
            assert part["value"].iloc[0] == pytest.approx(right[f"both[prior={kind}]"], abs=0.02)
        np.testing.assert_allclose(part["difference"], part["value"] - part["without"], atol=1e-12)
        assert (part["low"] <= part["difference"]).all() and (part["difference"] <= part["high"]).all()
        assert part["draws"].tolist() == [1] + [wrong_tables.DRAWS] * (len(part) - 1)


def test_the_limit_is_where_the_gain_is_lost() -> None:
    rows = pd.DataFrame({"t": [0.0, 0.2, 0.4], "difference": [0.1, 0.05, -0.05]})
    rows = rows.assign(experiment="prop", prior="group", metric="accuracy", low=-0.1, high=0.2, draws=4)
    rows = rows.assign(animals=6, cells=99)
    found = wrong_tables.find_limits(rows, "accuracy").iloc[0]
    assert found["limit"] == pytest.approx(0.3) and found["gain"] == 0.1
    assert wrong_tables.find_limits(rows[:2], "accuracy")["limit"].item() == np.inf
    assert wrong_tables.find_limits(rows.assign(difference=-0.1), "accuracy")["limit"].item() == 0
    less = wrong_tables.find_limits(rows.assign(metric="mae", difference=-rows["difference"]), "mae")
    assert less["limit"].item() == pytest.approx(0.3) and less["gain"].item() == 0.1


def test_a_prior_in_a_label_is_no_point_of_a_sweep() -> None:
    families = Families(
        question=("prop", "combined"), parts={"prop": "main", "x[sigma=1]": "grid"}, untested=("sup",)
    )
    assert families.find_group("prior", "prop[prior=group]", "prop") == ("prior", "main")
    assert families.find_group("prior", "x[sigma=1][prior=group]", "x[sigma=1]") == ("prior", "grid")
    assert families.find_group("prior", "sup[prior=group]", "sup") is None
    assert families.find_group("group", "prop", "group_majority") == ("group", "main")
    assert experiments.base("x[sigma=1][prior=transport]") == "x[sigma=1]"
    assert experiments.base("x[sigma=1]") == "x[sigma=1]"
