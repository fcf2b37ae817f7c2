"""Synthetic H&E cross-sections of regenerating muscle.

A section is made the way tissue is: an outline, an injury that fades outwards, fibres that fill the space
between their neighbours (a power diagram with rounded corners), a stage for each fibre, and stains laid over
it by Beer-Lambert's law. Every fibre has a latent *maturity*, its stage plus noise, and size, colour and
nuclei all follow from that: so adjacent stages overlap in looks, as they do under the microscope, and no
classifier can be perfect. Nothing here is measured; sizes and looks follow published descriptions of
regeneration (central nuclei and basophilia first, eosin and girth later).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from myostage.errors import UserError
from myostage.phantom.paint import (
    ANGLES,
    Drawn,
    Floats,
    Nuclei,
    Reals,
    Scanner,
    enlarge,
    inside_star,
    paint_nuclei,
    scan,
    seam,
    smooth_noise,
    star_outlines,
    window,
)
from myostage.study.sections.phantom import Phantom

# Where a stage stands on the scale of maturity; stages of other names are spread evenly over it.
MATURITY = {"damaged": 0.0, "small_myotube": 1.0, "large_myotube": 2.0, "recovered": 3.0, "intact": 4.0}

# What a fibre looks like at maturity 0, 1, 2, 3, 4; in between it is interpolated.
LOOKS: dict[str, tuple[float, float, float, float, float]] = {
    "diameter_um": (33.0, 20.0, 27.0, 34.0, 38.5),
    "gap_um": (1.6, 1.5, 1.3, 1.0, 0.8),  # half the space left to the neighbour
    "corner": (7.0, 5.0, 6.0, 9.0, 12.0),  # exponent of the soft minimum: low is round, high is polygonal
    "ragged": (0.16, 0.07, 0.05, 0.03, 0.02),  # depth of the outline's indentations, share of the radius
    "eosin": (0.48, 0.66, 0.80, 0.94, 1.06),
    "basophilia": (0.13, 0.42, 0.28, 0.11, 0.03),  # haematoxylin in the cytoplasm
    "mottle": (0.55, 0.22, 0.14, 0.09, 0.06),  # unevenness of the cytoplasm
    "central": (0.0, 1.0, 2.4, 1.2, 0.0),  # nuclei within the fibre
    "peripheral": (0.2, 0.3, 0.8, 1.6, 2.6),  # nuclei under its membrane
    "infiltrate": (7.0, 0.8, 0.0, 0.0, 0.0),  # small nuclei of invading cells
}


@dataclass(frozen=True)
class Drawing:
    """The constants of the drawing; lengths in um, stains in units of a typical fibre's optical density."""

    grid_um: float = 2.5  # grid on which outline, injury and sites are laid out
    # Overlap of adjacent stages and differences between animals.
    maturity_noise: float = 0.55  # in stages; sets the ceiling of every classifier
    size_noise: float = 0.07
    colour_noise: float = 0.05
    animal_stain: float = 0.045
    animal_size: float = 0.04
    # Layout.
    outline: tuple[float, float, float] = (0.478, 0.474, 2.9)  # semi-axes as shares of the slide, exponent
    outline_noise: float = 0.07
    injury_um: float = 140.0  # scale on which the injury varies
    injury_mixing: float = 0.08  # fibres out of their place, in ranks
    rim_noise_um: float = 30.0  # a region's rim strays this far from a circle; more would tear it apart
    rim_width_um: float = 45.0  # on this way through a diffuse rim the odds of injury fall by e
    seam_um: float = 7.0  # half the width of the connective tissue between two bundles
    relaxations: int = 12
    slack: float = 1.15  # a fibre may grow beyond its typical radius when it has the space
    elongation: float = 0.16  # spread of the logarithm of length over width
    packing: float = 0.86  # area a fibre takes up, in squares of its girth


DRAWING = Drawing()
SCANNER = Scanner()


@dataclass(frozen=True)
class Region:
    """The injured region of a slide, whose other cells are healthy.

    Attributes
    ----------
    border : "sharp" or "diffuse"
        A line with all injured cells on one side, or a zone in which injured and healthy cells mix: the
        chance to be injured is logistic in the distance.
    share : float
        Expected share of the slide's cells that are injured, 0 to 1: the slide's score.
    healthy : tuple of int
        Positions of the stages of uninjured cells.
    """

    border: Literal["sharp", "diffuse"]
    share: float
    healthy: tuple[int, ...]


class Fibres(NamedTuple):
    """The fibres of a section, n of them; lengths in um, origin at the slide's top left."""

    x: Reals  # [n] centre from which the outline is a star
    y: Reals  # [n]
    stage: NDArray[np.int64]  # [n]
    look: dict[str, Reals]  # LOOKS at each fibre's maturity, [n] each
    maturity: Reals  # [n]
    radius: Reals  # [n, angles] distance from the centre to the outline


def stage_maturity(stages: tuple[str, ...]) -> Reals:
    """Maturity of each stage, [K]: by name, or evenly spread where none of the names is known.

    Raises
    ------
    UserError
        Only some of the names are known, so that the others have no place.
    """
    unknown = [stage for stage in stages if stage not in MATURITY]
    if len(unknown) == len(stages):
        return np.linspace(0.0, max(MATURITY.values()), len(stages))
    if unknown:
        raise UserError(
            f"stages {', '.join(unknown)}: a phantom has no look for them beside {', '.join(MATURITY)}; "
            "use these names only, or none of them."
        )
    return np.array([MATURITY[stage] for stage in stages])


def draw_muscle(
    phantom: Phantom,
    stages: tuple[str, ...],
    shares: Reals,
    slide: str,
    of_animal: np.random.Generator,
    rng: np.random.Generator,
    region: Region | None = None,
) -> Drawn:
    """A section of muscle; ``shares`` [K] sum to 1, ``of_animal`` is the randomness that its slides share.

    With a ``region``, cells of its healthy stages lie outside it and all others inside, both in no order.

    Raises
    ------
    UserError
        Stage names some of which are unknown, or a slide too small.
    """
    scale = stage_maturity(stages)
    overlap, stains, sizes = phantom.dial(DRAWING.maturity_noise, DRAWING.animal_stain, DRAWING.animal_size)
    size = float(np.exp(sizes * of_animal.standard_normal()))
    stain = np.exp(stains * of_animal.standard_normal(2))
    fibres, tissue = _lay_out(phantom, scale, shares, size, overlap, slide, rng, region)
    image = _paint(phantom, fibres, tissue, stain, rng)
    return Drawn(image, fibres.x, fibres.y, fibres.radius, fibres.stage)


def _lay_out(
    phantom: Phantom,
    scale: Reals,
    shares: Reals,
    size: float,
    overlap: float,
    slide: str,
    rng: np.random.Generator,
    region: Region | None,
) -> tuple[Fibres, Floats]:
    """Place the fibres; return them and the depth inside the tissue on the layout grid (negative outside)."""
    grid = DRAWING.grid_um
    shape = (max(8, round(phantom.height_um / grid)), max(8, round(phantom.width_um / grid)))
    y, x = (np.indices(shape) + 0.5) * grid
    depth = _outline(shape, rng)
    room = (depth > 0) & (seam(shape, 110 / grid, DRAWING.seam_um / grid, rng) == 0)

    injury = smooth_noise(shape, DRAWING.injury_um / 2 / grid, rng)
    centre = rng.uniform(0.3, 0.7, 2) * (phantom.height_um, phantom.width_um)
    reach = 0.5 * np.hypot(phantom.height_um, phantom.width_um)
    from_centre = np.hypot(y - centre[0], x - centre[1])
    recovery = 2.5 * from_centre / reach + 0.5 * injury
    if region:
        recovery = from_centre + DRAWING.rim_noise_um * injury  # rises by about 1 per um across the rim
        if region.border == "diffuse":
            # Cut at one height, a field with logistic noise is crossed by logistic chance.
            recovery += rng.logistic(0, DRAWING.rim_width_um, shape)

    # A stage needs area in the ratio of its fibres' number times their size.
    healthy = np.isin(np.arange(len(scale)), region.healthy if region else ())
    order = np.lexsort((scale, healthy))
    girth = [np.interp(scale, range(5), LOOKS[name]) for name in ("diameter_um", "gap_um")]
    area = DRAWING.packing * (size * girth[0] + girth[1]) ** 2
    if region:  # stages on one side of the rim lie mixed, as dense as their mean needs
        for side in (healthy, ~healthy):
            area[side] = shares[side] @ area[side] / max(shares[side].sum(), 1e-12)
    inside = np.flatnonzero(room)
    needed = np.cumsum((shares * area)[order])
    rank = (np.argsort(np.argsort(recovery.flat[inside])) + 0.5) / max(len(inside), 1)
    stage_there = order[np.minimum(np.searchsorted(needed / needed[-1], rank), len(order) - 1)]
    density = 1 / area[stage_there]
    count = int((density * grid**2).sum())
    if count < 4:
        raise UserError(
            f"phantom slide {slide!r}: {phantom.width_um:g} x {phantom.height_um:g} um hold only {count} "
            "fibres; enlarge `phantom.width_um` and `phantom.height_um`."
        )
    here = np.stack([x.flat[inside], y.flat[inside]], axis=1)
    sites = _relax(here, density, count, rng)

    nearest = cKDTree(here).query(sites)[1]
    mixing = 0.0 if region else DRAWING.injury_mixing
    out_of_place = rank[nearest] + mixing * rng.standard_normal(count)
    drawn = np.repeat(order, rng.multinomial(count, shares[order]))
    if region:
        injured = np.count_nonzero(~healthy[drawn])
        rng.shuffle(drawn[:injured])
        rng.shuffle(drawn[injured:])
    stage = np.empty(count, np.int64)
    stage[np.argsort(out_of_place)] = drawn

    gaps = np.diff(np.sort(scale))
    spread = overlap * (gaps.min() if len(gaps) and gaps.min() > 0 else 1.0)
    maturity = np.clip(scale[stage] + spread * rng.standard_normal(count), 0, 4)
    look: dict[str, Reals] = {name: np.interp(maturity, range(5), row) for name, row in LOOKS.items()}
    look["diameter_um"] = look["diameter_um"] * size * np.exp(DRAWING.size_noise * rng.standard_normal(count))
    for colour in ("eosin", "basophilia"):
        look[colour] = look[colour] * np.exp(DRAWING.colour_noise * rng.standard_normal(count))
    own = look["diameter_um"] / 2 * DRAWING.slack
    radius = star_outlines(sites, own, look, DRAWING.elongation, rng)
    return Fibres(sites[:, 0], sites[:, 1], stage, look, maturity, radius), depth


def _outline(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Depth inside the section, in shares of its semi-axis: positive inside, negative on glass."""
    a, b, exponent = DRAWING.outline
    y, x = np.indices(shape, dtype=np.float32) + 0.5
    level = (np.abs(x / shape[1] - 0.5) / a) ** exponent + (np.abs(y / shape[0] - 0.5) / b) ** exponent
    bites = DRAWING.outline_noise * np.maximum(smooth_noise(shape, min(shape) / 5, rng) + 0.5, 0)
    return (1 - level ** (1 / exponent) - bites).astype(np.float32)


def _relax(here: Reals, density: Reals, count: int, rng: np.random.Generator) -> Reals:
    """``count`` sites spread over the points ``here`` by Lloyd's relaxation, as dense as ``density`` asks."""
    sites = here[rng.choice(len(here), count, replace=False, p=density / density.sum())]
    sites = sites + rng.uniform(-0.5, 0.5, sites.shape)
    # In the plane the relaxed sites become as dense as the square root of the weight.
    weight = density**2
    for _ in range(DRAWING.relaxations):
        owner = cKDTree(sites).query(here)[1]
        total = np.bincount(owner, weight, count)
        for axis in (0, 1):
            moment = np.bincount(owner, weight * here[:, axis], count)
            sites[:, axis] = np.where(total > 0, moment / np.maximum(total, 1e-12), sites[:, axis])
    return sites


def _paint(
    phantom: Phantom, fibres: Fibres, depth: Floats, stain: Reals, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Stain the section and scan it, uint8 [height, width, 3]."""
    mpp = phantom.mpp
    shape = (round(phantom.height_um / mpp), round(phantom.width_um / mpp))
    grain = {um: smooth_noise(shape, um / mpp, rng) for um in (0.8, 2.5, 7.0)}
    tissue = enlarge(depth, shape, DRAWING.grid_um / mpp)
    tissue = np.clip((tissue + 0.006 * grain[7.0] + 0.015) / 0.012, 0, 1, dtype=np.float32)
    hurt = enlarge(_injury(fibres, depth.shape), shape, DRAWING.grid_um / mpp)
    # Endomysium: pale strands in a gap that fixation has opened; swollen with fluid and cells where injured.
    strands = np.exp(-2 * (grain[2.5] + 0.5 * grain[7.0]) ** 2)
    strands *= np.clip(0.6 + 0.4 * grain[0.8], 0.1, 1.2)
    fluid = np.clip(0.8 + 0.35 * grain[7.0] + 0.2 * grain[2.5] + 0.12 * grain[0.8], 0.1, 1.6)
    eosin = tissue * (0.04 + 0.13 * strands + 0.20 * hurt * fluid)
    blue = tissue * (0.01 + 0.03 * strands + 0.10 * hurt * fluid)

    filled = np.zeros(shape, np.float32)
    for index in range(len(fibres.stage)):
        _paint_fibre(index, fibres, mpp, grain, eosin, blue, filled)

    for nuclei in (_interstitial(tissue * (1 - filled), hurt, mpp, rng), _fibre_nuclei(fibres, rng)):
        paint_nuclei(nuclei, mpp, grain[0.8], eosin, blue)
    eosin *= np.float32(stain[1])
    blue *= np.float32(stain[0])
    return scan(eosin, blue, tissue, mpp, SCANNER, rng)


def _injury(fibres: Fibres, shape: tuple[int, ...]) -> Floats:
    """How injured the surroundings are, 0 to 1, on the layout grid."""
    grid = DRAWING.grid_um
    y, x = (np.indices(shape) + 0.5) * grid
    owner = cKDTree(np.stack([fibres.x, fibres.y], 1)).query(np.stack([x.ravel(), y.ravel()], 1))[1]
    injury = np.clip(1 - fibres.maturity / 3, 0, 1)[owner].reshape(shape)
    return ndimage.gaussian_filter(injury, 12 / grid).astype(np.float32)


def _paint_fibre(
    index: int,
    fibres: Fibres,
    mpp: float,
    grain: dict[float, Floats],
    eosin: Floats,
    blue: Floats,
    filled: Floats,
) -> None:
    x, y, radius = float(fibres.x[index]), float(fibres.y[index]), fibres.radius[index]
    at = window(x, y, float(radius.max()) + 1, mpp, (eosin.shape[0], eosin.shape[1]))
    inwards, cover = inside_star(at, x, y, radius, mpp)

    look = {name: float(values[index]) for name, values in fibres.look.items()}
    mottle = look["mottle"]
    patches = 0.55 * grain[2.5][at] + 0.45 * grain[7.0][at]
    # Lost cytoplasm shows as pale patches, so mottling takes away more than it adds.
    uneven = 1 + mottle * np.clip(patches, -1.6, 0.6) + 0.035 * grain[0.8][at]
    rim = 1 + 0.10 * np.exp(-np.maximum(inwards, 0) / 1.5)
    pink = look["eosin"] * uneven * rim
    purple = look["basophilia"] * (1 + 0.8 * mottle * grain[2.5][at] + 0.12 * grain[0.8][at])
    eosin[at] += cover * (np.maximum(pink, 0.05) - eosin[at])
    blue[at] += cover * (np.maximum(purple, 0) - blue[at])
    filled[at] = np.maximum(filled[at], cover)


def _fibre_nuclei(fibres: Fibres, rng: np.random.Generator) -> Nuclei:
    """Central, peripheral and invading nuclei of all fibres."""
    parts = []
    for kind in ("central", "peripheral", "infiltrate"):
        mean = fibres.look[kind]
        if kind == "infiltrate":  # it comes in swarms
            mean = mean * rng.uniform(0.6, 1.4, len(mean))
        number = np.floor(mean + rng.random(len(mean)))
        owner = np.repeat(np.arange(len(mean)), number.astype(np.int64))
        n = len(owner)
        first = np.concatenate([[0], np.cumsum(number)[:-1]]).astype(np.int64)
        # Nuclei of one fibre stand apart: they share the circle, each with a sector of its own.
        share = (np.arange(n) - first[owner] + rng.uniform(0.15, 0.85, n)) / np.maximum(number[owner], 1)
        theta = 2 * np.pi * ((share + rng.random(len(mean))[owner]) % 1)
        edge = fibres.radius[owner, (theta / (2 * np.pi) * ANGLES).astype(np.int64) % ANGLES]
        if kind == "central":
            alone = number[owner] <= 1
            reach = edge * np.where(alone, rng.uniform(0, 0.25, n), rng.uniform(0.25, 0.5, n))
            long, short, angle = rng.uniform(3.3, 4.4, n), rng.uniform(2.3, 3.1, n), rng.uniform(0, np.pi, n)
            # The nucleus of a young fibre is large, pale and vesicular.
            density = rng.uniform(0.75, 1.0, n)
        elif kind == "peripheral":
            reach = np.maximum(edge - 0.6, 0)
            long, short, angle = rng.uniform(3.0, 4.6, n), rng.uniform(1.2, 1.7, n), theta + np.pi / 2
            density = rng.uniform(0.95, 1.2, n)
        else:
            reach = edge * np.sqrt(rng.uniform(0.02, 1.0, n))
            long, short, angle = rng.uniform(2.0, 2.9, n), rng.uniform(1.6, 2.3, n), rng.uniform(0, np.pi, n)
            density = rng.uniform(0.8, 1.2, n)
        x, y = fibres.x[owner] + reach * np.cos(theta), fibres.y[owner] + reach * np.sin(theta)
        parts.append((x, y, long, short, angle, density))
    return Nuclei(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _interstitial(space: Floats, hurt: Floats, mpp: float, rng: np.random.Generator) -> Nuclei:
    """Nuclei between the fibres: few in healthy tissue, many where it is injured."""
    crowding = np.where(space > 0.6, 0.0022 + 0.0075 * hurt, 0)  # per um2
    chance = crowding * mpp**2
    y, x = np.nonzero(rng.random(space.shape, dtype=np.float32) < chance)
    n = len(x)
    rise, run = np.gradient(ndimage.gaussian_filter(space, 2 / mpp))
    long = rng.uniform(1.9, 3.6, n)
    return Nuclei(
        (x + 0.5) * mpp,
        (y + 0.5) * mpp,
        long,
        np.minimum(long, rng.uniform(1.1, 2.2, n)),
        np.arctan2(run[y, x], -rise[y, x]) + 0.3 * rng.standard_normal(n),
        rng.uniform(0.8, 1.25, n),
    )
