"""Values with their 95 % intervals from resampled slides.

Every metric of cells follows from the confusion matrix and the summed ranked probability score. Both add up
over slides, so a bootstrap resamples K x K matrices and never touches a cell again. What does not add up
(AUROC, Spearman's rho, the Wasserstein distance) takes weights instead: how often each slide is drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myostage.evaluation.numbers import NOT_TRUSTED, format_interval

Floats = NDArray[np.float64]


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


def bootstrap(
    per_slide: Sequence[ArrayLike] | Floats,
    statistic: Callable[[Floats], ArrayLike],
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[Floats, Floats, Floats]:
    """As :func:`resample`, of a statistic of counts that add up over slides.

    Parameters
    ----------
    per_slide
        Additive counts of every slide, [n, ...]: a confusion matrix, a sum and its number of terms.
    statistic
        Maps counts summed over slides, [..., *shape of one slide's counts], to its values, [...] or [..., m].
        It is called once with the plain sum and once with all resampled sums.
    repeats, seed
        See :func:`resample`.

    Returns
    -------
    value, low, high
        See :func:`resample`.

    Raises
    ------
    ValueError
        No slides.
    """
    counts = np.asarray(per_slide, dtype=np.float64)
    return resample(
        counts.shape[0], lambda weights: statistic(np.tensordot(weights, counts, axes=1)), repeats, seed
    )


def resample(
    slides: int, statistic: Callable[[Floats], ArrayLike], repeats: int = 1000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Value of a statistic and its 95 % percentile interval, slides drawn with replacement (Efron 1979).

    Parameters
    ----------
    slides
        Number of slides n.
    statistic
        Maps how often each slide counts, [..., n], to its values, [...] or [..., m]. It is called once with
        ones and once with all resamples.
    repeats
        Number of resamples.
    seed
        The resamples depend on it and on the number of slides alone, so that two statistics of the same
        slides see the same resamples.

    Returns
    -------
    value, low, high
        float64 [] or [m]. The interval is nan for a single slide, which says nothing about other slides;
        resamples in which the statistic is undefined are left out.

    Raises
    ------
    ValueError
        No slides.
    """
    if slides == 0:
        raise ValueError("there is nothing to resample without slides")
    value = np.asarray(statistic(np.ones(slides)), dtype=np.float64)
    if slides == 1:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    replicates = np.asarray(statistic(_drawn(slides, repeats, seed)), dtype=np.float64)
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    defined = ~np.isnan(replicates).all(0) & ~np.isnan(value)
    if defined.any():
        low[defined], high[defined] = np.nanquantile(replicates[:, defined], (0.025, 0.975), axis=0)
    return value, low, high


@lru_cache(maxsize=16)
def _drawn(slides: int, repeats: int, seed: int) -> Floats:
    """How often every slide is drawn in every resample, [repeats, slides]."""
    times = np.random.default_rng(seed).multinomial(slides, np.full(slides, 1 / slides), size=repeats)
    drawn = times.astype(np.float64)
    drawn.flags.writeable = False
    return drawn
