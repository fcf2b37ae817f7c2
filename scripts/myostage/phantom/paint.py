"""What all phantoms are drawn with: noise, star-shaped outlines, stains, a scanner, and the files.

Stains are laid over each other by Beer-Lambert's law. Nothing here knows a tissue or a stage.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from myostage import tables

Floats = NDArray[np.float32]
Reals = NDArray[np.floating]

JPEG_QUALITY = 90
ANGLES = 64
"""Points of an outline."""
NEIGHBOURS = 20
"""Neighbours that bound an outline."""
NUCLEUS = 1.25
"""Haematoxylin of a nucleus of density 1."""


@dataclass(frozen=True)
class Scanner:
    """Stains, glass, microtome and camera; lengths in um, stains as optical density per unit for R, G, B."""

    haematoxylin: tuple[float, float, float] = (0.80, 0.92, 0.37)
    eosin: tuple[float, float, float] = (0.08, 0.82, 0.40)
    glass: tuple[float, float, float] = (243.0, 243.0, 239.0)  # the light that passes it
    blur_um: float = 0.45
    defocus_um: float = 1.4
    defocus_share: float = 0.06
    fold_chance: float = 0.5
    fold_um: float = 5.0
    fold_density: float = 0.75
    dust: int = 6
    camera_noise: float = 2.0


class Drawn(NamedTuple):
    """A picture and its truth, n cells; lengths in um, origin at the slide's top left."""

    image: NDArray[np.uint8]  # [height, width, 3]
    x: Reals  # [n] centre from which the outline is a star
    y: Reals  # [n]
    radius: Reals  # [n, ANGLES] distance from the centre to the outline
    stage: NDArray[np.int64]  # [n]


def rng_of(seed: int, kind: str, name: str) -> np.random.Generator:
    """The randomness of one slide or animal."""
    # hash() differs between processes, so it cannot seed what must be the same tomorrow.
    digest = hashlib.sha256(f"{seed}/{kind}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> Floats:
    """Gaussian field of standard deviation 1, correlated over ``sigma`` px."""
    step = max(1, int(sigma / 3))  # a smooth field needs no fine grid
    coarse = (shape[0] // step + 4, shape[1] // step + 4)
    field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), sigma / step, mode="wrap")
    field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return field[: shape[0], : shape[1]] if step == 1 else enlarge(field, shape, step)


def enlarge(field: NDArray[np.floating], shape: tuple[int, int], factor: float) -> Floats:
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


def seam(shape: tuple[int, int], sigma: float, half_width: float, rng: np.random.Generator) -> Floats:
    """How deep each px lies in a winding band, 1 on its midline and 0 outside; lengths in px."""
    field = smooth_noise(shape, sigma, rng)
    rise, run = np.gradient(field)
    # Value over slope is the distance to the field's zero line, to first order.
    distance = np.abs(field) / (np.hypot(rise, run) + 0.1 / sigma)
    return np.clip(1 - distance / half_width, 0, 1).astype(np.float32)


def star_outlines(
    sites: Reals, own: Reals, look: dict[str, Reals], elongation: float, rng: np.random.Generator
) -> Reals:
    """Outline of each cell as a star.

    A power cell is the set of points within half-planes, one per neighbour; along a ray the nearest of them
    counts. A soft minimum instead of the minimum rounds the corners, and since it is never above the
    minimum, cells cannot overlap. The cell's own radius enters as one more bound.

    Parameters
    ----------
    sites : array [n, 2]
        Centres, um.
    own : array [n]
        Radius that a cell has where no neighbour bounds it, um.
    look : dict
        ``gap_um`` (half the space left to the neighbour), ``corner`` (exponent of the soft minimum: low is
        round, high is polygonal) and ``ragged`` (depth of indentations, share of the radius), [n] each.
    elongation : float
        Spread of the logarithm of length over width.

    Returns
    -------
    array [n, ANGLES]
        Distance from the centre to the outline, um.
    """
    k = min(NEIGHBOURS + 1, len(sites))
    gap, near = cKDTree(sites).query(sites, k=k)
    gap, near = np.maximum(gap[:, 1:], 1e-6), near[:, 1:]
    towards = sites[near] - sites[:, None]  # [n, k, 2]
    bearing = np.arctan2(towards[..., 1], towards[..., 0])
    plane = (gap**2 + own[:, None] ** 2 - own[near] ** 2) / (2 * gap)
    # A site outside its own power cell (a small cell crowded by a large one) keeps a quarter of the way.
    plane = np.clip(plane, 0.25 * gap, 0.75 * gap)
    theta = angles()
    facing = np.maximum(np.cos(theta - bearing[..., None]), 0)  # [n, k, angles]
    nearness = facing / plane[..., None]
    exponent = look["corner"][:, None]
    ratio = np.exp(elongation * np.abs(rng.standard_normal((len(sites), 1))))
    turned = theta - rng.uniform(0, np.pi, (len(sites), 1))
    ellipse = own[:, None] / np.hypot(np.cos(turned) / ratio**0.5, np.sin(turned) * ratio**0.5)
    bound = (nearness ** exponent[..., None]).sum(1) + ellipse**-exponent
    radius = bound ** (-1 / exponent)
    radius = radius - np.minimum(look["gap_um"][:, None], 0.4 * radius)
    # Indentations only ever shrink a cell, for the same reason.
    wave = np.zeros_like(radius)
    for harmonic in range(2, 11):
        phase, height = rng.uniform(0, 2 * np.pi, len(sites)), rng.uniform(0, 1, len(sites))
        wave += (height / harmonic**0.5)[:, None] * np.cos(harmonic * theta + phase[:, None])
    wave = (wave.max(1, keepdims=True) - wave) / np.ptp(wave, axis=1, keepdims=True)
    return radius * (1 - look["ragged"][:, None] * wave)


def angles() -> Reals:
    """Directions of an outline's points, [ANGLES] radian."""
    return np.arange(ANGLES) * (2 * np.pi / ANGLES)


def window(x: float, y: float, reach: float, mpp: float, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the px within ``reach`` um of a point, inside the image."""
    rows = slice(max(0, int((y - reach) / mpp)), max(0, min(shape[0], int((y + reach) / mpp) + 2)))
    columns = slice(max(0, int((x - reach) / mpp)), max(0, min(shape[1], int((x + reach) / mpp) + 2)))
    return rows, columns


def offsets(at: tuple[slice, slice], x: float, y: float, mpp: float) -> tuple[Floats, Floats]:
    """Distance of each px of a window from a point, um: [1, w] along x, [h, 1] along y."""
    dy = (np.arange(at[0].start, at[0].stop) + 0.5) * mpp - y
    dx = (np.arange(at[1].start, at[1].stop) + 0.5) * mpp - x
    return dx.astype(np.float32)[None, :], dy.astype(np.float32)[:, None]


class Nuclei(NamedTuple):
    """Nuclei as ellipses; lengths in um, angle in radians."""

    x: Reals
    y: Reals
    long: Reals
    short: Reals
    angle: Reals
    density: Reals


def inside_star(
    at: tuple[slice, slice], x: float, y: float, radius: Reals, mpp: float
) -> tuple[Floats, Floats]:
    """Depth of each px of a window inside an outline, um, and how much of it the outline covers, 0 to 1."""
    dx, dy = offsets(at, x, y, mpp)
    turn = np.arctan2(dy, dx) * (ANGLES / (2 * np.pi)) % ANGLES
    low = turn.astype(np.int32)
    ring = np.append(radius, radius[:2]).astype(np.float32)
    edge = ring[low] + (turn - low) * (ring[low + 1] - ring[low])
    inwards = edge - np.hypot(dx, dy)
    return inwards, np.clip(inwards / mpp + 0.5, 0, 1)


def paint_nuclei(nuclei: Nuclei, mpp: float, grain: Floats, eosin: Floats, blue: Floats) -> None:
    """Lay nuclei into the two stains; ``grain`` is the texture of their chromatin."""
    shape = (eosin.shape[0], eosin.shape[1])
    for x, y, long, short, angle, density in zip(*nuclei, strict=True):
        at = window(x, y, long + 1.0, mpp, shape)
        dx, dy = offsets(at, x, y, mpp)
        c, s = np.cos(angle), np.sin(angle)
        out = np.hypot((c * dx + s * dy) / long, (c * dy - s * dx) / short)
        cover = np.clip((1 - out) * short / max(mpp, 0.3) + 0.5, 0, 1)
        # Chromatin gathers at the envelope.
        chromatin = NUCLEUS * density * (0.82 + 0.22 * np.minimum(out, 1) ** 2 + 0.10 * grain[at])
        blue[at] += cover * (chromatin - blue[at])
        eosin[at] += cover * (0.35 - eosin[at])


def scan(
    eosin: Floats, blue: Floats, tissue: Floats, mpp: float, scanner: Scanner, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Folds, focus, dust, light and camera: stains to RGB by Beer-Lambert's law.

    Parameters
    ----------
    eosin, blue, tissue : float32 [height, width]
        Amounts of eosin and haematoxylin, and where there is tissue (0 to 1) that may fold.

    Returns
    -------
    uint8 [height, width, 3]
    """
    shape = (eosin.shape[0], eosin.shape[1])
    if rng.random() < scanner.fold_chance:
        coarse = (shape[0] // 4 + 1, shape[1] // 4 + 1)
        band = enlarge(seam(coarse, 70 / mpp / 4, scanner.fold_um / mpp / 4, rng), shape, 4)
        stretch = (smooth_noise(shape, 60 / mpp, rng) > 1.0).astype(np.float32)
        doubled = tissue * np.minimum(2 * band, 1) * ndimage.uniform_filter(stretch, max(1, int(8 / mpp)))
        # A second layer of tissue lies upon the first.
        eosin = eosin + scanner.fold_density * doubled * (0.4 + 0.5 * eosin)
        blue = blue + scanner.fold_density * doubled * (0.1 + 0.5 * blue)
    for _ in range(scanner.dust):
        x, y = rng.uniform(0, shape[1] * mpp), rng.uniform(0, shape[0] * mpp)
        reach = rng.uniform(0.8, 2.5)
        at = window(x, y, reach, mpp, shape)
        dx, dy = offsets(at, x, y, mpp)
        speck = np.exp(-((np.hypot(dx, dy) / reach * 1.6) ** 4))
        blue[at] += 0.5 * speck
        eosin[at] += 0.2 * speck

    blurred = smooth_noise(shape, 45 / mpp, rng)
    out_of_focus = np.clip((blurred - np.quantile(blurred[::8, ::8], 1 - scanner.defocus_share)) / 0.5, 0, 1)
    light = 1 + 0.012 * smooth_noise(shape, 200 / mpp, rng)
    image = np.empty((*shape, 3), np.uint8)
    for channel in range(3):
        density = eosin * scanner.eosin[channel] + blue * scanner.haematoxylin[channel]
        # Light, not density, is what a lens blurs.
        passed = scanner.glass[channel] * light * np.exp(-density)
        sharp = ndimage.gaussian_filter(passed, scanner.blur_um / mpp, truncate=3)
        soft = ndimage.gaussian_filter(sharp, scanner.defocus_um / mpp, truncate=2.5)
        seen = sharp + out_of_focus * (soft - sharp)
        seen += scanner.camera_noise * rng.standard_normal(shape, dtype=np.float32)
        image[..., channel] = np.clip(seen + 0.5, 0, 255).astype(np.uint8)
    return image


def write_tiff(path: Path, image: NDArray[np.uint8], mpp: float) -> None:
    """Three levels of 256 px tiles; OpenSlide takes the resolution from the tags."""
    with tables.atomic(path) as temporary, tifffile.TiffWriter(temporary) as file:
        for level in range(3):
            file.write(
                image,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                resolution=(1e4 / (mpp * 2**level), 1e4 / (mpp * 2**level)),
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 0),
                metadata=None,
            )
            image = _halve(image)


def _halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean of each 2 x 2 px; an odd last row or column is dropped."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    quads = image[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).astype(np.uint16)
    return ((quads.sum((1, 3)) + 2) // 4).astype(np.uint8)


def write_outlines(path: Path, drawn: Drawn, stages: tuple[str, ...], mpp: float) -> None:
    """One polygon per cell, px of the largest level, cut at the slide's edge."""
    theta = angles()
    x = np.clip((drawn.x[:, None] + drawn.radius * np.cos(theta)) / mpp, 0, drawn.image.shape[1])
    y = np.clip((drawn.y[:, None] + drawn.radius * np.sin(theta)) / mpp, 0, drawn.image.shape[0])
    rings = np.round(np.stack([x, y], axis=2), 2)
    rings = np.concatenate([rings, rings[:, :1]], axis=1).tolist()
    features = [
        {
            "type": "Feature",
            "id": str(index),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation", "classification": {"name": stages[stage]}},
        }
        for index, (ring, stage) in enumerate(zip(rings, drawn.stage, strict=True))
    ]
    # as one text, which json's compiled encoder writes; to a file it would go by that of Python
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
    with tables.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
