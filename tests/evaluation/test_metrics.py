"""Metrics against scikit-learn and numbers computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from myostage.evaluation.metrics import calibration
from myostage.evaluation.metrics.cells import confusion, measure_cells, rps
from myostage.evaluation.metrics.composition import measure_composition


def cells(seed: int, n: int, stages: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, stages, n), rng.dirichlet(np.full(stages, 0.5), n)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), stages=st.integers(2, 7))
def test_metrics_are_those_of_scikit_learn(seed: int, n: int, stages: int) -> None:
    truth, probabilities = cells(seed, n, stages)
    predicted = probabilities.argmax(1)
    found = measure_cells(truth, probabilities, stages)
    labels = range(stages)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, predicted))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, predicted))
    macro = reference.f1_score(truth, predicted, labels=labels, average="macro", zero_division=np.nan)
    assert found["macro_f1"] == pytest.approx(macro)
    per_stage = [np.abs(predicted - truth)[truth == k].mean() for k in labels if (truth == k).any()]
    assert found["amae"] == pytest.approx(np.mean(per_stage))
    if len({*truth, *predicted}) > 1:
        kappa = reference.cohen_kappa_score(truth, predicted, labels=labels, weights="quadratic")
        assert found["kappa"] == pytest.approx(kappa)
    else:
        assert math.isnan(found["kappa"])
    assert confusion(truth, predicted, stages).tolist() == (
        reference.confusion_matrix(truth, predicted, labels=labels).tolist()
    )


def test_rps_by_hand() -> None:
    certain = np.eye(3)[[0, 1, 2]]
    assert rps([0, 0, 0], certain).tolist() == [0, 1, 2]
    assert rps([1], [[0.2, 0.5, 0.3]]).tolist() == pytest.approx([0.2**2 + 0.3**2])


def test_kappa_of_one_stage_is_missing_and_not_zero() -> None:
    found = measure_cells([1, 1], [[0.0, 1.0, 0.0], [0.0, 0.9, 0.1]], 3)
    assert math.isnan(found["kappa"])
    assert found["accuracy"] == found["macro_f1"] == 1 and found["amae"] == 0


def test_stages_off_the_scale_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        confusion([0, 3], [0, 0], 3)
    with pytest.raises(ValueError, match="0 to 2"):
        confusion([0, 0], [-1, 0], 3)
    with pytest.raises(ValueError, match="3 stages"):
        measure_cells([0], [[0.5, 0.5]], 3)


def test_calibration_by_hand() -> None:
    p = [[0.95, 0.05], [0.97, 0.03], [0.1, 0.9], [0.35, 0.65], [0.5, 0.5], [1.0, 0.0]]
    sums = calibration.sum_confidences([0, 1, 1, 1, 1, 0], p)
    assert sums.shape == (2, calibration.BINS, 3)
    np.testing.assert_allclose(sums[0, 9], [3, 2.92, 2])
    np.testing.assert_allclose(sums[1, 9], [1, 0.9, 1])
    # Bins .9 to 1 (3.82 of 3 right), .6 to .7 (.65 of 1) and .5 to .6 (.5 of 0), in six cells.
    found = calibration.measure_calibration(np.stack([sums, sums * 2]).ravel())
    np.testing.assert_allclose(found, [(0.82 + 0.35 + 0.5) / 6] * 2)
    weighted = calibration.measure_calibration(np.stack([np.stack([sums] * 2).ravel() * w for w in (1, 3)]))
    np.testing.assert_allclose(weighted, np.tile(found, (2, 1)))
    assert np.isnan(calibration.measure_calibration(np.zeros_like(np.stack([sums] * 2)).ravel())).all()
    with_nothing = np.zeros((0, 2))
    assert not calibration.sum_confidences([], with_nothing).any()


def test_composition_by_hand() -> None:
    found = measure_composition([0.5, 0.25, 0.25], [0.75, 0.25, 0])
    assert found == pytest.approx([0.75 * math.log(1.5), 0.5])
    assert measure_composition([1, 0], [1, 0]) == [0, 0]
    assert math.isfinite(measure_composition([1, 0], [0, 1])[0])
