"""Bytes per second read from a token store, warm: whole row groups, and bags of cells scattered over a slide.

    python benchmarks/bench_tokens.py [--tokens 65 --width 768]

Writes benchmarks/results/tokens.json. pyarrow's own reader of the same file stands beside ours.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.features import tokens  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=65, help="tokens of a cell (ViT-B/8 at 64 px: 65)")
    parser.add_argument("--width", type=int, default=768, help="numbers of a token (ViT-B: 768)")
    parser.add_argument("--cells", type=int, default=1500)
    parser.add_argument("--bag-size", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tokens.json")
    arguments = parser.parse_args()
    shape = (arguments.tokens, arguments.width)
    values = torch.randn(arguments.cells, *shape).to(torch.float16)
    rng = np.random.default_rng(0)
    bags = [
        np.sort(rng.choice(arguments.cells, arguments.bag_size, replace=False))
        for _ in range(max(1, arguments.cells // arguments.bag_size))
    ]
    scattered_bytes = sum(len(bag) for bag in bags) * values[0].nbytes

    def rate(work: Callable[[], object], amount: int) -> float:
        """GB per second, median of the repeats after one that warms up."""
        seconds = []
        for _ in range(arguments.repeats + 1):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return round(amount / statistics.median(seconds[1:]) / 1e9, 2)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.parquet"

        def write() -> None:
            with tokens.writer(path, tokens=shape[0], width=shape[1]) as out:
                out.write(np.arange(len(values), dtype=np.int32), values)

        written = rate(write, values.nbytes)
        store = tokens.TokenStore(path)
        streamed = rate(lambda: [part.shape for _, part in store.stream()], values.nbytes)
        scattered = rate(lambda: [store.read_rows(bag).shape for bag in bags], scattered_bytes)
        parquet = rate(lambda: pq.read_table(path, columns=["tokens"], memory_map=True), values.nbytes)
        size = path.stat().st_size / values.nbytes
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, 1 thread",
        "cells": arguments.cells,
        "shape": list(shape),
        "megabytes": round(values.nbytes / 1e6),
        "size_over_bare_float16": round(size, 4),
        "write_gb_per_s": written,
        "stream_gb_per_s": streamed,
        "bags_gb_per_s": scattered,
        "pyarrow_gb_per_s": parquet,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
