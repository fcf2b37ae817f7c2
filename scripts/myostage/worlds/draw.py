"""Features of cells of K ordered stages on a curve in D dimensions, with what hides them: noise, animals.

The curve is a helix of several circles, c(s) = (r_j cos(w_j s), r_j sin(w_j s))_j with sum_j (r_j w_j)^2 = 1,
so that s is its arc length exactly; stage k lies at s_k. All of it is turned at random in the D dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from myostage.study.sections.world import World

Floats = NDArray[np.float64]

# The angle, radians, by which the fastest of the circles turns from the first stage to the last.
BEND = np.pi
CIRCLES = 3
# Orders of the stages that are drawn for the one that keeps least of the declared order.
ORDERS = 200


@dataclass(frozen=True)
class Drawn:
    """One world.

    Parameters
    ----------
    features
        Of every cell, float32[n, D].
    stages
        Of every cell, int64[n], 0..K-1.
    animals
        The animal of every cell, int64[n]: a place in ``names``.
    names, groups
        Name and group of every animal, [animals].
    true, given
        Proportions [K] of every group: that cells are drawn by, and that are learnt from.
    """

    features: NDArray[np.float32]
    stages: NDArray[np.int64]
    animals: NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    true: dict[str, Floats]
    given: dict[str, Floats]


def draw(
    world: World, stages: int, seed: int | tuple[int, ...], own: Mapping[str, Floats] | None = None
) -> Drawn:
    """Draw a world.

    Parameters
    ----------
    world
        Its settings.
    stages
        Number of stages K, at least 2.
    seed
        Everything random is a function of it, the settings, K and ``own``.
    own
        Proportions [K] of every group before mixing; without, :func:`own_proportions`.
    """
    rng = np.random.default_rng(seed)
    own = own or own_proportions(world.groups, stages)
    mean = np.mean(list(own.values()), axis=0)
    true = {name: (1 - world.mixing) * share + world.mixing * mean for name, share in own.items()}
    t = world.proportion_error
    given = {name: (1 - t) * share + t * rng.dirichlet(np.ones(stages)) for name, share in true.items()}
    groups = tuple(name for name in true for _ in range(world.animals))
    names = tuple(f"{name}_{number + 1}" for name in true for number in range(world.animals))
    of_cells = np.concatenate(
        [rng.choice(stages, size=world.cells, p=_vary(true[group], world.variation, rng)) for group in groups]
    )
    animals = np.repeat(np.arange(len(names)), world.cells)
    centres = _place_stages(world, stages, rng)
    noise = rng.normal(size=(len(of_cells), world.dimensions)) * world.overlap
    spread = np.full(world.dimensions, world.leak)  # of the effects of animals and batches
    curved = world.dimensions - world.distractors
    spread[curved:] = 1.0
    noise[:, curved:] += rng.normal(size=(len(of_cells), world.distractors)) * world.distraction
    of_batches = rng.normal(size=(world.batches, world.dimensions)) * world.batch_effect
    of_animals = rng.normal(size=(len(names), world.dimensions)) * world.animal_effect
    shifts = (of_animals + of_batches[rng.integers(world.batches, size=len(names))]) * spread
    turned = _draw_rotation(world.dimensions, rng)
    features = (centres[of_cells] + noise + shifts[animals]) @ turned
    return Drawn(features.astype(np.float32), of_cells, animals, names, groups, true, given)


def own_proportions(groups: int, stages: int) -> dict[str, Floats]:
    """Proportions [K] of G groups before mixing: group g lies at stage g (K - 1) / (G - 1)."""
    places = np.linspace(0, stages - 1, groups)
    near = np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(stages)))  # [G, K]
    return {f"group{number + 1}": share / share.sum() for number, share in enumerate(near)}


def _vary(share: Floats, variation: float, rng: np.random.Generator) -> Floats:
    """Proportions of an animal: Dirichlet(a p) with 1 / (a + 1) = ``variation``."""
    if variation == 0:
        return share
    there = np.flatnonzero(share > 0)
    found = np.zeros_like(share)
    found[there] = rng.dirichlet(share[there] * (1 / variation - 1))
    # a small variation of a rare stage may underflow to nothing at all
    return found / found.sum() if found.sum() > 0 else share


def _place_stages(world: World, stages: int, rng: np.random.Generator) -> Floats:
    """Centres of the stages [K, D], before everything is turned; none in the distractors."""
    centres = np.zeros((stages, world.dimensions))
    curved = world.dimensions - world.distractors
    if world.order == "unordered":
        corners = np.eye(stages) / np.sqrt(2)  # a simplex: each a distance of 1 from each
        centres[:, :stages] = corners
        return centres
    gaps = world.spacing ** rng.permutation(np.linspace(0, 1, stages - 1)) if stages > 2 else np.ones(1)
    s = np.concatenate([[0.0], np.cumsum(gaps / gaps.mean())])
    circles = min(CIRCLES, curved // 2)
    speed = np.sqrt(rng.dirichlet(np.full(circles, 2.0)))  # r_j w_j
    turns = BEND * np.arange(circles, 0, -1) / circles / s[-1]  # w_j
    angles = s[:, None] * turns
    centres[:, 0 : 2 * circles : 2] = np.cos(angles) * speed / turns
    centres[:, 1 : 2 * circles : 2] = np.sin(angles) * speed / turns
    return centres if world.order == "declared" else centres[_draw_order(stages, rng)]


def _draw_order(stages: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of the stages on the curve, of many orders the one that correlates least with the declared."""
    orders = [rng.permutation(stages) for _ in range(ORDERS)]
    return min(orders, key=lambda order: abs(np.corrcoef(order, np.arange(stages))[0, 1]))


def _draw_rotation(dimensions: int, rng: np.random.Generator) -> Floats:
    """A rotation or reflection [D, D], uniform (Mezzadri 2007, Notices of the AMS 54:592)."""
    q, r = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    signed: Floats = q * np.sign(np.diag(r))
    return signed
