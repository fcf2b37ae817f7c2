"""What holds for all tests."""

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# Workers share the cores: OpenMP threads that spin for a core are many times slower than a single thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Every job of a workflow would else compile the library, and what it imports, anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Machines are noisy: no property test fails by the clock.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.load_profile("quick")

LONGEST = ("test_workflow.py", "test_faults.py", "test_inputs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: several workers would else wait for them at the end."""
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    if path.parent.name == "slurm":  # one file at a time has the cluster, and only the first is long
        return len(LONGEST) + (path.name != "test_profile.py")
    return LONGEST.index(path.name) if path.name in LONGEST else len(LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape half characters in what a test logged: a worker that cannot send them loses all of its tests."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode("utf-8")) for name, text in report.sections
    ]
    return report
