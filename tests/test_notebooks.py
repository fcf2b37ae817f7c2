"""Every figure is drawn from tables of a study, and every notebook draws the figures of its theme."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import yaml

from myostage import tables
from myostage.figures.record import THEMES, records
from myostage.report import drawing
from myostage.slides.tables import SLIDES
from support import drawn_worlds, study_tables

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SLIDE = "d7_a1"
# drawn by figures/test_embedding.py
OF_EMBEDDINGS = {"gradients", "biology", "similarity", "embedding"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> study_tables.Made:
    made = study_tables.make(tmp_path_factory.mktemp("study"), cells=25)
    study_tables.add_neighbours(made)
    return made


def _arguments(made: study_tables.Made) -> dict[str, dict[str, Any]]:
    """What every figure is made from."""
    staged = {"stages": list(study_tables.STAGES)}
    of = {name: made.of(name) for name in ("cells", "crops", "labels", "stages")}
    runs = {
        name: [str(made.root / f"{name}-{run}.parquet") for run in range(3)]
        for name in ("combined", "prop", "whole", "halves", "srmil", "srmil-permuted")
    }
    of_slide = {"slide": SLIDE, "cells": of["cells"][SLIDE], "predictions": of["stages"][SLIDE]}
    compared = {"comparisons": made.study("slide_comparisons")}
    measured = compared | {"metrics": made.study("slide_metrics")}
    drawn = (SLIDE, "d3_a2")
    return {
        "algebra": {"algebra": made.study("algebra")},
        "attention_maps": {
            "cells": {slide: of["cells"][slide] for slide in drawn},
            "labels": {slide: of["labels"][slide] for slide in drawn},
            "attention": {
                name: [str(made.root / f"{name}-attention-{run}.parquet") for run in range(2)]
                for name in study_tables.SMOOTHED
            },
            "healthy": [3, 4],
            "mpp": study_tables.MPP,
        },
        "borders": {
            "borders": made.study("borders"),
            "without": study_tables.SMOOTHED[0],
            "experiments": list(study_tables.SMOOTHED[1:]),
        },
        "conflict": {"histories": {name: runs[name] for name in ("whole", "halves", "prop")}},
        "control": compared
        | {
            "histories": {name: runs[name] for name in ("srmil", "srmil-permuted")},
            "pairs": {"srmil": "srmil-permuted"},
        },
        "placement": measured | {"points": study_tables.POINTS, "reference": "abmil"},
        "slide_metrics": measured
        | {
            "runs": made.study("runs"),
            "experiments": ["abmil", *study_tables.POINTS, "broken"],
            "columns": ["bag_auroc", "bag_f1", "instance_auroc", "energy"],
            "against": dict.fromkeys(study_tables.POINTS, "abmil"),
            "study": "demo",
        },
        "spectrum": {"spectrum": made.study("spectrum")},
        "composition": staged
        | {"scores": made.study("scores"), "given": study_tables.GIVEN, "experiment": "combined"},
        "regimes": {
            "comparisons": drawn_worlds.write(made.root).as_posix(),
            "maps": {"noise": drawn_worlds.MAPS["noise"]},
            "metric": "accuracy",
            "alpha": 0.05,
        },
        "convergence": {"curves": drawn_worlds.write_curves(made.root).as_posix()},
        "confusions": staged
        | {"confusion": made.study("confusion"), "experiments": ["combined", "majority"]},
        "reliability": {name: made.study(name) for name in ("reliability", "metrics", "runs")}
        | {"stages": study_tables.STAGES, "experiment": "combined"},
        "cost": {"runs": made.study("runs"), "experiments": ["combined", "broken"], "study": "demo"},
        "counts": {"slides": made.study("slides"), "cells": of["cells"], "crops": of["crops"]},
        "curves": {"histories": {name: runs[name] for name in ("combined", "prop")}},
        "forest": {
            "comparisons": made.study("comparisons"),
            "runs": made.study("runs"),
            "groups": [["Losses", ["combined", "broken"]], ["Ceiling", ["supervised"]]],
            "study": "demo",
        },
        "grid": {
            "metrics": made.study("metrics"),
            "comparisons": made.study("comparisons"),
            "runs": made.study("runs"),
            "points": {"combined": [0.1, 6], study_tables.REFERENCE: [0.2, 6], "broken": [0.1, 10]},
            "marked": [[0.1, 6, "paper"]],
        },
        "gallery": staged
        | {
            "predictions": of["stages"],
            "crops": of["crops"],
            "labels": of["labels"],
            "experiment": "combined",
        },
        "metrics": {
            "metrics": made.study("metrics"),
            "comparisons": made.study("comparisons"),
            "runs": made.study("runs"),
            "baselines": ["majority"],
            "label_learners": ["supervised"],
            "quoted": [{"method": "OSLSP", "metric": "rmse", "value": 2.152, "source": "arXiv 2505.04150"}],
            "study": "demo",
        },
        "recovery": {"scores": made.study("scores"), "experiments": ["combined"]},
        "robustness": {
            "metrics": made.study("metrics"),
            "comparisons": made.study("comparisons"),
            "curves": {"prop": {"0.0": study_tables.REFERENCE, "0.3": "combined"}},
            "metric": "accuracy",
        },
        "wrong_tables": {"wrong_tables": made.study("wrong_tables"), "metric": "accuracy"},
        "sizes": staged | {"cells": of["cells"], "predictions": of["stages"], "groups": made.groups},
        "stage_map": staged
        | of_slide
        | {
            "slides": made.study("slides"),
            "labels": of["labels"][SLIDE],
            "mpp": study_tables.MPP,
            "experiment": "c",
        },
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.metadata.get("tags") == ["parameters"] for cell in code] == [True] + [False] * (
        len(code) - 1
    )
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_draws_figures_of_its_theme(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    drawn = [key for cell in cells for key in re.findall(r'theme\.draw\("(\w+)"\)', cell.source)]
    assert [records()[key].theme for key in drawn] == [path.stem] * len(drawn) and drawn
    assert cells[-1].source == "theme.draw_others()"


def test_every_figure_has_a_theme_and_is_tested(made: study_tables.Made) -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(THEMES)
    assert {record.theme for record in records().values()} == set(THEMES)
    assert set(records()) == OF_EMBEDDINGS | _arguments(made).keys()


@pytest.mark.parametrize("key", sorted(set(records()) - OF_EMBEDDINGS))
def test_a_figure_is_written_with_its_numbers(key: str, made: study_tables.Made, tmp_path: Path) -> None:
    drawing.write(drawing.make(key, _arguments(made)[key], {}), tmp_path / key)
    written = {file.name for file in tmp_path.iterdir() if file.stat().st_size > 0}
    assert {f"{key}{ending}" for ending in records()[key].endings} <= written


def test_the_main_table_needs_nothing_but_metrics(made: study_tables.Made, tmp_path: Path) -> None:
    drawing.write(drawing.make("metrics", {"metrics": made.study("metrics")}, {}), tmp_path / "metrics")
    page = (tmp_path / "metrics.html").read_text(encoding="utf-8")
    assert page.count("<table") == 1 and "p (Holm)" not in page


def test_papermill_draws_a_theme_and_names_the_figure_that_fails(
    made: study_tables.Made, tmp_path: Path
) -> None:
    figures = {
        name: {"key": key, "files": _arguments(made)[key], "parameters": {}}
        for name, key in (("confusions", "confusions"), ("forest", "forest"), ("other", "robustness"))
    }
    figures["forest"]["files"] = {**figures["forest"]["files"], "comparisons": "gone.parquet"}
    done = papermill.execute_notebook(
        ROOT / "notebooks" / "metrics.ipynb",
        tmp_path / "done.ipynb",
        {
            "scripts": str(ROOT / "scripts"),
            "out": str(tmp_path),
            "figures": figures,
            "outcomes": str(tmp_path / "outcomes.json"),
        },
        progress_bar=False,
    )
    faults = json.loads((tmp_path / "outcomes.json").read_text(encoding="utf-8"))
    assert faults.pop("forest").startswith("gone.parquet") and faults == {"confusions": "", "other": ""}
    assert (tmp_path / "confusions.svg").exists() and (tmp_path / "other.svg").exists()
    shown = [output.get("data", {}) for cell in done.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in data for data in shown) == 2


def test_the_map_of_a_skipped_slide_says_why_there_is_none(made: study_tables.Made, tmp_path: Path) -> None:
    slides = tables.read(made.study("slides"), SLIDES)
    slides.loc[slides["slide"] == SLIDE, ["status", "reason", "path"]] = ["skipped", "it is torn", "gone.tif"]
    tables.write(tmp_path / "slides.parquet", slides, SLIDES)
    given = _arguments(made)["stage_map"] | {"slides": str(tmp_path / "slides.parquet")}
    drawing.write(drawing.make("stage_map", given, {}), tmp_path / "map")
    assert "it is torn" in (tmp_path / "map.svg").read_text(encoding="utf-8")


def test_the_headline_is_printed_with_the_place_of_the_report(
    made: study_tables.Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    study = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text(encoding="utf-8"))
    study["results"] = str(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    command = [sys.executable, "scripts/headline.py", str(tmp_path / "study.yaml")]
    missing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (
        missing.returncode == 1 and "run the workflow" in missing.stderr and "Traceback" not in missing.stderr
    )
    results = tmp_path / study["study"]
    results.mkdir()
    shutil.copy(made.study("metrics"), results / "metrics.parquet")
    (results / "report.zip").touch()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("combined: accuracy .680 [.590, .750] on 3,402 cells of 8 slides; majority .37")
    assert said[-1] == f"report: {results / 'report.zip'}"
