"""The scale of stages, by hand."""

import numpy as np
import pytest

from myostage.learning.stages import expected_stage, pair_distribution, similarity, stage_levels
from support.formulas import BIOLOGICAL, INDEX_ORDER

ORDERS = {"biological": BIOLOGICAL, "index": INDEX_ORDER}


def test_similarity_of_three_stages() -> None:
    assert similarity(3).tolist() == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    assert stage_levels(3).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="two stages"):
        similarity(1)


def test_expected_stage() -> None:
    assert expected_stage([0.5, 0, 0.5]) == 1
    assert expected_stage(BIOLOGICAL["d0"]) == 4


@pytest.mark.parametrize(
    ("order", "a", "b", "expected"),
    [
        (BIOLOGICAL, "d0", "d0", {1.0: 1.0}),
        (BIOLOGICAL, "d3", "d3", {1.0: 0.59**2 + 0.41**2, 0.75: 2 * 0.59 * 0.41}),
        (INDEX_ORDER, "d3", "d3", {1.0: 0.59**2 + 0.41**2, 0.0: 2 * 0.59 * 0.41}),
        (BIOLOGICAL, "d0", "d3", {0.0: 0.59, 0.25: 0.41}),
    ],
)
def test_pairs_by_hand(order: dict[str, list[float]], a: str, b: str, expected: dict[float, float]) -> None:
    values, weights = pair_distribution(order[a], order[b])
    assert values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert dict(zip(values, weights, strict=True)) == pytest.approx(dict.fromkeys(values, 0.0) | expected)


def test_stage_order_decides_the_expected_similarity_of_day_3() -> None:
    mean = {name: np.dot(*pair_distribution(order["d3"], order["d3"])) for name, order in ORDERS.items()}
    assert mean == pytest.approx({"biological": 0.879, "index": 0.516}, abs=5e-4)
