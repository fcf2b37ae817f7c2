"""Tables of proportions that are wrong, to see what that costs."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def perturbed(proportions: Mapping[str, Floats], noise: float, seed: int) -> dict[str, Floats]:
    """Proportions made wrong: (1 - t) p + t q, with q drawn from Dirichlet(1, ..., 1): all alike likely.

    Parameters
    ----------
    proportions : mapping of name to float64[K]
        Proportions of groups, or of slides.
    noise : float
        t, from 0 (as they are) to 1 (nothing of them left).
    seed : int
        Seed, at least 0. A name's q depends on it and on the name alone.
    """
    wrong = {}
    for name, p in proportions.items():
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest())
        q = np.random.default_rng([seed, digest]).dirichlet(np.ones(len(p)))
        wrong[name] = (1 - noise) * p + noise * q
    return wrong
