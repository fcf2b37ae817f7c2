r"""Count the annotated stages of every slide of a study: the table that `slide_proportions` names.

    python scripts/slide_proportions.py config/demo_ablation.yaml \
        --out config/demo_ablation/slide_proportions.tsv

Slides without annotations are left out. Those of a phantom study are drawn first if they are not there.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from myostage.cells.annotations import read_annotations
from myostage.errors import UserError
from myostage.phantom import compose, draw
from myostage.study.inputs import SlideRow, read_proportions, read_slides
from myostage.study.load import load_study
from myostage.study.sections.study import Study


def counts(study: Study, slide: SlideRow, proportions: dict[str, np.ndarray]) -> np.ndarray:
    """Outlines of each stage on one slide, int [K]."""
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(slide.annotations or "")
        if study.phantom is not None and not truth.exists():
            truth = Path(folder) / "slide.geojson"
            draw.draw_slide(
                Path(folder) / "slide.tif",
                truth,
                phantom=study.phantom,
                stages=study.stages,
                proportions=proportions[slide.group],
                animal=slide.animal,
                slide=slide.slide,
            )
        _, stage = read_annotations(truth, study.stages, 1.0)
    found = np.bincount(stage[stage >= 0], minlength=len(study.stages))
    if not found.any():
        raise UserError(f"slide {slide.slide}: {slide.annotations} has no outline of a stage; annotate some")
    return found


def main(file: str, out: Path) -> None:
    """Write the table of the study in ``file``."""
    study = load_study(file, files=False)
    proportions = read_proportions(study)
    counted = {
        slide.slide: counts(study, slide, proportions) for slide in read_slides(study) if slide.annotations
    }
    if not counted:
        raise UserError(f"{file}: no slide has annotations; name them in the slide table")
    compose.write_shares(out, "slide", counted, study.stages)
    print(f"{out}: {len(counted)} slides")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", help="study file")
    parser.add_argument("--out", type=Path, required=True, help="table to write")
    arguments = parser.parse_args()
    try:
        main(arguments.study, arguments.out)
    except UserError as error:
        sys.exit(str(error))
