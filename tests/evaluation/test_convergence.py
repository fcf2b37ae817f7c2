"""Whether a run had converged: what its loss did over the last two fifths of its steps."""

import numpy as np
import pandas as pd
import pytest

from myostage.evaluation.convergence import CHANGE, Change, find_unconverged, measure_change


def history(*phases: np.ndarray) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"phase": number, "step": range(len(loss)), "loss": loss})
        for number, loss in enumerate(phases)
    )


def falling(rate: float, noise: float = 0.0, steps: int = 300) -> np.ndarray:
    """A loss that falls to 1 as exp(-rate t), t from 0 to 1."""
    t = np.linspace(0, 1, steps)
    return 1 + np.exp(-rate * t) + noise * np.random.default_rng(0).normal(size=steps)


def test_the_change_is_that_of_the_means_of_the_last_two_fifths() -> None:
    losses = np.arange(100, 0, -1.0)
    found = measure_change(history(losses))
    assert found.change == pytest.approx((10.5 - 30.5) / 30.5)
    # blocks of two steps differ by 2: a variance of 2^2 / 2 each, of ten blocks in either fifth
    assert found.noise == pytest.approx(np.sqrt(2 * 2 / 10) / 30.5)


@pytest.mark.parametrize(
    ("losses", "converged"),
    [
        (falling(1.0), False),
        (falling(20.0), True),
        (falling(1.0, noise=0.02), False),
        (falling(20.0, noise=0.3), True),
        (np.linspace(1, 2, 300), False),  # it rises
        (np.zeros(300), True),
    ],
)
def test_a_loss_that_still_changes_beyond_its_noise_has_not_converged(
    losses: np.ndarray, converged: bool
) -> None:
    assert measure_change(history(losses)).converged is converged


def test_every_phase_must_converge() -> None:
    assert not measure_change(history(falling(1.0), falling(20.0))).converged
    assert not measure_change(history(falling(20.0), falling(1.0))).converged
    assert measure_change(history(falling(20.0), falling(20.0))).converged


def test_too_few_steps_and_no_training_are_not_judged() -> None:
    for found in (measure_change(history(np.ones(49))), measure_change(history(np.ones(0)))):
        assert np.isnan(found.change) and not found.converged


def test_experiments_with_runs_that_have_not_converged_are_counted() -> None:
    rows = [("a", -0.2, 0.01), ("a", -0.1, 0.01), ("a", -0.01, 0.0), ("b", 0.02, 0.0), ("c", np.nan, np.nan)]
    found = find_unconverged(pd.DataFrame(rows, columns=["experiment", *CHANGE]))
    assert {name: tuple(late)[:2] for name, late in found.items()} == {"a": (2, 3)}
    assert found["a"].change == pytest.approx(-0.15)
    assert str(found["a"]) == "its loss still falls by 15% in 2 of 3 runs"
    assert find_unconverged(pd.DataFrame(columns=["experiment", *CHANGE])) == {}


def test_a_change_within_twice_its_noise_is_none() -> None:
    assert Change(-0.2, 0.08).converged and not Change(-0.2, 0.05).converged
