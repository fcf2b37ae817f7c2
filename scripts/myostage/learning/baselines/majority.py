"""The stage most common in training."""

from collections.abc import Collection, Mapping

from myostage.learning.baseline import Baseline, Floats, mean_share


def _predict(proportions: Mapping[str, Floats], trained: Collection[str], group: str) -> Floats:
    return mean_share(proportions, trained)


BASELINE = Baseline(title="majority", meaning="predict the stage most common in training", predict=_predict)
