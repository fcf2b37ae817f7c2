"""Smoothing against dense solves, slow minimisers and torchmil."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from myostage.spatial.graph import CellGraph, Kind, cell_graph
from myostage.spatial.roughness import dirichlet_energy, energy_per_edge
from myostage.spatial.smoothing import Alpha, Smoother, random_walk, sm, sm_exact, total_variation
from myostage.study.sections.graph import Graph
from support.graphs import dense_operator, path, scattered, values, with_isolated

ALPHAS = [0.1, 0.5, 0.9]
SMOOTHERS: dict[str, Callable[[Tensor, CellGraph, Alpha], Tensor]] = {
    "sm": lambda u, graph, alpha: sm(u, graph, alpha, 3),
    "sm_exact": sm_exact,
    "random_walk": lambda u, graph, alpha: random_walk(u, graph, alpha, 3),
    "total_variation": lambda u, graph, alpha: total_variation(u, graph, alpha, 3),
}


def solved(u: Tensor, graph: CellGraph, alpha: float) -> Tensor:
    laplacian = torch.eye(graph.nodes, dtype=torch.float64) - dense_operator(graph, "symmetric")
    matrix = torch.eye(graph.nodes, dtype=torch.float64) + alpha / (1 - alpha) * laplacian
    return torch.linalg.solve(matrix, u)


def recursion(u: Tensor, graph: CellGraph, alpha: float, steps: int, kind: Kind) -> Tensor:
    operator, g = dense_operator(graph, kind), u
    for _ in range(steps):
        g = alpha * operator @ g + (1 - alpha) * u
    return g


@given(st.floats(0.01, 0.99), st.integers(1, 30), st.integers(0, 1000))
def test_energy_never_rises(alpha: float, steps: int, seed: int) -> None:
    graph, u = with_isolated(15, seed % 7), values(17, seed=seed)
    for kind, smoothed in [
        ("symmetric", sm(u, graph, alpha, steps)),
        ("symmetric", sm_exact(u, graph, alpha)),
        ("random_walk", random_walk(u, graph, alpha, steps)),
    ]:
        before = dirichlet_energy(u, graph, kind)  # type: ignore[arg-type]
        after = dirichlet_energy(smoothed, graph, kind)  # type: ignore[arg-type]
        assert after <= before * (1 + 1e-12)


@pytest.mark.parametrize("alpha", [*ALPHAS, 0.999])
def test_exact_sm_is_the_dense_solve(alpha: float) -> None:
    graph, u = with_isolated(60), values(62)
    wanted = solved(u, graph, alpha)
    torch.testing.assert_close(sm_exact(u, graph, alpha), wanted, atol=1e-9, rtol=0)
    # rounding of float32 is magnified by the condition number, 1,999 at .999
    atol = 1e-4 if alpha == 0.999 else 1e-5
    torch.testing.assert_close(sm_exact(u.float(), graph, alpha), wanted.float(), atol=atol, rtol=0)


def test_exact_sm_solves_columns_of_very_different_sizes() -> None:
    graph, u = with_isolated(), values(22)
    scales = torch.tensor([1e-30, 1.0, 1e30], dtype=torch.float64)
    wanted = solved(u, graph, 0.9) * scales
    torch.testing.assert_close(
        sm_exact((u * scales).float(), graph, 0.9) / scales, wanted / scales, atol=1e-5, rtol=0
    )
    u[:, 0] = 0
    assert not sm_exact(u, graph, 0.9)[:, 0].any()


def test_exact_sm_passes_values_that_are_not_finite_on() -> None:
    u = values(22)
    u[4, 1] = torch.nan
    found = sm_exact(u, with_isolated(), 0.5)
    assert found[:, 1].isnan().any()
    assert found[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_sm_and_random_walk_are_the_recursion(alpha: float, steps: int) -> None:
    graph, u = with_isolated(), values(22)
    for smooth, kind in ((sm, "symmetric"), (random_walk, "random_walk")):
        wanted = recursion(u, graph, alpha, steps, kind)  # type: ignore[arg-type]
        torch.testing.assert_close(smooth(u, graph, alpha, steps), wanted)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_more_steps_of_sm_approach_the_exact_operator(alpha: float) -> None:
    graph, u = with_isolated(), values(22)
    exact = solved(u, graph, alpha)
    missing = [float((sm(u, graph, alpha, t) - exact).norm()) for t in (10, 50, 200)]
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
    energies = [float(dirichlet_energy(x, graph)) for x in (u, *smoothed)]
    assert energies == sorted(energies, reverse=True)
    assert len(set(energies)) == len(energies)
    moved = [float((x - u).norm()) for x in smoothed]
    assert moved == sorted(moved)


def test_random_walk_keeps_a_constant_and_sm_does_not() -> None:
    graph, ones = with_isolated(), torch.ones(22, dtype=torch.float64)
    torch.testing.assert_close(random_walk(ones, graph, 0.9, 10), ones)
    assert not torch.allclose(sm(ones, graph, 0.9, 10), ones, atol=1e-3)


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
    found = total_variation(u, path(6), alpha, 5000)
    torch.testing.assert_close(found, torch.from_numpy(wanted.x[:6]), atol=2e-3, rtol=0)
    assert not torch.allclose(found, u, atol=0.05)


def test_total_variation_of_two_cells_by_hand() -> None:
    u = torch.tensor([0.0, 10.0], dtype=torch.float64)
    # gamma = 1: each moves by 1 towards the other
    torch.testing.assert_close(
        total_variation(u, path(2), 0.5, 200), torch.tensor([1.0, 9.0], dtype=torch.float64)
    )
    # and by no more than there is: both at the mean
    near = total_variation(u / 10, path(2), 0.5, 2000)
    torch.testing.assert_close(near, torch.full((2,), 0.5, dtype=torch.float64), atol=1e-3, rtol=0)


def test_total_variation_keeps_a_step_that_sm_blurs() -> None:
    graph = path(40)
    step = torch.where(torch.arange(40) < 20, -1.0, 1.0).double()
    noisy = step + 0.1 * values(40, None)
    jumps = [
        float(x[20] - x[19]) for x in (total_variation(noisy, graph, 0.2, 2000), sm_exact(noisy, graph, 0.9))
    ]
    assert jumps[0] > 1.5 > 1 > jumps[1]


def test_total_variation_never_lifts_its_own_objective_by_more_steps() -> None:
    graph, u, gamma = with_isolated(), values(22), 1.0
    i, j = graph.pairs

    def objective(g: Tensor) -> float:
        return float(((g - u) ** 2).sum() / 2 + gamma * (g[i] - g[j]).abs().sum())

    found = [objective(total_variation(u, graph, 0.5, t)) for t in (10, 100, 1000)]
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
        assert dirichlet_energy(u, graph) == 0


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
        sm(values(4), graph, 0.5, 0)


def test_many_cells_need_no_dense_matrix() -> None:
    # 100,000 x 100,000 numbers would take 40 GB
    n = 100_000
    graph, u = cell_graph(scattered(n), Graph(neighbours=4)), values(n, None).float()
    raw = energy_per_edge(u, graph)
    assert raw == pytest.approx(2, abs=0.05)
    for smooth in SMOOTHERS.values():
        assert energy_per_edge(smooth(u, graph, 0.5), graph) < raw


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
        (slope,) = torch.autograd.grad(dirichlet_energy(smoother(u, graph), graph), theta)
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
        torch.testing.assert_close(sm_exact(u, graph, alpha), exact, atol=1e-5, rtol=0)
        steps = Sm(alpha=alpha, num_steps=10, mode="approx")(u[None], operator)[0]
        torch.testing.assert_close(sm(u, graph, 1 - alpha, 10), steps, atol=1e-5, rtol=0)
        if alpha != 0.5:
            assert not torch.allclose(sm(u, graph, alpha, 10), steps, atol=1e-2)
