"""A YAML file that a user writes: refused where reading it would run code, wait for ever or fill memory.

Nothing but PyYAML is imported, so that `make` asks it in a moment before Snakemake reads the file.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from myostage.errors import UserError
from myostage.study.text_file import read_text

MOST_BYTES = 250_000
MOST_VALUES = 100_000
# the key by which Snakemake takes a file for a template and runs the Python in it
TEMPLATING = "__use_yte__"


def read_mapping(path: str | Path) -> dict[Any, Any]:
    """The keys and values of a YAML file.

    Raises
    ------
    UserError
        No regular file, too large, no UTF-8, no YAML (with line and key), a key that stands twice, a tag or
        template that would run code, anchors that repeat themselves into too many values.
    """
    text = read_text(path, "study file", "a YAML file", MOST_BYTES)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _count(node, {})
                data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        ended = "end of stream" in str(error.problem)
        mark = error.context_mark if ended else error.problem_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}, line {line}{_key(text, line)}: {_words(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(
            f"{path}, line {line}{_key(text, line)}: holds control character {error.character:#x}; remove it"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: values are nested too deeply; write fewer brackets") from None
    if node is None:
        raise UserError(f"{path}: empty; write `key: value` lines, config/README.md names the keys")
    if not isinstance(data, dict):
        raise UserError(f"{path}: no keys in it; write `key: value` lines, config/README.md names the keys")
    if TEMPLATING in data:
        raise UserError(
            f"{path}: {TEMPLATING} asks Snakemake to run what the file says; a study file is no template, "
            f"remove {TEMPLATING} and write the values themselves"
        )
    return data


class _Loader(yaml.SafeLoader):
    """SafeLoader that says where a value stands of which nothing can be made (a date of month 13)."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, TypeError, AttributeError) as error:
            raise _fault(node, f"no value ({error}); write it in quotes") from None


def _fault(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _count(node: yaml.Node, counted: dict[int, int], around: frozenset[int] = frozenset()) -> int:
    """Values of a node, those of an anchor wherever it is repeated; a key that stands twice is a fault."""
    if id(node) in counted:
        return counted[id(node)]
    if id(node) in around:
        raise _fault(node, "an anchor that holds itself; write its value")
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
        first: dict[tuple[str, str], yaml.Node] = {}
        for name, _ in node.value:
            other = first.setdefault((name.tag, str(name.value)), name)
            if other is not name:
                line = other.start_mark.line + 1
                raise _fault(name, f"key {name.value} stands in line {line} too; keep one")
    values = 1 + sum(_count(part, counted, around | {id(node)}) for part in inner)
    if values > MOST_VALUES:
        raise _fault(node, f"more than {MOST_VALUES:,} values; write fewer, or repeat fewer anchors")
    counted[id(node)] = values
    return values


def _key(text: str, line: int) -> str:
    """`` (key folds)`` for the key at or above a line."""
    for written in reversed(text.split("\n")[:line]):
        found = re.match(r"[\s-]*[\"']?([\w.$-]+)[\"']?\s*:", written)
        if found:
            return f" (key {found[1]})"
    return ""


def _words(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, and what to do."""
    problem = " ".join(str(error.problem or error.context).split())
    if "could not determine a constructor for the tag" in problem:
        tag = problem.partition("'")[2].rstrip("'")
        return f"tag {tag} makes more than a value; remove it"
    if "'\\t'" in problem:
        return f"{problem}; indent by spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return f"{problem}; write a value that holds a colon in quotes, or correct the indentation"
    return problem if ";" in problem else f"{problem}; correct it there"
