"""Runs on synthetic tokens whose stage is known: learning, resuming, baselines, applying a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from myostage import runs, schemas, tokens, train
from myostage.config import Architecture, Encoder, RunSpec, Training
from myostage.errors import UserError

K = 3
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
        options = {"labels": self.labels, "tokens": self.tokens, "made_by": "test"} | options
        runs.train_run(
            spec,
            stages=K,
            proportions=PROPORTIONS,
            splits=self.splits,
            model_out=out / "model.safetensors",
            history_out=out / "history.parquet",
            predictions_out=out / "predictions.parquet",
            checkpoint_dir=out / "checkpoint",
            device="cpu",
            threads=1,
            **options,
        )
        return out


def write_tokens(
    path: Path, stages: np.ndarray, rng: np.random.Generator, encoder: Encoder = ENCODER
) -> None:
    # Each stage has a direction of its own, in every token; cell numbers have gaps, as after dropped crops.
    directions = np.random.default_rng(5).normal(size=(K, WIDTH))
    values = directions[stages][:, None] + rng.normal(scale=0.7, size=(len(stages), TOKENS, WIDTH))
    described = {"encoder": encoder.model_dump_json(exclude={"batch_size", "pool"})}
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


def spec_of(losses: dict[str, float], method: str = "proportions", **training: Any) -> RunSpec:
    settings = {"steps": 24, "bag_size": 16, "checkpoint_every": 5, "bins": 6, "sigma": 0.1} | training
    return RunSpec.model_validate(
        {
            "method": method,
            "losses": losses,
            "training": Training(**settings).model_dump(),
            "encoder": ENCODER.model_dump(),
            "folds": 2,
            "fold": 0,
            "seed": 3,
        }
    )


def predictions(folder: Path) -> pd.DataFrame:
    return schemas.read(folder / "predictions.parquet", schemas.predictions_table(K))


def accuracy(frame: pd.DataFrame, bench: Bench, slide: str) -> float:
    own = frame[frame["slide"] == slide]
    return float((own["stage"].to_numpy() == bench.truth[slide]).mean())


@pytest.mark.parametrize("losses", [COMBINED, {"prop": 1.0}, {"simprop": 1.0}], ids="+".join)
def test_stages_are_learnt_from_proportions_alone(bench: Bench, losses: dict[str, float]) -> None:
    spec = spec_of(losses, steps=80, learning_rate=5e-3, encoder_learning_rate=1e-3)
    out = bench.run(spec, f"learn-{len(losses)}{min(losses)}", labels=None)
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
    ],
    ids=["combined", "simprop-head", "simprop-end", "frozen", "supervised", "start"],
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
    first, second = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    for table, file in (
        (schemas.HISTORY, "history.parquet"),
        (schemas.predictions_table(K), "predictions.parquet"),
    ):
        assert schemas.read_arrow(whole / file, table).equals(schemas.read_arrow(resumed / file, table))
    assert not (resumed / "checkpoint").exists()


@pytest.fixture
def checkpoints(tmp_path: Path) -> train.Checkpoints:
    made = train.Checkpoints(tmp_path, "mine")
    for step in (5, 10, 15):
        made.save(0, step, {"model": {"w": torch.ones(9)}})
    return made


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    checkpoints: train.Checkpoints, caplog: pytest.LogCaptureFixture
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
    checkpoints: train.Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    assert train.Checkpoints(checkpoints.folder, "yours").load() is None
    assert "of another specification or other data" in caplog.text


def test_the_fingerprint_follows_what_shapes_the_numbers() -> None:
    spec = spec_of(COMBINED)
    known = train.fingerprint(spec, K, "data")
    assert train.fingerprint(spec_of(COMBINED, checkpoint_every=7, cache_mb=1), K, "data") == known
    others = [(spec_of(COMBINED, sigma=0.2), K, "data"), (spec, K + 1, "data"), (spec, K, "other")]
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


def test_history_tells_every_step_and_the_rate_applied(bench: Bench) -> None:
    spec = spec_of({"simprop": 2.0, "prop": 0.5})
    history = schemas.read(bench.run(spec, "history") / "history.parquet", schemas.HISTORY)
    assert history["step"].tolist() == list(range(24))
    wanted = [spec.training.learning_rate * train.schedule(step, spec.training) for step in range(24)]
    np.testing.assert_allclose(history["learning_rate"], wanted, rtol=1e-6)
    np.testing.assert_allclose(history["loss"], 2 * history["simprop"] + 0.5 * history["prop"], rtol=1e-5)
    assert history["cell"].isna().all()
    assert (history["gradient_norm"] > 0).all()


@pytest.mark.parametrize(
    ("settings", "moving"),
    [
        ({"unfreeze": "none"}, set()),
        ({"unfreeze": "attention"}, {"block.attn"}),
        ({"unfreeze": "block"}, {"block.attn", "block.mlp", "block.norm1", "block.norm2", "norm"}),
        ({"head_gradient": "detached"}, set()),
    ],
    ids=["none", "attention", "block", "detached"],
)
def test_only_what_is_unfrozen_moves(bench: Bench, settings: dict[str, str], moving: set[str]) -> None:
    before = runs.suffix_of(ENCODER).state_dict()
    out = bench.run(
        spec_of({"prop": 1.0}, weight_decay=0.0, **settings), f"moves-{len(moving)}-{len(settings)}"
    )
    after = load_file(out / "model.safetensors")
    changed = {key for key, value in before.items() if not torch.equal(value, after[f"suffix.{key}"])}
    parts = {".".join(key.split(".")[: 2 if key.startswith("block") else 1]) for key in changed}
    assert parts == moving


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


def test_a_loss_that_is_not_finite_names_run_step_and_checkpoint(bench: Bench) -> None:
    spec = spec_of({"prop": 1.0}, learning_rate=1e30, weight_decay=0.0, checkpoint_every=1)
    with pytest.raises(
        UserError, match=rf"run {spec.id}: .* at step \d+ of phase 0 .*checkpoint is .*step0+1.pt"
    ):
        bench.run(spec, "diverged")


def test_simprop_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="nothing would learn"):
        train.phases(spec_of({"simprop": 1.0}, unfreeze="none"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
