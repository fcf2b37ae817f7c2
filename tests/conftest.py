"""What holds for all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# Machines are noisy: no property test fails by the clock.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: several workers would else wait for them at the end."""
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    if path.name in ("test_workflow.py", "test_neighbours.py"):
        return 0
    if path.parent.name == "slurm":  # one file at a time has the cluster, and only the first is long
        return 1 if path.name == "test_profile.py" else 3
    return 2
