"""Temperatures fitted on bags, against cells whose calibrated probabilities are known."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from myostage.learning.calibration import SEARCHED, calibrate, entropy, fit_temperature

SHARES = np.array([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]])


def cells_of(
    shares: NDArray[np.float64], apart: float = 1.5, seed: int = 0, cells: int = 4000
) -> list[NDArray[np.float64]]:
    """Calibrated probabilities of cells drawn by ``shares``: a measurement with noise, and Bayes' rule."""
    rng = np.random.default_rng(seed)
    prior = shares.mean(0)
    bags = []
    for share in shares:
        stage = rng.choice(len(share), cells, p=share)
        x = stage * apart + rng.normal(size=cells)
        density = np.exp(-0.5 * (x[:, None] - apart * np.arange(len(share))) ** 2)
        bags.append(density * prior / (density * prior).sum(1, keepdims=True))
    return bags


@pytest.mark.parametrize("wrong", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("apart", [1.0, 3.0])
def test_the_temperature_undoes_that_of_the_cells(wrong: float, apart: float) -> None:
    bags = cells_of(SHARES, apart)
    seen = [softmax(np.log(p) * wrong, axis=1) for p in bags]
    found = fit_temperature(seen, SHARES)
    assert found == pytest.approx(wrong, rel=0.1)
    assert fit_temperature(seen, SHARES) == found
    for p, q in zip(bags, seen, strict=True):
        np.testing.assert_allclose(calibrate(q, wrong), p, atol=1e-6)


def test_the_divergence_of_proportions_would_be_least_for_cells_that_are_too_sure() -> None:
    def divergence(temperature: float) -> float:
        means = [calibrate(p, temperature).mean(0) for p in cells_of(SHARES)]
        return sum(float(s[s > 0] @ np.log(s[s > 0] / m[s > 0])) for s, m in zip(SHARES, means, strict=True))

    assert divergence(0.5) < divergence(1.0)


def test_a_stage_that_no_group_has_is_left_out() -> None:
    shares = np.array([[0.8, 0.2, 0.0], [0.3, 0.7, 0.0]])
    rng = np.random.default_rng(0)
    pairs = cells_of(shares[:, :2])
    third = [rng.uniform(0, 0.5, (len(p), 1)) for p in pairs]
    bags = [np.hstack([p * (1 - t), t]) for p, t in zip(pairs, third, strict=True)]
    assert fit_temperature(bags, shares) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize(
    ("bags", "shares"),
    [
        (cells_of(SHARES[[1, 1]], cells=200), SHARES[[1, 1]]),
        ([np.full((50, 3), 1 / 3)] * 3, SHARES),
        ([np.eye(3)[[k] * 50] * 0.4 + 0.2 for k in range(3)], np.eye(3)),
    ],
    ids=["groups alike", "cells alike", "never wrong"],
)
def test_bags_that_say_nothing_give_no_temperature(bags: list, shares: NDArray[np.float64]) -> None:
    assert math.isnan(fit_temperature(bags, shares))


def test_calibration_keeps_the_order_of_stages_and_survives_shares_of_zero() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.full(4, 0.2), 500).astype(np.float32)
    p[0] = [1, 0, 0, 0]
    for temperature in (*SEARCHED, math.nan):
        found = calibrate(p, temperature)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        assert (found.argmax(1) == p.argmax(1)).all()
    np.testing.assert_array_equal(calibrate(p, math.nan), p)
    assert calibrate(np.empty((0, 4)), 2.0).shape == (0, 4)


def test_entropy_in_nats() -> None:
    np.testing.assert_allclose(
        entropy([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3]), [0, math.log(2), math.log(3)], atol=1e-12
    )
