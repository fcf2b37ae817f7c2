"""Train the demo study's small Cellpose on phantom slides that the demo never sees, and test it on one more.

    python scripts/make_demo_cellpose.py --out config/demo/cellpose.pt

Everything follows from SEED, so that the file can be made again.
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cellpose.metrics
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from myostage import tables
from myostage.cells.segmentation import segment_slide, train_cellpose
from myostage.cells.tables import CELLS
from myostage.errors import UserError
from myostage.phantom.draw import draw_slide
from myostage.slides.slide import read_picture
from myostage.slides.tissue import tile_slide
from myostage.study.sections.phantom import Phantom
from myostage.study.sections.segmentation import CellposeTraining, Segmentation
from myostage.study.sections.tiling import Tiling

SEED = 90210  # the demo's is 0
STAGES = ("damaged", "small_myotube", "large_myotube", "recovered", "intact")
DAYS = {
    "d0": (0.0, 0.0, 0.0, 0.0, 1.0),
    "d3": (0.59, 0.41, 0.0, 0.0, 0.0),
    "d5": (0.17, 0.28, 0.55, 0.0, 0.0),
    "d7": (0.12, 0.05, 0.77, 0.06, 0.0),
    "d14": (0.01, 0.0, 0.01, 0.98, 0.0),
}
MIXED = (0.2, 0.2, 0.2, 0.2, 0.2)
TRAINED_UM = (420.0, 360.0)
TESTED_UM = (700.0, 600.0)
SLIDE_MPP = 0.5
STUDY_MPP = 1.0
DIAMETER_UM = 30.0
IOU = 0.5


def outlines(geojson: Path, scale: float, size: tuple[int, int]) -> NDArray[np.int32]:
    """Label image int32[height, width] of a slide's outlines, drawn at ``scale`` times level 0."""
    image = Image.new("I", size)
    draw = ImageDraw.Draw(image)
    for number, feature in enumerate(json.loads(geojson.read_text())["features"], start=1):
        ring = np.asarray(feature["geometry"]["coordinates"][0]) * scale - 0.5
        draw.polygon(ring.ravel().tolist(), fill=number)
    return np.asarray(image, dtype=np.int32)


def draw(
    folder: Path, name: str, proportions: tuple[float, ...], size_um: tuple[float, float]
) -> tuple[Path, Path]:
    """One phantom slide and its truth."""
    phantom = Phantom(seed=SEED, width_um=size_um[0], height_um=size_um[1], mpp=SLIDE_MPP)
    slide, truth = folder / f"{name}.tif", folder / f"{name}.geojson"
    draw_slide(
        slide,
        truth,
        phantom=phantom,
        stages=STAGES,
        proportions=np.array(proportions),
        animal=name,
        slide=name,
    )
    return slide, truth


def training_table(folder: Path) -> Path:
    """One slide per day with its label image, and the table that names them."""
    rows = ["image\tmasks\tmpp"]
    for day, proportions in DAYS.items():
        slide, truth = draw(folder, f"train_{day}", proportions, TRAINED_UM)
        height, width = read_picture(slide, "this script").shape[:2]
        masks = outlines(truth, 1.0, (width, height))
        Image.fromarray(masks.astype(np.uint16)).save(folder / f"train_{day}.png")
        rows.append(f"{slide}\t{folder / f'train_{day}.png'}\t{SLIDE_MPP}")
    table = folder / "images.tsv"
    table.write_text("\n".join(rows) + "\n")
    return table


def test(folder: Path, model: Path, day: str, proportions: tuple[float, ...]) -> tuple[float, int]:
    """F1 at IoU .5 of the whole way from slide to cells on a new animal, and the true number of cells."""
    slide, truth = draw(folder, f"test_{day}", proportions, TESTED_UM)
    tiling = Tiling(mpp=STUDY_MPP)
    row = SimpleNamespace(slide=slide.stem, path=str(slide), mpp=SLIDE_MPP, status="ok", reason="")
    tiles, cells = folder / "tiles.parquet", folder / "cells.parquet"
    tile_slide(row, tiling, tiles, folder / "tiles.png")
    segmentation = Segmentation(model=str(model), diameter_um=DIAMETER_UM)
    segment_slide(row, tiles, tiling, segmentation, None, cells, folder / "cells.png")
    width, height = (round(um / STUDY_MPP) for um in TESTED_UM)
    true = outlines(truth, SLIDE_MPP / STUDY_MPP, (width, height))
    found = Image.new("I", (width, height))
    canvas = ImageDraw.Draw(found)
    for number, polygon in enumerate(tables.read(cells, CELLS)["polygon"], start=1):
        canvas.polygon((np.asarray(polygon) - 0.5).tolist(), fill=number)
    _, hits, extra, missed = cellpose.metrics.average_precision(
        true, np.asarray(found, dtype=np.int32), [IOU]
    )
    return float(2 * hits[0] / (2 * hits[0] + extra[0] + missed[0])), len(np.unique(true)) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="model file to write")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--only-test", action="store_true", help="test the file at --out without training it")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("cellpose").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not arguments.only_test:
            training = CellposeTraining(
                images=str(training_table(folder)),
                epochs=arguments.epochs,
                learning_rate=arguments.learning_rate,
                small_net=True,
                seed=SEED,
            )
            train_cellpose(training, diameter_um=DIAMETER_UM, mpp=STUDY_MPP, out_model=arguments.out)
        for day, proportions in {**DAYS, "mixed": MIXED}.items():
            score, cells = test(folder, arguments.out, day, proportions)
            print(f"{day}: F1 {score:.3f} at IoU {IOU:g} on {cells} cells of an animal not trained on")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
