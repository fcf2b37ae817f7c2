"""Cost of the grid of sigma and bins with cached tokens against the whole encoder in every step.

    python benchmarks/bench_grid.py [--threads 2]

Writes benchmarks/results/grid.json. Measured, with the demo's encoder: the frozen prefix per cell, and one
training step (two bags, L_SimProp + L_prop, backward, AdamW) for every number of bins, from tokens and from
crops. From crops it trains the last block too, with the same numbers, or all blocks. Nothing else is run: the
seconds of the 36 points are computed from these pieces, ``cells`` once through the prefix and 6 x 6 x
``steps`` steps. Reading crops and tokens is left out on all sides.

All are timed in turn and the best of each is taken, as in bench_embed.py.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.features.encoder import Prefix, build, split  # noqa: E402
from myostage.learning.terms import prop, simprop  # noqa: E402
from myostage.learning.train import StageModel  # noqa: E402
from myostage.study.sections.encoder import Architecture, Encoder  # noqa: E402
from myostage.study.sections.training import Training  # noqa: E402

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
BINS = (4, 6, 10, 20, 31, 50)
# day 3 and day 5 of the demo
P_A, P_B = [0.59, 0.41, 0.0, 0.0, 0.0], [0.17, 0.28, 0.55, 0.0, 0.0]


class Step:
    """One training step on fixed inputs: tokens, or crops where ``prefix`` is given."""

    def __init__(
        self, model: StageModel, inputs: Tensor, prefix: Prefix | None, trained: list[Tensor]
    ) -> None:
        self.model, self.inputs, self.prefix, self.trained = model, inputs, prefix, trained
        self.optimiser = torch.optim.AdamW(trained)

    def __call__(self, bins: int) -> None:
        tokens = self.inputs if self.prefix is None else self.prefix(self.inputs)
        embedding, logits = self.model(tokens)
        n = len(logits) // 2
        ordinal = simprop.simprop(embedding[:n], embedding[n:], P_A, P_B, sigma=0.1, bins=bins)
        bag_level = (prop.prop(logits[:n], P_A) + prop.prop(logits[n:], P_B)) / 2
        self.optimiser.zero_grad(set_to_none=True)
        (ordinal + bag_level).backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cells", type=int, default=1500, help="cells of the study")
    parser.add_argument("--steps", type=int, default=300, help="steps of a run")
    parser.add_argument("--bag-size", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "grid.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    encoder = Encoder(
        model=None,
        architecture=Architecture(patch_px=8, width=96, depth=4, heads=3),
        weights=str(ROOT / "config" / "demo" / "encoder.safetensors"),
        pos_embed="timm",
    )
    hidden = Training().hidden
    crops = torch.randint(0, 256, (2 * arguments.bag_size, 64, 64, 3), dtype=torch.uint8)
    prefix = Prefix(build(encoder))
    with torch.no_grad():
        tokens = prefix(crops).half()

    def step(inputs: Tensor, *, whole: bool, all_blocks: bool = False) -> Step:
        own, suffix = split(encoder)
        model = StageModel(suffix, hidden, len(P_A))
        trained = [*model.head.parameters(), *suffix.trainable("block")]
        if all_blocks:
            trained += own.requires_grad_(True).parameters()
        return Step(model, inputs, own if whole else None, trained)

    @torch.no_grad()
    def embed() -> None:
        prefix(crops)

    ways = {
        "cached": step(tokens, whole=False),
        "uncached": step(crops, whole=True),
        "all_blocks": step(crops, whole=True, all_blocks=True),
    }
    best: dict[tuple[str, int], float] = {}

    def measure(name: str, bins: int, run: Callable[[], None]) -> None:
        start = time.process_time()
        run()
        took = (time.process_time() - start) / arguments.threads
        best[name, bins] = min(took, best.get((name, bins), took))

    for run in ways.values():  # warm up
        run(BINS[0])
    for _ in range(arguments.repeats):
        measure("prefix", 0, embed)
        for bins in BINS:
            for name, run in ways.items():
                measure(name, bins, lambda run=run, bins=bins: run(bins))
    prefix_s = best["prefix", 0] / len(crops) * arguments.cells
    steps_s = {name: len(SIGMAS) * arguments.steps * sum(best[name, bins] for bins in BINS) for name in ways}
    cached_s = prefix_s + steps_s["cached"]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {arguments.threads} threads",
        "clock": "CPU",
        "torch": torch.__version__,
        "model": "demo",
        "points": len(SIGMAS) * len(BINS),
        "cells": arguments.cells,
        "steps": arguments.steps,
        "bag_size": arguments.bag_size,
        "measured_prefix_ms_per_cell": round(best["prefix", 0] / len(crops) * 1e3, 3),
        "measured_step_ms": {
            name: {str(bins): round(best[name, bins] * 1e3, 1) for bins in BINS} for name in ways
        },
        "computed_prefix_s": round(prefix_s, 1),
        "computed_grid_s": round(cached_s, 1),
        "computed_uncached_s": round(steps_s["uncached"], 1),
        "computed_all_blocks_s": round(steps_s["all_blocks"], 1),
        "ratio": round(steps_s["uncached"] / cached_s, 1),
        "ratio_all_blocks": round(steps_s["all_blocks"] / cached_s, 1),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
