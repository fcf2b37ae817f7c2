"""Neighbour graph of a slide's cells, and what smooths values over it: Sm, random walk, total variation.

Sm is the operator of arXiv 2410.03276. For all operators alpha lies between 0 (nothing is smoothed) and 1,
and gamma = alpha / (1 - alpha) weighs the roughness against the distance from the values. Whatever autocast
is on, they are computed in float32 (in float64 where the values are).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import Delaunay, QhullError, cKDTree
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from myostage.study.sections.graph import Graph
from myostage.study.sections.mil import SmOperator

Kind = Literal["symmetric", "random_walk"]
Alpha = float | Tensor

# Relative residual at which conjugate gradients stop, above what rounding leaves in each dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
# Rounding delays conjugate gradients beyond the steps that the condition number allows.
DELAY = 2
# Eigenvalues of about 1e-15 beside the edge of a band would fall to either side by chance.
EIGENVALUE_DECIMALS = 12


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
        _check_kind(kind)
        if (kind, dtype) not in self._made:
            degree = self.degree.to(dtype)
            alone = (degree == 0).nonzero()[:, 0]
            rows, columns = torch.cat([self.edges, alone.expand(2, -1)], 1)
            degree.clamp_min_(1)
            both = degree[rows] * degree[columns]
            weights = both.rsqrt() if kind == "symmetric" else 1 / degree[rows]
            self._made[kind, dtype] = _csr(rows, columns, weights, (self.nodes, self.nodes))
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
            self._made["incidence", dtype] = _csr(rows, columns, signs, (len(low), self.nodes))
            self._made["transpose", dtype] = _csr(columns, rows, signs, (self.nodes, len(low)))
        return self._made["incidence", dtype], self._made["transpose", dtype]

    @property
    def pairs(self) -> Tensor:
        """Every pair of neighbours once, the smaller number first, int64 [2, m / 2]."""
        return self.edges[:, self.edges[0] < self.edges[1]]


# --- the graph


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


# --- how rough values are


def dirichlet_energy(values: Tensor, graph: CellGraph, kind: Kind = "symmetric") -> Tensor:
    """Dirichlet energy 1/2 sum_ij A_ij ||u_i - u_j||^2 of values on the graph (arXiv 2410.03276).

    ``symmetric``: of u_i / sqrt(d_i), which is tr(U^T L U) with L = I - D^-1/2 A D^-1/2. ``random_walk``: of
    u_i itself, which is tr(U^T D L U) with L = I - D^-1 A, and what a random walk never raises.

    Parameters
    ----------
    values
        [n] or [n, D].
    graph
        Of n cells; isolated ones add nothing.

    Returns
    -------
    Tensor
        Scalar, at least 0; differentiable.

    Raises
    ------
    ValueError
        An unknown kind, values that are not one row per cell.
    """
    _check_kind(kind)
    u = _columns(values, graph)
    if kind == "symmetric":
        u = u / _root_degree(graph, u)
    return _product(u, *graph.incidence(u.dtype)).square().sum()


def energy_per_edge(values: Tensor, graph: CellGraph) -> float:
    """Mean of (u_i - u_j)^2 over the pairs of neighbours, u standardised to mean 0 and variance 1.

    About 2 where neighbours are no more alike than any two cells of a large slide, 0 where they are equal.

    Parameters
    ----------
    values
        Attention logits of a slide's cells, [n].
    graph
        Of n cells.

    Returns
    -------
    float
        0 for constant values or a graph without edges.

    Raises
    ------
    ValueError
        Values that are not one number per cell.
    """
    if values.shape != (graph.nodes,):
        raise ValueError(f"values of shape {tuple(values.shape)} on a graph of {graph.nodes} cells")
    pairs = graph.edges.shape[1] // 2
    centred = _centred(values)
    if not pairs or not centred.any():
        return 0.0
    standard = centred / centred.square().mean().sqrt()
    return float(dirichlet_energy(standard, graph, "random_walk")) / pairs


def spectrum(graph: CellGraph) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, [n] and eigenvectors, in columns, [n, n] of L = I - D^-1/2 A D^-1/2, float64.

    Eigenvalues lie between 0 (smooth; one for every connected part, an isolated cell among them) and 2, and
    are rounded to 12 decimals. Dense: memory grows with the square of the cells, time with the cube.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(graph.laplacian())
    return eigenvalues.round(decimals=EIGENVALUE_DECIMALS), eigenvectors


def band_shares(
    values: Tensor, eigenvalues: Tensor, eigenvectors: Tensor, edges: ArrayLike | Tensor
) -> Tensor:
    """Share of the power of values in each band of eigenvalues, their mean taken off.

    Parameters
    ----------
    values
        [n].
    eigenvalues, eigenvectors
        Of the graph, [n] and [n, n], as :func:`spectrum` gives them.
    edges
        Rising edges of the B bands, [B + 1]; a band holds its lower edge, the last one its upper edge too.

    Returns
    -------
    Tensor[B]
        float64; sums to 1, or all 0 for constant values.

    Raises
    ------
    ValueError
        Edges that do not rise or leave an eigenvalue out, values that are not one number per eigenvalue.
    """
    limits = torch.as_tensor(edges, dtype=torch.float64, device=eigenvalues.device)
    if limits.ndim != 1 or len(limits) < 2 or not bool((limits.diff() > 0).all()):
        raise ValueError(f"edges of bands rise, two or more, not {limits.tolist()}")
    if bool(((eigenvalues < limits[0]) | (eigenvalues > limits[-1])).any()):
        raise ValueError(f"bands from {limits[0]:g} to {limits[-1]:g} leave eigenvalues out")
    if values.shape != eigenvalues.shape:
        raise ValueError(f"values of shape {tuple(values.shape)} for {len(eigenvalues)} eigenvalues")
    power = (eigenvectors.T @ _centred(values).to(eigenvectors)).square()  # [n]
    band = torch.searchsorted(limits[1:-1], eigenvalues, right=True)  # [n]
    shares = torch.zeros(len(limits) - 1, dtype=torch.float64, device=power.device).index_add_(0, band, power)
    total = shares.sum()
    return shares / total if total > 0 else shares


# --- what smooths


def sm(values: Tensor, graph: CellGraph, alpha: Alpha, steps: int) -> Tensor:
    """Sm in T steps: G_0 = U, G_t = alpha D^-1/2 A D^-1/2 G_{t-1} + (1 - alpha) U (arXiv 2410.03276).

    Approaches :func:`sm_exact`: what is missing shrinks by alpha with every step. Time and memory grow with
    the edges; the gradient of alpha is carried along in one more product a step, so memory does not grow
    with the steps.

    Parameters
    ----------
    values
        U, [n] or [n, D].
    graph
        Of n cells; the values of isolated ones stay.
    alpha
        How much is smoothed, above 0 and below 1; a 0-d tensor where it is learnt.
    steps
        T, at least 1.

    Returns
    -------
    Tensor
        As ``values``; differentiable once in values and alpha.

    Raises
    ------
    ValueError
        alpha or steps out of range, values that are not one row per cell.
    """
    _check(alpha, steps)
    u = _columns(values, graph)
    # autograd tells its functions that a parameter wants a gradient even where gradients are off
    learnt = alpha if torch.is_grad_enabled() else _number(alpha)
    smoothed: Tensor = _Sm.apply(u, learnt, graph.operator("symmetric", u.dtype), steps)
    return smoothed.reshape(values.shape)


def sm_exact(values: Tensor, graph: CellGraph, alpha: Alpha) -> Tensor:
    """Sm itself, (I + gamma L)^-1 U with L = I - D^-1/2 A D^-1/2, by conjugate gradients (arXiv 2410.03276).

    They run until the residual of every column is 1e-6 (float64: 1e-12) of its right-hand side; in float32
    that takes fewer than ten times sqrt((1 + alpha) / (1 - alpha)) steps, and the gradient as many again.

    Parameters
    ----------
    values, graph, alpha
        As in :func:`sm`.

    Returns
    -------
    Tensor
        As ``values``; differentiable once in values and alpha.

    Raises
    ------
    ValueError
        alpha out of range, values that are not one row per cell.
    RuntimeError
        Rounding kept the residual above its goal: alpha is too near to 1 for the dtype.
    """
    _check(alpha)
    u = _columns(values, graph)
    if not u.numel():
        return u.reshape(values.shape)
    smoothed: Tensor = _SmExact.apply(u, alpha, graph.operator("symmetric", u.dtype))
    return smoothed.reshape(values.shape)


def random_walk(values: Tensor, graph: CellGraph, alpha: Alpha, steps: int) -> Tensor:
    """As :func:`sm` with D^-1 A: means over neighbours, so that a constant stays what it is."""
    # D^-1 A = D^-1/2 (D^-1/2 A D^-1/2) D^1/2
    u = _columns(values, graph)
    root = _root_degree(graph, u)
    return (sm(u * root, graph, alpha, steps) / root).reshape(values.shape)


def total_variation(values: Tensor, graph: CellGraph, alpha: Alpha, steps: int) -> Tensor:
    """argmin over G of 1/2 ||G - U||^2 + gamma sum over pairs of neighbours |g_i - g_j|, column by column.

    T steps of Chambolle's dual projection (J. Math. Imaging Vis. 20, 2004): with K the differences along the
    pairs and q their multipliers, G = U - K^T q and q <- (q + tau K G) / (1 + tau |K G| / gamma). The width
    of a step, tau = 1 / (d_i + d_j), is small enough for each pair by Gershgorin's theorem.

    Few steps do not reach the minimum where alpha is large, since a step carries a value no farther than to
    the neighbours. Of the distance between U and the minimum there remained, for 1,000 cells with 8
    neighbours and values of variance 1, noise or two halves with noise:

    ====== ============ ============= =============
    steps  alpha .1     alpha .5      alpha .9
    ====== ============ ============= =============
    10     11 to 20 %   17 to 45 %    15 to 89 %
    200    .5 to 3 %    4 to 22 %     3 to 64 %
    1,000  .04 to .6 %  1 to 4 %      1 to 28 %
    ====== ============ ============= =============

    Not linear, unlike the other operators: the smaller the values, the more of them gamma flattens. With
    gradients it keeps some tensors of [pairs, D] for every step.

    Parameters
    ----------
    values, graph, alpha, steps
        As in :func:`sm`.

    Returns
    -------
    Tensor
        As ``values``; differentiable through the steps.

    Raises
    ------
    ValueError
        As :func:`sm`.
    """
    _check(alpha, steps)
    u = _columns(values, graph)
    weight = alpha.to(u) if isinstance(alpha, Tensor) else alpha
    gamma = weight / (1 - weight)
    differences, transpose = graph.incidence(u.dtype)
    tau = 1 / graph.degree.to(u)[graph.pairs].sum(0)[:, None]  # [m / 2, 1]
    q = u.new_zeros(len(tau), u.shape[1])
    smoothed = u
    for _ in range(steps):
        rise = tau * _product(smoothed, differences, transpose)
        q = (q + rise) / (1 + rise.abs() / gamma)
        smoothed = u - _product(q, transpose, differences)
    return smoothed.reshape(values.shape)


class Smoother(nn.Module):
    """An operator with its alpha, given or learnt.

    Parameters
    ----------
    operator
        ``sm``, ``sm_exact``, ``random_walk`` or ``total_variation``.
    alpha
        How much is smoothed, above 0 and below 1, or ``trainable``: the sigmoid of a parameter that starts
        at 0, so that alpha starts at 1/2 and cannot leave its range.
    steps
        T, at least 1; ``sm_exact`` takes as many as it needs.

    Raises
    ------
    ValueError
        An unknown operator, alpha or steps out of range.
    """

    def __init__(self, operator: SmOperator, alpha: float | Literal["trainable"], steps: int) -> None:
        super().__init__()
        if operator not in get_args(SmOperator):
            raise ValueError(f"operator is one of {', '.join(get_args(SmOperator))}, not {operator!r}")
        self.operator = operator
        self.steps = steps
        self.theta = nn.Parameter(torch.zeros(())) if alpha == "trainable" else None
        self.given = None if alpha == "trainable" else alpha
        _check(self.alpha, steps)

    @property
    def alpha(self) -> Alpha:
        """How much is smoothed: a number, or a 0-d tensor where it is learnt."""
        if self.theta is not None:
            return self.theta.sigmoid()
        assert self.given is not None
        return self.given

    def forward(self, values: Tensor, graph: CellGraph) -> Tensor:
        """Smoothed ``values`` [n] or [n, D]."""
        if self.operator == "sm_exact":
            return sm_exact(values, graph, self.alpha)
        smooth = {"sm": sm, "random_walk": random_walk, "total_variation": total_variation}[self.operator]
        return smooth(values, graph, self.alpha, self.steps)

    def extra_repr(self) -> str:
        return f"{self.operator}, alpha={self.given or 'trainable'}, steps={self.steps}"


class _Sm(torch.autograd.Function):
    """The recursion of :func:`sm`: a polynomial of a symmetric matrix, so its own adjoint."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, alpha: Alpha, matrix: Tensor, steps: int) -> Tensor:
        ctx.matrix, ctx.alpha, ctx.steps = matrix, _number(alpha), steps
        slope = torch.zeros_like(values) if ctx.needs_input_grad[1] else None  # dG_t / d alpha
        smoothed = values
        for _ in range(steps):
            if slope is not None:
                slope = _mm(matrix, smoothed + ctx.alpha * slope, values, beta=-1)
            smoothed = _mm(matrix, smoothed, values, beta=1 - ctx.alpha, scale=ctx.alpha)
        ctx.save_for_backward(slope)
        return smoothed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        to_values = None
        if ctx.needs_input_grad[0]:
            to_values = grad
            for _ in range(ctx.steps):
                to_values = _mm(ctx.matrix, to_values, grad, beta=1 - ctx.alpha, scale=ctx.alpha)
        return to_values, None if slope is None else (grad * slope).sum(), None, None


class _SmExact(torch.autograd.Function):
    """X with (I - alpha S) X = (1 - alpha) U, S the symmetric operator: :func:`sm_exact` times 1 - alpha."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, alpha: Alpha, matrix: Tensor) -> Tensor:
        ctx.matrix, ctx.alpha = matrix, _number(alpha)
        smoothed = _conjugate_gradients(matrix, values, ctx.alpha)
        ctx.save_for_backward(*([values, smoothed] if ctx.needs_input_grad[1] else []))
        return smoothed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        adjoint = _conjugate_gradients(ctx.matrix, grad, ctx.alpha)
        to_alpha = None
        if ctx.needs_input_grad[1]:
            values, smoothed = ctx.saved_tensors
            # from (I - alpha S) dX = (S X - U) d alpha
            to_alpha = (adjoint * _mm(ctx.matrix, smoothed, values, beta=-1)).sum() / (1 - ctx.alpha)
        return adjoint, to_alpha, None


class _Product(torch.autograd.Function):
    """Sparse matrix times dense; its transpose is given, since torch would make it anew at every backward."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.transpose = transpose
        return _mm(matrix, dense)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _mm(ctx.transpose, grad), None, None


def _product(dense: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
    product: Tensor = _Product.apply(dense, matrix, transpose)
    return product


def _conjugate_gradients(matrix: Tensor, values: Tensor, alpha: float) -> Tensor:
    """X with (I - alpha S) X = (1 - alpha) U, every column of U [n, D] with step widths of its own.

    The method of Hestenes and Stiefel (J. Res. Natl. Bur. Stand. 49, 1952).
    """
    tolerance = TOLERANCE[values.dtype]
    root_condition = math.sqrt((1 + alpha) / (1 - alpha))
    limit = DELAY * math.ceil(root_condition / 2 * math.log(2 * root_condition / tolerance))
    # so that squares of small gradients do not underflow
    scale = _or_one(values.abs().amax(0))
    wanted = values / scale
    goal = ((1 - alpha) * tolerance) ** 2 * wanted.square().sum(0)
    # from U itself, where isolated cells have no residual and so never move
    x = wanted.clone()
    residual = alpha * _mm(matrix, wanted, wanted, beta=-1)
    direction = residual.clone()
    size = residual.square().sum(0)
    for _ in range(limit):
        image = _mm(matrix, direction, direction, scale=-alpha)
        width = size / _or_one((direction * image).sum(0))
        x.addcmul_(width, direction)
        residual.addcmul_(width, image, value=-1)
        before, size = size, residual.square().sum(0)
        direction.mul_(size / _or_one(before)).add_(residual)
        # a column that is not finite stays so, as in any product
        if bool(((size <= goal) | size.isnan()).all()):
            return x * scale
    raise RuntimeError(f"conjugate gradients did not reach {tolerance:g} in {limit} steps at alpha {alpha:g}")


def _mm(
    matrix: Tensor, dense: Tensor, added: Tensor | None = None, *, beta: float = 1, scale: float = 1
) -> Tensor:
    """beta ``added`` + scale ``matrix`` ``dense``, sparse [n, k] by dense [k, D]."""
    # backward may run under an autocast that forward has not seen
    with torch.autocast(dense.device.type, enabled=False):
        if added is None:
            return torch.sparse.mm(matrix, dense.contiguous())
        return torch.addmm(added, matrix, dense.contiguous(), beta=beta, alpha=scale)


def _csr(rows: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    order = torch.argsort(rows * shape[1] + columns)
    starts = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # numbers of 32 bits: MKL and cuSPARSE would copy longer ones at every product
        return torch.sparse_csr_tensor(
            starts.int(), columns[order].int(), weights[order], shape, check_invariants=True
        )


def _columns(values: Tensor, graph: CellGraph) -> Tensor:
    """``values`` as float [n, D]."""
    if values.ndim not in (1, 2) or len(values) != graph.nodes:
        raise ValueError(f"values of shape {tuple(values.shape)} on a graph of {graph.nodes} cells")
    full = values if values.dtype == torch.float64 else values.float()
    return full if full.ndim == 2 else full[:, None]


def _centred(values: Tensor) -> Tensor:
    """``values`` less their mean, float64, without gradient; exactly 0 where they are constant."""
    values = values.detach().double()
    # the first taken off beforehand: the rounded mean of a constant is not always that constant
    shifted = values - values[:1]
    return shifted - shifted.mean()


def _root_degree(graph: CellGraph, like: Tensor) -> Tensor:
    """Square roots of the degrees, [n, 1], 1 for an isolated cell."""
    return graph.degree.to(like).clamp_min(1).sqrt()[:, None]


def _or_one(x: Tensor) -> Tensor:
    """What to divide by: ``x``, or 1 where it is 0 (and so is what is divided)."""
    return torch.where(x > 0, x, torch.ones_like(x))


def _number(alpha: Alpha) -> float:
    return float(alpha.detach() if isinstance(alpha, Tensor) else alpha)


def _check(alpha: Alpha, steps: int = 1) -> None:
    if not 0 < _number(alpha) < 1:
        raise ValueError(f"alpha lies above 0 and below 1, not {_number(alpha):g}")
    if steps < 1:
        raise ValueError(f"steps are 1 or more, not {steps}")


def _check_kind(kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, not {kind!r}")
