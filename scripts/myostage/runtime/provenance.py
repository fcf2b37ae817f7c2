"""What made a file: code digest, specification, input checksums, package versions.

``code_digest`` is what every rule carries among its params, so that a change of a script or of a library
module it reaches re-runs the rule, while a comment, a docstring, a message or a touched file re-runs nothing.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from myostage.runtime import checksums

LIBRARY = Path(__file__).parents[1]
PACKAGES = (
    "cellpose",
    "lightly",
    "numpy",
    "pandas",
    "pyarrow",
    "snakemake",
    "timm",
    "torch",
    "torchmil",
    "torchvision",
)
# What only people read, and no number depends on. Calls of loggers, calls that make a message of a fault, the
# list that faults are gathered in; arguments of declarations: a key's meaning, a column's unit and meaning.
LOGS = {"log", "logger", "warnings"}
MESSENGERS = {"UserError", "ValueError", "Diverged", "raise_all", "print"}
PROBLEMS = "problems"
WORDS = {"meaning", "title", "source", "caption", "help", "description"}
WORDS_FROM = {"key": 1, "Column": 2}


def code_digest(script: str | Path) -> str:
    """Digest of a script or notebook and of every ``myostage`` module that it reaches by imports.

    Comments and layout do not count, nor does what only people read: docstrings, messages of errors and logs,
    help texts of keys, meanings of columns.
    """
    digest = hashlib.sha256()
    for path in sorted(_reached(Path(script))):
        digest.update(_name(path).encode())
        digest.update(_meaning(path).encode())
    return digest.hexdigest()[:12]


def _name(path: Path) -> str:
    root = LIBRARY.parent.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _reached(script: Path) -> set[Path]:
    reached: set[Path] = set()
    waiting = [script.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting.extend(_imports(path))
    return reached


@cache
def _tree(path: Path) -> ast.Module:
    """What a file says to the machine: its syntax without what only people read."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    tree: ast.Module = _WithoutWords().visit(ast.parse(text))
    return tree


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """The files of the library that a file imports, in packages and at any depth.

    Raises
    ------
    ModuleNotFoundError
        An import of the library names no file of it: the digest would leave it out.
    """
    found: set[Path] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            modules, members = [alias.name for alias in node.names], []
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(_package(path)[: 1 - node.level or None]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            modules, members = [module], [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in modules:
            if name.partition(".")[0] == LIBRARY.name:
                found.add(_file(name) or _unknown(path, name))
        # a member is a module of the package, or something that the module defines
        for file in filter(None, map(_file, members)):
            found.add(file)
            if file.name == "__init__.py":  # a package that is imported by name is listed: all of it counts
                found.update(module.resolve() for module in file.parent.glob("*.py"))
    return tuple(sorted(found))


def _package(path: Path) -> list[str]:
    """The package of a file of the library, as relative imports count."""
    return list(path.resolve().relative_to(LIBRARY.parent.resolve()).parent.parts)


def _file(name: str) -> Path | None:
    """The file of ``myostage.package.module``, or ``__init__.py`` of a package; None: it is neither."""
    first, *parts = name.split(".")
    if first != LIBRARY.name:
        return None
    place = LIBRARY.joinpath(*parts)
    for file in (place.parent / f"{place.name}.py", place / "__init__.py"):
        if file.exists():
            return file.resolve()
    return None


def _unknown(path: Path, name: str) -> Path:
    raise ModuleNotFoundError(f"{path} imports {name}, which is no file of the library")


@cache
def _meaning(path: Path) -> str:
    return ast.dump(_tree(path))


class _WithoutWords(ast.NodeTransformer):
    """Leaves out what only people read: docstrings, messages of errors and logs, help texts, titles."""

    def _body(self, node: Any) -> Any:
        if ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
        return self.generic_visit(node)

    visit_Module = visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _body

    def visit_If(self, node: ast.If) -> Any:
        """What is imported for the type checker alone is never run."""
        if ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> Any:
        return self.generic_visit(_silent(node))

    def visit_Assert(self, node: ast.Assert) -> Any:
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
        if owner in LOGS or called in MESSENGERS or owner == PROBLEMS:
            _silent(node)
        first = WORDS_FROM.get(called, len(node.args))
        node.args = node.args[:first] + [_silent(argument) for argument in node.args[first:]]
        node.keywords = [
            ast.keyword(word.arg, _silent(word.value)) if word.arg in WORDS else word
            for word in node.keywords
        ]
        return self.generic_visit(node)


def _silent(node: Any) -> Any:
    """The node, every text in it empty."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.JoinedStr):
            inner.values = [part for part in inner.values if not isinstance(part, ast.Constant)]
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            inner.value = ""
    return node


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape the numbers."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        found[package] = metadata.version(package)
    return found


def recipe(
    rule: str, params: dict[str, Any], inputs: Iterable[str], known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Everything that shapes the outputs of one job, ready for JSON: the same recipe, the same outputs.

    What an input holds is what was stated of it when the workflow made it, or else what is ``known`` of it,
    or :func:`checksums.given` finds.
    """
    return {
        "rule": rule,
        "specification": params,
        "inputs": {path: _content(path, known or {}) for path in sorted(inputs) if Path(path).is_file()},
        "versions": versions(),
    }


def _content(path: str, known: Mapping[str, str]) -> str:
    said = stated(path)
    return str(said[0]["checksum"]) if said else known.get(path) or checksums.given(path)


def statement(recipe: dict[str, Any], outputs: Iterable[str]) -> dict[str, Any]:
    """What made the ``outputs``, which are there: their recipe, and what they are."""
    return recipe | {"outputs": {path: checksums.state(path) for path in sorted(outputs)}}


def stated(path: str | Path) -> list[dict[str, Any]]:
    """What was stated of a file when it was made, newest first; nothing of a file that no job made.

    Statements lie in the folder ``made`` beside the file. They may have been copied along with it, so its
    name and that of its folder count.
    """
    file = Path(path)
    found = []
    for statement in file.parent.glob("made/*.json"):
        with suppress(OSError, ValueError, AttributeError, TypeError):
            outputs = json.loads(statement.read_text(encoding="utf-8"))["outputs"]
            changed = statement.stat().st_mtime_ns
            found += [
                (changed, said)
                for output, said in outputs.items()
                if Path(output).parts[-2:] == file.parts[-2:] and {"bytes", "checksum"} <= said.keys()
            ]
    return [said for _, said in sorted(found, key=lambda pair: -pair[0])]


def digest(value: dict[str, Any]) -> str:
    """A value in a few characters."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:16]


def to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str)
