"""A small study as its tables, made up: what figures, notebooks and exports are tested on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from myostage import schemas

STAGES = ("damaged", "small_myotube", "large_myotube", "recovered", "intact")
GIVEN = {
    "d0": [0.0, 0.0, 0.0, 0.0, 1.0],
    "d3": [0.59, 0.41, 0.0, 0.0, 0.0],
    "d7": [0.12, 0.05, 0.77, 0.06, 0.0],
    "d14": [0.01, 0.0, 0.01, 0.98, 0.0],
}
REFERENCE = "prop[sigma=0.1,bins=6]"
MPP = 1.0
SIDE_PX = 640


@dataclass(frozen=True)
class Made:
    """Where the tables lie; a table of one slide by the slide's name."""

    root: Path
    groups: dict[str, str]

    def study(self, name: str) -> str:
        return str(self.root / f"{name}.parquet")

    def of(self, name: str) -> dict[str, str]:
        return {slide: str(self.root / slide / f"{name}.parquet") for slide in self.groups}


def make(root: Path, cells: int = 64) -> Made:
    """Write the tables of a study of two animals a day, staged rightly four times in five."""
    rng = np.random.default_rng(3)
    groups = {f"{day}_a{animal}": day for day in GIVEN for animal in (1, 2)}
    made = Made(root, groups)
    scores = []
    count = len(STAGES)
    for slide, day in groups.items():
        truth = rng.choice(count, cells, p=GIVEN[day])
        predicted = np.where(
            rng.random(cells) < 0.8, truth, np.clip(truth + rng.choice([-1, 1], cells), 0, count - 1)
        )
        sure = rng.uniform(0.4, 0.99, cells)
        probabilities = np.repeat(((1 - sure) / (count - 1))[:, None], count, axis=1)
        probabilities[np.arange(cells), predicted] = sure
        table = _cells(rng, truth)
        schemas.write(made.of("cells")[slide], table, schemas.CELLS)
        # Two cells are dropped as background: they have no crop and no stage.
        kept = np.arange(cells - 2)
        images = rng.integers(90, 240, (len(kept), 1, 3)).repeat(64 * 64, axis=1).astype(np.uint8)
        crops = pd.DataFrame({"cell": kept, "image": [image.tobytes() for image in images]})
        schemas.write(made.of("crops")[slide], crops, schemas.CROPS)
        staged = pd.DataFrame(
            {
                "slide": slide,
                "cell": kept,
                "stage": predicted[kept],
                "probabilities": list(probabilities[kept].astype(np.float32)),
                "embedding": [np.empty(0, dtype=np.float16)] * len(kept),
            }
        )
        schemas.write(made.of("stages")[slide], staged, schemas.predictions_table(count))
        labels = pd.DataFrame({"cell": kept[::2], "stage": truth[kept][::2], "iou": 0.9})
        schemas.write(made.of("labels")[slide], labels, schemas.LABELS)
        shade = np.kron(rng.integers(170, 240, (20, 20, 1)), np.ones((32, 32, 1))) - np.array([0, 60, 30])
        Image.fromarray(shade.astype(np.uint8)).save(root / f"{slide}.png")
        share = np.bincount(predicted[kept], minlength=count) / len(kept)
        scores.append(
            {
                "experiment": "combined",
                "slide": slide,
                "group": day,
                "animal": slide,
                "cells": len(kept),
                "recovery_score": float(share @ np.linspace(0, 1, count)),
                "true_recovery_score": float(truth[kept].mean() / (count - 1))
                if slide != "d0_a1"
                else np.nan,
                "proportions": share,
            }
        )
    schemas.write(made.study("scores"), pd.DataFrame(scores), schemas.SCORES)
    _slides(made)
    _metrics(rng, made)
    _comparisons(made)
    _runs(made)
    _confusion(made)
    _histories(rng, made)
    return made


def _cells(rng: np.random.Generator, truth: np.ndarray) -> pa.Table:
    """Ragged rounds on a grid, larger the further recovered."""
    count = len(truth)
    side = int(np.ceil(np.sqrt(count)))
    pitch = SIDE_PX / side
    x = (np.arange(count) % side + 0.5) * pitch
    y = (np.arange(count) // side + 0.5) * pitch
    radius = pitch * (0.24 + 0.05 * truth) * rng.uniform(0.9, 1.1, count)
    angle = np.linspace(0, 2 * np.pi, 17)[:-1]
    ragged = radius[:, None] * rng.uniform(0.9, 1.1, (count, 16))
    outline = np.stack([x[:, None] + ragged * np.cos(angle), y[:, None] + ragged * np.sin(angle)], axis=2)
    frame = pd.DataFrame(
        {
            "cell": np.arange(count),
            "tile": 0,
            "x_px": x,
            "y_px": y,
            "x_um": x * MPP,
            "y_um": y * MPP,
            "area_um2": np.pi * radius**2,
            "perimeter_um": 2 * np.pi * radius,
            "min_feret_um": 1.9 * radius,
            "max_feret_um": 2.1 * radius,
            "circularity": 0.9,
            "solidity": 0.95,
            "border": np.arange(count) < 3,
            "polygon": list(outline.reshape(count, -1)),
        }
    )
    return pa.Table.from_pandas(frame, schema=schemas.CELLS.schema, preserve_index=False)


def _slides(made: Made) -> None:
    frame = pd.DataFrame({"slide": list(made.groups), "group": list(made.groups.values())})
    frame["path"] = [str(made.root / f"{slide}.png") for slide in made.groups]
    frame["animal"] = frame["slide"]
    frame[["status", "reason", "reader", "mpp_source"]] = ["ok", "", "image", "table"]
    frame[["width_px", "height_px"]] = SIDE_PX
    frame["mpp"], frame["levels"] = MPP, 1
    schemas.write(made.study("slides"), frame, schemas.SLIDES)


def _metrics(rng: np.random.Generator, made: Made) -> None:
    true = {"combined": 0.68, REFERENCE: 0.61, "supervised": 0.88, "majority": 0.37}
    rows = []
    for name, accuracy in true.items():
        values = {
            "accuracy": accuracy,
            "mae": 1.4 * (1 - accuracy),
            "kl": 0.5 * (1 - accuracy),
            "l1": 1 - accuracy,
        }
        values["kappa"] = np.nan if name == "majority" else accuracy - 0.05
        for metric, value in values.items():
            row = {"experiment": name, "metric": metric, "slides": 8, "cells": 3402}
            whole = {
                "run": "",
                "fold": -1,
                "seed": -1,
                "value": value,
                "low": value - 0.09,
                "high": value + 0.07,
            }
            rows.append(row | whole)
            for fold in range(3):
                run = {"run": f"{name}-f{fold}", "fold": fold, "seed": 0, "low": np.nan, "high": np.nan}
                rows.append(row | run | {"value": value + rng.normal(0, 0.04)})
    schemas.write(made.study("metrics"), pd.DataFrame(rows), schemas.METRICS)


def _comparisons(made: Made) -> None:
    """Differences of accuracy to the reference; the experiment without runs that ended well has none."""
    found = {"combined": 0.07, "supervised": 0.27, "majority": -0.24, "broken": np.nan}
    frame = pd.DataFrame({"experiment": list(found), "difference": list(found.values())})
    frame[["reference", "family", "metric"]] = [REFERENCE, "reference", "accuracy"]
    frame["low"], frame["high"] = frame["difference"] - 0.05, frame["difference"] + 0.06
    frame["effect_size"], frame["minimum_detectable"] = frame["difference"] / 0.05, 0.04
    frame["p"], frame["p_holm"] = frame["difference"] * 0 + 0.004, frame["difference"] * 0 + 0.012
    frame["pairs"], frame["slides"] = 3, 8
    schemas.write(made.study("comparisons"), frame, schemas.COMPARISONS)


def _runs(made: Made) -> None:
    """Three runs of every experiment; all of one failed, and the energy of none is known."""
    experiments = ("combined", REFERENCE, "supervised", "majority", "broken")
    rows = [
        {
            "experiment": name,
            "run": f"{name}-f{fold}",
            "fold": fold,
            "status": "failed" if name == "broken" else "ok",
            "reason": "loss is not finite at step 7" if name == "broken" else "",
            "seconds": 10.0 * (place + 1) + fold if name != "broken" else np.nan,
        }
        for place, name in enumerate(experiments)
        for fold in range(3)
    ]
    frame = pd.DataFrame(rows).assign(seed=0, device="cpu", steps=200, joules=np.nan)
    frame["cpu_seconds"], frame["peak_memory_mb"] = 1.5 * frame["seconds"], 20 * frame["seconds"]
    schemas.write(made.study("runs"), frame, schemas.RUNS)


def _confusion(made: Made) -> None:
    count = len(STAGES)
    matrix = np.eye(count) * 80 + np.eye(count, k=1) * 15 + np.eye(count, k=-1) * 12 + np.eye(count, k=3) * 4
    true, predicted = np.nonzero(matrix)
    frame = pd.DataFrame({"true_stage": true, "predicted_stage": predicted, "cells": matrix[true, predicted]})
    schemas.write(made.study("confusion"), frame.assign(experiment="combined"), schemas.CONFUSION)


def _histories(rng: np.random.Generator, made: Made) -> None:
    for experiment in ("combined", "prop"):
        for run in range(3):
            step = np.arange(200)
            prop = np.exp(-step / 50) + 0.05 + 0.05 * rng.random(200)
            simprop = 0.5 * prop if experiment == "combined" else np.full(200, np.nan)
            frame = pd.DataFrame({"phase": 0, "step": step, "prop": prop, "simprop": simprop})
            frame["loss"] = prop + np.nan_to_num(simprop)
            frame[["vat", "ot", "cell"]] = np.nan
            frame["learning_rate"] = 1e-3 * (1 + np.cos(step / 64)) / 2
            frame["gradient_norm"] = 2 * prop
            schemas.write(made.root / f"{experiment}-{run}.parquet", frame, schemas.HISTORY)
