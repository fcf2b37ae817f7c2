"""Gradients of the losses: against finite differences, against training's own, and where they do not go."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from myostage import tables
from myostage.errors import UserError
from myostage.evaluation import gradients
from myostage.evaluation.tables import GRADIENTS
from myostage.features import tokens
from myostage.learning import train
from myostage.learning.runs import suffix_of
from myostage.learning.steps import BagPair
from myostage.learning.tables import SPLITS
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import NOT_IN_TOKENS, Architecture, Encoder
from myostage.study.sections.training import Training

STAGES = ("early", "middle", "late")
TOKENS, WIDTH, CELLS = 17, 24, 30
ENCODER = Encoder(
    model=None, architecture=Architecture(patch_px=16, width=WIDTH, depth=3, heads=2), weights="none"
)
PROPORTIONS = {
    "d3": np.array([0.7, 0.3, 0.0]),
    "d5": np.array([0.2, 0.6, 0.2]),
    "d14": np.array([0.0, 0.1, 0.9]),
}
FOLD_OF = {"d3_a": 0, "d3_b": 1, "d5_a": 0, "d5_b": 1, "d14_a": 0, "d14_b": 1, "other": -1}


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.tokens = folder, {}
        rng = np.random.default_rng(0)
        for slide in FOLD_OF:
            self.tokens[slide] = folder / f"{slide}.parquet"
            described = {"encoder": ENCODER.model_dump_json(exclude=NOT_IN_TOKENS)}
            with tokens.writer(self.tokens[slide], tokens=TOKENS, width=WIDTH, metadata=described) as out:
                values = rng.normal(size=(CELLS, TOKENS, WIDTH)).astype(np.float16)
                out.write(np.arange(CELLS, dtype=np.int32), torch.from_numpy(values))
        frame = pd.DataFrame({"slide": list(FOLD_OF), "fold": list(FOLD_OF.values()), "cells": CELLS})
        frame["animal"] = frame["slide"]
        frame["group"] = frame["slide"].str.partition("_")[0].where(frame["fold"] >= 0, "")
        self.splits = folder / "splits.parquet"
        tables.write(self.splits, frame, SPLITS)

    def flow(self, pool: str = "cls", blocks: int = 1, **training: Any) -> pd.DataFrame:
        out = self.folder / "gradients.parquet"
        gradients.gradient_flow(
            spec_of(pool, blocks, **training),
            stages=STAGES,
            proportions=PROPORTIONS,
            splits=self.splits,
            tokens=self.tokens,
            gradients_out=out,
            cells=8,
            threads=1,
        )
        return tables.read(out, GRADIENTS)


def spec_of(pool: str = "cls", blocks: int = 1, **training: Any) -> RunSpec:
    encoder = ENCODER.model_dump() | {"pool": pool, "trained_blocks": blocks}
    return RunSpec.model_validate(
        {
            "method": "proportions",
            "losses": {"simprop": 1.0, "prop": 1.0},
            "training": Training(**training).model_dump(),
            "encoder": encoder,
            "folds": 2,
            "fold": 0,
            "seed": 3,
        }
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("gradients"))


def _disagreement(table: pd.DataFrame) -> float:
    larger = table[["slope", "finite_difference", "norm"]].abs().max(axis=1)
    apart = (table["slope"] - table["finite_difference"]).abs()
    return float((apart / larger.where(larger > 0, 1)).max())


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"pool": "cls+mean"},
        {"pairs": "aligned", "target": "truncated", "divide": "released"},
        {"stop_gradient": True},
        {"order": ("late", "early", "middle"), "bins": 20, "sigma": 0.05},
    ],
    ids=str,
)
def test_gradients_agree_with_finite_differences(bench: Bench, training: dict[str, Any]) -> None:
    table = bench.flow(**training)
    assert _disagreement(table) < 1e-6
    simprop = table[table["loss"] == "simprop"]
    assert set(simprop["parameter"]) == set(table.loc[table["loss"] == "prop", "parameter"])
    assert (simprop.loc[simprop["part"] != "head", "norm"] > 0).all()
    assert (simprop.loc[simprop["part"] == "head", "norm"] == 0).all()
    assert (table.loc[table["loss"] == "prop", "norm"] > 0).all()


def test_a_detached_head_stops_l_prop_before_the_encoder(bench: Bench) -> None:
    table = bench.flow(head_gradient="detached")
    prop = table[table["loss"] == "prop"]
    assert (prop.loc[prop["part"] != "head", ["norm", "finite_difference"]] == 0).all(axis=None)
    assert (prop.loc[prop["part"] == "head", "norm"] > 0).all()
    assert (table.loc[(table["loss"] == "simprop") & (table["part"] == "attention"), "norm"] > 0).all()


def test_a_wrong_gradient_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gradients.simprop

    def doubled(*bags: Any, **options: Any) -> torch.Tensor:
        value = right(*bags, **options)
        return value + (value - value.detach())

    monkeypatch.setattr(gradients, "simprop", doubled)
    table = bench.flow()
    simprop = table["loss"] == "simprop"
    assert _disagreement(table[simprop]) > 0.3
    assert _disagreement(table[~simprop]) < 1e-6


@pytest.mark.parametrize("settings", [{}, {"head_gradient": "detached", "stop_gradient": True}], ids=str)
def test_they_are_the_gradients_of_training(bench: Bench, settings: dict[str, Any]) -> None:
    table = bench.flow(**settings).set_index(["loss", "parameter"])["norm"]
    spec = spec_of(**settings)
    torch.manual_seed(spec.seed)
    model = train.StageModel(suffix_of(spec.encoder), spec.training.hidden, len(STAGES))
    draw = two_bags(bench, spec)
    for loss in ("simprop", "prop"):
        module = torch.nn.ModuleDict({"stages": model})
        source: Any = None  # its scores are of no concern here
        objective = train._Objective(
            0, {loss: 1.0}, module, False, spec, tuple(STAGES), source, torch.device("cpu")
        )
        model.zero_grad()
        objective.terms(draw)[loss].backward()
        norms = {
            name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in model.named_parameters()
        }
        pd.testing.assert_series_equal(table[loss], pd.Series(norms), rtol=1e-3, atol=1e-6, check_names=False)


def two_bags(bench: Bench, spec: RunSpec) -> BagPair:
    """What the gradients of a run are taken of."""
    learnt = gradients._learnt(spec, bench.splits, bench.tokens)
    return gradients._two_bags(spec, learnt, bench.tokens, PROPORTIONS, 8)


def test_bags_are_of_the_groups_that_differ_most_and_not_held_out(bench: Bench) -> None:
    draw = two_bags(bench, spec_of())
    assert (
        draw.p_a.tolist() == PROPORTIONS["d14"].tolist() and draw.p_b.tolist() == PROPORTIONS["d3"].tolist()
    )
    assert draw.cells_a == 8 and len(draw.inputs) == 16
    rows = np.linspace(0, CELLS - 1, 8).round().astype(int)
    wanted = tokens.TokenStore(bench.tokens["d14_b"]).read_rows(rows).double()
    assert torch.equal(draw.inputs[:8], wanted)


def test_parts_of_a_model_of_two_blocks(tmp_path: Path) -> None:
    spec = spec_of(blocks=2)
    model = train.StageModel(suffix_of(spec.encoder), spec.training.hidden, len(STAGES))
    names = [name for name, _ in model.named_parameters()]
    parts = pd.Series({name: gradients.part_of(name) for name in names}).value_counts().to_dict()
    # Two blocks of 4 attention and 4 mlp parameters and two norms, the last norm, and three linear layers.
    assert parts == {"attention": 8, "mlp": 8, "norm": 10, "head": 6}
    assert gradients.part_of("suffix.blocks.2.ls1.gamma") == "attention"
    assert gradients.part_of("suffix.blocks.2.attn.q_norm.weight") == "attention"
    assert gradients.part_of("suffix.network.0.weight") == "projection"


def test_a_fold_without_slides_is_named(bench: Bench, tmp_path: Path) -> None:
    splits = tables.read(bench.splits, SPLITS).query("fold == 0")
    tables.write(tmp_path / "splits.parquet", splits, SPLITS)
    with pytest.raises(UserError, match="fold 0 leaves no slide"):
        gradients._learnt(spec_of(), tmp_path / "splits.parquet", bench.tokens)
    with pytest.raises(UserError, match="no token file is given for slide d14_b"):
        gradients._learnt(spec_of(), bench.splits, {})
