"""Draw labelled images of single round cells, one folder per stage, to try a crop study with.

python scripts/draw_crops.py --out images --stages young,middle,old --cells 1000
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from myostage.cells.annotations import read_annotations
from myostage.cells.crops import crop_at
from myostage.errors import UserError
from myostage.phantom.draw import draw_slide
from myostage.slides.slide import open_slide
from myostage.study.sections.phantom import Phantom

PHANTOM = Phantom(tissue="round_cells", width_um=200.0, height_um=200.0, mpp=0.3)


def main(out: Path, stages: tuple[str, ...], cells: int) -> None:
    """Write ``cells`` images into ``out``/{stage}/, stages in equal shares."""
    written = number = 0
    while written < cells:
        number += 1
        name = f"s{number}"
        with tempfile.TemporaryDirectory() as folder:
            tiff, truth = Path(folder) / "slide.tif", Path(folder) / "slide.geojson"
            draw_slide(
                tiff,
                truth,
                phantom=PHANTOM,
                stages=stages,
                proportions=np.ones(len(stages)),
                animal=name,
                slide=name,
            )
            outlines, stage = read_annotations(truth, stages, 1.0)
            with open_slide(tiff, PHANTOM.mpp) as slide:
                for outline, rank in list(zip(outlines, stage, strict=True))[: cells - written]:
                    image = crop_at(slide, outline.centroid.x, outline.centroid.y, PHANTOM.mpp)
                    path = out / stages[rank] / f"c{written:05d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image).save(path)
                    written += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the images")
    parser.add_argument("--stages", required=True, help="stages in order, with commas between them")
    parser.add_argument("--cells", type=int, default=1000, help="images (1000)")
    arguments = parser.parse_args()
    try:
        main(arguments.out, tuple(arguments.stages.split(",")), arguments.cells)
    except UserError as error:
        sys.exit(str(error))
