"""Small graphs, and their matrices by loops."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from myostage.spatial.graph import CellGraph, Kind, cell_graph
from myostage.study.sections.graph import Graph

KINDS: list[Kind] = ["symmetric", "random_walk"]


def scattered(n: int, seed: int = 0, width: float = 100.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, width, (n, 2))


def with_isolated(n: int = 20, seed: int = 0) -> CellGraph:
    """``n`` neighbouring cells and two, the first and the last, far from all."""
    far = [[-1e4, 0.0], *scattered(n, seed).tolist(), [1e4, 0.0]]
    return cell_graph(np.array(far), Graph(neighbours=4, radius_um=200))


def path(n: int) -> CellGraph:
    """Cells in a row, each the neighbour of the next."""
    return cell_graph(np.stack([np.arange(n), np.zeros(n)], 1), Graph(by="radius", radius_um=1))


def values(n: int, width: int | None = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n,) if width is None else (n, width), generator=generator, dtype=torch.float64)


def dense_operator(graph: CellGraph, kind: Kind) -> Tensor:
    """Normalised adjacency by loops, 1 on the diagonal of isolated cells."""
    adjacency = torch.zeros(graph.nodes, graph.nodes, dtype=torch.float64)
    for i, j in graph.edges.T.tolist():
        adjacency[i, j] = 1
    degree = adjacency.sum(1)
    for i in range(graph.nodes):
        if degree[i] == 0:
            adjacency[i, i] = degree[i] = 1
    if kind == "random_walk":
        return adjacency / degree[:, None]
    return adjacency / degree.sqrt()[:, None] / degree.sqrt()[None]
