"""What holds for all tests."""

import pytest
from hypothesis import settings

# Machines are noisy: no property test fails by the clock.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: several workers would else wait for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_workflow.py")
