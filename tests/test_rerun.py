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
    """A copy of the project, the tiny study in a folder beside it, and what is planned before edits."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root / "project", root / "study"
        for part in PARTS:
            source = tiny.ROOT / part
            copy = shutil.copy if source.is_file() else shutil.copytree
            self.root.mkdir(exist_ok=True)
            copy(source, self.root / part)
        self.folder.mkdir()
        self.study = tiny.lay_out(self.folder, tiny.study())
        self.before = self.plan()

    def plan(self) -> dry_run.Plan:
        _forget()
        return dry_run.plan(self.root / "Snakefile", self.folder, self.study)

    def edited(self, edit: Callable[[str], str], *files: str) -> dry_run.Plan:
        """What is planned after edits of ``files``, which are undone."""
        texts = {self.root / file: (self.root / file).read_text() for file in files}
        try:
            for path, text in texts.items():
                path.write_text(edit(text))
                assert path.read_text() != text, path
            plan = self.plan()
        finally:
            for path, text in texts.items():
                path.write_text(text)
        assert plan.code.keys() == self.before.code.keys()
        return plan

    def reruns(self, plan: dry_run.Plan) -> set[str]:
        """Jobs that run again: those whose code is another, and all that wait for their outputs."""
        return plan.behind({job for job, code in plan.code.items() if code != self.before.code[job]})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("rerun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "LIBRARY", root / "project/scripts/myostage")
        yield Project(root)
    _forget()


def _forget() -> None:
    """Digests remember the files that they have read."""
    for remembered in (provenance._tree, provenance._imports, provenance._meaning):
        remembered.cache_clear()


def code(text: str) -> str:
    """An edit that means something."""
    return text + "\nEDITED = True\n"


def cell(text: str) -> str:
    """The same in a notebook."""
    notebook = json.loads(text)
    notebook["cells"][-1]["source"] += "\nEDITED = True"
    return json.dumps(notebook)


def words(text: str) -> str:
    """Another docstring of the module, another comment, another text of every error and every key."""
    text = text.replace('"""', '"""Edited. ', 1) + "\n# edited\n"
    text = re.sub(r'(raise \w+\(\s*f?")', r"\1edited: ", text)
    return re.sub(r'( = key\([^"\n]+, ")', r"\1edited: ", text)


def test_words_run_nothing_again(project: Project) -> None:
    files = (
        "cells/cellpose.py",
        "learning/bags.py",
        "learning/train.py",
        "runtime/jobs.py",
        "slides/reader.py",
        "slides/tissue.py",
        "study/sections/training.py",
    )
    assert project.reruns(project.edited(words, *(f"scripts/myostage/{file}" for file in files))) == set()


def test_figures_and_sentences_run_again_alone(project: Project) -> None:
    files = ("figures/style.py", "palette.py", "report/findings.py")
    plan = project.edited(code, *(f"scripts/myostage/{file}" for file in files))
    again = project.reruns(plan)
    assert {"look_metrics", "summary"} <= again
    assert not again & {"evaluate", "stage", "geometry", "gradients", "split"}
    assert not plan.trained(project.before)


def test_a_notebook_or_a_figure_runs_again_its_theme_and_the_page(project: Project) -> None:
    for edit, file in ((cell, "notebooks/metrics.ipynb"), (code, "scripts/myostage/figures/forest.py")):
        again = {job for job in project.reruns(project.edited(edit, file)) if not job.startswith("figure_")}
        assert again == {"look_metrics", "summary"}


def test_metrics_and_exports_train_nothing(project: Project) -> None:
    files = ("evaluation/metrics/cells.py", "export/geojson.py")
    plan = project.edited(code, *(f"scripts/myostage/{file}" for file in files))
    assert {"evaluate", "export", "summary"} <= project.reruns(plan)
    assert not plan.trained(project.before)


@pytest.mark.parametrize("terms", [("dist", "vat"), ("simprop",)])
def test_a_loss_term_trains_exactly_the_runs_that_use_it(project: Project, terms: tuple[str, ...]) -> None:
    plan = project.edited(code, *(f"scripts/myostage/learning/terms/{term}.py" for term in terms))
    runs = [spec for specs in tiny.runs(tiny.study()).values() for spec in specs]
    using = {spec.id for spec in runs if spec.losses.keys() & set(terms)}
    assert plan.trained(project.before) == using & plan.runs.keys() != set()


def test_the_tissue_mask_runs_again_everything_behind_it(project: Project) -> None:
    plan = project.edited(code, "scripts/myostage/slides/tissue.py")
    again = project.reruns(plan)
    assert again == plan.behind({"tile:slides1"})
    assert {job for job, _ in plan.runs.values()} | {"split", "evaluate", "summary"} <= again
