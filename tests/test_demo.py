"""The files that the demo promises are there, open, and say what they should."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from myostage import tables
from myostage.cells.tables import SEGMENTATION_QUALITY
from myostage.evaluation import selection
from myostage.evaluation.tables import METRICS

RESULTS = Path(__file__).parents[1] / "results/demo"

pytestmark = pytest.mark.skipif(
    not (RESULTS / "report.zip").exists(), reason="the demo was not run: `make demo`"
)


def accuracy(experiment: str) -> tuple[float, float, float]:
    metrics = selection.take_pooled(tables.read(RESULTS / "metrics.parquet", METRICS))
    row = metrics[(metrics["experiment"] == experiment) & (metrics["metric"] == "accuracy")].iloc[0]
    return row["value"], row["low"], row["high"]


def test_cells_are_found() -> None:
    quality = tables.read(RESULTS / "segmentation_quality.parquet", SEGMENTATION_QUALITY)
    found, false, missed = (quality[name].sum() for name in SEGMENTATION_QUALITY.schema.names[1:])
    assert len(quality) == 15
    assert found + false >= 3000
    assert 2 * found / (2 * found + false + missed) >= 0.85


def test_combined_loss_is_above_majority_and_random_features() -> None:
    _, low, _ = accuracy("combined")
    for baseline in ("majority", "random"):
        assert low > accuracy(baseline)[0], baseline


def test_supervised_ceiling_stands_beside_it() -> None:
    assert 0.75 < accuracy("supervised")[0] < 0.95


def test_figures_open() -> None:
    names = {path.stem for path in (RESULTS / "figures").rglob("*.png")}
    assert {"composition", "confusions", "gallery", "curves", "metrics"} <= names
    assert any("map" in name for name in names)
    for path in (RESULTS / "figures").rglob("*.png"):
        with Image.open(path) as image:
            image.load()
        assert path.with_suffix(".svg").stat().st_size > 1000


def test_cells_go_to_qupath() -> None:
    for path in (RESULTS / "slides").glob("*/cells.geojson"):
        features = json.loads(path.read_text())["features"]
        assert features and features[0]["properties"]["classification"]["name"]


def test_report_is_a_whole_zip() -> None:
    with zipfile.ZipFile(RESULTS / "report.zip") as archive:
        assert archive.testzip() is None
        assert any(name.endswith("report.html") for name in archive.namelist())
