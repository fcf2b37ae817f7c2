"""Synthetic smears of round cells that mature, as blood precursors do.

A smear is made the way such cells lie: crowded here and loose there, touching but not overlapping, with cells
of like maturity near each other. Every cell has a latent *maturity* from 0 to 1, its stage plus noise, and
all its looks follow from that: with maturation the cell becomes smaller, its nucleus shrinks, condenses and
is lost in the end, and its cytoplasm turns from blue to pink. So adjacent stages overlap in looks and no
classifier can be perfect. Nothing here is measured; the looks follow textbook descriptions of erythropoiesis.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from myostage.errors import UserError
from myostage.phantom.paint import (
    NUCLEUS,
    Drawn,
    Floats,
    Reals,
    Scanner,
    inside_star,
    offsets,
    scan,
    smooth_noise,
    star_outlines,
    window,
)
from myostage.study.sections.phantom import Phantom

# What a cell looks like at these maturities; in between it is interpolated.
KNOTS = (0.0, 0.25, 0.5, 0.75, 1.0)
LOOKS: dict[str, tuple[float, float, float, float, float]] = {
    "diameter_um": (15.0, 13.0, 11.2, 9.7, 8.4),
    "gap_um": (0.1, 0.1, 0.1, 0.1, 0.1),
    "corner": (14.0, 15.0, 16.0, 17.0, 18.0),
    "ragged": (0.05, 0.03, 0.02, 0.02, 0.03),
    "eosin": (0.10, 0.14, 0.30, 0.50, 0.66),
    "basophilia": (0.48, 0.56, 0.36, 0.16, 0.05),  # haematoxylin in the cytoplasm
    "nucleus_um": (11.6, 8.8, 6.7, 5.0, 3.8),  # its diameter
    "nucleated": (1.0, 1.0, 1.0, 1.0, 0.1),  # chance to have kept it
    "chromatin": (0.62, 0.78, 0.96, 1.18, 1.35),  # its density
    "clumps": (0.08, 0.20, 0.24, 0.12, 0.04),  # unevenness of the chromatin
}


@dataclass(frozen=True)
class Smear:
    """The constants of the drawing; lengths in um."""

    # Overlap of adjacent stages and differences between animals.
    maturity_noise: float = 0.27  # in stages; sets the ceiling of every classifier
    size_noise: float = 0.05
    colour_noise: float = 0.06
    animal_stain: float = 0.05
    animal_size: float = 0.03
    # Layout.
    coverage: float = 0.36  # share of the slide that cells cover
    grid_um: float = 3.0
    crowd_um: float = 45.0  # scale on which crowding varies
    crowding: float = 0.5
    niche_um: float = 60.0  # scale of neighbourhoods of like maturity
    niche_mixing: float = 0.5  # cells out of their neighbourhood, in ranks
    pushes: int = 80
    elongation: float = 0.05
    eccentric: float = 0.6  # how far a nucleus may lie off the centre, share of the room it has


SMEAR = Smear()
# A smear lies flat: no folds, sharper than a section.
SCANNER = Scanner(blur_um=0.25, defocus_um=0.7, fold_chance=0.0)


class Cells(NamedTuple):
    """The cells of a smear, n of them; lengths in um, origin at the slide's top left."""

    x: Reals  # [n] centre from which the outline is a star
    y: Reals  # [n]
    stage: NDArray[np.int64]  # [n]
    look: dict[str, Reals]  # LOOKS at each cell's maturity, [n] each
    radius: Reals  # [n, ANGLES] distance from the centre to the outline


def draw_cells(
    phantom: Phantom,
    stages: tuple[str, ...],
    shares: Reals,
    slide: str,
    of_animal: np.random.Generator,
    rng: np.random.Generator,
) -> Drawn:
    """A smear of round cells; ``shares`` [K] sum to 1, ``of_animal`` is the randomness that its slides share.

    Stages, whatever their names, are spread evenly over maturity.

    Raises
    ------
    UserError
        The slide is too small.
    """
    overlap, stains, sizes = phantom.dial(SMEAR.maturity_noise, SMEAR.animal_stain, SMEAR.animal_size)
    size = float(np.exp(sizes * of_animal.standard_normal()))
    stain = np.exp(stains * of_animal.standard_normal(2))
    cells = _lay_out(phantom, np.linspace(0.0, 1.0, len(stages)), shares, size, overlap, slide, rng)
    image = _paint(phantom, cells, stain, rng)
    return Drawn(image, cells.x, cells.y, cells.radius, cells.stage)


def _lay_out(
    phantom: Phantom,
    scale: Reals,
    shares: Reals,
    size: float,
    overlap: float,
    slide: str,
    rng: np.random.Generator,
) -> Cells:
    """Draw the cells and place them, like beside like."""
    girth = size * np.interp(scale, KNOTS, LOOKS["diameter_um"])
    area = np.pi / 4 * float(shares @ girth**2)
    width, height = phantom.width_um, phantom.height_um
    count = int(SMEAR.coverage * width * height / area)
    if count < 4 or min(width, height) < 3 * LOOKS["diameter_um"][0]:
        raise UserError(
            f"phantom slide {slide!r}: {width:g} x {height:g} um hold only {count} round cells; "
            "enlarge `phantom.width_um` and `phantom.height_um`."
        )
    stage = np.repeat(np.arange(len(scale)), rng.multinomial(count, shares))
    noise = overlap / max(len(scale) - 1, 1)
    maturity = np.clip(scale[stage] + noise * rng.standard_normal(count), 0, 1)
    order = np.argsort(maturity)
    stage, maturity = stage[order], maturity[order]
    look: dict[str, Reals] = {name: np.interp(maturity, KNOTS, row) for name, row in LOOKS.items()}
    look["diameter_um"] = look["diameter_um"] * size * np.exp(SMEAR.size_noise * rng.standard_normal(count))
    look["nucleus_um"] = look["nucleus_um"] * size * np.exp(SMEAR.size_noise * rng.standard_normal(count))
    for colour in ("eosin", "basophilia", "chromatin"):
        look[colour] = look[colour] * np.exp(SMEAR.colour_noise * rng.standard_normal(count))
    own = look["diameter_um"] / 2
    sites = _push_apart(_sites(phantom, count, rng), own, (width, height))
    radius = star_outlines(sites, own, look, SMEAR.elongation, rng)
    return Cells(sites[:, 0], sites[:, 1], stage, look, radius)


def _sites(phantom: Phantom, count: int, rng: np.random.Generator) -> Reals:
    """``count`` places, um [count, 2], crowded here and there, the least mature neighbourhoods first."""
    grid = SMEAR.grid_um
    shape = (max(8, round(phantom.height_um / grid)), max(8, round(phantom.width_um / grid)))
    density = np.exp(SMEAR.crowding * smooth_noise(shape, SMEAR.crowd_um / 2 / grid, rng)).ravel()
    niche = smooth_noise(shape, SMEAR.niche_um / 2 / grid, rng).ravel()
    chosen = rng.choice(density.size, count, replace=False, p=density / density.sum())
    rank = np.argsort(np.argsort(niche[chosen])) / count + SMEAR.niche_mixing * rng.standard_normal(count)
    y, x = np.unravel_index(chosen[np.argsort(rank)], shape)
    return (np.stack([x, y], axis=1) + rng.uniform(0, 1, (count, 2))) * grid


def _push_apart(sites: Reals, own: Reals, size: tuple[float, float]) -> Reals:
    """Move cells that overlap away from each other and from the slide's edge.

    What overlap is left where it is crowded, :func:`star_outlines` flattens.
    """
    low, high = own[:, None] + 1.0, np.array(size) - own[:, None] - 1.0
    sites = low + sites / size * (high - low)
    for _ in range(SMEAR.pushes):
        one, other = cKDTree(sites).query_pairs(2 * float(own.max()), output_type="ndarray").T
        apart = sites[one] - sites[other]
        distance = np.maximum(np.hypot(*apart.T), 1e-6)
        overlap = np.maximum(own[one] + own[other] - distance, 0)
        if not overlap.any():
            break
        push = 0.5 * (overlap / distance)[:, None] * apart
        np.add.at(sites, one, push)
        np.add.at(sites, other, -push)
        sites = np.clip(sites, low, high)
    return sites


def _paint(phantom: Phantom, cells: Cells, stain: Reals, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stain the smear and scan it, uint8 [height, width, 3]."""
    mpp = phantom.mpp
    shape = (round(phantom.height_um / mpp), round(phantom.width_um / mpp))
    grain = {um: smooth_noise(shape, um / mpp, rng) for um in (0.5, 1.1, 7.0)}
    # Dried plasma: a light veil.
    eosin = np.clip(0.03 + 0.012 * grain[7.0], 0, None)
    blue = np.clip(0.012 + 0.006 * grain[7.0], 0, None)
    kept = rng.random(len(cells.stage)) < cells.look["nucleated"]
    off = np.sqrt(rng.random(len(kept))) * SMEAR.eccentric
    towards, angle = rng.uniform(0, 2 * np.pi, (2, len(kept)))
    stretch = np.exp(0.06 * np.abs(rng.standard_normal(len(kept))))
    for index in range(len(kept)):
        _paint_cytoplasm(index, cells, mpp, grain, eosin, blue)
        if kept[index]:
            place = float(off[index]), float(towards[index]), float(angle[index]), float(stretch[index])
            _paint_nucleus(index, cells, place, mpp, grain, eosin, blue)
    eosin *= np.float32(stain[1])
    blue *= np.float32(stain[0])
    return scan(eosin, blue, np.zeros(shape, np.float32), mpp, SCANNER, rng)


def _paint_cytoplasm(
    index: int, cells: Cells, mpp: float, grain: dict[float, Floats], eosin: Floats, blue: Floats
) -> None:
    x, y, radius = float(cells.x[index]), float(cells.y[index]), cells.radius[index]
    at = window(x, y, float(radius.max()) + 1, mpp, (eosin.shape[0], eosin.shape[1]))
    inwards, cover = inside_star(at, x, y, radius, mpp)
    # A cell is a flattened drop: thinner, so paler, towards its edge.
    thick = 0.80 + 0.20 * np.clip(inwards / 2.5, 0, 1) + 0.05 * grain[1.1][at]
    for stain, amount in ((eosin, cells.look["eosin"]), (blue, cells.look["basophilia"])):
        stain[at] += cover * (float(amount[index]) * thick - stain[at])


def _paint_nucleus(
    index: int,
    cells: Cells,
    place: tuple[float, float, float, float],
    mpp: float,
    grain: dict[float, Floats],
    eosin: Floats,
    blue: Floats,
) -> None:
    """Lay in a nucleus; ``place``: share of the way off the centre, its direction, tilt, elongation."""
    off, towards, angle, stretch = place
    smallest = float(cells.radius[index].min())
    # A nucleus stays within its cell.
    own = min(float(cells.look["nucleus_um"][index]) / 2, 0.9 * smallest / stretch)
    reach = off * max(smallest - own * stretch - 0.3, 0)
    x, y = float(cells.x[index]) + reach * np.cos(towards), float(cells.y[index]) + reach * np.sin(towards)
    at = window(x, y, own * stretch + 1, mpp, (eosin.shape[0], eosin.shape[1]))
    dx, dy = offsets(at, x, y, mpp)
    c, s = np.cos(angle), np.sin(angle)
    out = np.hypot((c * dx + s * dy) / stretch, (c * dy - s * dx) * stretch) / own
    cover = np.clip((1 - out) * own / mpp + 0.5, 0, 1)
    lumps = float(cells.look["clumps"][index]) * grain[1.1][at] + 0.05 * grain[0.5][at]
    chromatin = (
        NUCLEUS * float(cells.look["chromatin"][index]) * (0.9 + 0.12 * np.minimum(out, 1) ** 2 + lumps)
    )
    blue[at] += cover * (np.maximum(chromatin, 0.1) - blue[at])
    eosin[at] += cover * (0.30 - eosin[at])
