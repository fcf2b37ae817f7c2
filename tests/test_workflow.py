"""The workflow on a tiny phantom study, from start to end, changed and killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from myostage import tables
from myostage.cells.tables import CELLS
from myostage.evaluation.tables import BORDERS, COMPARISONS, METRICS, RUNS, SCORES, SPECTRUM
from myostage.learning.tables import HISTORY
from myostage.runtime import provenance
from myostage.slides.tables import SLIDES
from support import dry_run, tiny

SNAKEFILE = tiny.ROOT / "Snakefile"

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.lay_out(folder, tiny.study())
    result = tiny.run(folder)
    assert result.returncode == 0, result.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def results(made: Path) -> Path:
    return made / "results/tiny"


@pytest.fixture
def planned(made: Path, tmp_path: Path) -> Callable[..., dry_run.Plan]:
    """What a study, changed or not, would run in the folder of the study that is made."""

    def plan(change: Callable[[dict[str, Any]], Any] = lambda content: None) -> dry_run.Plan:
        content = tiny.study()
        change(content)
        return dry_run.plan(SNAKEFILE, made, tiny.write(tmp_path / "changed.yaml", content))

    return plan


def test_tables_of_a_row_per_slide_carry_what_nothing_uses(results: Path) -> None:
    for name, table in (
        ("slides", SLIDES),
        ("scores", SCORES),
    ):
        found = tables.read(results / f"{name}.parquet", table)
        assert dict(zip(found["slide"], found["treatment"], strict=True)) == tiny.TREATMENT, name


def test_another_treatment_cuts_no_slide_and_trains_no_run(
    made: Path, planned: Callable[..., dry_run.Plan]
) -> None:
    table = made / "slides.tsv"
    text = table.read_text()
    try:
        table.write_text(text.replace("drug", "placebo"))
        rules = planned().rules
    finally:
        table.write_text(text)
    assert {"carry", "evaluate"} <= rules
    assert not rules & {"check", "tile", "segment", "crop", "embed", "split", "train"}


def named(content: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [experiment for experiment in content["experiments"] if experiment["name"] == name]
    return found


def ids(content: dict[str, Any], label: str) -> set[str]:
    """Ids of the runs of an experiment."""
    return {spec.id for spec in tiny.runs(content)[label]}


def pooled(path: Path) -> pd.DataFrame:
    metrics = tables.read(path, METRICS)
    return metrics[metrics["run"] == ""]


# --- what a run makes ---------------------------------------------------------------------------------------


def test_every_experiment_of_cells_is_measured(results: Path) -> None:
    metrics = pooled(results / "metrics.parquet").set_index("experiment")
    accuracy = metrics[metrics["metric"] == "accuracy"]
    assert set(accuracy.index) == {
        "combined", "simprop", "majority", "grid[sigma=0.1]", "grid[sigma=0.3]", "dino", "diverging", "long",
        "prop", "smooth", "rebuilt", "rebuilt[coordinates=permuted]", "terms[score=expected_stage]",
        "terms[score=score]",
    }  # fmt: skip
    accuracy = accuracy.drop("diverging")
    known = accuracy.dropna(subset="low")  # without any spread there is no interval
    assert len(known) > 8 and not accuracy["trusted"].any()  # of four animals
    assert (known["low"] <= known["value"]).all() and (known["value"] <= known["high"]).all()
    errors = metrics.loc[metrics["metric"] == "stage_mae", "value"]
    assert errors.drop("diverging").notna().all() and np.isnan(errors["diverging"])


def test_every_experiment_of_slides_is_measured(results: Path) -> None:
    values = pooled(results / "slides_metrics.parquet").set_index(["experiment", "metric"])["value"]
    ended = [name for name in values.index.get_level_values(0).unique() if name != "slide_diverging"]
    assert ended == [
        "abmil", "smap[placement=early]", "smap[placement=late]", "by_day", "srmil",
        "srmil[coordinates=permuted]",
    ]  # fmt: skip
    for name in ended:
        assert 0 <= values[name, "bag_auroc"] <= 1 and 0 <= values[name, "instance_auroc"] <= 1
        assert values[name, "energy"] >= 0
    assert values["slide_diverging"].isna().all()
    comparisons = tables.read(results / "slides_comparisons.parquet", COMPARISONS)
    control = comparisons[(comparisons["experiment"] == "srmil") & (comparisons["family"] == "against")]
    assert set(control["reference"]) == {"srmil[coordinates=permuted]"}


def test_attention_and_embeddings_are_measured(results: Path) -> None:
    spectrum = tables.read(results / "spectrum.parquet", SPECTRUM)
    assert set(spectrum["signal"]) == {"raw", "smoothed"}
    assert set(spectrum["slide"]) == {"d0a", "d0b", "d5a", "d5b"}
    energy = spectrum.groupby(["experiment", "signal"])["energy"].mean().unstack()
    assert (energy["smoothed"] <= energy["raw"] + 1e-9).all()
    borders = tables.read(results / "borders.parquet", BORDERS)
    assert {"sharp", "diffuse", "all"} == set(borders["border"]) and borders["correct"].between(0, 1).all()
    history = tables.read(next(results.glob("runs/cell+dist+mse+supcr-*/history.parquet")), HISTORY)
    assert history[["mse", "dist", "supcr", "cell"]].notna().any().all()
    assert history["conflict"].notna().sum() in (1, 2)


def test_figures_open(results: Path) -> None:
    figures = sorted((results / "figures").rglob("*.png"))
    assert {
        "composition", "confusions", "metrics", "forest", "grid", "similarity", "gradients", "curves",
        "reliability", "gallery",
        "attention_table", "spatial_table", "regression_table", "placement", "spectrum",
        "borders", "attention_maps", "control", "conflict", "algebra",
    } <= {file.stem for file in figures}  # fmt: skip
    for figure in figures:
        with Image.open(figure) as image:
            assert min(image.size) > 200
        assert figure.with_suffix(".svg").read_text().lstrip().startswith("<?xml")


def test_cells_go_to_qupath_and_csv(results: Path) -> None:
    cells = tables.read(results / "slides/d0a/cells.parquet", CELLS)
    features = json.loads((results / "slides/d0a/cells.geojson").read_text())["features"]
    assert len(features) == len(cells) == len(pd.read_csv(results / "slides/d0a/cells.csv")) > 10


def test_a_run_that_diverges_is_marked_and_the_rest_goes_on(results: Path) -> None:
    runs = tables.read(results / "runs.parquet", RUNS)
    assert set(runs.loc[runs["status"] == "failed", "experiment"]) == {"diverging"}
    assert set(runs.loc[runs["experiment"] == "diverging", "status"]) == {"failed"}
    assert runs.loc[runs["status"] == "failed", "reason"].str.contains("not finite at step").all()
    page = (results / "summary.html").read_text()
    assert "diverging" in page and "not finite at step" in page
    assert "failed (2 of 2 runs)" in (results / "figures/metrics.html").read_text()


def test_the_page_names_what_is_left_out_and_prints_no_missing_number(results: Path) -> None:
    page = (results / "summary.html").read_text()
    assert "absent.pth does not exist" in page
    text = re.sub(r"base64,[^\"']*|loss nan, gradient norm nan", "", page)  # why a run failed may say so
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_a_point_of_the_grid_that_is_trained_already_is_that_run(results: Path) -> None:
    runs = tables.read(results / "runs.parquet", RUNS).groupby("experiment")["run"].agg(set)
    assert runs["grid[sigma=0.1]"] == runs["combined"]


def test_every_output_says_what_made_it(made: Path, results: Path) -> None:
    members = ("slides/*/made/**/*.json", "runs/*/made/*.json", "encoders/*/made/*.json")
    patterns = ("logs/*/*.json", *members, "figures/made/*.json")
    files = [json.loads(file.read_text()) for pattern in patterns for file in results.glob(pattern)]
    # the others name outputs only, beside them
    statements = [statement for statement in files if "specification" in statement]
    stated = {output for statement in statements for output in statement["outputs"]}
    endings = (".parquet", ".safetensors", ".pt")
    written = {path for path in results.rglob("*") if path.suffix in endings}
    assert written and {str(path.relative_to(made)) for path in written} <= stated
    # and every file that a job hands on finds what was stated of it
    assert all(
        provenance.stated(path) for path in written if "tokens" not in path.parts and "qc" not in path.parts
    )
    assert all(statement["versions"]["torch"] for statement in statements)
    assert all(statement["specification"].get("code") for statement in statements)


# --- what a change runs again -------------------------------------------------------------------------------


def test_a_second_run_does_nothing_though_files_were_touched(made: Path) -> None:
    (made / "proportions.tsv").touch()
    for file in ("scripts/train.py", "scripts/myostage/learning/train.py"):
        (tiny.ROOT / file).touch()
    assert dry_run.plan(SNAKEFILE, made, made / "study.yaml").jobs == set()


@pytest.mark.parametrize(
    ("name", "changes", "label"),
    [
        ("grid", {"vary": {"sigma": [0.1, 0.2, 0.3]}}, "grid[sigma=0.2]"),
        ("simprop", {"training": {"sigma": 0.2}}, "simprop"),
        ("smap", {"vary": {"mil.placement": ["early", "mid", "late"]}}, "smap[placement=mid]"),
    ],
)
def test_a_changed_experiment_trains_its_new_runs_alone(
    planned: Callable[..., dry_run.Plan], name: str, changes: dict[str, Any], label: str
) -> None:
    changed = tiny.study()
    named(changed, name).update(changes)
    plan = planned(lambda content: named(content, name).update(changes))
    assert plan.trained(planned()) == ids(changed, label)
    assert {plan.runs[run][0] for run in ids(changed, label)} <= plan.jobs
    assert not plan.rules & {"check", "split", "label", "segment", "embed"}


def test_another_bag_size_is_checked_before_its_runs_train(planned: Callable[..., dry_run.Plan]) -> None:
    plan = planned(lambda content: named(content, "simprop").update(training={"bag_size": 11}))
    assert {rule for rule in plan.rules if rule.startswith("precheck")} == {"precheck_slide_11"}
    assert len(plan.trained(planned())) == 2


def test_a_renamed_experiment_trains_nothing(planned: Callable[..., dry_run.Plan]) -> None:
    def rename(content: dict[str, Any]) -> None:
        named(content, "combined")["name"] = content["compare"]["reference"] = "renamed"

    plan = planned(rename)
    assert plan.trained(planned()) == set() and "evaluate" in plan.rules
    assert not plan.rules & {"train", "segment", "embed"}


def test_diameter_reruns_from_segmentation_on(planned: Callable[..., dry_run.Plan]) -> None:
    rules = planned(lambda content: content["segmentation"].update(diameter_um=30)).rules
    assert {"segment", "train", "evaluate"} <= rules
    assert not rules & {"tile", "check"} and not any(rule.startswith("phantom") for rule in rules)


# --- what is refused, and what is killed --------------------------------------------------------------------


def lose(path: Path, aside: Path) -> Callable[[], Path]:
    """Move a file or folder away; what puts it back."""
    aside = path.rename(aside / path.name)
    return lambda: aside.rename(path)


@pytest.mark.parametrize(
    ("gone", "maker"),
    [
        ("slides.parquet", "carry"),
        ("slides/d0a/slide.parquet", "check"),
        ("slides/d0a/tiles.parquet", "tile:slides1"),
        ("slides/d0a/qc/cells.png", "segment:slides1"),
        ("slides/d5a/crops.parquet", "crop:slides1"),
        ("slides/d5a/labels.parquet", "label"),
        ("slides/d5a/tokens", "embed"),
        ("slides/d5a", "check"),
        ("encoders", "dino_"),
        ("splits.parquet", "split"),
        ("runs/*-f0-*/predictions.parquet", "train"),
        ("runs/*-f0-*", "train"),
        ("made/segment/slides1.json", "segment:slides1"),
        ("made", "tile:slides1"),
    ],
)
def test_what_is_deleted_is_made_again_with_all_that_depends_on_it(
    planned: Callable[..., dry_run.Plan], results: Path, tmp_path: Path, gone: str, maker: str
) -> None:
    path = min(results.glob(gone))
    put_back = lose(path, tmp_path)
    try:
        plan = planned()
    finally:
        put_back()
    makers = {job for job in plan.jobs if job.startswith(maker)}
    assert makers and plan.jobs == plan.behind(makers)


def test_what_is_deleted_is_made_again_for_what_depends_on_it_alone(
    made: Path, results: Path, tmp_path: Path
) -> None:
    put_back = lose(results / "splits.parquet", tmp_path)
    try:
        plan = dry_run.plan(SNAKEFILE, made, made / "study.yaml", "cells")
    finally:
        put_back()
    assert plan.jobs == set()


def test_a_damaged_receipt_is_one_sentence_before_anything_runs(made: Path, results: Path) -> None:
    receipt = results / "made/tile/slides1.json"
    text = receipt.read_text()
    receipt.write_text('{"members": 3, "outputs": {}}')
    try:
        said = dry_run.refusal(SNAKEFILE, made, made / "study.yaml")
    finally:
        receipt.write_text(text)
    assert "the receipt of a job is damaged" in said and "Traceback" not in said


def test_a_typo_is_one_sentence(tmp_path: Path) -> None:
    content = tiny.study()
    content["training"]["simga"] = 0.2
    tiny.lay_out(tmp_path, content)
    result = tiny.run(tmp_path, "--dry-run")
    said = result.stdout + result.stderr
    assert result.returncode != 0 and "Traceback" not in said
    assert "unknown key training.simga (did you mean sigma?)" in said


def test_a_study_without_neighbours_says_so(tmp_path: Path) -> None:
    study = tiny.lay_out(tmp_path, tiny.of_cells({"name": "prop", "losses": {"prop": 1}}))
    assert "no experiment with labels of slides" in dry_run.refusal(SNAKEFILE, tmp_path, study, "neighbours")


def test_a_killed_workflow_goes_on_where_it_stopped(made: Path, results: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(made, killed, ignore=shutil.ignore_patterns("runs", "train"))
    study = tiny.lay_out(killed, tiny.of_cells(named(tiny.study(), "long")))
    plan = dry_run.plan(SNAKEFILE, killed, study, "tables")
    name = min(plan.runs)
    batch = plan.runs[name][0].partition(":")[2]
    target, run = f"results/tiny/made/train/{batch}.json", killed / f"results/tiny/runs/{name}"
    process = subprocess.Popen(
        tiny.command(killed, target), cwd=tiny.ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 180
    while not list((run / "checkpoint").glob("phase*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "predictions.parquet").exists()
    result = tiny.run(killed, target)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "resumed at step" in (killed / f"results/tiny/logs/train/{batch}.log").read_text()
    for file in ("predictions", "history"):
        undisturbed = pd.read_parquet(results / f"runs/{name}/{file}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(run / f"{file}.parquet"), undisturbed)


@pytest.mark.parametrize("name", ["demo", "demo_ablation", "paper", "transfer"])
def test_shipped_studies_dry_run_and_say_what_they_cost(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    table = pd.read_csv(tiny.ROOT / f"config/{name}/slides.tsv", sep="\t", dtype=str, comment="#")
    for column in ("path", "annotations"):
        for path in table[column][table[column].str.startswith("$")]:
            (slides / Path(path).name).write_text(f'{{"name": "{Path(path).name}"}}')
    (tmp_path / "config").symlink_to(tiny.ROOT / "config")
    monkeypatch.setenv("MYOSTAGE_PAPER_SLIDES", str(slides))
    plan = dry_run.plan(SNAKEFILE, tmp_path, tiny.ROOT / f"config/{name}.yaml")
    (said,) = [line for line in plan.text.splitlines() if line.startswith(f"{name}: ")]
    cost = rf"{len(table)} slides, \d+ experiments, \d+ runs in \d+ training jobs.* GPU hours"
    assert re.search(cost, said)


def test_a_figure_whose_file_is_gone_is_drawn_again_alone(made: Path, results: Path) -> None:
    figure = results / "figures/forest.png"
    others = {file: file.stat().st_mtime_ns for file in figure.parent.glob("*.png") if file != figure}
    figure.unlink()
    result = tiny.run(made, "results/tiny/figures/forest.png")
    assert result.returncode == 0, result.stderr[-4000:]
    with Image.open(figure) as image:
        assert min(image.size) > 200
    assert {file: file.stat().st_mtime_ns for file in others} == others


# --- bytes that rot -----------------------------------------------------------------------------------------


def rot(path: Path) -> bytes:
    """Flip 8 bytes in the middle of a file, which keeps its size and its time; what it held."""
    before, content = path.stat(), path.read_bytes()
    start = len(content) // 2
    flipped = bytes(byte ^ 0xFF for byte in content[start : start + 8])
    path.write_bytes(content[:start] + flipped + content[start + 8 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return content


# A round: what rots, and what is made anew and reads it.
ROUNDS: list[dict[str, str]] = [
    {
        "slides/d5a/crops.parquet": "made/embed/*/*.json",
        "slides/d0a/cells.parquet": "slides/*/labels.parquet",
    },
    {"slides/d5b/tokens/*.parquet": "made/train/slides1.json"},
    {"splits.parquet": "precheck/*.json"},
]


@pytest.mark.parametrize("rotten", ROUNDS)
def test_rot_is_named_once_and_what_is_named_is_made_again(
    made: Path, rotten: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    results, held, readers = folder / "results/tiny", {}, []
    for file, read_by in rotten.items():
        path = min(results.glob(file))
        held[path] = rot(path)
        readers += results.glob(read_by)
    for reader in readers:
        reader.unlink()
    targets = [str(reader.relative_to(folder)) for reader in readers]
    failed = tiny.run(folder, *targets)
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0 and "Traceback" not in said
    for path in held:
        name = re.escape(str(path.relative_to(folder)))
        assert re.search(rf"{name} is damaged: .*; delete it and run the workflow again", said), path
        path.unlink()
    again = tiny.run(folder, *targets)
    assert again.returncode == 0, again.stderr[-4000:]
    for path, content in held.items():
        assert path.read_bytes() == content, path
