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

    overlap: float | None = key(
        None,
        "how far stages overlap in looks: spread of a cell's maturity about its stage, in stages (standard "
        "deviation); none: .55 of muscle, .27 of round cells",
        ge=0,
        le=5,
    )
    stain: float | None = key(
        None,
        "how far animals differ in stain: standard deviation of the logarithm of either stain; none: .045 of "
        "muscle, .05 of round cells",
        ge=0,
        le=1,
    )
    animal: float | None = key(
        None,
        "how far animals differ in the size of cells: standard deviation of its logarithm; none: .04 of "
        "muscle, .03 of round cells",
        ge=0,
        le=0.5,
    )

    def dial(self, overlap: float, stain: float, animal: float) -> tuple[float, float, float]:
        """Overlap, stain and animal as asked for, each the tissue's own where nothing is."""
        own = ((self.overlap, overlap), (self.stain, stain), (self.animal, animal))
        overlap, stain, animal = (usual if asked is None else asked for asked, usual in own)
        return overlap, stain, animal

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        pixels = self.width_um * self.height_um / self.mpp**2
        if pixels > MOST_PIXELS:
            raise ValueError(
                f"width_um, height_um and mpp make a slide of {pixels:.2g} px, and it is drawn in memory; "
                f"at most {MOST_PIXELS:.0e} px"
            )
        return self
