"""GeoJSON is read feature by feature as `json` reads it at once; memory does not grow with the file."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from myostage.cells import geojson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(
    features=st.lists(VALUES, max_size=6),
    beside=st.dictionaries(st.text(max_size=5).filter(lambda key: key != "features"), VALUES, max_size=3),
    bare=st.booleans(),
    indent=st.sampled_from([None, 1]),
    characters=st.integers(1, 40),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_features_come_back_however_the_file_is_cut(
    tmp_path: Path,
    features: list[Any],
    beside: dict[str, Any],
    bare: bool,
    indent: int | None,
    characters: int,
) -> None:
    path = tmp_path / "a.geojson"
    content = features if bare else beside | {"features": features} | {"z": 12}
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geojson, "_CHARACTERS", characters)
        assert list(geojson.read_features(path)) == features


@pytest.mark.parametrize(
    "text", ["", "[", "[1", "[1,]", '{"features": [1]', '{"a" 1}', "[1] 2", "[}", "{1: 2}", "nul"]
)
def test_what_is_no_json_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(ValueError):
        list(geojson.read_features(path))


@pytest.mark.parametrize("text", ["{}", "3", '"features"', '{"features": null}', '{"features": {"a": 1}}'])
def test_json_of_another_kind_is_told_apart(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(geojson.NoCollectionError):
        list(geojson.read_features(path))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    feature = {"geometry": {"coordinates": [[[number + 0.5, number] for number in range(300)]]}}
    path.write_text(json.dumps({"features": [feature] * 4_000}))
    tracemalloc.start()
    try:
        assert sum(1 for _ in geojson.read_features(path)) == 4_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6 < path.stat().st_size
