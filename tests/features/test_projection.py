"""The learnt projection of ready-made features: any scale, training cells alone, all in the model file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from myostage import tables
from myostage.errors import UserError
from myostage.features import tokens
from myostage.features.projection import Moments, Projection, moments_of
from myostage.features.tokens import TokenStore
from myostage.learning import runs
from myostage.learning.tables import predictions_table
from myostage.study.sections.encoder import NOT_IN_TOKENS, Encoder
from support import token_runs
from support.token_runs import COMBINED, PROPORTIONS, Bench, K, outcome, predictions, spec_of

READY_MADE = Encoder(model="table/features", weights="none", projection=16)
D = 10


def write(path: Path, values: np.ndarray, encoder: Encoder = READY_MADE) -> None:
    described = {"encoder": encoder.model_dump_json(exclude=NOT_IN_TOKENS)}
    with tokens.writer(path, tokens=1, width=values.shape[1], metadata=described) as out:
        out.write(
            np.arange(len(values), dtype=np.int32) * 2, torch.from_numpy(values[:, None].astype(np.float16))
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Features of very different scales and offsets, one constant in the training slides."""
    made = token_runs.make(tmp_path_factory.mktemp("features"))
    rng = np.random.default_rng(1)
    directions = np.random.default_rng(5).normal(size=(K, D))
    paths = {}
    for slide, stages in made.truth.items():
        values = directions[stages] + rng.normal(scale=0.5, size=(len(stages), D))
        values = values * np.geomspace(1e-3, 1e3, D) + np.linspace(-50, 50, D)
        values[:, 3] = 7.0
        paths[slide] = made.folder / f"{slide}-features.parquet"
        write(paths[slide], values)
    return replace(made, tokens=paths)


def fitted(bench: Bench) -> np.ndarray:
    """Features [n, D] of the slides of the fold that is learnt from."""
    return np.concatenate(
        [TokenStore(bench.tokens[f"{g}_a1"]).read()[:, 0].double().numpy() for g in PROPORTIONS]
    )


def test_moments_of_slides_add_up() -> None:
    values = np.random.default_rng(0).normal(1e4, 0.1, (300, 4))
    parts = [Moments.of(part) for part in np.split(values, [5, 5, 120])]
    found = sum(parts[1:], parts[0])
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.sd, values.std(0), rtol=1e-7)


def test_features_are_standardised_by_the_training_slides_alone(bench: Bench) -> None:
    out = bench.run(spec_of(COMBINED, encoder=READY_MADE), "standardised")
    state = load_file(out / "model.safetensors")
    values = fitted(bench)
    np.testing.assert_allclose(state["suffix.mean"], values.mean(0), rtol=1e-5)
    sd = values.std(0)
    np.testing.assert_allclose(
        state["suffix.scale"], np.divide(1, sd, out=np.zeros(D), where=sd > 0), rtol=1e-4
    )
    assert state["suffix.scale"][3] == 0


@pytest.mark.parametrize("losses", [COMBINED, {"prop": 1.0}, {"simprop": 1.0}], ids="+".join)
def test_stages_are_learnt_from_features_of_any_scale(
    bench: Bench, losses: dict[str, float], tmp_path: Path
) -> None:
    spec = spec_of(losses, encoder=READY_MADE, steps=80, learning_rate=5e-3, encoder_learning_rate=5e-3)
    out = bench.run(spec, f"learn-{'-'.join(losses)}", labels=None)
    found = predictions(out)
    for slide in ("d5_a0", "other"):
        assert (found.loc[found["slide"] == slide, "stage"] == bench.truth[slide]).mean() > 0.9, slide
    assert found["embedding"].str.len().unique().tolist() == [16]
    runs.predict_run(out / "model.safetensors", bench.tokens, tmp_path / "again.parquet", device="cpu")
    again = tables.read(tmp_path / "again.parquet", predictions_table(K)).set_index(["slide", "cell"])
    own = found.set_index(["slide", "cell"])
    np.testing.assert_allclose(
        np.stack(again.loc[own.index, "probabilities"]), np.stack(own["probabilities"]), atol=1e-6
    )


def test_supervised_runs_and_chosen_settings_train_a_projection(bench: Bench) -> None:
    supervised = spec_of({"cross_entropy": 1.0}, "supervised", READY_MADE, steps=60, learning_rate=5e-3)
    found = predictions(bench.run(supervised, "supervised"))
    own = found[found["slide"] == "d5_a0"]
    assert (own["stage"] == bench.truth["d5_a0"]).mean() > 0.9
    choose = {"vary": {"learning_rate": [1e-5, 5e-3]}, "parts": 2}
    chosen = spec_of({"prop": 1.0}, encoder=READY_MADE, steps=30, choose=choose)
    out = bench.run(chosen, "chosen", choices_out=bench.folder / "choices.parquet")
    assert outcome(out)["steps"] == 30 * 5


def test_without_unfreezing_the_embedding_is_the_standardised_features(bench: Bench) -> None:
    spec = spec_of({"prop": 1.0}, encoder=READY_MADE, unfreeze="none", steps=80, learning_rate=5e-3)
    found = predictions(bench.run(spec, "frozen"))
    own = found[found["slide"] == "d5_a0"]
    assert (own["stage"] == bench.truth["d5_a0"]).mean() > 0.9
    values = fitted(bench)
    raw = TokenStore(bench.tokens["d5_a0"]).read()[:, 0].double().numpy()
    sd = np.where(values.std(0) > 0, values.std(0), np.inf)
    expected = (raw - values.mean(0)) / sd
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.stack(own["embedding"]).astype(float), expected, atol=2e-3)


def test_the_projection_starts_from_the_seed_and_learns_by_block_alone() -> None:
    ones = np.ones(D)
    one, same, other = (Projection(0 * ones, ones, 8, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.network[0].weight, other.network[0].weight)
    assert one.trainable("block") == list(one.parameters())
    assert one.trainable("none") == [] and not any(p.requires_grad for p in one.parameters())
    with pytest.raises(UserError, match="unfreeze is attention, and ready-made features have none"):
        one.trainable("attention")


def test_other_encoders_keep_their_ids_and_a_projection_shapes_no_tokens() -> None:
    plain = Encoder()
    assert "projection" not in plain.model_dump() and "projection" not in plain.model_dump_json()
    assert READY_MADE.id == READY_MADE.model_copy(update={"projection": 8}).id
    runs_of = {
        spec_of({"prop": 1.0}, encoder=READY_MADE.model_copy(update={"projection": p})).id for p in (8, 16)
    }
    assert len(runs_of) == 2


def test_moments_of_stores_are_those_of_their_cells(bench: Bench) -> None:
    stores = [TokenStore(path) for path in bench.tokens.values()]
    values = np.concatenate([store.read()[:, 0].double().numpy() for store in stores])
    found = moments_of(stores)
    assert found.cells == len(values)
    np.testing.assert_allclose(found.mean, values.mean(0))
    np.testing.assert_allclose(found.sd, values.std(0), atol=1e-9)
