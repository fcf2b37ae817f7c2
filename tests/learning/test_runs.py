"""Runs on synthetic tokens whose stage is known: learning, resuming, failing, baselines, applying a model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from myostage import tables
from myostage.cells.tables import CROP_PX, CROPS, LABELS, POSITIONS
from myostage.errors import UserError
from myostage.features import encoder
from myostage.learning import loop, runs, train
from myostage.learning.calibration import fit_temperature
from myostage.learning.predictions import read_learnt, read_run
from myostage.learning.priors import Learnt
from myostage.learning.proportions import perturbed
from myostage.learning.tables import HISTORY, SPLITS, predictions_table
from myostage.learning.terms import dist, prop
from myostage.runtime import checkpoints as resuming
from myostage.runtime import provenance
from myostage.runtime.checkpoints import Checkpoints
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Architecture, Dino
from myostage.study.sections.experiment import PRESETS
from myostage.study.sections.graph import Graph
from myostage.study.sections.training import Training
from support import token_runs
from support.token_runs import (
    CELLS,
    COMBINED,
    ENCODER,
    PROPORTIONS,
    RECONSTRUCTION,
    REGRESSION,
    STAGES,
    WIDTH,
    Bench,
    K,
    history,
    outcome,
    predictions,
    same_model,
    spec_of,
    write_tokens,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return token_runs.make(tmp_path_factory.mktemp("runs"))


def accuracy(frame: pd.DataFrame, bench: Bench, slide: str) -> float:
    own = frame[frame["slide"] == slide]
    return float((own["stage"].to_numpy() == bench.truth[slide]).mean())


@pytest.mark.parametrize(
    ("losses", "changes"),
    [
        (COMBINED, {}),
        ({"prop": 1.0}, {}),
        ({"simprop": 1.0}, {}),
        ({"prop": 1.0, "vat": 0.3}, {}),
        ({"prop": 1.0, "ot": 0.3}, {}),
        ({"prop": 1.0}, {"classifier": "cumulative_link"}),
        ({"prop": 1.0}, {"classifier": "corn"}),
        ({"simprop": 1.0}, {"classifier": "corn"}),
        ({"emd": 1.0}, {}),
        ({"count": 1.0}, {}),
        ({"minibag": 1.0}, {"minibag_cells": 8}),
        ({"prop": 1.0, "llp_dc": 0.5}, {}),
        ({"prop": 1.0, "spread": 1.0}, {}),
        ({"quantile": 1.0}, {}),
        ({"axis": 1.0}, {}),
    ],
    ids=str,
)
def test_stages_are_learnt_from_proportions_alone(
    bench: Bench, losses: dict[str, float], changes: dict[str, Any]
) -> None:
    spec = spec_of(losses, steps=80, learning_rate=5e-3, encoder_learning_rate=1e-3, **changes)
    out = bench.run(spec, spec.id, labels=None)
    found = predictions(out)
    assert set(found["slide"]) == {"d3_a0", "d5_a0", "d14_a0", "other"}
    assert found.loc[found["slide"] == "d5_a0", "cell"].tolist() == list(range(0, 2 * CELLS, 2))
    # The most common stage is right for .6 of the cells of d5.
    assert accuracy(found, bench, "d5_a0") > 0.9
    assert accuracy(found, bench, "other") > 0.9
    np.testing.assert_allclose(np.stack(found["probabilities"]).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(
        np.linalg.norm(np.stack(found["embedding"]).astype(float), axis=1), 1, atol=2e-3
    )


SAMPLING = {"minibag": 1.0, "llp_dc": 0.5}


class Killed(BaseException):
    """What a killed process looks like to the code it interrupts."""


@pytest.mark.parametrize(
    ("spec", "killed_at", "resumed_at"),
    [
        (spec_of(COMBINED), 17, 15),
        (spec_of({"simprop": 1.0}), 24 + 13, 24 + 10),  # in the head's own phase
        (spec_of({"simprop": 1.0}), 24 + 2, 24),  # before that phase has a checkpoint
        (spec_of({"prop": 1.0}, unfreeze="none"), 9, 5),
        (spec_of({"cross_entropy": 1.0}, "supervised", bags="group"), 12, 10),
        (spec_of(COMBINED), 3, 0),  # before the first checkpoint
        (spec_of({"prop": 1.0, "vat": 1.0, "ot": 1.0}, mix="mixbag"), 17, 15),  # terms that draw
        (spec_of({"prop": 1.0, "vat": 1.0}, unfreeze="none"), 9, 5),
        (spec_of(REGRESSION, queue=7), 17, 15),  # a queue that has gone round
        (spec_of({"supcr": 1.0}, queue=7), 24 + 13, 24 + 10),
        (spec_of(RECONSTRUCTION, graph=Graph(), smooth="logits"), 17, 15),
        (spec_of(SAMPLING, minibag_cells=8, llp_dc_threshold=0.0, classifier="cumulative_link"), 17, 15),
    ],
    ids=[
        "combined",
        "simprop-head",
        "simprop-end",
        "frozen",
        "supervised",
        "start",
        "drawn",
        "drawn-frozen",
        "regression",
        "supcr-head",
        "spatial",
        "samples-ordinal",
    ],
)
def test_a_killed_run_ends_with_the_same_numbers(
    bench: Bench,
    spec: RunSpec,
    killed_at: int,
    resumed_at: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    whole = bench.run(spec, f"{tmp_path.name}-whole")
    draw = runs.BagSource.draw
    asked: list[int] = []

    def dying(self: runs.BagSource, step: int) -> Any:
        if step == killed_at:
            raise Killed
        return draw(self, step)

    def recording(self: runs.BagSource, step: int) -> Any:
        asked.append(step)
        return draw(self, step)

    name = f"{tmp_path.name}-killed"
    monkeypatch.setattr(runs.BagSource, "draw", dying)
    with pytest.raises(Killed):
        bench.run(spec, name)
    assert not (bench.folder / name / "model.safetensors").exists()
    monkeypatch.setattr(runs.BagSource, "draw", recording)
    resumed = bench.run(spec, name)
    assert asked[0] == resumed_at
    assert same_model(whole, resumed)
    assert outcome(whole)["steps"] == len(history(whole))
    assert outcome(resumed)["steps"] == len(history(whole)) - resumed_at
    for table, file in (
        (HISTORY, "history.parquet"),
        (predictions_table(K), "predictions.parquet"),
    ):
        assert tables.read_arrow(whole / file, table).equals(tables.read_arrow(resumed / file, table))
    assert not (resumed / "checkpoint").exists()


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path, "mine")
    for step in (5, 10, 15):
        made.save(0, step, {"model": {"w": torch.ones(9)}})
    return made


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    paths = sorted(checkpoints.folder.iterdir())
    assert [path.name for path in paths] == ["phase0-step00000010.pt", "phase0-step00000015.pt"]
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    state = checkpoints.load()
    assert state is not None
    assert state["step"] == 10
    assert "phase0-step00000015.pt is damaged" in caplog.text
    for _ in range(2):
        checkpoints.save(0, 20, {"model": {"w": torch.ones(999)}})
        content = (checkpoints.folder / "phase0-step00000020.pt").read_bytes()
        start = content.index(torch.ones(99).numpy().tobytes())
        rotten = content[:start] + bytes(8) + content[start + 8 :]
        (checkpoints.folder / "phase0-step00000020.pt").write_bytes(rotten)
        state = checkpoints.load()
        assert state is not None and state["step"] == 10
    paths[0].write_bytes(b"")
    assert checkpoints.load() is None
    assert checkpoints.last() == "there is no checkpoint yet"


def test_a_checkpoint_of_another_recipe_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = tmp_path / "loss.py"
    code.write_text("weight = 1")
    folder = tmp_path / "checkpoint"

    def of(fingerprint: str = "mine") -> Checkpoints:
        for remembered in (provenance._tree, provenance._imports, provenance._meaning, resuming._code_digest):
            remembered.cache_clear()
        return Checkpoints(folder, fingerprint, (code,))

    def said_of(others: Callable[[], Checkpoints]) -> list[str]:
        for step in (5, 10):
            of().save(0, step, {"model": {}})
        caplog.clear()
        assert others().load() is None and not list(folder.iterdir())
        return caplog.messages

    of().save(0, 5, {"model": {}})
    code.write_text("weight = 1  # of the loss")
    assert of().load() is not None
    assert said_of(lambda: of("yours")) == [
        f"the checkpoints in {folder} are of other specification or data: training starts from the beginning"
    ]
    assert said_of(lambda: (code.write_text("weight = 2"), of())[1]) == [
        f"the checkpoints in {folder} are of other code: training starts from the beginning"
    ]
    of().save(0, 5, {"model": {}})
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0.1"})
    assert of().load() is None
    assert "are of other versions of packages: training starts" in caplog.text


@pytest.mark.parametrize("changed", ["code", "versions"])
def test_a_run_whose_code_or_packages_changed_since_it_was_killed_starts_from_the_beginning(
    bench: Bench,
    changed: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    draw, asked = runs.BagSource.draw, []

    def draws(self: runs.BagSource, step: int) -> Any:
        asked.append(step)
        if len(asked) == 5:
            raise Killed
        return draw(self, step)

    monkeypatch.setattr(runs.BagSource, "draw", draws)
    with pytest.raises(Killed):
        bench.run(spec_of(COMBINED, checkpoint_every=2), tmp_path.name)
    if changed == "code":
        monkeypatch.setattr(resuming, "_code_digest", lambda file: "edited")
    else:
        monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0.1"})
    resumed = bench.run(spec_of(COMBINED, checkpoint_every=2), tmp_path.name)
    assert asked[5] == 0 and outcome(resumed)["steps"] == len(history(resumed))
    assert sum("training starts from the beginning" in message for message in caplog.messages) == 1


def test_the_fingerprint_follows_what_shapes_the_numbers() -> None:
    spec = spec_of(COMBINED)
    known = loop.fingerprint(spec, STAGES, "data")
    assert loop.fingerprint(spec_of(COMBINED, checkpoint_every=7, cache_mb=1), STAGES, "data") == known
    others = [
        (spec_of(COMBINED, sigma=0.2), STAGES, "data"),
        (spec, STAGES[::-1], "data"),
        (spec, STAGES, "other"),
    ]
    assert known not in [loop.fingerprint(*other) for other in others]


@given(steps=st.integers(1, 400), warmup=st.floats(0, 0.99))
def test_schedule_warms_up_and_falls(steps: int, warmup: float) -> None:
    training = Training(steps=steps, warmup=warmup)
    factors = [loop.schedule(step, training) for step in range(steps)]
    rising = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:rising] == sorted(factors[:rising])
    assert factors[rising:] == sorted(factors[rising:], reverse=True)
    if rising < steps:
        assert factors[rising] == 1
    constant = Training(steps=steps, warmup=warmup, schedule="constant")
    assert [loop.schedule(step, constant) for step in range(steps)] == factors[:rising] + [1.0] * (
        steps - rising
    )


def test_history_tells_every_step_and_the_rate_applied(bench: Bench) -> None:
    spec = spec_of({"simprop": 2.0, "prop": 0.5})
    told = history(bench.run(spec, "history"))
    assert told["step"].tolist() == list(range(24))
    wanted = [spec.training.learning_rate * loop.schedule(step, spec.training) for step in range(24)]
    np.testing.assert_allclose(told["learning_rate"], wanted, rtol=1e-6)
    np.testing.assert_allclose(told["loss"], 2 * told["simprop"] + 0.5 * told["prop"], rtol=1e-5)
    assert list(told) == [*HISTORY.schema.names, "simprop", "prop"]
    assert (told["gradient_norm"] > 0).all()


def test_every_term_is_told_and_weighed(bench: Bench) -> None:
    weights = {"prop": 1.0, "vat": 0.25, "ot": 3.0}
    spec, backwards = (spec_of(dict(terms), steps=5) for terms in (weights.items(), [*weights.items()][::-1]))
    told = history(bench.run(spec, "terms"))
    assert spec.id == backwards.id
    pd.testing.assert_frame_equal(told, history(bench.run(backwards, "terms-backwards")))
    wanted = sum(weight * told[name] for name, weight in weights.items())
    np.testing.assert_allclose(told["loss"], wanted, rtol=1e-5)
    assert list(told) == [*HISTORY.schema.names, *weights]


BLOCK = {"attn", "mlp", "norm1", "norm2"}


@pytest.mark.parametrize(
    ("settings", "moving"),
    [
        ({"unfreeze": "none"}, set()),
        ({"unfreeze": "attention"}, {"attn"}),
        ({"unfreeze": "block"}, {*BLOCK, "norm"}),
        ({"head_gradient": "detached"}, set()),
    ],
    ids=["none", "attention", "block", "detached"],
)
@pytest.mark.parametrize("losses", [{"prop": 1.0}, {"prop": 1.0, "vat": 1.0, "ot": 1.0}], ids="+".join)
def test_only_what_is_unfrozen_moves(
    bench: Bench, losses: dict[str, float], settings: dict[str, str], moving: set[str]
) -> None:
    before = runs.suffix_of(ENCODER).state_dict()
    spec = spec_of(losses, weight_decay=0.0, steps=6, **settings)
    after = load_file(bench.run(spec, f"moves-{spec.id}") / "model.safetensors")
    changed = {key for key, value in before.items() if not torch.equal(value, after[f"suffix.{key}"])}
    assert {key.split(".")[2 if key.startswith("blocks") else 0] for key in changed} == moving
    assert not torch.equal(after["head.0.weight"], fresh(spec).head[0].weight)


def fresh(spec: RunSpec) -> train.StageModel:
    """The model that a run starts from."""
    suffix = runs.suffix_of(spec.encoder.model_copy(update={"dino": None}))
    torch.manual_seed(spec.seed)
    return train.StageModel(suffix, spec.training.hidden, K)


def test_all_trained_blocks_move(bench: Bench, tmp_path: Path) -> None:
    deep = ENCODER.model_copy(
        update={"trained_blocks": 2, "architecture": Architecture(patch_px=16, width=WIDTH, depth=3, heads=2)}
    )
    spec = spec_of({"prop": 1.0}, encoder=deep, unfreeze="attention", weight_decay=0.0, steps=3)
    out = bench.under(deep, "deep").run(spec, "deep")
    after, before = load_file(out / "model.safetensors"), fresh(spec).suffix.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[f"suffix.{key}"])}
    assert {tuple(key.split(".")[1:3]) for key in changed} == {("1", "attn"), ("2", "attn")}
    runs.predict_run(out / "model.safetensors", bench.under(deep, "deep").tokens, tmp_path / "again.parquet")


# --- what single keys change


def test_order_permutes_the_similarity_target_alone(bench: Bench) -> None:
    order = ("late", "early", "middle")
    by_hand = {group: p[[2, 0, 1]] for group, p in PROPORTIONS.items()}
    ordered = history(bench.run(spec_of({"simprop": 1.0}, order=order, steps=6), "ordered"))
    wanted = history(bench.run(spec_of({"simprop": 1.0}, steps=6), "permuted", proportions=by_hand))
    plain = history(bench.run(spec_of({"simprop": 1.0}, steps=6), "unordered"))
    first = ordered["phase"] == 0
    pd.testing.assert_series_equal(ordered["simprop"], wanted["simprop"])
    assert (ordered["simprop"] != plain["simprop"])[first].mean() > 0.5
    # The head is fitted in the study's own order.
    assert ordered["prop"][~first].iloc[0] != wanted["prop"][~first].iloc[0]
    both = [
        history(bench.run(spec_of(COMBINED, order=places, steps=1), f"order{len(places)}")).iloc[0]
        for places in (order, STAGES, ())
    ]
    assert both[0]["prop"] == both[1]["prop"] and both[0]["simprop"] != both[1]["simprop"]
    assert both[1]["loss"] == both[2]["loss"]


def test_noise_changes_the_proportions_learnt_from_and_nothing_else(bench: Bench) -> None:
    noisy = bench.run(spec_of(COMBINED, proportion_noise=0.4, steps=8), "noisy")
    by_hand = bench.run(spec_of(COMBINED, steps=8), "by-hand", proportions=perturbed(PROPORTIONS, 0.4, 3))
    assert same_model(noisy, by_hand)
    assert not same_model(noisy, bench.run(spec_of(COMBINED, steps=8), "clean"))


def test_bags_may_have_the_proportions_of_their_slides(bench: Bench) -> None:
    spec = spec_of(COMBINED, proportions="slide", steps=8)
    as_groups = {slide: PROPORTIONS[slide.split("_")[0]] for slide in bench.truth if slide != "other"}
    by_slide = bench.run(spec, "slides-alike", slide_proportions=as_groups)
    assert same_model(by_slide, bench.run(spec_of(COMBINED, steps=8), "groups"))
    held_out = as_groups | {"d5_a0": np.array([1.0, 0.0, 0.0])}
    assert same_model(by_slide, bench.run(spec, "held-out-slide", slide_proportions=held_out))
    learnt = as_groups | {"d5_a1": np.array([1.0, 0.0, 0.0])}
    assert not same_model(by_slide, bench.run(spec, "learnt-slide", slide_proportions=learnt))
    with pytest.raises(UserError, match="slide_proportions: no row for slide d14_a1, d3_a1, d5_a1; add it"):
        bench.run(spec, "no-slides")


def test_a_frozen_head_neither_learns_nor_decays(bench: Bench) -> None:
    spec = spec_of({"simprop": 1.0}, head="frozen", weight_decay=0.5)
    out = bench.run(spec, "frozen-head")
    after = load_file(out / "model.safetensors")
    start = fresh(spec).state_dict()
    assert all(torch.equal(after[key], value) for key, value in start.items() if key.startswith("head"))
    assert any(not torch.equal(after[key], value) for key, value in start.items() if key.startswith("suffix"))
    told = history(out)
    assert set(told["phase"]) == {0} and set(told["learning_rate"]) == {0.0}
    with pytest.raises(UserError, match="nothing would learn"):
        train.phases(spec_of({"prop": 1.0}, head="frozen", unfreeze="none"))


def test_the_released_preset_learns_by_simprop_alone(bench: Bench) -> None:
    preset = PRESETS["released"]
    training = preset["training"] | {"bag_size": 20}  # the slides have 60 cells
    spec = spec_of(preset["losses"], **training)
    out = bench.run(spec, "released")
    told = history(out)
    assert (told["gradient_norm"] > 0).all() and told["prop"].notna().all()
    # Its L_prop alone trains nothing: the head is frozen and its input detached.
    alone = spec_of({"prop": 1.0}, **training)
    idle = bench.run(alone, "released-prop")
    assert (history(idle)["gradient_norm"] == 0).all()
    after = load_file(idle / "model.safetensors")
    assert all(torch.equal(after[key], value) for key, value in fresh(alone).state_dict().items())
    assert same_head(out, idle)


def same_head(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return all(torch.equal(first[key], second[key]) for key in first if key.startswith("head"))


def test_mixbag_takes_the_place_of_the_two_bags(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]] = []
    original = prop.mixbag

    def mixbag(*bags: Any, **options: Any) -> torch.Tensor:
        asked.append(bags)
        return original(*bags, **options)

    monkeypatch.setattr(prop, "mixbag", mixbag)
    spec = spec_of(COMBINED, mix="mixbag", steps=6, learning_rate=1e-12, encoder_learning_rate=1e-12)
    mixed = history(bench.run(spec, "mixed"))
    plain = history(bench.run(spec_of(COMBINED, steps=6), "unmixed"))
    assert mixed["simprop"][0] == plain["simprop"][0]
    assert mixed["prop"][0] != plain["prop"][0]
    # Nothing moves at such rates. The first cells of a bag are those at the top of its slide.
    source = source_of(bench, spec)
    for step, (logits_a, logits_b, p_a, p_b) in enumerate(asked):
        draw = source.draw(step)
        own = fresh(spec)(draw.inputs)[1].detach()
        for logits, whole in ((logits_a, own[:16]), (logits_b, own[16:])):
            distance, cells = torch.cdist(logits, whole).min(1)
            assert distance.max() < 1e-3
            assert sorted(cells.tolist()) == list(range(16)) != cells.tolist()
        np.testing.assert_array_equal([p_a, p_b], [draw.p_a, draw.p_b])


@pytest.mark.parametrize(
    ("losses", "settings", "phases"),
    [
        ({"simprop": 1.0}, {}, 2),
        ({"simprop": 1.0, "vat": 1.0}, {}, 2),
        ({"simprop": 1.0, "ot": 1.0}, {}, 1),
        ({"simprop": 1.0}, {"head": "frozen"}, 1),
        ({"prop": 1.0}, {"unfreeze": "none"}, 1),
    ],
)
def test_a_head_that_no_term_teaches_is_fitted_afterwards(
    losses: dict[str, float], settings: dict[str, str], phases: int
) -> None:
    plan = train.phases(spec_of(losses, **settings))
    assert len(plan) == phases
    if phases == 2:
        assert plan[1].weights == {"prop": 1.0} and plan[1].frozen


def test_training_starts_from_the_fine_tuned_encoder(bench: Bench, tmp_path: Path) -> None:
    tuned = ENCODER.model_copy(update={"dino": Dino(steps=1)})
    weights = encoder.build(ENCODER).state_dict()
    moved = {key: value + 0.01 for key, value in weights.items()}
    save_file(moved, tmp_path / "tuned.safetensors")
    own = bench.under(tuned, "tuned")
    spec = spec_of({"prop": 1.0}, encoder=tuned, unfreeze="none", steps=2)
    out = own.run(spec, "tuned", encoder_weights=tmp_path / "tuned.safetensors")
    after = load_file(out / "model.safetensors")
    torch.testing.assert_close(after["suffix.norm.weight"], weights["norm.weight"] + 0.01)
    runs.predict_run(out / "model.safetensors", own.tokens, tmp_path / "again.parquet", device="cpu")


def test_embedded_draws_are_the_embeddings_of_the_drawn_tokens(bench: Bench) -> None:
    source = source_of(bench, spec_of(COMBINED))
    model = train.StageModel(runs.suffix_of(ENCODER), (8, 8), K)
    embed = train.embed_with(model, torch.device("cpu"), "fp32")
    embedded = source.embedded(embed)
    for step in range(4):
        drawn, held = source.draw(step), embedded.draw(step)
        torch.testing.assert_close(embed(drawn.inputs), held.inputs, rtol=1e-5, atol=1e-5)
    in_files = source_of(bench, spec_of(COMBINED, cache_mb=0)).embedded(embed)
    assert torch.equal(in_files.draw(0).inputs, embedded.draw(0).inputs)


def source_of(bench: Bench, spec: RunSpec, **options: Any) -> runs.BagSource:
    table = tables.read(bench.splits, SPLITS)
    learnt = table[table["fold"] == 1]
    stores = {slide: runs.token_store(bench.tokens[slide]) for slide in learnt["slide"]}
    return runs.BagSource(spec, stores, learnt, PROPORTIONS, torch.device("cpu"), **options)


@pytest.mark.parametrize(
    ("loss", "classifier"), [("cross_entropy", "softmax"), ("sord", "softmax"), ("cross_entropy", "corn")]
)
def test_supervised_sees_the_labels_of_training_slides_only(bench: Bench, loss: str, classifier: str) -> None:
    spec = spec_of({loss: 1.0}, "supervised", steps=60, learning_rate=5e-3, classifier=classifier)
    own = {slide: path for slide, path in bench.labels.items() if slide.endswith("_a1")}
    found = predictions(bench.run(spec, spec.id, labels=own))
    assert accuracy(found, bench, "d5_a0") > 0.9
    with pytest.raises(UserError, match=r"draws 16 labelled cells, and the training slides have 0"):
        bench.run(spec, "unlabelled", labels={"d5_a0": bench.labels["d5_a0"]})


def test_baselines_predict_given_proportions(bench: Bench) -> None:
    crops = {slide: bench.folder / f"{slide}-crops.parquet" for slide in bench.truth}
    image = bytes(CROP_PX * CROP_PX * 3)
    for path in crops.values():
        tables.write(path, pd.DataFrame({"cell": range(CELLS), "image": [image] * CELLS}), CROPS)
    everyone = bench.predict_baseline("majority", "majority", crops)
    mean = np.mean(list(PROPORTIONS.values()), axis=0)
    found = predictions(everyone)
    np.testing.assert_allclose(np.stack(found["probabilities"]), np.tile(mean, (4 * CELLS, 1)), rtol=1e-6)
    assert set(found["stage"]) == {int(mean.argmax())}
    assert tables.read(everyone / "history.parquet", HISTORY).empty
    own = predictions(bench.predict_baseline("group_majority", "group-majority", crops))
    for slide, share in (("d3_a0", PROPORTIONS["d3"]), ("d14_a0", PROPORTIONS["d14"]), ("other", mean)):
        np.testing.assert_allclose(own.loc[own["slide"] == slide, "probabilities"].iloc[0], share, rtol=1e-6)


@pytest.mark.parametrize("method", ["softmax", "cumulative_link", "corn", "majority"])
def test_a_finished_run_is_applied_to_other_slides(bench: Bench, method: str, tmp_path: Path) -> None:
    if method != "majority":
        out = bench.run(spec_of(COMBINED, classifier=method), f"apply-{method}")
    else:
        out = bench.predict_baseline(method, f"apply-{method}", bench.tokens)
    known = predictions(out)
    model, again = out / "model.safetensors", tmp_path / "predictions.parquet"
    runs.predict_run(
        model, {slide: bench.tokens[slide] for slide in known["slide"].unique()}, again, device="cpu"
    )
    pd.testing.assert_frame_equal(tables.read(again, predictions_table(K)), known)


def test_tokens_of_another_encoder_are_refused(bench: Bench, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.parquet"
    other = ENCODER.model_copy(update={"pos_embed": "timm"})
    write_tokens(foreign, np.zeros(3, int), np.random.default_rng(0), other)
    out = bench.run(spec_of(COMBINED), "other-encoder")
    with pytest.raises(UserError, match=r"foreign.parquet: the tokens are of encoder"):
        runs.predict_run(
            out / "model.safetensors", {"foreign": foreign}, tmp_path / "out.parquet", device="cpu"
        )
    assert not (tmp_path / "out.parquet").exists()


def test_a_run_that_diverges_is_marked_failed_and_stops_no_other(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wild = spec_of({"prop": 1.0}, learning_rate=1e30, weight_decay=0.0, checkpoint_every=1)
    out = bench.run(wild, "diverged")
    bench.run(spec_of({"prop": 1.0}), "diverged-next")
    found = outcome(out)
    steps = len(history(out))
    assert found["run"] == wild.id and found["status"] == "failed" and found["steps"] == steps > 0
    checkpoint = out / "checkpoint" / f"phase0-step{steps:08d}.pt"
    assert checkpoint.exists()
    assert f"run {wild.id}: the loss is not finite at step {steps} of phase 0" in found["reason"]
    assert f"the last good checkpoint is {checkpoint}); lower training.learning_rate" in found["reason"]
    assert found["reason"] in caplog.text
    assert np.isfinite(history(out)["loss"]).all()
    assert predictions(out).empty
    told = tables.read_arrow(out / "predictions.parquet", predictions_table(K)).schema.metadata
    assert told[b"failed"].decode() == found["reason"]
    with safe_open(out / "model.safetensors", "pt") as file:
        assert not list(file.keys()) and file.metadata()["failed"] == found["reason"]
    with pytest.raises(UserError, match=r"model.safetensors: there is no model, for the run failed \(run"):
        runs.predict_run(out / "model.safetensors", bench.tokens, tmp_path / "out.parquet")
    fine = outcome(bench.folder / "diverged-next")
    assert fine["status"] == "ok" and fine["reason"] == ""
    assert not predictions(bench.folder / "diverged-next").empty


def test_a_run_whose_last_step_ruins_it_is_marked_failed(bench: Bench) -> None:
    out = bench.run(spec_of({"prop": 1.0}, learning_rate=1e30, weight_decay=0.0, steps=1), "ruined")
    assert len(history(out)) == outcome(out)["steps"] == 1
    assert outcome(out)["status"] == "failed"
    assert "are not finite after the last step; lower" in outcome(out)["reason"]
    assert predictions(out).empty


def test_a_run_keeps_the_temperature_of_its_training_bags(bench: Bench, tmp_path: Path) -> None:
    # Some cells look like another stage: a run that is never wrong cannot be too sure.
    rng = np.random.default_rng(0)
    looks = {
        slide: np.where(rng.random(len(stages)) < 0.2, rng.integers(0, K, len(stages)), stages)
        for slide, stages in bench.truth.items()
    }
    bench = replace(bench, truth=looks).under(ENCODER, "odd-cells")
    spec = spec_of({"prop": 1.0}, steps=60)
    out = bench.run(spec, "temperature")
    found = outcome(out)["temperature"]
    training = {slide: bench.tokens[slide] for slide in bench.tokens if slide.endswith("_a1")}
    runs.predict_run(out / "model.safetensors", training, tmp_path / "training.parquet", device="cpu")
    rows = tables.read(tmp_path / "training.parquet", predictions_table(K))
    bags = [np.stack(part["probabilities"].tolist()) for _, part in rows.groupby("slide", sort=False)]
    assert 0.1 < found < 8
    assert found == fit_temperature(bags, [PROPORTIONS[slide.removesuffix("_a1")] for slide in training])
    assert read_run(out / "predictions.parquet", K) == (found, None)
    assert read_run(tmp_path / "training.parquet", K) == (found, None)
    learnt = read_learnt(out / "predictions.parquet", K)
    given = [PROPORTIONS[slide.removesuffix("_a1")] for slide in training]
    wanted = Learnt.fitted(bags, given, np.mean(given, axis=0))
    assert learnt is not None
    np.testing.assert_allclose(learnt.composition, wanted.composition)
    assert learnt.weights.tolist() == wanted.weights.tolist()
    again = read_learnt(tmp_path / "training.parquet", K)
    assert again is not None and again.as_json() == learnt.as_json()
    # Neither labels nor held-out cells take part.
    other = bench.run(spec, "temperature-unlabelled", labels={})
    assert outcome(other)["temperature"] == found
    unlabelled = read_learnt(other / "predictions.parquet", K)
    assert unlabelled is not None and unlabelled.as_json() == learnt.as_json()


def test_where_bags_say_nothing_there_is_no_temperature(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    alike = dict.fromkeys(PROPORTIONS, np.array([0.2, 0.3, 0.5]))
    out = bench.run(spec_of({"prop": 1.0}), "no-temperature", proportions=alike)
    assert np.isnan(outcome(out)["temperature"]) and np.isnan(read_run(out / "predictions.parquet", K)[0])
    assert "the training bags determine no temperature" in caplog.text
    idle = bench.predict_baseline("majority", "no-temperature-idle", bench.tokens)
    assert read_learnt(idle / "predictions.parquet", K) is None
    assert np.isnan(outcome(idle)["temperature"])


def test_large_slides_are_sampled_for_the_temperature(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SAMPLED_TOGETHER", 4)
    store = runs.token_store(bench.tokens["d3_a0"])
    sample = runs.Sampled.of(store, 12)
    assert sample.rows.tolist() == [0, 1, 2, 3, 28, 29, 30, 31, 56, 57, 58, 59]
    cells, tokens_read = next(sample.stream())
    assert cells.tolist() == store.cells[sample.rows].tolist() and len(sample) == 12
    assert torch.equal(tokens_read, store.read_rows(sample.rows))
    assert runs.Sampled.of(store, 60).rows.tolist() == list(range(60))


def test_the_outcome_tells_what_a_run_cost(bench: Bench) -> None:
    found = outcome(bench.run(spec_of({"prop": 1.0}), "cost"))
    assert found["status"] == "ok" and found["device"] == "cpu" and found["steps"] == 24
    assert found["seconds"] > 0 and found["cpu_seconds"] > 0 and found["peak_memory_mb"] > 1
    idle = outcome(bench.predict_baseline("majority", "no-cost", bench.tokens))
    assert idle["status"] == "ok" and idle["steps"] == 0


@pytest.mark.parametrize(
    "spec", [spec_of(COMBINED), spec_of({"cross_entropy": 1.0}, "supervised")], ids=lambda s: s.method
)
def test_labels_of_held_out_cells_change_no_model(bench: Bench, spec: RunSpec, tmp_path: Path) -> None:
    wrong = dict(bench.labels)
    for slide in ("d3_a0", "d5_a0", "d14_a0", "other"):
        wrong[slide] = tmp_path / f"{slide}.parquet"
        table = tables.read(bench.labels[slide], LABELS)
        tables.write(wrong[slide], table.assign(stage=(table["stage"] + 1) % K), LABELS)
    known = bench.run(spec, f"right-labels-{spec.method}")
    other = bench.run(spec, f"wrong-labels-{spec.method}", labels=wrong)
    assert same_model(known, other)
    pd.testing.assert_frame_equal(predictions(known), predictions(other))


def test_simprop_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="nothing would learn"):
        train.phases(spec_of({"simprop": 1.0}, unfreeze="none"))


# --- ordinal regression on the bags' scores


def test_terms_of_ordinal_regression_are_told_and_weighed(bench: Bench) -> None:
    spec = spec_of(REGRESSION, queue=5, seed=6)
    out = bench.run(spec, "regression")
    told = history(out)
    weighed = sum(weight * told[name].fillna(0) for name, weight in REGRESSION.items())
    np.testing.assert_allclose(told["loss"], weighed, rtol=1e-5)
    assert told[["mse", "dist", "supcr"]].notna().all(axis=None)
    # There is no z_W before a bag of a healthy group is drawn, or where the last five were of none.
    source = source_of(bench, spec)
    drawn = [source.draw(step).healthy for step in range(24)]
    flat = [healthy for pair in drawn for healthy in pair]
    known = [any(flat[max(0, 2 * step - 5) : 2 * step + 2]) for step in range(24)]
    assert not known[0] and any(known)
    assert told["cell"].notna().tolist() == known
    measured = told["conflict"].notna()
    assert measured.tolist() == [step % 10 == 0 and known[step] for step in range(24)]
    assert measured.any() and told.loc[measured, "conflict"].between(-1, 1).all()
    assert set(load_file(out / "model.safetensors")) == set(fresh(spec).state_dict()), "nothing but the model"


def test_conflict_is_told_of_runs_with_both_terms_alone(bench: Bench) -> None:
    losses = {name: weight for name, weight in REGRESSION.items() if name != "supcr"}
    assert history(bench.run(spec_of(losses), "no-conflict"))["conflict"].isna().all()


WITHOUT_CELL = {name: weight for name, weight in REGRESSION.items() if name != "cell"}


@pytest.mark.parametrize(
    ("terms", "settings"),
    [
        (REGRESSION, {"dist_labels": "quantiles"}),
        (REGRESSION, {"supcr_similarity": "cosine", "embedding_parts": "halves", "perturbed": "hard"}),
        (REGRESSION, {"queue": 0}),
        (WITHOUT_CELL, {}),
    ],
    ids=["soft", "hard", "no-queue", "nothing-healthy"],
)
def test_terms_of_ordinal_regression_see_the_bags_and_those_in_the_queue(
    bench: Bench, terms: dict[str, float], settings: dict[str, Any]
) -> None:
    settings = {"queue": 6, "supcr_temperature": 0.7} | settings
    spec = spec_of(terms, steps=8, learning_rate=1e-12, encoder_learning_rate=1e-12, **settings)
    training = spec.training
    told = history(bench.run(spec, f"reference-{spec.id}"))
    # Nothing moves at such rates, so that the model at the start gives every step's terms.
    model, source = fresh(spec), source_of(bench, spec)
    past: list[_SeenBag] = []
    for step in range(8):
        draw, row = source.draw(step), told.iloc[step]
        with torch.no_grad():
            embedding, logits = model(draw.inputs)
        cells, share = embedding.double().numpy(), logits.double().softmax(1).numpy()
        weights = (share.argmax(1) != 2).astype(float) if training.perturbed == "hard" else 1 - share[:, 2]
        now = [
            _SeenBag(
                cells[own].mean(0),
                weights[own] @ cells[own] / max(weights[own].sum(), 1e-12),
                float((share[own] @ np.arange(K)).mean()),
                float(p @ np.arange(K)),
                healthy,
            )
            for own, p, healthy in zip(
                (slice(None, 16), slice(16, None)), (draw.p_a, draw.p_b), draw.healthy, strict=True
            )
        ]
        seen = [*now, *past]
        wanted = {"mse": np.mean([(bag.score - bag.target) ** 2 for bag in now])}
        labels = sorted(dist.pseudo_labels(source.scores, len(seen), training.dist_labels, 0, K - 1))
        place = {i: at for at, i in enumerate(sorted(range(len(seen)), key=lambda i: seen[i].score))}
        wanted["dist"] = np.mean([abs(seen[i].score - labels[place[i]]) for i in range(2)])
        half = WIDTH // 2 if training.embedding_parts == "halves" else WIDTH
        wanted["supcr"] = ranked([bag.whole[:half] for bag in seen], seen, training)
        if spec.healthy:
            wanted["supcr"] += ranked([bag.perturbed[:half] for bag in seen], seen, training)
        reference = [bag.whole for bag in seen if bag.healthy]
        if spec.healthy and reference:
            z_w = np.mean(reference, axis=0)
            wanted["cell"] = np.mean(
                [np.square((bag.whole - z_w - bag.perturbed)[-half:]).mean() for bag in now]
            )
        found = row[list(terms)].dropna()
        assert set(found.index) == set(wanted)
        np.testing.assert_allclose(
            found.to_numpy(float), [wanted[name] for name in found.index], rtol=1e-3, atol=1e-6
        )
        past = [*now[::-1], *past][: training.queue]
    assert "cell" not in terms or told["cell"].notna().any()


@dataclass(frozen=True)
class _SeenBag:
    """z_I, z_P, expected stage, target, and whether its group is healthy."""

    whole: np.ndarray
    perturbed: np.ndarray
    score: float
    target: float
    healthy: bool


def ranked(vectors: list[np.ndarray], bags_seen: list[_SeenBag], training: Training) -> float:
    """Rank-N-Contrast of the two bags of the step among all, term by term."""

    def alike(i: int, j: int) -> float:
        a, b = vectors[i], vectors[j]
        if training.supcr_similarity == "cosine":
            return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12) / 0.7)
        return -float(np.linalg.norm(a - b)) / 0.7

    def apart(i: int, j: int) -> float:
        return round(abs(bags_seen[i].target - bags_seen[j].target), 6)

    found = []
    for i in range(2):
        others = [j for j in range(len(vectors)) if j != i]
        for j in others:
            competing = [k for k in others if apart(i, k) >= apart(i, j)]
            found.append(np.log(np.sum(np.exp([alike(i, k) - alike(i, j) for k in competing]))))
    return float(np.mean(found))


def test_a_score_may_be_a_column_of_the_slide_table(bench: Bench) -> None:
    scores = {"d3_a1": 0.0, "d5_a1": 2.0, "d14_a1": 0.5}
    spec = spec_of({"mse": 1.0}, score="area", steps=2)
    told = history(bench.run(spec, "scored", scores=scores))
    source = source_of(bench, spec, scores=scores)
    draw = source.draw(0)
    with torch.no_grad():
        stage = fresh(spec)(draw.inputs)[1].softmax(1).numpy() @ np.arange(K)
    groups = {tuple(p): scores[f"{group}_a1"] for group, p in PROPORTIONS.items()}
    targets = [groups[tuple(draw.p_a)], groups[tuple(draw.p_b)]]
    assert targets == list(draw.scores)
    wanted = np.mean(np.square([stage[:16].mean() - targets[0], stage[16:].mean() - targets[1]]))
    assert told["mse"][0] == pytest.approx(wanted, rel=1e-4)
    assert dict(zip(scores, sorted(source.scores), strict=True)).keys() == scores.keys()
    assert sorted(source.scores) == sorted(scores.values())
    # Of a bag with cells of several slides, each counts by its cells.
    assert source._score({"d3_a1": 1, "d5_a1": 3}, PROPORTIONS["d3"]) == pytest.approx(1.5)
    assert source.digest() != source_of(bench, spec, scores=scores | {"d3_a1": 0.1}).digest()


def test_without_a_column_the_score_is_the_expected_stage(bench: Bench) -> None:
    source = source_of(bench, spec_of({"mse": 1.0}))
    expected = {group: p @ np.arange(K) for group, p in PROPORTIONS.items()}
    assert sorted(source.scores) == pytest.approx(sorted(expected.values()))
    for step in range(4):
        draw = source.draw(step)
        assert draw.scores == pytest.approx([draw.p_a @ np.arange(K), draw.p_b @ np.arange(K)])


@pytest.mark.parametrize("losses", [{"mse": 1.0}, {"mse": 1.0, "dist": 1.0, "supcr": 1.0}], ids="+".join)
def test_stages_are_ordered_by_scores_alone(bench: Bench, losses: dict[str, float]) -> None:
    spec = spec_of(losses, steps=80, learning_rate=5e-3, encoder_learning_rate=1e-3)
    found = predictions(bench.run(spec, f"scores-{'-'.join(losses)}", labels=None))
    stage = {
        slide: float((np.stack(rows) @ np.arange(K)).mean())
        for slide, rows in found.groupby("slide")["probabilities"]
    }
    assert stage["d3_a0"] < stage["d5_a0"] < stage["d14_a0"]
    assert stage["d14_a0"] - stage["d3_a0"] > 1


# --- neighbours

NEAR = Graph(neighbours=4)
# No two cells are that near.
NO_EDGES = Graph(by="radius", radius_um=1e-6)


def places_of(bench: Bench, slide: str) -> np.ndarray:
    table = tables.read(bench.cells[slide], POSITIONS).set_index("cell")
    return table.loc[range(0, 2 * CELLS, 2), ["x_um", "y_um"]].to_numpy(float)


def smoothed(values: np.ndarray, at: np.ndarray, alpha: float, steps: int) -> np.ndarray:
    """Sm in so many steps over the 4 nearest, by a dense matrix."""
    away = np.linalg.norm(at[:, None] - at[None], axis=2)
    near = np.argsort(away, axis=1)[:, 1:5]
    joined = np.zeros((len(at), len(at)))
    joined[np.repeat(np.arange(len(at)), 4), near.ravel()] = 1
    joined = np.maximum(joined, joined.T)
    root = np.sqrt(joined.sum(1))
    matrix = joined / root[:, None] / root[None]
    found = values
    for _ in range(steps):
        found = alpha * matrix @ found + (1 - alpha) * values
    return found


@pytest.mark.parametrize("what", ["logits", "embedding"])
def test_smoothing_at_prediction_changes_what_is_predicted_and_not_the_model(bench: Bench, what: str) -> None:
    plain = bench.run(spec_of({"prop": 1.0}, steps=12), "plain")
    spec = spec_of(
        {"prop": 1.0},
        graph=NEAR,
        steps=12,
        smooth=what,
        smooth_at="prediction",
        smooth_alpha=0.7,
        smooth_steps=3,
    )
    out = bench.run(spec, f"smooth-{what}")
    assert same_model(plain, out)
    pd.testing.assert_frame_equal(history(plain), history(out))
    model = fresh(spec)
    model.load_state_dict(load_file(out / "model.safetensors"))
    found, without = predictions(out), predictions(plain)
    assert (found["slide"] == without["slide"]).all() and (found["cell"] == without["cell"]).all()
    np.testing.assert_array_equal(np.stack(found["embedding"]), np.stack(without["embedding"]))
    for slide in ("d3_a0", "d5_a0", "other"):
        with torch.no_grad():
            embedding, logits = model(runs.token_store(bench.tokens[slide]).read())
            at = places_of(bench, slide)
            if what == "embedding":
                logits = model.head(
                    torch.from_numpy(smoothed(embedding.double().numpy(), at, 0.7, 3)).float()
                )
            else:
                logits = torch.from_numpy(smoothed(logits.double().numpy(), at, 0.7, 3))
        told = np.stack(found.loc[found["slide"] == slide, "probabilities"])
        np.testing.assert_allclose(told, logits.softmax(1), atol=1e-4)
        assert np.abs(told - np.stack(without.loc[without["slide"] == slide, "probabilities"])).max() > 0.01


@pytest.mark.parametrize(
    ("what", "settings"),
    [("logits", {}), ("embedding", {}), ("logits", {"unfreeze": "none"})],
    ids=["logits", "embedding", "frozen"],
)
def test_smoothing_at_training_changes_the_model_and_not_what_it_predicts_by(
    bench: Bench, what: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"steps": 6} | settings
    specs = {
        where: spec_of({"prop": 1.0}, graph=NEAR, smooth=what, smooth_at=where, **settings)
        for where in ("training", "both")
    }
    outs = {where: bench.run(spec, f"smooth-{spec.id}") for where, spec in specs.items()}
    plain = bench.run(spec_of({"prop": 1.0}, **settings), f"plain-{len(settings)}")
    assert same_model(outs["training"], outs["both"])
    assert not same_model(outs["training"], plain)
    model = fresh(specs["both"])
    model.load_state_dict(load_file(outs["training"] / "model.safetensors"))
    with torch.no_grad():
        wanted = model(runs.token_store(bench.tokens["d5_a0"]).read())[1].softmax(1).numpy()
    told = {
        where: np.stack(found.loc[found["slide"] == "d5_a0", "probabilities"])
        for where, found in ((where, predictions(out)) for where, out in outs.items())
    }
    np.testing.assert_allclose(told["training"], wanted, atol=1e-5)
    assert np.abs(told["both"] - wanted).max() > 1e-3
    # A finished run is applied as it predicts, and asks for places where it smooths.
    again = tmp_path / "again.parquet"
    slides = {slide: bench.tokens[slide] for slide in predictions(outs["both"])["slide"].unique()}
    model_file = outs["both"] / "model.safetensors"
    runs.predict_run(model_file, slides, again, cells=bench.cells, device="cpu")
    pd.testing.assert_frame_equal(tables.read(again, predictions_table(K)), predictions(outs["both"]))
    with pytest.raises(UserError, match="where the cells of slide d14_a0 lie is not known"):
        runs.predict_run(model_file, {"d14_a0": bench.tokens["d14_a0"]}, again, device="cpu")


@pytest.mark.parametrize("what", ["logits", "embedding"])
def test_smoothing_without_neighbours_changes_nothing(bench: Bench, what: str) -> None:
    plain = bench.run(spec_of({"prop": 1.0}, steps=6), "plain-6")
    alone = bench.run(spec_of({"prop": 1.0}, graph=NO_EDGES, steps=6, smooth=what), f"alone-{what}")
    a, b = (history(out)["loss"] for out in (plain, alone))
    np.testing.assert_allclose(a, b, rtol=1e-4)
    a, b = (np.stack(predictions(out)["probabilities"]) for out in (plain, alone))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_slide_smoothed_at_once_is_written_in_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of({"prop": 1.0}, graph=NEAR, steps=2, smooth="logits", smooth_at="prediction")
    whole = bench.run(spec, "one-batch")
    monkeypatch.setattr(runs, "ROWS", 7)
    pd.testing.assert_frame_equal(predictions(whole), predictions(bench.run(spec, "batches-of-7")))


def test_hidden_cells_are_reconstructed_better_the_longer_it_is_learnt(bench: Bench) -> None:
    spec = spec_of(RECONSTRUCTION, graph=NEAR, steps=60, learning_rate=5e-3, mask_ratio=0.3)
    out = bench.run(spec, "reconstruction")
    told = history(out)["spatial_reconstruction"]
    assert told.between(0, 2).all() and told[-10:].mean() < told[:2].mean() - 0.2
    assert set(load_file(out / "model.safetensors")) == set(fresh(spec).state_dict()), "nothing but the model"
    assert not same_model(out, bench.run(spec_of({"prop": 1.0}, steps=60, learning_rate=5e-3), "prop-60"))


def test_a_graph_that_is_there_for_another_term_smooths_nothing_before_the_prediction(bench: Bench) -> None:
    plain = bench.run(spec_of(RECONSTRUCTION, graph=NEAR, steps=3), "rebuilt")
    later = {"smooth": "logits", "smooth_at": "prediction"}
    out = bench.run(spec_of(RECONSTRUCTION, graph=NEAR, steps=3, **later), "rebuilt-and-smoothed")
    assert same_model(plain, out)
    assert not np.allclose(*(np.stack(predictions(run)["probabilities"]) for run in (plain, out)), atol=1e-3)


def test_the_permuted_control_of_reconstruction_has_other_neighbours(bench: Bench) -> None:
    graphs = [NEAR, NEAR.model_copy(update={"coordinates": "permuted"})]
    specs = [spec_of(RECONSTRUCTION, graph=graph, steps=4) for graph in graphs]
    places = {slide: places_of(bench, slide) for slide in ("d3_a1", "d5_a1", "d14_a1")}
    true, permuted = (source_of(bench, spec, places=places) for spec in specs)
    for step in range(3):
        one, other = true.draw(step), permuted.draw(step)
        assert torch.equal(one.inputs, other.inputs)
        assert one.graph is not None and other.graph is not None
        assert not torch.equal(one.graph.edges, other.graph.edges)
        assert sorted(one.graph.degree.tolist()) == sorted(other.graph.degree.tolist())
        assert (one.graph.degree >= 4).all()
        bags_of = one.graph.edges >= 16
        assert (bags_of[0] == bags_of[1]).all(), "no edge joins the two bags"
    outs = [bench.run(spec, f"reconstruction-{spec.id}") for spec in specs]
    assert history(outs[0])["prop"][0] == history(outs[1])["prop"][0]
    assert not same_model(*outs)


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(RECONSTRUCTION, graph=NEAR),
        spec_of({"prop": 1.0}, graph=NEAR, smooth="logits", smooth_at="training"),
        spec_of({"prop": 1.0}, graph=NEAR, smooth="embedding", smooth_at="prediction", steps=1),
    ],
    ids=["reconstruction", "training", "prediction"],
)
def test_a_spatial_run_needs_to_know_where_cells_lie(bench: Bench, spec: RunSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"where the cells of slide .* lie is not known, and the run is sp"):
        bench.run(spec, tmp_path.name, cells={})
    assert not (bench.folder / tmp_path.name / "predictions.parquet").exists()


def test_runs_without_neighbours_need_no_places(bench: Bench) -> None:
    known = bench.run(spec_of(COMBINED, steps=2), "with-places")
    assert same_model(known, bench.run(spec_of(COMBINED, steps=2), "without-places", cells=None))


@pytest.mark.parametrize(
    ("spec", "loss"),
    [
        (spec_of(COMBINED), 21.603),
        (spec_of({"simprop": 1.0}), 21.488),
        (spec_of({"prop": 1.0, "vat": 0.25, "ot": 3.0}, mix="mixbag"), 78.119),
        (spec_of({"prop": 1.0}, unfreeze="none"), 10.184),
    ],
    ids=["combined", "simprop", "drawn", "frozen"],
)
def test_runs_without_neighbours_have_the_numbers_they_always_had(
    bench: Bench, spec: RunSpec, loss: float
) -> None:
    """Sums of the loss over all steps, as before anything knew of neighbours; they hold on any machine."""
    assert history(bench.run(spec, f"always-{spec.id}"))["loss"].sum() == pytest.approx(loss, rel=1e-3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
