"""The cluster of one node that the tests in this folder share."""

from collections.abc import Iterator

import pytest

from support import one_node


@pytest.fixture(scope="session")
def slurm() -> Iterator[one_node.Cluster]:
    """A SLURM of one node, its two GPUs pretended."""
    reason = one_node.unavailable()
    if reason:
        pytest.skip(reason)
    with one_node.Cluster() as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """One file of tests at a time, whatever the number of workers; its jobs end with it."""
    if one_node.unavailable():
        yield
        return
    with one_node.alone():
        yield
        left = one_node.Cluster()
        if left.healthy():
            left.clear()
