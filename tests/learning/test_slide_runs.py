"""Runs of models of slide labels on cells whose kind is known: learning, resuming, failing, odd slides."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from myostage import tables
from myostage.cells.tables import POSITIONS
from myostage.errors import UserError
from myostage.features import tokens
from myostage.learning import mil, runs, slide_runs
from myostage.learning.tables import ATTENTION, HISTORY, OUTCOME, SLIDE_PREDICTIONS, SPLITS
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import NOT_IN_TOKENS, Architecture, Encoder
from myostage.study.sections.graph import Graph
from myostage.study.sections.mil import Mil
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.training import Training

TOKENS, WIDTH = 5, 16
ENCODER = Encoder(
    model=None, architecture=Architecture(patch_px=16, width=WIDTH, depth=2, heads=2), weights="none"
)
READY_MADE = Encoder(model="camelyon16/UNI", weights="none")
LABELS = {
    "injured": SlideLabel(kind="binary", classes={"uninjured": ("d0",), "injured": ("d3", "d7")}),
    "day": SlideLabel(kind="ordinal", classes={"d0": ("d0",), "d3": ("d3",), "d7": ("d7",)}),
    "kind": SlideLabel(kind="multiclass", classes={"d0": ("d0",), "d3": ("d3",), "d7": ("d7",)}),
}
# Share of a slide's cells that are injured, by its day.
INJURED = {"d0": 0.0, "d3": 0.4, "d7": 0.8}
SLIDES = {f"{day}_a{animal}": day for animal in range(4) for day in INJURED}
NEIGHBOURS = 4
SRMIL = {"slide": 0.2, "slide_masked": 0.2, "spatial_reconstruction": 1.8}
FILES = {
    "predictions.parquet": SLIDE_PREDICTIONS,
    "attention.parquet": ATTENTION,
    "history.parquet": HISTORY,
    "outcome.parquet": OUTCOME,
}


@dataclass(frozen=True)
class Bench:
    """Splits, tokens and places of slides in a folder; even animals are held out by fold 0."""

    folder: Path
    tokens: dict[str, Path] = field(default_factory=dict)
    cells: dict[str, Path] = field(default_factory=dict)
    injured: dict[str, np.ndarray] = field(default_factory=dict)
    rows: list[tuple[str, str, str, int, int]] = field(default_factory=list)

    def add(
        self,
        slide: str,
        injured: np.ndarray,
        fold: int,
        places: np.ndarray | None = None,
        encoder: Encoder = ENCODER,
    ) -> None:
        """A slide with cells 0, 2, 4, ..., as after dropped crops; its table of places is in no order."""
        seed = int.from_bytes(slide.encode()) % 2**32
        rng = np.random.default_rng(seed)
        n = len(injured)
        places = rng.uniform(0, 100, (n, 2)) if places is None else places
        directions = np.random.default_rng(5).normal(size=(2, WIDTH))
        count = 1 if encoder == READY_MADE else TOKENS
        values = directions[injured][:, None] + rng.normal(scale=0.5, size=(n, count, WIDTH))
        self.tokens[slide] = self.folder / f"{slide}.parquet"
        described = {"encoder": encoder.model_dump_json(exclude=NOT_IN_TOKENS)}
        with tokens.writer(self.tokens[slide], tokens=count, width=WIDTH, metadata=described) as out:
            out.write(np.arange(n, dtype=np.int32) * 2, torch.from_numpy(values.astype(np.float16)))
        self.cells[slide] = self.folder / f"{slide}-positions.parquet"
        table = pd.DataFrame({"cell": np.arange(2 * n), "x_um": 1e6, "y_um": 1e6})
        table.loc[::2, ["x_um", "y_um"]] = places
        tables.write(self.cells[slide], table.sample(frac=1, random_state=seed), POSITIONS)
        self.injured[slide] = injured
        self.rows.append((slide, SLIDES.get(slide, ""), slide, n, fold))

    def run(self, spec: RunSpec, name: str, **options: Any) -> Path:
        """Train ``spec`` below ``name`` and return that folder."""
        out = self.folder / name
        splits = self.folder / f"{name}-splits.parquet"
        frame = pd.DataFrame(self.rows, columns=["slide", "group", "animal", "cells", "fold"])
        tables.write(splits, frame, SPLITS)
        slide_runs.train_slide_run(
            spec,
            **{
                "classes": classes_of(spec),
                "splits": splits,
                "tokens": self.tokens,
                "cells": self.cells,
                "model_out": out / "model.safetensors",
                "history_out": out / "history.parquet",
                "predictions_out": out / "predictions.parquet",
                "attention_out": out / "attention.parquet",
                "outcome_out": out / "outcome.parquet",
                "checkpoint_dir": out / "checkpoint",
                "device": "cpu",
                "threads": 1,
                "made_by": "test",
            }
            | options,
        )
        return out

    def copy(self) -> "Bench":
        """The same slides, to which others may be added."""
        return replace(
            self,
            tokens=dict(self.tokens),
            cells=dict(self.cells),
            injured=dict(self.injured),
            rows=list(self.rows),
        )


def fill(bench: Bench, encoder: Encoder = ENCODER) -> Bench:
    """Four animals of each day, one slide that is staged only and one without cells, which has no files."""
    for number, (slide, day) in enumerate(SLIDES.items()):
        n = 14 + number
        injured = (np.arange(n) < round(INJURED[day] * n)).astype(int)
        bench.add(slide, np.random.default_rng(number).permutation(injured), number // 3 % 2, encoder=encoder)
    bench.add("other", np.ones(9, int), -1, encoder=encoder)
    bench.rows.append(("empty", "d3", "empty", 0, -1))
    return bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return fill(Bench(tmp_path_factory.mktemp("slides")))


def classes_of(spec: RunSpec) -> dict[str, int]:
    assert spec.label is not None
    number = {day: place for place, days in enumerate(spec.label.classes.values()) for day in days}
    return {slide: number[day] for slide, day in SLIDES.items()}


def spec_of(
    model: str = "smap",
    *,
    label: str = "injured",
    losses: Mapping[str, float] | None = None,
    encoder: Encoder = ENCODER,
    graph: Mapping[str, Any] | None = None,
    seed: int = 3,
    mil: Mapping[str, Any] | None = None,
    **training: Any,
) -> RunSpec:
    settings = {"steps": 16, "checkpoint_every": 5, "learning_rate": 1e-2} | training
    sizes = {"attention_width": 8, "width": 4, "heads": 2, "smooth_steps": 3} | dict(mil or {})
    return RunSpec.model_validate(
        {
            "method": "slide",
            "losses": losses or (SRMIL if model == "srmil" else {"slide": 1.0}),
            "training": Training(**settings).model_dump(),
            "encoder": encoder.model_dump(),
            "mil": Mil(model=model, label=label, **sizes).model_dump(),
            "label": LABELS[label].model_dump(),
            "graph": Graph(**{"neighbours": NEIGHBOURS} | dict(graph or {})).model_dump(),
            "folds": 2,
            "fold": 0,
            "seed": seed,
        }
    )


def read(out: Path, name: str) -> pd.DataFrame:
    return tables.read(out / f"{name}.parquet", FILES[f"{name}.parquet"])


def same_model(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


def features_of(bench: Bench, slide: str, encoder: Encoder = ENCODER) -> torch.Tensor:
    store = runs.token_store(bench.tokens[slide])
    if encoder == READY_MADE:
        return store.read()[:, 0]
    with torch.no_grad():
        return runs.suffix_of(encoder).eval()(store.read().float()).half()


# --- learning


@pytest.mark.parametrize(
    ("model", "label", "mil"),
    [
        ("mean", "injured", {}),
        ("max", "injured", {}),
        ("smap", "injured", {"placement": "early"}),
        ("smap", "injured", {"placement": "late", "alpha": "trainable"}),
        ("smap", "injured", {"placement": "mid", "spectral_norm": False}),
        ("mean", "day", {}),
        ("mean", "kind", {}),
        ("smtap", "injured", {"layers": 1}),
        ("srmil", "injured", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_label_that_can_be_told_is_learnt_for_slides_held_out(
    bench: Bench, model: str, label: str, mil: dict[str, Any]
) -> None:
    steps, rate = (80, 2e-2) if label == "injured" else (200, 0.1)
    spec = spec_of(model, label=label, mil=mil, steps=steps, learning_rate=rate)
    out = bench.run(spec, f"learn-{spec.id}")
    found = read(out, "predictions")
    held_out = [slide for slide in SLIDES if int(slide[-1]) % 2 == 0]
    assert sorted(found["slide"]) == sorted([*held_out, "other"]), "no slide without cells, none learnt from"
    known = found[found["slide"] != "other"]
    classes = classes_of(spec)
    assert known["label"].tolist() == [classes[slide] for slide in known["slide"]]
    assert (known["predicted"] == known["label"]).all()
    assert found.set_index("slide").loc["other", "label"] == slide_runs.NO_CLASS
    probabilities = np.stack(found["probabilities"])
    assert probabilities.shape == (len(found), len(LABELS[label].classes))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(probabilities.argmax(1), found["predicted"])
    attention = read(out, "attention")
    for row in found.itertuples():
        own = attention[attention["slide"] == row.slide]
        assert own["cell"].tolist() == list(range(0, 2 * row.cells, 2))
        assert row.cells == len(bench.injured[row.slide])
        weights = np.exp(own["logit"].astype(float) - own["logit"].max())
        np.testing.assert_allclose(own["weight"], weights / weights.sum(), rtol=1e-5)
        assert row.energy == pytest.approx(energy(bench, row.slide, own["logit"].to_numpy()), abs=1e-5)
    told = read(out, "history")
    assert told["step"].tolist() == list(range(steps)) and set(told["phase"]) == {0}
    filled = {"phase", "step", "loss", *spec.losses, "learning_rate", "gradient_norm"}
    assert {name for name in told.columns if told[name].notna().all()} == filled
    assert told[[*set(told.columns) - filled]].isna().all(axis=None)
    weighed = sum(weight * told[term] for term, weight in spec.losses.items())
    np.testing.assert_allclose(told["loss"], weighed, rtol=1e-5)
    cost = read(out, "outcome").iloc[0]
    assert (cost["run"], cost["status"], cost["steps"]) == (spec.id, "ok", steps)
    assert not (out / "checkpoint").exists()
    with safe_open(out / "model.safetensors", "pt") as file:
        assert RunSpec.model_validate_json(file.metadata()["spec"]) == spec


def energy(bench: Bench, slide: str, logits: np.ndarray) -> float:
    """Mean squared difference of standardised logits between neighbours, pair by pair."""
    table = tables.read(bench.cells[slide], POSITIONS).set_index("cell")
    n = len(logits)
    at = table.loc[range(0, 2 * n, 2), ["x_um", "y_um"]].to_numpy(float)
    pairs = set()
    for i in range(n):
        away = sorted((float(np.hypot(*(at[i] - at[j]))), j) for j in range(n) if j != i)
        pairs |= {tuple(sorted((i, j))) for _, j in away[:NEIGHBOURS]}
    u = logits.astype(float)
    u = (u - u.mean()) / u.std()
    return float(np.mean([(u[i] - u[j]) ** 2 for i, j in pairs]))


def test_attention_finds_the_injured_cells(bench: Bench) -> None:
    spec = spec_of("max", steps=80, learning_rate=2e-2)
    attention = read(bench.run(spec, "attends"), "attention")
    own = attention[attention["slide"] == "d3_a2"]["weight"].to_numpy()
    injured = bench.injured["d3_a2"] == 1
    assert own[injured].min() > own[~injured].max()


def test_a_run_of_the_same_seed_leaves_the_same_bytes(bench: Bench) -> None:
    one, other = (bench.run(spec_of("srmil"), name) for name in ("one", "other"))
    assert same_model(one, other)
    for name in ("history.parquet", "predictions.parquet", "attention.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert not same_model(one, bench.run(spec_of("srmil", seed=4), "other-seed"))


def test_labels_of_held_out_slides_change_no_model(bench: Bench) -> None:
    spec = spec_of("smap")
    known = bench.run(spec, "right-labels")
    classes = classes_of(spec)
    wrong = {slide: 1 - label if int(slide[-1]) % 2 == 0 else label for slide, label in classes.items()}
    other = bench.run(spec, "wrong-labels", classes=wrong)
    assert same_model(known, other)
    assert (read(known, "predictions")["label"] != read(other, "predictions")["label"]).sum() == 6
    learnt = bench.run(spec, "other-labels", classes=classes | {"d3_a1": 0})
    assert not same_model(known, learnt)


def test_what_is_predicted_of_a_slide_does_not_depend_on_the_others(bench: Bench) -> None:
    spec = spec_of("smap")
    fewer = bench.copy()
    fewer.rows[:] = [row for row in bench.rows if row[0] not in ("d0_a0", "d3_a0", "other")]
    whole, part = (
        read(one.run(spec, f"{name}-predicted"), "attention")
        for one, name in ((bench, "all"), (fewer, "some"))
    )
    kept = whole[whole["slide"].isin(part["slide"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, part, check_exact=True)


def test_a_slide_with_another_value_of_the_label_is_predicted_and_not_learnt_from(bench: Bench) -> None:
    spec = spec_of("mean")
    classes = {slide: label for slide, label in classes_of(spec).items() if not slide.startswith("d3")}
    found = bench.run(spec, "without-d3", classes=classes)
    fewer = bench.copy()
    fewer.rows[:] = [row for row in bench.rows if row[0] not in ("d3_a1", "d3_a3")]
    assert same_model(found, fewer.run(spec, "no-d3", classes=classes))
    told = read(found, "predictions").set_index("slide")["label"]
    assert told["d3_a0"] == told["d3_a2"] == slide_runs.NO_CLASS and told["d7_a0"] == 1


# --- resuming


class Killed(BaseException):
    """What a killed process looks like to the code it interrupts."""


@pytest.mark.parametrize(
    ("spec", "killed_at", "resumed_at"),
    [
        (spec_of("smap", mil={"alpha": "trainable"}), 13, 10),  # spectral norms remember vectors
        (spec_of("srmil"), 13, 10),  # masks are drawn
        (spec_of("mean"), 3, 0),  # before the first checkpoint
    ],
    ids=["smap", "srmil", "start"],
)
def test_a_killed_run_ends_with_the_same_numbers(
    bench: Bench, spec: RunSpec, killed_at: int, resumed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bench.run(spec, f"{spec.id}-whole")
    draw = slide_runs._Source.draw
    asked: list[int] = []

    def dying(self: slide_runs._Source, step: int) -> slide_runs.Bag:
        if step == killed_at:
            raise Killed
        return draw(self, step)

    def recording(self: slide_runs._Source, step: int) -> slide_runs.Bag:
        asked.append(step)
        return draw(self, step)

    name = f"{spec.id}-killed"
    monkeypatch.setattr(slide_runs._Source, "draw", dying)
    with pytest.raises(Killed):
        bench.run(spec, name)
    assert not (bench.folder / name / "model.safetensors").exists()
    monkeypatch.setattr(slide_runs._Source, "draw", recording)
    resumed = bench.run(spec, name)
    assert asked == list(range(resumed_at, 16))
    assert same_model(whole, resumed)
    for file in ("history.parquet", "predictions.parquet", "attention.parquet"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes()
    assert read(resumed, "outcome")["steps"].tolist() == [16 - resumed_at]
    assert not (resumed / "checkpoint").exists()


def test_a_checkpoint_of_other_neighbours_is_not_resumed(bench: Bench) -> None:
    spec = spec_of("srmil")
    bags = {slide: bag_of(bench, spec, slide) for slide in ("d0_a1", "d7_a1")}
    known = slide_runs._Source(spec, bags).digest()
    assert slide_runs._Source(spec, dict(bags)).digest() == known
    bag = bags["d7_a1"]
    others = [
        replace(bag, graph=replace(bag.graph, edges=bag.graph.edges[:, 2:])),
        replace(bag, target=0),
        replace(bag, features=bag.features + 1),
    ]
    assert known not in [slide_runs._Source(spec, bags | {"d7_a1": other}).digest() for other in others]


def bag_of(bench: Bench, spec: RunSpec, slide: str) -> slide_runs.Bag:
    return slide_runs._bag(spec, bench.tokens[slide], bench.cells[slide], classes_of(spec)[slide], None)


# --- failing


@pytest.mark.parametrize("when", ["training", "prediction"])
def test_a_run_that_diverges_is_marked_failed_and_leaves_its_checkpoint(
    bench: Bench, when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wild = {"learning_rate": 1e30, "warmup": 0.0, "weight_decay": 1.0} if when == "training" else {}
    if when == "prediction":
        monkeypatch.setattr(mil.SlideModel, "probabilities", lambda self, logits: logits * torch.nan)
    spec = spec_of("mean", checkpoint_every=1, **wild)
    out = bench.run(spec, f"diverged-{when}")
    found = read(out, "outcome").iloc[0]
    done = read(out, "history")
    words = {
        "training": f"run {spec.id}: the loss is not finite at step {len(done)} of phase 0",
        "prediction": f"run {spec.id}: the prediction of slide d0_a0 is not finite after the last step",
    }
    assert found["status"] == "failed" and words[when] in found["reason"] and found["reason"] in caplog.text
    assert found["steps"] == len(done) > 0 and np.isfinite(done["loss"]).all()
    assert (out / "checkpoint" / f"phase0-step{len(done):08d}.pt").exists()
    for name in ("predictions.parquet", "attention.parquet"):
        table = tables.read_arrow(out / name, FILES[name])
        assert len(table) == 0 and table.schema.metadata[b"failed"].decode() == found["reason"]
    with safe_open(out / "model.safetensors", "pt") as file:
        assert not list(file.keys()) and file.metadata()["failed"] == found["reason"]


def test_training_slides_of_one_class_are_refused(bench: Bench) -> None:
    spec = spec_of("mean")
    learnt = {slide for slide in SLIDES if int(slide[-1]) % 2 == 1}
    classes = {slide: 1 if slide in learnt else label for slide, label in classes_of(spec).items()}
    with pytest.raises(
        UserError, match=r"without fold 0 there are no slides of two classes of uninjured, in"
    ):
        bench.run(spec, "one-class", classes=classes)
    assert not (bench.folder / "one-class").exists()


def test_a_fold_without_slides_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match="fold 2 leaves no slide with cells to hold out"):
        bench.run(spec_of("mean").model_copy(update={"fold": 2}), "no-fold")


def test_what_is_missing_is_named(bench: Bench) -> None:
    spec = spec_of("mean")
    tokens_but_one = {slide: path for slide, path in bench.tokens.items() if slide != "d7_a1"}
    with pytest.raises(UserError, match="no token file is given for slide d7_a1; embed it first"):
        bench.run(spec, "unnamed", tokens=tokens_but_one)
    absent = bench.folder / "absent.parquet"
    with pytest.raises(UserError, match=r"absent\.parquet: the tokens table is missing"):
        bench.run(spec, "absent", tokens=bench.tokens | {"d7_a1": absent})
    with pytest.raises(UserError, match=r"absent\.parquet: the cells table is missing"):
        bench.run(spec, "no-cells", cells=bench.cells | {"d7_a1": absent})
    holey = bench.folder / "holey.parquet"
    table = tables.read(bench.cells["d7_a1"], POSITIONS)
    for name, bad in (
        ("missing", table[table["cell"] != 6]),
        ("nan", table.assign(y_um=table["y_um"].where(table["cell"] != 6))),
    ):
        tables.write(holey, bad, POSITIONS)
        with pytest.raises(UserError, match=r"holey\.parquet: coordinates missing: 1 of .*cell 6, "):
            bench.run(spec, name, cells=bench.cells | {"d7_a1": holey})


def test_tokens_of_another_encoder_are_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"the tokens are of encoder"):
        bench.run(
            spec_of("mean", encoder=ENCODER.model_copy(update={"pos_embed": "timm"})), "another-encoder"
        )


# --- odd slides


@pytest.fixture(scope="module")
def odd(bench: Bench) -> Bench:
    """Of each day, in both folds: a slide of one cell, of two, of cells in one place, of cells on a line."""
    made = bench.copy()
    for fold in (0, 1):
        for name, places in {
            "single": np.array([[5.0, 5.0]]),
            "pair": np.array([[0.0, 0.0], [400.0, 0.0]]),
            "heap": np.full((7, 2), 50.0),
            "line": np.stack([np.arange(8.0), np.zeros(8)], 1),
        }.items():
            made.add(f"{name}{fold}", np.ones(len(places), int), fold, places)
    return made


@pytest.mark.parametrize(
    ("model", "graph", "mil"),
    [
        ("mean", {}, {}),
        ("smap", {"by": "delaunay"}, {"placement": "early"}),
        ("smap", {}, {"placement": "late", "operator": "total_variation"}),
        ("smap", {"by": "radius", "radius_um": 2.0}, {"placement": "mid", "operator": "sm_exact"}),
        ("smtap", {"radius_um": 10.0}, {"layers": 1, "operator": "random_walk"}),
        ("srmil", {"coordinates": "permuted"}, {}),
    ],
)
def test_slides_with_few_cells_or_none_apart_have_finite_numbers(
    odd: Bench, model: str, graph: dict[str, Any], mil: dict[str, Any]
) -> None:
    spec = spec_of(model, graph=graph, mil=mil, steps=24)
    classes = classes_of(spec) | {
        slide: 1 for slide in odd.tokens if slide[:-1] in ("single", "heap", "line")
    }
    out = odd.run(spec, f"odd-{spec.id}", classes=classes)
    assert read(out, "outcome")["status"].tolist() == ["ok"]
    assert np.isfinite(read(out, "history")[["loss", "gradient_norm"]]).all(axis=None)
    found = read(out, "predictions").set_index("slide")
    assert {"single0", "pair0", "heap0", "line0"} < set(found.index)
    assert np.isfinite(np.stack(found["probabilities"])).all() and np.isfinite(found["energy"]).all()
    assert found.loc["single0", "energy"] == 0
    attention = read(out, "attention")
    assert np.isfinite(attention[["logit", "weight"]]).all(axis=None)
    assert attention[attention["slide"] == "single0"]["weight"].tolist() == [1.0]


# --- what is drawn, and from what


def test_any_class_is_as_likely_and_then_any_of_its_slides(bench: Bench) -> None:
    spec = spec_of("mean")
    bags = {slide: bag_of(bench, spec, slide) for slide in ("d0_a1", "d3_a1", "d3_a3", "d7_a1", "d7_a3")}
    source = slide_runs._Source(spec, bags)
    drawn = [source.draw(step) for step in range(4000)]
    share = {slide: sum(bag is own for own in drawn) / 4000 for slide, bag in bags.items()}
    assert share.pop("d0_a1") == pytest.approx(1 / 2, abs=0.04)
    assert list(share.values()) == pytest.approx([1 / 8] * 4, abs=0.03)
    again = slide_runs._Source(spec, bags)
    assert all(again.draw(step) is drawn[step] for step in (3999, 7, 0)), "of the step's number alone"
    other = slide_runs._Source(spec.model_copy(update={"seed": 4}), bags)
    assert any(other.draw(step) is not drawn[step] for step in range(20))


def test_the_permuted_control_differs_in_its_neighbours_alone(bench: Bench) -> None:
    true, permuted = (spec_of("mean", graph={"coordinates": kind}) for kind in ("true", "permuted"))
    for slide in SLIDES:
        one, other = bag_of(bench, true, slide), bag_of(bench, permuted, slide)
        assert torch.equal(one.features, other.features) and one.target == other.target
        np.testing.assert_array_equal(one.cells, other.cells)
        assert not torch.equal(one.graph.edges, other.graph.edges)
        # The same places dealt anew: the graph is the same but for the names of its cells.
        assert sorted(one.graph.degree.tolist()) == sorted(other.graph.degree.tolist())
        again = bag_of(bench, permuted.model_copy(update={"seed": 4}), slide)
        assert not torch.equal(again.graph.edges, other.graph.edges), "dealt by the run's seed"
    first, second = (bench.run(spec, f"control-{spec.id}") for spec in (true, permuted))
    assert same_model(first, second), "a model that sees no neighbours"
    a, b = read(first, "predictions"), read(second, "predictions")
    pd.testing.assert_frame_equal(a.drop(columns="energy"), b.drop(columns="energy"))
    assert (a["energy"] != b["energy"]).all()
    smoothed = (spec_of("smap", graph={"coordinates": kind}) for kind in ("true", "permuted"))
    assert not same_model(*(bench.run(spec, f"control-{spec.id}") for spec in smoothed))


def test_runs_of_one_process_embed_a_slide_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = fill(Bench(tmp_path))
    embedded: list[int] = []
    original = slide_runs.suffix_of

    def counting(*arguments: Any) -> Any:
        embedded.append(1)
        return original(*arguments)

    monkeypatch.setattr(slide_runs, "suffix_of", counting)
    bench.run(spec_of("mean", steps=1), "first")
    assert len(embedded) == len(SLIDES) + 1
    bench.run(spec_of("max", steps=1), "second")
    assert len(embedded) == len(SLIDES) + 1
    before = read(bench.folder / "second", "attention")
    swapped = bench.copy()
    path = bench.tokens["d0_a0"]
    changed = path.stat().st_mtime_ns
    swapped.add("d0_a0", 1 - bench.injured["d0_a0"], 0)
    os.utime(path, ns=(changed + 10**9, changed + 10**9))
    bench.run(spec_of("max", steps=1), "third")
    assert len(embedded) == len(SLIDES) + 2, "the file that was written anew"
    after = read(bench.folder / "third", "attention")
    moved = before["logit"] != after["logit"]
    assert set(before["slide"][moved]) == {"d0_a0"}


def test_models_see_the_frozen_embeddings_of_the_encoder(bench: Bench) -> None:
    bag = bag_of(bench, spec_of("mean"), "d7_a1")
    assert bag.features.dtype == torch.float16 and not bag.features.is_inference()
    torch.testing.assert_close(bag.features, features_of(bench, "d7_a1"))
    np.testing.assert_array_equal(bag.cells, 2 * np.arange(len(bench.injured["d7_a1"])))
    assert torch.equal(bag_of(bench, spec_of("mean", cache_mb=0), "d7_a1").features, bag.features)


def test_ready_made_features_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = fill(Bench(tmp_path), READY_MADE)
    monkeypatch.setattr(slide_runs, "suffix_of", None)  # there is no encoder to build
    spec = spec_of("smap", encoder=READY_MADE, steps=60, learning_rate=2e-2)
    bag = bag_of(bench, spec, "d3_a1")
    assert torch.equal(bag.features, features_of(bench, "d3_a1", READY_MADE))
    found = read(bench.run(spec, "ready-made"), "predictions")
    known = found[found["label"] != slide_runs.NO_CLASS]
    assert len(known) == 6 and (known["predicted"] == known["label"]).all()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
