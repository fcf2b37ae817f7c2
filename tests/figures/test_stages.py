"""Colours, figures and sentences say what the numbers say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from myostage import palette, tables
from myostage.cells.tables import CELLS, CROPS
from myostage.errors import UserError
from myostage.evaluation import formatting, summaries
from myostage.evaluation.tables import COMPARISONS, METRICS, RUNS
from myostage.figures import style, views
from myostage.figures.record import Table
from myostage.learning.predictions import read_stages
from myostage.learning.tables import HISTORY
from myostage.report import pages
from myostage.slides.checking import skip
from myostage.slides.tables import SLIDES
from support import study_tables
from support.figures import draw, title_of

STAGES = study_tables.STAGES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> study_tables.Made:
    return study_tables.make(tmp_path_factory.mktemp("study"))


@given(st.integers(2, 9))
def test_stages_are_told_apart_without_colour_vision(stages: int) -> None:
    rising = np.diff(palette.lightness(palette.stage_rgb(stages)))
    assert rising.min() > 60 / (stages - 1) / 2
    assert len(set(palette.stage_colours(stages))) == stages


def test_lightness_and_ink() -> None:
    np.testing.assert_allclose(palette.lightness(np.array([[0, 0, 0], [255, 255, 255]])), [0, 100], atol=1e-6)
    # CIE L* of sRGB mid grey 119 is 50.03.
    assert float(palette.lightness(np.array([119, 119, 119]))) == pytest.approx(50.03, abs=0.05)
    assert (palette.ink("#440154"), palette.ink("#ece528")) == ("white", "black")


def test_headline_gives_value_interval_and_what_it_compares_with(made: study_tables.Made) -> None:
    table = tables.read(made.study("metrics"), METRICS)
    first = formatting.state_results(table, ["majority"], ["supervised"])[0]
    assert first == (
        "combined: accuracy .680 [.590, .750] on 3,402 cells of 8 slides; "
        "majority .370 [.280, .440], the ceiling (supervised) .880 [.790, .950]."
    )
    unlabelled = table[table["metric"].isin(["kl", "l1"])]
    assert formatting.state_results(unlabelled)[0].startswith(
        "combined: KL to the given proportions .160 [.070, .230]"
    )
    assert "nothing to measure" in formatting.state_results(table.head(0))[0]


def test_metric_table_in_html_and_latex(made: study_tables.Made, tmp_path: Path) -> None:
    table = tables.read(made.study("metrics"), METRICS)
    table["experiment"] = table["experiment"].replace("combined", "a_b<c")
    rows = formatting.tabulate_experiments(table, ["majority", "a_b<c"])
    assert list(rows.index) == ["majority", "a_b<c"]
    assert rows.loc["majority", "quadratic kappa"] == "–"
    pages.write_table(tmp_path / "m.html", Table("x & y", ["a < b"], [(rows, "")]))
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "a_b&lt;c" in page and "a &lt; b" in page and "x &amp; y" in page and "a_b<c" not in page
    pages.write_latex(tmp_path / "m.tex", [(rows, "")])
    assert r"a\_b\textless{}c & .680 [.590, .750]" in (tmp_path / "m.tex").read_text(encoding="utf-8")


def test_composition_names_the_largest_difference() -> None:
    scores = pd.DataFrame(
        {
            "experiment": "e",
            "slide": ["s1", "s2", "s3"],
            "group": ["d0", "d0", ""],
            "animal": ["a", "a", "b"],
            "cells": [100, 300, 10],
            "proportions": [[1.0, 0.0], [0.6, 0.4], [0.0, 1.0]],
        }
    )
    animals = summaries.compose_animals(scores, ("low", "high"), "e").set_index("animal")
    # Slides of one animal weigh by their cells: (100 x 1 + 300 x .6) / 400.
    assert animals.loc["a", "low"] == pytest.approx(0.7)
    figure = draw("composition", scores, {"d0": [0.9, 0.1], "d9": [0.5, 0.5]}, ("low", "high"), "e")
    assert "20.0 points on average, most for low at d0 (-20 points)" in title_of(figure)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["d0", "none"]


def test_stage_map_fills_each_outline_with_its_stage() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], dtype=float)
    image = np.full((20, 40, 3), 255, dtype=np.uint8)
    polygons = [square, square + 10, square[:2], square + 20]
    stage, truth = np.array([0, 2, 1, -1]), np.array([0, 1, -1, -1])
    figure = draw("stage_map", image, 400, 200, polygons, stage, truth, ("a", "b", "c"), "s")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "H&E",
        "predicted stage",
        "annotated stage",
    ]
    (filled,) = (one for one in figure.axes[1].collections if isinstance(one, PolyCollection))
    colours = palette.stage_colours(3)
    assert [to_hex(face) for face in filled.get_facecolor()] == [colours[0], colours[2], palette.MISSING]
    assert "50 % of 2 annotated cells are staged correctly" in title_of(figure)
    assert "50 µm" in {text.get_text() for text in figure.axes[0].texts}
    bare = draw("stage_map", image, 400, 200, polygons, stage, None, ("a", "b", "c"), "s")
    assert len(bare.axes) == 2 and "correctly" not in title_of(bare)


def test_gallery_takes_the_most_and_least_certain_crops_of_a_stage(made: study_tables.Made) -> None:
    staged = [read_stages(path, len(STAGES)) for path in made.of("stages").values()]
    chosen = views.pick(staged, len(STAGES), 5)
    everything = pd.concat(staged)
    for stage in range(len(STAGES)):
        certainty = sorted(
            (float(max(row)) for row in everything.loc[everything["stage"] == stage, "probabilities"]),
            reverse=True,
        )
        found = chosen[chosen["stage"] == stage]["probability"].tolist()
        assert found == certainty[:3] + certainty[-2:]
    crops = views.images(made.of("crops"), chosen)
    for number in (0, len(chosen) - 1):
        table = tables.read(made.of("crops")[chosen["slide"][number]], CROPS).set_index("cell")
        assert crops[number].tobytes() == table.loc[chosen["cell"][number], "image"]
    truth = views.truth(made.of("labels"), chosen)
    assert {-1} < set(truth.tolist())
    figure = draw("gallery", crops, chosen, truth, STAGES, "combined", 5)
    right = (truth == chosen["stage"]) & (chosen["kind"] == "least")
    annotated = (truth >= 0) & (chosen["kind"] == "least")
    assert f"{right.sum()} of {annotated.sum()} of its least certain" in title_of(figure)


def test_few_cells_are_never_shown_twice_and_a_missing_crop_is_named(made: study_tables.Made) -> None:
    staged = read_stages(made.of("stages")["d7_a1"], len(STAGES)).head(3).assign(stage=2)
    chosen = views.pick([staged], len(STAGES), 4)
    assert sorted(chosen["cell"]) == sorted(staged["cell"]) and chosen["place"].is_unique
    with pytest.raises(UserError, match="cell 63 of slide d7_a1"):
        views.images(made.of("crops"), pd.DataFrame({"slide": ["d7_a1"], "cell": [63]}))


def test_curves_run_on_through_the_phases(tmp_path: Path) -> None:
    history = pd.DataFrame({"phase": [0, 0, 0, 1, 1], "step": [0, 1, 2, 0, 1], "loss": [4.0, 2, 1, 9, 9]})
    history = history.reindex(columns=list(dict.fromkeys([*HISTORY.schema.names, *history])))
    history["simprop"], history["gradient_norm"] = history["loss"], 1.0
    tables.write(tmp_path / "h.parquet", history, HISTORY)
    table = views.histories({"e": [tmp_path / "h.parquet"]})
    assert table["step"].tolist() == [0, 1, 2, 3, 4]
    assert title_of(draw("curves", table)) == "e: its loss falls from 4 to 1 over 3 steps (one run)"
    assert "No training curves" in title_of(draw("curves", views.histories({})))


def test_curves_name_what_has_not_converged() -> None:
    steps = np.arange(100)
    falling, flat = 3.0 - 0.02 * steps, np.where(steps < 20, 3.0, 1.0)
    parts = [
        pd.DataFrame({"experiment": name, "run": 0, "phase": 0, "step": steps, "loss": loss, "prop": loss})
        for name, loss in (("early", falling), ("done", flat))
    ]
    table = pd.concat(parts).assign(learning_rate=1e-3, gradient_norm=1.0, conflict=np.nan)
    legend = draw("curves", table).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["early (not converged)", "done"]


def test_metrics_marks_baseline_ceiling_and_undefined(made: study_tables.Made) -> None:
    table = tables.read(made.study("metrics"), METRICS)
    figure = draw("metrics", table, None, ["majority"], ["supervised"])
    assert (
        title_of(figure)
        == "Accuracy: combined .680 [.590, .750]; majority .370 [.280, .440]; the ceiling (supervised) .880 "
        "[.790, .950]"
    )
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels)[:3] == ["accuracy", "MAE (stages)", "quadratic kappa"]
    accuracy, kappa = panels["accuracy"], panels["quadratic kappa"]
    dashed = [line for line in accuracy.lines if line.get_linestyle() == "--"]
    assert [float(line.get_xdata()[0]) for line in dashed] == [pytest.approx(0.37)]
    assert [text.get_text() for text in kappa.texts] == ["undefined"]


def test_metrics_say_which_experiment_failed_and_how_the_best_differs(made: study_tables.Made) -> None:
    table = tables.read(made.study("metrics"), METRICS)
    comparisons = tables.read(made.study("comparisons"), COMPARISONS)
    runs = tables.read(made.study("runs"), RUNS)
    shown = ["combined", "broken", "majority"]
    figure = draw("metrics", table, shown, ["majority"], ["supervised"], comparisons, runs)
    # The ceiling is not among the rows that are shown.
    assert title_of(figure) == (
        "Accuracy: combined .680 [.590, .750], +.070 [+.020, +.130] against prop[sigma=0.1,bins=6] (Holm "
        "p .012, "
        "3 pairs); majority .370 [.280, .440]"
    )
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == shown
    assert "failed (3 of 3 runs)" in [text.get_text() for text in figure.axes[0].texts]
    assert "No metrics" in title_of(draw("metrics", table.head(0)))


def test_sizes_share_bins_and_leave_out_cut_cells(made: study_tables.Made) -> None:
    cells = views.grouped_cells(made.of("cells"), made.of("stages"), made.groups, len(STAGES))
    cells.loc[cells["border"], "min_feret_um"] = 1e6
    figure = draw("sizes", cells, list(study_tables.GIVEN), STAGES)
    left = figure.axes[0:8:2]
    assert len({axes.get_xlim() for axes in left}) == 1 and left[0].get_xlim()[1] < 1000
    assert len({axes.get_ylim() for axes in left}) == 1
    whole = cells[~cells["border"]]
    median = whole.groupby("group")["min_feret_um"].median()
    assert (
        f"{median.min():.0f} µm at {median.idxmin()} to {median.max():.0f} µm at {median.idxmax()}"
        in title_of(figure)
    )


def test_counts_show_a_skipped_slide_with_its_reason(made: study_tables.Made) -> None:
    slides = tables.read(made.study("slides"), SLIDES)
    slides.loc[0, ["status", "reason"]] = ["skipped", "no mpp"]
    given = {name: made.of(name) for name in ("cells", "crops")}
    del given["cells"]["d0_a1"], given["crops"]["d0_a1"]
    table = views.counts(slides, **given)
    assert table.loc[0, "cells"] == 0 and table.loc[1:, "dropped"].eq(2).all()
    figure = draw("counts", table)
    assert title_of(figure) == "448 cells on 7 slides, 3.1 % dropped as background; 1 slide skipped"
    assert " skipped: no mpp" in [text.get_text() for text in figure.axes[0].texts]


def test_counts_show_a_slide_that_failed_later_with_its_reason(
    made: study_tables.Made, tmp_path: Path
) -> None:
    slides = tables.read(made.study("slides"), SLIDES)
    given = {name: made.of(name) for name in ("cells", "crops")}
    for name, table in (("cells", CELLS), ("crops", CROPS)):
        given[name]["d3_a1"] = str(tmp_path / f"{name}.parquet")
        skip(given[name]["d3_a1"], table, "a tile is cut short")
    table = views.counts(slides, **given)
    row = table.set_index("slide").loc["d3_a1"]
    assert (row["status"], row["reason"]) == ("skipped", "a tile is cut short")
    assert row[["cells", "border", "crops", "dropped"]].eq(0).all()
    assert table["status"].value_counts().to_dict() == {"ok": 7, "skipped": 1}
    figure = draw("counts", table)
    assert "1 slide skipped" in title_of(figure)
    assert " skipped: a tile is cut short" in [text.get_text() for text in figure.axes[0].texts]


def test_slides_left_out_are_those_not_opened_and_those_that_failed_later(
    made: study_tables.Made, tmp_path: Path
) -> None:
    slides = tables.read(made.study("slides"), SLIDES)
    crops = made.of("crops")
    assert views.left_out(slides, crops) == {}
    crops["d3_a1"] = str(tmp_path / "crops.parquet")
    skip(crops["d3_a1"], CROPS, "a tile is cut short")
    slides.loc[slides["slide"] == "d7_a2", ["status", "reason"]] = ["skipped", "no mpp"]
    found = views.left_out(slides, crops)
    assert list(found.items()) == [("d3_a1", "a tile is cut short"), ("d7_a2", "no mpp")]


def test_a_figure_drawn_again_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        style.save(style.page("title", "text"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
