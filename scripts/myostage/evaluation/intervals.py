"""Estimates with intervals from values per animal and seed: two sources of noise, both counted.

A metric of an animal differs from that of another for two reasons. Animals differ, and the models that stage
them do: every animal is held out in one fold, and each run of that fold, one per seed, learns something else.
With animals, and runs within folds, as crossed random effects a value is

    d[animal, seed] = effect + animal + run[fold of the animal, seed],

and its mean over animals and seeds has the variance

    MS_A / n + MS_R (sum_f (n_f / n)^2 - c / n) / S

of n animals, n_f of them in fold f, and S seeds. MS_A is the mean square of the animals' means over seeds,
within days where days are strata; c = tr(Z' M Z) / tr(M), of the indicator Z of folds and the residual
projection M of MS_A, is the share of the runs' variance that MS_A holds already. MS_R is the variance over
the seeds of a fold's mean. Moments as in Searle, Casella and McCulloch 1992, Variance Components, chapter 5;
degrees of freedom by Satterthwaite 1946, Biometrics Bulletin 2:110. ``benchmarks/bench_coverage.py`` measures
how often the interval covers, how often equal methods come out as different, and the power at the minimum
detectable effect.

With one seed the runs' part cannot be told from the animals' and the variance is that of the folds' means.
A method that learns nothing has no runs' part.

A section is a part of its animal, and metrics that are no mean (kappa, AUROC) are linearised by animals: the
values are jackknife pseudo-values (Tukey 1958; Miller 1974, Biometrika 61:1), of which a mean over cells or
slides is the special case.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc
from scipy.stats import t as student

Floats = NDArray[np.float64]
Method = Literal["animals and runs", "folds", "animals", ""]

LEVEL = 0.95
# From here on intervals cover as they say (benchmarks/results/coverage.md): of five animals, one a day, that
# of a mean covers always, and that of kappa nearly so.
LEAST_ANIMALS, LEAST_WITHIN_DAYS, LEAST_FOLDS = 10, 5, 3
# From here on it is not said how many animals a study would need.
MOST_UNITS = 1_000_000
# Spread below this share of the largest value is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; of several values at once, [...]."""

    value: Floats
    error: Floats  # nan: unknown, 0: no spread at all
    df: Floats
    method: Method  # whose spread the error is made of; empty: there is none

    def find_interval(self, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Two-sided confidence interval, [...] each; nan where the error is unknown or the spread is 0.

        A value of exactly 0 without any spread, as the difference of a method to itself, has the interval
        [0, 0].
        """
        half = np.where(self.error > 0, student.ppf((1 + level) / 2, self.df) * self.error, np.nan)
        half = np.where(self._same, 0.0, half)
        return self.value - half, self.value + half

    @property
    def p(self) -> Floats:
        """Two-sided p of the value being 0, [...]: below .05 exactly where the 95 % interval leaves out 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 2 * student.sf(np.abs(self.value) / self.error, self.df)
        return np.where(self._same, 1.0, np.where(self.error > 0, found, np.nan))

    def find_detectable(self, alpha: float, power: float) -> Floats:
        """Smallest true value that this test finds at level ``alpha`` with that power, [...].

        By the noncentral t distribution; nan where there is no error, infinite below one degree of freedom,
        where the critical value leaves every number behind (and scipy's search for the noncentrality hangs).
        """
        enough = ~(np.asarray(self.df) < 1)
        df = np.where(enough, self.df, np.nan)
        critical = student.ppf(1 - alpha / 2, df)
        found = np.asarray(nctdtrinc(df, 1 - power, critical), dtype=np.float64) * self.error
        return np.where(self.error > 0, np.where(enough, found, np.inf), np.nan)

    def find_units(self, units: int, effect: float, alpha: float, power: float) -> float:
        """How many units a study of this design needs for its test to find ``effect``; nan without an error.

        The design is enlarged as it is, folds with it: the variance falls with the number of units (animals,
        ``units`` of them here), and the degrees of freedom grow with it.
        """
        if not (self.error > 0 and units):
            return np.nan

        def is_enough(count: int) -> bool:
            scale = count / units
            larger = replace(self, error=self.error / np.sqrt(scale), df=self.df * scale)
            return bool(larger.find_detectable(alpha, power) <= effect)

        low, high = 1, 2
        while not is_enough(high):
            low, high = high, 2 * high
            if high > MOST_UNITS:
                return np.inf
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return float(high)

    @property
    def _same(self) -> NDArray[np.bool_]:
        return np.asarray((self.error == 0) & (self.value == 0))


def estimate_effect(
    values: ArrayLike, folds: ArrayLike, days: ArrayLike | None = None, *, learns: bool = True
) -> Estimate:
    """Mean over animals and seeds with the standard error that the design can tell.

    Parameters
    ----------
    values
        Per animal and seed, [..., n, S].
    folds
        The fold that holds each animal out, int[n].
    days
        Strata of the animals, int[n]: what differs between them is no noise. None, or no two animals of a
        day: a single stratum.
    learns
        False for what is the same whatever the seed.

    Returns
    -------
    Estimate
        By ``animals and runs`` of two seeds or more, by ``folds`` of one, by ``animals`` of what learns
        nothing.
    """
    table = np.asarray(values, dtype=np.float64)
    seeds = table.shape[-1]
    if learns and seeds == 1:
        return estimate_by_folds(table, folds, days)
    of_animals = table.mean(-1)
    value = of_animals.mean(-1)
    animals = of_animals.shape[-1]
    if animals < 2:
        return _unknown(value)
    residual, df_animals = _project_strata(animals, days)
    by_animals = _sum_squares(of_animals, residual) / df_animals / animals
    if not learns:
        return Estimate(value, _root(by_animals, table), np.full_like(value, df_animals), "animals")
    fold = _indicate(folds)
    share = fold.sum(0) / animals
    of_runs = np.einsum("nf,...ns->...fs", fold / fold.sum(0), table).var(-1, ddof=1).mean(-1)
    held = np.trace(fold.T @ residual @ fold) / df_animals  # c
    by_runs = of_runs * max((share**2).sum() - held / animals, 0.0) / seeds
    variance = by_animals + by_runs
    df_runs = share.size * (seeds - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = variance**2 / (by_animals**2 / df_animals + by_runs**2 / df_runs)
    return Estimate(value, _root(variance, table), df, "animals and runs")


def estimate_by_folds(values: ArrayLike, folds: ArrayLike, days: ArrayLike | None = None) -> Estimate:
    """The same mean, with the plain t over the means of folds: F - 1 degrees of freedom.

    Parameters and value as in :func:`estimate_effect`. Where folds hold out different days or numbers of
    animals, the mean square between folds is adjusted for days (Henderson 1953, Biometrics 9:226, method 3),
    and its share in the variance is that of the runs.
    """
    table = np.asarray(values, dtype=np.float64)
    of_animals = table.mean(-1)
    value = of_animals.mean(-1)
    animals = of_animals.shape[-1]
    fold = _indicate(folds)
    if fold.shape[1] < 2:
        return _unknown(value)
    strata, _ = _project_strata(animals, days)
    # What folds explain beyond days: a projection, whose trace is its rank.
    between = _span(strata @ fold)
    df = round(float(np.trace(between)))
    if not df:
        return _unknown(value)
    share = fold.sum(0) / animals
    of_runs = np.trace(fold.T @ between @ fold) / df
    factor = max((share**2).sum() / of_runs, 1 / animals)
    error = _root(_sum_squares(of_animals, between) / df * factor, table)
    return Estimate(value, error, np.full_like(value, df), "folds")


def find_mean(values: ArrayLike, animals: ArrayLike | None = None) -> tuple[Floats, Floats, Floats]:
    """Mean over animals of the mean of their slides, with its 95 % t interval over animals, [...] each.

    Parameters
    ----------
    values
        Per slide, or per run, [slides, ...]; nan does not count.
    animals
        The animal of each slide, [slides]; None: each value is a unit of its own.

    Returns
    -------
    mean, low, high
        The interval is nan for a single animal.
    """
    table = np.asarray(values, dtype=np.float64)
    member = np.eye(len(table)) if animals is None else _indicate(animals)
    known = np.isfinite(table)
    count = np.tensordot(member.T, known, axes=1)  # [animals, ...]
    with np.errstate(divide="ignore", invalid="ignore"):
        of_animals = np.tensordot(member.T, np.where(known, table, 0.0), axes=1) / count
        own = count > 0
        units = own.sum(0)
        mean = np.where(own, of_animals, 0.0).sum(0) / units
        squares = np.where(own, (of_animals - mean) ** 2, 0.0).sum(0)
        half = student.ppf((1 + LEVEL) / 2, units - 1.0) * np.sqrt(squares / (units - 1) / units)
    return mean, mean - half, mean + half


def find_spread(values: ArrayLike, days: ArrayLike | None = None) -> Floats:
    """Standard deviation of animals' means over seeds [..., n, S], [...]; nan for a single animal."""
    of_animals = np.asarray(values, dtype=np.float64).mean(-1)
    if of_animals.shape[-1] < 2:
        return np.full(of_animals.shape[:-1], np.nan)
    residual, df = _project_strata(of_animals.shape[-1], days)
    return np.sqrt(_sum_squares(of_animals, residual) / df)


def find_pseudo_values(statistic: Callable[[Floats], Floats], animals: ArrayLike) -> Floats:
    """Jackknife pseudo-values of a statistic by animal: n times it, less n - 1 times it without that animal.

    Parameters
    ----------
    statistic
        Maps how often each slide counts, [..., slides], to values, [..., S, m].
    animals
        The animal of each slide; the n animals come in sorted order.

    Returns
    -------
    float64[m, n, S]
        Their mean over animals is the bias-corrected statistic; nan where it is undefined without an animal.
    """
    without = 1.0 - _indicate(animals).T  # [n, slides]
    count = without.shape[0]
    found = count * statistic(np.ones(without.shape[1])) - (count - 1) * statistic(without)  # [n, S, m]
    return np.moveaxis(found, -1, 0)


def _indicate(labels: ArrayLike) -> Floats:
    """Which label each has, [n, labels], labels sorted."""
    given = np.asarray(labels)
    return (given[:, None] == np.unique(given)[None]).astype(np.float64)


def _project_strata(animals: int, days: ArrayLike | None) -> tuple[Floats, int]:
    """Projection on what days, or without two animals of a day the mean, leave over, [n, n], and its rank."""
    strata = np.ones((animals, 1)) if days is None else _indicate(days)
    if strata.shape[1] == animals:
        strata = np.ones((animals, 1))
    return np.eye(animals) - _span(strata), animals - strata.shape[1]


def _span(columns: Floats) -> Floats:
    """Projection on the space that columns [n, k] span, [n, n]."""
    basis, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    basis = basis[:, sizes > np.sqrt(ROUNDING)]
    return basis @ basis.T


def _sum_squares(values: Floats, projection: Floats) -> Floats:
    """Sum of squares of the projected values [..., n], [...]."""
    return ((values @ projection) ** 2).sum(-1)


def _root(variance: Floats, values: Floats) -> Floats:
    """Standard error; 0 where it is nothing but rounding of the values [..., n, S]."""
    scale = np.abs(values).max((-2, -1))
    error = np.sqrt(np.asarray(variance).clip(0))
    return np.where(error <= ROUNDING * scale, 0.0, error)


def _unknown(value: Floats) -> Estimate:
    missing = np.full_like(value, np.nan)
    return Estimate(value, missing, missing, "")


def find_lack(animals: int, folds: int, days: int = 1) -> str:
    """What a design lacks for its 95 % intervals to cover .92 to .98 in simulation; empty: nothing.

    Parameters
    ----------
    animals, folds
        Their numbers.
    days
        Number of strata; 1 for a difference.
    """
    lacks = []
    needed = max(LEAST_ANIMALS, days + LEAST_WITHIN_DAYS)
    if animals < needed:
        lacks.append(f"{animals} of the {needed} animals")
    if folds < LEAST_FOLDS:
        lacks.append(f"{folds} of the {LEAST_FOLDS} folds")
    return " and ".join(lacks)
