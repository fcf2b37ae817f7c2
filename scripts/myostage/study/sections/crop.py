"""The section `crop` of a study file."""

from myostage.papers import MYOREGENTRACK, OSLSP
from myostage.schema import MPP_RANGE, Section, key


class Crop(Section):
    """The image of one cell, 64 x 64 px (OSLSP)."""

    mpp: float | None = key(
        None, "resolution of a crop, um/px; none: that of the tiling", OSLSP, ge=MPP_RANGE[0], le=MPP_RANGE[1]
    )
    white: int = key(
        205,
        "crops whose mean R, G and B all reach this are dropped, 1 to 255; 256: none",
        MYOREGENTRACK,
        ge=1,
        le=256,
    )
