"""The studies on real slides and fibres, from start to end (minutes)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from myostage import tables
from myostage.cells.tables import CELLS, SEGMENTATION_QUALITY
from myostage.evaluation import formatting, selection
from myostage.evaluation.tables import COMPARISONS, METRICS
from myostage.slides.tables import SLIDES, TILES
from support.slide_files import REAL, real, unavailable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PUBLISHED_CELLS = 7690  # MyoRegenTrack's README (Sci Rep 14:27044), by another model

pytestmark = [
    pytest.mark.studies,
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
]


def snakemake(study: str, /, *targets: str, **settings: str) -> subprocess.CompletedProcess[str]:
    config = ["--config", *(f"{key}={value}" for key, value in settings.items())] if settings else []
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", *targets, "--resources", "gpu=2", "--cores=2", *config),
            f"--configfile=tests/studies/{study}.yaml",
        ],
        cwd=ROOT,
        env={**os.environ, "MYOSTAGE_REAL_DATA": str(REAL)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def fibres() -> Path:
    annotate = ROOT / "tests/studies/annotate_fibres.py"
    arguments = ["--data", str(REAL), "--out", str(RESULTS / "fibres/annotations")]
    subprocess.run([sys.executable, str(annotate), *arguments], check=True)
    result = snakemake("fibres")
    assert result.returncode == 0, result.stderr[-5000:]
    return RESULTS / "fibres"


@pytest.fixture(scope="module")
def section(fibres: Path) -> Path:
    result = snakemake("section")
    assert result.returncode == 0, result.stderr[-5000:]
    return RESULTS / "section"


def test_fibres_of_an_unseen_field_are_found(fibres: Path) -> None:
    quality = tables.read(fibres / "segmentation_quality.parquet", SEGMENTATION_QUALITY)
    field = quality.set_index("slide").loc["fibres_03"]
    precision = field["true_positives"] / field.sum()
    print(f"\nfield 3, not trained on: average precision at IoU .5 {precision:.3f}")
    assert precision > 0.6


def test_stages_of_fibres_stand_beside_majority_and_ceiling(fibres: Path) -> None:
    metrics = tables.read(fibres / "metrics.parquet", METRICS)
    print("\n" + "\n".join(formatting.state_results(metrics)))
    rows = selection.take_pooled(metrics)
    accuracy = rows[rows["metric"] == "accuracy"].set_index("experiment")
    assert {"prop", "combined", "supervised", "majority"} == set(accuracy.index)
    # Three fields are too few to say which method is better: what holds is that each has its interval.
    assert (accuracy["cells"] > 90).all()
    # The spread between them says how many would carry the comparison: many times as many.
    compared = tables.read(fibres / "comparisons.parquet", COMPARISONS)
    question = compared[(compared["experiment"] == "combined") & (compared["reference"] == "prop")]
    needed = question.set_index("metric")["animals_needed"][["accuracy", "kappa"]]
    print(f"fields that a comparison of combined and prop needs:\n{needed}")
    assert (needed > 10).all()
    assert (accuracy["low"] <= accuracy["value"]).all() and (accuracy["value"] <= accuracy["high"]).all()


def test_the_section_is_segmented_staged_and_drawn(section: Path) -> None:
    cells = tables.read(section / "slides/section/cells.parquet", CELLS)
    print(f"\nsection: {len(cells)} cells; published for another model: {PUBLISHED_CELLS}")
    assert 1000 < len(cells) < 15000
    # Fibres at the left are intact and 35 to 60 px wide, that is 35 to 60 um at the estimated resolution.
    left = cells[cells["x_um"] < cells["x_um"].quantile(0.2)]
    assert 20 < left["min_feret_um"].median() < 70
    features = json.loads((section / "slides/section/cells.geojson").read_text())["features"]
    assert len(features) == len(cells)
    for name in ("map_section", "map_section_outlines", "gallery", "sizes"):
        with Image.open(section / f"figures/{name}.png") as image:
            image.load()


def test_smear_cells_become_a_study(tmp_path: Path) -> None:
    """A reduced form of the study that docs/crops.md composes; labels measure, and supervised learns them."""
    stages = "superficial,intermediate,light_dysplasia,moderate_dysplasia,severe_dysplasia,carcinoma_in_situ"
    composing = ["scripts/compose_bags.py", str(real("pap-cells/labels.tsv")), "--leave-out", "columnar"]
    composing += ["--stages", stages, "--out", str(tmp_path / "cells")]
    subprocess.run([sys.executable, *composing], cwd=ROOT, check=True)
    made = yaml.safe_load((tmp_path / "cells/study.yaml").read_text())
    kept = {"prop", "combined", "supervised", "probe", "majority", "group_majority"}
    made["experiments"] = [one for one in made["experiments"] if one["name"] in kept]
    made |= {"results": str(tmp_path / "results"), "folds": 2, "seeds": [0, 1]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(made))
    command = [sys.executable, "-m", "snakemake", "tables", "--resources", "gpu=2", "--cores=2"]
    result = subprocess.run(
        [*command, f"--configfile={tmp_path / 'study.yaml'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-5000:]
    found = tables.read(tmp_path / "results/cells/metrics.parquet", METRICS)
    print("\n" + "\n".join(formatting.state_results(found)))
    rows = selection.take_pooled(found)
    kappa = rows[rows["metric"] == "kappa"].set_index("experiment")
    assert kept | {"prop[prior=transport]", "prop[prior=group]"} <= set(rows["experiment"])
    assert kappa.loc["prop[prior=transport]", "value"] > kappa.loc["prop", "value"]
    assert (kappa["cells"] == 800).all()
    assert kappa.loc["probe", "value"] > 0.3 and kappa.loc["group_majority", "value"] > 0.6


def test_svs_slides_pass_check_and_tile(fibres: Path) -> None:
    slides = ("cmu", "tcga")
    result = snakemake("svs", "results/svs/made/tile/slides1.json", "results/svs/slides.parquet")
    assert result.returncode == 0, result.stderr[-4000:]
    for slide in slides:
        assert len(tables.read(RESULTS / f"svs/slides/{slide}/tiles.parquet", TILES)) > 20
    table = tables.read(RESULTS / "svs/slides.parquet", SLIDES).set_index("slide")
    assert list(table.loc[list(slides), "mpp_source"]) == ["file", "table"]


def test_a_slide_without_mpp_says_what_to_add(fibres: Path) -> None:
    result = snakemake(
        "svs",
        "results/without-mpp/slides.parquet",
        study="without-mpp",
        slides="tests/studies/svs/slides_without_mpp.tsv",
    )
    text = result.stdout + result.stderr
    assert result.returncode != 0
    assert "tcga-cr-7395-01a-01-ts1.svs" in text and "column mpp" in text
