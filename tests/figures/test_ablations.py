"""Figures that compare experiments find what was put into their numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from myostage.evaluation import cost, selection, summaries
from myostage.evaluation.tables import COMPARISONS, METRICS, RELIABILITY, RUNS
from myostage.figures import style
from support import estimated
from support.figures import draw, title_of

STAGES = ("a", "b", "c")


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def _compared(*rows: dict[str, Any]) -> pd.DataFrame:
    """A COMPARISONS table: accuracy against ``base``, +-.05, a detectable .04, unless said otherwise."""
    usual = {"reference": "base", "family": "against", "metric": "accuracy", "pairs": 15, "slides": 8}
    full = []
    for row in rows:
        difference = row["difference"]
        numbers = {
            "low": difference - 0.05,
            "high": difference + 0.05,
            "effect_size": 1.0,
            "p": 0.5,
            "p_holm": 0.9,
            "minimum_detectable": 0.04,
        }
        full.append(estimated.DIFFERENCE | usual | numbers | row)
    return pd.DataFrame(full, columns=COMPARISONS.schema.names)


def _measured(values: dict[str, float], metric: str = "accuracy", half: float = 0.05) -> pd.DataFrame:
    """A METRICS table of whole experiments."""
    return pd.DataFrame(
        [
            {"experiment": name, "run": "", "fold": -1, "seed": -1, "metric": metric, "value": value}
            | estimated.VALUE
            | {"low": value - half, "high": value + half, "slides": 8, "cells": 900}
            for name, value in values.items()
        ],
        columns=METRICS.schema.names,
    )


def _runs(experiment: str, seconds: list[float], **more: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"experiment": experiment, "seconds": seconds, "fold": range(len(seconds))})
    usual = {
        "status": "ok",
        "reason": "",
        "device": "cpu",
        "steps": 9,
        "joules": np.nan,
        "temperature": np.nan,
        "loss_change": 0.0,
        "loss_noise": 0.0,
        "seed": 0,
    }
    frame = frame.assign(run=[f"{experiment}-{n}" for n in range(len(seconds))], **(usual | more))
    frame["cpu_seconds"], frame["peak_memory_mb"] = frame["seconds"] * 2, 500.0
    return frame[RUNS.schema.names]


def test_forest_names_what_differs_and_colours_better_and_worse() -> None:
    table = _compared(
        {"experiment": "up", "difference": 0.1, "p_holm": 0.01},
        {"experiment": "down", "difference": -0.2, "p_holm": 0.001},
        {"experiment": "same", "difference": 0.01, "p_holm": 0.6, "minimum_detectable": 0.06},
    )
    labels = ["up", "down", "same", "broken"]
    rows = selection.find_differences(table, "accuracy", labels)
    groups = [["first", ["up", "down"]], ["empty", []], ["second", ["same", "broken"]]]
    figure = draw("forest", rows, groups, "accuracy", 0.05, {"broken": "failed (3 of 3 runs)"})
    assert title_of(figure) == (
        "2 of 3 differ significantly from base in accuracy: down -.200, up +.100; "
        "minimum detectable effect .040 (median)"
    )
    untested = draw("forest", rows.assign(p_holm=np.nan), groups, "accuracy")
    assert title_of(untested) == "None of 3 was tested against base"
    some = rows.assign(p_holm=rows["p_holm"].where(rows["experiment"] != "down"))
    assert "1 of 2 differ significantly from base in accuracy: up +.100; 1 not tested" in title_of(
        draw("forest", some, groups, "accuracy")
    )
    left = figure.axes[0]
    assert [text.get_text() for text in left.get_yticklabels()] == [
        "first",
        "up",
        "down",
        "second",
        "same",
        "broken",
    ]
    assert "failed (3 of 3 runs)" in _texts(figure) and "+.100 [+.050, +.150]" in _texts(figure)
    bands = [(patch.get_x(), patch.get_width()) for patch in left.patches]
    assert bands == [pytest.approx(band) for band in ((-0.04, 0.08), (-0.04, 0.08), (-0.06, 0.12))]
    colours = [to_hex(line.get_color()) for line in left.lines if line.get_marker() == "o"]
    assert colours[0] == style.BLUE.lower() and colours[1] == style.ORANGE.lower()
    # Of an error the smaller is the better.
    mae = draw(
        "forest",
        selection.find_differences(table.assign(metric="mae"), "mae", ["up"]),
        [["x", ["up"]]],
        "mae",
    )
    worse = [to_hex(line.get_color()) for line in mae.axes[0].lines if line.get_marker() == "o"]
    assert worse == [style.ORANGE.lower()]


def test_forest_says_when_nothing_differs_and_holds_forty_rows() -> None:
    labels = [f"design-choice-{number}[bag_size={number}]" for number in range(40)]
    rows = selection.find_differences(
        _compared(*({"experiment": label, "difference": 0.01} for label in labels)), "accuracy", labels
    )
    figure = draw("forest", rows, [["all", labels]], "accuracy")
    assert title_of(figure).startswith("None of 40 differ significantly from base in accuracy")
    assert len(figure.axes[0].get_yticks()) == 41
    for empty in (rows.head(0), rows.assign(difference=np.nan)):
        assert "No differences" in title_of(draw("forest", empty, [["all", labels]], "accuracy"))


def test_grid_sets_its_spread_against_an_interval_and_marks_the_point_of_the_paper() -> None:
    points = {f"{sigma}-{b}": (sigma, b) for sigma in (0.2, 0.1) for b in (6, 20)}
    metrics = _measured({"0.1-6": 0.6, "0.1-20": 0.64, "0.2-6": 0.58})
    compared = _compared(
        {"experiment": "0.1-20", "difference": 0.06, "p_holm": 0.01},
        {"experiment": "0.2-6", "difference": -0.02, "p_holm": 0.6},
    )
    rows = selection.tabulate_grid(metrics, points, "accuracy", compared, {"0.2-20": "failed (1 of 1 runs)"})
    assert rows.set_index("experiment").loc["0.1-20", ["difference_low", "difference_high"]].tolist() == [
        pytest.approx(0.01),
        pytest.approx(0.11),
    ]
    marked = [(0.1, 6, "paper"), (0.3, 6, "off the grid")]
    figure = draw("grid", rows, "accuracy", marked)
    assert title_of(figure) == (
        "Over 3 points of sigma and b, accuracy spreads by .060 (.580 to .640), less than the typical width "
        "of an interval, .100; best at sigma .1, b 20; 1 of 2 differ significantly from base"
    )
    first, second = figure.axes[:2]
    assert [text.get_text() for text in first.get_yticklabels()] == ["0.1", "0.2"]
    texts = [text.get_text() for text in first.texts]
    assert texts.count("±.050") == 3 and "failed" in texts
    # The dot stands below the one difference that is found: sigma .1 (row 0), b 20 (column 1).
    (dot,) = (text for text in second.texts if text.get_text() == "●")
    assert dot.get_position() == (1, pytest.approx(0.27))
    (outline,) = (patch for patch in first.patches if not patch.get_fill())
    assert outline.get_xy() == pytest.approx((-0.47, -0.47))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "paper: sigma 0.1, b 6",
        "significant",
    ]


def test_grid_without_comparisons_has_one_panel_and_without_values_none() -> None:
    points = {"one": (0.1, 6), "two": (0.1, 10)}
    rows = selection.tabulate_grid(_measured({"one": 0.3, "two": 0.6}), points, "accuracy")
    figure = draw("grid", rows, "accuracy")
    assert len([axes for axes in figure.axes if axes.get_xlabel()]) == 1
    assert "spreads by .300 (.300 to .600), more than the typical width" in title_of(figure)
    for nothing in (points, {}):
        rows = selection.tabulate_grid(_measured({}), nothing, "accuracy")
        assert "No grid" in title_of(draw("grid", rows, "accuracy"))


def test_confusions_count_errors_that_are_one_stage_off() -> None:
    # 10 cells, 4 wrong, 3 of them by one stage.
    matrix = np.array([[4.0, 1, 1], [2, 2, 0], [0, 0, 0]])
    errors = summaries.Errors.of(matrix)
    assert (errors.of_errors, errors.of_cells) == (0.75, 0.3)
    figure = draw("confusions", {"e": matrix, "right": np.eye(3) * 5, "none": np.zeros((3, 3))}, STAGES)
    assert title_of(figure) == "One stage off: 75 % of the errors of e (30 % of its cells)"
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "e\none off: 75 % of errors, 30 % of 10 cells",
        "right\nno error among 15 cells",
        "none\nno annotated cell",
    ]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == "67 %\n4" and texts[-3:] == ["none"] * 3
    table = summaries.tabulate_errors({"e": matrix}, STAGES)
    assert table["cells"].sum() == 10 and table["one_stage_off_of_errors"].eq(0.75).all()
    many = {f"e{number}": matrix + number * np.eye(3) for number in range(5)}
    many["near"] = np.array([[1.0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert title_of(draw("confusions", many, STAGES)) == (
        "One stage off: 100 % of the errors of near (50 % of its cells) and 75 % of the errors of e4 "
        "(14 % of its cells)"
    )
    for empty in ({}, {"none": np.zeros((3, 3))}):
        assert "No confusion matrices" in title_of(draw("confusions", empty, STAGES))


def test_reliability_is_shown_by_stage_before_and_after_scaling() -> None:
    rows = pd.DataFrame(
        [
            (0, False, 0.9, 1.0, 30.0, 0.96, 0.80),
            (0, False, 0.5, 0.6, 10.0, 0.56, 0.40),
            (0, True, 0.8, 0.9, 40.0, 0.82, 0.70),
            (2, False, 0.4, 0.5, 5.0, 0.45, 0.60),
            (2, True, 0.3, 0.4, 5.0, 0.39, 0.60),
        ],
        columns=[name for name in RELIABILITY.schema.names if name != "experiment"],
    )
    figure = draw("reliability", rows, STAGES, "e", [".089", ".085"], pd.Series([1.1, np.nan, 1.25]))
    assert title_of(figure) == "Expected calibration error of e: .089 as predicted, .085 after scaling"
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "a\nconfidence .86, scaled .82\nright .70",
        "b\nno cell",
        "c\nconfidence .45, scaled .39\nright .60",
    ]
    before, after = (line.get_xydata().tolist() for line in figure.axes[0].lines[1:])
    assert before == [[0.56, 0.40], [0.96, 0.80]] and after == [[0.82, 0.70]]
    assert (
        "temperature 1.10 to 1.25 in 2 of 3 runs"
        in figure.legends[0].get_title().get_text().replace("\n", " ").lower()
    )
    figure = draw("reliability", rows, STAGES, "e", [".1", ".1"], pd.Series([np.nan]))
    assert "determine no temperature" in figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "No reliability diagram" in title_of(
        draw("reliability", rows.head(0), STAGES, "e", ["–", "–"], pd.Series([1.0]))
    )


def _scores() -> pd.DataFrame:
    """Off by .1 at d1 and by -.3 at d0, where one slide has no truth; a slide without a group beside them."""
    frame = pd.DataFrame(
        [
            ("d1", "s1", 0.6, 0.5),
            ("d0", "s2", 0.1, 0.4),
            ("d0", "s3", 0.2, np.nan),
            ("", "s4", 0.9, 0.1),
        ],
        columns=["group", "slide", "recovery_score", "true_recovery_score"],
    )
    first = frame.assign(experiment="e", animal=frame["slide"], cells=10)
    worse = first.assign(experiment="worse", recovery_score=1.0)
    return pd.concat([worse, first], ignore_index=True)


def test_recovery_gives_the_error_over_slides_with_a_truth() -> None:
    rows = summaries.tabulate_recovery(_scores(), ["e"], ["d0", "d1"])
    assert rows["slide"].tolist() == ["s2", "s3", "s1"]
    error = summaries.find_recovery_error(rows)
    # Errors of .1 and .3: t of one degree of freedom is wider than errors can be.
    assert error.slides == 2
    np.testing.assert_allclose([error.value, error.low, error.high], [0.2, 0, 1])
    figure = draw("recovery", rows)
    assert title_of(figure) == "e: recovery score off by .20 [.00, 1.00] (MAE, 2 slides), most at d0 (-.30)"
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["d0\nn 2", "d1\nn 1"]
    (points,) = (line for line in figure.axes[1].lines if line.get_linestyle() == "None")
    drawn = np.stack([points.get_xdata(), points.get_ydata()], axis=1)
    np.testing.assert_allclose(drawn, [[0.4, 0.1], [np.nan, 0.2], [0.5, 0.6]])


def test_recovery_of_several_experiments_without_truth_and_of_none() -> None:
    both = summaries.tabulate_recovery(_scores(), ["worse", "e"])
    assert both["experiment"].tolist() == ["worse"] * 3 + ["e"] * 3
    assert title_of(draw("recovery", both)).startswith("Best of 2, e: recovery score off by .20")
    assert title_of(draw("recovery", both)).endswith("; worst, worse: .55 [.00, 1.00]")
    blind = draw("recovery", both.assign(true=np.nan, error=np.nan))
    assert len(blind.axes) == 1 and "no cell is annotated" in title_of(blind)
    assert "No recovery scores" in title_of(draw("recovery", summaries.tabulate_recovery(_scores(), ["x"])))


CURVES = {"m": {"0": "m", "0.3": "m3", "1": "m10", "0.6": "m6"}, "n": {"0.0": "n", "0.3": "n3"}}
ACCURACY = {"m": 0.7, "m3": 0.6, "m6": 0.66, "m10": 0.3, "n": 0.5, "n3": 0.5}


def test_robustness_finds_where_wrong_proportions_begin_to_hurt() -> None:
    compared = _compared(
        {"experiment": "m3", "reference": "m", "difference": -0.1, "p_holm": 0.01},
        {"experiment": "m6", "reference": "m", "difference": -0.04, "p_holm": 0.06},
        {"experiment": "m10", "reference": "m", "difference": -0.4, "p_holm": 0.01},
        # Better than the truth is no harm, and a difference to something else is none to t = 0.
        {"experiment": "n3", "reference": "n", "difference": 0.2, "p_holm": 0.01},
        {"experiment": "n3", "reference": "m", "difference": -0.5},
    )
    rows = selection.tabulate_noise(_measured(ACCURACY), CURVES, "accuracy", compared)
    assert rows.loc[rows["method"] == "m", "t"].tolist() == [0, 0.3, 0.6, 1]
    figure = draw("robustness", rows, "accuracy")
    # At .6 it is not significant again.
    assert title_of(figure) == (
        "Wrong proportions hurt accuracy: m first at t = .3 (-.100 [-.150, -.050]); n not up to t = .3"
    )
    circles = [line for line in figure.axes[0].lines if line.get_markersize() == 13]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in circles] == [(0.3, 0.6)]
    compared.loc[compared["experiment"] == "m6", "p_holm"] = 0.04
    rows = selection.tabulate_noise(_measured(ACCURACY), CURVES, "accuracy", compared)
    assert "m from t = .3 on" in title_of(draw("robustness", rows, "accuracy"))
    # Of an error the larger is the worse.
    mae = selection.tabulate_noise(_measured(ACCURACY, "mae"), CURVES, "mae", compared.assign(metric="mae"))
    assert title_of(draw("robustness", mae, "mae")) == (
        "Wrong proportions hurt MAE: m not up to t = 1; n from t = .3 on (+.200 [+.150, +.250])"
    )


def test_robustness_without_comparisons_and_with_failed_points() -> None:
    measured = _measured({"m": 0.7, "m3": 0.6, "m6": np.nan, "n": 0.5})
    rows = selection.tabulate_noise(measured, CURVES, "accuracy")
    figure = draw("robustness", rows, "accuracy")
    assert title_of(figure).endswith("m is compared with nothing; n is compared with nothing")
    note = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "Without a value: m6, m10, n3." in note and "Circle" not in note
    for curves in (CURVES, {}):
        rows = selection.tabulate_noise(_measured({}), curves, "accuracy")
        assert "No curve" in title_of(draw("robustness", rows, "accuracy"))


def test_cost_compares_medians_and_says_what_is_not_known() -> None:
    runs = pd.concat(
        [
            _runs("quick", [10.0, 12, 20]),
            _runs("slow", [600.0, 600]),
            _runs("broken", [np.nan], status="failed"),
            _runs("resumed", [5.0, 30], steps=[2, 9], device=["cuda", "cpu"]),
        ]
    )
    figure = draw("cost", runs, ["quick", "slow", "broken", "resumed"])
    assert title_of(figure) == "Wall time of a run: 12 s (quick, n 3) to 600 s (slow, n 2), 50 times as long"
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "wall time (s)",
        "CPU time (s)",
        "peak memory (MB)",
    ]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log", "linear"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["quick (n 3)", "slow (n 2)", "broken (n 0)", "resumed (n 1)"]
    assert _texts(figure) == ["failed (1 of 1 runs)"] * 3
    note = figure.get_supxlabel().replace("\n", " ")
    assert "1 resumed run." in note and "does not report it" in note and "cpu (6), cuda (1)" in note
    table = cost.list_costs(runs, ["quick"]).set_index("cost")
    assert table.loc["wall time", ["median", "low", "high", "runs"]].tolist() == [12, 10, 20, 3]
    known = draw("cost", runs.assign(joules=7.0), ["quick"])
    assert "energy (J)" in [axes.get_xlabel() for axes in known.axes]
    assert (
        "joules" not in known.get_supxlabel() and title_of(known) == "Wall time of a run: 12 s (quick, n 3)"
    )
    for empty in (runs.head(0), runs.assign(status="failed")):
        assert "No costs" in title_of(draw("cost", empty, ["quick", "slow"]))
