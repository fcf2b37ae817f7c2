"""The section `training.choose` of a study file."""

import itertools
import math
from typing import Annotated, Any

from pydantic import Field

from myostage.schema import Section, Text, key

# keys of `training` that change what is given, where cells must lie or nothing that is predicted
GIVEN = ("choose", "proportions", "proportion_noise", "score", "head", "smooth", "smooth_at")
NOT_CHOSEN = frozenset((*GIVEN, "checkpoint_every", "cache_mb"))
MOST_CANDIDATES = 100


class Choose(Section):
    """Settings that a run chooses for itself, by the proportions of training animals that it holds in.

    Every candidate is trained on all parts of the training animals but one, for each part in turn. The
    candidate of the smallest KL divergence of given from predicted proportions (mean over the slides held in)
    is trained on all training animals. No cell label and no held-out animal is read.
    """

    vary: dict[Text, Annotated[list[Any], Field(min_length=1, max_length=MOST_CANDIDATES)]] = key(
        ...,
        "keys of `training`, or `losses.TERM`, each with the values of a grid of candidates",
        min_length=1,
        max_length=MOST_CANDIDATES,
    )
    parts: int = key(
        3,
        "parts that the training animals are dealt into, stratified by group; a run is trained once per "
        "candidate and part, and once more",
        ge=2,
        le=20,
    )

    @property
    def count(self) -> int:
        return math.prod(map(len, self.vary.values()))

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """The settings of every candidate."""
        return [
            dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())
        ]
