"""A tile through Cellpose's network in one piece against Cellpose's own blocks of 224 px: seconds and truth.

    python benchmarks/bench_blocks.py [--real FOLDER]

Writes benchmarks/results/blocks.json: for each set of slides the CPU seconds of `segment`, and cells
found, found falsely and missed against drawn or annotated outlines, both ways in one process. The sets: drawn
slides of muscle and of round cells, and, where --real names the folder of muscle-fibres/, three real fields,
by a network trained on two of them as tests/studies/fibres.yaml has it.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage import tables  # noqa: E402
from myostage.cells import cellpose  # noqa: E402
from myostage.cells.annotations import label_cells  # noqa: E402
from myostage.cells.segmentation import segment_slide, train_cellpose  # noqa: E402
from myostage.cells.tables import SEGMENTATION_QUALITY  # noqa: E402
from myostage.phantom.draw import draw_slide  # noqa: E402
from myostage.slides.tissue import tile_slide  # noqa: E402
from myostage.study.sections.phantom import Phantom  # noqa: E402
from myostage.study.sections.segmentation import CellposeTraining, Segmentation  # noqa: E402
from myostage.study.sections.tiling import Tiling  # noqa: E402

STAGES = ("damaged", "small_myotube", "large_myotube", "recovered", "intact")
MIXED = np.full(len(STAGES), 1 / len(STAGES))
DEMO_MODEL = ROOT / "config" / "demo" / "cellpose.pt"

Slides = list[tuple[SimpleNamespace, Path]]
"""Row of the slide table, and its outlines."""


def draw_set(folder: Path, tissue: str, number: int) -> Slides:
    """Slides with all stages."""
    phantom = Phantom(seed=7, tissue=tissue, width_um=700, height_um=700)
    found = []
    for index in range(number):
        name = f"{tissue}_{index}"
        path, truth = folder / f"{name}.tif", folder / f"{name}.geojson"
        draw_slide(path, truth, phantom=phantom, stages=STAGES, proportions=MIXED, animal=name, slide=name)
        found.append((SimpleNamespace(slide=name, path=str(path), mpp=phantom.mpp, status="ok"), truth))
    return found


def real_set(folder: Path, data: Path) -> tuple[Slides, Segmentation, Tiling, Path]:
    """The three real fields, and the network that is trained on two of them."""
    study = yaml.safe_load((ROOT / "tests" / "studies" / "fibres.yaml").read_text(encoding="utf-8"))
    os.environ["MYOSTAGE_REAL_DATA"] = str(data)
    annotate = [sys.executable, str(ROOT / "tests" / "studies" / "annotate_fibres.py")]
    subprocess.run([*annotate, "--data", str(data), "--out", str(folder)], check=True)
    tiling, settings = Tiling(**study["tiling"]), study["segmentation"]
    model = folder / "fibres.pt"
    training = CellposeTraining(**settings.pop("train"))
    train_cellpose(training, diameter_um=settings["diameter_um"], mpp=tiling.mpp, out_model=model)
    fields = [
        SimpleNamespace(slide=name, path=str(data / "muscle-fibres" / f"{name}.tif"), mpp=0.2773, status="ok")
        for name in ("fibres_01", "fibres_02", "fibres_03")
    ]
    slides = [(row, folder / f"{row.slide}.geojson") for row in fields]
    return slides, Segmentation(model=str(model), **settings), tiling, model


def measure(
    slides: Slides, segmentation: Segmentation, tiling: Tiling, folder: Path, stages: tuple[str, ...]
) -> dict[str, float]:
    """CPU seconds of `segment`, and hits and misses of its cells."""
    runner = cellpose.CellposeRunner(segmentation, None, tiling.mpp, "cpu")
    runner.masks(np.zeros((1, tiling.tile_px, tiling.tile_px, 3), np.uint8))  # warm up
    seconds, counts = 0.0, np.zeros(3, int)
    for row, truth in slides:
        tile_slide(row, tiling, folder / "tiles.parquet", folder / "tiles.png")
        start = time.process_time()
        segment_slide(row, folder / "tiles.parquet", tiling, segmentation, None,
                      folder / "cells.parquet", folder / "qc.png", model=runner)  # fmt: skip
        seconds += time.process_time() - start
        quality = folder / "quality.parquet"
        label_cells(folder / "cells.parquet", truth, stages, row.mpp / tiling.mpp, folder / "labels.parquet",
                    quality, row.slide, 1 / tiling.mpp)  # fmt: skip
        found = tables.read(quality, SEGMENTATION_QUALITY).iloc[0]
        counts += [found.true_positives, found.false_positives, found.false_negatives]
    hits, false, missed = counts.tolist()
    f1 = 2 * hits / (2 * hits + false + missed)
    return {"cpu_s": round(seconds, 1), "found": hits, "false": false, "missed": missed, "f1": round(f1, 4)}


def sets(folder: Path, real: Path | None, number: int) -> Iterator[tuple[str, Slides, Segmentation, Tiling]]:
    demo = Segmentation(model=str(DEMO_MODEL), diameter_um=30)
    yield "drawn muscle", draw_set(folder, "muscle", number), demo, Tiling(mpp=1.0)
    small = Segmentation(model=str(DEMO_MODEL), diameter_um=11)
    yield "drawn round cells", draw_set(folder, "round_cells", number), small, Tiling(mpp=0.5)
    if real:
        slides, segmentation, tiling, _ = real_set(folder, real)
        yield "real fibres", slides, segmentation, tiling


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder that holds muscle-fibres/")
    parser.add_argument("--slides", type=int, default=3, help="drawn slides of each tissue")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "blocks.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, 1 thread",
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as name:
        for title, slides, segmentation, tiling in sets(Path(name), arguments.real, arguments.slides):
            one = measure(slides, segmentation, tiling, Path(name), STAGES)
            with patch.object(cellpose, "find_block", lambda side_px, scale: cellpose.BLOCK_PX):
                blocks = measure(slides, segmentation, tiling, Path(name), STAGES)
            result[title] = {
                "slides": len(slides),
                "blocks": blocks,
                "one_piece": one,
                "ratio": round(blocks["cpu_s"] / one["cpu_s"], 2),
            }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    logging.getLogger("cellpose").setLevel(logging.WARNING)
    main()
