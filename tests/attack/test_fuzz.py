"""Study files and tables changed at random are read or refused in a sentence, and nothing else happens."""

import copy
import datetime
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from myostage.errors import UserError
from myostage.study.load import load_study, notes
from myostage.study.plan import Plan
from myostage.study.yaml_file import read_mapping
from support import tiny

HERE = Path(__file__).parent
# the study of all methods has most keys; it is drawn, so that its slides need not be there
TABLES = {"slides": "tiny_slides.tsv", "proportions": "tiny_proportions.tsv"}
STUDIES = [yaml.safe_load((HERE / "base/study.yaml").read_text()), tiny.study() | TABLES]
SIGNS = st.sampled_from([b"\t", b"\n", b"#", b'"', b"nan", b"0", b": ", b"- ", b"&a ", b"*a ", b"!!"])
THOROUGH = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])

# what YAML makes of values
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.binary(max_size=5)
    | st.sampled_from(["010", "1e3", "..", "/", "~", "$X", "{x}", "\x1b[2J", "a\nb", "a" * 5000])
    | st.just(datetime.datetime(2026, 1, 1))
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(HERE / "base", tmp_path / "study")
    tiny.lay_out(tmp_path, tiny.study())
    for table in ("slides.tsv", "proportions.tsv"):
        (tmp_path / table).rename(tmp_path / f"study/tiny_{table}")
    monkeypatch.chdir(tmp_path / "study")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a study file."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def read(ask: Callable[[], Any]) -> None:
    """A sentence is on one line, and neither empty nor endless; all other exceptions are faults of ours."""
    try:
        ask()
    except UserError as error:
        said = str(error)
        assert said.strip() and len(said) < 10_000
        assert "\n" not in said and "\x1b" not in said and "Traceback" not in said


def load(content: Any) -> None:
    study = load_study(content)
    notes(study)
    assert Plan(study).runs is not None


@THOROUGH
@given(st.data())
def test_a_study_with_a_few_other_values_is_read_or_refused(data: st.DataObject) -> None:
    content = copy.deepcopy(data.draw(st.sampled_from(STUDIES)))
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([path for path in places(content) if path]))
        place: Any = content
        for part in parents:
            place = place[part]
        what = data.draw(st.sampled_from(["value", "delete", "key", "twice"]))
        if what == "delete":
            del place[last]
        elif what == "key" and isinstance(place, dict):
            place[data.draw(scalars)] = place.pop(last)
        elif what == "twice" and isinstance(place, list):
            place.append(place[last])
        else:
            place[last] = data.draw(values)
    read(lambda: load(content))


@THOROUGH
@given(st.dictionaries(scalars, values, max_size=5))
def test_a_mapping_of_anything_is_refused(content: dict[Any, Any]) -> None:
    with pytest.raises(UserError):
        load_study(content)


@THOROUGH
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    Path("any.yaml").write_bytes(content)
    read(lambda: read_mapping("any.yaml"))


@THOROUGH
@given(st.data())
def test_a_study_file_with_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    text = bytearray(Path(HERE / "base/study.yaml").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text) - 1))
        end = begin + data.draw(st.integers(0, 6))
        text[begin:end] = data.draw(st.binary(max_size=4) | SIGNS)
    Path("any.yaml").write_bytes(text)
    read(lambda: load(read_mapping("any.yaml")))


@THOROUGH
@given(st.data())
def test_a_table_with_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["slides.tsv", "proportions.tsv"]))
    text = bytearray(Path(HERE / "base" / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text) - 1))
        end = begin + data.draw(st.integers(0, 6))
        text[begin:end] = data.draw(st.binary(max_size=4) | SIGNS)
    Path(name).write_bytes(text)
    read(lambda: load(STUDIES[0]))
    shutil.copy(HERE / "base" / name, name)
