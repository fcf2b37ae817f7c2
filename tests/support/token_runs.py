"""Runs on synthetic tokens whose stage is known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from myostage import tables
from myostage.cells.tables import LABELS, POSITIONS
from myostage.features import tokens
from myostage.learning import runs
from myostage.learning.baseline_runs import predict_baseline
from myostage.learning.tables import HISTORY, OUTCOME, SPLITS, predictions_table
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import NOT_IN_TOKENS, Architecture, Encoder
from myostage.study.sections.graph import Graph
from myostage.study.sections.healthy import Healthy
from myostage.study.sections.training import Training

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
REGRESSION = {"mse": 1.0, "dist": 0.5, "supcr": 0.25, "cell": 2.0}
RECONSTRUCTION = {"prop": 1.0, "spatial_reconstruction": 1.0}
HEALTHY = Healthy(groups=("d14",), stages=("late",))


def outputs_of(folder: Path) -> dict[str, Path]:
    """What a run writes into its folder."""
    names = {"model": "safetensors", "history": "parquet", "predictions": "parquet", "outcome": "parquet"}
    return {f"{name}_out": folder / f"{name}.{ending}" for name, ending in names.items()}


@dataclass(frozen=True)
class Bench:
    """A study's tokens, places of cells, labels and splits in a folder."""

    folder: Path
    splits: Path
    tokens: dict[str, Path]
    cells: dict[str, Path]
    labels: dict[str, Path]
    truth: dict[str, np.ndarray]

    def run(self, spec: RunSpec, name: str = "run", **options: Any) -> Path:
        """Train ``spec`` below ``name`` and return that folder."""
        out = self.folder / name
        options = {
            "labels": self.labels,
            "tokens": self.tokens,
            "cells": self.cells,
            "proportions": PROPORTIONS,
            "made_by": "test",
        } | options
        runs.train_run(
            spec,
            stages=STAGES,
            splits=self.splits,
            checkpoint_dir=out / "checkpoint",
            device="cpu",
            threads=1,
            **outputs_of(out),
            **options,
        )
        return out

    def predict_baseline(self, method: str, name: str, crops: dict[str, Path]) -> Path:
        """Predict a baseline below ``name`` and return that folder."""
        out = self.folder / name
        predict_baseline(
            spec_of({}, method),
            stages=STAGES,
            proportions=PROPORTIONS,
            splits=self.splits,
            crops=crops,
            **outputs_of(out),
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


def make(folder: Path) -> Bench:
    """Two animals a group, one held out, and a slide that is staged only."""
    rng = np.random.default_rng(0)
    rows, paths, labels, truth, places = [], {}, {}, {}, {}
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
        tables.write(labels[slide], table, LABELS)
        places[slide] = folder / f"{slide}-positions.parquet"
        at = np.random.default_rng(len(places)).uniform(0, 200, (len(cells), 2))
        table = pd.DataFrame({"cell": cells, "x_um": at[:, 0], "y_um": at[:, 1]})
        tables.write(places[slide], table.sample(frac=1, random_state=1), POSITIONS)
    splits = folder / "splits.parquet"
    frame = pd.DataFrame(rows, columns=["slide", "group", "animal", "cells", "fold"])
    tables.write(splits, frame, SPLITS)
    return Bench(folder, splits, paths, places, labels, truth)


def spec_of(
    losses: Mapping[str, float],
    method: str = "proportions",
    encoder: Encoder = ENCODER,
    graph: Graph | None = None,
    seed: int = 3,
    **training: Any,
) -> RunSpec:
    """A run; with the loss `cell` also what is healthy, of anything spatial a ``graph``."""
    settings = {"steps": 24, "bag_size": 16, "checkpoint_every": 5, "bins": 6, "sigma": 0.1} | training
    return RunSpec.model_validate(
        {
            "method": method,
            "losses": losses,
            "training": Training(**settings).model_dump(),
            "encoder": encoder.model_dump(),
            "graph": graph and graph.model_dump(),
            "healthy": HEALTHY.model_dump() if "cell" in losses else None,
            "folds": 2,
            "fold": 0,
            "seed": seed,
        }
    )


def predictions(folder: Path) -> pd.DataFrame:
    return tables.read(folder / "predictions.parquet", predictions_table(K))


def history(folder: Path) -> pd.DataFrame:
    return tables.read(folder / "history.parquet", HISTORY)


def outcome(folder: Path) -> pd.Series:
    table = tables.read(folder / "outcome.parquet", OUTCOME)
    assert len(table) == 1
    return table.iloc[0]


def same_model(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)
