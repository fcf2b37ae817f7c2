"""Dirichlet energy and spectra against loops and traces."""

import numpy as np
import pytest
import torch

from myostage.spatial.graph import Kind, cell_graph
from myostage.spatial.roughness import band_shares, dirichlet_energy, energy_per_edge, spectrum
from myostage.spatial.smoothing import sm_exact
from myostage.study.sections.graph import Graph
from support.graphs import KINDS, dense_operator, path, values, with_isolated


@pytest.mark.parametrize("kind", KINDS)
def test_dirichlet_energy_is_the_trace_and_the_sum_over_edges(kind: Kind) -> None:
    graph, u = with_isolated(), values(22).requires_grad_()
    degree = graph.degree.double().clamp_min(1)
    weight = torch.ones_like(degree) if kind == "symmetric" else degree
    laplacian = torch.eye(22, dtype=torch.float64) - dense_operator(graph, kind)
    trace = torch.trace(u.T @ (weight[:, None] * laplacian) @ u)
    scaled = u / degree.sqrt()[:, None] if kind == "symmetric" else u
    loop = sum((scaled[i] - scaled[j]).square().sum() / 2 for i, j in graph.edges.T.tolist())
    energy = dirichlet_energy(u, graph, kind)
    torch.testing.assert_close(energy, trace)
    torch.testing.assert_close(energy, loop)
    assert torch.autograd.gradcheck(lambda x: dirichlet_energy(x, graph, kind), (u,))


def test_isolated_cells_add_no_energy() -> None:
    graph, u = with_isolated(), values(22, None)
    before = dirichlet_energy(u, graph)
    u[[0, 21]] = 1e6
    assert dirichlet_energy(u, graph) == before > 0


def test_energy_per_edge_by_hand() -> None:
    # standardised: -1, 1, 1, -1; differences 2, 0, 2
    u = torch.tensor([3.0, 7.0, 7.0, 3.0])
    assert energy_per_edge(u, path(4)) == pytest.approx(8 / 3)
    assert energy_per_edge(100 * u - 5, path(4)) == pytest.approx(8 / 3)


def test_energy_per_edge_of_constant_values_or_without_edges_is_zero() -> None:
    assert energy_per_edge(torch.full((7,), 0.1), path(7)) == 0
    assert energy_per_edge(values(3, None), cell_graph(np.zeros((3, 2)), Graph(), parts=[1, 1, 1])) == 0
    assert energy_per_edge(torch.zeros(0), cell_graph(np.zeros((0, 2)), Graph())) == 0
    with pytest.raises(ValueError, match="7 cells"):
        energy_per_edge(values(7), path(7))


def test_spectrum_is_that_of_the_laplacian() -> None:
    graph = with_isolated()
    eigenvalues, eigenvectors = spectrum(graph)
    assert eigenvalues.dtype == eigenvectors.dtype == torch.float64
    rebuilt = eigenvectors @ torch.diag(eigenvalues) @ eigenvectors.T
    torch.testing.assert_close(rebuilt, graph.laplacian(), atol=1e-10, rtol=0)
    assert eigenvalues[0] == 0
    assert eigenvalues[-1] <= 2
    # two isolated cells and one connected part
    assert int((eigenvalues == 0).sum()) == 3


def test_a_path_of_two_cells_has_the_eigenvalues_0_and_2() -> None:
    assert spectrum(path(2))[0].tolist() == [0, 2]


def test_band_shares_against_a_loop() -> None:
    graph, u = with_isolated(), values(22, None)
    eigenvalues, eigenvectors = spectrum(graph)
    edges = [0, 0.5, 1, 2]
    wanted = [0.0, 0.0, 0.0]
    for k, at in enumerate(eigenvalues.tolist()):
        wanted[sum(at >= e for e in edges[1:-1])] += float((u - u.mean()) @ eigenvectors[:, k]) ** 2
    total = sum(wanted)
    found = band_shares(u.float(), eigenvalues, eigenvectors, edges)
    assert found.tolist() == pytest.approx([x / total for x in wanted], abs=1e-6)
    assert float(found.sum()) == pytest.approx(1)


def test_band_shares_put_a_pure_wave_into_its_band_and_sm_moves_power_down() -> None:
    graph = path(30)
    eigenvalues, eigenvectors = spectrum(graph)
    wave = eigenvectors[:, 20] + 5
    found = band_shares(wave, eigenvalues, eigenvectors, [0, 1, 2])
    assert float(found[int(eigenvalues[20] >= 1)]) > 0.95
    noise = values(30, None)
    smoothed = sm_exact(noise, graph, 0.9)
    low = [float(band_shares(u, eigenvalues, eigenvectors, [0, 1, 2])[0]) for u in (noise, smoothed)]
    assert low[1] > low[0]


def test_band_shares_of_constant_values_are_zero_and_bad_bands_are_refused() -> None:
    known = spectrum(path(7))
    assert band_shares(torch.full((7,), 0.1), *known, [0, 1, 2]).tolist() == [0, 0]
    for edges in ([0, 1], [0, 2, 1], [2]):
        with pytest.raises(ValueError, match="bands"):
            band_shares(values(7, None), *known, edges)
    with pytest.raises(ValueError, match="7 eigenvalues"):
        band_shares(values(6, None), *known, [0, 2])


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="symmetric, random_walk"):
        dirichlet_energy(values(3), path(3), "plain")  # type: ignore[arg-type]
