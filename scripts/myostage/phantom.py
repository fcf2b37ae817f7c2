"""Synthetic H&E cross-sections of regenerating muscle with known truth.

A section is made the way tissue is: an outline, an injury that fades outwards, fibres that fill the space
between their neighbours (a power diagram with rounded corners), a stage for each fibre, and stains laid over
it by Beer-Lambert's law. Every fibre has a latent *maturity*, its stage plus noise, and size, colour and
nuclei all follow from that: so neighbouring stages overlap in looks, as they do under the microscope, and no
classifier can be perfect. Nothing here is measured; sizes and looks follow published descriptions of
regeneration (central nuclei and basophilia first, eosin and girth later).
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from myostage.config import Phantom
from myostage.errors import UserError

Floats = NDArray[np.float32]
Reals = NDArray[np.floating]

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
    # Overlap of neighbouring stages and differences between animals.
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
    seam_um: float = 7.0  # half the width of the connective tissue between two bundles
    relaxations: int = 12
    neighbours: int = 20
    angles: int = 64
    slack: float = 1.15  # a fibre may grow beyond its typical radius when it has the space
    elongation: float = 0.16  # spread of the logarithm of length over width
    packing: float = 0.86  # area a fibre takes up, in squares of its girth
    # Stains: optical density per unit, for R, G and B, and the light that passes the glass.
    haematoxylin: tuple[float, float, float] = (0.80, 0.92, 0.37)
    eosin: tuple[float, float, float] = (0.08, 0.82, 0.40)
    glass: tuple[float, float, float] = (243.0, 243.0, 239.0)
    nucleus: float = 1.25
    # What scanners and microtomes do.
    blur_um: float = 0.45
    defocus_um: float = 1.4
    defocus_share: float = 0.06
    fold_chance: float = 0.5
    fold_um: float = 5.0
    fold_density: float = 0.75
    dust: int = 6
    camera_noise: float = 2.0
    jpeg_quality: int = 90


DRAWING = Drawing()


class Fibres(NamedTuple):
    """The fibres of a section, n of them; lengths in um, origin at the slide's top left."""

    x: Reals  # [n] centre from which the outline is a star
    y: Reals  # [n]
    stage: NDArray[np.int64]  # [n]
    look: dict[str, Reals]  # LOOKS at each fibre's maturity, [n] each
    maturity: Reals  # [n]
    radius: Reals  # [n, angles] distance from the centre to the outline


class Nuclei(NamedTuple):
    """Nuclei as ellipses; lengths in um, angle in radians."""

    x: Reals
    y: Reals
    long: Reals
    short: Reals
    angle: Reals
    density: Reals


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
    with ``slide``, and what an animal's slides share (stain, girth) from ``phantom.seed`` with ``animal``.

    Parameters
    ----------
    path_tiff : path
        Tiled pyramid of three levels (1, 1/2, 1/4), JPEG, resolution from ``phantom.mpp``.
    path_geojson : path
        FeatureCollection of one polygon per fibre, px of the largest level, stage in
        ``properties.classification.name``.
    phantom : Phantom
        Seed, size (um) and resolution (um/px).
    stages : tuple of str, length K
        Names in the study's order; those in ``MATURITY`` have looks of their own.
    proportions : array [K]
        Expected share of each stage among the fibres; the counts are one multinomial draw.
    animal, slide : str
        Names.

    Returns
    -------
    int
        Number of fibres drawn.

    Raises
    ------
    UserError
        Stage names of which only some are known, proportions that do not match them, or a slide too small.
    """
    scale = stage_maturity(stages)
    shares = np.asarray(proportions, dtype=np.float64)
    if shares.shape != scale.shape or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise UserError(
            f"phantom slide {slide!r}: proportions {shares.tolist()} do not fit the {len(stages)} stages "
            f"{', '.join(stages)}; give one share, 0 or more, per stage."
        )
    rng, of_animal = _rng(phantom.seed, "slide", slide), _rng(phantom.seed, "animal", animal)
    size = float(np.exp(DRAWING.animal_size * of_animal.standard_normal()))
    stain = np.exp(DRAWING.animal_stain * of_animal.standard_normal(2))
    fibres, tissue = _lay_out(phantom, scale, shares / shares.sum(), size, slide, rng)
    image = _paint(phantom, fibres, tissue, stain, rng)
    _write_tiff(Path(path_tiff), image, phantom.mpp)
    _write_geojson(Path(path_geojson), fibres, stages, phantom.mpp, image.shape[:2])
    return len(fibres.stage)


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


def _rng(seed: int, kind: str, name: str) -> np.random.Generator:
    # hash() differs between processes, so it cannot seed what must be the same tomorrow.
    digest = hashlib.sha256(f"{seed}/{kind}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> Floats:
    """Gaussian field of standard deviation 1, correlated over ``sigma`` px."""
    step = max(1, int(sigma / 3))  # a smooth field needs no fine grid
    coarse = (shape[0] // step + 4, shape[1] // step + 4)
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), sigma / step, mode="wrap")
    field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return field[: shape[0], : shape[1]] if step == 1 else _enlarge(field, shape, step)


def _enlarge(field: NDArray[np.floating], shape: tuple[int, int], factor: float) -> Floats:
    """Bilinear enlargement of ``field`` onto ``shape`` px, ``factor`` px per px; separable, hence fast."""
    out: NDArray[np.floating] = field
    for axis in (0, 1):
        at = np.clip((np.arange(shape[axis]) + 0.5) / factor - 0.5, 0, out.shape[axis] - 1)
        low = np.minimum(at.astype(np.int64), max(out.shape[axis] - 2, 0))
        high = np.minimum(low + 1, out.shape[axis] - 1)
        part = (at - low).astype(np.float32)
        part = part[:, None] if axis == 0 else part
        out = out.take(low, axis) * (1 - part) + out.take(high, axis) * part
    return out.astype(np.float32)


def _seam(shape: tuple[int, int], sigma: float, half_width: float, rng: np.random.Generator) -> Floats:
    """How deep each px lies in a winding band, 1 on its midline and 0 outside; lengths in px."""
    field = _smooth_noise(shape, sigma, rng)
    rise, run = np.gradient(field)
    # Value over slope is the distance to the field's zero line, to first order.
    distance = np.abs(field) / (np.hypot(rise, run) + 0.1 / sigma)
    return np.clip(1 - distance / half_width, 0, 1).astype(np.float32)


# --- layout -----------------------------------------------------------------------------------------------


def _lay_out(
    phantom: Phantom, scale: Reals, shares: Reals, size: float, slide: str, rng: np.random.Generator
) -> tuple[Fibres, Floats]:
    """Place the fibres; return them and the depth inside the tissue on the layout grid (negative outside)."""
    grid = DRAWING.grid_um
    shape = (max(8, round(phantom.height_um / grid)), max(8, round(phantom.width_um / grid)))
    y, x = (np.indices(shape) + 0.5) * grid
    depth = _outline(shape, rng)
    room = (depth > 0) & (_seam(shape, 110 / grid, DRAWING.seam_um / grid, rng) == 0)

    injury = _smooth_noise(shape, DRAWING.injury_um / 2 / grid, rng)
    centre = rng.uniform(0.3, 0.7, 2) * (phantom.height_um, phantom.width_um)
    reach = 0.5 * np.hypot(phantom.height_um, phantom.width_um)
    recovery = 2.5 * np.hypot(y - centre[0], x - centre[1]) / reach + 0.5 * injury

    # A stage needs area in the ratio of its fibres' number times their size.
    order = np.argsort(scale)
    girth = [np.interp(scale, range(5), LOOKS[name]) for name in ("diameter_um", "gap_um")]
    area = DRAWING.packing * (size * girth[0] + girth[1]) ** 2
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
    out_of_place = rank[nearest] + DRAWING.injury_mixing * rng.standard_normal(count)
    drawn = np.repeat(order, rng.multinomial(count, shares[order]))
    stage = np.empty(count, np.int64)
    stage[np.argsort(out_of_place)] = drawn

    gaps = np.diff(np.sort(scale))
    spread = DRAWING.maturity_noise * (gaps.min() if len(gaps) and gaps.min() > 0 else 1.0)
    maturity = np.clip(scale[stage] + spread * rng.standard_normal(count), 0, 4)
    look: dict[str, Reals] = {name: np.interp(maturity, range(5), row) for name, row in LOOKS.items()}
    look["diameter_um"] = look["diameter_um"] * size * np.exp(DRAWING.size_noise * rng.standard_normal(count))
    for colour in ("eosin", "basophilia"):
        look[colour] = look[colour] * np.exp(DRAWING.colour_noise * rng.standard_normal(count))
    radius = _outlines(sites, look, rng)
    return Fibres(sites[:, 0], sites[:, 1], stage, look, maturity, radius), depth


def _outline(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Depth inside the section, in shares of its semi-axis: positive inside, negative on glass."""
    a, b, exponent = DRAWING.outline
    y, x = np.indices(shape, dtype=np.float32) + 0.5
    level = (np.abs(x / shape[1] - 0.5) / a) ** exponent + (np.abs(y / shape[0] - 0.5) / b) ** exponent
    bites = DRAWING.outline_noise * np.maximum(_smooth_noise(shape, min(shape) / 5, rng) + 0.5, 0)
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


def _outlines(sites: Reals, look: dict[str, Reals], rng: np.random.Generator) -> Reals:
    """Outline of each fibre as a star, [n, angles] um.

    A power cell is the set of points within half-planes, one per neighbour; along a ray the nearest of them
    counts. A soft minimum instead of the minimum rounds the corners, and since it is never above the
    minimum, fibres cannot overlap. The fibre's own radius enters as one more bound.
    """
    own = look["diameter_um"] / 2 * DRAWING.slack
    k = min(DRAWING.neighbours + 1, len(sites))
    gap, near = cKDTree(sites).query(sites, k=k)
    gap, near = np.maximum(gap[:, 1:], 1e-6), near[:, 1:]
    towards = sites[near] - sites[:, None]  # [n, k, 2]
    bearing = np.arctan2(towards[..., 1], towards[..., 0])
    plane = (gap**2 + own[:, None] ** 2 - own[near] ** 2) / (2 * gap)
    # A site outside its own power cell (a small fibre crowded by a large one) keeps a quarter of the way.
    plane = np.clip(plane, 0.25 * gap, 0.75 * gap)
    theta = _angles()
    facing = np.maximum(np.cos(theta - bearing[..., None]), 0)  # [n, k, angles]
    nearness = facing / plane[..., None]
    exponent = look["corner"][:, None]
    ratio = np.exp(DRAWING.elongation * np.abs(rng.standard_normal((len(sites), 1))))
    turned = theta - rng.uniform(0, np.pi, (len(sites), 1))
    ellipse = own[:, None] / np.hypot(np.cos(turned) / ratio**0.5, np.sin(turned) * ratio**0.5)
    bound = (nearness ** exponent[..., None]).sum(1) + ellipse**-exponent
    radius = bound ** (-1 / exponent)
    radius = radius - np.minimum(look["gap_um"][:, None], 0.4 * radius)
    # Indentations only ever shrink a fibre, for the same reason.
    wave = np.zeros_like(radius)
    for harmonic in range(2, 11):
        phase, height = rng.uniform(0, 2 * np.pi, len(sites)), rng.uniform(0, 1, len(sites))
        wave += (height / harmonic**0.5)[:, None] * np.cos(harmonic * theta + phase[:, None])
    wave = (wave.max(1, keepdims=True) - wave) / np.ptp(wave, axis=1, keepdims=True)
    return radius * (1 - look["ragged"][:, None] * wave)


def _angles() -> Reals:
    return np.arange(DRAWING.angles) * (2 * np.pi / DRAWING.angles)


# --- stains -----------------------------------------------------------------------------------------------


def _paint(
    phantom: Phantom, fibres: Fibres, depth: Floats, stain: Reals, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Stain the section and scan it, uint8 [height, width, 3]."""
    mpp = phantom.mpp
    shape = (round(phantom.height_um / mpp), round(phantom.width_um / mpp))
    grain = {um: _smooth_noise(shape, um / mpp, rng) for um in (0.8, 2.5, 7.0)}
    tissue = _enlarge(depth, shape, DRAWING.grid_um / mpp)
    tissue = np.clip((tissue + 0.006 * grain[7.0] + 0.015) / 0.012, 0, 1, dtype=np.float32)
    hurt = _enlarge(_injury(fibres, depth.shape), shape, DRAWING.grid_um / mpp)
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
        _paint_nuclei(nuclei, mpp, grain[0.8], eosin, blue)
    eosin *= np.float32(stain[1])
    blue *= np.float32(stain[0])
    return _scan(eosin, blue, tissue, mpp, rng)


def _injury(fibres: Fibres, shape: tuple[int, ...]) -> Floats:
    """How injured the surroundings are, 0 to 1, on the layout grid."""
    grid = DRAWING.grid_um
    y, x = (np.indices(shape) + 0.5) * grid
    owner = cKDTree(np.stack([fibres.x, fibres.y], 1)).query(np.stack([x.ravel(), y.ravel()], 1))[1]
    injury = np.clip(1 - fibres.maturity / 3, 0, 1)[owner].reshape(shape)
    return ndimage.gaussian_filter(injury, 12 / grid).astype(np.float32)


def _window(x: float, y: float, reach: float, mpp: float, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the px within ``reach`` um of a point, inside the image."""
    rows = slice(max(0, int((y - reach) / mpp)), max(0, min(shape[0], int((y + reach) / mpp) + 2)))
    columns = slice(max(0, int((x - reach) / mpp)), max(0, min(shape[1], int((x + reach) / mpp) + 2)))
    return rows, columns


def _offsets(at: tuple[slice, slice], x: float, y: float, mpp: float) -> tuple[Floats, Floats]:
    """Distance of each px of a window from a point, um: [1, w] along x, [h, 1] along y."""
    dy = (np.arange(at[0].start, at[0].stop) + 0.5) * mpp - y
    dx = (np.arange(at[1].start, at[1].stop) + 0.5) * mpp - x
    return dx.astype(np.float32)[None, :], dy.astype(np.float32)[:, None]


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
    at = _window(x, y, float(radius.max()) + 1, mpp, (eosin.shape[0], eosin.shape[1]))
    dx, dy = _offsets(at, x, y, mpp)
    turn = np.arctan2(dy, dx) * (DRAWING.angles / (2 * np.pi)) % DRAWING.angles
    low = turn.astype(np.int32)
    ring = np.append(radius, radius[:2]).astype(np.float32)
    edge = ring[low] + (turn - low) * (ring[low + 1] - ring[low])
    inwards = edge - np.hypot(dx, dy)
    cover = np.clip(inwards / mpp + 0.5, 0, 1)

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
        edge = fibres.radius[owner, (theta / (2 * np.pi) * DRAWING.angles).astype(np.int64) % DRAWING.angles]
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


def _paint_nuclei(nuclei: Nuclei, mpp: float, grain: Floats, eosin: Floats, blue: Floats) -> None:
    shape = (eosin.shape[0], eosin.shape[1])
    for x, y, long, short, angle, density in zip(*nuclei, strict=True):
        at = _window(x, y, long + 1.0, mpp, shape)
        dx, dy = _offsets(at, x, y, mpp)
        c, s = np.cos(angle), np.sin(angle)
        out = np.hypot((c * dx + s * dy) / long, (c * dy - s * dx) / short)
        cover = np.clip((1 - out) * short / max(mpp, 0.3) + 0.5, 0, 1)
        # Chromatin gathers at the envelope.
        chromatin = DRAWING.nucleus * density * (0.82 + 0.22 * np.minimum(out, 1) ** 2 + 0.10 * grain[at])
        blue[at] += cover * (chromatin - blue[at])
        eosin[at] += cover * (0.35 - eosin[at])


def _scan(
    eosin: Floats, blue: Floats, tissue: Floats, mpp: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Folds, focus, dust, light and camera: stains to RGB by Beer-Lambert's law."""
    shape = (eosin.shape[0], eosin.shape[1])
    if rng.random() < DRAWING.fold_chance:
        coarse = (shape[0] // 4 + 1, shape[1] // 4 + 1)
        band = _enlarge(_seam(coarse, 70 / mpp / 4, DRAWING.fold_um / mpp / 4, rng), shape, 4)
        stretch = (_smooth_noise(shape, 60 / mpp, rng) > 1.0).astype(np.float32)
        doubled = tissue * np.minimum(2 * band, 1) * ndimage.uniform_filter(stretch, max(1, int(8 / mpp)))
        # A second layer of tissue lies upon the first.
        eosin = eosin + DRAWING.fold_density * doubled * (0.4 + 0.5 * eosin)
        blue = blue + DRAWING.fold_density * doubled * (0.1 + 0.5 * blue)
    for _ in range(DRAWING.dust):
        x, y = rng.uniform(0, shape[1] * mpp), rng.uniform(0, shape[0] * mpp)
        reach = rng.uniform(0.8, 2.5)
        at = _window(x, y, reach, mpp, shape)
        dx, dy = _offsets(at, x, y, mpp)
        speck = np.exp(-((np.hypot(dx, dy) / reach * 1.6) ** 4))
        blue[at] += 0.5 * speck
        eosin[at] += 0.2 * speck

    blurred = _smooth_noise(shape, 45 / mpp, rng)
    out_of_focus = np.clip((blurred - np.quantile(blurred[::8, ::8], 1 - DRAWING.defocus_share)) / 0.5, 0, 1)
    light = 1 + 0.012 * _smooth_noise(shape, 200 / mpp, rng)
    image = np.empty((*shape, 3), np.uint8)
    for channel in range(3):
        density = eosin * DRAWING.eosin[channel] + blue * DRAWING.haematoxylin[channel]
        # Light, not density, is what a lens blurs.
        passed = DRAWING.glass[channel] * light * np.exp(-density)
        sharp = ndimage.gaussian_filter(passed, DRAWING.blur_um / mpp, truncate=3)
        soft = ndimage.gaussian_filter(sharp, DRAWING.defocus_um / mpp, truncate=2.5)
        seen = sharp + out_of_focus * (soft - sharp)
        seen += DRAWING.camera_noise * rng.standard_normal(shape, dtype=np.float32)
        image[..., channel] = np.clip(seen + 0.5, 0, 255).astype(np.uint8)
    return image


# --- files ------------------------------------------------------------------------------------------------


def _write_tiff(path: Path, image: NDArray[np.uint8], mpp: float) -> None:
    """Three levels of 256 px tiles; OpenSlide takes the resolution from the tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with tifffile.TiffWriter(temporary) as file:
            for level in range(3):
                file.write(
                    image,
                    tile=(256, 256),
                    photometric="rgb",
                    compression="jpeg",
                    compressionargs={"level": DRAWING.jpeg_quality},
                    resolution=(1e4 / (mpp * 2**level), 1e4 / (mpp * 2**level)),
                    resolutionunit="CENTIMETER",
                    subfiletype=int(level > 0),
                    metadata=None,
                )
                image = _halve(image)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of each 2 x 2 px; an odd last row or column is dropped."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    quads = image[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).astype(np.uint16)
    return ((quads.sum((1, 3)) + 2) // 4).astype(np.uint8)


def _write_geojson(
    path: Path, fibres: Fibres, stages: tuple[str, ...], mpp: float, shape: tuple[int, ...]
) -> None:
    """One polygon per fibre, px of the largest level, cut at the slide's edge."""
    theta = _angles()
    x = np.clip((fibres.x[:, None] + fibres.radius * np.cos(theta)) / mpp, 0, shape[1])
    y = np.clip((fibres.y[:, None] + fibres.radius * np.sin(theta)) / mpp, 0, shape[0])
    rings = np.round(np.stack([x, y], axis=2), 2)
    rings = np.concatenate([rings, rings[:, :1]], axis=1).tolist()
    features = [
        {
            "type": "Feature",
            "id": str(index),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": stages[stage]}},
        }
        for index, (ring, stage) in enumerate(zip(rings, fibres.stage, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"type": "FeatureCollection", "features": features}, file, separators=(",", ":"))
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
