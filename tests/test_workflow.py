"""The workflow on a tiny phantom study, from start to end, changed, killed and with bad slides."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from myostage import tables
from myostage.cells.tables import CELLS
from myostage.evaluation.tables import METRICS, RUNS
from myostage.slides.tables import SLIDES
from myostage.study import config
from support.tiny import ROOT, SNAKEMAKE, command, lay_out, run, study

NOTHING = "Nothing to be done"

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    lay_out(folder, study())
    result = run(folder)
    assert result.returncode == 0, result.stderr[-6000:]
    return folder


@pytest.fixture
def change(done: Path) -> Any:
    """Write a changed study file; the old one comes back afterwards."""

    def write(mend: Callable[[dict[str, Any]], Any]) -> Path:
        content = study()
        mend(content)
        lay_out(done, content)
        return done

    yield write
    lay_out(done, study())


def planned(folder: Path) -> set[str]:
    """Rules that a dry-run would run, and train:batch for every batch of runs."""
    result = run(folder, "--dry-run")
    assert result.returncode == 0, result.stderr[-4000:]
    text = result.stdout + result.stderr
    if NOTHING in text:
        return set()
    table = text.split("Job stats:")[1].split("\n\n")[0]
    found = {line.split()[0] for line in table.strip().splitlines()[2:]} - {"paper", "total", "train"}
    return found | {f"train:{batch}" for batch in re.findall(r"Training runs \((.+)\)", text)}


def rules(jobs: set[str]) -> set[str]:
    return {job.partition(":")[0] for job in jobs}


def test_a_run_makes_what_it_promises(done: Path) -> None:
    results = done / "results/tiny"
    metrics = tables.read(results / "metrics.parquet", METRICS)
    whole = metrics[(metrics["run"] == "") & (metrics["metric"] == "accuracy")]
    assert set(whole["experiment"]) == {
        "combined", "simprop", "majority", "grid[sigma=0.1]", "grid[sigma=0.3]", "dino", "diverging",
    }  # fmt: skip
    whole = whole[whole["experiment"] != "diverging"]
    assert (whole["low"] <= whole["value"]).all() and (whole["value"] <= whole["high"]).all()
    figures = sorted((results / "figures").rglob("*.png"))
    assert {
        "composition.png",
        "confusions.png",
        "metrics.png",
        "forest.png",
        "grid.png",
        "similarity.png",
        "gradients.png",
        "curves.png",
        "gallery.png",
    } <= {f.name for f in figures}
    for figure in figures:
        with Image.open(figure) as image:
            assert min(image.size) > 200
        assert figure.with_suffix(".svg").read_text().lstrip().startswith("<?xml")
    cells = tables.read(results / "slides/d0a/cells.parquet", CELLS)
    features = json.loads((results / "slides/d0a/cells.geojson").read_text())["features"]
    assert len(features) == len(cells) == len(pd.read_csv(results / "slides/d0a/cells.csv")) > 10


def test_a_run_that_diverges_is_marked_and_the_rest_goes_on(done: Path) -> None:
    results = done / "results/tiny"
    runs = tables.read(results / "runs.parquet", RUNS).groupby("experiment")["status"].agg(set)
    assert runs.pop("diverging") == {"failed"}
    assert set(map(tuple, runs)) == {("ok",)}
    reasons = tables.read(results / "runs.parquet", RUNS).query("status == 'failed'")["reason"]
    assert reasons.str.contains("not finite at step").all()
    page = (results / "summary.html").read_text()
    assert "diverging" in page and "not finite at step" in page
    assert "failed (2 of 2 runs)" in (results / "figures/metrics.html").read_text()


def test_what_cannot_run_is_left_out_and_named(done: Path) -> None:
    assert "absent.pth does not exist" in (done / "results/tiny/summary.html").read_text()


def test_a_point_of_the_grid_that_is_there_already_is_not_trained_again(done: Path) -> None:
    runs = tables.read(done / "results/tiny/runs.parquet", RUNS).groupby("experiment")["run"].agg(set)
    assert runs["grid[sigma=0.1]"] == runs["combined"]
    assert not list((done / "results/tiny/logs/train").glob("grid*0.1*"))


def test_another_point_of_the_grid_trains_that_point_alone(change: Any) -> None:
    folder = change(lambda content: content["experiments"][3]["vary"].update(sigma=[0.1, 0.2, 0.3]))
    assert {job for job in planned(folder) if job.startswith("train")} == {"train:grid_sigma_0.2-1"}


def test_every_output_says_what_made_it(done: Path) -> None:
    results = done / "results/tiny"
    patterns = ("logs/*/*.json", "slides/*/made/**/*.json", "runs/*/made/*.json")
    files = [file for pattern in patterns for file in results.glob(pattern)]
    statements = [json.loads(path.read_text()) for path in files]
    made = {output for statement in statements for output in statement["outputs"]}
    tables = {str(path.relative_to(done)) for path in results.rglob("*.parquet")}
    assert tables and tables <= made
    assert all(statement["versions"]["torch"] for statement in statements)
    assert all(statement["specification"].get("code") for statement in statements)


def test_a_second_run_does_nothing(done: Path) -> None:
    assert planned(done) == set()


def test_touched_library_and_tables_rerun_nothing(done: Path) -> None:
    (done / "proportions.tsv").touch()
    (ROOT / "scripts/train.py").touch()
    (ROOT / "scripts/myostage/losses.py").touch()
    assert planned(done) == set()


def test_sigma_trains_only_the_runs_concerned(change: Any) -> None:
    folder = change(lambda content: content["experiments"][1].update(training={"sigma": 0.2}))
    jobs = planned(folder)
    assert {job for job in jobs if job.startswith("train")} == {"train:simprop-1"}
    assert not rules(jobs) & {"check", "split", "label", "segment", "embed"}


def test_another_bag_size_is_checked_before_its_runs_train(change: Any) -> None:
    folder = change(lambda content: content["experiments"][1].update(training={"bag_size": 11}))
    assert {job for job in planned(folder) if job.startswith(("precheck", "train"))} == {
        "precheck_slide_11",
        "train:simprop-1",
    }


def test_a_renamed_experiment_trains_nothing(change: Any) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["experiments"][0]["name"] = content["compare"]["reference"] = "renamed"

    folder = change(rename)
    result = run(folder, "tables")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "is there already" in (folder / "results/tiny/logs/train/renamed-1.log").read_text()
    assert not {"segment", "embed"} & rules(planned(folder))


def test_diameter_reruns_from_segmentation_on(change: Any) -> None:
    folder = change(lambda content: content["segmentation"].update(diameter_um=30))
    jobs = rules(planned(folder))
    assert {"segment", "train", "evaluate"} <= jobs
    assert not jobs & {"tile", "check"} and not any(job.startswith("phantom") for job in jobs)


def test_a_typo_is_one_sentence(change: Any) -> None:
    folder = change(lambda content: content["training"].update(simga=0.2))
    result = run(folder, "--dry-run")
    text = result.stdout + result.stderr
    assert result.returncode != 0
    assert "simga" in text and "sigma" in text
    assert "Traceback" not in text


def test_a_killed_workflow_goes_on_where_it_stopped(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = study()
    content.pop("compare")
    content["experiments"] = [
        {
            "name": "long",
            "losses": {"simprop": 1, "prop": 1},
            "training": {"steps": 400, "checkpoint_every": 20},
        }
    ]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        shutil.copytree(done, folder)
        lay_out(folder, content)
    monkeypatch.chdir(undisturbed)
    name = config.expand(config.load_study(content, files=False))["long"][0].id
    files = [f"results/tiny/runs/{name}/{file}.parquet" for file in ("predictions", "history")]
    target = "results/tiny/made/train/long-1.json"
    assert run(undisturbed, target).returncode == 0

    process = subprocess.Popen(
        command(killed, target), cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    checkpoints = killed / f"results/tiny/runs/{name}/checkpoint"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("phase*.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / files[0]).exists()
    result = run(killed, target)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "resumed at step" in (killed / "results/tiny/logs/train/long-1.log").read_text()
    for file in files:
        pd.testing.assert_frame_equal(pd.read_parquet(killed / file), pd.read_parquet(undisturbed / file))


def test_a_bad_slide_is_skipped_and_named(done: Path, tmp_path: Path) -> None:
    content = study()
    content.pop("phantom")
    content.pop("compare")
    content.update(on_bad_slide="skip", experiments=[{"name": "majority", "method": "majority"}])
    lay_out(tmp_path, content)
    (tmp_path / "phantom").mkdir()
    for name in ("d0a", "d0b", "d5a", "d5b"):
        (tmp_path / f"phantom/{name}.tif").write_bytes(b"no slide at all")
        (tmp_path / f"phantom/{name}.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    shutil.copy(done / "phantom/d5b.tif", tmp_path / "phantom")
    result = run(tmp_path, "results/tiny/slides.parquet")
    assert result.returncode == 0, result.stderr[-3000:]
    slides = tables.read(tmp_path / "results/tiny/slides.parquet", SLIDES)
    assert list(slides["status"]) == ["skipped", "skipped", "skipped", "ok"]
    assert "d0a.tif" in slides["reason"].iloc[0]
    content["on_bad_slide"] = "fail"
    lay_out(tmp_path, content)
    result = run(tmp_path, "results/tiny/slides.parquet")
    text = result.stdout + result.stderr
    assert result.returncode != 0
    assert all(f"{name}.tif" in text for name in ("d0a", "d0b", "d5a"))


def test_labelled_crops_become_a_study(tmp_path: Path) -> None:
    def script(name: str, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, str(ROOT / f"scripts/{name}.py"), *arguments], cwd=tmp_path, check=True
        )

    (tmp_path / "config").symlink_to(ROOT / "config")
    script("draw_crops", "--out", "images", "--stages", "young,middle,old", "--cells", "150")
    rows = [f"{image}\t{image.parent.name}" for image in sorted((tmp_path / "images").rglob("*.png"))]
    (tmp_path / "labelled.tsv").write_text("path\tlabel\n" + "\n".join(rows) + "\n")
    size = ("--groups", "2", "--animals", "2", "--cells", "20")
    script("compose_bags", "labelled.tsv", "--stages", "young,middle,old", "--out", "mine", *size)
    content = yaml.safe_load((tmp_path / "mine/study.yaml").read_text())
    content["encoder"] = study()["encoder"]
    content["training"] = {"steps": 3, "bag_size": 10}
    content["folds"] = 2
    kept = ("combined", "prop", "majority")
    content["experiments"] = [one for one in content["experiments"] if one["name"] in kept]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    result = run(tmp_path, "tables")
    assert result.returncode == 0, result.stderr[-4000:]
    metrics = tables.read(tmp_path / "results/mine/metrics.parquet", METRICS)
    accuracy = metrics[(metrics["run"] == "") & (metrics["metric"] == "accuracy")]
    assert set(accuracy["experiment"]) == set(kept) and set(accuracy["cells"]) == {80}


@pytest.mark.parametrize("name", ["demo", "demo_ablation", "paper", "transfer"])
def test_shipped_studies_dry_run_and_say_what_they_cost(name: str, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    table = pd.read_csv(ROOT / f"config/{name}/slides.tsv", sep="\t", dtype=str, comment="#")
    for column in ("path", "annotations"):
        for path in table[column][table[column].str.startswith("$")]:
            (slides / Path(path).name).write_text("{}")
    (tmp_path / "config").symlink_to(ROOT / "config")
    result = subprocess.run(
        [*SNAKEMAKE, "--dry-run", "--cores=2", f"--directory={tmp_path}", f"--configfile=config/{name}.yaml"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYOSTAGE_PAPER_SLIDES": str(slides)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (said,) = [line for line in result.stdout.splitlines() if line.startswith(f"{name}: ")]
    assert re.search(
        rf"{len(table)} slides, \d+ experiments, \d+ runs in \d+ training jobs.* GPU hours", said
    )
