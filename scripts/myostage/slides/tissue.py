"""Where the tissue is, and the tiles that cover it.

Stained tissue is coloured and glass is not: Otsu's threshold on the saturation of a coarse image finds it.
Tiles overlap, so that a cell that a tile cuts is complete in the next tile; each tile has a *core*, the
cores partition the slide, and a cell belongs to the tile whose core holds its centroid.
"""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from myostage import tables
from myostage.errors import UserError
from myostage.slides.pixels import RGB, placeholder, save_png
from myostage.slides.slide import Slide, open_slide
from myostage.slides.tables import TILES
from myostage.study.sections.tiling import Tiling

logger = logging.getLogger(__name__)

SATURATION_FLOOR = 24
SATURATION_CEILING = 40
"""Otsu's threshold is kept between these (of 255): an image of glass alone has no tissue, and one of tissue
alone is not split into pale and dark tissue. Glass measured 0 to 17, fibres 90 to 130."""

DARK = 24
"""Pixels whose brightest channel is below this (of 255) are the scanner's black frame; their hue is noise."""

SMOOTH_PX = 1.0
LARGEST_MASK_PX = 2 * 10**8
"""At 4 um/px a slide of 50 x 60 mm; labelling its pieces takes 8 bytes a px and more."""
QC_PX = 1600
_STRIP_PX = 512
_OUTLINE, _GRID, _TEXT = (0, 110, 60), (0, 60, 200), (20, 20, 20)


def tissue_mask(slide: Slide, tiling: Tiling) -> NDArray[np.bool_]:
    """The tissue of a slide.

    Parameters
    ----------
    slide : Slide
    tiling : Tiling
        Resolution of the mask and the areas (um2) below which pieces are dropped and holes filled.

    Returns
    -------
    bool[h, w]
        True on tissue, at ``tiling.mask_mpp`` um/px.

    References
    ----------
    Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62.
    """
    stained = _stained(slide, tiling)
    px_um2 = tiling.mask_mpp**2
    # `max_size` is inclusive, the keys say "smaller": the largest whole number of px below the area.
    stained = remove_small_objects(stained, max_size=math.ceil(tiling.min_tissue_um2 / px_um2) - 1)
    return remove_small_holes(stained, max_size=math.ceil(tiling.max_hole_um2 / px_um2) - 1)


def _stained(slide: Slide, tiling: Tiling) -> NDArray[np.bool_]:
    width, height = slide.size(tiling.mask_mpp)
    if width * height > LARGEST_MASK_PX:
        raise UserError(
            f"{slide.path}: its tissue mask has {width:,} x {height:,} px, over {LARGEST_MASK_PX:,}; raise "
            "tiling.mask_mpp, or correct the resolution by column mpp of the slide table"
        )
    saturation = np.empty((height, width), np.uint8)
    for top in range(0, height, _STRIP_PX):
        rows = min(_STRIP_PX, height - top)
        pixels = slide.read(0, top, width, rows, tiling.mask_mpp)
        brightest, darkest = pixels.max(axis=2), pixels.min(axis=2)
        value = 255 * (brightest - darkest).astype(np.uint16) // np.maximum(brightest, 1)
        saturation[top : top + rows] = np.where(brightest < DARK, 0, value)
    saturation = ndimage.gaussian_filter(saturation, SMOOTH_PX, mode="nearest")
    # Otsu needs two values; a picture of one is judged by the floor alone.
    otsu = threshold_otsu(saturation) if saturation.min() < saturation.max() else 0
    return saturation > min(max(otsu, SATURATION_FLOOR), SATURATION_CEILING)


def tile_grid(width_px: int, height_px: int, tiling: Tiling) -> pd.DataFrame:
    """All tiles of a slide, row by row, at the study's mpp.

    Tiles are spread evenly from edge to edge: adjacent tiles overlap by ``overlap_px`` or more, and no tile
    leaves the slide unless the slide is smaller than a tile. Cores end in the middle of an overlap and
    partition the slide exactly.

    Parameters
    ----------
    width_px, height_px : int
        Size of the slide at ``tiling.mpp``.

    Returns
    -------
    DataFrame
        Columns of ``TILES`` but ``tissue``.
    """
    xs, x_edges = _axis(width_px, tiling)
    ys, y_edges = _axis(height_px, tiling)
    row, column = (index.ravel() for index in np.mgrid[: len(ys), : len(xs)])
    columns = {
        "tile": np.arange(len(row)),
        "x_px": xs[column],
        "y_px": ys[row],
        "core_x0_px": x_edges[column],
        "core_y0_px": y_edges[row],
        "core_x1_px": x_edges[column + 1],
        "core_y1_px": y_edges[row + 1],
    }
    return pd.DataFrame({name: values.astype(np.int32) for name, values in columns.items()})


def _axis(length_px: int, tiling: Tiling) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts of the n tiles along one axis, and the n + 1 edges of their cores."""
    tile, overlap = tiling.tile_px, tiling.overlap_px
    count = max(1, math.ceil((length_px - overlap) / (tile - overlap)))
    starts = np.linspace(0, max(0, length_px - tile), count).astype(np.int64)
    inner = (starts[1:] + starts[:-1] + tile) // 2
    return starts, np.concatenate([[0], inner, [length_px]])


def tile_slide(row: Any, tiling: Tiling, out_tiles: str | Path, out_qc_png: str | Path) -> int:
    """Write the tiles of one slide that hold tissue, and a picture of mask and tiles to check them by.

    Parameters
    ----------
    row : row of the slides table
        With slide, path, mpp, status and reason.
    tiling : Tiling
    out_tiles : str or Path
        ``TILES``; where it is empty, the file's metadata says why (key ``reason``).
    out_qc_png : str or Path
        The slide with the outline of its tissue (green) and the cores of its tiles (blue).

    Returns
    -------
    int
        Tiles; 0 for a skipped slide, or one without tissue.
    """
    if row.status != "ok":
        _write_tiles(out_tiles, tile_grid(1, 1, tiling).iloc[:0].assign(tissue=[]), row.slide, row.reason)
        save_png(placeholder(), out_qc_png)
        return 0
    with open_slide(row.path, row.mpp) as slide:
        if slide.mpp > 1.5 * tiling.mpp:
            logger.warning(
                "slide %s has %.3g um/px; reading it at %.3g adds no detail", row.slide, slide.mpp, tiling.mpp
            )
        mask = tissue_mask(slide, tiling)
        tiles = tile_grid(*slide.size(tiling.mpp), tiling)
        tiles["tissue"] = _tissue_share(mask, tiles, tiling)
        kept = tiles[(tiles.tissue > 0) & (tiles.tissue >= tiling.min_tissue)]
        kept = kept.assign(tile=np.arange(len(kept), dtype=np.int32))
        reason = ""
        if kept.empty and mask.any():
            reason = f"no tile is tissue by min_tissue {tiling.min_tissue:g} of its area or more"
        elif kept.empty:
            reason = f"no tissue of min_tissue_um2 {tiling.min_tissue_um2:g} um2 or more"
        _write_tiles(out_tiles, kept, row.slide, reason)
        area_mm2 = mask.sum() * tiling.mask_mpp**2 / 1e6
        caption = f"{row.slide}: {len(kept)} of {len(tiles)} tiles, {area_mm2:.3g} mm2 of tissue"
        if reason:
            caption += f"; {reason}"
        save_png(_picture(slide, mask, kept, tiling, caption), out_qc_png)
    logger.info("%s", caption)
    return len(kept)


def _write_tiles(out: str | Path, tiles: pd.DataFrame, slide: str, reason: str) -> None:
    if tiles.empty:
        logger.warning("slide %s has no tiles: %s", slide, reason)
    tables.write(out, tiles, TILES, {"reason": reason})


def _tissue_share(mask: NDArray[np.bool_], tiles: pd.DataFrame, tiling: Tiling) -> NDArray[np.float64]:
    """Share of each tile that is tissue; what lies outside the slide is not."""
    scale = tiling.mpp / tiling.mask_mpp
    side = tiling.tile_px * scale
    shares = []
    for x, y in zip(tiles.x_px * scale, tiles.y_px * scale, strict=True):
        window = mask[int(y) : math.ceil(y + side), int(x) : math.ceil(x + side)]
        area = (math.ceil(y + side) - int(y)) * (math.ceil(x + side) - int(x))
        shares.append(window.sum() / area)
    return np.asarray(shares)


def _picture(slide: Slide, mask: NDArray[np.bool_], tiles: pd.DataFrame, tiling: Tiling, caption: str) -> RGB:
    pixels = slide.thumbnail(QC_PX)
    height, width = pixels.shape[:2]
    tissue = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    width_of_line = max(1, max(width, height) // 500)
    edge = tissue & ~ndimage.binary_erosion(tissue, iterations=width_of_line, border_value=1)
    pixels = np.where(edge[..., None], np.array(_OUTLINE, np.uint8), pixels)
    font = ImageFont.load_default(size=max(11, width // 60))
    band = math.ceil(font.getbbox("Ag")[3]) + 8
    picture = Image.new("RGB", (width, height + band), "white")
    picture.paste(Image.fromarray(pixels), (0, band))
    draw = ImageDraw.Draw(picture)
    draw.text((4, 4), caption, fill=_TEXT, font=font)
    scale = width / slide.size(tiling.mpp)[0]
    corners = tiles[["core_x0_px", "core_y0_px", "core_x1_px", "core_y1_px"]].to_numpy() * scale
    for x0, y0, x1, y1 in corners:
        draw.rectangle((x0, y0 + band, min(x1, width - 1), min(y1 + band, height + band - 1)), outline=_GRID)
    return np.asarray(picture)
