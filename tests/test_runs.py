"""Runs on synthetic tokens whose stage is known: learning, resuming, failing, baselines, applying a model."""

from collections.abc import Iterator, Mapping
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

from myostage import bags, encoder, losses, runs, schemas, tokens, train
from myostage.checkpoints import Checkpoints
from myostage.config import NOT_IN_TOKENS, PRESETS, Architecture, Dino, Encoder, RunSpec, Training
from myostage.errors import UserError

STAGES = ("early", "middle", "late")
K = len(STAGES)
TOKENS, WIDTH = 17, 24
CELLS = 60
ENCODER = Encoder(
    model=None, architecture=Architecture(patch_px=16, width=WIDTH, depth=2, heads=2), weights="none"
)
PROPORTIONS = {
    "d3": np.array([0.7, 0.3, 0.0]),
    "d5": np.array([0.2, 0.6, 0.2]),
    "d14": np.array([0.0, 0.1, 0.9]),
}
COMBINED = {"simprop": 1.0, "prop": 1.0}


@dataclass(frozen=True)
class Bench:
    """A study's tokens, labels and splits in a folder."""

    folder: Path
    splits: Path
    tokens: dict[str, Path]
    labels: dict[str, Path]
    truth: dict[str, np.ndarray]

    def run(self, spec: RunSpec, name: str = "run", **options: Any) -> Path:
        """Train ``spec`` below ``name`` and return that folder."""
        out = self.folder / name
        options = {
            "labels": self.labels,
            "tokens": self.tokens,
            "proportions": PROPORTIONS,
            "made_by": "test",
        } | options
        runs.train_run(
            spec,
            stages=STAGES,
            splits=self.splits,
            model_out=out / "model.safetensors",
            history_out=out / "history.parquet",
            predictions_out=out / "predictions.parquet",
            outcome_out=out / "outcome.parquet",
            checkpoint_dir=out / "checkpoint",
            device="cpu",
            threads=1,
            **options,
        )
        return out

    def under(self, encoder: Encoder, name: str) -> "Bench":
        """The same tokens as if another encoder had made them."""
        paths = {slide: self.folder / name / f"{slide}.parquet" for slide in self.truth}
        rng = np.random.default_rng(0)
        for slide, path in paths.items():
            write_tokens(path, self.truth[slide], rng, encoder)
        return replace(self, tokens=paths)


def write_tokens(
    path: Path, stages: np.ndarray, rng: np.random.Generator, encoder: Encoder = ENCODER
) -> None:
    # Each stage has a direction of its own, in every token; cell numbers have gaps, as after dropped crops.
    directions = np.random.default_rng(5).normal(size=(K, WIDTH))
    values = directions[stages][:, None] + rng.normal(scale=0.7, size=(len(stages), TOKENS, WIDTH))
    described = {"encoder": encoder.model_dump_json(exclude=NOT_IN_TOKENS)}
    with tokens.writer(path, tokens=TOKENS, width=WIDTH, metadata=described) as out:
        out.write(np.arange(len(stages), dtype=np.int32) * 2, torch.from_numpy(values.astype(np.float16)))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    rows, paths, labels, truth = [], {}, {}, {}
    for fold in (0, 1):
        for group, p in PROPORTIONS.items():
            slide = f"{group}_a{fold}"
            truth[slide] = rng.permutation(np.repeat(np.arange(K), np.round(p * CELLS).astype(int)))
            rows.append((slide, group, slide, CELLS, fold))
    truth["other"] = np.full(CELLS, 2)
    rows.append(("other", "", "other", CELLS, -1))
    for slide, stages in truth.items():
        paths[slide] = folder / f"{slide}.parquet"
        write_tokens(paths[slide], stages, rng)
        labels[slide] = folder / f"{slide}-labels.parquet"
        # Cell 1 has a label and no crop.
        cells = np.append(np.arange(len(stages)) * 2, 1)
        table = pd.DataFrame({"cell": cells, "stage": np.append(stages, 0), "iou": 1.0})
        schemas.write(labels[slide], table, schemas.LABELS)
    splits = folder / "splits.parquet"
    frame = pd.DataFrame(rows, columns=["slide", "group", "animal", "cells", "fold"])
    schemas.write(splits, frame, schemas.SPLITS)
    return Bench(folder, splits, paths, labels, truth)


def spec_of(
    losses: Mapping[str, float], method: str = "proportions", encoder: Encoder = ENCODER, **training: Any
) -> RunSpec:
    settings = {"steps": 24, "bag_size": 16, "checkpoint_every": 5, "bins": 6, "sigma": 0.1} | training
    return RunSpec.model_validate(
        {
            "method": method,
            "losses": losses,
            "training": Training(**settings).model_dump(),
            "encoder": encoder.model_dump(),
            "folds": 2,
            "fold": 0,
            "seed": 3,
        }
    )


def predictions(folder: Path) -> pd.DataFrame:
    return schemas.read(folder / "predictions.parquet", schemas.predictions_table(K))


def history(folder: Path) -> pd.DataFrame:
    return schemas.read(folder / "history.parquet", schemas.HISTORY)


def outcome(folder: Path) -> pd.Series:
    table = schemas.read(folder / "outcome.parquet", schemas.OUTCOME)
    assert len(table) == 1
    return table.iloc[0]


def same_model(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


def accuracy(frame: pd.DataFrame, bench: Bench, slide: str) -> float:
    own = frame[frame["slide"] == slide]
    return float((own["stage"].to_numpy() == bench.truth[slide]).mean())


@pytest.mark.parametrize(
    "losses",
    [COMBINED, {"prop": 1.0}, {"simprop": 1.0}, {"prop": 1.0, "vat": 0.3}, {"prop": 1.0, "ot": 0.3}],
    ids="+".join,
)
def test_stages_are_learnt_from_proportions_alone(bench: Bench, losses: dict[str, float]) -> None:
    spec = spec_of(losses, steps=80, learning_rate=5e-3, encoder_learning_rate=1e-3)
    out = bench.run(spec, f"learn-{'-'.join(losses)}", labels=None)
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


class Killed(BaseException):
    """What a killed process looks like to the code it interrupts."""


@pytest.mark.parametrize(
    ("spec", "killed_at", "resumed_at"),
    [
        (spec_of(COMBINED), 17, 15),
        (spec_of({"simprop": 1.0}), 24 + 13, 24 + 10),  # in the head's own phase
        (spec_of({"simprop": 1.0}), 24 + 2, 24),  # before that phase has a checkpoint
        (spec_of({"prop": 1.0}, unfreeze="none"), 9, 5),
        (spec_of({"cell": 1.0}, "supervised", bags="group"), 12, 10),
        (spec_of(COMBINED), 3, 0),  # before the first checkpoint
        (spec_of({"prop": 1.0, "vat": 1.0, "ot": 1.0}, mix="mixbag"), 17, 15),  # terms that draw
        (spec_of({"prop": 1.0, "vat": 1.0}, unfreeze="none"), 9, 5),
    ],
    ids=["combined", "simprop-head", "simprop-end", "frozen", "supervised", "start", "drawn", "drawn-frozen"],
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
        (schemas.HISTORY, "history.parquet"),
        (schemas.predictions_table(K), "predictions.parquet"),
    ):
        assert schemas.read_arrow(whole / file, table).equals(schemas.read_arrow(resumed / file, table))
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
    paths[0].write_bytes(b"")
    assert checkpoints.load() is None
    assert checkpoints.last() == "there is no checkpoint yet"


def test_a_checkpoint_of_another_run_is_not_resumed(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    assert Checkpoints(checkpoints.folder, "yours").load() is None
    assert "of another specification or other data" in caplog.text


def test_the_fingerprint_follows_what_shapes_the_numbers() -> None:
    spec = spec_of(COMBINED)
    known = train.fingerprint(spec, STAGES, "data")
    assert train.fingerprint(spec_of(COMBINED, checkpoint_every=7, cache_mb=1), STAGES, "data") == known
    others = [
        (spec_of(COMBINED, sigma=0.2), STAGES, "data"),
        (spec, STAGES[::-1], "data"),
        (spec, STAGES, "other"),
    ]
    assert known not in [train.fingerprint(*other) for other in others]


@given(steps=st.integers(1, 400), warmup=st.floats(0, 0.99))
def test_schedule_warms_up_and_falls(steps: int, warmup: float) -> None:
    training = Training(steps=steps, warmup=warmup)
    factors = [train.schedule(step, training) for step in range(steps)]
    rising = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:rising] == sorted(factors[:rising])
    assert factors[rising:] == sorted(factors[rising:], reverse=True)
    if rising < steps:
        assert factors[rising] == 1
    constant = Training(steps=steps, warmup=warmup, schedule="constant")
    assert [train.schedule(step, constant) for step in range(steps)] == factors[:rising] + [1.0] * (
        steps - rising
    )


def test_history_tells_every_step_and_the_rate_applied(bench: Bench) -> None:
    spec = spec_of({"simprop": 2.0, "prop": 0.5})
    told = history(bench.run(spec, "history"))
    assert told["step"].tolist() == list(range(24))
    wanted = [spec.training.learning_rate * train.schedule(step, spec.training) for step in range(24)]
    np.testing.assert_allclose(told["learning_rate"], wanted, rtol=1e-6)
    np.testing.assert_allclose(told["loss"], 2 * told["simprop"] + 0.5 * told["prop"], rtol=1e-5)
    assert told[["vat", "ot", "cell"]].isna().all(axis=None)
    assert (told["gradient_norm"] > 0).all()


def test_every_term_is_told_and_weighed(bench: Bench) -> None:
    weights = {"prop": 1.0, "vat": 0.25, "ot": 3.0}
    spec, backwards = (spec_of(dict(terms), steps=5) for terms in (weights.items(), [*weights.items()][::-1]))
    told = history(bench.run(spec, "terms"))
    assert spec.id == backwards.id
    pd.testing.assert_frame_equal(told, history(bench.run(backwards, "terms-backwards")))
    wanted = sum(weight * told[name] for name, weight in weights.items())
    np.testing.assert_allclose(told["loss"], wanted, rtol=1e-5)
    assert told[["simprop", "cell"]].isna().all(axis=None)


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
    by_hand = bench.run(
        spec_of(COMBINED, steps=8), "by-hand", proportions=bags.perturbed(PROPORTIONS, 0.4, 3)
    )
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
    spec = spec_of(preset["losses"], **preset["training"])
    out = bench.run(spec, "released")
    told = history(out)
    assert (told["gradient_norm"] > 0).all() and told["prop"].notna().all()
    # Its L_prop alone trains nothing: the head is frozen and its input detached.
    alone = spec_of({"prop": 1.0}, **preset["training"])
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
    original = losses.mixbag

    def mixbag(*bags: Any, **options: Any) -> torch.Tensor:
        asked.append(bags)
        return original(*bags, **options)

    monkeypatch.setattr(losses, "mixbag", mixbag)
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


def source_of(bench: Bench, spec: RunSpec) -> runs.BagSource:
    table = schemas.read(bench.splits, schemas.SPLITS)
    learnt = table[table["fold"] == 1]
    stores = {slide: runs.token_store(bench.tokens[slide]) for slide in learnt["slide"]}
    return runs.BagSource(spec, stores, learnt, PROPORTIONS, torch.device("cpu"))


def test_supervised_sees_the_labels_of_training_slides_only(bench: Bench) -> None:
    spec = spec_of({"cell": 1.0}, "supervised", steps=60, learning_rate=5e-3)
    own = {slide: path for slide, path in bench.labels.items() if slide.endswith("_a1")}
    found = predictions(bench.run(spec, "supervised", labels=own))
    assert accuracy(found, bench, "d5_a0") > 0.9
    with pytest.raises(UserError, match=r"draws 16 labelled cells, and the training slides have 0"):
        bench.run(spec, "unlabelled", labels={"d5_a0": bench.labels["d5_a0"]})


def test_baselines_predict_given_proportions(bench: Bench) -> None:
    crops = {slide: bench.folder / f"{slide}-crops.parquet" for slide in bench.truth}
    image = bytes(schemas.CROP_PX * schemas.CROP_PX * 3)
    for path in crops.values():
        schemas.write(path, pd.DataFrame({"cell": range(CELLS), "image": [image] * CELLS}), schemas.CROPS)
    everyone = bench.run(spec_of({}, "majority"), "majority", labels=None, tokens=crops)
    mean = np.mean(list(PROPORTIONS.values()), axis=0)
    found = predictions(everyone)
    np.testing.assert_allclose(np.stack(found["probabilities"]), np.tile(mean, (4 * CELLS, 1)), rtol=1e-6)
    assert set(found["stage"]) == {int(mean.argmax())}
    assert schemas.read(everyone / "history.parquet", schemas.HISTORY).empty
    own = predictions(bench.run(spec_of({}, "group_majority"), "group-majority", labels=None))
    for slide, share in (("d3_a0", PROPORTIONS["d3"]), ("d14_a0", PROPORTIONS["d14"]), ("other", mean)):
        np.testing.assert_allclose(own.loc[own["slide"] == slide, "probabilities"].iloc[0], share, rtol=1e-6)


@pytest.mark.parametrize("method", ["proportions", "majority"])
def test_a_finished_run_is_applied_to_other_slides(bench: Bench, method: str, tmp_path: Path) -> None:
    out = bench.run(spec_of(COMBINED if method == "proportions" else {}, method), f"apply-{method}")
    known = predictions(out)
    model, again = out / "model.safetensors", tmp_path / "predictions.parquet"
    runs.predict_run(
        model, {slide: bench.tokens[slide] for slide in known["slide"].unique()}, again, device="cpu"
    )
    pd.testing.assert_frame_equal(schemas.read(again, schemas.predictions_table(K)), known)


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
    told = schemas.read_arrow(out / "predictions.parquet", schemas.predictions_table(K)).schema.metadata
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


def test_the_outcome_tells_what_a_run_cost(bench: Bench) -> None:
    found = outcome(bench.run(spec_of({"prop": 1.0}), "cost"))
    assert found["status"] == "ok" and found["device"] == "cpu" and found["steps"] == 24
    assert found["seconds"] > 0 and found["cpu_seconds"] > 0 and found["peak_memory_mb"] > 1
    idle = outcome(bench.run(spec_of({}, "majority"), "no-cost"))
    assert idle["status"] == "ok" and idle["steps"] == 0


@pytest.mark.parametrize(
    "spec", [spec_of(COMBINED), spec_of({"cell": 1.0}, "supervised")], ids=lambda s: s.method
)
def test_labels_of_held_out_cells_change_no_model(bench: Bench, spec: RunSpec, tmp_path: Path) -> None:
    wrong = dict(bench.labels)
    for slide in ("d3_a0", "d5_a0", "d14_a0", "other"):
        wrong[slide] = tmp_path / f"{slide}.parquet"
        table = schemas.read(bench.labels[slide], schemas.LABELS)
        schemas.write(wrong[slide], table.assign(stage=(table["stage"] + 1) % K), schemas.LABELS)
    known = bench.run(spec, f"right-labels-{spec.method}")
    other = bench.run(spec, f"wrong-labels-{spec.method}", labels=wrong)
    assert same_model(known, other)
    pd.testing.assert_frame_equal(predictions(known), predictions(other))


def test_simprop_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="nothing would learn"):
        train.phases(spec_of({"simprop": 1.0}, unfreeze="none"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
