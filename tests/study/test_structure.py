"""Which experiment plays which part, and how runs are cut into jobs, with models of slide labels too."""

from pathlib import Path
from typing import Any

import pytest

from myostage.study import structure
from myostage.study.expand import expand
from myostage.study.plan import Plan
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
    return structure.slide_structure(study, Plan(study).slide_experiments)


# --- parts


def test_what_is_rebuilt_is_compared_with_its_control_unless_an_experiment_is_named() -> None:
    study = study_of()
    experiments = Plan(study).experiments
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
    assert structure.structure(study, expand(study), {})["against"] == {}


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
