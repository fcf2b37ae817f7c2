"""Seconds of Sm over the cells of a slide, and whether they grow with the edges and no faster.

    python benchmarks/bench_spatial.py [--threads 2]

Writes benchmarks/results/spatial.json. Beside ours stands the same recursion as torchmil 1.0.2 writes it: one
batched product of a sparse COO matrix a step, added to the values. Both run in turn and the best of each is
compared by CPU seconds, as in bench_train.py, and so is `slope`; `seconds` are those of the wall.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.spatial.graph import CellGraph, cell_graph  # noqa: E402
from myostage.spatial.smoothing import sm, sm_exact  # noqa: E402
from myostage.study.sections.graph import Graph  # noqa: E402

# Density of cells, which changes nothing: the nearest are the same at any scale.
CELL_SIDE_UM = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--neighbours", type=int, default=8)
    parser.add_argument("--width", type=int, default=512, help="numbers per cell")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "spatial.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def timed(*works: Callable[[], object]) -> list[tuple[float, float]]:
        """Best seconds by the wall and by the CPU of each work, which take turns."""
        best = [(math.inf, math.inf)] * len(works)
        for _ in range(arguments.repeats):
            for at, work in enumerate(works):
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                now = time.perf_counter() - wall, time.process_time() - cpu
                best[at] = min(best[at][0], now[0]), min(best[at][1], now[1])
        return best

    rows = []
    for cells in arguments.cells:
        side = CELL_SIDE_UM * math.sqrt(cells)
        places = np.random.default_rng(0).uniform(0, side, (cells, 2))
        section = Graph(neighbours=arguments.neighbours)
        graph = cell_graph(places, section)
        values = torch.randn(cells, arguments.width, generator=torch.Generator().manual_seed(0))
        batched = graph.operator().to_sparse_coo().coalesce()[None]

        def ours(graph: CellGraph = graph, values: Tensor = values) -> Tensor:
            return sm(values, graph, arguments.alpha, arguments.steps)

        def other(batched: Tensor = batched, values: Tensor = values) -> Tensor:
            smoothed = values[None]
            for _ in range(arguments.steps):
                smoothed = (1 - arguments.alpha) * values + arguments.alpha * torch.bmm(batched, smoothed)
            return smoothed[0]

        torch.testing.assert_close(ours(), other(), atol=1e-4, rtol=1e-4)
        smoothed, coo = timed(ours, other)
        (built,) = timed(lambda places=places, section=section: cell_graph(places, section))
        (exact,) = timed(lambda graph=graph, values=values: sm_exact(values, graph, arguments.alpha))
        rows.append(
            {
                "cells": cells,
                "edges": graph.edges.shape[1],
                "graph_seconds": round(built[0], 3),
                "seconds": round(smoothed[0], 3),
                "coo_seconds": round(coo[0], 3),
                "exact_seconds": round(exact[0], 3),
                "ratio": round(coo[1] / smoothed[1], 2),
                "cpu_seconds": round(smoothed[1], 3),
            }
        )
    slope = None
    if len(rows) > 1:
        x, y = (np.log([row[name] for row in rows]) for name in ("edges", "cpu_seconds"))
        slope = round(float(np.polyfit(x, y, 1)[0]), 2)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {arguments.threads} threads",
        "torch": torch.__version__,
        "neighbours": arguments.neighbours,
        "width": arguments.width,
        "steps": arguments.steps,
        "alpha": arguments.alpha,
        "slope": slope,
        "sizes": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
