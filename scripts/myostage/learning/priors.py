"""The proportions that a slide is known to have, put into the probabilities of its cells. No label is read.

A run's probabilities q_ik are posteriors under the composition r that it was trained under. Divided by r they
are what the image of a cell says of each stage, and a composition pi of the slide makes of them

    group      pi_k q_ik / r_k, normalised over k: Bayes' rule, cell by cell (Saerens et al. 2002, Neural
               Computation 14:21)
    transport  c_k q_ik, normalised over k, with c such that the mean over the slide's cells is pi: entropic
               transport between cells and stages (Cuturi, NIPS 2013), columns scaled by Sinkhorn's iteration

pi lies between what the cells say and the given proportions p: with w the weight of the table it maximises

    (1 - w) mean_i log sum_k pi_k q_ik / r_k + w sum_k p_k log pi_k,

a Dirichlet prior that counts as n w / (1 - w) of the slide's n cells; expectation maximisation finds it. With
w = 1 it is p; with w = 0 the table is not used, and both priors are the same. A number of cells in the place
of a weight would leave a table without any say on a large slide, whose cells err together: a run is off by as
much on a thousand cells of a slide as on a hundred.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from myostage.learning.calibration import logarithms

Floats = NDArray[np.float64]
Kind = Literal["group", "transport"]

# How wrong a table may be feared to be, and weights that are tried for each.
FEARED = np.array([0.0, 0.1, 0.2, 0.3, 0.5, 1.0])
WEIGHTS = np.linspace(0, 1, 11)
# Wrong tables that a weight is chosen by.
DRAWS = 4
# Cells, evenly spaced, that the factors of a slide's stages are found from.
FITTED_BY = 20_000
# Shares of stages that change by less are found; iterations at most. The search for a weight compares, and is
# content with coarser shares.
TOLERANCE, ITERATIONS = 1e-7, 1000
COARSE_TOLERANCE, COARSE_ITERATIONS = 1e-4, 100
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Learnt:
    """What a run says of its probabilities, for a table to be put into them.

    Parameters
    ----------
    composition
        r, the mean composition of the bags that it was trained on, [K].
    weights
        w that :func:`fit_weights` chose for each of FEARED.
    """

    composition: Floats
    weights: Floats

    @classmethod
    def fitted(
        cls, probabilities: Sequence[ArrayLike], given: Sequence[Floats], composition: Floats
    ) -> "Learnt":
        """Of a run, by what it predicts of cells of its training slides; see :func:`fit_weights`."""
        return cls(composition, fit_weights(probabilities, given, composition))

    def weigh(self, strength: float | Literal["chosen"], feared: float) -> float:
        """Of a table of which the share ``feared`` may be wrong; ``strength`` where it is a number."""
        return float(np.interp(feared, FEARED, self.weights)) if strength == "chosen" else strength

    def as_json(self) -> str:
        return json.dumps({"composition": self.composition.tolist(), "weights": self.weights.tolist()})

    @classmethod
    def from_json(cls, text: str) -> "Learnt":
        return cls(**{name: np.array(values) for name, values in json.loads(text).items()})


def find_obstacle(learnt: Learnt | None, given: ArrayLike | None) -> str:
    """Why the probabilities of a slide's cells stay as they are; nothing (empty text) where they need not.

    Parameters
    ----------
    learnt
        Of the run; None: it learnt nothing of cells.
    given
        Proportions of the slide [K]; None: it has no group.
    """
    if given is None:
        return "the slide has no group"
    if learnt is None:
        return "the run learnt nothing of cells"
    if not (np.asarray(given)[learnt.composition > 0] > 0).any():
        return "its group holds only stages that no training group holds"
    return ""


@dataclass(frozen=True)
class Prior:
    """What a study knows of its slides before their cells are staged.

    Parameters
    ----------
    kind
        ``group`` or ``transport``.
    given
        Proportions [K] of the group of every slide that has one.
    strength, feared
        See :meth:`Learnt.weigh`.
    """

    kind: Kind
    given: Mapping[str, Floats]
    strength: float | Literal["chosen"] = "chosen"
    feared: float = 0.2

    def weigh(self, slide: str, learnt: Learnt | None) -> float:
        """The weight of the slide's table; nan where there is an obstacle."""
        if learnt is None or find_obstacle(learnt, self.given.get(slide)):
            return np.nan
        return learnt.weigh(self.strength, self.feared)

    def put(self, slide: str, probabilities: Floats, learnt: Learnt | None) -> Floats:
        """:func:`put_table` of a slide's cells; as they are where there is an obstacle."""
        weight = self.weigh(slide, learnt)
        if learnt is None or np.isnan(weight):
            return probabilities
        return put_table(self.kind, probabilities, self.given[slide], learnt.composition, weight)


def put_table(
    kind: Kind, probabilities: ArrayLike, given: ArrayLike, composition: ArrayLike, weight: float
) -> Floats:
    """Probabilities of the cells of one slide, with its proportions put into them.

    Parameters
    ----------
    kind
        ``group`` or ``transport``, see the module's formulas.
    probabilities
        As the run predicts them, [n, K].
    given, composition
        p and r, [K].
    weight
        w, 0 (the cells) to 1 (the table).

    Returns
    -------
    float64[n, K]
        Rows sum to 1. Stages that no training group holds, of which the run has learnt nothing, get 0; p is
        taken of the others. Beyond FITTED_BY cells the factors of stages are those of so many of them.

    Raises
    ------
    ValueError
        No stage of the slide's group is in r, see :func:`find_obstacle`.
    """
    values, trained = np.asarray(probabilities, np.float64), np.asarray(composition, np.float64)
    there = trained > 0
    share, trained = np.asarray(given, np.float64)[there], trained[there]
    if not share.any():
        raise ValueError(f"the run has learnt nothing of the stages in {np.asarray(given)}")
    share = share / share.sum()
    out = np.zeros_like(values)
    if not len(values):
        return out
    logs = logarithms(values)[:, there]
    sample = logs[np.linspace(0, len(logs) - 1, min(len(logs), FITTED_BY)).astype(int)]
    target = find_compositions(sample - np.log(trained), share[None], np.array([weight]))[0]
    held = target > 0  # a stage that the slide does not hold gets 0
    factors = np.full(len(target), -np.inf)
    factors[held] = np.log(target[held] / trained[held])
    if kind == "transport":
        factors[held] = _scale_columns(sample[:, held], target[held], factors[held])
    out[:, there] = softmax(logs + factors, axis=1)
    return out


def find_compositions(
    likelihoods: ArrayLike,
    tables: Floats,
    weights: Floats,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
) -> Floats:
    """The composition pi of a slide under each table and its weight, [B, K].

    Parameters
    ----------
    likelihoods
        Logarithm of what each cell says of each stage, up to a constant of the cell, [n, K].
    tables
        p, [B, K].
    weights
        w, [B].
    """
    z, table, weight = np.asarray(likelihoods, np.float64), tables, weights[:, None]
    likelihood = np.exp(z - z.max(1, keepdims=True))
    # A share that starts at 0 would stay there, whatever the cells say.
    found = np.where(weight == 1, table, (table + 1 / table.shape[1]) / 2)
    for _ in range(iterations):
        density = np.maximum(found @ likelihood.T, TINY)  # [B, n]
        cells = found * ((1 / density) @ likelihood) / len(z)
        now = (1 - weight) * cells + weight * table
        change, found = np.abs(now - found).max(), now
        if change < tolerance:
            break
    return found


def fit_weights(
    probabilities: Sequence[ArrayLike], proportions: Sequence[ArrayLike], composition: ArrayLike
) -> Floats:
    """w for each of FEARED: at which wrong tables and a run's cells come nearest to the true table.

    The table of every training slide is made wrong, (1 - t) p + t q, q drawn from Dirichlet(1, ..., 1), and
    the composition found with it is compared with p (L1, mean over slides and draws). So a weight says which
    of two errs less, the cells of this run or a table as wrong as feared. With the true table, w = 1 is best
    by construction: how wrong a table is cannot be learnt from tables.

    Parameters
    ----------
    probabilities
        Stage probabilities [n, K] of cells of each training slide.
    proportions
        Given proportions [K] of each.
    composition
        r, [K].

    Returns
    -------
    float64[FEARED]
        1 where no slide holds a stage of r.
    """
    trained = np.asarray(composition, np.float64)
    there = trained > 0
    drawn = np.random.default_rng(0).dirichlet(np.ones(there.sum()), DRAWS)
    shape = len(FEARED) - 1, len(drawn), len(WEIGHTS)
    weights = np.broadcast_to(WEIGHTS, shape).ravel()
    distances = []
    for values, given in zip(probabilities, proportions, strict=True):
        share = np.asarray(given, np.float64)[there]
        if not share.any() or not len(np.asarray(values)):
            continue
        share = share / share.sum()
        t = FEARED[1:, None, None]
        wrong = np.repeat(((1 - t) * share + t * drawn).reshape(-1, len(share)), len(WEIGHTS), 0)
        z = logarithms(values)[:, there] - np.log(trained[there])
        found = find_compositions(z, wrong, weights, COARSE_TOLERANCE, COARSE_ITERATIONS)
        distances.append(np.abs(found - share).sum(1).reshape(shape).mean(1))
    if not distances:
        return np.ones(len(FEARED))
    return np.array([1.0, *WEIGHTS[np.mean(distances, 0).argmin(1)]])


def _scale_columns(logs: Floats, target: Floats, start: Floats) -> Floats:
    """log c [K] under which the mean of the rows of softmax(logs + log c) is ``target``, all above 0."""
    factors = start
    for _ in range(ITERATIONS):
        mean = softmax(logs + factors, axis=1).mean(0)
        if np.abs(mean - target).max() < TOLERANCE:
            break
        factors = factors + np.log(target / np.maximum(mean, TINY))
        factors = factors - factors.max()
    return factors
