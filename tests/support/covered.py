"""Which long tests passed on the code that is here: CI runs them only where what they cover changed.

python tests/support/covered.py slurm            exit status 1: it changed since they passed last
python tests/support/covered.py slurm --passed   they passed: write it into tests/covered.json
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PASSED = ROOT / "tests/covered.json"
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from myostage.runtime.provenance import code_digest  # noqa: E402
from support import one_node, slide_files  # noqa: E402


class Covered(NamedTuple):
    """Patterns of scripts whose code counts, with the library they reach, and of files that count as such."""

    command: str
    unavailable: Callable[[], str]  # why they are skipped here; empty where they run
    code: tuple[str, ...]
    files: tuple[str, ...]


PIXELS = ("check", "tile", "segment_train", "segment", "crop", "label")
TESTS = {
    "slurm": Covered(
        "make test-slurm",
        one_node.unavailable,
        ("scripts/myostage/runtime/*.py", "scripts/myostage/cluster/*.py"),
        (
            "scripts/myostage/learning/loop.py",
            "scripts/train.py",
            "scripts/cluster_check.py",
            "rules/cluster_check.smk",
            "rules/common.smk",
            "rules/train.smk",
            "profiles/slurm/*",
            "tests/slurm/*.py",
            "tests/support/*.py",
            "envs/lock.txt",
        ),
    ),
    "real": Covered(
        "make test-real",
        slide_files.unavailable,
        tuple(
            f"scripts/{name}.py" for name in ("check", "tile", "segment_train", "segment", "crop", "label")
        ),
        ("tests/studies/**/*", "tests/test_real.py", "envs/lock.txt"),
    ),
}


def digest(covered: Covered, root: Path = ROOT) -> str:
    """What these tests depend on, as one digest; comments and docstrings of code do not count."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in covered.code for path in root.glob(pattern)}):
        found.update(code_digest(path).encode())
    for path in sorted({path for pattern in covered.files for path in root.glob(pattern) if path.is_file()}):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def main(name: str, passed: bool) -> int:
    """Exit status: 0 where the tests passed on this code."""
    known: dict[str, str] = json.loads(PASSED.read_text())
    now = digest(TESTS[name])
    if passed and (reason := TESTS[name].unavailable()):
        print(f"skipped, and nothing is noted: {reason}")
    elif passed:
        PASSED.write_text(json.dumps(known | {name: now}, indent=1, sort_keys=True) + "\n")
    elif known.get(name) != now:
        print(f"what the tests of {name} cover changed since they passed last: {TESTS[name].command}")
        return 1
    return 0


if __name__ == "__main__":
    RAW = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("name", choices=TESTS)
    parser.add_argument("--passed", action="store_true")
    sys.exit(main(**vars(parser.parse_args())))
