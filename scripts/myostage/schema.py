"""What a section of a file that a user writes is: keys with meaning and source, checks, nearest words."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from myostage.errors import hidden
from myostage.papers import OURS

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
MPP_RANGE = (0.05, 5.0)


class UnsetVariable(ValueError):
    """A path names environment variables that are not set."""

    def __init__(self, text: str, names: list[str]) -> None:
        listed = ", ".join(names)
        super().__init__(f"{text} needs the environment variable {listed}, which is not set; export it")
        self.names = names


def expand_path(text: str) -> str:
    """``text`` with ``$VARIABLE``, ``${VARIABLE}``, ``~`` replaced; UnsetVariable if one is not set."""
    named = [plain or braced for plain, braced in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text)]
    unset = [name for name in named if not os.environ.get(name)]
    if unset:
        raise UnsetVariable(text, unset)
    text = os.path.expandvars(text)
    if odd := hidden(text):
        listed = ", ".join(sorted(map(ascii, odd)))
        raise ValueError(f"holds characters that cannot be shown ({listed}); rename the file")
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:
        raise ValueError(f"{text} names the home of a user who is not known; write the folder") from None


WILDCARDS = frozenset("{}<>")
"""Characters that Snakemake takes for the start or end of a wildcard, in every file that its rules name."""


def checked_name(text: str) -> str:
    """A name as it may stand in a table; ValueError that says what is wrong with it."""
    if QUOTED.fullmatch(text):
        raise ValueError(f"is {text}, with its quotes; write it without quotes (R: quote = FALSE)")
    if not re.fullmatch(NAME_PATTERN, text):
        raise ValueError(f"is {text!r}; use letters, digits, . _ - and begin with a letter or digit")
    if len(text) > LONGEST_NAME:
        raise ValueError(f"is {text[:20]}..., of {len(text)} characters; at most {LONGEST_NAME}")
    return text


def _no_wildcards(text: str) -> str:
    if WILDCARDS & set(text):
        raise ValueError(f"{text} holds {{, }}, < or >, which Snakemake takes for a wildcard; rename it")
    return text


# Every number and length has an upper limit: what is larger is a slip of the pen, and would fill memory or
# the disk before anybody noticed. Names are parts of file names; numbers have to fit single precision.
LARGEST = 1e30
LONGEST_NAME = 100
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
FileName = Annotated[str, Field(max_length=4000), AfterValidator(expand_path), AfterValidator(_no_wildcards)]
Text = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Width = Annotated[int, Field(gt=0, le=8192)]
QUOTED = re.compile(r"([\"']).*\1")
"""Text with the quotes that a program put around it."""
Whole = Annotated[int, Field(le=1_000_000)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Number = Annotated[float, Field(le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def key(default: Any, meaning: str, source: str = OURS, **constraints: Any) -> Any:
    """A key of a section: default (``...``: required), meaning with unit, and where the default is from."""
    return Field(default, description=meaning, json_schema_extra={"source": source}, **constraints)


class Section(BaseModel):
    """A section of the study file: frozen, unknown keys forbidden, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, data: Any) -> Any:
        # pydantic would read `steps: true` as one step
        if isinstance(data, Mapping):
            for name, value in data.items():
                field = cls.model_fields.get(str(name))
                if isinstance(value, bool) and field is not None and field.annotation is not bool:
                    raise ValueError(f"{name} is {str(value).lower()}, where a true or false means nothing")
        return data


def digest(specification: dict[str, Any]) -> str:
    """Short hash of a specification, whatever the order of its keys."""
    text = json.dumps(specification, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def exactly_one(data: Any, default: str, other: str) -> Any:
    """Drop the default of ``default`` where ``other`` stands in the file; ValueError if both or none do."""
    if not isinstance(data, Mapping):
        return data
    if data.get(other) is not None and data.get(default) is not None:
        raise ValueError(f"has both {default} and {other}; keep one of them")
    if data.get(other) is None and default in data and data[default] is None:
        raise ValueError(f"has neither {default} nor {other}; give one of them")
    return {**data, default: None} if data.get(other) is not None else data


def nearest(word: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """``" (did you mean X?)"``, or nothing where no valid word is near, whatever its case."""
    folded = {name.lower(): name for name in valid}
    found = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=cutoff)
    return f" (did you mean {folded[found[0]]}?)" if found else ""
