"""A value with its interval, and what it was measured on."""

from dataclasses import dataclass

import numpy as np

from myostage.evaluation.numbers import NOT_TRUSTED, format_interval


@dataclass(frozen=True)
class Measured:
    """A value with its interval, what it was measured on, and the decimals that are printed."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    slides: int = 0
    cells: int = 0
    decimals: int = 2
    trusted: bool = True

    def __str__(self) -> str:
        text = format_interval(self.value, self.low, self.high, self.decimals)
        return text if self.trusted else f"{text}{NOT_TRUSTED}"
