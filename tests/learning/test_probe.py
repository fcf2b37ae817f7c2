"""The linear probe: what it reads, how its strength is chosen, and its run."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from myostage import tables
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.learning import probe, runs
from myostage.learning.predictions import read_learnt
from myostage.learning.probe_runs import train_probe
from myostage.learning.tables import HISTORY, OUTCOME, predictions_table
from support.token_runs import CELLS, PROPORTIONS, STAGES, Bench, K, make, outputs_of, predictions, spec_of


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield make(tmp_path_factory.mktemp("probe"))


def run(bench: Bench, name: str, **options: object) -> Path:
    out = bench.folder / name
    given = {"labels": bench.labels, "tokens": bench.tokens} | options
    train_probe(
        spec_of({}, "probe", seed=0),
        stages=STAGES,
        proportions=PROPORTIONS,
        splits=bench.splits,
        **outputs_of(out),
        **given,
    )
    return out


def test_it_reads_class_token_mean_and_spread_of_patches_or_the_feature_itself() -> None:
    tokens = np.random.default_rng(0).normal(size=(5, 21, 7)).astype(np.float16)  # 16 patches, 4 registers
    values, patches = tokens.astype(np.float32), tokens[:, 5:].astype(np.float32)
    expected = np.concatenate([values[:, 0], patches.mean(1), patches.std(1)], axis=1)
    np.testing.assert_array_equal(probe.summarise(tokens), expected)
    np.testing.assert_array_equal(probe.summarise(tokens[:, :1]), values[:, 0])


@pytest.mark.parametrize("stages", [(0, 1, 2, 3), (1, 3)], ids=["all stages", "two stages"])
def test_it_is_the_logistic_regression_of_the_strength_that_is_best_on_cells_held_in(
    stages: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(1)
    truth = rng.choice(stages, 120)
    features = (np.eye(4)[truth] @ rng.normal(size=(4, 9)) * 3 + rng.normal(size=(120, 9))).astype(np.float32)
    part = np.arange(120) % 3
    parts = [(part != held_in, part == held_in) for held_in in range(3)]

    def scored(strength: float) -> float:
        loss = 0.0
        for fitted_on, held_in in parts:
            scaler = StandardScaler().fit(features[fitted_on])
            model = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
            model.fit(scaler.transform(features[fitted_on]), truth[fitted_on])
            found = model.predict_log_proba(scaler.transform(features[held_in]))
            loss -= found[np.arange(held_in.sum()), np.searchsorted(model.classes_, truth[held_in])].sum()
        return loss

    best = min(probe.STRENGTHS, key=scored)
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=best, max_iter=5000, tol=1e-8).fit(scaler.transform(features), truth)
    found = probe.predict(probe.fit_probe(features, truth, parts, 4), features)
    np.testing.assert_allclose(found[:, stages], model.predict_proba(scaler.transform(features)), atol=5e-3)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert not found[:, [k for k in range(4) if k not in stages]].any()


def test_a_single_stage_is_predicted_with_certainty() -> None:
    features = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    fitted_on = np.arange(9) < 6
    found = probe.fit_probe(features, np.full(9, 2), [(fitted_on, ~fitted_on)], 4)
    np.testing.assert_array_equal(probe.predict(found, features), np.tile([0, 0, 1, 0], (9, 1)))


def test_a_run_leaves_what_other_runs_leave_and_can_be_applied(bench: Bench, tmp_path: Path) -> None:
    out = run(bench, "whole")
    found = predictions(out)
    assert set(found["slide"]) == {"d3_a0", "d5_a0", "d14_a0", "other"}
    for slide, part in found.groupby("slide"):
        assert (part["stage"].to_numpy() == bench.truth[slide]).mean() > 0.9
    assert tables.read(out / "history.parquet", HISTORY).empty
    learnt = read_learnt(out / "predictions.parquet", K)  # for the proportions of a group at prediction
    shares = [np.bincount(bench.truth[slide], minlength=K) for slide in ("d3_a1", "d5_a1", "d14_a1")]
    assert learnt is not None
    np.testing.assert_allclose(learnt.composition, np.sum(shares, axis=0) / (3 * CELLS))
    outcome = tables.read(out / "outcome.parquet", OUTCOME).iloc[0]
    assert outcome["status"] == "ok" and outcome["seconds"] > 0
    again = tmp_path / "again.parquet"
    held_out = {slide: bench.tokens[slide] for slide in found["slide"].unique()}
    runs.predict_run(out / "model.safetensors", held_out, again, device="cpu")
    pd.testing.assert_frame_equal(tables.read(again, predictions_table(K)), found)


def test_labels_of_held_out_cells_change_nothing(bench: Bench, tmp_path: Path) -> None:
    wrong = dict(bench.labels)
    for slide in ("d3_a0", "d5_a0", "d14_a0", "other"):
        wrong[slide] = tmp_path / f"{slide}.parquet"
        table = tables.read(bench.labels[slide], LABELS)
        tables.write(wrong[slide], table.assign(stage=(table["stage"] + 1) % K), LABELS)
    pd.testing.assert_frame_equal(
        predictions(run(bench, "right")), predictions(run(bench, "wrong", labels=wrong))
    )


def test_of_many_cells_evenly_spaced_ones_are_learnt_from(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("myostage.learning.probe_runs.MOST_CELLS", 60)
    seen: list[int] = []
    fit = probe.fit_probe

    def watch(features: np.ndarray, *rest: object) -> probe.Probe:
        seen.append(len(features))
        return fit(features, *rest)

    monkeypatch.setattr("myostage.learning.probe_runs.fit_probe", watch)
    found = predictions(run(bench, "few"))
    assert seen == [60]
    assert (found["stage"] == np.concatenate([bench.truth[s] for s in found["slide"].unique()])).mean() > 0.8


def test_labels_of_one_animal_are_too_few(bench: Bench) -> None:
    with pytest.raises(UserError, match="needs labelled cells of two training animals, and has those of 1"):
        run(bench, "one", labels={"d3_a1": bench.labels["d3_a1"]})
