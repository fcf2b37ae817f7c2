"""The section `graph` of a study file."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from myostage.papers import SRMIL
from myostage.schema import Positive, Section, key


class Graph(Section):
    """Which cells of a slide are neighbours, for everything spatial."""

    by: Literal["nearest", "radius", "delaunay"] = key(
        "nearest",
        "the nearest `neighbours` of every cell, all within `radius_um`, or Delaunay's triangulation",
    )
    neighbours: PositiveInt = key(8, "neighbours of a cell, with `by: nearest`; joined both ways", le=1000)
    radius_um: Positive | None = key(
        None, "longest edge, um; none: any length, not with `by: radius`; of tiles, their sides"
    )
    coordinates: Literal["true", "permuted"] = key(
        "true",
        "where cells lie, or a control: the same places assigned to the slide's cells at random",
        SRMIL,
    )

    @model_validator(mode="after")
    def _radius(self) -> Self:
        if self.by == "radius" and self.radius_um is None:
            raise ValueError("by: radius needs radius_um; give the longest distance of two neighbours, um")
        return self
