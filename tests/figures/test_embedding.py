"""Checks pass and fail where they should, figures say the numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from myostage import tables
from myostage.cells.tables import LABELS
from myostage.evaluation import checks, geometry, summaries
from myostage.evaluation.geometry import Purity
from myostage.evaluation.tables import CORRELATIONS, GRADIENTS, SCORES, SIMILARITIES
from myostage.figures import embedding
from myostage.learning.stages import similarity
from myostage.learning.tables import SPLITS, predictions_table
from myostage.report import drawing
from support import study_tables
from support.figures import draw, title_of

ROOT = Path(__file__).resolve().parents[2]
STAGES = list(study_tables.STAGES)
K = len(STAGES)
GIVEN = study_tables.GIVEN


def gradient_table() -> pd.DataFrame:
    names = ["attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias", "norm1.weight"]
    names += ["norm1.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight"]
    names += ["mlp.fc2.bias"]
    names = [f"suffix.blocks.3.{name}" for name in names] + ["suffix.norm.weight", "suffix.norm.bias"]
    names += [f"head.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")]
    parts = ["attention"] * 4 + ["norm"] * 4 + ["mlp"] * 4 + ["norm"] * 2 + ["head"] * 6
    frame = pd.concat(
        [pd.DataFrame({"loss": loss, "parameter": names, "part": parts}) for loss in ("simprop", "prop")],
        ignore_index=True,
    )
    rng = np.random.default_rng(0)
    frame["norm"] = np.exp(rng.normal(-4, 2, len(frame)))
    frame.loc[(frame["loss"] == "simprop") & (frame["part"] == "head"), "norm"] = 0.0
    frame["slope"] = frame["norm"] * rng.normal(size=len(frame))
    frame["finite_difference"] = frame["slope"] + 1e-8 * frame["norm"] * rng.normal(size=len(frame))
    return frame


def stage_cosines() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(1)
    rows = []
    for experiment, order in (("frozen", 0.05), ("combined", 0.6)):
        noise = rng.normal(scale=0.03, size=(K, K))
        cosine = 0.3 + order * similarity(K) + (noise + noise.T) / 2
        cosine[0, 3] = cosine[3, 0] = np.nan
        for a, b in np.ndindex(K, K):
            expected = similarity(K)[a, b]
            rows.append((experiment, a, b, cosine[a, b], expected))
    table = pd.DataFrame(rows, columns=SIMILARITIES.schema.names)
    rho = [("frozen", 0.41, -0.05, 0.7, 15, 4573), ("combined", 0.93, 0.85, 0.97, 15, 4573)]
    return table, pd.DataFrame(rho, columns=CORRELATIONS.schema.names)


def _verdict(figure: Any) -> str:
    return str(figure.get_supxlabel()).replace("\n", " ")


def test_gradients_pass_only_where_every_attention_parameter_is_reached() -> None:
    table = gradient_table()
    assert checks.reaches_attention(table).passed is True
    assert "(4 of 4)" in str(checks.reaches_attention(table))
    unreached = table.copy()
    unreached.loc[1, ["norm", "slope", "finite_difference"]] = 0.0
    check = checks.reaches_attention(unreached)
    assert str(check) == "FAIL: L_SimProp's gradient does not reach suffix.blocks.3.attn.qkv.bias."
    # Of L_prop, an attention parameter without a gradient is a choice (head_gradient: detached).
    detached = table.copy()
    detached.loc[detached["loss"] == "prop", ["norm", "slope", "finite_difference"]] = 0.0
    assert checks.reaches_attention(detached).passed is True
    for wrong in (table["slope"] * 1.01 + 1e-3, np.nan):
        off = table.copy()
        off.loc[25, "finite_difference"] = wrong[25] if isinstance(wrong, pd.Series) else wrong
        check = checks.reaches_attention(off)
        assert check.passed is False and off.loc[25, "parameter"] in check.reason
    assert checks.reaches_attention(table[table["part"] != "attention"]).passed is None


def test_disagreement_is_relative_to_the_norm() -> None:
    rows = [(2.0, 0.1, 0.1002), (0.0, 0.0, 0.0), (0.0, 0.0, 0.5), (0.1, 4.0, 2.0)]
    table = pd.DataFrame(rows, columns=["norm", "slope", "finite_difference"])
    np.testing.assert_allclose(checks.disagreement(table), [1e-4, 0, 1, 0.5], rtol=1e-9)


def test_figure_of_gradients_says_norms_and_agreement() -> None:
    table = gradient_table()
    figure = draw("gradients", table)
    attention = table[(table["loss"] == "simprop") & (table["part"] == "attention")]["norm"]
    assert f"norm {np.sqrt((attention**2).sum()):.2g} by L_SimProp" in title_of(figure)
    assert _verdict(figure).startswith("PASS: L_SimProp's gradient reaches every attention parameter")
    left = figure.axes[0]
    # Three parts have a bar by L_SimProp, whose gradient leaves the head alone, and four by L_prop.
    assert len(left.patches) == 7 and "0" in [text.get_text() for text in left.texts]


def test_the_expected_stage_rises_after_injury() -> None:
    frame = summaries.list_expected_stages(GIVEN)
    assert frame["day"].tolist() == [0, 3, 7, 14]
    assert frame["expected"].tolist() == pytest.approx([4, 0.41, 1.77, 2.96])
    check = checks.rises(GIVEN)
    assert check.passed is True and "day 0 is a reference" in check.reason
    # The order of the table does not matter, nor does what is written around the number.
    shuffled = {f"post-injury {name[1:]} days": GIVEN[name] for name in ("d14", "d3", "d0", "d7")}
    assert checks.rises(shuffled).passed is True


def test_the_day_that_breaks_the_rise_is_named() -> None:
    broken = GIVEN | {"d10": [0.2, 0.6, 0.2, 0.0, 0.0]}
    check = checks.rises(broken)
    assert check.passed is False
    assert "does not rise from day 7 (1.77) to day 10 (1.00)" in check.reason
    level = GIVEN | {"d21": GIVEN["d14"]}
    assert "from day 14 (2.96) to day 21 (2.96)" in checks.rises(level).reason
    # Two groups of one day are not compared with one another.
    twin = GIVEN | {"d7_treated": [0.3, 0.3, 0.4, 0.0, 0.0]}
    assert checks.rises(twin).passed is True


def test_groups_without_a_day_stand_in_the_order_of_the_table() -> None:
    named = {"early": [0.8, 0.2], "middle": [0.5, 0.5], "late": [0.1, 0.9]}
    check = checks.rises(named)
    assert check.passed is True and "table's order" in check.reason
    assert summaries.list_expected_stages(named)["group"].tolist() == list(named)
    backwards = dict(reversed(named.items()))
    assert "from late (.90) to middle (.50)" in checks.rises(backwards).reason
    assert checks.rises({"d0": [0.0, 1.0], "d3": [1.0, 0.0]}).passed is None
    assert checks.rises({}).passed is None


def test_figure_of_biology(tmp_path: Path) -> None:
    made = study_tables.make(tmp_path, cells=20)
    scores = tables.read(made.study("scores"), SCORES)
    rows = summaries.average_stages(scores, GIVEN, STAGES, "combined")
    share = np.stack(scores["proportions"])
    wanted = dict(zip(scores["animal"], share @ np.arange(K), strict=True))
    assert rows.set_index("animal")["predicted"].to_dict() == pytest.approx(wanted)
    figure = draw("biology", scores, GIVEN, STAGES, "combined")
    assert "from .41 at d3 to 2.96 at d14" in title_of(figure)
    assert _verdict(figure).startswith("PASS")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "3", "7", "14"]
    named = {f"{letter}": share for letter, share in zip("abcd", GIVEN.values(), strict=True)}
    figure = draw("biology", scores, named, STAGES, "absent")
    assert _verdict(figure).startswith("FAIL") and "predicted" not in title_of(figure)


def test_similarity_passes_where_the_interval_lies_above_zero() -> None:
    _, rho = stage_cosines()
    check = checks.follows_similarity(rho, ["frozen", "combined"])
    assert check.passed is True and "higher than before (.93 against .41 of frozen)" in check.reason
    check = checks.follows_similarity(rho, ["combined", "frozen"])
    assert check.passed is False and "not higher" in check.reason and "[-.05, .70]" in check.reason
    assert "before" not in checks.follows_similarity(rho, ["combined"]).reason
    assert checks.follows_similarity(rho, ["frozen", "gone"]).passed is None
    assert checks.follows_similarity(rho.assign(low=np.nan), ["combined"]).passed is None


def test_figure_of_similarities() -> None:
    table, rho = stage_cosines()
    captions = {"frozen": "before training", "gone": "failed", "combined": "after training"}
    figure = draw("similarity", table, rho, captions, STAGES)
    assert "rho is .93 [.85, .97] after training, .41 [-.05, .70] before training" in title_of(figure)
    assert len(figure.axes) == 4  # three matrices and the scale
    assert "–" in [text.get_text() for text in figure.axes[2].texts]
    empty = draw("similarity", table.head(0), rho.head(0), captions, STAGES)
    assert "No similarity" in title_of(empty)


def test_title_of_the_embedding_names_what_orders_it() -> None:
    def said(stage: float, animal: float, within: tuple[float, float]) -> str:
        found = {"stage": Purity(stage, 0.2), "animal": Purity(animal, 0.3)}
        found["stage within animal"] = Purity(0.6, within[0])
        found["animal within stage"] = Purity(0.6, within[1])
        return embedding._organised_by(found, "x")

    # Animals that differ in their stages only are not what orders the embedding.
    text = said(0.6, 0.9, (0.3, 0.58))
    assert "60 % share its stage (20 % by chance) and 90 % its animal (30 % by chance)" in text
    assert text.endswith("; stage orders them more than the animal does, each within the other")
    assert said(0.9, 0.6, (0.58, 0.3)).endswith(
        "the animal orders them more than stage does, each within the other"
    )
    # Where every animal has one stage, there is no within.
    assert said(0.9, 0.6, (1.0, 0.3)).endswith("stage orders them more than the animal does")


def test_too_few_cells_make_no_map() -> None:
    cells = pd.DataFrame({"slide": ["a"] * 2, "cell": [0, 1], "stage": [0, 1], "animal": ["x", "y"]})
    none = geometry.purities(np.eye(2), cells)
    figure = draw("embedding", cells, geometry.plane(np.eye(2)), none, STAGES, "combined")
    assert "no map" in title_of(figure)


def write_predictions(path: Path, made: study_tables.Made) -> None:
    """Embeddings that order stages and differ a little between animals."""
    rng = np.random.default_rng(4)
    parts = []
    for number, slide in enumerate(list(made.groups)[::2]):
        labels = tables.read(made.of("labels")[slide], LABELS)
        vectors = rng.normal(scale=0.25, size=(len(labels), 12))
        vectors[:, 0] += np.cos(0.6 * labels["stage"])
        vectors[:, 1] += np.sin(0.6 * labels["stage"])
        vectors[:, 2 + number] += 0.3
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        frame = pd.DataFrame({"slide": slide, "cell": labels["cell"], "stage": 0, "embedding": list(unit)})
        frame["probabilities"] = [np.full(K, 1 / K, np.float32)] * len(frame)
        parts.append(frame)
    table = predictions_table(K)
    tables.write(path, pd.concat(parts)[table.schema.names], table)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    made = study_tables.make(folder, cells=120)
    splits = pd.DataFrame({"slide": list(made.groups), "group": list(made.groups.values())})
    splits["animal"], splits["cells"], splits["fold"] = splits["slide"], 118, 0
    tables.write(folder / "splits.parquet", splits, SPLITS)
    tables.write(folder / "gradients.parquet", gradient_table(), GRADIENTS)
    for name, frame, table in zip(
        ("similarities", "correlations"),
        stage_cosines(),
        (SIMILARITIES, CORRELATIONS),
        strict=True,
    ):
        tables.write(folder / f"{name}.parquet", frame, table)
    write_predictions(folder / "predictions.parquet", made)
    captions = {"frozen": "before training (frozen)", "combined": "after training (combined)"}
    return {
        "gradients": {"gradients": made.study("gradients")},
        "biology": {
            "scores": made.study("scores"),
            "given": GIVEN,
            "stages": STAGES,
            "experiment": "combined",
        },
        "similarity": {
            "similarities": made.study("similarities"),
            "correlations": made.study("correlations"),
            "experiments": captions,
            "stages": STAGES,
        },
        "embedding": {
            "predictions": made.study("predictions"),
            "labels": made.of("labels"),
            "splits": made.study("splits"),
            "stages": STAGES,
            "experiment": "combined",
            "cells": 200,
        },
    }


@pytest.mark.parametrize("key", ["gradients", "biology", "similarity", "embedding"])
def test_a_figure_is_written_with_its_numbers(
    key: str, arguments: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    drawing.write(drawing.make(key, arguments[key], {}), tmp_path / key)
    assert {file.name for file in tmp_path.iterdir()} == {f"{key}.{kind}" for kind in ("png", "svg", "csv")}
    assert not pd.read_csv(tmp_path / f"{key}.csv").empty
    if key != "embedding":
        assert "PASS" in (tmp_path / f"{key}.svg").read_text(encoding="utf-8")
