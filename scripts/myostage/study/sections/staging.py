"""The section `staging` of a study file."""

from myostage.schema import Section, key


class Staging(Section):
    """A stage for every cell, and what is said of how sure it is."""

    uncertain_below: float = key(
        0.5,
        "calibrated probability of its stage below which exports flag a cell as uncertain, 0 to 1",
        ge=0,
        le=1,
    )
