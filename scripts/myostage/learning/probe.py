"""The linear probe: a logistic regression on frozen tokens, its regularisation chosen by training animals.

What it reads of a cell are the class token and the mean and standard deviation of the patch tokens, as they
enter the last block; of ready-made features, the features. No seed shapes its numbers. No torch is imported.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from myostage.features.tokens import TokenStore

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

# Inverse strengths of regularisation, strongest first: each starts from the one before.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
MOST_ITERATIONS = 1000
# Smallest probability of the right stage: one that a part never saw costs every candidate alike.
SMALLEST = 1e-7


class Probe(NamedTuple):
    """Logits are ``features @ weights.T + bias``; a stage that was never seen has the bias -inf."""

    weights: Floats  # [K, F]
    bias: Floats  # [K]


def summarise(tokens: NDArray[np.float16]) -> Floats:
    """Features float32[n, F] of tokens [n, T, D]: F = 3 D, or D where a cell has one token."""
    values = tokens.astype(np.float32)
    if values.shape[1] == 1:
        return values[:, 0]
    # Patches lie in a square; before them stand the class token and, in some encoders, registers.
    patches = values[:, -(math.isqrt(values.shape[1] - 1) ** 2) :]
    return np.concatenate([values[:, 0], patches.mean(1), patches.std(1)], axis=1)


def fit_probe(
    features: Floats,
    stages: NDArray[np.int64],
    parts: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]],
    count: int,
) -> Probe:
    """The probe whose strength is best on cells held in, fitted on all cells.

    Parameters
    ----------
    features
        [n, F].
    stages
        Stage 0..K-1 of each cell, [n].
    parts
        Which cells to fit on and which to judge by, [n] each; the log loss of all judged cells decides.
    count
        Number of stages K.
    """
    judged = [(features[held_in], stages[held_in]) for _, held_in in parts]
    paths = [_path(features[fitted_on], stages[fitted_on], count) for fitted_on, _ in parts]
    losses: list[float] = []
    for probes in zip(*paths, strict=True):
        losses.append(sum(_lose(probe, *cells) for probe, cells in zip(probes, judged, strict=True)))
        if losses[-1] > min(losses):  # weaker regularisation is worse still, and slow to fit
            break
    log.info("log loss of cells held in: %s", dict(zip(STRENGTHS, losses, strict=False)))
    return next(islice(_path(features, stages, count), int(np.argmin(losses)), None))


def predict(probe: Probe, features: Floats) -> Floats:
    """Probabilities float32[n, K] of features [n, F]."""
    logits = features @ probe.weights.T + probe.bias
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def predict_slides(
    probe: Probe, stores: Mapping[str, "TokenStore"]
) -> Iterator[tuple[str, Iterator[tuple[NDArray[np.int32], Floats, NDArray[np.float16]]]]]:
    """Cells, probabilities and no embedding of each slide, one row group of tokens at a time."""
    for slide, store in stores.items():
        yield (
            slide,
            (
                (cells, predict(probe, summarise(tokens.numpy())), np.empty((len(cells), 0), np.float16))
                for cells, tokens in store.stream()
            ),
        )


def _lose(probe: Probe, features: Floats, stages: NDArray[np.int64]) -> float:
    """Summed log loss of cells, nats."""
    right = predict(probe, features)[np.arange(len(stages)), stages]
    return -float(np.log(np.maximum(right, SMALLEST)).sum())


def _path(features: Floats, stages: NDArray[np.int64], count: int) -> Iterator[Probe]:
    """Probes by strength, each fitted when it is asked for."""
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and not needed to predict
    from sklearn.linear_model import LogisticRegression

    known = np.unique(stages)
    if len(known) == 1:
        bias = np.where(np.arange(count) == known[0], 0, -np.inf).astype(np.float32)
        yield from [Probe(np.zeros((count, features.shape[1]), np.float32), bias)] * len(STRENGTHS)
        return
    mean, spread = features.mean(0), features.std(0)
    spread[spread == 0] = 1
    scaled = (features - mean) / spread
    regression = LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True)
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.set_params(C=strength).fit(scaled, stages)
        if regression.n_iter_.max() >= MOST_ITERATIONS:
            log.warning("the probe of inverse strength %g has not converged", strength)
        probe = Probe(np.zeros((count, features.shape[1]), np.float32), np.full(count, -np.inf, np.float32))
        coefficients, intercept = regression.coef_, regression.intercept_
        if len(known) == 2:  # of two stages it gives the odds of the second
            coefficients, intercept = np.stack([0 * coefficients[0], coefficients[0]]), [0, intercept[0]]
        probe.weights[known] = coefficients / spread
        probe.bias[known] = intercept - probe.weights[known] @ mean
        yield probe
