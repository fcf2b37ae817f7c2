"""What loss terms and baselines declare, and what a study and a run learn of them from that."""

import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from myostage.learning import term
from myostage.learning.baseline import BASELINES
from myostage.learning.term import TERMS, names
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.training import Loop, Training

SCRIPTS = Path(term.__file__).parents[2]


def spec_of(losses: dict[str, float], **training: object) -> RunSpec:
    return RunSpec(
        method="proportions",
        losses=losses,
        training=Training(**training),
        encoder=Encoder(),
        folds=2,
        fold=0,
        seed=0,
    )


def test_a_study_is_read_without_what_computes() -> None:
    asked = (
        "import sys; from myostage.study import load, plan; "
        "print({'torch', 'scipy', 'pandas', 'sklearn'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_every_file_of_the_folders_is_a_term_or_a_baseline() -> None:
    for registry in (TERMS, BASELINES):
        folder = SCRIPTS / "myostage" / registry.file(registry.names()[0]).parent
        files = {SCRIPTS / "myostage" / registry.file(name) for name in registry.names()}
        assert files == set(folder.glob("[a-z]*.py")) != set()


def test_terms_share_a_key_only_as_one_of_shared_options() -> None:
    for one, other in itertools.combinations(names(), 2):
        first, second = TERMS[one].options, TERMS[other].options
        for key in first.model_fields.keys() & second.model_fields.keys():
            shared = [base for base in first.__mro__ if key in inspect.get_annotations(base)]
            assert issubclass(second, shared[-1]), f"{key} of {one} and {other}"
        assert not first.model_fields.keys() & Loop.model_fields.keys()


def test_a_term_that_conflicts_or_is_implied_names_what_there_is() -> None:
    for name in names():
        assert TERMS[name].conflict in ("", *names())
        assert set(TERMS[name].compute) <= {"proportions", "supervised", "slide"}


@pytest.mark.parametrize(
    ("method", "model", "weights"),
    [
        ("proportions", None, {}),
        ("supervised", None, {"cross_entropy": 1.0}),
        ("slide", "smap", {"slide": 1.0}),
        ("slide", "srmil", {"slide": 0.2, "slide_masked": 0.2, "spatial_reconstruction": 1.8}),
    ],
)
def test_losses_that_a_method_implies(method: str, model: str | None, weights: dict[str, float]) -> None:
    assert term.implied(method, model) == weights


def test_options_of_terms_that_are_not_used_make_no_other_run() -> None:
    plain = spec_of({"prop": 1.0})
    for key, value in {"sigma": 0.3, "bins": 9, "ot_entropy": 0.7, "queue": 3}.items():
        assert spec_of({"prop": 1.0}, **{key: value}) == plain
        assert key not in plain.model_dump()["training"]
    assert spec_of({"simprop": 1.0}, sigma=0.3).id != spec_of({"simprop": 1.0}).id
    assert spec_of({"prop": 1.0}, steps=3).id != plain.id
    again = RunSpec.model_validate_json(spec_of({"simprop": 1.0}, sigma=0.3).model_dump_json())
    assert again.training.sigma == 0.3


def test_a_head_fitted_afterwards_is_of_the_run() -> None:
    spec = spec_of({"simprop": 1.0, "vat": 1.0})
    assert spec.head_afterwards and spec.terms == ["simprop", "prop", "vat"]
    assert spec_of({"simprop": 1.0}, mix="none").code == [TERMS.file("simprop"), TERMS.file("prop")]
    assert spec_of({"simprop": 1.0}, head="frozen").terms == ["simprop"]
