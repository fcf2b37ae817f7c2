"""Tiles per second of `segment` against bare Cellpose on the same tiles, from the same file.

    python benchmarks/bench_segment.py [--device cuda]

Writes benchmarks/results/segment.json. `ratio` is the share of Cellpose's own speed that is left once tiles
are read, cells merged at borders, measured and written, and the picture for quality control drawn. Both are
timed in turn and the best of each is compared: by the wall on a GPU; on a CPU by CPU seconds, which other
work on the machine changes least.
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
from types import SimpleNamespace

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage import tables  # noqa: E402
from myostage.cells.cellpose import CellposeRunner  # noqa: E402
from myostage.cells.segmentation import segment_slide  # noqa: E402
from myostage.phantom.draw import draw_slide  # noqa: E402
from myostage.slides.slide import open_slide  # noqa: E402
from myostage.slides.tables import TILES  # noqa: E402
from myostage.slides.tissue import tile_slide  # noqa: E402
from myostage.study.sections.phantom import Phantom  # noqa: E402
from myostage.study.sections.segmentation import Segmentation  # noqa: E402
from myostage.study.sections.tiling import Tiling  # noqa: E402

STAGES = ("damaged", "small_myotube", "large_myotube", "recovered", "intact")
MIXED = np.full(len(STAGES), 1 / len(STAGES))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "config" / "demo" / "cellpose.pt"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--side-um", type=float, default=700.0, help="side of the drawn slide")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "segment.json")
    arguments = parser.parse_args()
    logging.getLogger("cellpose").setLevel(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    tiling = Tiling(mpp=1.0)
    segmentation = Segmentation(model=arguments.model, diameter_um=30)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom = Phantom(seed=4, width_um=arguments.side_um, height_um=arguments.side_um)
        path = folder / "slide.tif"
        truth = folder / "slide.geojson"
        draw_slide(path, truth, phantom=phantom, stages=STAGES, proportions=MIXED, animal="a", slide="s")
        row = SimpleNamespace(slide="s", path=str(path), mpp=phantom.mpp, status="ok", reason="")
        tiles_path = folder / "tiles.parquet"
        tile_slide(row, tiling, tiles_path, folder / "tiles.png")
        table = tables.read(tiles_path, TILES)
        with open_slide(path) as slide:
            side = tiling.tile_px
            images = [
                slide.read(x, y, side, side, tiling.mpp) for x, y in zip(table.x_px, table.y_px, strict=True)
            ]
        runner = CellposeRunner(segmentation, None, tiling.mpp, arguments.device)
        settings = {"channels": [0, 0], "diameter": runner.diameter_px, "batch_size": segmentation.batch_size}
        runner.masks(np.stack(images[:2]))  # warm up: thread pools, kernels
        cuda = runner.model.device.type == "cuda"
        clock = time.perf_counter if cuda else time.process_time
        bare_s, ours_s, cells = [], [], 0
        for _ in range(arguments.repeats):
            start = clock()
            for image in images:
                runner.model.eval(image, normalize={"norm3D": False}, **settings)
            bare_s.append(clock() - start)
            start = clock()
            cells = segment_slide(
                row,
                tiles_path,
                tiling,
                segmentation,
                None,
                folder / "cells.parquet",
                folder / "qc.png",
                model=runner,
            )
            ours_s.append(clock() - start)
    bare, ours = (len(images) / min(seconds) for seconds in (bare_s, ours_s))
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name()
        if cuda
        else f"{platform.machine()}, {arguments.threads} threads",
        "clock": "wall" if cuda else "CPU",
        "torch": torch.__version__,
        "model": Path(arguments.model).name,
        "tiles": len(images),
        "cells": cells,
        "cellpose_tiles_per_s": round(bare, 2),
        "segment_tiles_per_s": round(ours, 2),
        "ratio": round(ours / bare, 3),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
