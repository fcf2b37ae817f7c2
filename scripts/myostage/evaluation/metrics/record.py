"""What is known of a metric beside its value: how it is written, in which unit, and which way is better."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myostage.evaluation.numbers import format_interval, format_number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Parameters
    ----------
    key
        Its name in study files and tables.
    title
        As a sentence, an axis and a column have it.
    higher_is_better
        Its direction.
    low, high
        The values it can take.
    compute
        From what is left of the slides in its family (see there) to its values, [...]; nan where undefined.
    unit
        Empty where it has none.
    decimals
        How many are printed, of values and of differences.
    worth
        A difference that a study should be able to find.
    may_lead
        Whether a study may name it as the metric that its pages speak of.
    """

    key: str
    title: str
    higher_is_better: bool
    low: float
    high: float
    compute: Callable[..., Any]
    unit: str = ""
    decimals: int = 3
    worth: float = 0.05
    may_lead: bool = True

    @property
    def label(self) -> str:
        """Title with unit: ``RMSE (stages)``."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"

    @property
    def sign(self) -> int:
        """What turns a difference into a gain: 1, or -1 where lower is better."""
        return 1 if self.higher_is_better else -1

    def format(self, value: float, *, sign: bool = False) -> str:
        """``.684``; with ``sign``, as of a difference, ``+.031``."""
        return format_number(value, self.decimals, sign=sign)

    def format_interval(self, value: float, low: float, high: float, *, sign: bool = False) -> str:
        """``.684 [.592, .751]``; the value alone where there is no interval."""
        return format_interval(value, low, high, self.decimals, sign=sign)
