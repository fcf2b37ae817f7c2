"""Runs in worlds: held-out animals and labels stay out, and settings are chosen by proportions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from myostage import tables
from myostage.learning.tables import CHOICES, HISTORY, OUTCOME, WORLD_PREDICTIONS
from myostage.learning.worlds import World, choose_in_pilots, run_in_world
from myostage.study.run import RunSpec
from myostage.study.sections.study import Study
from myostage.study.worlds import Worlds
from myostage.worlds.draw import draw
from support import drawn_worlds

STAGES = ["first", "second", "third"]


def specs(**training: Any) -> dict[str, RunSpec]:
    content = drawn_worlds.study()
    content["training"] = content["training"] | training
    return Worlds(Study(**content)).experiments


def world(seed: int = 0, **keys: Any) -> World:
    content = drawn_worlds.study(**keys)
    settings = Study(**content).world
    assert settings is not None
    return World(draw(settings, len(STAGES), seed), content["folds"])


def run(folder: Path, spec: RunSpec, drawn: World, choices: Path | None = None) -> pd.DataFrame:
    files = {f"{name}_out": folder / f"{name}.parquet" for name in ("predictions", "history", "outcome")}
    run_in_world(spec, STAGES, drawn, choices=choices, threads=1, **files)
    return tables.read(files["predictions_out"], WORLD_PREDICTIONS)


def probabilities(cells: pd.DataFrame) -> np.ndarray:
    return np.stack(cells["probabilities"].to_list())


def test_an_animal_of_every_group_is_held_out_and_predicted(tmp_path: Path) -> None:
    drawn = world()
    cells = run(tmp_path, specs()["combined"], drawn)
    assert cells.groupby("group")["animal"].nunique().to_dict() == {"group1": 1, "group2": 1, "group3": 1}
    assert not set(cells["animal"]) & set(drawn.learnt["animal"])
    assert len(cells) == 3 * 30
    for animal, rows in cells.groupby("animal", sort=False):
        assert rows["true_stage"].tolist() == drawn.stages(str(animal)).tolist()
    assert np.allclose(probabilities(cells).sum(1), 1, atol=1e-5)
    assert len(tables.read(tmp_path / "history.parquet", HISTORY)) == 6
    assert tables.read(tmp_path / "outcome.parquet", OUTCOME)["status"].tolist() == ["ok"]


@pytest.mark.parametrize("label", ["prop", "combined"])
def test_neither_labels_nor_held_out_animals_are_learnt_from(tmp_path: Path, label: str) -> None:
    drawn = world()
    before = probabilities(run(tmp_path, specs()[label], drawn))
    features, stages = drawn.drawn.features.copy(), np.zeros_like(drawn.drawn.stages)
    held = np.isin(drawn.drawn.animals, drawn.held_out.index)
    other = World(replace(drawn.drawn, stages=stages), drawn.folds)
    assert np.array_equal(before, probabilities(run(tmp_path, specs()[label], other)))
    features[held] = -features[held]
    turned = World(replace(drawn.drawn, features=features), drawn.folds)
    run(tmp_path, specs()[label], turned)
    first = tables.read(tmp_path / "history.parquet", HISTORY)
    run(tmp_path, specs()[label], drawn)
    assert first.equals(tables.read(tmp_path / "history.parquet", HISTORY))


def test_proportions_that_are_given_are_learnt_from_and_not_true_ones(tmp_path: Path) -> None:
    right, wrong = world(), world(proportion_error=0.8)
    assert np.array_equal(right.drawn.features, wrong.drawn.features)
    found = [probabilities(run(tmp_path, specs()["prop"], drawn)) for drawn in (right, wrong)]
    assert not np.allclose(*found, atol=1e-4)


def test_stages_are_learnt_where_groups_tell_them(tmp_path: Path) -> None:
    easy = world(overlap=0.1, distraction=0.1, animal_effect=0.1, batch_effect=0.1, mixing=0)
    trained = specs(steps=60, encoder_learning_rate=1e-2, learning_rate=1e-2)
    found = {label: run(tmp_path, trained[label], easy) for label in ("prop", "supervised", "majority")}
    right = {
        label: (probabilities(cells).argmax(1) == cells["true_stage"]).mean()
        for label, cells in found.items()
    }
    assert right["prop"] > 0.9
    assert right["supervised"] > 0.9
    assert right["majority"] < 0.5


def test_a_run_that_diverges_says_so_and_leaves_no_predictions(tmp_path: Path) -> None:
    cells = run(tmp_path, specs(learning_rate=1e30)["prop"], world())
    outcome = tables.read(tmp_path / "outcome.parquet", OUTCOME).iloc[0]
    assert len(cells) == 0
    assert outcome["status"] == "failed"
    assert "not finite" in outcome["reason"]


def test_settings_are_chosen_by_proportions_of_animals_held_in(tmp_path: Path) -> None:
    choose = {"choose": {"vary": {"learning_rate": [1e30, 1e-3]}, "parts": 2}}
    content = drawn_worlds.study()
    content["training"] = content["training"] | choose
    content["experiments"] = content["experiments"][:1]
    spec = Worlds(Study(**content)).experiments["prop"]
    pilots = [world(seed) for seed in (10, 11)]
    choose_in_pilots(spec, STAGES, pilots, tmp_path / "choices.parquet", threads=1)
    found = tables.read(tmp_path / "choices.parquet", CHOICES)
    assert found["chosen"].tolist() == [False, True]
    assert found["divergence"].isna().tolist() == [True, False]
    # a half of six animals in each of two pilots
    assert found["slides"].tolist() == [6, 6]
    blind = [World(replace(p.drawn, stages=np.zeros_like(p.drawn.stages)), p.folds) for p in pilots]
    choose_in_pilots(spec, STAGES, blind, tmp_path / "blind.parquet", threads=1)
    assert tables.read(tmp_path / "blind.parquet", CHOICES).equals(found)
    chosen = run(tmp_path, spec, world(), tmp_path / "choices.parquet")
    assert np.array_equal(probabilities(chosen), probabilities(run(tmp_path, spec.candidates[1], world())))
