"""The section `world` of a study file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from myostage.schema import Name, Section, Seed, Text, key

# drawn in memory, 4 bytes a number
MOST_NUMBERS = 2e8
# keys that say how often and where worlds are drawn, not what a world is
NOT_A_WORLD = {"seed", "repeats", "pilots", "maps"}


class RegimeMap(Section):
    """Points that differ from the section `world` by one key or two."""

    name: Name = key(..., "its name in figures and on the page")
    vary: dict[Text, Annotated[list[Any], Field(min_length=1, max_length=100)]] = key(
        ...,
        "one key of `world`, or `training.KEY`, with its values; or two such keys, whose grid it is",
        min_length=1,
        max_length=2,
    )


class World(Section):
    """Worlds drawn instead of slides: features of cells of known stage, in memory.

    Stages are points of a smooth curve in `dimensions`; lengths are in units of the mean distance between
    adjacent stages along it. A world is drawn anew for each of `repeats`, so that repeats are independent.
    """

    seed: Seed = key(0, "seed of all worlds")
    repeats: int = key(10, "independent worlds of every point", ge=2, le=1000)
    pilots: int = key(
        2, "further worlds, drawn by other seeds, in which `training.choose` chooses", ge=1, le=100
    )
    dimensions: int = key(32, "numbers of a cell", ge=2, le=4096)
    distractors: int = key(
        8, "dimensions that say nothing of the stage; at least two are left to the curve", ge=0, le=4094
    )
    overlap: float = key(0.5, "noise of a cell in every dimension, standard deviation", ge=0, le=1000)
    distraction: float = key(
        1.0, "further noise of a cell in each distractor, standard deviation", ge=0, le=1000
    )
    animal_effect: float = key(
        1.0, "shift of all cells of an animal in each distractor, standard deviation", ge=0, le=1000
    )
    batches: int = key(3, "staining batches that animals are dealt to at random", ge=1, le=1000)
    batch_effect: float = key(
        1.0, "shift of all cells of a batch in each distractor, standard deviation", ge=0, le=1000
    )
    leak: float = key(
        0.1, "share of the two effects that shifts cells along the dimensions of the curve too", ge=0, le=10
    )
    spacing: float = key(
        1.0,
        "largest over smallest distance between adjacent stages; 1: stages are evenly spaced",
        ge=1,
        le=100,
    )
    order: Literal["declared", "shuffled", "unordered"] = key(
        "declared",
        "stages lie on the curve in the order of `stages`; in another, with little of that left; or all as "
        "far from each other. An ordinal term has nothing to gain from the last two",
    )
    groups: int = key(5, "groups; without a table `proportions`", ge=2, le=1000)
    mixing: float = key(
        0.5,
        "proportions of a group, from 0 (its own: one stage, or two adjacent ones) to 1 (the mean of all "
        "groups)",
        ge=0,
        le=1,
    )
    animals: int = key(4, "animals of a group, each with one slide", ge=1, le=1000)
    cells: int = key(200, "cells of an animal", ge=1, le=1_000_000)
    variation: float = key(
        0.02,
        "how far animals of a group differ: variance of a stage's share p, as a share of p (1 - p)",
        ge=0,
        lt=1,
    )
    proportion_error: float = key(
        0.0,
        "how wrong the given proportions are, 0 to 1: (1 - t) p + t q, q drawn from Dirichlet(1, ..., 1)",
        ge=0,
        le=1,
    )
    maps: tuple[RegimeMap, ...] = key(
        (), "the points where worlds are drawn, beside this one", max_length=100
    )

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        if self.distractors > self.dimensions - 2:
            raise ValueError(
                f"{self.distractors} distractors of {self.dimensions} dimensions leave the curve fewer than "
                "two; lower distractors or raise dimensions"
            )
        numbers = self.groups * self.animals * self.cells * self.dimensions
        if numbers > MOST_NUMBERS:
            raise ValueError(
                f"groups, animals, cells and dimensions make a world of {numbers:.2g} numbers, and it is "
                f"drawn in memory; at most {MOST_NUMBERS:.0e}"
            )
        return self
