"""The section `phantom` of a study file."""

from typing import Literal, Self

from pydantic import PositiveFloat, model_validator

from myostage.schema import MPP_RANGE, Section, Seed, key

# drawn in memory, some bytes a pixel
MOST_PIXELS = 1e9


class Phantom(Section):
    """Slides drawn instead of scanned, with known truth."""

    tissue: Literal["muscle", "round_cells"] = key(
        "muscle", "regenerating fibres, or round cells that mature (smaller, denser, redder) stage by stage"
    )
    seed: Seed = key(0, "seed of the drawing")
    width_um: PositiveFloat = key(700.0, "width of a slide, um", le=100_000.0)
    height_um: PositiveFloat = key(600.0, "height of a slide, um", le=100_000.0)
    mpp: float = key(0.5, "resolution of the slide file, um/px", ge=MPP_RANGE[0], le=MPP_RANGE[1])

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        pixels = self.width_um * self.height_um / self.mpp**2
        if pixels > MOST_PIXELS:
            raise ValueError(
                f"width_um, height_um and mpp make a slide of {pixels:.2g} px, and it is drawn in memory; "
                f"at most {MOST_PIXELS:.0e} px"
            )
        return self
