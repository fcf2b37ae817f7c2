"""Which cells of a slide are neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError, cKDTree
from torch import Tensor

from myostage.spatial.sparse import csr
from myostage.study.sections.graph import Graph

Kind = Literal["symmetric", "random_walk"]


@dataclass(frozen=True, eq=False)
class CellGraph:
    """Cells and which of them are neighbours.

    Parameters
    ----------
    edges
        int64 [2, m]: every pair of neighbours both ways, no loops, no doubles, sorted by (row, column).
    nodes
        Number of cells.
    """

    edges: Tensor
    nodes: int
    _made: dict[tuple[str, torch.dtype], Tensor] = field(default_factory=dict, init=False, repr=False)

    def to(self, device: torch.device | str) -> "CellGraph":
        """The graph on ``device``; itself where it lies there already."""
        edges = self.edges.to(device)
        return self if edges is self.edges else CellGraph(edges, self.nodes)

    @property
    def degree(self) -> Tensor:
        """Number of neighbours, float32 [nodes]."""
        return torch.bincount(self.edges[0], minlength=self.nodes).float()

    @property
    def isolated(self) -> Tensor:
        """Which cells have no neighbour, bool [nodes]."""
        return self.degree == 0

    def operator(self, kind: Kind = "symmetric", dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalised adjacency: D^-1/2 A D^-1/2 (``symmetric``) or D^-1 A (``random_walk``).

        An isolated cell has a 1 on its diagonal: what smooths leaves it as it is instead of shrinking it.

        Returns
        -------
        Tensor[nodes, nodes]
            Sparse CSR, the same tensor at every call.

        Raises
        ------
        ValueError
            An unknown kind.
        """
        check_kind(kind)
        if (kind, dtype) not in self._made:
            degree = self.degree.to(dtype)
            alone = (degree == 0).nonzero()[:, 0]
            rows, columns = torch.cat([self.edges, alone.expand(2, -1)], 1)
            degree.clamp_min_(1)
            both = degree[rows] * degree[columns]
            weights = both.rsqrt() if kind == "symmetric" else 1 / degree[rows]
            self._made[kind, dtype] = csr(rows, columns, weights, (self.nodes, self.nodes))
        return self._made[kind, dtype]

    def laplacian(self, kind: Kind = "symmetric", dtype: torch.dtype = torch.float64) -> Tensor:
        """L = I - :meth:`operator`, dense [nodes, nodes]; the rows of isolated cells are 0."""
        matrix = self.operator(kind, dtype).to_dense()
        return torch.eye(self.nodes, dtype=dtype, device=matrix.device) - matrix

    def incidence(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Differences u_i - u_j along :attr:`pairs` as a matrix, and its transpose.

        Returns
        -------
        tuple[Tensor, Tensor]
            Sparse CSR [m / 2, nodes] and [nodes, m / 2].
        """
        if ("incidence", dtype) not in self._made:
            low, high = self.pairs
            pairs = torch.arange(len(low), device=low.device)
            rows, columns = torch.cat([pairs, pairs]), torch.cat([low, high])
            signs = torch.ones(len(rows), dtype=dtype, device=low.device)
            signs[len(low) :] = -1
            self._made["incidence", dtype] = csr(rows, columns, signs, (len(low), self.nodes))
            self._made["transpose", dtype] = csr(columns, rows, signs, (self.nodes, len(low)))
        return self._made["incidence", dtype], self._made["transpose", dtype]

    @property
    def pairs(self) -> Tensor:
        """Every pair of neighbours once, the smaller number first, int64 [2, m / 2]."""
        return self.edges[:, self.edges[0] < self.edges[1]]

    def columns(self, values: Tensor) -> Tensor:
        """``values`` [n] or [n, D] as float [n, D]; ValueError where they are not one row per cell."""
        if values.ndim not in (1, 2) or len(values) != self.nodes:
            raise ValueError(f"values of shape {tuple(values.shape)} on a graph of {self.nodes} cells")
        full = values if values.dtype == torch.float64 else values.float()
        return full if full.ndim == 2 else full[:, None]

    def root_degree(self, like: Tensor) -> Tensor:
        """Square roots of the degrees in the dtype of ``like``, [nodes, 1], 1 for an isolated cell."""
        return self.degree.to(like).clamp_min(1).sqrt()[:, None]


def cell_graph(
    coordinates: NDArray[np.floating[Any]],
    graph: Graph,
    *,
    seed: int = 0,
    parts: Sequence[int] | None = None,
) -> CellGraph:
    """Which cells are neighbours, as the study says.

    ``nearest``: i and j where either is among the nearest ``neighbours`` of the other. ``delaunay``: cells in
    the same place are joined to the first of them, which alone is triangulated; cells on one line are joined
    along it. ``radius_um`` cuts longer edges off in each case.

    Parameters
    ----------
    coordinates
        Centroids, um, [n, 2].
    graph
        The section of the study.
    seed
        Of the permutation, with ``coordinates: permuted``. The places are dealt within each part, and a part
        is dealt the same way whatever stands beside it.
    parts
        Numbers of cells that follow one another, one part per slide, with no edges in between; none: one.

    Returns
    -------
    CellGraph
        On the CPU. No edges where there are no two cells.

    Raises
    ------
    ValueError
        Coordinates that are not finite or not [n, 2], parts that do not sum to n.
    """
    places = np.asarray(coordinates, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"coordinates are [n, 2], not {list(places.shape)}")
    if not np.isfinite(places).all():
        raise ValueError(f"coordinates of {(~np.isfinite(places)).any(1).sum()} cells are not finite")
    sizes = [len(places)] if parts is None else list(parts)
    if sum(sizes) != len(places) or min(sizes, default=0) < 0:
        raise ValueError(f"parts of {sizes} cells are not {len(places)} cells")
    found = [np.zeros((0, 2), dtype=np.int64)]
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        part = places[start : start + size]
        if graph.coordinates == "permuted":
            part = np.random.default_rng(seed).permutation(part)
        found.append(start + _neighbours(part, graph))
    one_way = np.concatenate(found)
    both_ways = np.concatenate([one_way, one_way[:, ::-1]])
    # sorted and each once by (row, column)
    numbers = np.unique(both_ways[:, 0] * len(places) + both_ways[:, 1])
    edges = np.stack(np.divmod(numbers, max(1, len(places))))
    return CellGraph(torch.from_numpy(edges), len(places))


def _neighbours(places: NDArray[np.float64], graph: Graph) -> NDArray[np.int64]:
    """Pairs of neighbours of one slide, [m, 2], in any order, some of them twice."""
    if len(places) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    if graph.by == "delaunay":
        pairs = _triangulated(places)
    elif graph.by == "nearest":
        pairs = _nearest(places, min(graph.neighbours, len(places) - 1))
    else:
        # the section `graph` asks for the radius that this needs
        pairs = cKDTree(places).query_pairs(graph.radius_um, output_type="ndarray")
    if graph.radius_um is not None:
        lengths = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
        pairs = pairs[lengths <= graph.radius_um]
    return pairs.astype(np.int64)


def _nearest(places: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    cells = np.arange(len(places))[:, None]
    found = cKDTree(places).query(places, k=count + 1)[1]  # [n, count + 1]
    others = found != cells
    # among many cells in one place a cell may not be found itself: then the farthest goes instead
    others[others.all(1), -1] = False
    return np.stack([np.broadcast_to(cells, found.shape)[others], found[others]], 1)


def _triangulated(places: NDArray[np.float64]) -> NDArray[np.int64]:
    distinct, first, place = np.unique(places, axis=0, return_index=True, return_inverse=True)
    try:
        triangles = Delaunay(distinct)
    except QhullError:  # fewer than three places, or all on one line
        centred = distinct - distinct.mean(0)
        along = np.argsort(centred @ np.linalg.svd(centred, full_matrices=False)[2][0], kind="stable")
        joined = np.stack([along[:-1], along[1:]], 1)
    else:
        corners = triangles.simplices  # [t, 3]
        # `coplanar`: places so near another that rounding keeps them out; joined to the nearest corner
        joined = np.concatenate([corners[:, :2], corners[:, 1:], corners[:, ::2], triangles.coplanar[:, ::2]])
    cells = np.arange(len(places))
    kept = first[place.ravel()]
    doubled = cells != kept
    return np.concatenate([first[joined], np.stack([cells, kept], 1)[doubled]])


def check_kind(kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, not {kind!r}")
