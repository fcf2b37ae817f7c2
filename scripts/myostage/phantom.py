"""Phantoms: slides drawn instead of scanned, with known truth.

The tissues, muscle and round cells, have a module each; what they share stands in drawing.py.
"""

from pathlib import Path

import numpy as np

from myostage.config import Phantom
from myostage.drawing import Reals, rng_of, write_outlines, write_tiff
from myostage.errors import UserError
from myostage.phantom_cells import draw_cells
from myostage.phantom_muscle import draw_muscle

TISSUES = {"muscle": draw_muscle, "round_cells": draw_cells}


def draw_slide(
    path_tiff: str | Path,
    path_geojson: str | Path,
    *,
    phantom: Phantom,
    stages: tuple[str, ...],
    proportions: Reals,
    animal: str,
    slide: str,
) -> int:
    """Draw one slide and write it as a pyramidal TIFF with its truth beside it.

    The same arguments give the same two files, byte for byte: all randomness comes from ``phantom.seed``
    with ``slide``, and what an animal's slides share (stain, size) from ``phantom.seed`` with ``animal``.

    Parameters
    ----------
    path_tiff : path
        Tiled pyramid of three levels (1, 1/2, 1/4), JPEG, resolution from ``phantom.mpp``.
    path_geojson : path
        FeatureCollection of one polygon per cell, px of the largest level, stage in
        ``properties.classification.name``.
    phantom : Phantom
        Tissue, seed, size (um) and resolution (um/px).
    stages : tuple of str, length K
        Names in the study's order. Muscle knows some by name; others are spread evenly over maturity.
    proportions : array [K]
        Expected share of each stage among the cells; the counts are one multinomial draw.
    animal, slide : str
        Names.

    Returns
    -------
    int
        Number of cells drawn.

    Raises
    ------
    UserError
        Stages that the tissue has no look for, proportions that do not match them, or a slide too small.
    """
    shares = np.asarray(proportions, dtype=np.float64)
    if shares.shape != (len(stages),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise UserError(
            f"phantom slide {slide!r}: proportions {shares.tolist()} do not fit the {len(stages)} stages "
            f"{', '.join(stages)}; give one share, 0 or more, per stage."
        )
    rng, of_animal = rng_of(phantom.seed, "slide", slide), rng_of(phantom.seed, "animal", animal)
    drawn = TISSUES[phantom.tissue](phantom, stages, shares / shares.sum(), slide, of_animal, rng)
    write_tiff(Path(path_tiff), drawn.image, phantom.mpp)
    write_outlines(Path(path_geojson), drawn, stages, phantom.mpp)
    return len(drawn.stage)
