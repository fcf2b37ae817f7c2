"""Statistics of worlds: the world is the unit, pairs share it, and a map is corrected as one."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from myostage.evaluation import regimes
from myostage.evaluation.comparisons import holm
from myostage.evaluation.worlds import PARTS, _average
from support import drawn_worlds


def test_the_difference_is_that_of_a_paired_t_test_over_worlds() -> None:
    rows = drawn_worlds.measured()
    found = drawn_worlds.compared(rows)
    values = rows[(rows["point"] == "overlap=1") & (rows["metric"] == "accuracy")]
    wide = values.pivot(index="world", columns="experiment", values="value")
    test = stats.ttest_rel(wide["combined"], wide["prop"])
    low, high = test.confidence_interval()
    row = _row(found, "noise", "overlap=1", "combined")
    assert row.difference == pytest.approx((wide["combined"] - wide["prop"]).mean())
    assert (row.low, row.high, row.p) == pytest.approx((low, high, test.pvalue))
    assert row.worlds == drawn_worlds.WORLDS
    assert row.value == pytest.approx(wide["combined"].mean())
    half = stats.t.ppf(0.975, 7) * wide["combined"].sem()
    assert row.value_high - row.value == pytest.approx(half)


def test_holm_takes_the_tests_of_a_map_together_and_no_ceiling() -> None:
    found = drawn_worlds.compared()
    for name, listed in drawn_worlds.MAPS.items():
        own = found[(found["map"] == name) & (found["metric"] == "accuracy")]
        tested = own[own["tests"] > 0]
        assert set(tested["experiment"]) == {"combined"}
        assert set(tested["tests"]) == {len(listed["points"])}
        assert tested["p_holm"].to_numpy() == pytest.approx(holm(tested["p"].to_numpy()))
    assert found.loc[found["experiment"] == "supervised", "p"].isna().all()


def test_the_minimum_detectable_effect_is_that_of_the_corrected_level() -> None:
    row = _row(drawn_worlds.compared(), "both", "overlap=0.5,mixing=0", "combined")
    error = (row.high - row.low) / 2 / stats.t.ppf(0.975, 7)
    critical = stats.t.ppf(1 - 0.05 / 6 / 2, 7)
    power = stats.nct.sf(critical, 7, row.minimum_detectable / error)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_worlds_without_a_value_leave_their_pair() -> None:
    rows = drawn_worlds.measured()
    broken = (rows["experiment"] == "combined") & (rows["world"] < 2)
    rows.loc[broken, "value"] = np.nan
    assert _row(drawn_worlds.compared(rows), "noise", "overlap=1", "combined").worlds == 6
    rows.loc[rows["experiment"] == "combined", "value"] = np.nan
    row = _row(drawn_worlds.compared(rows), "noise", "overlap=1", "combined")
    assert (row.worlds, row.tests) == (0, 0)
    assert np.isnan(row.difference)


def test_known_gains_and_costs_are_said_with_interval_and_worlds() -> None:
    table = drawn_worlds.compared()
    rows = regimes.select_map(table, "noise", drawn_worlds.MAPS["noise"], "accuracy", 0.05)
    own = rows[rows["experiment"] == "combined"].set_index("point")
    assert own["verdict"].to_dict() == {
        "overlap=0.3": "worse",
        "centre": "not significant",
        "overlap=1": "better",
    }
    assert own["x"].to_dict() == {"overlap=0.3": 0, "centre": 1, "overlap=1": 2}
    said = regimes.state_map(rows, "combined")
    assert "gains at 1 of 3 points, most at overlap=1: accuracy +." in said
    assert "costs at 1 of 3 points, most at overlap=0.3: accuracy -." in said
    assert "8 worlds" in said
    assert "not significant at 1 (minimum detectable effect ." in said


def test_lower_is_better_turns_gains() -> None:
    rows = regimes.select_map(drawn_worlds.compared(), "noise", drawn_worlds.MAPS["noise"], "rmse", 0.05)
    own = rows[rows["experiment"] == "combined"].set_index("point")
    assert own.loc["overlap=1", "verdict"] == "worse"
    assert own.loc["overlap=1", "gain"] == -own.loc["overlap=1", "difference"]


def test_a_loss_that_still_falls_is_noticed() -> None:
    curves = drawn_worlds.curves()
    assert regimes.find_change(curves, "centre", "prop") == 0
    assert regimes.find_change(curves, "centre", "combined") == pytest.approx(0.6 / 0.9 - 1)
    assert np.isnan(regimes.find_change(curves, "centre", "majority"))


def test_curves_are_means_over_parts_of_each_phase() -> None:
    history = pd.DataFrame({"phase": [0] * 40 + [1] * 40, "step": [*range(40)] * 2, "loss": np.arange(80.0)})
    found = _average(history)
    assert len(found) == 2 * PARTS
    assert found.iloc[0].tolist() == [0, 1, 0.5]
    assert found.iloc[-1].tolist() == [1, 39, 78.5]


def _row(table: Any, name: str, point: str, experiment: str) -> Any:
    keys = (table["map"] == name) & (table["point"] == point) & (table["experiment"] == experiment)
    return next(table[keys & (table["metric"] == "accuracy")].itertuples(index=False))
