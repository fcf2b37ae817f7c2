"""A small study as its tables, made up: what figures, notebooks and exports are tested on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from myostage import tables
from myostage.cells.tables import CELLS, CROPS, LABELS
from myostage.evaluation.tables import (
    ALGEBRA,
    BORDERS,
    COMPARISONS,
    CONFUSION,
    METRICS,
    RELIABILITY,
    RUNS,
    SCORES,
    SPECTRUM,
    WRONG_TABLES,
)
from myostage.learning.calibration import calibrate, entropy
from myostage.learning.tables import ATTENTION, HISTORY, stages_table
from myostage.slides.tables import SLIDES
from support import estimated

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
        calibrated = calibrate(probabilities, 1.5)
        table = _cells(rng, truth)
        tables.write(made.of("cells")[slide], table, CELLS)
        # Two cells are dropped as background: they have no crop and no stage.
        kept = np.arange(cells - 2)
        images = rng.integers(90, 240, (len(kept), 1, 3)).repeat(64 * 64, axis=1).astype(np.uint8)
        crops = pd.DataFrame({"cell": kept, "image": [image.tobytes() for image in images]})
        tables.write(made.of("crops")[slide], crops, CROPS)
        staged = pd.DataFrame(
            {
                "slide": slide,
                "cell": kept,
                "stage": predicted[kept],
                "probabilities": list(probabilities[kept].astype(np.float32)),
                "calibrated": list(calibrated[kept].astype(np.float32)),
                "entropy": entropy(calibrated[kept]),
                "uncertain": calibrated[kept].max(1) < 0.5,
            }
        )
        tables.write(made.of("stages")[slide], staged, stages_table(count))
        labels = pd.DataFrame({"cell": kept[::2], "stage": truth[kept][::2], "iou": 0.9})
        tables.write(made.of("labels")[slide], labels, LABELS)
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
                "prior": "none",
                "table_weight": np.nan,
            }
        )
    tables.write(made.study("scores"), pd.DataFrame(scores), SCORES)
    _slides(made)
    _metrics(rng, made)
    _comparisons(made)
    _runs(made)
    _confusion(made)
    _reliability(made)
    tables.write(made.study("wrong_tables"), wrong_tables(), WRONG_TABLES)
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
    return pa.Table.from_pandas(frame, schema=CELLS.schema, preserve_index=False)


def _slides(made: Made) -> None:
    frame = pd.DataFrame({"slide": list(made.groups), "group": list(made.groups.values())})
    frame["path"] = [str(made.root / f"{slide}.png") for slide in made.groups]
    frame["animal"] = frame["slide"]
    frame[["status", "reason", "reader", "mpp_source"]] = ["ok", "", "image", "table"]
    frame[["width_px", "height_px"]] = SIDE_PX
    frame["mpp"], frame["levels"] = MPP, 1
    tables.write(made.study("slides"), frame, SLIDES)


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
            row = estimated.VALUE | {"experiment": name, "metric": metric, "slides": 8, "cells": 3402}
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
    tables.write(made.study("metrics"), pd.DataFrame(rows), METRICS)


def _comparisons(made: Made) -> None:
    """Differences of accuracy to the reference; the experiment without runs that ended well has none."""
    found = {"combined": 0.07, "supervised": 0.27, "majority": -0.24, "broken": np.nan}
    frame = pd.DataFrame({"experiment": list(found), "difference": list(found.values())})
    frame[["reference", "family", "metric"]] = [REFERENCE, "reference", "accuracy"]
    frame["low"], frame["high"] = frame["difference"] - 0.05, frame["difference"] + 0.06
    frame["effect_size"], frame["minimum_detectable"] = frame["difference"] / 0.05, 0.04
    frame["p"], frame["p_holm"] = frame["difference"] * 0 + 0.004, frame["difference"] * 0 + 0.012
    frame["pairs"], frame["slides"] = 3, 8
    frame = frame.assign(**estimated.DIFFERENCE)
    tables.write(made.study("comparisons"), frame, COMPARISONS)


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
    frame = pd.DataFrame(rows).assign(
        seed=0, device="cpu", steps=200, joules=np.nan, temperature=1.2, loss_change=-0.01, loss_noise=0.01
    )
    frame["cpu_seconds"], frame["peak_memory_mb"] = 1.5 * frame["seconds"], 20 * frame["seconds"]
    tables.write(made.study("runs"), frame, RUNS)


def _confusion(made: Made) -> None:
    count = len(STAGES)
    matrix = np.eye(count) * 80 + np.eye(count, k=1) * 15 + np.eye(count, k=-1) * 12 + np.eye(count, k=3) * 4
    true, predicted = np.nonzero(matrix)
    frame = pd.DataFrame({"true_stage": true, "predicted_stage": predicted, "cells": matrix[true, predicted]})
    tables.write(made.study("confusion"), frame.assign(experiment="combined"), CONFUSION)


def _reliability(made: Made) -> None:
    """Cells that are too sure as predicted, and not so calibrated."""
    rows = [
        {
            "stage": stage,
            "calibrated": calibrated,
            "low": low,
            "high": low + 0.1,
            "cells": 20.0 * (stage + 1),
            "confidence": low + 0.05,
            "accuracy": low + 0.05 - (0 if calibrated else 0.1),
        }
        for stage in range(len(STAGES))
        for calibrated in (False, True)
        for low in (0.6, 0.7, 0.8, 0.9)
    ]
    tables.write(made.study("reliability"), pd.DataFrame(rows).assign(experiment="combined"), RELIABILITY)


def _histories(rng: np.random.Generator, made: Made) -> None:
    for experiment in ("combined", "prop"):
        for run in range(3):
            step = np.arange(200)
            prop = np.exp(-step / 50) + 0.05 + 0.05 * rng.random(200)
            simprop = 0.5 * prop if experiment == "combined" else np.full(200, np.nan)
            frame = pd.DataFrame({"phase": 0, "step": step, "prop": prop, "simprop": simprop})
            frame["loss"] = prop + np.nan_to_num(simprop)
            frame["learning_rate"] = 1e-3 * (1 + np.cos(step / 64)) / 2
            frame["gradient_norm"] = 2 * prop
            frame = frame.reindex(columns=list(dict.fromkeys([*HISTORY.schema.names, *frame])))
            tables.write(made.root / f"{experiment}-{run}.parquet", frame, HISTORY)


# What uses neighbours. Attention without Sm, with it, and both models of the reconstruction control.
SETTINGS = {"spectral_norm": True, "operator": "sm"}
POINTS = {
    **{
        f"{placement}[alpha={alpha}]": {"placement": placement, "alpha": alpha, "steps": 10, **SETTINGS}
        for placement in ("early", "mid", "late")
        for alpha in (0.1, 0.5, 0.9, "trainable")
    },
    **{
        f"late[T={steps}]": {"placement": "late", "alpha": 0.5, "steps": steps, **SETTINGS}
        for steps in (1, 4, 40)
    },
}
SMOOTHED = ("abmil", "late[alpha=0.5]")


def add_neighbours(made: Made) -> None:
    """Write the tables of what uses neighbours beside those of the study."""
    rng = np.random.default_rng(4)
    _neighbour_metrics(rng, made)
    _attention(rng, made)
    _spectrum(rng, made)
    _borders(made)
    _algebra(rng, made)
    for experiment, (loss, cosine) in {
        "srmil": (0.3, np.nan),
        "srmil-permuted": (0.42, np.nan),
        "whole": (np.nan, -0.2),
        "halves": (np.nan, 0.02),
    }.items():
        for run in range(3):
            step = np.arange(200)
            frame = pd.DataFrame({"phase": 0, "step": step, "loss": 1.0})
            frame["spatial_reconstruction"] = loss + np.exp(-step / 40) + rng.normal(0, 0.02)
            angle = cosine + 0.1 * rng.normal() + 0.2 * rng.normal(size=len(step))
            frame["conflict"] = np.where(step % 5 == 0, angle, np.nan)
            frame = frame.reindex(columns=list(dict.fromkeys([*HISTORY.schema.names, *frame])))
            tables.write(made.root / f"{experiment}-{run}.parquet", frame, HISTORY)


def _neighbour_metrics(rng: np.random.Generator, made: Made) -> None:
    at = {"abmil": 0.7, "srmil": 0.74, "srmil-permuted": 0.73}
    at |= {name: 0.78 + rng.normal(0, 0.02) for name in POINTS}
    rows, compared = [], []
    for name, value in at.items():
        control = {"abmil": "", "srmil": "srmil-permuted"}.get(name, "abmil")
        for metric, shift in {
            "bag_auroc": 0.1,
            "bag_f1": 0.05,
            "instance_auroc": 0.0,
            "energy": -0.4,
        }.items():
            whole = {"run": "", "fold": -1, "seed": -1, "slides": 8, "cells": 200}
            numbers = {"value": value + shift, "low": value + shift - 0.06, "high": value + shift + 0.05}
            rows.append({"experiment": name, "metric": metric} | estimated.VALUE | whole | numbers)
            if control:
                gap = value - at[control]
                numbers = {"difference": gap, "low": gap - 0.05, "high": gap + 0.05}
                test = {"pairs": 9, "slides": 8, "effect_size": 1.0, "p": 0.01, "minimum_detectable": 0.04}
                test["p_holm"] = 0.02 if abs(gap) > 0.05 else 0.6
                keys = {"experiment": name, "reference": control, "family": "against", "metric": metric}
                compared.append(estimated.DIFFERENCE | keys | numbers | test)
    tables.write(made.study("slide_metrics"), pd.DataFrame(rows), METRICS)
    tables.write(made.study("slide_comparisons"), pd.DataFrame(compared), COMPARISONS)


def _attention(rng: np.random.Generator, made: Made) -> None:
    """Two runs of both models; each holds out every slide."""
    for noise, name in zip((2.0, 0.6), SMOOTHED, strict=True):
        for run in range(2):
            parts = []
            for slide, path in made.of("stages").items():
                staged = tables.read(path, stages_table(len(STAGES)), ["cell", "stage"])
                logit = (staged["stage"] < 3) + noise * rng.normal(size=len(staged))
                weight = np.exp(logit) / np.exp(logit).sum()
                parts.append(staged[["cell"]].assign(slide=slide, logit=logit, weight=weight))
            tables.write(made.root / f"{name}-attention-{run}.parquet", pd.concat(parts), ATTENTION)


def _spectrum(rng: np.random.Generator, made: Made) -> None:
    edges = np.linspace(0, 2, 9)
    rows = []
    for name, tilt in zip(SMOOTHED, (0.4, 1.2), strict=True):
        for slide in made.groups:
            own = tilt + rng.normal(0, 0.15)
            for signal, more in (("raw", 0.0), ("smoothed", 2.0)):
                power = np.exp(-(own + more) * edges[:-1])
                frame = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "share": power / power.sum()})
                numbers = {"energy": 1.5 - 0.4 * more, "instance_auroc": 0.6 + 0.15 * own}
                key = {"experiment": name, "signal": signal, "slide": slide, "animal": slide}
                rows.append(frame.assign(**key, **numbers))
    frame = pd.concat(rows, ignore_index=True)
    frame.loc[frame["slide"].str.startswith("d0"), "instance_auroc"] = np.nan
    tables.write(made.study("spectrum"), frame, SPECTRUM)


def _borders(made: Made) -> None:
    """With Sm worse within 20 um of a sharp border and better elsewhere."""
    edges = np.array([-80.0, -40, -20, 0, 20, 40, 80])
    rows = []
    for border, depth in (("sharp", 0.3), ("diffuse", 0.05), ("all", 0.2)):
        near = np.array([0, 0, 1, 1, 0, 0])
        for name, right, dip in zip(SMOOTHED, (0.7, 0.85), (0.0, depth), strict=True):
            frame = pd.DataFrame({"low_um": edges[:-1], "high_um": edges[1:], "correct": right - dip * near})
            frame["correct_low"], frame["correct_high"] = frame["correct"] - 0.05, frame["correct"] + 0.05
            rows.append(frame.assign(experiment=name, border=border, cells=80, slides=6))
    tables.write(made.study("borders"), pd.concat(rows), BORDERS)


def _algebra(rng: np.random.Generator, made: Made) -> None:
    rows = []
    for name, gain in (("mse", 0.0), ("cell", 0.3)):
        for fold in range(3):
            for seed in range(2):
                for slide in range(4):
                    others = rng.uniform(0.3, 0.6)
                    own = others + gain + rng.normal(0, 0.05)
                    rank = 1 if gain and rng.random() < 0.8 else rng.integers(1, 5)
                    key = {"experiment": name, "fold": fold, "seed": seed, "slide": f"s{fold}{slide}"}
                    key["animal"] = key["slide"]
                    rows.append(
                        key | {"own": own, "others": others, "rank": rank, "rank_p": 4, "candidates": 4}
                    )
    tables.write(made.study("algebra"), pd.DataFrame(rows), ALGEBRA)


def wrong_tables() -> pd.DataFrame:
    """Two methods with two priors, whose gain falls with the error of the table."""
    rows = [
        {
            "experiment": name,
            "prior": prior,
            "t": t,
            "metric": "accuracy",
            "value": 0.6 + gain,
            "without": 0.6,
        }
        | {"difference": gain, "low": gain - 0.03, "high": gain + 0.03, "table_weight": 0.8}
        | {"draws": 4, "animals": 8, "cells": 900}
        for name, start in (("combined", 0.1), (REFERENCE, 0.2))
        for prior in ("group", "transport")
        for t in (0.0, 0.5, 1.0)
        for gain in (start - 0.2 * t,)
    ]
    return pd.DataFrame(rows)
