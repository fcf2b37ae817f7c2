"""Labels of slides, neighbours and scores through the whole workflow, on a tiny phantom study."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features_table
from myostage import tables
from myostage.evaluation.tables import BORDERS, COMPARISONS, METRICS, SPECTRUM
from myostage.features import ready_made
from myostage.learning.tables import HISTORY
from support import feature_sets, tiny

pytestmark = pytest.mark.workflow

SLIDE = {"method": "slide", "part": "attention"}


def study() -> dict[str, Any]:
    return tiny.study() | {
        "study": "near",
        "healthy": {"groups": ["d0"], "stages": ["intact"]},
        "slide_labels": {
            "injured": {"kind": "binary", "classes": {"well": ["d0"], "injured": ["d5"]}},
            "day": {"kind": "ordinal", "column": "day", "classes": {"early": ["0"], "late": ["5"]}},
        },
        "experiments": [
            {"name": "prop", "losses": {"prop": 1}},
            {"name": "smooth", "losses": {"prop": 1}, "training": {"smooth": "logits"}},
            {"name": "rebuilt", "losses": {"prop": 1, "spatial_reconstruction": 1}},
            {
                "name": "terms",
                "losses": {"mse": 1, "dist": 1, "supcr": 1, "cell": 1},
                "training": {"steps": 12},
                "vary": {"score": ["expected_stage", "score"]},
                "part": "regression",
            },
            {"name": "abmil", "mil": {"model": "abmil"}, **SLIDE},
            {"name": "smap", "vary": {"mil.placement": ["early", "late"]}, **SLIDE},
            {"name": "by_day", "mil": {"label": "day"}, **SLIDE},
            {"name": "diverging", "training": {"learning_rate": 1e30}, **SLIDE},
            {"name": "srmil", "mil": {"model": "srmil", "width": 4}, "method": "slide", "part": "spatial"},
        ],
        "compare": {"reference": "prop", "slides": "abmil"},
        "jobs": {"slides_per_job": 4, "runs_per_job": 40, "threads": 1},
    }


def lay_out(folder: Path) -> None:
    tiny.lay_out(folder, study())
    shares = "\nd0\t0\t0\t0\t0\t1\nd5\t0.1\t0.15\t0.25\t0\t0.5\n"
    (folder / "proportions.tsv").write_text("group\t" + "\t".join(tiny.STAGES) + shares)
    rows = [
        f"{group}{animal}\tphantom/{group}{animal}.tif\t{group}\t{group}{animal}\tphantom/{group}{animal}.geojson"
        f"\t{group[1:]}\t{score}\t{border}"
        for group, animal, score, border in (
            ("d0", "a", 0, ""),
            ("d0", "b", 0, ""),
            ("d5", "a", 0.4, "sharp"),
            ("d5", "b", 0.6, "diffuse"),
        )
    ]
    header = "slide\tpath\tgroup\tanimal\tannotations\tday\tscore\tborder\n"
    (folder / "slides.tsv").write_text(header + "\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near")
    lay_out(folder)
    result = tiny.run(folder, "neighbours")
    assert result.returncode == 0, result.stderr[-6000:]
    return folder / "results/near"


def test_tables_say_what_is_known_and_miss_the_rest(done: Path) -> None:
    metrics = tables.read(done / "slides_metrics.parquet", METRICS)
    whole = metrics[metrics["run"] == ""].set_index(["experiment", "metric"])["value"]
    ended = [name for name in whole.index.get_level_values(0).unique() if name != "diverging"]
    assert ended == [
        "abmil", "smap[placement=early]", "smap[placement=late]", "by_day", "srmil",
        "srmil[coordinates=permuted]",
    ]  # fmt: skip
    for name in ended:
        assert 0 <= whole[name, "bag_auroc"] <= 1 and 0 <= whole[name, "instance_auroc"] <= 1
        assert whole[name, "energy"] >= 0
    assert whole["diverging"].isna().all()
    comparisons = tables.read(done / "slides_comparisons.parquet", COMPARISONS)
    control = comparisons[(comparisons["experiment"] == "srmil") & (comparisons["family"] == "against")]
    assert set(control["reference"]) == {"srmil[coordinates=permuted]"}
    of_slides = tables.read(done / "metrics.parquet", METRICS)
    scored = of_slides[(of_slides["metric"] == "stage_mae") & (of_slides["run"] == "")]
    assert np.isfinite(scored["value"]).all() and len(scored) == 6


def test_what_is_measured_of_attention_and_embeddings_is_there(done: Path) -> None:
    spectrum = tables.read(done / "spectrum.parquet", SPECTRUM)
    assert set(spectrum["signal"]) == {"raw", "smoothed"} and set(spectrum["slide"]) == {
        "d0a",
        "d0b",
        "d5a",
        "d5b",
    }
    energy = spectrum.groupby(["experiment", "signal"])["energy"].mean().unstack()
    assert (energy["smoothed"] <= energy["raw"] + 1e-9).all()
    borders = tables.read(done / "borders.parquet", BORDERS)
    assert {"sharp", "diffuse", "all"} == set(borders["border"]) and borders["correct"].between(0, 1).all()
    history = tables.read(next(done.glob("runs/cell+dist+mse+supcr-*/history.parquet")), HISTORY)
    assert history[["mse", "dist", "supcr", "cell"]].notna().any().all()
    assert history["conflict"].notna().sum() in (1, 2)


def test_figures_and_page_are_there(done: Path) -> None:
    for figure in (
        "attention_table", "spatial_table", "regression_table", "placement", "spectrum", "borders",
        "attention_maps", "control", "conflict", "algebra",
    ):  # fmt: skip
        assert (done / f"figures/{figure}.png").stat().st_size > 5000, figure
    page = (done / "summary.html").read_text()
    text = re.sub(r"base64,[^\"']*|loss nan, gradient norm nan", "", page)  # why a run failed may say so
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_nothing_is_left_to_do_and_another_alpha_trains_only_itself(done: Path) -> None:
    folder = done.parents[1]
    again = tiny.run(folder, "neighbours", "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
    content = study()
    content["experiments"].append(
        {"name": "other", "method": "slide", "mil": {"alpha": 0.9}, "part": "attention"}
    )
    (folder / "study.yaml").write_text(tiny.yaml.safe_dump(content))
    planned = tiny.run(folder, "neighbours", "--dry-run")
    text = planned.stdout + planned.stderr
    assert "Training runs (other-1)" in text and text.count("Training runs (") == 1


def test_a_study_without_neighbours_says_so(tmp_path: Path) -> None:
    content = tiny.study()
    tiny.lay_out(tmp_path, content)
    result = tiny.run(tmp_path, "neighbours", "--dry-run")
    assert result.returncode != 0 and "no experiment with labels of slides" in result.stderr + result.stdout


def test_a_public_benchmark_runs_from_its_files_to_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = feature_sets.generate(tmp_path / "data", "camelyon16", bags=8)
    features_table.main(feature_sets.arguments(given))
    (tmp_path / "slides.tsv").write_text(capsys.readouterr().out)
    content = tiny.yaml.safe_load((tiny.ROOT / "config/camelyon16.yaml").read_text())
    content |= {"slides": "slides.tsv", "folds": 2, "seeds": [0], "training": {"steps": 6}}
    content["experiments"] = [{"name": "smap", "method": "slide"}]
    content["compare"] = {}
    content["jobs"] = {"slides_per_job": 8, "threads": 1}
    (tmp_path / "study.yaml").write_text(tiny.yaml.safe_dump(content))
    variables = os.environ | {ready_made.SOURCES["camelyon16"].variable: str(tmp_path / "data")}
    result = subprocess.run(
        tiny.command(tmp_path, "tables"), capture_output=True, text=True, cwd=tiny.ROOT, env=variables
    )
    assert result.returncode == 0, result.stderr[-6000:]
    metrics = tables.read(tmp_path / "results/camelyon16/slides_metrics.parquet", METRICS)
    whole = metrics[metrics["run"] == ""].set_index("metric")
    assert {"bag_auroc", "instance_auroc", "energy"} <= set(whole.index)
    assert np.isfinite(whole["value"]).all() and whole.loc["bag_auroc", "slides"] == 8
