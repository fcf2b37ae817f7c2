"""Cells per second of `embed` against timm's bare forward of the same blocks on the same crops.

    python benchmarks/bench_embed.py [--model vit_base_patch8_224.dino] [--device cuda]

Writes benchmarks/results/embed.json. `ratio` is the share of timm's own speed that is left once crops are
read, normalised and their tokens written. Both are timed in turn and the best of each is compared: by the
wall on a GPU; on a CPU by CPU seconds per thread, which other work on the machine changes least. Random
weights: the numbers in a matrix do not change the time it takes.
"""

import argparse
import json
import logging
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage import tables  # noqa: E402
from myostage.cells.tables import CROPS  # noqa: E402
from myostage.features.encoder import Prefix, build, embed_slide  # noqa: E402
from myostage.study.sections.encoder import Architecture, Encoder  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="demo, or the timm name of a ViT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "embed.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"

    def clock() -> float:
        return time.perf_counter() if cuda else time.process_time() / arguments.threads

    demo = arguments.model == "demo"
    encoder = Encoder(
        model=None if demo else arguments.model,
        architecture=Architecture(patch_px=8, width=96, depth=4, heads=3) if demo else None,
        weights="none",
        batch_size=arguments.batch_size,
    )
    model = build(encoder).to(device)
    prefix = Prefix(build(encoder)).to(device)
    last_but_one = len(model.blocks) - 2
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (arguments.cells, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        images = prefix.normalise(torch.from_numpy(crops).to(device))

    def bare() -> None:
        autocast = torch.autocast(device.type, torch.float16, enabled=cuda)
        with torch.inference_mode(), autocast:
            for batch in images.split(arguments.batch_size):
                model.forward_intermediates(
                    batch,
                    indices=[last_but_one],
                    return_prefix_tokens=True,
                    output_fmt="NLC",
                    stop_early=True,
                    intermediates_only=True,
                )
        if cuda:
            torch.cuda.synchronize()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = pa.array([crop.tobytes() for crop in crops], pa.binary(crops[0].nbytes))
        numbers = pa.array(np.arange(len(crops), dtype=np.int32))
        tables.write(folder / "crops.parquet", pa.table([numbers, pixels], schema=CROPS.schema), CROPS)

        def ours() -> None:
            embed_slide(folder / "crops.parquet", folder / "tokens.parquet", encoder, device, prefix=prefix)

        seconds: dict[str, list[float]] = {"bare": [], "ours": []}
        for repeat in range(arguments.repeats + 1):
            for label, run in (("bare", bare), ("ours", ours)):
                start = clock()
                run()
                if repeat:  # the first round warms up thread pools and kernels
                    seconds[label].append(clock() - start)
        stored_bytes = (folder / "tokens.parquet").stat().st_size
    timm_rate, our_rate = (arguments.cells / min(seconds[label]) for label in ("bare", "ours"))
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name()
        if cuda
        else f"{platform.machine()}, {arguments.threads} threads",
        "torch": torch.__version__,
        "model": arguments.model,
        "cells": arguments.cells,
        "bytes_per_cell": round(stored_bytes / arguments.cells),
        "timm_cells_per_s": round(timm_rate, 1),
        "embed_cells_per_s": round(our_rate, 1),
        "ratio": round(our_rate / timm_rate, 3),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
