"""The text of config/README.md, made from the sections and tables so that it cannot drift.

``python -m myostage.study.reference`` prints it; a test compares it with the file.
"""

import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import PydanticUndefined

from myostage.learning.term import TERMS, names
from myostage.schema import NAME_PATTERN, Section
from myostage.study.inputs import CROP_COLUMNS, IMAGE_COLUMNS, QUOTED_COLUMNS, SLIDE_COLUMNS, TableColumn
from myostage.study.sections.study import Study

_INTRODUCTION = """# Study files

One YAML file per study. Snakemake reads it with `--configfile config/NAME.yaml`; paths are relative to the
folder it is started in (the root of the repository), `$VARIABLES` and a leading `~` in them are expanded.
A key that is not listed here is an error, which names the nearest one.

This page is made from the code (`cd scripts; python -m myostage.study.reference > ../config/README.md`).
*Source* is where a default comes from; "ours" means that it is a choice of this workflow which no paper made.
"""

_TERMS = """The keys of a term are keys of `training`, and no part of a run that does not use it. Where the
terms of a run teach the embedding and none teaches the head, a head is fitted by L_prop afterwards."""
_TERM_COLUMNS = ("term", "methods", "weighs", "teaches", "needs", "keys", "source")


def documented() -> list[tuple[str, type[Section]]]:
    """Every section by its heading, in the order of the study file."""
    sections: list[tuple[str, type[Section]]] = [("The study", Study)]
    for heading, section in sections:
        for name, field in section.model_fields.items():
            path = name if section is Study else f"{heading.strip('`')}.{name}"
            for part in _parts(field.annotation):
                if (
                    isinstance(part, type)
                    and issubclass(part, Section)
                    and all(part is not s for _, s in sections)
                ):
                    sections.append((f"`{path}`", part))
    return sections


def _parts(annotation: Any) -> list[Any]:
    """An annotation with everything in it."""
    return [annotation] + [part for inner in typing.get_args(annotation) for part in _parts(inner)]


def _type_words(schema: Mapping[str, Any]) -> str:
    """A JSON schema as a reader says it: ``number > 0``, ``tile or slide``."""
    if "anyOf" in schema:
        return " or ".join(_type_words(option) for option in schema["anyOf"])
    if "$ref" in schema:
        return "section"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "none",
        "object": "mapping",
    }.get(schema.get("type", ""), "any")
    if schema.get("type") == "array":
        items = schema.get("items") or schema.get("prefixItems", [{}])[0]
        exact = f"{schema['maxItems']} " if schema.get("maxItems") == schema.get("minItems") else ""
        words = f"list of {exact}{_type_words(items)}" if items != {} else "list"
        return (
            words.replace("whole number", "whole numbers")
            .replace("section", "sections")
            .replace("text", "texts")
        )
    if isinstance(schema.get("additionalProperties"), dict):
        words += f" to {_type_words(schema['additionalProperties'])}"
    if schema.get("pattern") == NAME_PATTERN:
        words = "name"
    bounds = (("exclusiveMinimum", ">"), ("minimum", ">="), ("exclusiveMaximum", "<"), ("maximum", "<="))
    shown = [
        f"{sign} {schema[bound]:g}"
        for bound, sign in bounds
        if bound in schema and abs(schema[bound]) < 2**32
    ]
    return " ".join([words, ", ".join(shown)]).strip()


def _default_words(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, Section):
        return "below"
    if field.default is None:
        return "none"
    text = json.dumps(field.default) if not isinstance(field.default, str) else field.default
    return f"`{text}`"


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def readme() -> str:
    """The text of config/README.md: every key with type, meaning, default, source; every table's columns."""
    lines = [_INTRODUCTION]
    for heading, section in documented():
        lines += [f"## {heading}", "", (section.__doc__ or "").strip(), ""]
        lines += [_markdown_row(("key", "type", "meaning", "default", "source")), "|---|---|---|---|---|"]
        properties = section.model_json_schema()["properties"]
        for name, field in section.model_fields.items():
            extra = typing.cast(dict[str, str], field.json_schema_extra)
            has_default = field.default is not PydanticUndefined and not isinstance(field.default, Section)
            lines.append(
                _markdown_row(
                    (
                        f"`{name}`",
                        _type_words(properties[name]),
                        field.description or "",
                        _default_words(field),
                        extra["source"] if has_default else "",
                    )
                )
            )
        lines.append("")
    lines += ["## Loss terms", "", _TERMS, "", _markdown_row(_TERM_COLUMNS), "|---|---|---|---|---|---|---|"]
    for name in names():
        term = TERMS[name]
        needs = [
            word for word, asked in (("where cells lie", term.spatial), ("scores", term.regression)) if asked
        ]
        needs += [f"`healthy` ({term.healthy})"] if term.healthy else []
        row = (f"`{name}`", ", ".join(term.compute), term.meaning, term.teaches, ", ".join(needs))
        keys = ", ".join(f"`{key}`" for key in term.options.model_fields)
        lines.append(_markdown_row((*row, keys, term.source)))
    lines += [
        "",
        "## Tables",
        "",
        "Tab-separated text, UTF-8, one header line; blank lines and lines that start with # are left out.",
        "",
    ]
    share = TableColumn(
        "one per stage", True, "share of cells of that stage, 0 to 1; a row sums to 1 (within 0.001)"
    )
    for title, columns in (
        ("`proportions`", (TableColumn("group", True, "unique name (day after injury)"), share)),
        ("`slide_proportions`", (TableColumn("slide", True, "slide of the slide table"), share)),
        ("`slides`", SLIDE_COLUMNS),
        ("`crops`", CROP_COLUMNS),
        ("`segmentation.train.images`", IMAGE_COLUMNS),
        ("`quoted`", QUOTED_COLUMNS),
    ):
        lines += [f"### {title}", "", _markdown_row(("column", "needed", "meaning")), "|---|---|---|"]
        lines += [
            _markdown_row(
                (f"`{c.name}`" if " " not in c.name else c.name, "yes" if c.required else "no", c.meaning)
            )
            for c in columns
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(readme(), end="")
