"""What a baseline declares, and the baselines there are: one file each in ``learning/baselines``.

A baseline learns nothing and sees no cell and no label. Read whenever a study is: it imports no torch.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from myostage.registry import Registry

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A method that learns nothing.

    Parameters
    ----------
    title
        As figures and tables write it.
    meaning
        What it predicts and what it knows for that, for the page of the study file.
    predict
        From the proportions of every group [K], the training groups and the group of a slide (empty: none) to
        the probabilities [K] of each of its cells.
    repeats_given
        Whether what it predicts of a held-out group are the given proportions, so that a comparison of
        predicted and given proportions says nothing about it.
    """

    title: str
    meaning: str
    predict: Callable[[Mapping[str, Floats], Collection[str], str], Floats]
    repeats_given: bool = False


BASELINES: Registry[Baseline] = Registry("myostage.learning.baselines", "BASELINE")


def mean_share(proportions: Mapping[str, Floats], groups: Collection[str]) -> Floats:
    """Mean proportions [K] of ``groups``, each counting once."""
    mean: Floats = np.mean([proportions[group] for group in sorted(set(groups))], axis=0)
    return mean
