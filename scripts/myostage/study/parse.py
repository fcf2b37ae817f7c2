"""A study file read into sections: every fault named by the key it stands at."""

import datetime
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from myostage.errors import raise_all
from myostage.schema import LONGEST_NAME, Section, nearest
from myostage.study.sections.study import Study
from myostage.study.yaml_file import read_mapping

# what YAML makes of text without quotes
UNQUOTED = (bool, int, float, datetime.date)
S = typing.TypeVar("S", bound=Section)


def parse(source: str | Path | Mapping[str, Any], where: str = "study file") -> tuple[Study, str]:
    """The study, checked within itself only, and what messages call it."""
    if isinstance(source, Mapping):
        return validate(Study, source, where), where
    return validate(Study, read_mapping(source), str(source)), str(source)


def validate(section: type[S], data: Mapping[Any, Any], where: str) -> S:
    """``data`` as a section; UserError with every problem, unknown keys with the nearest valid one."""
    try:
        return section.model_validate(dict(data))
    except ValidationError as error:
        raise_all(where, [describe(section, data, details) for details in error.errors()])
        raise


def describe(section: type[Section], data: Any, details: Any) -> str:
    """One problem that pydantic found, in words: key by its path, experiments by their name."""
    location: tuple[int | str, ...] = details["loc"]
    kind, value = details["type"], details["input"]
    is_key = kind == "invalid_key" or bool(location and location[-1] == "[key]")
    if location and location[-1] == "[key]":
        location = location[:-1]
        kind = "extra_forbidden" if isinstance(value, str) else "string_type"
    words = _location(location, data)
    if kind in ("invalid_key", "string_type") and isinstance(value, UNQUOTED):
        what = f"key {words}" if is_key else f"{words} is {_shown(value)} and"
        return f"{what} is no text, as YAML reads words like no, 010, 1e3 and dates; write it in quotes"
    if kind == "extra_forbidden":
        valid = _valid_keys(section, location[:-1])
        hint = nearest(str(location[-1]), valid) or f"; the keys are {', '.join(valid)}"
        return f"unknown key {words}{hint}"
    if kind == "missing":
        return f"key {words} is missing; add it"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "value_error":
        return f"{words}: {message}" if words else message
    if kind == "model_type":
        return f"{words} is {_shown(value)}; give it keys of its own"
    message = message[0].lower() + message[1:]
    if kind == "literal_error" and isinstance(value, str):
        message += nearest(value, re.findall(r"'([^']*)'", details["ctx"]["expected"]))
    return f"{words} is {_shown(value)}: {message}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _location(location: Sequence[int | str], data: Any) -> str:
    """``experiments[combined].training.sigma`` of ``("experiments", 0, "training", "sigma")``."""
    words = ""
    for part in location:
        data = (
            data[part]
            if isinstance(data, Mapping) and part in data
            else (
                data[part]
                if isinstance(part, int) and isinstance(data, Sequence) and part < len(data)
                else None
            )
        )
        if isinstance(part, int):
            name = data.get("name") if isinstance(data, Mapping) else None
            words += f"[{name if isinstance(name, str) and len(name) <= LONGEST_NAME else part + 1}]"
        else:
            shown = part if part.isprintable() and len(part) <= LONGEST_NAME else _shown(part)
            words += f".{shown}" if words else shown
    return words


def _valid_keys(section: type[Section], location: Sequence[int | str]) -> list[str]:
    """The keys that may stand at ``location`` within ``section``; none where any may."""
    annotation: Any = section
    for part in location:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            annotation = annotation.model_fields[str(part)].annotation
        else:
            inner = typing.get_args(annotation)
            # of a mapping its values, of a list its items
            annotation = inner[-1 if typing.get_origin(annotation) is dict else 0] if inner else None
        if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
            annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return list(annotation.model_fields)
    named = next(iter(typing.get_args(annotation)), None)
    return [str(word) for word in typing.get_args(named)]
