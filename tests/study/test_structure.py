"""Which experiment plays which part, and how runs are cut into jobs, with models of slide labels too."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from myostage.paths import Paths
from myostage.study import config, plan, structure
from myostage.study.inputs import SlideRow
from myostage.study.sections.study import Study

ROOT = Path(__file__).parents[2]
STAGES = ("damaged", "recovered", "intact")
GROUPS = {"d0": 0.0, "d3": 4.0, "d7": 1.0}
LABELS = {
    "injured": {"kind": "binary", "classes": {"uninjured": ["d0"], "injured": ["d3", "d7"]}},
    "day": {"kind": "ordinal", "classes": {"d0": ["d0"], "d3": ["d3"], "d7": ["d7"]}},
}
EXPERIMENTS: list[dict[str, Any]] = [
    {"name": "prop", "losses": {"prop": 1}},
    {"name": "rebuilt", "losses": {"prop": 1, "spatial_reconstruction": 1}},
    {"name": "against", "losses": {"prop": 2, "spatial_reconstruction": 1}, "against": "prop"},
    {"name": "scored", "losses": {"mse": 1}, "training": {"score": "area"}, "part": "regression"},
    {"name": "grid", "losses": {"prop": 1}, "vary": {"bag_size": [20, 30]}},
    {"name": "majority", "method": "majority"},
    {"name": "group_majority", "method": "group_majority"},
    {"name": "pooling", "method": "slide", "vary": {"mil.model": ["mean", "max"]}, "part": "attention"},
    {
        "name": "smap",
        "method": "slide",
        "vary": {"mil.placement": ["early", "late"], "mil.alpha": [0.1, "trainable"]},
        "mil": {"smooth_steps": 4},
        "part": "attention",
    },
    {"name": "day", "method": "slide", "mil": {"label": "day", "model": "mean"}, "part": "attention"},
    {"name": "smap_day", "method": "slide", "mil": {"label": "day"}, "part": "attention", "against": "day"},
    {"name": "srmil", "method": "slide", "mil": {"model": "srmil"}, "part": "spatial"},
    {"name": "again", "method": "slide", "mil": {"model": "max"}, "part": "spatial"},
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = ["slide\tpath\tgroup\tanimal\tarea"]
    rows += [f"{group}\t{group}.svs\t{group}\t{group}\t{area}" for group, area in GROUPS.items()]
    path = tmp_path / "slides.tsv"
    path.write_text("\n".join([*rows, "other\tother.svs\t\t\t"]) + "\n")
    return path


def study_of(table: Path | str = "slides.tsv", **changes: Any) -> Study:
    settings: dict[str, Any] = {
        "study": "trial",
        "stages": STAGES,
        "slides": str(table),
        "proportions": "proportions.tsv",
        "healthy": {"groups": ["d0"], "stages": ["intact"]},
        "slide_labels": LABELS,
        "folds": 3,
        "seeds": (0, 1),
        "experiments": EXPERIMENTS,
    }
    return Study.model_validate(settings | changes)


def of_slides(study: Study) -> dict[str, Any]:
    return structure.slide_structure(study, plan.of_slides(config.expand(study)))


# --- parts


def test_cells_and_slides_are_told_apart() -> None:
    experiments = config.expand(study_of())
    cells, slides = plan.of_cells(experiments), plan.of_slides(experiments)
    assert cells.keys() | slides.keys() == experiments.keys() and not cells.keys() & slides.keys()
    assert list(slides) == [
        "pooling[model=mean]",
        "pooling[model=max]",
        "smap[placement=early,alpha=0.1]",
        "smap[placement=early,alpha=trainable]",
        "smap[placement=late,alpha=0.1]",
        "smap[placement=late,alpha=trainable]",
        "day",
        "smap_day",
        "srmil",
        "srmil[coordinates=permuted]",
        "again",
    ]


def test_what_is_rebuilt_is_compared_with_its_control_unless_an_experiment_is_named() -> None:
    study = study_of()
    experiments = plan.of_cells(config.expand(study))
    found = structure.structure(study, experiments, {})
    assert found["against"] == {
        "rebuilt": "rebuilt[coordinates=permuted]",
        "against": "prop",
    }
    assert found["regression"] == ["scored"]
    assert found["parts"]["rebuilt[coordinates=permuted]"] == "main"
    assert found["reference"] == "prop"
    left_out = {"rebuilt[coordinates=permuted]": "no such file", "prop": "no such file"}
    assert structure.structure(study, experiments, left_out)["against"] == {}


def test_an_experiment_is_not_compared_with_itself() -> None:
    study = study_of(experiments=[{"name": "prop", "losses": {"prop": 1}, "against": "prop"}])
    assert structure.structure(study, config.expand(study), {})["against"] == {}


def test_models_of_slide_labels_are_compared_with_the_first_of_their_label() -> None:
    found = of_slides(study_of())
    others = {label for label in found["references"] if "day" not in label}
    assert {found["references"][label] for label in others} == {"pooling[model=mean]"}
    assert {label: found["references"][label] for label in ("day", "smap_day")} == {
        "day": "day",
        "smap_day": "day",
    }
    named = of_slides(study_of(compare={"slides": "smap[placement=late,alpha=0.1]"}))["references"]
    assert {named[label] for label in others} == {"smap[placement=late,alpha=0.1]"}
    assert named["smap_day"] == "day", "of another label"


def test_parts_of_models_of_slide_labels() -> None:
    found = of_slides(study_of())
    assert found["parts"]["spatial"] == ["srmil", "srmil[coordinates=permuted]", "again"]
    assert len(found["parts"]["attention"]) == 8 and set(found["parts"]) == {"attention", "spatial"}
    assert found["controls"] == {"srmil": "srmil[coordinates=permuted]"}
    assert found["against"] == {"smap_day": "day", "srmil": "srmil[coordinates=permuted]"}
    assert (found["kinds"]["srmil"], found["classes"]["srmil"]) == ("binary", 2)
    assert (found["kinds"]["day"], found["classes"]["day"]) == ("ordinal", 3)


def test_points_say_how_a_model_smooths() -> None:
    points = of_slides(study_of())["points"]
    assert set(points) == {
        *(
            f"smap[placement={place},alpha={alpha}]"
            for place in ("early", "late")
            for alpha in (0.1, "trainable")
        ),
        "smap_day",
    }
    assert points["smap[placement=late,alpha=trainable]"] == {
        "placement": "late",
        "alpha": "trainable",
        "operator": "sm",
        "steps": 4,
        "spectral_norm": True,
    }
    assert points["smap_day"]["steps"] == 10


# --- what is looked at


def test_attention_is_that_of_the_reference_and_the_first_that_smooths_unless_named() -> None:
    study = study_of()
    assert plan.attended(study, of_slides(study)) == [
        "pooling[model=mean]",
        "smap[placement=early,alpha=0.1]",
    ]
    named = study_of(look={"attention": ["srmil", "day"]})
    assert plan.attended(named, of_slides(named)) == ["srmil", "day"]
    smoothed = study_of(compare={"slides": "smap[placement=early,alpha=0.1]"})
    # The reference smooths itself, so that the next one that does stands beside it.
    assert plan.attended(smoothed, of_slides(smoothed)) == [
        "smap[placement=early,alpha=0.1]",
        "smap[placement=early,alpha=trainable]",
    ]
    none = study_of(experiments=EXPERIMENTS[:1])
    assert plan.attended(none, of_slides(none)) == []


def test_slides_seen_are_injured_ones_of_each_kind_of_border() -> None:
    rows = [
        ("a", "d0", "sharp"),
        ("b", "d3", ""),
        ("c", "d3", "sharp"),
        ("d", "d7", "diffuse"),
        ("e", "d7", "sharp"),
    ]
    slides = {name: SlideRow(slide=name, group=group, border=border) for name, group, border in rows}
    study = study_of()
    assert sorted(plan.seen(study, list(slides), slides)) == ["c", "d"]
    assert sorted(plan.seen(study, ["a", "b", "e"], slides)) == ["e"]
    assert plan.seen(study, ["a", "b"], slides) == ["b"]
    assert plan.seen(study, ["a"], slides) == []
    named = study_of(look={"slides": ["b", "a", "x"]})
    assert plan.seen(named, list(slides), slides) == ["b", "a"]
    assert len(plan.seen(study_of(healthy=None), list(slides), slides, most=1)) == 1


def test_scores_and_classes_are_those_that_runs_learn(table: Path) -> None:
    study = study_of(table)
    specs = list(config.runs(study).values())
    assert plan.scores(study, specs) == {"area": {"d0": 0.0, "d3": 2.0, "d7": 0.5}}
    assert plan.classes(study, specs) == {
        "injured": {"d0": 0, "d3": 1, "d7": 1},
        "day": {"d0": 0, "d3": 1, "d7": 2},
    }
    only = [spec for spec in specs if spec.method == "proportions" and "mse" not in spec.losses]
    assert plan.scores(study, only) == plan.classes(study, only) == {}


# --- jobs


def test_points_of_a_grid_of_slide_labels_share_jobs_and_no_run_has_two() -> None:
    experiments = config.expand(study_of())
    jobs = plan.run_batches(experiments, 4)
    ran = [spec.id for specs in jobs.values() for spec in specs]
    assert len(ran) == len(set(ran)) and set(ran) == {s.id for specs in experiments.values() for s in specs}
    assert all(len(specs) <= 4 for name, specs in jobs.items() if name != "baselines")
    label_of = {spec.id: label for label, specs in reversed(experiments.items()) for spec in specs}
    for name, specs in jobs.items():
        labels = {label_of[spec.id] for spec in specs}
        if name == "baselines":
            assert labels == {"majority", "group_majority"} and len(specs) == 6
        elif specs[0].method == "slide":
            assert len({label.partition("[")[0] for label in labels}) == 1, name
        else:
            assert len(labels) == 1, name
    # 4 points x 3 folds x 2 seeds, where each point alone would have needed two jobs
    assert len([name for name in jobs if name.startswith("smap-")]) == 6
    # `again` asks for the runs of pooling[model=max], which has them already
    assert not [name for name in jobs if name.startswith("again-")]


def test_another_experiment_changes_no_job_that_is_there() -> None:
    before = plan.run_batches(config.expand(study_of()), 5)
    more = [*EXPERIMENTS, {"name": "late", "method": "slide", "mil": {"placement": "mid"}}]
    after = plan.run_batches(config.expand(study_of(experiments=more)), 5)
    assert {name: after[name] for name in before} == before
    assert {name.rpartition("-")[0] for name in after.keys() - before.keys()} == {"late"}


@pytest.mark.parametrize("size", [1, 3, 100])
def test_names_of_jobs_are_plain_and_tell_likely_ones_apart(size: int) -> None:
    experiments = [
        {"name": name, "losses": {"prop": 1 + number}} for number, name in enumerate(("a.b", "a_b", "a-b"))
    ]
    grid = {
        "name": "c",
        "method": "slide",
        "vary": {"mil.alpha": [0.1, 0.5], "mil.placement": ["early", "mid"]},
    }
    expanded = config.expand(study_of(experiments=[*experiments, grid]))
    jobs = plan.run_batches(expanded, size)
    assert sum(len(specs) for specs in jobs.values()) == 3 * 6 + 4 * 6
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in jobs), list(jobs)


def test_every_file_of_a_run_has_its_receipt() -> None:
    study = study_of()
    experiments = config.expand(study)
    paths = Paths.of(study.results, study.study)
    jobs = plan.run_batches(experiments, 6)
    found = plan.receipts(paths, "slides", {"s": ["x", "y"]}, ["x", "y"], ["vit"], jobs)
    for name, specs in jobs.items():
        receipt = paths.receipt("baselines", "all") if name == "baselines" else paths.receipt("train", name)
        for spec in specs:
            assert found[paths.run(spec.id, "predictions.parquet")] == receipt
            attention = found.get(paths.run(spec.id, "attention.parquet"))
            assert attention == (receipt if spec.method == "slide" else None)
    assert found[paths.slide("y", "cells.parquet")] == paths.receipt("segment", "s")
    assert found[paths.tokens("x", "vit")] == paths.receipt("tokens", "vit")
    ready = plan.receipts(paths, "features", {"s": ["x"]}, ["x"], [], {})
    assert ready == {
        paths.slide("x", "positions.parquet"): paths.receipt("features", "s"),
        paths.slide("x", "labels.parquet"): paths.receipt("features", "s"),
    }
    assert plan.receipts(paths, "crops", {"s": ["x"]}, [], [], {}) == {}


def test_structure_and_plan_are_read_without_torch_or_pandas() -> None:
    heavy = (
        "import sys, myostage.study.structure, myostage.study.plan; "
        "assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", heavy], check=True, cwd=ROOT / "scripts")
