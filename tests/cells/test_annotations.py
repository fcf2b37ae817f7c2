import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from myostage import tables
from myostage.cells.annotations import best, label_cells, overlaps, read_annotations
from myostage.cells.tables import CELLS, LABELS, SEGMENTATION_QUALITY
from myostage.errors import UserError

STAGES = ("damaged", "recovered", "intact")


def square(x: float, y: float, side: float = 10) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(ring: Any, name: str | None = None, kind: str = "Polygon") -> dict[str, Any]:
    properties = {} if name is None else {"classification": {"name": name}}
    coordinates = [ring] if kind == "Polygon" else ring
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def write_annotations(path: Path, features: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def write_cells(path: Path, polygons: dict[int, list[list[float]]]) -> Path:
    cells = pd.DataFrame({"cell": list(polygons), "border": False})
    cells["polygon"] = pd.Series([np.ravel(ring[:-1]) for ring in polygons.values()], dtype=object)
    tables.write(path, cells.reindex(columns=CELLS.schema.names, fill_value=0), CELLS)
    return path


def test_cells_get_the_stage_of_the_outline_they_overlap(tmp_path: Path) -> None:
    cells = {7: square(0, 0), 3: square(50, 0), 4: square(100, 0), 9: square(200, 200), 8: square(300, 0)}
    outlines = [
        feature(square(4, 0, 20), "intact"),  # level-0 px, halved: IoU 8/12 with cell 7
        feature(square(214, 0, 20), "damaged"),  # IoU 3/17 with cell 4: missed
        feature(square(100, 0, 20), "artefact"),  # cell 3, no stage of the study
        feature(square(600, 0, 20)),  # cell 8, unclassified
    ]
    count = label_cells(
        write_cells(tmp_path / "cells.parquet", cells),
        write_annotations(tmp_path / "a.geojson", outlines),
        STAGES,
        0.5,
        tmp_path / "labels.parquet",
        tmp_path / "quality.parquet",
        "s1",
    )
    labels = tables.read(tmp_path / "labels.parquet", LABELS)
    assert count == 1 and labels[["cell", "stage"]].to_numpy().tolist() == [[7, 2]]
    assert labels.iou[0] == pytest.approx(8 / 12)
    quality = tables.read(tmp_path / "quality.parquet", SEGMENTATION_QUALITY)
    assert quality.to_numpy().tolist() == [["s1", 3, 2, 1]]


def test_no_cells_and_no_outlines_are_tables_all_the_same(tmp_path: Path) -> None:
    none = write_cells(tmp_path / "none.parquet", {})
    some = write_cells(tmp_path / "some.parquet", {0: square(0, 0)})
    outlines = write_annotations(tmp_path / "a.geojson", [feature(square(0, 0), "intact")])
    empty = write_annotations(tmp_path / "b.geojson", [])
    for cells, annotations, expected in ((none, outlines, [0, 0, 1]), (some, empty, [0, 1, 0])):
        out = tmp_path / "labels.parquet", tmp_path / "quality.parquet"
        assert label_cells(cells, annotations, STAGES, 1.0, *out, "s") == 0
        assert tables.read(out[0], LABELS).empty
        assert tables.read(out[1], SEGMENTATION_QUALITY).iloc[0, 1:].tolist() == expected


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(4, 20)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(4, 20)), min_size=1, max_size=12),
)
def test_matches_are_one_to_one_and_the_best_goes_first(a: list, b: list) -> None:
    cells, outlines = (np.array([shapely.box(x, y, x + s, y + s) for x, y, s in part]) for part in (a, b))
    pairs = overlaps(cells, outlines)
    cell, outline, iou = (part[best(*pairs)] for part in pairs)
    assert len(set(cell)) == len(cell) and len(set(outline)) == len(outline)
    every = {
        (i, j): cells[i].intersection(outlines[j]).area / cells[i].union(outlines[j]).area
        for i in range(len(cells))
        for j in range(len(outlines))
    }
    assert iou == pytest.approx([every[pair] for pair in zip(cell, outline, strict=True)])
    # No pair is left out in favour of a worse one.
    score = {("cell", i): s for i, s in zip(cell, iou, strict=True)}
    score |= {("outline", j): s for j, s in zip(outline, iou, strict=True)}
    for (i, j), value in every.items():
        if value >= 0.5:
            assert max(score.get(("cell", i), 0), score.get(("outline", j), 0)) >= value - 1e-6


def test_outlines_are_matched_some_at_a_time_as_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 300, (60, 2)).round(2)
    cells = write_cells(tmp_path / "cells.parquet", {2 * n: square(*place) for n, place in enumerate(places)})
    shifted = rng.permutation(places) + rng.uniform(-3, 3, places.shape)
    named = [feature(square(*place), STAGES[n % 3]) for n, place in enumerate(shifted)]
    outlines = write_annotations(tmp_path / "a.geojson", named)
    found = []
    for at_once in (1, 7, 1000):
        monkeypatch.setattr("myostage.cells.annotations.OUTLINES", at_once)
        out = tmp_path / f"labels{at_once}.parquet", tmp_path / f"quality{at_once}.parquet"
        assert label_cells(cells, outlines, STAGES, 1.0, *out, "s") > 20
        found.append((tables.read(out[0], LABELS), tables.read(out[1], SEGMENTATION_QUALITY)))
    for labels, quality in found[:2]:
        pd.testing.assert_frame_equal(labels, found[2][0])
        pd.testing.assert_frame_equal(quality, found[2][1])


def test_self_crossing_outlines_and_cells_do_not_stop_it(tmp_path: Path) -> None:
    bow_tie = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    cells = write_cells(tmp_path / "cells.parquet", {0: bow_tie, 1: [[5, 5], [6, 6], [5, 5]]})
    annotations = write_annotations(tmp_path / "a.geojson", [feature(bow_tie, "intact")])
    out = tmp_path / "labels.parquet", tmp_path / "quality.parquet"
    assert label_cells(cells, annotations, STAGES, 1.0, *out, "s") == 1


def test_multipolygons_and_bare_lists_of_features(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature([[square(0, 0)], [square(20, 0)]], "damaged", "MultiPolygon")]))
    outlines, stage = read_annotations(path, STAGES, 2.0)
    assert outlines[0].area == 800 and stage.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", r"no JSON .*export the annotations again"),
        ('{"type": "Feature"}', "no FeatureCollection"),
        (json.dumps([feature(square(0, 0)), {"type": "Feature"}]), "feature 2 has no readable geometry"),
        (json.dumps([feature([0, 0], kind="Point")]), "feature 1 is a Point"),
        (json.dumps([feature([[0, 0], [1, 1]])]), "feature 1 has no readable geometry"),
        (json.dumps([feature([[0, 0], [1, 1], [2, 2], [0, 0]])]), "feature 1 has no area"),
        (json.dumps([feature([["a", 0], [1, 1], [2, 0], [0, 0]])]), "feature 1 has no readable geometry"),
        (json.dumps([7]), "feature 1 has no readable geometry"),
        (None, "no such file or directory; correct column annotations"),
    ],
)
def test_bad_geojson_is_named(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "a.geojson"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=reason) as error:
        read_annotations(path, STAGES, 1.0)
    assert str(path) in str(error.value)
