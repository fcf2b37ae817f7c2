"""The section `phantom` of a study file."""

from typing import Literal

from pydantic import PositiveFloat

from myostage.schema import MPP_RANGE, Section, Seed, key


class Phantom(Section):
    """Slides drawn instead of scanned, with known truth."""

    tissue: Literal["muscle", "round_cells"] = key(
        "muscle", "regenerating fibres, or round cells that mature (smaller, denser, redder) stage by stage"
    )
    seed: Seed = key(0, "seed of the drawing")
    width_um: PositiveFloat = key(700.0, "width of a slide, um")
    height_um: PositiveFloat = key(600.0, "height of a slide, um")
    mpp: float = key(0.5, "resolution of the slide file, um/px", ge=MPP_RANGE[0], le=MPP_RANGE[1])
