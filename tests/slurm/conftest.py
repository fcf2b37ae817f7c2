"""The cluster of one node that the tests in this folder share."""

from collections.abc import Iterator

import one_node as cluster
import pytest


@pytest.fixture(scope="session")
def slurm() -> Iterator[cluster.Cluster]:
    """A SLURM of one node, its two GPUs pretended."""
    reason = cluster.unavailable()
    if reason:
        pytest.skip(reason)
    with cluster.Cluster() as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """One file of tests at a time, whatever the number of workers; its jobs end with it."""
    if cluster.unavailable():
        yield
        return
    with cluster.alone():
        yield
        left = cluster.Cluster()
        if left.healthy():
            left.clear()
