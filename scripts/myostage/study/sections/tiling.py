"""The section `tiling` of a study file."""

from typing import Self

from pydantic import model_validator

from myostage.papers import OSLSP
from myostage.schema import MPP_RANGE, Number, Positive, Section, key


class Tiling(Section):
    """Tissue mask and tiles."""

    mpp: float = key(
        0.5, "the study's mpp: resolution at which cells are found, um/px", ge=MPP_RANGE[0], le=MPP_RANGE[1]
    )
    tile_px: int = key(256, "side of a tile, px at `mpp`", OSLSP, ge=64, le=16_384)
    overlap_px: int = key(
        96,
        "overlap of adjacent tiles, px at `mpp`; best two cell diameters, less than half a tile",
        ge=0,
        le=16_384,
    )
    mask_mpp: Positive = key(4.0, "resolution of the tissue mask, um/px")
    min_tissue_um2: Number = key(2500.0, "smaller pieces of tissue are dropped, um2", ge=0)
    max_hole_um2: Number = key(2500.0, "smaller holes in tissue are filled, um2", ge=0)
    min_tissue: float = key(0.05, "least share of tissue in a tile, 0 to 1", ge=0, le=1)

    @model_validator(mode="after")
    def _overlap(self) -> Self:
        if 2 * self.overlap_px >= self.tile_px:
            raise ValueError(
                f"overlap_px is {self.overlap_px}, which is not less than half of tile_px ({self.tile_px}); "
                f"lower it below {self.tile_px / 2:g} or enlarge the tiles"
            )
        return self
