"""What re-runs a rule, and what a job says of its outputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from myostage.runtime import checksums, provenance

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "myostage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "near.py").write_text('"""Doc."""\nfrom myostage import far\n')
    (package / "far.py").write_text("def answer():\n    return 1\n")
    (package / "other.py").write_text("x = 1\n")
    (tmp_path / "rule.py").write_text("from myostage import near\n")
    monkeypatch.setattr(provenance, "LIBRARY", package)
    return tmp_path


def digest(folder: Path, script: str = "rule.py") -> str:
    for cached in (provenance._tree, provenance._imports, provenance._meaning):
        cached.cache_clear()
    return provenance.code_digest(folder / script)


def test_digest_follows_imports(library: Path) -> None:
    before = digest(library)
    (library / "myostage/far.py").write_text("def answer():\n    return 2\n")
    assert digest(library) != before


def test_digest_ignores_comments_docstrings_and_unreached_modules(library: Path) -> None:
    before = digest(library)
    (library / "myostage/near.py").write_text('"""Other words."""\n\n# a comment\nfrom myostage import far\n')
    (library / "myostage/other.py").write_text("x = 2\n")
    (library / "myostage/far.py").write_text("def answer():\n    # why\n    return 1\n")
    assert digest(library) == before


WORDY = {
    "error": 'def answer(x):\n    if not x:\n        raise ValueError(f"{x} is WORDS")\n',
    "prepared error": 'def answer(x):\n    return UserError(f"{x} is WORDS")\n',
    "gathered problems": 'def answer(x):\n    problems = []\n    problems.append(f"WORDS {x}")\n',
    "log": 'def answer(x):\n    log.info("WORDS %s", x)\n',
    "assertion": 'def answer(x):\n    assert x, "WORDS"\n',
    "docstring of a class": 'class Answer:\n    """WORDS"""\n\n    x = 1\n',
    "help of a key": 'x: int = key(1, "WORDS", ge=0)\n',
    "meaning of a column": 'COLUMN = Column("x", INT32, "um", "WORDS")\n',
    "title of a record": 'TERM = Term("x", title="WORDS", weight=1)\n',
    "import for the type checker": "if TYPE_CHECKING:\n    import WORDS\n",
}


@pytest.mark.parametrize("text", WORDY.values(), ids=WORDY)
def test_digest_ignores_what_only_people_read(library: Path, text: str) -> None:
    (library / "myostage/far.py").write_text(text.replace("WORDS", "one"))
    before = digest(library)
    (library / "myostage/far.py").write_text(text.replace("WORDS", "other"))
    assert digest(library) == before


@pytest.mark.parametrize(
    "text",
    [
        "def answer(x):\n    raise WORDS(x)\n",
        "def answer(x):\n    if x > WORDS:\n        raise ValueError(x)\n",
        'x: int = key("WORDS", "help")\n',
        "x: int = key(1, 'help', ge=WORDS)\n",
        'COLUMN = Column("WORDS", INT32, "um", "help")\n',
        'def answer(table):\n    return table["WORDS"]\n',
        'TERM = Term("WORDS", title="a")\n',
    ],
)
def test_digest_counts_what_is_computed_with(library: Path, text: str) -> None:
    (library / "myostage/far.py").write_text(text.replace("WORDS", "one"))
    before = digest(library)
    (library / "myostage/far.py").write_text(text.replace("WORDS", "other"))
    assert digest(library) != before


@pytest.mark.parametrize(
    "line",
    [
        "from myostage.room import deep",
        "from myostage.room.deep import answer",
        "import myostage.room.deep",
        "from myostage import room",
    ],
)
def test_digest_follows_imports_into_packages(library: Path, line: str) -> None:
    room = library / "myostage/room"
    room.mkdir()
    (room / "__init__.py").write_text("from .deep import answer\n" if line.endswith("room") else "")
    (room / "deep.py").write_text("from . import deeper\n\n\ndef answer():\n    return deeper.ANSWER\n")
    (room / "deeper.py").write_text("ANSWER = 1\n")
    (library / "rule.py").write_text(f"{line}\n")
    before = digest(library)
    (room / "deeper.py").write_text("ANSWER = 2\n")
    assert digest(library) != before


def test_a_package_that_is_listed_counts_with_all_its_modules(library: Path) -> None:
    readers = library / "myostage" / "readers"
    readers.mkdir()
    (readers / "__init__.py").write_text("")
    (library / "rule.py").write_text("from myostage import readers\n")
    before = digest(library)
    (readers / "tiff.py").write_text("READER = 1\n")
    assert digest(library) != before


def test_a_module_that_cannot_be_found_is_never_dropped(library: Path) -> None:
    (library / "rule.py").write_text("import myostage.room.lost\n")
    with pytest.raises(ModuleNotFoundError, match=r"rule\.py imports myostage\.room\.lost"):
        digest(library)


def test_every_rule_script_has_a_digest() -> None:
    scripts = [path for path in SCRIPTS.glob("*.py") if "jobs.run(snakemake" in path.read_text()]
    assert len(scripts) >= 15
    assert len({provenance.code_digest(path) for path in scripts}) == len(scripts)


def test_statement_names_inputs_and_versions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "out").write_text("four")
    missing = str(tmp_path / "a folder, or nothing")
    recipe = provenance.recipe("rule", {"sigma": 0.1}, [str(tmp_path / "a.txt"), missing])
    text = json.loads(provenance.to_json(provenance.statement(recipe, [str(tmp_path / "out")])))
    out = str(tmp_path / "out")
    assert text["outputs"] == {out: {"bytes": 4, "checksum": checksums.whole(out)}}
    assert list(text["inputs"]) == [str(tmp_path / "a.txt")]
    assert text["inputs"][str(tmp_path / "a.txt")] == checksums.given(tmp_path / "a.txt")
    assert {"python", "torch", "cellpose"} <= set(text["versions"])


def test_parsing_loads_nothing_heavy() -> None:
    """The Snakefile is read again by every remote job, so what it imports must stay light."""
    heavy = {"torch", "timm", "cellpose", "skimage", "sklearn", "scipy", "matplotlib", "openslide", "pandas"}
    rules = (SCRIPTS.parent / "rules").glob("*.smk")
    imports = [
        line.strip()
        for file in rules
        for line in file.read_text().splitlines()
        if line.strip().startswith(("from myostage", "import myostage"))
    ]
    assert len(imports) > 8
    program = "\n".join(
        [
            "import sys",
            *imports,
            "code_digest(__import__('pathlib').Path('train.py'))",
            f"print(sorted({heavy} & set(sys.modules)))",
        ]
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
