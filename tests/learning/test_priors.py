"""Tables put into probabilities, against loops, closed forms and worlds whose truth is known."""

import inspect

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax

from myostage.learning import priors
from myostage.learning.priors import FEARED, FITTED_BY, Learnt, find_compositions, find_obstacle, put_table

Floats = NDArray[np.float64]

TRAINED = np.array([0.4, 0.3, 0.2, 0.1])
GIVEN = np.array([0.1, 0.2, 0.3, 0.4])


def cells_of(n: int = 60, stages: int = 4, seed: int = 0) -> Floats:
    return softmax(np.random.default_rng(seed).normal(0, 2, (n, stages)), axis=1)


def test_the_group_prior_is_bayes_rule_cell_by_cell() -> None:
    cells = cells_of(7)
    found = put_table("group", cells, GIVEN, TRAINED, 1)
    for row, q in zip(found, cells, strict=True):
        odds = [q[k] * GIVEN[k] / TRAINED[k] for k in range(4)]
        np.testing.assert_allclose(row, np.array(odds) / sum(odds), rtol=1e-12)


def test_transport_scales_columns_until_the_mean_of_the_slide_is_the_table() -> None:
    cells = cells_of()
    found = put_table("transport", cells, GIVEN, TRAINED, 1)
    np.testing.assert_allclose(found.mean(0), GIVEN, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1)
    ratios = found / cells
    scaled = ratios / ratios[:, :1]  # c_k / c_0, the same for every cell
    np.testing.assert_allclose(scaled, np.tile(scaled[0], (len(cells), 1)), rtol=1e-9)


def test_transport_of_two_cells_and_two_stages_has_its_closed_form() -> None:
    """Rows (a, 1-a) and (1-a, a), target (t, 1-t): c solves a c / (a c + b) + b c / (b c + a) = 2 t."""
    a, t = 0.8, 0.7
    b = 1 - a
    # (1 - t) a b c^2 + (1/2 - t) (a^2 + b^2) c - t a b = 0
    c = max(np.roots([(1 - t) * a * b, (0.5 - t) * (a**2 + b**2), -t * a * b]))
    found = put_table("transport", [[a, b], [b, a]], [t, 1 - t], [0.5, 0.5], 1)
    np.testing.assert_allclose(found[:, 0], [a * c / (a * c + b), b * c / (b * c + a)], rtol=1e-5)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_the_composition_is_the_maximum_of_what_it_maximises(weight: float) -> None:
    z = np.log(cells_of(40) / TRAINED)

    def loss(free: Floats) -> float:
        pi = softmax(free)
        return -(1 - weight) * np.log(np.exp(z) @ pi).mean() - weight * float(GIVEN @ np.log(pi))

    wanted = softmax(minimize(loss, np.zeros(4), tol=1e-12).x)
    found = find_compositions(z, GIVEN[None], np.array([weight]))[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_without_the_table_both_priors_are_the_same_and_the_mean_is_the_composition() -> None:
    cells = cells_of(200)
    by_group, by_transport = (put_table(kind, cells, GIVEN, TRAINED, 0) for kind in ("group", "transport"))
    np.testing.assert_allclose(by_group, by_transport, atol=1e-4)
    other = put_table("group", cells, GIVEN[::-1], TRAINED, 0)
    np.testing.assert_allclose(by_group, other, atol=1e-3)


@pytest.mark.parametrize("kind", ["group", "transport"])
def test_nothing_changes_where_the_table_says_what_training_said(kind: priors.Kind) -> None:
    cells = cells_of()
    mean = cells.mean(0)
    np.testing.assert_allclose(put_table(kind, cells, mean, mean, 1), cells, atol=1e-6)


@pytest.mark.parametrize("kind", ["group", "transport"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "cells",
    [
        np.array([[1.0, 0, 0, 0]] * 5),
        np.array([[1e-38, 1 - 1e-7, 1e-7, 0.0]] * 3),
        np.eye(4),
        np.full((1, 4), 0.25),
        np.zeros((0, 4)),
    ],
    ids=["certain", "tiny", "corners", "one cell", "no cell"],
)
@pytest.mark.parametrize("given", [GIVEN, np.array([0, 0, 0.5, 0.5]), np.array([0.0, 0, 0, 1])])
def test_probabilities_stay_probabilities(
    kind: priors.Kind, weight: float, cells: Floats, given: Floats
) -> None:
    found = put_table(kind, cells, given, TRAINED, weight)
    assert found.shape == cells.shape
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found >= 0).all()
    if weight == 1:
        assert not found[:, given == 0].any()
        if kind == "transport" and len(cells):
            np.testing.assert_allclose(found.mean(0), given, atol=1e-3)


def test_a_stage_that_the_table_denies_may_be_there_where_the_cells_are_heard() -> None:
    cells = np.array([[0.97, 0.01, 0.01, 0.01]] * 20)
    found = put_table("group", cells, [0, 0.5, 0.5, 0], np.full(4, 0.25), 0.5)
    assert (found.argmax(1) == 0).all()


def test_a_stage_that_no_training_group_holds_gets_nothing() -> None:
    cells = cells_of()
    for kind in ("group", "transport"):
        found = put_table(kind, cells, GIVEN, [0.5, 0.5, 0, 0], 1)
        assert not found[:, 2:].any()
        if kind == "transport":
            np.testing.assert_allclose(found.mean(0), [1 / 3, 2 / 3, 0, 0], atol=1e-6)


def test_obstacles_are_named() -> None:
    learnt = Learnt(np.array([0.5, 0.5, 0, 0]), np.ones(len(FEARED)))
    assert find_obstacle(learnt, GIVEN) == ""
    assert "no group" in find_obstacle(learnt, None)
    assert "learnt nothing" in find_obstacle(None, GIVEN)
    assert "no training group" in find_obstacle(learnt, [0, 0, 0.5, 0.5])
    with pytest.raises(ValueError, match="learnt nothing of the stages"):
        put_table("group", cells_of(), [0, 0, 0.5, 0.5], learnt.composition, 1)


def test_a_large_slide_is_scaled_by_some_of_its_cells() -> None:
    cells = cells_of(2 * FITTED_BY)
    found = put_table("transport", cells, GIVEN, TRAINED, 1)
    np.testing.assert_allclose(found.mean(0), GIVEN, atol=0.01)


def worlds(noise: float, seed: int = 0) -> tuple[list[Floats], list[Floats], Floats, list[NDArray[np.int64]]]:
    """Bayes posteriors of the cells of slides of four groups, their tables, r, and the true stages."""
    rng = np.random.default_rng(seed)
    shares = np.array([[0.7, 0.2, 0.1, 0], [0.3, 0.4, 0.2, 0.1], [0.1, 0.2, 0.4, 0.3], [0, 0.1, 0.3, 0.6]])
    r, means = shares.mean(0), np.arange(4)
    probabilities, given, truth = [], [], []
    for share in np.repeat(shares, 3, axis=0):
        stage = rng.choice(4, 150, p=share)
        x = stage + noise * rng.normal(size=150) + rng.normal() * noise / 2  # a stain of the slide's own
        density = np.exp(-0.5 * ((x[:, None] - means) / noise) ** 2) * r
        probabilities.append(density / density.sum(1, keepdims=True))
        given.append(share)
        truth.append(stage)
    return probabilities, given, r, truth


def accuracy(kind: priors.Kind, noise: float, weight: float, wrong: float = 0.0, seed: int = 1) -> float:
    cells, given, r, truth = worlds(noise, seed)
    rng = np.random.default_rng(3)
    tables = [(1 - wrong) * p + wrong * rng.dirichlet(np.ones(4)) for p in given]
    found = [put_table(kind, q, p, r, weight).argmax(1) for q, p in zip(cells, tables, strict=True)]
    return float(np.mean([(a == b).mean() for a, b in zip(found, truth, strict=True)]))


@pytest.mark.parametrize("kind", ["group", "transport"])
def test_true_tables_help_the_more_the_less_cells_say(kind: priors.Kind) -> None:
    gains = []
    for noise in (0.4, 1.0):
        cells, *_, truth = worlds(noise, 1)
        plain = float(np.mean([(q.argmax(1) == k).mean() for q, k in zip(cells, truth, strict=True)]))
        gains.append(accuracy(kind, noise, 1.0) - plain)
    assert -0.01 < gains[0] < gains[1] > 0.03


def test_the_weight_grows_with_the_error_of_cells_and_falls_with_that_of_tables() -> None:
    chosen = {}
    for noise in (0.4, 1.5):
        cells, given, r, _ = worlds(noise)
        chosen[noise] = Learnt.fitted(cells, given, r)
    for learnt in chosen.values():
        assert learnt.weights[0] == 1
        assert (np.diff(learnt.weights) <= 0).all()
        assert 0 < learnt.weights[-2] < 1  # neither the cells nor the table alone
    assert (chosen[1.5].weights >= chosen[0.4].weights).all()
    assert chosen[1.5].weights[-1] > chosen[0.4].weights[-1]


def test_the_chosen_weight_is_about_as_good_as_the_best_for_tables_so_wrong() -> None:
    cells, given, r, _ = worlds(1.0)
    learnt = Learnt.fitted(cells, given, r)
    for t in (0.2, 0.5):
        at = accuracy("transport", 1.0, learnt.weigh("chosen", t), t)
        best = max(accuracy("transport", 1.0, weight, t) for weight in (0, 0.25, 0.5, 0.75, 1))
        assert at > best - 0.02


def test_the_weight_of_a_fear_between_two_lies_between_theirs_and_a_number_is_taken() -> None:
    learnt = Learnt(TRAINED, np.array([1, 0.9, 0.7, 0.6, 0.5, 0.2]))
    assert learnt.weigh("chosen", 0.15) == pytest.approx(0.8)
    assert learnt.weigh("chosen", 0) == 1
    assert learnt.weigh(0.25, 0.5) == 0.25
    again = Learnt.from_json(learnt.as_json())
    np.testing.assert_array_equal(again.weights, learnt.weights)
    np.testing.assert_array_equal(again.composition, learnt.composition)


def test_no_label_is_among_what_is_read() -> None:
    for function in (priors.fit_weights, Learnt.fitted, priors.put_table, priors.find_compositions):
        assert not {"labels", "truth", "stage", "stages"} & set(inspect.signature(function).parameters)
