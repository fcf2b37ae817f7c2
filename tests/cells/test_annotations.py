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
from myostage.cells.annotations import best, check_annotations, label_cells, overlaps, read_annotations
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
        1.0,
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
        assert label_cells(cells, annotations, STAGES, 1.0, *out, "s", 1.0) == 0
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
        assert label_cells(cells, outlines, STAGES, 1.0, *out, "s", 1.0) > 20
        found.append((tables.read(out[0], LABELS), tables.read(out[1], SEGMENTATION_QUALITY)))
    for labels, quality in found[:2]:
        pd.testing.assert_frame_equal(labels, found[2][0])
        pd.testing.assert_frame_equal(quality, found[2][1])


def test_self_crossing_outlines_and_cells_do_not_stop_it(tmp_path: Path) -> None:
    bow_tie = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    cells = write_cells(tmp_path / "cells.parquet", {0: bow_tie, 1: [[5, 5], [6, 6], [5, 5]]})
    annotations = write_annotations(tmp_path / "a.geojson", [feature(bow_tie, "intact")])
    out = tmp_path / "labels.parquet", tmp_path / "quality.parquet"
    assert label_cells(cells, annotations, STAGES, 1.0, *out, "s", 1.0) == 1


def test_multipolygons_and_bare_lists_of_features(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps([feature([[square(0, 0)], [square(20, 0)]], "damaged", "MultiPolygon")]))
    outlines, stage = read_annotations(path, STAGES, 2.0)
    assert outlines[0].area == 800 and stage.tolist() == [0]


NO_OUTLINES = {
    "no geometry": ({"type": "Feature"}, "has no readable geometry"),
    "null geometry": ({"type": "Feature", "geometry": None}, "has no readable geometry"),
    "point": (feature([0, 0], kind="Point"), "is a Point"),
    "line": (feature([[0, 0], [9, 9]], kind="LineString"), "is a LineString"),
    "two points": (feature([[0, 0], [1, 1]]), "has no readable geometry"),
    "no area": (feature([[0, 0], [1, 1], [2, 2], [0, 0]]), "has no area"),
    "text": (feature([["a", 0], [1, 1], [2, 0], [0, 0]]), "has no readable geometry"),
    "number": (7, "has no readable geometry"),
    "unknown kind": (feature([[0, 0]], kind="Cell"), "has no readable geometry"),
    "not a number": (
        feature([[0, 0], [9, 0], [9, float("nan")], [0, 0]]),
        "has coordinates that are no px of a slide",
    ),
    "infinite": (
        feature([[0, 0], [9, 0], [9, float("inf")], [0, 0]]),
        "has coordinates that are no px of a slide",
    ),
    "huge": (feature([[0, 0], [9, 0], [9, 1e300], [0, 0]]), "has coordinates that are no px of a slide"),
    "huge whole number": (feature([[0, 0], [9, 0], [9, 10**400], [0, 0]]), "has no readable geometry"),
}


@pytest.mark.parametrize("kind", NO_OUTLINES)
def test_a_feature_that_is_no_outline_is_left_out_and_counted(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd, reason = NO_OUTLINES[kind]
    path = write_annotations(tmp_path / "a.geojson", [feature(square(0, 0), "intact"), odd])
    outlines, stage = read_annotations(path, STAGES, 1.0)
    assert len(outlines) == 1 and stage.tolist() == [2]
    assert f"1 of 2 features are no outlines: feature 2 {reason}" in caplog.text
    alone = write_annotations(tmp_path / "b.geojson", [odd])
    with pytest.raises(UserError, match=f"1 of 1 features are no outlines: feature 1 .*{reason}"):
        read_annotations(alone, STAGES, 1.0)


@pytest.mark.parametrize(
    ("classification", "expected"),
    [
        (None, -1),
        ({"name": None}, -1),
        ({"name": "recovered"}, 1),
        ("recovered", 1),
        (["recovered"], -1),
        ({"name": 7}, -1),
        ("\ud800", -1),
    ],
)
def test_classes_may_be_text_or_missing(tmp_path: Path, classification: object, expected: int) -> None:
    outline = feature(square(0, 0)) | {"properties": {"classification": classification}}
    path = write_annotations(tmp_path / "a.geojson", [outline])
    assert read_annotations(path, STAGES, 1.0)[1].tolist() == [expected]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = write_annotations(tmp_path / "a.geojson", [feature(square(0, 0), "intact")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_annotations(path, STAGES, 1.0)[1].tolist() == [2]


def test_outlines_in_um_are_refused(tmp_path: Path) -> None:
    cells = write_cells(tmp_path / "cells.parquet", {n: square(100 * n + 50, 50) for n in range(4)})
    slide_mpp, study_mpp = 0.25, 0.5
    px = [feature((np.array(square(100 * n + 50, 50)) * 2).tolist(), "intact") for n in range(4)]
    um = [feature((np.array(square(100 * n + 50, 50)) / 2).tolist(), "intact") for n in range(4)]
    out = tmp_path / "labels.parquet", tmp_path / "quality.parquet"
    scale = slide_mpp / study_mpp, *out, "s", 1 / study_mpp
    assert label_cells(cells, write_annotations(tmp_path / "px.geojson", px), STAGES, *scale) == 4
    with pytest.raises(UserError, match="0 of 4 outlines lie on a cell, but 4 if their coordinates were um"):
        label_cells(cells, write_annotations(tmp_path / "um.geojson", um), STAGES, *scale)


BAD_FILES = {
    "not closed": (b"{", "no JSON .*export the annotations again"),
    "one feature": (b'{"type": "Feature"}', "no FeatureCollection"),
    "latin 1": ('[{"name": "fasern\u00fc"}]'.encode("latin-1"), "no JSON"),
    "zeros": (bytes(100), "no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "number of 5000 digits": (b"[" + b"9" * 5000 + b"]", "no JSON"),
    "missing": (None, "no such file or directory; correct column annotations"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_geojson_is_named(tmp_path: Path, kind: str) -> None:
    content, reason = BAD_FILES[kind]
    path, good = tmp_path / "a.geojson", write_annotations(tmp_path / "good.geojson", [feature(square(0, 0))])
    if content is not None:
        path.write_bytes(content)
    for read in (
        lambda: read_annotations(path, STAGES, 1.0),
        lambda: check_annotations([str(good), str(path)]),
    ):
        with pytest.raises(UserError, match=reason) as error:
            read()
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_feature_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.geojson").open("w") as file:
        file.write('["')
        file.truncate(5 * 2**30)
    with pytest.raises(UserError, match="a value of it is longer than 16,777,216 characters"):
        read_annotations(tmp_path / "a.geojson", STAGES, 1.0)


NUMBERS = st.one_of(st.integers(), st.floats(), st.just(10**400))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
KINDS = ["Polygon", "MultiPolygon", "Point", "LineString", "GeometryCollection", "MultiPoint", "?"]
GEOMETRIES = st.one_of(
    JSON,
    st.builds(
        lambda kind, points: {"type": kind, "coordinates": points, "geometries": points},
        st.sampled_from(KINDS),
        st.one_of(JSON, st.lists(st.lists(st.lists(NUMBERS, max_size=4), max_size=6), max_size=3)),
    ),
)
FEATURES = st.one_of(JSON, st.builds(lambda g, p: {"geometry": g, "properties": p}, GEOMETRIES, JSON))


@given(
    st.one_of(JSON, st.lists(FEATURES, max_size=4), st.builds(lambda f: {"features": f}, st.lists(FEATURES)))
)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.mktemp("json") / "a.geojson"
    path.write_text(json.dumps(content))
    try:
        outlines, stage = read_annotations(path, STAGES, 0.5)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert len(outlines) == len(stage) and all(outline.area > 0 for outline in outlines)
