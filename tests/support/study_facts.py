"""Made-up facts of a study: its structure, comparisons and tables, what sentences are tested on."""

from typing import Any

import numpy as np
import pandas as pd

from myostage.evaluation.tables import COMPARISONS, METRICS, RUNS
from myostage.report.findings import Difference, Facts
from myostage.study.expand import expand
from myostage.study.sections.experiment import Experiment
from myostage.study.sections.study import Study
from myostage.study.structure import Structure, structure
from support import estimated

STAGES = ("damaged", "recovered", "intact")
BOTH = {"simprop": 1, "prop": 1}


def study(experiments: list[dict[str, Any]], **changes: Any) -> Study:
    return Study(
        study="trial",
        stages=STAGES,
        slides="slides.tsv",
        proportions="proportions.tsv",
        folds=3,
        seeds=(0, 1),
        experiments=tuple(Experiment(**experiment) for experiment in experiments),
        **changes,
    )


FULL = [
    {"name": "prop", "losses": {"prop": 1}},
    {"name": "simprop", "losses": {"simprop": 1}},
    {"name": "combined", "losses": BOTH},
    {"name": "frozen", "losses": {"prop": 1}, "training": {"unfreeze": "none"}, "baseline": True},
    {"name": "majority", "method": "majority"},
    {"name": "supervised", "method": "supervised"},
    {
        "name": "grid",
        "losses": BOTH,
        "vary": {"sigma": [0.05, 0.1], "bins": [6, 31, 50]},
        "part": "grid",
    },
    {
        "name": "weight",
        "losses": {"prop": 1},
        "vary": {"losses.simprop": [10, 0.1]},
        "part": "design",
        "against": "combined",
    },
    {
        "name": "aligned",
        "losses": BOTH,
        "training": {"pairs": "aligned"},
        "part": "design",
        "against": "combined",
    },
    {
        "name": "noisy_prop",
        "losses": {"prop": 1},
        "vary": {"proportion_noise": [0.2, 0.4]},
        "part": "proportions",
        "against": "prop",
    },
    {
        "name": "noisy",
        "losses": BOTH,
        "vary": {"proportion_noise": [0.2, 0.4], "bins": [6, 31]},
        "part": "proportions",
        "against": "combined",
    },
]


def parts(
    experiments: list[dict[str, Any]], left_out: dict[str, str] | None = None, **changes: Any
) -> Structure:
    made = study(experiments, **changes)
    return Structure(**structure(made, expand(made), left_out or {}))


def difference(
    experiment: str,
    reference: str,
    value: float = 0.0,
    half: float = 0.01,
    *,
    family: str = "reference",
    metric: str = "accuracy",
    p: float | None = None,
    pairs: int = 6,
    detectable: float = 0.027,
    trusted: bool = True,
) -> dict[str, Any]:
    """A row of COMPARISONS: the interval is ``value`` plus and minus ``half``, and p follows from it."""
    p = (0.001 if abs(value) > half else 0.4) if p is None else p
    return estimated.DIFFERENCE | {
        "experiment": experiment,
        "reference": reference,
        "family": family,
        "metric": metric,
        "difference": value,
        "low": value - half,
        "high": value + half,
        "pairs": pairs,
        "slides": 9,
        "effect_size": 1.25 if value > 0 else -1.25,
        "p": p / 2,
        "p_holm": p,
        "minimum_detectable": detectable,
        "trusted": trusted,
    }


def facts(
    comparisons: list[dict[str, Any]],
    made: Structure | None = None,
    *,
    metrics: tuple[str, ...] = ("accuracy", "kl"),
    failed: dict[str, str] | None = None,
    **changes: Any,
) -> Facts:
    """Tables of ``made`` whose every experiment is measured at .8, with the given differences."""
    made = made or parts(FULL)
    labels = [*made.main, *made.grid, *made.design]
    labels += [label for label, part in made.parts.items() if part == "rivals"]
    measured = [
        {"experiment": label, "run": "", "fold": -1, "seed": -1, "metric": metric, "value": 0.8}
        | estimated.VALUE
        | {"low": 0.75, "high": 0.84, "slides": 9, "cells": 4573}
        for label in labels
        for metric in metrics
    ]
    runs = [
        {"experiment": label, "run": f"{label}-f{fold}-s{seed}", "fold": fold, "seed": seed}
        | {"status": "ok", "reason": "", "device": "cpu", "steps": 0 if label == "majority" else 300}
        | {"seconds": 40.0 * (1 + (label == "combined")) + fold, "cpu_seconds": 70.0}
        | {"peak_memory_mb": 900.0, "joules": np.nan, "temperature": np.nan}
        | {"loss_change": -0.01, "loss_noise": 0.005}
        for label in made.main
        for fold in range(3)
        for seed in range(2)
    ]
    for row in runs:
        if row["run"] in (failed or {}):
            row.update(status="failed", reason=(failed or {})[row["run"]])
    splits = pd.DataFrame(
        {
            "slide": [f"s{number}" for number in range(10)],
            "group": ["d3"] * 9 + [""],
            "animal": [f"m{number // 2}" for number in range(10)],
            "cells": 100,
            "fold": [0, 1, 2] * 3 + [-1],
        }
    )
    whole = {
        "structure": made,
        "splits": splits,
        "metrics": pd.DataFrame(measured, columns=METRICS.schema.names),
        "comparisons": pd.DataFrame(comparisons, columns=COMPARISONS.schema.names),
        "runs": pd.DataFrame(runs, columns=RUNS.schema.names),
    }
    return Facts(**(whole | changes))


def row(value: float, half: float = 0.01, **changes: Any) -> Difference:
    values = difference("a", "b", value, half, **changes)
    return Difference(**{name: values[name] for name in Difference.__dataclass_fields__})


def everything() -> list[dict[str, Any]]:
    made = parts(FULL)
    return [
        *(difference(label, "prop", 0.02) for label in [*made.main[1:], *made.grid, *made.design]),
        *(difference(label, "frozen", 0.02, family="baseline") for label in ("prop", "combined")),
        *(difference(label, start, -0.05, family="against") for label, start in made.against.items()),
    ]
