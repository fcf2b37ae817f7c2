"""What checksums cost: bytes per second of each kind, tokens with and without, a slide at every start.

    python benchmarks/bench_checksums.py

Writes benchmarks/results/checksums.json: CPU seconds of one thread, warm file cache. ``share_of_training``
is the part of the time that a step takes for as many cells (results/train.json).
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import xxhash

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "scripts"))

from myostage import tables  # noqa: E402
from myostage.features import tokens  # noqa: E402
from myostage.runtime import checksums  # noqa: E402

SHAPE = (65, 768)


def best(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds, the least of the repeats after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


def read_all(path: Path, *, verify: bool) -> None:
    store = tokens.TokenStore(path)
    store._verified[:] = not verify
    for _ in store.stream():
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "checksums.json")
    arguments = parser.parse_args()
    cells, repeats = arguments.cells, arguments.repeats
    values = torch.randn(cells, *SHAPE).to(torch.float16)
    block, per_cell = values.numpy().tobytes(), values[0].nbytes
    kinds: dict[str, Callable[[bytes], Any]] = {
        "xxh3_128": xxhash.xxh3_128,
        "blake2b": hashlib.blake2b,
        "sha256": hashlib.sha256,
    }
    speed = {
        name: len(block) / best(lambda made=made: made(block), repeats) / 1e9 for name, made in kinds.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        path, slide = Path(folder) / "tokens.parquet", Path(folder) / "slide.svs"

        def write(checksum: bool) -> None:
            def plain(where: Any, schema: Any, **options: Any) -> Any:
                return ParquetWriter(where, schema, **(options | {"write_page_checksum": checksum}))

            ParquetWriter = tables.pq.ParquetWriter
            digest = xxhash.xxh3_64_intdigest if checksum else lambda cell: 0
            with (
                patch.object(tables.pq, "ParquetWriter", plain),
                patch.object(xxhash, "xxh3_64_intdigest", digest),
                tokens.writer(path, tokens=SHAPE[0], width=SHAPE[1]) as out,
            ):
                out.write(np.arange(cells, dtype=np.int32), values)

        seconds = {
            "write_without": best(lambda: write(False), repeats),
            "write_with": best(lambda: write(True), repeats),
            "state": best(lambda: checksums.state(path), repeats),
            "read_without": best(lambda: read_all(path, verify=False), repeats),
            "read_with": best(lambda: read_all(path, verify=True), repeats),
        }
        slide.write_bytes(os.urandom(checksums.SMALL_BYTES) * 40)
        given = best(lambda: [checksums.given(slide) for _ in range(100)], repeats) / 100
    embedding = json.loads((RESULTS / "train.json").read_text())["our_cells_per_s"]
    making = seconds["write_with"] - seconds["write_without"] + seconds["state"]
    reading = seconds["read_with"] - seconds["read_without"]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, 1 thread, load {os.getloadavg()[0]:.1f}",
        "cells": cells,
        "megabytes": round(len(block) / 1e6),
        "gb_per_s": {name: round(value, 2) for name, value in speed.items()},
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "microseconds_a_cell": {
            "made": round(making / cells * 1e6, 1),
            "read": round(reading / cells * 1e6, 1),
            "of_blake2b": round(per_cell / speed["blake2b"] / 1e3, 1),
        },
        "share_of_training": round(reading / cells * embedding, 5),
        "milliseconds_a_slide": round(given * 1e3, 3),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
