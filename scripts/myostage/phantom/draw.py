"""Phantoms: slides drawn instead of scanned, with known truth.

The tissues, muscle and round cells, have a module each; what they share stands in drawing.py.
"""

from pathlib import Path

import numpy as np

from myostage.errors import UserError
from myostage.phantom.muscle import Region, draw_muscle
from myostage.phantom.paint import Reals, rng_of, write_outlines, write_tiff
from myostage.phantom.smears import draw_cells
from myostage.study.sections.phantom import Phantom


def draw_slide(
    path_tiff: str | Path,
    path_geojson: str | Path,
    *,
    phantom: Phantom,
    stages: tuple[str, ...],
    proportions: Reals,
    animal: str,
    slide: str,
    region: Region | None = None,
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
    region : Region, optional
        An injured region: ``region.share`` of the cells are then expected to be of stages that are not
        healthy, the others of healthy ones, and ``proportions`` divide either part among its stages (evenly
        among the healthy ones where they hold none).

    Returns
    -------
    int
        Number of cells drawn.

    Raises
    ------
    UserError
        Stages that the tissue has no look for, proportions that do not match them, a slide too small,
        a region with a share outside 0 to 1 or without an injured stage, or one outside muscle.
    """
    shares: Reals = np.asarray(proportions, dtype=np.float64)
    if shares.shape != (len(stages),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise UserError(
            f"phantom slide {slide!r}: proportions {shares.tolist()} do not fit the {len(stages)} stages "
            f"{', '.join(stages)}; give one share, 0 or more, per stage."
        )
    rng, of_animal = rng_of(phantom.seed, "slide", slide), rng_of(phantom.seed, "animal", animal)
    shares = shares / shares.sum()
    if region:
        shares = _with_region(shares, region, slide)
    if phantom.tissue == "muscle":
        drawn = draw_muscle(phantom, stages, shares, slide, of_animal, rng, region)
    elif region:
        raise UserError(
            f"phantom slide {slide!r}: an injured region is drawn in muscle only; set "
            "`phantom.tissue: muscle`, or leave the region out."
        )
    else:
        drawn = draw_cells(phantom, stages, shares, slide, of_animal, rng)
    write_tiff(Path(path_tiff), drawn.image, phantom.mpp)
    write_outlines(Path(path_geojson), drawn, stages, phantom.mpp)
    return len(drawn.stage)


def _with_region(shares: Reals, region: Region, slide: str) -> Reals:
    """Expected share of each stage, [K] with sum 1: ``region.share`` of cells injured, the others healthy."""
    if not 0 <= region.share <= 1:
        raise UserError(
            f"phantom slide {slide!r}: a share of {region.share:g} of its cells cannot be injured; "
            "give a score from 0 to 1."
        )
    healthy = np.isin(np.arange(len(shares)), region.healthy)
    injured = np.where(healthy, 0, shares)
    if region.share > 0 and not injured.any():
        raise UserError(
            f"phantom slide {slide!r}: {region.share:g} of its cells are to be injured, but the proportions "
            "of its group hold no injured stage; give it the score 0, or correct the proportions."
        )
    intact = np.where(healthy, shares if shares[healthy].any() else 1, 0)
    return (1 - region.share) * intact / intact.sum() + region.share * injured / max(injured.sum(), 1e-12)
