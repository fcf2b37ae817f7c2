"""How rough values on a graph are: Dirichlet energy (arXiv 2410.03276) and shares of power by frequency."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from myostage.spatial.graph import CellGraph, Kind, check_kind
from myostage.spatial.sparse import product

# Eigenvalues of about 1e-15 beside the edge of a band would fall to either side by chance.
EIGENVALUE_DECIMALS = 12


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
    check_kind(kind)
    u = graph.columns(values)
    if kind == "symmetric":
        u = u / graph.root_degree(u)
    return product(u, *graph.incidence(u.dtype)).square().sum()


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


def _centred(values: Tensor) -> Tensor:
    """``values`` less their mean, float64, without gradient; exactly 0 where they are constant."""
    values = values.detach().double()
    # the first taken off beforehand: the rounded mean of a constant is not always that constant
    shifted = values - values[:1]
    return shifted - shifted.mean()
