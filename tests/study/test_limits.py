"""Every number and every length of a study file has an upper limit."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from myostage.errors import UserError
from myostage.study import reference
from myostage.study.expand import MOST_RUNS, expand
from myostage.study.sections.phantom import Phantom
from myostage.study.sections.study import Study
from support import tiny

UPPER = {
    "integer": ("maximum", "exclusiveMaximum"),
    "number": ("maximum", "exclusiveMaximum"),
    "string": ("maxLength",),
    "array": ("maxItems",),
    "object": ("maxProperties",),
}


def unlimited(schema: Mapping[str, Any]) -> Iterator[str]:
    """Kinds of values without an upper limit in the JSON schema of a key, and in what it holds."""
    if "enum" in schema or "const" in schema or "$ref" in schema:
        return
    limits = UPPER.get(schema.get("type", ""), ())
    if limits and not any(limit in schema for limit in limits):
        yield schema["type"]
    inner = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    inner += [
        schema[name] for name in ("items", "additionalProperties") if isinstance(schema.get(name), dict)
    ]
    if "propertyNames" in schema:
        inner.append({"type": "string"} | schema["propertyNames"])
    for part in inner:
        yield from unlimited(part)


@pytest.mark.parametrize(
    ("heading", "name", "schema"),
    [
        pytest.param(heading, name, schema, id=f"{heading}.{name}")
        for heading, section in reference.documented()
        for name, schema in section.model_json_schema()["properties"].items()
    ],
)
def test_every_key_has_an_upper_limit(heading: str, name: str, schema: Mapping[str, Any]) -> None:
    assert not list(unlimited(schema)), f"{heading}.{name}: give it le, max_length or a type of schema.py"


def test_a_key_without_a_limit_is_found() -> None:
    assert list(unlimited({"type": "array", "maxItems": 3, "items": {"type": "integer"}})) == ["integer"]
    assert list(unlimited({"anyOf": [{"type": "null"}, {"type": "string"}]})) == ["string"]


def test_a_grid_of_too_many_runs_is_refused_with_its_size_before_it_is_made() -> None:
    values = [float(value) for value in range(1, 1001)]
    vast = {"name": "vast", "losses": {"prop": 1}, "vary": {"learning_rate": values, "weight_decay": values}}
    study = Study(**tiny.of_cells({"name": "small", "losses": {"prop": 1}}, vast))
    begin = time.process_time()
    with pytest.raises(UserError, match=rf"2,000,002 runs, more than {MOST_RUNS:,}; 2,000,000 .*\[vast\]"):
        expand(study)
    assert time.process_time() - begin < 1


def test_a_phantom_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    assert Phantom(width_um=10_000, height_um=10_000)
    with pytest.raises(ValueError, match=r"a slide of 4e\+10 px"):
        Phantom(width_um=100_000, height_um=100_000)
