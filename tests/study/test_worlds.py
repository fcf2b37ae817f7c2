"""The section `world`: points, runs that are shared, and what is refused, in a sentence."""

from collections.abc import Mapping
from typing import Any

import pytest

from myostage.errors import UserError
from myostage.study.load import load_study, notes
from myostage.study.plan import Plan
from myostage.study.sections.study import Study
from myostage.study.worlds import Worlds
from support import drawn_worlds


def worlds(changes: Mapping[str, Any] | None = None, **world: Any) -> Worlds:
    return Worlds(Study(**drawn_worlds.study(**world) | dict(changes or {})))


def maps(*vary: dict[str, list[Any]]) -> dict[str, Any]:
    return {"maps": [{"name": f"map{number}", "vary": keys} for number, keys in enumerate(vary)]}


def test_a_study_of_worlds_needs_no_table_and_plans_no_slide() -> None:
    plan = Plan(load_study(drawn_worlds.study()))
    assert plan.worlds is not None
    assert (plan.slides, plan.run_batches, plan.encoders) == ({}, {}, {})
    assert notes(plan.study) == []
    assert [name.rpartition("/")[2] for name in plan.tables] == [
        "worlds.parquet",
        "worlds_comparisons.parquet",
        "worlds_curves.parquet",
    ]


def test_equal_points_of_two_maps_are_one() -> None:
    found = worlds(**maps({"overlap": [0.3, 0.5]}, {"overlap": [0.3, 1], "mixing": [0.5, 1]}))
    assert list(found.points) == [
        "overlap=0.3",
        "centre",
        "mixing=1,overlap=0.3",
        "overlap=1",
        "mixing=1,overlap=1",
    ]
    assert found.maps["map1"]["points"]["overlap=0.3"] == [0.3, 0.5]
    assert len(found.runs) == 5 * 2 * 4


def test_points_of_training_share_worlds_and_what_they_do_not_change() -> None:
    found = worlds(**maps({"training.sigma": [0.1, 0.3]}))
    by_label = {
        label: [found.by_place[point, label][0].name for point in found.points]
        for label in ("prop", "combined", "majority")
    }
    # sigma is no option of prop, and a baseline has none
    assert len(set(by_label["prop"])) == len(set(by_label["majority"])) == 1
    assert len(set(by_label["combined"])) == 2
    seeds = {tuple(member["seed"]) for batch in found.batches for member in found.members(batch)}
    assert len(seeds) == 2


def test_worlds_differ_between_repeats_points_and_pilots() -> None:
    choose = {"training": {"steps": 6, "bag_size": 12, "choose": {"vary": {"learning_rate": [1e-3, 1e-2]}}}}
    choose["training"]["choose"]["parts"] = 2
    content = drawn_worlds.study() | choose
    content["experiments"] = content["experiments"][:2]
    found = Worlds(Study(**content))
    found.check("study file")
    seeds = {tuple(member["seed"]) for batch in found.batches for member in found.members(batch)}
    chosen = [member for batch in found.choice_batches for member in found.pilot_members(batch)]
    pilots = {tuple(seed) for member in chosen for seed in member["seeds"]}
    assert len(seeds) == 2 * 2
    assert len(pilots) == 1
    assert not seeds & pilots


def test_an_experiment_that_is_added_changes_no_other_run() -> None:
    before = worlds()
    content = drawn_worlds.study()
    content["experiments"] = [*content["experiments"], {"name": "vat", "losses": {"prop": 1, "vat": 1}}]
    after = Worlds(Study(**content))
    own = {m["run"]: m for batch in before.batches for m in before.members(batch)}
    others = {m["run"]: m for batch in after.batches for m in after.members(batch)}
    assert len(others) == len(own) + 2 * 2
    assert all(others[name] == member for name, member in own.items())


def test_a_key_of_the_world_changes_the_runs_of_its_points_alone() -> None:
    before, after = worlds(), worlds(**maps({"overlap": [0.3, 0.7]}))
    assert len(before.runs.keys() & after.runs.keys()) == len(before.runs) / 2


def test_every_run_has_a_seed_of_its_world() -> None:
    found = worlds()
    assert {run.spec.seed for run in found.runs.values()} == {0, 1}
    assert {run.spec.fold for run in found.runs.values()} == {0}


@pytest.mark.parametrize(
    ("changes", "world", "words"),
    [
        ({}, maps({"overlapp": [1]}), r"unknown key world.maps\[map0\].vary.overlapp .*overlap\?"),
        ({}, maps({"training.stepps": [1]}), r"did you mean training.steps\?"),
        ({}, maps({"repeats": [1, 2]}), "unknown key .*vary.repeats"),
        ({}, maps({"overlap": [0.3, 0.3]}), "repeats a value of overlap"),
        ({}, maps({"mixing": [2]}), "mixing is 2.*less than or equal to 1"),
        ({}, maps({"training.steps": [0]}), "steps is 0"),
        ({}, maps({"animals": [1]}), "world at animals=1: animals is 1, and no animal of its group is left"),
        ({"folds": 12}, {}, "folds is 12, more than its 9 animals"),
        ({}, maps({"cells": [5]}), "prop draws bags of 12 cells, and a slide that is learnt from has 5"),
        ({}, {"order": "unordered", "dimensions": 4}, "3 stages as far from each other need 3 dimensions"),
        ({"stages": ["a", "b"]}, {"order": "shuffled"}, "two stages have no other order"),
        ({}, maps({"dimensions": [4], "distractors": [3]}), "leave the curve fewer than two"),
        ({"slides": "slides.tsv"}, {}, "`world` draws cells, and slides means nothing to them"),
        ({"seeds": [0]}, {}, "seeds means nothing to them"),
        ({"experiments": []}, {}, "no experiments; add some"),
        (
            {"experiments": [{"name": "a", "method": "probe"}], "compare": {}},
            {},
            r"experiments\[a\]: method probe does not run in worlds",
        ),
        ({"compare": {"reference": "prob"}}, {}, r"compare.reference is prob.*did you mean prop\?"),
        (
            {"experiments": [{"name": "a", "losses": {"prop": 1}, "training": {"steps": 3}}]},
            maps({"training.steps": [1, 2]}),
            r"experiments\[a\] sets training.steps too; keep one",
        ),
        (
            {"experiments": [{"name": "a", "losses": {"prop": 1, "spatial_reconstruction": 1}}]},
            {},
            "needs to know where cells lie, which worlds do not say",
        ),
        (
            {"proportions": "config/demo/proportions.tsv", "stages": ["a", "b", "c"]},
            {"groups": 3},
            "world.groups is the number of rows of `proportions`",
        ),
        ({}, maps(*[{"overlap": [1]}] * 2) | {"repeats": 2}, ""),
        ({}, {"maps": [{"name": "m", "vary": {"overlap": [1]}}] * 2}, "maps name m 2 times"),
        ({}, {"repeats": 1000} | maps({"overlap": [*range(100)]}), "more than 100,000"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(
    changes: dict[str, Any], world: dict[str, Any], words: str
) -> None:
    content = drawn_worlds.study(**world) | changes
    if not words:
        load_study(content)
        return
    with pytest.raises(UserError, match=words):
        load_study(content)


def test_runs_share_jobs_where_the_study_does_not_say_how_many() -> None:
    found = worlds({"jobs": {}})
    assert [len(runs) for runs in found.batches.values()] == [len(found.runs)]
