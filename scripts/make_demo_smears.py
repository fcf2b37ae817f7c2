"""Draw the images with masks that the transfer study's Cellpose is trained on: smears that it never sees.

    python scripts/make_demo_smears.py --out config/transfer/images

Everything follows from SEED, so that the files can be made again.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from make_demo_cellpose import outlines
from myostage.phantom.draw import draw_slide
from myostage.slides.slide import read_picture
from myostage.study.sections.phantom import Phantom

SEED = 90210  # the study's is 0
STAGES = (
    "proerythroblast",
    "basophilic",
    "polychromatic_early",
    "polychromatic_late",
    "orthochromatic",
    "reticulocyte",
)
PROPORTIONS = {
    "young": (0.5, 0.3, 0.2, 0.0, 0.0, 0.0),
    "middle": (0.0, 0.2, 0.3, 0.3, 0.2, 0.0),
    "old": (0.0, 0.0, 0.0, 0.2, 0.4, 0.4),
    "mixed": (0.1, 0.1, 0.2, 0.2, 0.2, 0.2),
}
SIDE_UM = 76.8  # 256 px
MPP = 0.3


def draw(name: str, out: Path) -> str:
    """Write one image with its label image; returns its row of the table."""
    phantom = Phantom(tissue="round_cells", seed=SEED, width_um=SIDE_UM, height_um=SIDE_UM, mpp=MPP)
    with tempfile.TemporaryDirectory() as folder:
        slide, truth = Path(folder) / "slide.tif", Path(folder) / "slide.geojson"
        draw_slide(
            slide,
            truth,
            phantom=phantom,
            stages=STAGES,
            proportions=np.array(PROPORTIONS[name]),
            animal=name,
            slide=name,
        )
        image = Image.fromarray(read_picture(slide, "this script"))
        # as JPEG, which the slide is too: a tenth of the bytes
        image.save(out / f"{name}.jpg", quality=95)
        masks = outlines(truth, 1.0, image.size)
    Image.fromarray(masks.astype(np.uint16)).save(out / f"{name}_masks.png", optimize=True)
    return f"{out / f'{name}.jpg'}\t{out / f'{name}_masks.png'}\t{MPP}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the images")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rows = ["image\tmasks\tmpp", *(draw(name, out) for name in PROPORTIONS)]
    out.with_suffix(".tsv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
