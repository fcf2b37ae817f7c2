"""What an edit of the project runs again: the jobs whose output it can change, and those that wait for them.

A copy of the project is edited and planned; a job runs again where the digest of its code is another one.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from myostage.runtime import provenance
from support import dry_run, tiny

PARTS = ("Snakefile", "config", "envs", "notebooks", "profiles", "rules", "scripts")


class Project:
    """A copy of the project, the tiny study in a folder beside it, and how that study is planned before edits."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root / "project", root / "study"
        for part in PARTS:
            source = tiny.ROOT / part
            copy = shutil.copy if source.is_file() else shutil.copytree
            self.root.mkdir(exist_ok=True)
            copy(source, self.root / part)
        self.folder.mkdir()
        self.study = tiny.lay_out(self.folder, tiny.study())
        self.before = self.plan().code

    def plan(self) -> dry_run.Plan:
        _forget()
        return dry_run.plan(self.root / "Snakefile", self.folder, self.study)

    def reruns(self, file: str, edit: Callable[[str], str]) -> set[str]:
        """Jobs that run again after an edit of ``file``, which is undone."""
        path = self.root / file
        text = path.read_text()
        edited = edit(text)
        assert edited != text
        path.write_text(edited)
        try:
            plan = self.plan()
        finally:
            path.write_text(text)
        assert plan.code.keys() == self.before.keys()
        return plan.behind({job for job, code in plan.code.items() if code != self.before[job]})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("rerun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "LIBRARY", root / "project/scripts/myostage")
        yield Project(root)
    _forget()


def _forget() -> None:
    """Digests remember the files that they have read."""
    for remembered in (provenance._imports, provenance._meaning):
        remembered.cache_clear()


def code(text: str) -> str:
    """An edit that means something."""
    return text + "\nEDITED = True\n"


def cell(text: str) -> str:
    """The same in a notebook."""
    notebook = json.loads(text)
    notebook["cells"][-1]["source"] += "\nEDITED = True"
    return json.dumps(notebook)


def docstring(text: str) -> str:
    """Another first docstring."""
    return text.replace('"""', '"""Edited. ', 1)


def message(text: str) -> str:
    """Other words in the first error message."""
    return re.sub(r'(raise UserError\(\s*f?")', r"\1edited: ", text, count=1)


def trains(jobs: set[str]) -> set[str]:
    return {job for job in jobs if job.startswith(("train", "baselines", "dino"))}


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        ("scripts/myostage/learning/train.py", docstring),
        ("scripts/myostage/runtime/jobs.py", docstring),
        ("scripts/myostage/learning/bags.py", message),
        ("scripts/myostage/slides/reader.py", message),
    ],
)
def test_words_run_nothing_again(project: Project, file: str, edit: Callable[[str], str]) -> None:
    assert project.reruns(file, edit) == set()


@pytest.mark.parametrize(
    ("file", "edit", "first"),
    [
        ("notebooks/metrics.ipynb", cell, "look_metrics"),
        ("scripts/myostage/figures/plots.py", code, "look_metrics"),
        ("scripts/myostage/palette.py", code, "look_metrics"),
        ("scripts/myostage/report/findings.py", code, "summary"),
        ("scripts/myostage/evaluation/metrics.py", code, "evaluate"),
        ("scripts/myostage/export/geojson.py", code, "export"),
    ],
)
def test_what_is_made_of_predictions_trains_nothing(
    project: Project, file: str, edit: Callable[[str], str], first: str
) -> None:
    again = project.reruns(file, edit)
    assert first in again and not trains(again) and not again & {"segment:slides1", "crop:slides1"}


def test_a_loss_runs_again_what_uses_it(project: Project) -> None:
    assert trains(project.reruns("scripts/myostage/learning/losses.py", code)) == {"x"}


def test_the_tissue_mask_runs_again_everything_behind_it(project: Project) -> None:
    again = project.reruns("scripts/myostage/slides/tissue.py", code)
    assert again == project.plan().behind({"tile:slides1"})
    assert trains(again) == trains(set(project.before)) and {"split", "evaluate", "summary"} <= again
