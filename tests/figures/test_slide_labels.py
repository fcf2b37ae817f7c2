"""Figures of neighbours and of ordinal regression find what was put into their numbers."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from myostage import palette, tables
from myostage.cells.tables import LABELS, POSITIONS
from myostage.evaluation import selection, summaries
from myostage.evaluation.algebra import summary
from myostage.evaluation.comparisons import judge
from myostage.evaluation.tables import ALGEBRA, COMPARISONS, METRICS
from myostage.figures import style, views
from myostage.learning.tables import ATTENTION, HISTORY
from support import estimated, study_tables
from support.figures import draw, title_of


def _note(figure: Figure) -> str:
    return figure.legends[0].get_title().get_text().replace("\n", " ")


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def _measured(values: dict[str, float], metric: str = "bag_auroc", half: float = 0.05) -> pd.DataFrame:
    """A METRICS table of whole experiments."""
    rows = [
        {"experiment": name, "run": "", "fold": -1, "seed": -1, "metric": metric, "value": value}
        | estimated.VALUE
        | {"low": value - half, "high": value + half, "slides": 8, "cells": 900}
        for name, value in values.items()
    ]
    return pd.DataFrame(rows, columns=METRICS.schema.names)


def _compared(gaps: dict[str, float], reference: str, metric: str = "bag_auroc", **more: Any) -> pd.DataFrame:
    """A COMPARISONS table against one reference, +-.05 and a p to it unless said otherwise."""
    usual = {"reference": reference, "family": "against", "metric": metric, "pairs": 15, "slides": 8}
    usual |= {"effect_size": 1.0, "p": 0.01, "minimum_detectable": 0.04} | more
    rows = [
        {"p_holm": 0.01 if abs(gap) > 0.05 else 0.6}
        | estimated.DIFFERENCE
        | usual
        | {"experiment": name, "difference": gap, "low": gap - 0.05, "high": gap + 0.05}
        for name, gap in gaps.items()
    ]
    return pd.DataFrame(rows, columns=COMPARISONS.schema.names)


def _faces(figure: Figure, panel: int) -> dict[str, str]:
    """Edge colour and face of every marker of a panel, by its row."""
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    points = [line for line in figure.axes[panel].lines if line.get_marker() in ("o", "D")]
    return {names[round(line.get_ydata()[0])]: to_hex(line.get_markerfacecolor()).upper() for line in points}


def test_slide_metrics_colours_differences_to_each_control() -> None:
    labels = ["base", "up", "down", "same", "broken"]
    against = {"up": "base", "down": "base", "same": "base", "broken": "base"}
    metrics = pd.concat(
        [
            _measured({"base": 0.7, "up": 0.9, "down": 0.5, "same": 0.72}),
            _measured({"base": 0.4, "up": 0.2}, "bag_mae"),
        ]
    )
    compared = pd.concat(
        [
            _compared({"up": 0.2, "down": -0.2, "same": 0.02}, "base"),
            # A difference to something else says nothing here.
            _compared({"same": 0.5}, "other"),
            _compared({"up": -0.2}, "base", "bag_mae"),
        ]
    )
    columns = ["bag_mae", "bag_auroc", "bag_f1"]
    rows = selection.tabulate_metrics(metrics, labels, columns, against, compared)
    assert rows["metric"].tolist() == [name for name in columns for _ in labels]
    figure = draw("slide_metrics", rows, "bag_auroc", 0.05, {"broken": "failed (3 of 3 runs)"})
    assert title_of(figure) == (
        "Slide AUROC: best up, .90 [.85, .95]; against base 1 of 3 better, 1 worse, most up: "
        "+.20 [+.15, +.25]"
    )
    # What is spoken of comes first; what nobody measured is left out.
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["slide AUROC", "slide MAE (classes)"]
    blue, orange = palette.series_colours(2)
    assert _faces(figure, 0) == {"base": "#FFFFFF", "up": blue, "down": orange, "same": "#FFFFFF"}
    # Of an error the smaller is the better.
    assert _faces(figure, 1) == {"base": "#FFFFFF", "up": blue}
    assert _texts(figure).count("failed (3 of 3 runs)") == 2 and _texts(figure).count("undefined") == 2


def test_slide_metrics_says_when_nothing_can_be_told() -> None:
    metrics = _measured({"base": 0.7, "one": 0.72, "two": 0.69})
    against = {"one": "base", "two": "base"}
    two = _compared({"one": 0.02, "two": -0.01}, "base")
    rows = selection.tabulate_metrics(metrics, ["base", "one", "two"], ["bag_auroc"], against, two)
    assert title_of(draw("slide_metrics", rows, "bag_auroc")).endswith(
        "; no significant difference to base (2 compared)"
    )
    single = selection.tabulate_metrics(metrics, ["base", "one"], ["bag_auroc"], {"one": "base"}, two)
    assert title_of(draw("slide_metrics", single, "bag_auroc")).endswith(
        "; +.02 [-.03, +.07] against base, not significant"
    )
    alone = selection.tabulate_metrics(metrics, ["base"], ["bag_auroc"], {})
    assert title_of(draw("slide_metrics", alone, "bag_auroc")) == ("Slide AUROC: best base, .70 [.65, .75]")
    for empty in (
        selection.tabulate_metrics(metrics.head(0), ["base"], ["bag_auroc"], {}),
        selection.tabulate_metrics(metrics, [], [], {}),
    ):
        assert "No metrics" in title_of(draw("slide_metrics", empty, "bag_auroc"))


def test_difference_columns_stand_beside_an_experiment_without_one() -> None:
    compared = _compared({"up": 0.2}, "base")
    rows = selection.find_to_controls(compared, "bag_auroc", {"up": "base"}, ["base", "up"])
    table = views.difference_columns(rows, "bag_auroc")
    assert table.index.tolist() == ["base", "up"]
    assert table["slide AUROC minus control"].tolist() == ["–", "+.20 [+.15, +.25]"]
    assert table["control"].tolist() == ["–", "base"]
    assert selection.find_to_controls(None, "bag_auroc", {"up": "base"}, ["up"])["difference"].isna().all()
    both = selection.stack_metrics({"bag_auroc": rows, "bag_f1": rows.assign(difference=np.nan)})
    assert both["metric"].tolist() == ["bag_auroc"] * 2 + ["bag_f1"] * 2
    assert selection.stack_metrics({}).empty


def test_placement_draws_each_setting_beside_the_most_common_one() -> None:
    usual = {"placement": "early", "alpha": 0.5, "steps": 10, "spectral_norm": True, "operator": "sm"}
    points = {
        "usual": usual,
        "again": usual,
        "late": usual | {"placement": "late"},
        "learnt": usual | {"alpha": "trainable"},
        "little": usual | {"alpha": 0.1},
        "quick": usual | {"steps": 4},
        "both": usual | {"steps": 4, "alpha": 0.1},
        "walk": usual | {"operator": "random_walk"},
        "lost": usual | {"alpha": 0.9},
    }
    values = {name: 0.7 + 0.01 * number for number, name in enumerate(points) if name != "lost"}
    metrics = _measured(values | {"abmil": 0.6}, "instance_auroc")
    compared = _compared({"late": 0.12, "quick": 0.01}, "abmil", "instance_auroc")
    rows = selection.tabulate_settings(metrics, points, "instance_auroc", "abmil", compared)
    assert rows["experiment"].iloc[0] == "abmil" and rows["placement"].isna().tolist() == [True] + [False] * 9
    figure = draw("placement", rows, "instance_auroc", "abmil")
    assert [axes.get_xlabel() for axes in figure.axes] == ["alpha (0: not smoothed)", "steps T", "operator"]
    ticks = [[text.get_text() for text in axes.get_xticklabels()] for axes in figure.axes]
    assert ticks == [["0.1", "0.5", "trainable"], ["4", "10"], ["sm", "random walk"]]
    assert title_of(figure) == (
        "Cell AUROC of the attention: best with Sm walk, .77 [.72, .82]; 7 settings spread by .07, less than "
        "the typical width of an interval, .10; against abmil 1 of 2 better, most late: +.12 [+.07, +.17]"
    )
    assert "Not drawn, as more than one setting differs: both." in _note(figure)
    # Only the difference that is told is filled.
    markers = [line for line in figure.axes[1].lines if line.get_marker() in style.MARKERS]
    filled = [line.get_ydata()[0] for line in markers if line.get_markerfacecolor() != "white"]
    assert filled == [pytest.approx(0.72)]
    (dashed,) = (line for line in figure.axes[0].lines if line.get_linestyle() == "--")
    assert list(dashed.get_ydata()) == [0.6, 0.6]


def test_placement_of_one_setting_and_of_none() -> None:
    point = {"placement": "mid", "alpha": 0.5, "steps": 10, "spectral_norm": False, "operator": "sm"}
    rows = selection.tabulate_settings(_measured({"one": 0.7}), {"one": point}, "bag_auroc")
    figure = draw("placement", rows, "bag_auroc")
    assert title_of(figure) == "Slide AUROC: best with Sm one, .70 [.65, .75]" and len(figure.axes) == 1
    for given in ({"gone": point}, {}):
        empty = selection.tabulate_settings(_measured({"one": 0.7}), given, "bag_auroc", "one")
        assert "No settings" in title_of(draw("placement", empty, "bag_auroc", "one"))


def _write_attention(path: Path, rows: list[tuple[str, int, float]]) -> Path:
    frame = pd.DataFrame(rows, columns=["slide", "cell", "logit"]).assign(weight=0.1)
    tables.write(path, frame, ATTENTION)
    return path


def test_attention_is_the_mean_over_the_runs_that_hold_the_slide_out(tmp_path: Path) -> None:
    tables.write(
        tmp_path / "cells.parquet",
        pd.DataFrame({"cell": [0, 1, 2, 3], "x_um": [0.0, 1, 2, 3], "y_um": 0.0}),
        POSITIONS,
    )
    labels = pd.DataFrame({"cell": [2, 0, 1], "stage": [0, 2, 1], "iou": 1.0})
    tables.write(tmp_path / "labels.parquet", labels, LABELS)
    runs = {
        "two": [
            _write_attention(tmp_path / "0.parquet", [("s", 2, 1.0), ("s", 0, 3.0), ("other", 0, 9.0)]),
            _write_attention(tmp_path / "1.parquet", [("s", 0, 5.0), ("s", 2, -1.0), ("s", 1, 7.0)]),
        ],
        "elsewhere": [_write_attention(tmp_path / "2.parquet", [("other", 0, 1.0)])],
        "none": [],
    }
    cells = {"s": tmp_path / "cells.parquet"}
    rows = views.attended(cells, {"s": tmp_path / "labels.parquet"}, runs, [2], POSITIONS)
    two = rows[rows["experiment"] == "two"]
    assert two["cell"].tolist() == [0, 1, 2, 3] and two["runs"].tolist() == [2, 1, 2, 0]
    np.testing.assert_allclose(two["logit"], [4, 7, 0, np.nan])
    np.testing.assert_allclose(two["injured"], [0, 1, 1, np.nan])
    others = rows[rows["experiment"] != "two"]
    assert others["logit"].isna().all() and others["runs"].eq(0).all() and len(others) == 8
    unlabelled = views.attended(cells, {}, runs, [2], POSITIONS)
    assert unlabelled["injured"].isna().all()
    assert views.attended({}, {}, runs, [2]).empty


def _cells(slide: str, experiment: str, injured: list[float], logit: list[float]) -> pd.DataFrame:
    count = len(injured)
    frame = pd.DataFrame({"cell": range(count), "x_um": np.arange(count) * 10.0, "y_um": 5.0})
    frame["y_um"] += 7.0 * (frame["cell"] % 3)
    return frame.assign(slide=slide, experiment=experiment, injured=injured, logit=logit, runs=1)


def test_attention_maps_colour_cells_by_rank_and_give_the_auroc_of_each() -> None:
    nan = np.nan
    injured = [0.0, 1, 0, 1, nan, 1]
    logits = {"plain": [5.0, 1, 2, 3, 9, nan], "smooth": [1.0, 4, 2, 4, 0, nan]}
    cells = pd.concat([_cells("s", name, injured, logit) for name, logit in logits.items()])
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=float)
    polygons = {"s": [square + np.array([10.0 * number, 0]) for number in range(6)]}
    figure = draw("attention_maps", cells, polygons)
    known = [0, 1, 2, 3]
    scores = {
        name: roc_auc_score(np.take(injured, known), np.take(logit, known)) for name, logit in logits.items()
    }
    assert scores == {"plain": 0.25, "smooth": 1.0}
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == [
        "truth: 3 of 5 cells injured",
        "plain: AUROC .25",
        "smooth: AUROC 1.00",
    ]
    assert title_of(figure) == (
        "AUROC of the attention on the slide drawn: plain .25, smooth 1.00; smooth is ahead of plain on 1 of "
        "1 (examples: what is significant stands in the table)"
    )
    ranks = summaries.rank_percentiles(logits["plain"])
    np.testing.assert_allclose(ranks, [0.7, 0.1, 0.3, 0.5, 0.9, nan])
    (drawn,) = (one for one in figure.axes[1].collections if isinstance(one, PolyCollection))
    faces = [to_hex(face) for face in drawn.get_facecolor()]
    assert faces[5] == palette.MISSING and len(set(faces)) == 6
    lightness = palette.lightness(np.round(255 * drawn.get_facecolor()[:5, :3]))
    np.testing.assert_array_equal(np.argsort(lightness), np.argsort(ranks[:5]))


def test_attention_maps_cope_with_one_cell_one_kind_and_no_run() -> None:
    for rows, said in (
        (_cells("s", "e", [1.0], [2.0]), "not judged"),
        (_cells("s", "e", [1.0, 1.0], [2.0, 3.0]), "not judged"),
        (_cells("s", "e", [1.0, 0.0], [2.0, 3.0]), "drawn: e .00"),
        (_cells("s", "e", [np.nan] * 3, [2.0, 3.0, 3.0]), "not judged"),
        # All cells in one place.
        (_cells("s", "e", [0.0, 1.0], [2.0, 3.0]).assign(x_um=4.0, y_um=4.0), "drawn: e 1.00"),
    ):
        assert said in title_of(draw("attention_maps", rows, {}))
    nowhere = _cells("s", "e", [1.0, 0.0], [np.nan] * 2)
    assert "No attention maps" in title_of(draw("attention_maps", nowhere, {}))
    beside = pd.concat([nowhere, _cells("s", "f", [1.0, 0.0], [2.0, 1.0])])
    titles = [axes.get_title(loc="left") for axes in draw("attention_maps", beside, {}).axes]
    assert titles[1:3] == ["e: held out by no run", "f: AUROC 1.00"]
    assert "No attention maps" in title_of(draw("attention_maps", beside.head(0), {}))


def _spectrum(shares: dict[str, list[float]], signal: str = "raw", **more: Any) -> pd.DataFrame:
    """Of each slide the share of power in [0, .25), [.25, .5), the rest in [.5, 2]."""
    parts = []
    for slide, (low, middle) in shares.items():
        frame = pd.DataFrame({"low": [0, 0.25, 0.5], "high": [0.25, 0.5, 2.0]})
        frame["share"] = [low, middle, 1 - low - middle]
        parts.append(
            frame.assign(
                slide=slide, animal=slide, **({"experiment": "e", "signal": signal, "energy": 1.0} | more)
            )
        )
    return pd.concat(parts, ignore_index=True)[
        ["experiment", "signal", "slide", "animal", "low", "high", "share", "energy"]
    ]


def test_spectrum_sums_low_frequencies_per_slide_and_relates_them_to_localisation() -> None:
    rng = np.random.default_rng(0)
    slides = {f"s{number}": [0.1 + 0.02 * number, 0.1] for number in range(12)}
    raw = _spectrum(slides)
    smooth = _spectrum({name: [low + 0.3, 0.2] for name, (low, _) in slides.items()}, "smoothed", energy=0.4)
    auroc = {name: rng.uniform(0.4, 1.0) for name in slides}
    table = pd.concat([raw, smooth])
    table["instance_auroc"] = table["slide"].map(auroc)
    per_slide = summaries.summarise_spectra(table)
    first = per_slide[(per_slide["slide"] == "s3") & (per_slide["signal"] == "smoothed")]
    np.testing.assert_allclose(first[["low_share", "energy"]], [[0.66, 0.4]])
    bands = summaries.average_bands(table)
    rows = bands[(bands["signal"] == "raw") & (bands["low"] == 0)]
    assert rows["share"].item() == pytest.approx(np.mean([low for low, _ in slides.values()]))
    assert rows["share_low"].item() < rows["share"].item() < rows["share_high"].item()
    own = per_slide[per_slide["signal"] == "raw"]
    rho = summaries.correlate(own["low_share"], own["instance_auroc"], own["animal"])
    assert rho.value == pytest.approx(spearmanr(own["low_share"], own["instance_auroc"]).statistic)
    figure = draw("spectrum", table)
    assert title_of(figure).startswith(
        "Sm moves the share of power below eigenvalue 0.5 from 31 % to 71 % (+40 points [+40, +40], 12 "
        f"slides of e); low frequencies against cell AUROC: rho e {rho}"
    )
    assert "e raw 1.00, smoothed .40." in _note(figure)
    assert "no interval on one side of 0" in title_of(figure)
    related = table.assign(
        instance_auroc=table["slide"].map({name: low for name, (low, _) in slides.items()})
    )
    assert title_of(draw("spectrum", related)).endswith("rho e 1.00 [1.00, 1.00], a relation for e")


def test_spectrum_of_few_slides_and_of_none() -> None:
    table = _spectrum({"s0": [0.2, 0.1], "s1": [0.3, 0.1]}).assign(instance_auroc=[0.5] * 3 + [np.nan] * 3)
    figure = draw("spectrum", table)
    assert title_of(figure) == "Too few slides to relate it to cell AUROC"
    constant = summaries.correlate([1.0, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], range(4))
    assert np.isnan(constant.value) and np.isnan(constant.low)
    for empty in (table.head(0), table.assign(share=np.nan)):
        assert "No spectrum" in title_of(draw("spectrum", empty))


def _borders(experiment: str, border: str, correct: list[float], edges: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame({"low_um": edges[:-1], "high_um": edges[1:], "correct": correct})
    frame = frame.assign(experiment=experiment, border=border, cells=10, slides=4)
    frame["correct_low"], frame["correct_high"] = frame["correct"] - 0.05, frame["correct"] + 0.05
    return frame


def test_borders_names_where_smoothing_hurts_and_joins_bands_that_touch() -> None:
    edges = [-40.0, -20, 0, 20, 40]
    table = pd.concat(
        [
            _borders("plain", "sharp", [0.8, 0.8, 0.8, 0.8], edges),
            _borders("plain", "diffuse", [0.8, 0.8, 0.8, 0.8], edges),
            _borders("smooth", "sharp", [0.8, 0.5, 0.5, 0.95], edges),
            _borders("smooth", "diffuse", [0.5, 0.8, np.nan, 0.75], edges),
            # Of the two kinds together nothing is said beside them.
            _borders("smooth", "all", [0.1, 0.1, 0.1, 0.1], edges),
        ]
    )
    figure = draw("borders", table, "plain", ["smooth"])
    assert title_of(figure) == (
        "Smoothing against plain: smooth hurts in 3 of 7 bands: -20 to 20 µm (sharp), -40 to -20 µm "
        "(diffuse); smooth helps in 1 of 7 bands: 20 to 40 µm (sharp)"
    )
    assert len(figure.axes) == 2 and figure.axes[0].get_title(loc="left").startswith("sharp border")
    # A difference is none while the intervals touch.
    near = table.assign(correct=0.8, correct_low=0.75, correct_high=0.85)
    assert title_of(draw("borders", near, "plain", ["smooth"])) == (
        "Smoothing against plain: smooth hurts in no band"
    )


def test_borders_without_end_of_one_experiment_and_of_none() -> None:
    table = _borders("plain", "all", [0.7, 0.8, 0.9], [-np.inf, -10, 10, np.inf])
    figure = draw("borders", table, "plain", ["smooth"])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), [-20, 0, 20])
    assert title_of(figure).endswith("plain is compared with nothing")
    worse = _borders("smooth", "all", [0.4, 0.8, 0.6], [-np.inf, -10, 10, np.inf])
    both = draw("borders", pd.concat([table, worse]), "plain", ["smooth"])
    assert title_of(both).endswith("smooth hurts in 2 of 3 bands: below -10 µm, above 10 µm")
    for empty in (table.head(0), table.assign(correct=np.nan), table.assign(experiment="else")):
        assert "No borders" in title_of(draw("borders", empty, "plain", ["smooth"]))


def _history(experiment: str, ends: list[float], **columns: Any) -> pd.DataFrame:
    """Runs of 20 steps whose reconstruction is 9 but for its last two steps."""
    parts = []
    for run, end in enumerate(ends):
        step = np.arange(20)
        loss = np.where(step < 18, 9.0, end)
        frame = pd.DataFrame({"phase": 0, "step": step, "spatial_reconstruction": loss, "conflict": np.nan})
        parts.append(frame.assign(experiment=experiment, run=run, **columns))
    return pd.concat(parts, ignore_index=True)


def test_reconstruction_is_the_mean_over_the_last_tenth_of_steps() -> None:
    histories = pd.concat([_history("a", [0.29, 0.31]), _history("a-p", [0.59, 0.61]), _history("b", [0.3])])
    rows = summaries.tabulate_reconstruction(histories, {"a": "a-p", "b": "gone"})
    assert rows["coordinates"].tolist() == ["true", "permuted"] * 2 and rows["runs"].tolist() == [2, 2, 1, 0]
    np.testing.assert_allclose(rows["loss"], [0.3, 0.6, 0.3, np.nan])
    # t of one degree of freedom, 12.7; of one run nothing is known.
    half = 12.706 * 0.01
    np.testing.assert_allclose(rows["low"], [0.3 - half, 0.6 - half, np.nan, np.nan], rtol=1e-3)
    differences = {
        "bag_auroc": selection.find_to_controls(
            _compared({"a": 0.2}, "a-p"), "bag_auroc", {"a": "a-p"}, ["a", "b"]
        ),
        "instance_auroc": selection.find_to_controls(None, "instance_auroc", {"a": "a-p"}, ["a", "b"]),
    }
    figure = draw("control", rows, differences)
    assert title_of(figure) == (
        "Reconstruction loss .30 [.17, .43] with true coordinates, .60 [.47, .73] permuted; slide AUROC: "
        "+.20 [+.15, +.25] against permuted coordinates, significant"
    )
    assert len(figure.axes) == 2 and {"permuted: no run", "not compared"} <= set(_texts(figure))
    both = summaries.tabulate_reconstruction(histories, {"a": "a-p", "a-p": "a"})
    assert title_of(draw("control", both, {})) == (
        "True coordinates reconstruct better in 1 of 2 settings and worse in 1 (intervals apart)"
    )


def test_control_without_runs_says_so() -> None:
    empty = pd.DataFrame(columns=["experiment", "run", *HISTORY.schema.names])
    for pairs in ({"a": "b"}, {}):
        rows = summaries.tabulate_reconstruction(empty, pairs)
        assert "No control" in title_of(draw("control", rows, {}))


def test_conflict_tells_opposition_only_where_the_interval_excludes_0() -> None:
    opposed, unclear = _history("opposed", [0, 0, 0]), _history("unclear", [0, 0, 0])
    single, without = _history("single", [0]), _history("without", [0, 0])
    # Measured at every fourth step: below 0 at three of five.
    cosine = {0: -0.8, 4: -0.4, 8: -0.6, 12: 0.2, 16: 0.1}
    opposed["conflict"] = opposed["step"].map(cosine) + 0.01 * opposed["run"]
    unclear["conflict"] = unclear["step"].map(cosine).abs() * (unclear["run"] - 1)
    single["conflict"] = single["step"].map(cosine)
    histories = pd.concat([opposed, unclear, single, without])
    table = summaries.summarise_conflicts(histories).set_index("experiment")
    assert table.index.tolist() == ["opposed", "unclear", "single"]
    np.testing.assert_allclose(
        table.loc["opposed", ["cosine", "low", "high", "below"]].astype(float),
        [-0.29, -0.315, -0.265, 0.6],
        atol=5e-4,
    )
    assert table.loc["opposed", ["runs", "steps"]].tolist() == [3, 5]
    figure = draw("conflict", histories)
    assert title_of(figure) == (
        "Gradients of SupCR and the cell term: opposed: they oppose each other (mean cosine -.29 [-.31, "
        "-.27], below 0 at 60 % of steps); unclear: the interval holds 0 (mean cosine .00 [-1.00, +1.00], "
        "below 0 at 33 % of steps); single: no interval of a single run (mean cosine -.30, below 0 at 60 "
        "% of steps)"
    )
    curves = summaries.smooth_conflicts(histories)
    np.testing.assert_allclose(curves.loc[curves["experiment"] == "opposed", "cosine"].iloc[0], -0.79)
    for empty in (without, histories.head(0)):
        assert "No gradient conflict" in title_of(draw("conflict", empty))


def _algebra(experiment: str, ranks: list[int]) -> pd.DataFrame:
    frame = pd.DataFrame({"rank": ranks, "slide": [f"s{number}" for number in range(len(ranks))]})
    frame = frame.assign(experiment=experiment, fold=0, candidates=4, others=0.4, rank_p=4)
    frame["animal"] = frame["slide"]
    both = pd.concat([frame.assign(seed=seed, own=0.5 + 0.2 * seed) for seed in range(2)])
    return both[ALGEBRA.schema.names]


def test_algebra_is_beyond_chance_where_the_interval_lies_above_it() -> None:
    table = pd.concat([_algebra("none", [1, 2, 3, 4] * 3), _algebra("near", [1] * 11 + [2])])
    figure = draw("algebra", table, summary(table))
    assert title_of(figure).startswith(
        "z_W + z_P predicts z_I of its own slide beyond chance in 1 of 2: near beyond chance (reciprocal "
        "rank .96"
    )
    assert "none the interval holds chance (reciprocal rank .52" in title_of(figure)
    chance = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_linewidth() == 2]
    np.testing.assert_allclose(chance, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert "z_P alone .25" in title_of(figure)
    hollow = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_markerfacecolor() == "white"]
    np.testing.assert_allclose(hollow, [0.25, 0.25])
    points = summaries.average_algebra(table)
    assert len(points) == 24 and points["own"].eq(0.6).all()
    worse = _algebra("far", [4] * 6)
    assert "far worse than chance" in title_of(draw("algebra", worse, summary(worse)))
    single = _algebra("single", [1])
    assert "single the interval holds chance" in title_of(draw("algebra", single, summary(single)))
    empty = table.head(0)
    assert "No latent algebra" in title_of(draw("algebra", empty, summary(empty)))


def test_long_names_and_many_experiments_are_drawn_without_overlap() -> None:
    labels = [f"smap[placement=late,alpha={number}]" for number in range(30)]
    metrics = _measured({name: 0.5 + 0.01 * number for number, name in enumerate(labels)})
    rows = selection.tabulate_metrics(metrics, labels, ["bag_auroc"], {})
    figure = draw("slide_metrics", rows, "bag_auroc")
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


def test_the_control_of_the_study_tables_shows_no_difference(tmp_path: Path) -> None:
    made = study_tables.Made(tmp_path, {"d0_a1": "d0"})
    study_tables._neighbour_metrics(np.random.default_rng(0), made)
    compared = tables.read(made.study("slide_comparisons"), COMPARISONS)
    rows = selection.find_to_controls(compared, "bag_auroc", {"srmil": "srmil-permuted"}, ["srmil"])
    (row,) = rows.itertuples()
    assert judge("bag_auroc", row.difference, row.p_holm, 0.05) == "not significant"
