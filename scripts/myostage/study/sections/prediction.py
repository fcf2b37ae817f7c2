"""The section `prediction` of a study file."""

from typing import Annotated, Literal

from pydantic import Field

from myostage.papers import SAERENS
from myostage.schema import Section, key

Prior = Literal["group", "transport"]
Share = Annotated[float, Field(ge=0, le=1)]


class Prediction(Section):
    """What is known of a slide's proportions when it is staged (docs/prediction.md). Trains nothing anew.

    Leave it off where groups are compared: it pulls each slide towards what was assumed of its group.
    """

    prior: Literal["none", "group", "transport"] = key(
        "none",
        "how the proportions of a slide's group enter the stages of its cells in stages.parquet, exports and "
        "scores.parquet: not; by Bayes' rule, cell by cell (`group`); by scaling stages until their "
        "mean over the slide meets it (`transport`)",
        SAERENS,
    )
    compare: tuple[Prior, ...] = key(
        (),
        "priors that every experiment that learns is measured with too, in rows `name[prior=transport]`; "
        "`prior` is among them",
        max_length=2,
    )
    strength: Literal["chosen"] | Share = key(
        "chosen",
        "weight of the table against the slide's cells, 0 (the cells) to 1 (the table); `chosen`: by each "
        "run, on its training slides, for a table as wrong as `table_error`",
    )
    table_error: Share = key(
        0.2,
        "share of the proportions that may be wrong, as in `training.proportion_noise`; for "
        "`strength: chosen`",
    )

    @property
    def priors(self) -> tuple[Prior, ...]:
        """The priors that experiments are measured with beside none."""
        asked = (*self.compare, *(() if self.prior == "none" else (self.prior,)))
        return tuple(dict.fromkeys(asked))
