"""The job of a theme keeps the figures that are drawn and names those that are not."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import papermill
import pytest

from myostage.paths import Paths

SCRIPT = Path(__file__).parents[2] / "scripts" / "look.py"
NOTEBOOKS = SCRIPT.parents[1] / "notebooks"


def test_a_figure_that_fails_is_named_and_the_others_are_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(str(tmp_path))
    figures = {
        name: {
            "key": name,
            "files": {},
            "parameters": {},
            "code": "1",
            "inputs": [],
            "caption": "Of |a - b|.",
        }
        | {"outputs": [paths.study(f"figures/{name}.png")]}
        for name in ("forest", "grid")
    }
    smk = SimpleNamespace(
        rule="look_metrics",
        params=SimpleNamespace(figures=figures),
        input=_Files(notebook=str(NOTEBOOKS / "metrics.ipynb")),
        output=[paths.receipt("look", "metrics")],
        log=[paths.log("look", "metrics")],
        resources={},
    )
    faults = {"forest": "", "grid": "metrics.parquet is gone"}
    drawn: list[set[str]] = []

    def execute(notebook: str, done: str, parameters: dict[str, Any], **more: Any) -> None:
        drawn.append(set(parameters["figures"]))
        for name in drawn[-1]:
            Path(parameters["out"]).mkdir(exist_ok=True)
            (Path(parameters["out"]) / f"{name}.png").write_text(name)
        outcomes = {name: faults[name] for name in drawn[-1]}
        Path(parameters["outcomes"]).write_text(json.dumps(outcomes))

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), {"snakemake": smk})
    assert "grid cannot be drawn: metrics.parquet is gone" in Path(smk.log[0]).read_text()
    assert (
        not Path(smk.output[0]).exists()
        and (tmp_path / "logs/look/forest.rst").read_text() == "Of \\|a - b\\|.\n"
    )
    faults["grid"] = ""
    runpy.run_path(str(SCRIPT), {"snakemake": smk})
    assert drawn == [{"forest", "grid"}, {"grid"}]
    assert set(json.loads(Path(smk.output[0]).read_text())["members"]) == {"forest", "grid"}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"<<<<<<< HEAD", b"\xff\xfe", b'{"cells": 3, "nbformat": 4}']
)
def test_a_damaged_notebook_is_named(tmp_path: Path, content: bytes) -> None:
    paths = Paths(str(tmp_path))
    notebook = tmp_path / "metrics.ipynb"
    notebook.write_bytes(content)
    figure = {"key": "forest", "files": {}, "parameters": {}, "code": "1", "inputs": [], "outputs": []}
    smk = SimpleNamespace(
        rule="look_metrics",
        params=SimpleNamespace(figures={"forest": figure | {"caption": ""}}),
        input=_Files(notebook=str(notebook)),
        output=[paths.receipt("look", "metrics")],
        log=[paths.log("look", "metrics")],
        resources={},
    )
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), {"snakemake": smk})
    said = Path(smk.log[0]).read_text()
    assert f"{notebook}: not a readable notebook" in said and "Traceback" not in said


class _Files(list[str]):
    """Files of a job, of which some have a name."""

    def __init__(self, *files: str, **named: str) -> None:
        super().__init__(files)
        self.__dict__ |= named
