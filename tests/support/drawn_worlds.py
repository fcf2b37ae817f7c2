"""Tables of a study of worlds with effects that are known, and the study file of one that runs in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from myostage import tables
from myostage.evaluation.metrics.cells import NAMES
from myostage.evaluation.tables import WORLDS_COMPARISONS, WORLDS_CURVES
from myostage.evaluation.worlds import compare_methods
from myostage.study.sections.compare import Compare

EXPERIMENTS = ("prop", "combined", "supervised")
MAPS: dict[str, dict[str, Any]] = {
    "noise": {"keys": ["overlap"], "points": {"overlap=0.3": [0.3], "centre": [0.5], "overlap=1": [1.0]}},
    "both": {
        "keys": ["overlap", "mixing"],
        "points": {
            f"overlap={overlap:g},mixing={mixing:g}": [overlap, mixing]
            for overlap in (0.3, 0.5, 1.0)
            for mixing in (0.0, 1.0)
        },
    },
}
# what `combined` adds to `prop` in accuracy
EFFECTS = {"overlap=0.3": -0.1, "overlap=1": 0.1, "overlap=1,mixing=0": 0.1}
WORLDS = 8


def study(**world: Any) -> dict[str, Any]:
    """A study of few steps in few worlds."""
    return {
        "study": "worlds",
        "stages": ["first", "second", "third"],
        "world": {"repeats": 2, "pilots": 1, "cells": 30, "animals": 3, "groups": 3, "dimensions": 6}
        | {"distractors": 2, "maps": [{"name": "noise", "vary": {"overlap": [0.3, 0.5]}}]}
        | world,
        "training": {"steps": 6, "bag_size": 12},
        "folds": 3,
        "experiments": [
            {"name": "prop", "losses": {"prop": 1}},
            {"name": "combined", "losses": {"simprop": 1, "prop": 1}},
            {"name": "supervised", "method": "supervised"},
            {"name": "majority", "method": "majority"},
        ],
        "compare": {"reference": "prop"},
        "jobs": {"runs_per_job": 100, "threads": 1},
    }


def measured(seed: int = 0) -> pd.DataFrame:
    """Rows of WORLDS: accuracies about .6, and their effects."""
    rng = np.random.default_rng(seed)
    points = dict.fromkeys(point for listed in MAPS.values() for point in listed["points"])
    rows = []
    for point in points:
        of_world = rng.normal(0, 0.05, WORLDS)
        for experiment in EXPERIMENTS:
            effect = {"combined": EFFECTS.get(point, 0.0), "supervised": 0.2}.get(experiment, 0.0)
            for world, shift in enumerate(of_world):
                value = 0.6 + shift + effect + rng.normal(0, 0.01)
                rows += [
                    {"point": point, "experiment": experiment, "world": world, "metric": name}
                    | {"value": value, "loss": 0.1, "steps": 6, "seconds": 1.0, "status": "ok", "reason": ""}
                    for name in NAMES
                ]
    return pd.DataFrame(rows)


def compared(rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows of WORLDS_COMPARISONS."""
    maps = {name: list(listed["points"]) for name, listed in MAPS.items()}
    rows = measured() if rows is None else rows
    return compare_methods(rows, maps, "prop", ["supervised"], Compare())


def curves() -> pd.DataFrame:
    """Rows of WORLDS_CURVES: the loss of `prop` is still, that of `combined` falls."""
    return pd.DataFrame(
        [
            {"point": point, "experiment": experiment, "phase": 0, "step": step, "loss": loss, "sd": 0.1}
            | {"worlds": WORLDS}
            for point in ("centre", "overlap=1")
            for experiment, slope in (("prop", 0.0), ("combined", 0.1))
            for step, loss in enumerate(1 - slope * np.arange(5))
        ]
    )


def write(folder: Path) -> Path:
    out = folder / "worlds_comparisons.parquet"
    tables.write(out, compared(), WORLDS_COMPARISONS)
    return out


def write_curves(folder: Path) -> Path:
    out = folder / "worlds_curves.parquet"
    tables.write(out, curves(), WORLDS_CURVES)
    return out
