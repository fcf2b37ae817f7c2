"""Neighbour graphs against brute force; smoothing against dense solves, slow minimisers and torchmil."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from myostage.spatial import graph as spatial
from myostage.spatial.graph import CellGraph, Smoother, cell_graph
from myostage.study.sections.graph import Graph

Pairs = set[tuple[int, int]]
ALPHAS = [0.1, 0.5, 0.9]
KINDS: list[spatial.Kind] = ["symmetric", "random_walk"]
SMOOTHERS: dict[str, Callable[[Tensor, CellGraph, spatial.Alpha], Tensor]] = {
    "sm": lambda u, graph, alpha: spatial.sm(u, graph, alpha, 3),
    "sm_exact": spatial.sm_exact,
    "random_walk": lambda u, graph, alpha: spatial.random_walk(u, graph, alpha, 3),
    "total_variation": lambda u, graph, alpha: spatial.total_variation(u, graph, alpha, 3),
}
LINE = np.array([[30.0, 3.0], [10.0, 1.0], [40.0, 4.0], [0.0, 0.0]])


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


def pairs_of(graph: CellGraph) -> Pairs:
    """Every pair of neighbours once; fails where the edges are not as :class:`CellGraph` promises."""
    assert graph.edges.dtype == torch.int64
    both = [(int(i), int(j)) for i, j in graph.edges.T.tolist()]
    assert both == sorted(set(both))
    assert all(0 <= i < graph.nodes and i != j and (j, i) in set(both) for i, j in both)
    return {(i, j) for i, j in both if i < j}


def dense_operator(graph: CellGraph, kind: spatial.Kind) -> Tensor:
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


def solved(u: Tensor, graph: CellGraph, alpha: float) -> Tensor:
    laplacian = torch.eye(graph.nodes, dtype=torch.float64) - dense_operator(graph, "symmetric")
    matrix = torch.eye(graph.nodes, dtype=torch.float64) + alpha / (1 - alpha) * laplacian
    return torch.linalg.solve(matrix, u)


def recursion(u: Tensor, graph: CellGraph, alpha: float, steps: int, kind: spatial.Kind) -> Tensor:
    operator, g = dense_operator(graph, kind), u
    for _ in range(steps):
        g = alpha * operator @ g + (1 - alpha) * u
    return g


# --- the graph


def test_nearest_neighbours_are_joined_both_ways_as_by_brute_force() -> None:
    places, k = scattered(40), 3
    wanted: Pairs = set()
    for i in range(len(places)):
        order = sorted(range(len(places)), key=lambda j, i=i: float(np.hypot(*(places[i] - places[j]))))
        wanted |= {(min(i, j), max(i, j)) for j in order[1 : k + 1]}
    graph = cell_graph(places, Graph(neighbours=k))
    assert pairs_of(graph) == wanted
    assert int(graph.degree.max()) > k
    assert graph.degree.tolist() == [sum(i in pair for pair in wanted) for i in range(len(places))]


def test_radius_joins_all_within_it() -> None:
    places = scattered(40)
    near = {
        (i, j) for i, j in itertools.combinations(range(40), 2) if np.hypot(*(places[i] - places[j])) <= 20
    }
    assert pairs_of(cell_graph(places, Graph(by="radius", radius_um=20))) == near


def test_delaunay_joins_cells_whose_circle_is_empty() -> None:
    places = scattered(14, seed=3)
    wanted: Pairs = set()
    for corners in itertools.combinations(range(14), 3):
        a, b, c = places[list(corners)]
        centre = np.linalg.solve(2 * np.array([b - a, c - a]), np.array([b @ b - a @ a, c @ c - a @ a]))
        inside = np.hypot(*(places - centre).T) < np.hypot(*(a - centre)) * (1 - 1e-9)
        if not inside.any():
            wanted |= set(itertools.combinations(corners, 2))
    assert pairs_of(cell_graph(places, Graph(by="delaunay"))) == wanted


@pytest.mark.parametrize("by", ["nearest", "delaunay"])
def test_no_edge_is_longer_than_the_radius(by: str) -> None:
    places = scattered(40)
    free, cut = (cell_graph(places, Graph.model_validate({"by": by, "radius_um": r})) for r in (None, 15.0))
    kept = {(i, j) for i, j in pairs_of(free) if np.hypot(*(places[i] - places[j])) <= 15}
    assert pairs_of(cut) == kept
    assert len(kept) < len(pairs_of(free))


def test_delaunay_of_cells_on_a_line_joins_them_along_it() -> None:
    assert pairs_of(cell_graph(LINE, Graph(by="delaunay"))) == {(1, 3), (0, 1), (0, 2)}
    assert pairs_of(cell_graph(LINE[:2], Graph(by="delaunay"))) == {(0, 1)}
    tilted = np.outer(np.arange(30), [0.1, 0.3]) + 1e4  # on a line but for rounding
    assert pairs_of(cell_graph(tilted, Graph(by="delaunay"))) == {(i, i + 1) for i in range(29)}


def test_delaunay_joins_cells_in_one_place_to_the_first_of_them() -> None:
    square = np.array([[0.0, 0], [10, 0], [0, 10], [11, 11]])
    alone = pairs_of(cell_graph(square, Graph(by="delaunay")))
    doubled = cell_graph(np.concatenate([square, square[[3, 3]]]), Graph(by="delaunay"))
    assert pairs_of(doubled) == alone | {(3, 4), (3, 5)}
    one_place = cell_graph(np.full((4, 2), 7.0), Graph(by="delaunay"))
    assert pairs_of(one_place) == {(0, 1), (0, 2), (0, 3)}


def test_nearest_in_one_place_gives_each_cell_as_many_others_as_asked() -> None:
    graph = cell_graph(np.full((50, 2), 7.0), Graph(neighbours=3))
    # each chooses three, and no more, though it may not be among the four that a search finds
    assert len(pairs_of(graph)) <= 3 * 50
    assert int(graph.degree.min()) >= 3


@pytest.mark.parametrize("by", ["nearest", "radius", "delaunay"])
def test_no_cell_and_one_cell_have_no_edges(by: str) -> None:
    section = Graph.model_validate({"by": by, "radius_um": 10})
    for n in (0, 1):
        graph = cell_graph(np.zeros((n, 2)), section)
        assert graph.edges.shape == (2, 0)
        assert graph.nodes == n
        assert graph.isolated.tolist() == [True] * n


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30),
    st.sampled_from(["nearest", "radius", "delaunay"]),
    st.integers(1, 9),
)
def test_edges_are_sorted_and_lie_both_ways_whatever_the_places(
    places: list[tuple[int, int]], by: str, k: int
) -> None:
    section = Graph.model_validate({"by": by, "neighbours": k, "radius_um": 2.0 if by == "radius" else None})
    graph = cell_graph(np.array(places, dtype=float).reshape(-1, 2), section)
    pairs_of(graph)
    if by == "nearest" and len(places) > 1:
        assert int(graph.degree.min()) >= min(k, len(places) - 1)
    if by == "delaunay" and len(places) > 1:
        # a triangulation is connected: one eigenvalue is 0
        assert int((spatial.spectrum(graph)[0] < 1e-9).sum()) == 1


def test_parts_are_graphs_of_their_own() -> None:
    places = scattered(30)
    section = Graph(neighbours=4)
    joint = cell_graph(places, section, parts=[10, 0, 20])
    apart = [cell_graph(places[:10], section), cell_graph(places[10:], section)]
    assert torch.equal(joint.edges, torch.cat([apart[0].edges, apart[1].edges + 10], 1))
    with pytest.raises(ValueError, match="30 cells"):
        cell_graph(places, section, parts=[10, 10])


def test_permuted_coordinates_deal_the_same_places_within_each_part() -> None:
    places = scattered(60)
    true, control = Graph(neighbours=4), Graph(neighbours=4, coordinates="permuted")
    graph = cell_graph(places, control, seed=1, parts=[30, 30])
    assert torch.equal(graph.edges, cell_graph(places, control, seed=1, parts=[30, 30]).edges)
    assert not torch.equal(graph.edges, cell_graph(places, control, seed=2, parts=[30, 30]).edges)
    assert all((i < 30) == (j < 30) for i, j in pairs_of(graph))
    # as many neighbours as before, but of other cells
    first, alone = cell_graph(places[:30], true), cell_graph(places[:30], control, seed=1)
    assert first.degree.sort().values.tolist() == alone.degree.sort().values.tolist()
    assert len(pairs_of(first) & pairs_of(alone)) < len(pairs_of(first)) / 2
    assert {(i, j) for i, j in pairs_of(graph) if j < 30} == pairs_of(alone)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_coordinates_that_are_not_finite_are_refused(broken: float) -> None:
    places = scattered(5)
    places[2, 1] = broken
    with pytest.raises(ValueError, match="of 1 cells are not finite"):
        cell_graph(places, Graph())
    with pytest.raises(ValueError, match=r"\[n, 2\]"):
        cell_graph(np.zeros((3, 3)), Graph())


@pytest.mark.parametrize("kind", KINDS)
def test_operators_and_laplacian_against_loops(kind: spatial.Kind) -> None:
    graph = with_isolated()
    wanted = dense_operator(graph, kind)
    assert graph.isolated.nonzero()[:, 0].tolist() == [0, 21]
    torch.testing.assert_close(graph.operator(kind, torch.float64).to_dense(), wanted)
    assert graph.operator(kind) is graph.operator(kind)
    assert graph.operator(kind).dtype == torch.float32
    laplacian = graph.laplacian(kind)
    torch.testing.assert_close(laplacian, torch.eye(22, dtype=torch.float64) - wanted)
    assert not laplacian[[0, 21]].any()


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="symmetric, random_walk"):
        path(3).operator("incidence")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="symmetric, random_walk"):
        spatial.dirichlet_energy(values(3), path(3), "plain")  # type: ignore[arg-type]


# --- how rough values are


@pytest.mark.parametrize("kind", KINDS)
def test_dirichlet_energy_is_the_trace_and_the_sum_over_edges(kind: spatial.Kind) -> None:
    graph, u = with_isolated(), values(22).requires_grad_()
    degree = graph.degree.double().clamp_min(1)
    weight = torch.ones_like(degree) if kind == "symmetric" else degree
    laplacian = torch.eye(22, dtype=torch.float64) - dense_operator(graph, kind)
    trace = torch.trace(u.T @ (weight[:, None] * laplacian) @ u)
    scaled = u / degree.sqrt()[:, None] if kind == "symmetric" else u
    loop = sum((scaled[i] - scaled[j]).square().sum() / 2 for i, j in graph.edges.T.tolist())
    energy = spatial.dirichlet_energy(u, graph, kind)
    torch.testing.assert_close(energy, trace)
    torch.testing.assert_close(energy, loop)
    assert torch.autograd.gradcheck(lambda x: spatial.dirichlet_energy(x, graph, kind), (u,))


def test_isolated_cells_add_no_energy() -> None:
    graph, u = with_isolated(), values(22, None)
    before = spatial.dirichlet_energy(u, graph)
    u[[0, 21]] = 1e6
    assert spatial.dirichlet_energy(u, graph) == before > 0


def test_energy_per_edge_by_hand() -> None:
    # standardised: -1, 1, 1, -1; differences 2, 0, 2
    u = torch.tensor([3.0, 7.0, 7.0, 3.0])
    assert spatial.energy_per_edge(u, path(4)) == pytest.approx(8 / 3)
    assert spatial.energy_per_edge(100 * u - 5, path(4)) == pytest.approx(8 / 3)


def test_energy_per_edge_of_constant_values_or_without_edges_is_zero() -> None:
    assert spatial.energy_per_edge(torch.full((7,), 0.1), path(7)) == 0
    assert (
        spatial.energy_per_edge(values(3, None), cell_graph(np.zeros((3, 2)), Graph(), parts=[1, 1, 1])) == 0
    )
    assert spatial.energy_per_edge(torch.zeros(0), cell_graph(np.zeros((0, 2)), Graph())) == 0
    with pytest.raises(ValueError, match="7 cells"):
        spatial.energy_per_edge(values(7), path(7))


@given(st.floats(0.01, 0.99), st.integers(1, 30), st.integers(0, 1000))
def test_energy_never_rises(alpha: float, steps: int, seed: int) -> None:
    graph, u = with_isolated(15, seed % 7), values(17, seed=seed)
    for kind, smoothed in [
        ("symmetric", spatial.sm(u, graph, alpha, steps)),
        ("symmetric", spatial.sm_exact(u, graph, alpha)),
        ("random_walk", spatial.random_walk(u, graph, alpha, steps)),
    ]:
        before = spatial.dirichlet_energy(u, graph, kind)  # type: ignore[arg-type]
        after = spatial.dirichlet_energy(smoothed, graph, kind)  # type: ignore[arg-type]
        assert after <= before * (1 + 1e-12)


def test_spectrum_is_that_of_the_laplacian() -> None:
    graph = with_isolated()
    eigenvalues, eigenvectors = spatial.spectrum(graph)
    assert eigenvalues.dtype == eigenvectors.dtype == torch.float64
    rebuilt = eigenvectors @ torch.diag(eigenvalues) @ eigenvectors.T
    torch.testing.assert_close(rebuilt, graph.laplacian(), atol=1e-10, rtol=0)
    assert eigenvalues[0] == 0
    assert eigenvalues[-1] <= 2
    # two isolated cells and one connected part
    assert int((eigenvalues == 0).sum()) == 3


def test_a_path_of_two_cells_has_the_eigenvalues_0_and_2() -> None:
    assert spatial.spectrum(path(2))[0].tolist() == [0, 2]


def test_band_shares_against_a_loop() -> None:
    graph, u = with_isolated(), values(22, None)
    eigenvalues, eigenvectors = spatial.spectrum(graph)
    edges = [0, 0.5, 1, 2]
    wanted = [0.0, 0.0, 0.0]
    for k, at in enumerate(eigenvalues.tolist()):
        wanted[sum(at >= e for e in edges[1:-1])] += float((u - u.mean()) @ eigenvectors[:, k]) ** 2
    total = sum(wanted)
    found = spatial.band_shares(u.float(), eigenvalues, eigenvectors, edges)
    assert found.tolist() == pytest.approx([x / total for x in wanted], abs=1e-6)
    assert float(found.sum()) == pytest.approx(1)


def test_band_shares_put_a_pure_wave_into_its_band_and_sm_moves_power_down() -> None:
    graph = path(30)
    eigenvalues, eigenvectors = spatial.spectrum(graph)
    wave = eigenvectors[:, 20] + 5
    found = spatial.band_shares(wave, eigenvalues, eigenvectors, [0, 1, 2])
    assert float(found[int(eigenvalues[20] >= 1)]) > 0.95
    noise = values(30, None)
    smoothed = spatial.sm_exact(noise, graph, 0.9)
    low = [float(spatial.band_shares(u, eigenvalues, eigenvectors, [0, 1, 2])[0]) for u in (noise, smoothed)]
    assert low[1] > low[0]


def test_band_shares_of_constant_values_are_zero_and_bad_bands_are_refused() -> None:
    known = spatial.spectrum(path(7))
    assert spatial.band_shares(torch.full((7,), 0.1), *known, [0, 1, 2]).tolist() == [0, 0]
    for edges in ([0, 1], [0, 2, 1], [2]):
        with pytest.raises(ValueError, match="bands"):
            spatial.band_shares(values(7, None), *known, edges)
    with pytest.raises(ValueError, match="7 eigenvalues"):
        spatial.band_shares(values(6, None), *known, [0, 2])


# --- what smooths


@pytest.mark.parametrize("alpha", [*ALPHAS, 0.999])
def test_exact_sm_is_the_dense_solve(alpha: float) -> None:
    graph, u = with_isolated(60), values(62)
    wanted = solved(u, graph, alpha)
    torch.testing.assert_close(spatial.sm_exact(u, graph, alpha), wanted, atol=1e-9, rtol=0)
    # rounding of float32 is magnified by the condition number, 1,999 at .999
    atol = 1e-4 if alpha == 0.999 else 1e-5
    torch.testing.assert_close(spatial.sm_exact(u.float(), graph, alpha), wanted.float(), atol=atol, rtol=0)


def test_exact_sm_solves_columns_of_very_different_sizes() -> None:
    graph, u = with_isolated(), values(22)
    scales = torch.tensor([1e-30, 1.0, 1e30], dtype=torch.float64)
    wanted = solved(u, graph, 0.9) * scales
    torch.testing.assert_close(
        spatial.sm_exact((u * scales).float(), graph, 0.9) / scales, wanted / scales, atol=1e-5, rtol=0
    )
    u[:, 0] = 0
    assert not spatial.sm_exact(u, graph, 0.9)[:, 0].any()


def test_exact_sm_passes_values_that_are_not_finite_on() -> None:
    u = values(22)
    u[4, 1] = torch.nan
    found = spatial.sm_exact(u, with_isolated(), 0.5)
    assert found[:, 1].isnan().any()
    assert found[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_sm_and_random_walk_are_the_recursion(alpha: float, steps: int) -> None:
    graph, u = with_isolated(), values(22)
    for smooth, kind in ((spatial.sm, "symmetric"), (spatial.random_walk, "random_walk")):
        wanted = recursion(u, graph, alpha, steps, kind)  # type: ignore[arg-type]
        torch.testing.assert_close(smooth(u, graph, alpha, steps), wanted)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_more_steps_of_sm_approach_the_exact_operator(alpha: float) -> None:
    graph, u = with_isolated(), values(22)
    exact = solved(u, graph, alpha)
    missing = [float((spatial.sm(u, graph, alpha, t) - exact).norm()) for t in (10, 50, 200)]
    first = float((u - exact).norm())
    for t, left in zip((10, 50, 200), missing, strict=True):
        assert left <= first * alpha**t + 1e-9
    assert missing[2] <= 1e-7 * first


@pytest.mark.parametrize("name", SMOOTHERS)
def test_smoothing_has_the_gradients_of_finite_differences(name: str) -> None:
    graph, smooth = with_isolated(8), SMOOTHERS[name]
    u = values(10, 2).requires_grad_()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a: smooth(x, graph, a), (u, alpha))
    assert torch.autograd.gradcheck(lambda x: smooth(x, graph, 0.7), (u[:, 0].detach().requires_grad_(),))
    assert torch.autograd.gradcheck(lambda a: smooth(u.detach(), graph, a), (alpha,))


@pytest.mark.parametrize("name", SMOOTHERS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_isolated_cells_keep_their_values(name: str, alpha: float) -> None:
    graph, u = with_isolated(), values(22)
    smoothed = SMOOTHERS[name](u, graph, alpha)
    torch.testing.assert_close(smoothed[[0, 21]], u[[0, 21]], rtol=1e-12, atol=0)
    assert not torch.allclose(smoothed[1:21], u[1:21], atol=1e-3)


@pytest.mark.parametrize("name", SMOOTHERS)
def test_larger_alpha_smooths_more(name: str) -> None:
    graph, u = with_isolated(), values(22, None)
    alphas = [0.01, 0.1, 0.3, 0.5, 0.7, 0.9]
    smoothed = [SMOOTHERS[name](u, graph, alpha) for alpha in alphas]
    energies = [float(spatial.dirichlet_energy(x, graph)) for x in (u, *smoothed)]
    assert energies == sorted(energies, reverse=True)
    assert len(set(energies)) == len(energies)
    moved = [float((x - u).norm()) for x in smoothed]
    assert moved == sorted(moved)


def test_random_walk_keeps_a_constant_and_sm_does_not() -> None:
    graph, ones = with_isolated(), torch.ones(22, dtype=torch.float64)
    torch.testing.assert_close(spatial.random_walk(ones, graph, 0.9, 10), ones)
    assert not torch.allclose(spatial.sm(ones, graph, 0.9, 10), ones, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_total_variation_reaches_the_minimum_that_a_slow_minimiser_finds(alpha: float) -> None:
    u, gamma = values(6, None, seed=2), alpha / (1 - alpha)

    # the same problem with |d| split into upper and lower parts, so that it is smooth
    def objective(x: NDArray[np.float64]) -> float:
        return float(((x[:6] - u.numpy()) ** 2).sum() / 2 + gamma * x[6:].sum())

    above = [
        {"type": "ineq", "fun": lambda x, i=i, s=s: x[6 + i] - s * (x[i] - x[i + 1])}
        for i in range(5)
        for s in (1, -1)
    ]
    start = np.concatenate([u.numpy(), np.abs(np.diff(u.numpy()))])
    wanted = minimize(
        objective, start, constraints=above, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500}
    )
    assert wanted.success
    found = spatial.total_variation(u, path(6), alpha, 5000)
    torch.testing.assert_close(found, torch.from_numpy(wanted.x[:6]), atol=2e-3, rtol=0)
    assert not torch.allclose(found, u, atol=0.05)


def test_total_variation_of_two_cells_by_hand() -> None:
    u = torch.tensor([0.0, 10.0], dtype=torch.float64)
    # gamma = 1: each moves by 1 towards the other
    torch.testing.assert_close(
        spatial.total_variation(u, path(2), 0.5, 200), torch.tensor([1.0, 9.0], dtype=torch.float64)
    )
    # and by no more than there is: both at the mean
    near = spatial.total_variation(u / 10, path(2), 0.5, 2000)
    torch.testing.assert_close(near, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-3, rtol=0)


def test_total_variation_keeps_a_step_that_sm_blurs() -> None:
    graph = path(40)
    step = torch.where(torch.arange(40) < 20, -1.0, 1.0).double()
    noisy = step + 0.1 * values(40, None)
    jumps = [
        float(x[20] - x[19])
        for x in (spatial.total_variation(noisy, graph, 0.2, 2000), spatial.sm_exact(noisy, graph, 0.9))
    ]
    assert jumps[0] > 1.5 > 1 > jumps[1]


def test_total_variation_never_lifts_its_own_objective_by_more_steps() -> None:
    graph, u, gamma = with_isolated(), values(22), 1.0
    i, j = graph.pairs

    def objective(g: Tensor) -> float:
        return float(((g - u) ** 2).sum() / 2 + gamma * (g[i] - g[j]).abs().sum())

    found = [objective(spatial.total_variation(u, graph, 0.5, t)) for t in (10, 100, 1000)]
    assert objective(u) > found[0] > found[1] > found[2]


@pytest.mark.parametrize("name", SMOOTHERS)
def test_autocast_changes_nothing(name: str) -> None:
    graph, alpha = with_isolated(), torch.tensor(0.5, requires_grad=True)
    results = []
    for on in (False, True):
        u = values(22).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            smoothed = SMOOTHERS[name](u, graph, alpha)
            assert smoothed.dtype == torch.float32
            grads = torch.autograd.grad(smoothed.square().sum(), (u, alpha))
        results.append((smoothed.detach(), *grads))
    for plain, cast in zip(*results, strict=True):
        assert torch.equal(plain, cast)


@pytest.mark.parametrize("name", SMOOTHERS)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    graph, u = with_isolated(), values(22).bfloat16()
    assert torch.equal(SMOOTHERS[name](u, graph, 0.5), SMOOTHERS[name](u.float(), graph, 0.5))


@pytest.mark.parametrize("name", SMOOTHERS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_slides_without_neighbours_stay_as_they_are(name: str, n: int) -> None:
    graph = cell_graph(np.zeros((n, 2)), Graph(), parts=[1] * n)
    for width in (None, 2):
        u = values(n, width).requires_grad_()
        smoothed = SMOOTHERS[name](u, graph, 0.9)
        smoothed.sum().backward()
        torch.testing.assert_close(smoothed, u)
        torch.testing.assert_close(u.grad, torch.ones_like(u))
        assert spatial.dirichlet_energy(u, graph) == 0


@pytest.mark.parametrize("name", SMOOTHERS)
def test_all_cells_in_one_place_become_more_alike(name: str) -> None:
    graph, u = cell_graph(np.full((9, 2), 5.0), Graph(neighbours=8)), values(9, None)
    smoothed = SMOOTHERS[name](u, graph, 0.9)
    assert float(smoothed.std()) < float(u.std())
    assert float(smoothed.mean()) == pytest.approx(float(u.mean()))


@pytest.mark.parametrize("name", SMOOTHERS)
def test_bad_arguments_are_refused(name: str) -> None:
    graph = path(4)
    for alpha in (0.0, 1.0, 1.5, -0.5, torch.tensor(2.0)):
        with pytest.raises(ValueError, match="alpha"):
            SMOOTHERS[name](values(4), graph, alpha)
    for wrong in (values(5), torch.zeros(4, 2, 2)):
        with pytest.raises(ValueError, match="4 cells"):
            SMOOTHERS[name](wrong, graph, 0.5)
    with pytest.raises(ValueError, match="steps"):
        spatial.sm(values(4), graph, 0.5, 0)


def test_many_cells_need_no_dense_matrix() -> None:
    # 100,000 x 100,000 numbers would take 40 GB
    n = 100_000
    graph, u = cell_graph(scattered(n), Graph(neighbours=4)), values(n, None).float()
    raw = spatial.energy_per_edge(u, graph)
    assert raw == pytest.approx(2, abs=0.05)
    for smooth in SMOOTHERS.values():
        assert spatial.energy_per_edge(smooth(u, graph, 0.5), graph) < raw


# --- the module


def alpha_of(smoother: Smoother) -> float:
    return float(torch.as_tensor(smoother.alpha).detach())


@pytest.mark.parametrize("name", SMOOTHERS)
def test_smoother_calls_its_operator(name: str) -> None:
    graph, u = with_isolated(), values(22)
    smoother = Smoother(name, 0.3, 3)  # type: ignore[arg-type]
    assert torch.equal(smoother(u, graph), SMOOTHERS[name](u, graph, 0.3))
    assert not list(smoother.parameters())
    assert smoother.alpha == 0.3


@pytest.mark.parametrize("name", SMOOTHERS)
def test_smoother_learns_alpha_within_its_range(name: str) -> None:
    graph, u = with_isolated(), values(22).float()
    smoother = Smoother(name, "trainable", 3)  # type: ignore[arg-type]
    assert alpha_of(smoother) == 0.5
    assert torch.equal(smoother(u, graph), SMOOTHERS[name](u, graph, 0.5))
    (theta,) = smoother.parameters()
    for _ in range(5):
        before = alpha_of(smoother)
        (slope,) = torch.autograd.grad(spatial.dirichlet_energy(smoother(u, graph), graph), theta)
        theta.data -= 0.01 * slope
        # less energy is to be had by more smoothing alone
        assert before < alpha_of(smoother) < 1
    theta.data.fill_(-50)
    assert 0 < alpha_of(smoother) < 1e-20


def test_smoother_gives_the_same_with_gradients_off() -> None:
    graph, u = with_isolated(), values(22)
    smoother = Smoother("sm", "trainable", 5)
    with torch.no_grad():
        off = smoother(u, graph)
    assert torch.equal(off, smoother(u, graph))


def test_smoother_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="total_variation"):
        Smoother("bilateral", 0.5, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha"):
        Smoother("sm", 1.0, 3)
    with pytest.raises(ValueError, match="steps"):
        Smoother("sm", 0.5, 0)


def test_torchmil_agrees_in_exact_mode_and_inverts_alpha_in_approximate_mode() -> None:
    from torchmil.nn.sm import Sm  # slow to import

    graph = with_isolated()
    operator, u = dense_operator(graph, "symmetric").float()[None], values(22).float()
    for alpha in ALPHAS:
        exact = Sm(alpha=alpha, mode="exact")(u[None], operator)[0]
        torch.testing.assert_close(spatial.sm_exact(u, graph, alpha), exact, atol=1e-5, rtol=0)
        steps = Sm(alpha=alpha, num_steps=10, mode="approx")(u[None], operator)[0]
        torch.testing.assert_close(spatial.sm(u, graph, 1 - alpha, 10), steps, atol=1e-5, rtol=0)
        if alpha != 0.5:
            assert not torch.allclose(spatial.sm(u, graph, alpha, 10), steps, atol=1e-2)
