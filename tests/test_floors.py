"""The library is a house: packages lie on floors, and imports go down only."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "scripts" / "myostage"

# Ground floor first. A room may import what lies on lower floors, and itself; rooms of one floor know
# nothing of each other. A longer name is a room of its own within a package: lower floors read what it
# declares.
FLOORS = (
    {"errors", "palette", "papers"},
    {"paths", "registry", "schema", "tables"},
    {"runtime"},
    # what terms and baselines declare; the files that declare them are found by name, and compute above
    {"learning.term", "learning.options", "learning.baseline"},
    {"study"},
    {"slides", "phantom", "worlds", "cluster"},
    {"cells"},
    {"features", "spatial"},
    {"learning"},
    {"evaluation"},
    {"export", "figures"},
    {"report"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Cluster stands at the side: it knows the study and how jobs run, and nothing of what they compute.
CLUSTER_MAY = {"errors", "papers", "paths", "schema", "tables", "runtime", "study"}


def room_of(module: str) -> str:
    """The room of ``learning.terms.prop``: the longest name that FLOORS has, or the first part."""
    parts = module.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in FLOOR), parts[0])


def imports(path: Path) -> Iterator[str]:
    """Modules of the library that a file imports, without ``myostage.``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("myostage.") for name in names if name.startswith("myostage."))


MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__")


def test_every_module_has_a_floor() -> None:
    rooms = {room_of(module_of(path)) for path in MODULES}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_go_down_only(path: Path) -> None:
    own = room_of(module_of(path))
    for name in imports(path):
        other = room_of(name)
        allowed = other == own or FLOOR[other] < FLOOR[own]
        assert allowed, f"{module_of(path)} on floor {FLOOR[own]} imports {name} on floor {FLOOR[other]}"
        assert own != "cluster" or other in CLUSTER_MAY | {own}, f"cluster imports {name}"


def test_every_package_says_what_enters_what_leaves_and_what_it_may_import() -> None:
    for package in sorted(path for path in LIBRARY.iterdir() if (path / "__init__.py").exists()):
        tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
        text = ast.get_docstring(tree) or ""
        for word in ("in:", "out:", "imports:"):
            assert word in text, f"{package.name}: its docstring has no line `{word}`"


@cache
def defined(path: Path) -> set[str]:
    """Names that a module defines itself, at its top level."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_nothing_has_two_doors() -> None:
    """A name is imported from the module that defines it, in the library, its scripts and its tests."""
    sources = [
        *MODULES,
        *ROOT.glob("scripts/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
    ]
    for path in sources:
        for name in imports(path):
            module, _, member = name.rpartition(".")
            place = LIBRARY.joinpath(*name.split("."))
            if place.is_dir() or place.with_suffix(".py").exists():
                continue  # a package or module
            owner = LIBRARY.joinpath(*module.split("."))
            file = owner.with_suffix(".py") if owner.with_suffix(".py").exists() else owner / "__init__.py"
            assert member in defined(file), f"{path}: {module} does not define {member}"


def test_pictures_are_opened_by_the_readers_alone() -> None:
    """Limits of memory and the formats of the documentation hold because there is no other way in."""
    opening = re.compile(r"\bImage\.open\(|\bTiffFile\(|\bimread\(|\bOpenSlide\(|\bTiffReader\(")
    files = [*LIBRARY.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    found = {path for path in files if opening.search(path.read_text(encoding="utf-8"))}
    assert found == {LIBRARY / f"slides/readers/{name}.py" for name in ("image", "tiff", "openslide")}
