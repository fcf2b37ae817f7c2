"""The stages given for the cell's own group."""

from collections.abc import Collection, Mapping

from myostage.learning.baseline import Baseline, Floats, mean_share


def _predict(proportions: Mapping[str, Floats], trained: Collection[str], group: str) -> Floats:
    return proportions[group] if group in proportions else mean_share(proportions, trained)


BASELINE = Baseline(
    title="group majority",
    meaning="the stages given for the cell's own group",
    predict=_predict,
    repeats_given=True,
)
