"""What the ordinal terms say of right and wrong models: the value of each objective, without any training.

    python benchmarks/bench_objective.py [--worlds 10] [--cells 100]

Writes benchmarks/results/objective.json. Cells of stage k lie at k + overlap N(0, 1). A model is a prediction
q of every cell and an embedding sum_k q_k e_k, where <e_k, e_k'> = 1 - 2 |k - k'| / (K - 1), so that the
similarity of two pure stages is exactly the one that L_SimProp asks for:

- oracle: q is the true stage;
- honest: q is the posterior under the mean proportions of all groups, which is the best a model can know;
- swapped a and b: the oracle with two stages exchanged; reversed: with the order turned round;
- honest, swapped: the posterior with two stages exchanged;
- proportions: q is the proportions of the cell's group, for every cell alike.

An ordinal term that is to teach the order should cost the honest posterior less than any wrong order. Values
are means over pairs of groups (or groups) and ``worlds`` draws, with half of a 95 % t interval.
"""

import argparse
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.learning.terms import axis, prop, quantile, simprop, spread  # noqa: E402

K = 5
STAGES = np.arange(K)
OVERLAP = 0.6
# proportions after CTX injection in the released code of OSLSP, in biological order, day 0 to day 14
CTX = np.array(
    [
        [0, 0, 0, 0, 1],
        [0.59, 0.41, 0, 0, 0],
        [0.17, 0.28, 0.55, 0, 0],
        [0.12, 0.05, 0.77, 0.06, 0],
        [0.01, 0, 0.01, 0.98, 0],
    ]
)
# groups that hold all stages: half their own, half the mean
MIXED = 0.5 * np.eye(K) + 0.5 / K
ORDERS = {
    "swapped 1 and 3": [0, 3, 2, 1, 4],
    "swapped 0 and 1": [1, 0, 2, 3, 4],
    "swapped 1 and 2": [0, 2, 1, 3, 4],
    "reversed": [4, 3, 2, 1, 0],
}
Floats = NDArray[np.float64]


def models(shares: Floats, cells: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Predictions [groups, cells, K] of every model."""
    counts = [np.diff(np.round(cells * np.cumsum([0, *p / p.sum()]))).astype(int) for p in shares]
    stage = np.stack([np.repeat(STAGES, n) for n in counts])
    x = stage + OVERLAP * rng.normal(size=stage.shape)
    log_q = -0.5 * ((x[..., None] - STAGES) / OVERLAP) ** 2 + np.log(shares.mean(0))
    posterior = np.exp(log_q - log_q.max(-1, keepdims=True))
    posterior /= posterior.sum(-1, keepdims=True)
    found = {"oracle": np.eye(K)[stage], "honest": posterior}
    for name, order in ORDERS.items():
        found[name] = np.eye(K)[np.array(order)[stage]]
    found["honest, swapped 1 and 3"] = posterior[..., ORDERS["swapped 1 and 3"]]
    found["proportions"] = np.repeat((shares / shares.sum(1, keepdims=True))[:, None], cells, 1)
    return found


def objectives(q: Floats, shares: Floats) -> dict[str, float]:
    """Value of every objective for predictions [groups, cells, K]."""
    values, vectors = np.linalg.eigh(1 - 2 * np.abs(STAGES[:, None] - STAGES) / (K - 1))
    corners = vectors * np.sqrt(values.clip(0))
    z = torch.from_numpy(q @ corners)
    logits = torch.from_numpy(np.log(q.clip(1e-12)))
    groups = range(len(shares))
    similar = {
        f"L_SimProp, sigma {sigma}": [
            simprop.simprop(z[a], z[b], shares[a], shares[b], sigma=sigma, bins=6)
            for a in groups
            for b in groups
            if a <= b
        ]
        for sigma in (0.1, 0.02)
    }
    of_bags = {
        "L_prop": lambda g: prop.prop(logits[g], shares[g]),
        "L_quantile": lambda g: quantile.quantile(logits[g], shares[g]),
        "L_axis": lambda g: axis.axis(torch.from_numpy(q[g] @ STAGES), shares[g], 0.4),
        "L_spread, apart": lambda g: spread.spread(logits[g], "apart"),
        "L_spread, squared": lambda g: spread.spread(logits[g], "squared"),
        "L_spread, any": lambda g: spread.spread(logits[g], "any"),
    }
    each = similar | {name: [of(g) for g in groups] for name, of in of_bags.items()}
    return {name: float(torch.stack(parts).mean()) for name, parts in each.items()}


def table(shares: Floats, worlds: int, cells: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Objective -> model -> mean and half of its 95 % interval over ``worlds`` draws."""
    drawn: dict[str, dict[str, list[float]]] = {}
    for world in range(worlds):
        for model, q in models(shares, cells, np.random.default_rng(world)).items():
            for name, value in objectives(q, shares).items():
                drawn.setdefault(name, {}).setdefault(model, []).append(value)
    t = stats.t.ppf(0.975, worlds - 1)
    return {
        name: {model: (float(np.mean(v)), float(t * stats.sem(v))) for model, v in of.items()}
        for name, of in drawn.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--cells", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        name: table(shares, asked.worlds, asked.cells) for name, shares in (("CTX", CTX), ("mixed", MIXED))
    }
    for name, of in found.items():
        columns = list(next(iter(of.values())))
        print(f"| {name} | " + " | ".join(columns) + " |\n|---" * 1 + "|---" * len(columns) + "|")
        for objective, row in of.items():
            print(f"| {objective} | " + " | ".join(f"{mean:.3f}" for mean, _ in row.values()) + " |")
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "worlds": asked.worlds,
        "cells": asked.cells,
        "overlap": OVERLAP,
        "objectives": found,
    }
    (ROOT / "benchmarks/results/objective.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
