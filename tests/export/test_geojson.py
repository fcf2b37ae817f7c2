"""Exports of staged cells."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shapely.geometry import Point, shape

from myostage import palette, tables
from myostage.cells.tables import CELLS
from myostage.errors import UserError
from myostage.export import geojson
from myostage.learning.tables import stages_table
from support import study_tables

STAGES = study_tables.STAGES
SLIDE = "d7_a1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> study_tables.Made:
    return study_tables.make(tmp_path_factory.mktemp("study"))


def _exported(made: study_tables.Made, out: Path, scale: float = 2.0) -> list[dict]:
    count = geojson.export_slide(made.of("cells")[SLIDE], made.of("stages")[SLIDE], STAGES, scale, out)
    features = json.loads(out.read_text(encoding="utf-8"))["features"]
    assert len(features) == count
    return features


def test_every_cell_is_exported_once_with_its_stage_in_level_0_px(
    made: study_tables.Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geojson, "BATCH", 10)  # so that a slide takes several batches
    features = _exported(made, tmp_path / "cells.geojson")
    cells = tables.read(made.of("cells")[SLIDE], CELLS)
    staged = tables.read(made.of("stages")[SLIDE], stages_table(len(STAGES))).set_index("cell")
    assert len(features) == len(cells)
    assert len({feature["id"] for feature in features}) == len(cells)
    for feature, cell in zip(features, cells.to_dict("records"), strict=True):
        assert shape(feature["geometry"]).contains(Point(2 * cell["x_px"], 2 * cell["y_px"]))
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["measurements"]["Area µm^2"] == pytest.approx(cell["area_um2"], abs=1e-3)
        if cell["cell"] not in staged.index:
            assert "classification" not in properties
            continue
        row = staged.loc[cell["cell"]]
        assert properties["classification"] == {
            "name": STAGES[row["stage"]],
            "color": palette.stage_rgb(len(STAGES))[row["stage"]].tolist(),
        }
        shares = [properties["measurements"][f"p {name}"] for name in STAGES]
        np.testing.assert_allclose(shares, row["probabilities"], atol=1e-5)
        calibrated = [properties["measurements"][f"calibrated {name}"] for name in STAGES]
        np.testing.assert_allclose(calibrated, row["calibrated"], atol=1e-5)
        assert properties["measurements"]["Entropy nats"] == pytest.approx(row["entropy"], abs=1e-5)
        assert properties["measurements"]["Uncertain"] == row["uncertain"]


def test_a_second_export_is_the_same_file_and_another_slide_has_other_ids(
    made: study_tables.Made, tmp_path: Path
) -> None:
    first, again = tmp_path / "a.geojson", tmp_path / "b.geojson"
    ids = {feature["id"] for feature in _exported(made, first)}
    _exported(made, again)
    assert first.read_bytes() == again.read_bytes()
    other = tmp_path / "other.geojson"
    geojson.export_slide(made.of("cells")["d0_a1"], made.of("stages")["d0_a1"], STAGES, 1.0, other)
    assert ids.isdisjoint(feature["id"] for feature in json.loads(other.read_text())["features"])


def test_empty_slides_missing_measurements_and_degenerate_outlines(
    made: study_tables.Made, tmp_path: Path
) -> None:
    cells = tables.read(made.of("cells")[SLIDE], CELLS).head(2)
    cells["polygon"] = [np.array([1, 1, 2, 2], dtype=np.float32), np.empty(0, dtype=np.float32)]
    cells["circularity"] = np.nan
    tables.write(tmp_path / "s" / "cells.parquet", cells, CELLS)
    none = stages_table(len(STAGES))
    tables.write(tmp_path / "none.parquet", pd.DataFrame(columns=none.schema.names), none)
    out = tmp_path / "cells.geojson"
    assert (
        geojson.export_slide(tmp_path / "s" / "cells.parquet", tmp_path / "none.parquet", STAGES, 1.0, out)
        == 2
    )
    features = json.loads(out.read_text(encoding="utf-8"))["features"]
    assert [feature["geometry"]["type"] for feature in features] == ["Point", "Point"]
    assert "Circularity" not in features[0]["properties"]["measurements"]
    tables.write(tmp_path / "s" / "cells.parquet", cells.head(0), CELLS)
    assert (
        geojson.export_slide(tmp_path / "s" / "cells.parquet", tmp_path / "none.parquet", STAGES, 1.0, out)
        == 0
    )
    assert json.loads(out.read_text(encoding="utf-8"))["features"] == []


def test_csv_holds_every_cell_with_stage_and_probabilities(made: study_tables.Made, tmp_path: Path) -> None:
    out = tmp_path / "cells.csv"
    both = (made.of("cells")[SLIDE], made.of("stages")[SLIDE], STAGES)
    assert geojson.export(*both, 1.0, tmp_path / "cells.geojson", out) == 64
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["cell"]) for row in rows] == list(range(64))
    assert {row["slide"] for row in rows} == {SLIDE}
    assert [row["stage"] for row in rows[-2:]] == ["", ""]
    best = [max(STAGES, key=lambda name: float(row[f"p_{name}"])) for row in rows[:-2]]
    assert best == [row["stage"] for row in rows[:-2]]
    staged = tables.read(made.of("stages")[SLIDE], stages_table(len(STAGES)))
    calibrated = [[float(row[f"calibrated_{name}"]) for name in STAGES] for row in rows[:-2]]
    np.testing.assert_allclose(calibrated, np.stack(staged["calibrated"].tolist()), atol=1e-5)
    assert [float(row["entropy_nats"]) for row in rows[:-2]] == pytest.approx(staged["entropy"], abs=1e-5)
    assert [row["uncertain"] for row in rows] == [*(str(int(flag)) for flag in staged["uncertain"]), "", ""]
    assert {"0", "1"} <= {row["uncertain"] for row in rows}


def test_nothing_is_left_behind_when_a_table_is_missing(made: study_tables.Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        geojson.export_slide(
            tmp_path / "no.parquet", made.of("stages")[SLIDE], STAGES, 1.0, tmp_path / "out" / "cells.geojson"
        )
    assert list((tmp_path / "out").iterdir()) == []
