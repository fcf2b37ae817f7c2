"""Runs that choose their settings by held-in proportions: what is read and chosen, what a kill leaves."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from myostage import tables
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.learning import choice, runs
from myostage.learning.tables import CHOICES, OUTCOME, SPLITS, predictions_table
from myostage.study.run import RunSpec
from myostage.study.sections.choose import Choose
from support import token_runs
from support.token_runs import COMBINED, PROPORTIONS, Bench, K, predictions, same_model, spec_of, write_tokens

STEPS = {"steps": [1, 40]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two training animals a group beside those held out, so that one of each can be held in."""
    made = token_runs.make(tmp_path_factory.mktemp("choices"))
    rng = np.random.default_rng(4)
    splits = tables.read(made.splits, SPLITS)
    for group, share in PROPORTIONS.items():
        slide = f"{group}_a2"
        stages = rng.permutation(np.repeat(np.arange(K), np.round(share * 60).astype(int)))
        path = made.folder / f"{slide}.parquet"
        write_tokens(path, stages, rng)
        made.tokens[slide], made.truth[slide], made.cells[slide] = path, stages, made.cells[f"{group}_a1"]
        splits.loc[len(splits)] = [slide, group, slide, len(stages), 1]
    path = made.folder / "splits-of-three.parquet"
    tables.write(path, splits, SPLITS)
    return replace(made, splits=path)


def choosing(vary: dict[str, list[Any]], losses: dict[str, float] | None = None, **training: Any) -> RunSpec:
    return spec_of(losses or COMBINED, choose=Choose(vary=vary, parts=2), **training)


def run(bench: Bench, spec: RunSpec, name: str, **options: Any) -> Path:
    return bench.run(spec, name, choices_out=bench.folder / name / "choices.parquet", **options)


def choices(folder: Path) -> pd.DataFrame:
    return tables.read(folder / "choices.parquet", CHOICES)


def test_the_best_candidate_is_trained_as_a_run_with_its_settings_would_be(bench: Bench) -> None:
    vary = STEPS | {"losses.simprop": [0.5, 1.0]}
    spec = choosing(vary)
    out = run(bench, spec, "chosen")
    table = choices(out)
    assert table["settings"].tolist() == [
        f"steps {steps}, losses.simprop {weight}" for steps in (1, 40) for weight in (0.5, 1.0)
    ]
    assert table["slides"].tolist() == [6] * 4
    best = int(table["divergence"].idxmin())
    assert table["chosen"].tolist() == [place == best for place in range(4)] and best >= 2
    plain = spec_of(COMBINED | {"simprop": (0.5, 1.0)[best % 2]}, steps=40)
    other = bench.run(plain, "set-by-hand")
    assert same_model(out, other)
    pd.testing.assert_frame_equal(predictions(out), predictions(other))
    outcome = tables.read(out / "outcome.parquet", OUTCOME).iloc[0]
    assert outcome["run"] == spec.id and outcome["steps"] == 2 * 2 * (1 + 40) + 40
    assert not (out / "checkpoint").exists()
    # What was chosen is in the model: it predicts other slides alike.
    again = out / "again.parquet"
    runs.predict_run(out / "model.safetensors", {"d3_a0": bench.tokens["d3_a0"]}, again, device="cpu")
    known = predictions(out).query("slide == 'd3_a0'").reset_index(drop=True)
    pd.testing.assert_frame_equal(tables.read(again, predictions_table(K)), known)


def test_the_divergence_is_that_of_slides_that_a_candidate_was_not_trained_on(bench: Bench) -> None:
    spec = choosing({"steps": [10, 20]}, {"prop": 1.0})
    found = choices(run(bench, spec, "divergence"))["divergence"]
    splits = tables.read(bench.splits, SPLITS)
    learnt = splits[splits["fold"] == 1]
    for number, steps in enumerate((10, 20)):
        divergences = []
        for part, (fitted_on, held_in) in enumerate(choice.hold_in(learnt, 2, "run")):
            assert set(fitted_on["animal"]).isdisjoint(held_in["animal"])
            assert sorted(held_in["group"]) == sorted(PROPORTIONS)
            path = bench.folder / f"part{part}.parquet"
            fold = np.where(splits["slide"].isin(fitted_on["slide"]), 1, 0)
            fold[splits["fold"] == 0] = -1
            tables.write(path, splits.assign(fold=fold), SPLITS)
            out = replace(bench, splits=path).run(spec_of({"prop": 1.0}, steps=steps), f"part{part}-{steps}")
            p = predictions(out)
            for slide, group in zip(held_in["slide"], held_in["group"], strict=True):
                mean = np.mean(
                    np.stack(p[p["slide"] == slide]["probabilities"].tolist()), axis=0, dtype=float
                )
                given = PROPORTIONS[group]
                some = given > 0
                divergences.append(float(given[some] @ np.log(given[some] / mean[some])))
        assert found[number] == pytest.approx(np.mean(divergences), rel=1e-5)


def test_neither_labels_nor_held_out_cells_change_what_is_chosen(bench: Bench, tmp_path: Path) -> None:
    spec = choosing({"learning_rate": [1e-4, 1e-2], "bag_size": [8, 16]}, steps=15)
    known = run(bench, spec, "labels-right")
    wrong = {}
    for slide, path in bench.labels.items():
        table = tables.read(path, LABELS)
        wrong[slide] = tmp_path / f"{slide}.parquet"
        tables.write(wrong[slide], table.assign(stage=(table["stage"] + 1) % K), LABELS)
    held_out = dict(bench.tokens)
    for slide in ("d3_a0", "d5_a0", "d14_a0", "other"):
        held_out[slide] = tmp_path / f"{slide}-tokens.parquet"
        write_tokens(held_out[slide], np.roll(bench.truth[slide], 1), np.random.default_rng(9))
    nowhere = {slide: tmp_path / "missing" for slide in bench.labels}
    for name, options in {
        "wrong": {"labels": wrong},
        "none": {"labels": {}},
        "unreadable": {"labels": nowhere},
        "held-out": {"tokens": held_out},
    }.items():
        other = run(bench, spec, f"labels-{name}", **options)
        pd.testing.assert_frame_equal(choices(other), choices(known))
        assert same_model(other, known)


def test_a_killed_run_chooses_alike_and_trains_no_candidate_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = choosing({"steps": [6, 12]}, {"prop": 1.0})
    whole = run(bench, spec, "not-killed")
    draw, drawn = runs.BagSource.draw, []

    def dying(self: runs.BagSource, step: int) -> Any:
        drawn.append(step)
        if len(drawn) == 20:  # in the second part of the second candidate
            raise KeyboardInterrupt
        return draw(self, step)

    monkeypatch.setattr(runs.BagSource, "draw", dying)
    with pytest.raises(KeyboardInterrupt):
        run(bench, spec, "killed")
    left = bench.folder / "killed" / "checkpoint"
    assert len(json.loads((left / "choice.json").read_text())) == 2
    drawn.extend([0] * 100)  # dies no more
    before = len(drawn)
    resumed = run(bench, spec, "killed")
    # The first candidate is known; the second goes on from its last checkpoint, at step 5.
    assert len(drawn) - before == (12 - 5) + 12 + 12
    pd.testing.assert_frame_equal(choices(resumed), choices(whole))
    assert same_model(resumed, whole) and not left.exists()


def test_a_candidate_that_diverges_is_not_chosen_and_a_run_of_none_else_fails(bench: Bench) -> None:
    wild = choosing({"learning_rate": [1e30, 1e-3]}, {"prop": 1.0}, weight_decay=0.0)
    table = choices(run(bench, wild, "wild"))
    assert np.isnan(table["divergence"][0]) and table["chosen"].tolist() == [False, True]
    wilder = choosing({"learning_rate": [1e30, 1e29]}, {"prop": 1.0}, weight_decay=0.0)
    out = run(bench, wilder, "wilder")
    assert not choices(out)["chosen"].any() and predictions(out).empty
    outcome = tables.read(out / "outcome.parquet", OUTCOME).iloc[0]
    assert outcome["status"] == "failed" and outcome["run"] == wilder.id
    assert outcome["reason"].startswith(
        f"run {wilder.id}: no candidate of training.choose could be trained ("
    )


def test_fewer_animals_than_parts_are_refused(bench: Bench) -> None:
    spec = spec_of({"prop": 1.0}, choose=Choose(vary=STEPS, parts=7))
    with pytest.raises(UserError, match=r"training.choose.parts is 7 and it learns from 6 animals; lower"):
        run(bench, spec, "few")


def test_a_run_without_choice_keeps_its_id_and_its_files() -> None:
    spec = spec_of(COMBINED)
    assert "choose" not in spec.model_dump()["training"] and spec.trainings == spec.candidates == [spec]
    chosen = choosing(STEPS)
    assert chosen.id != spec.id and chosen.files == (*spec.files, "choices.parquet")
    assert {candidate.id for candidate in chosen.candidates} == {chosen.id}
    assert [training.training.steps for training in chosen.trainings] == [1, 40, 1, 40, 40]
    assert RunSpec(**json.loads(chosen.model_dump_json())).id == chosen.id


def test_damaged_scores_are_forgotten_and_ties_go_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    path.write_text('{"a": "x"}')
    scores = choice.Scores(path)
    assert scores.found == {} and not path.exists()
    scores.keep({"code": "a"}, math.inf)
    assert choice.Scores(path).of({"code": "a"}) == math.inf and scores.of({"code": "b"}) is None
    assert choice.best_of([2.0, 1.0, 1.0, math.inf]) == 1
    share = {"s": np.array([0.5, 0.5, 0.0])}
    assert choice.mean_divergence({"s": np.array([1.0, 0.0, 0.0])}, share) == pytest.approx(
        math.log(0.5) + 0.5 * math.log(1e12), rel=1e-6
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
