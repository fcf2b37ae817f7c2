"""Tables say what the numbers say, also where runs failed, were resumed or never ran."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from myostage import tables
from myostage.evaluation import cost, formatting, selection
from myostage.evaluation.convergence import Unconverged
from myostage.evaluation.tables import COMPARISONS, METRICS, RUNS
from myostage.figures.record import Table
from myostage.report import pages
from support import study_tables

QUOTED = [
    {"method": "OSLSP", "metric": "rmse", "value": 2.152, "source": "A & B"},
    {"method": "OSLSP", "metric": "accuracy", "value": 0.46005, "source": "A & B"},
    {"method": "DINO", "metric": "accuracy", "value": 0.44442, "source": "A & B"},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> study_tables.Made:
    return study_tables.make(tmp_path_factory.mktemp("study"), cells=8)


@pytest.fixture(scope="module")
def metrics(made: study_tables.Made) -> pd.DataFrame:
    return tables.read(made.study("metrics"), METRICS)


@pytest.fixture(scope="module")
def comparisons(made: study_tables.Made) -> pd.DataFrame:
    return tables.read(made.study("comparisons"), COMPARISONS)


@pytest.fixture(scope="module")
def runs(made: study_tables.Made) -> pd.DataFrame:
    return tables.read(made.study("runs"), RUNS)


def test_the_main_table_has_differences_and_names_failed_and_absent_experiments(
    metrics: pd.DataFrame, comparisons: pd.DataFrame, runs: pd.DataFrame
) -> None:
    order = [study_tables.REFERENCE, "combined", "majority", "broken", "absent"]
    rows = formatting.tabulate_experiments(
        metrics, order, comparisons, runs, left_out={"absent": "no package"}
    )
    assert list(rows.columns) == [
        "accuracy",
        "MAE (stages)",
        "quadratic kappa",
        "KL to the given proportions (nats)",
        "L1 to the given proportions",
        f"accuracy minus {study_tables.REFERENCE}",
        "p (Holm)",
        "slides",
        "cells",
        "runs",
    ]
    difference = rows[f"accuracy minus {study_tables.REFERENCE}"]
    assert difference.tolist() == ["reference", "+.070 [+.020, +.130]", "-.240 [-.290, -.180]", "–", "–"]
    assert rows["p (Holm)"].tolist() == ["–", ".012", ".012", "–", "–"]
    assert rows.loc["broken", ["accuracy", "MAE (stages)"]].tolist() == ["failed (3 of 3 runs)", "–"]
    assert rows.loc["absent", "accuracy"] == "left out"
    assert rows["runs"].tolist() == ["3", "3", "3", "0 of 3", "0"]


def test_an_experiment_with_some_failed_runs_keeps_its_value(
    metrics: pd.DataFrame, runs: pd.DataFrame
) -> None:
    runs = runs.copy()
    runs.loc[runs["run"] == "combined-f1", "status"] = "failed"
    rows = formatting.tabulate_experiments(metrics, ["combined"], runs=runs)
    assert rows.loc["combined", ["accuracy", "runs"]].tolist() == [".680 [.590, .750]", "2 of 3"]


def test_a_row_is_compared_with_what_it_changes_something_of_else_with_the_reference(
    comparisons: pd.DataFrame,
) -> None:
    against = comparisons[comparisons["experiment"] == "combined"].assign(
        family="against", reference="majority", difference=0.31
    )
    baseline = against.assign(family="baseline", difference=9.0)
    other = against.assign(metric="mae", difference=8.0)
    everything = pd.concat([comparisons, baseline, other, against])
    rows = selection.find_differences(everything, "accuracy", ["supervised", "combined", "nobody"])
    assert rows["experiment"].tolist() == ["supervised", "combined", "nobody"]
    assert rows["reference"].tolist()[:2] == [study_tables.REFERENCE, "majority"]
    np.testing.assert_allclose(rows["difference"], [0.27, 0.31, np.nan])
    text = formatting.tabulate_differences(rows)
    assert text.loc["nobody"].eq("–").all()
    both = selection.find_to_references(everything, "accuracy", ["combined", "supervised"])
    assert both[["experiment", "family"]].to_numpy().tolist() == [
        ["combined", "reference"],
        ["supervised", "reference"],
        ["combined", "baseline"],
    ]


def test_quoted_figures_stand_in_a_block_of_their_own(
    metrics: pd.DataFrame, comparisons: pd.DataFrame, tmp_path: Path
) -> None:
    rows = formatting.mark_experiments(
        formatting.tabulate_experiments(metrics, ["combined", "supervised"]),
        formatting.collect_marks(["supervised"], ["combined"]),
    )
    notes = formatting.explain_marks(["combined", "supervised"], ["supervised"], ["combined", "elsewhere"])
    blocks = formatting.collect_blocks(comparisons, "accuracy", ["combined"], QUOTED)
    quoted = blocks[1][0]
    assert quoted.columns.tolist() == ["accuracy", "RMSE (stages)", "source"]
    assert quoted.loc["OSLSP"].tolist() == [".46005", "2.152", "A & B"]
    assert quoted.loc["DINO", "RMSE (stages)"] == "–"
    assert "OSLSP" not in rows.index
    pages.write_table(tmp_path / "m.html", Table("t", [], [(rows, notes), *blocks]))
    tables = (tmp_path / "m.html").read_text(encoding="utf-8").split("<table")[1:]
    assert len(tables) == 3
    assert "combined ‡" in tables[0] and "supervised †" in tables[0] and "OSLSP" not in tables[0]
    assert "fitted afterwards by L_prop" in tables[0] and "learns from cell labels" in tables[0]
    assert "A &amp; B" in tables[2] and "As published" in tables[2] and "combined" not in tables[2]
    pages.write_latex(tmp_path / "m.tex", [(rows, notes), *blocks])
    parts = (tmp_path / "m.tex").read_text(encoding="utf-8").split(r"\begin{tabular}")[1:]
    assert len(parts) == 3
    assert r"combined \ddag{} & .68" in parts[0] and r"L\_prop" in parts[0] and "OSLSP" not in parts[0]
    assert r"A \& B" in parts[2] and "As published" in parts[2]


def test_without_comparisons_and_quoted_figures_nothing_stands_below(comparisons: pd.DataFrame) -> None:
    assert formatting.collect_blocks(None, "accuracy", ["combined"]) == []
    assert formatting.collect_blocks(comparisons, "kl", ["combined"]) == []


def test_latex_takes_no_cell_for_a_command(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a_b": ["50 % {x}"]}, index=pd.Index(["[1] \\x"], name="n#"))
    pages.write_latex(tmp_path / "m.tex", [(rows, "")])
    text = (tmp_path / "m.tex").read_text(encoding="utf-8")
    assert r"n\# & a\_b" in text and r"{}[1] \textbackslash{}x & 50 \% \{x\} \\" in text


def test_the_headline_names_the_best_of_many_baselines(metrics: pd.DataFrame) -> None:
    said = formatting.state_results(metrics, ["majority", study_tables.REFERENCE, "absent"], ["supervised"])
    assert said == [
        "combined: accuracy .680 [.590, .750] on 3,402 cells of 8 slides; prop[sigma=0.1,bins=6] .610 "
        "[.520, .680], the ceiling (supervised) .880 [.790, .950]."
    ]
    # The lowest KL is the best.
    kl = formatting.state_results(
        metrics[metrics["metric"] == "kl"], ["majority", study_tables.REFERENCE], []
    )
    assert f"; {study_tables.REFERENCE} " in kl[0] and "majority" not in kl[0]


def test_the_ceiling_is_the_better_of_what_learns_from_labels(metrics: pd.DataFrame) -> None:
    pooled = metrics[(metrics["experiment"] == "supervised") & (metrics["run"] == "")]
    higher = pooled.assign(experiment="probe")
    for name, sign in (("accuracy", 1), ("kl", -1)):
        higher.loc[higher["metric"] == name, "value"] += 0.01 * sign
    both, learners = pd.concat([metrics, higher]), ["supervised", "probe"]
    assert selection.find_ceiling(metrics, "accuracy", learners) == "supervised"
    assert selection.find_ceiling(both, "accuracy", learners) == "probe"
    assert selection.find_ceiling(both, "kl", learners) == "probe"  # of which less is better
    assert selection.find_ceiling(metrics, "accuracy", ["elsewhere"]) == ""
    assert "the ceiling (probe) .890" in formatting.state_results(both, [], learners)[0]
    notes = formatting.explain_marks(learners, learners, ceiling="probe")
    assert (
        "learns from cell labels, no competitor. The ceiling, the best that labels give, is probe." in notes
    )
    marks = formatting.collect_marks(learners, unconverged=["probe"])
    assert marks == {"supervised": "†", "probe": "†§"}
    late = {"probe": Unconverged(2, 3, -0.12), "elsewhere": Unconverged(1, 3, 0.2)}
    said = formatting.explain_marks(learners, learners, unconverged=late)
    assert "one at this budget (probe: its loss still falls by 12% in 2 of 3 runs)." in said


def test_costs_leave_out_failed_and_resumed_runs(runs: pd.DataFrame) -> None:
    runs = runs.copy()
    # combined took 10, 11 and 12 s.
    runs.loc[runs["run"] == "combined-f0", ["steps", "seconds"]] = [50, 1.0]
    found = cost.summarise_costs(runs, ["combined", "broken", "nobody"])
    assert found["combined"]["seconds"] == cost.Spread(11.5, 11.0, 12.0, 2)
    assert found["combined"]["joules"].runs == found["broken"]["seconds"].runs == 0
    assert cost.find_resumed(runs).sum() == 1
    rows = formatting.tabulate_costs(runs, ["combined", "broken", "nobody"])
    assert rows["wall time (s)"].tolist() == ["12 (11 to 12), n 2", "–", "–"]
    assert rows["energy (J)"].eq("–").all()
    assert rows["status"].tolist() == ["ok", "failed (3 of 3 runs)", "–"]
    assert rows["device"].tolist() == ["cpu", "cpu", "–"]
