"""Neighbour graphs against brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from myostage.spatial.graph import CellGraph, Kind, cell_graph
from myostage.spatial.roughness import spectrum
from myostage.study.sections.graph import Graph
from support.graphs import KINDS, dense_operator, path, scattered, with_isolated

Pairs = set[tuple[int, int]]
LINE = np.array([[30.0, 3.0], [10.0, 1.0], [40.0, 4.0], [0.0, 0.0]])


def pairs_of(graph: CellGraph) -> Pairs:
    """Every pair of neighbours once; fails where the edges are not as :class:`CellGraph` promises."""
    assert graph.edges.dtype == torch.int64
    both = [(int(i), int(j)) for i, j in graph.edges.T.tolist()]
    assert both == sorted(set(both))
    assert all(0 <= i < graph.nodes and i != j and (j, i) in set(both) for i, j in both)
    return {(i, j) for i, j in both if i < j}


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
        assert int((spectrum(graph)[0] < 1e-9).sum()) == 1


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
def test_operators_and_laplacian_against_loops(kind: Kind) -> None:
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
