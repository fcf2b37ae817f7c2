"""The learnt projection: what the encoder's suffix is, for cells whose features are ready-made.

Ready-made features are a token store of T = 1 token per cell. Nothing of the encoder that made them is there
to be trained, so that a small network on the standardised features takes its place.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from myostage.errors import UserError
from myostage.features.encoder import Unfreeze
from myostage.features.tokens import TokenStore

Floats = NDArray[np.float64]

# A feature whose standard deviation is a smaller share of its mean is constant: float32 rounds no finer.
CONSTANT = 1e-6


@dataclass(frozen=True)
class Moments:
    """Number of cells, mean float64[D] and sum of squared deviations float64[D] of features."""

    cells: int
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> "Moments":
        """Of features [n, D]."""
        values = features.astype(np.float64)
        mean = values.mean(0) if len(values) else np.zeros(values.shape[1])
        return cls(len(values), mean, ((values - mean) ** 2).sum(0))

    def __add__(self, other: "Moments") -> "Moments":
        """Of both together (Chan et al. 1983, Algorithms for computing the sample variance)."""
        cells = self.cells + other.cells
        shift = other.mean - self.mean
        share = other.cells / max(cells, 1)
        squares = self.squares + other.squares + shift**2 * self.cells * share
        return Moments(cells, self.mean + shift * share, squares)

    @property
    def sd(self) -> Floats:
        return np.sqrt(self.squares / max(self.cells, 1))


def moments_of(stores: Iterable[TokenStore]) -> Moments:
    """Of the features of all cells of some slides; every slide is read once per process."""
    first, *rest = (_moments_of(store) for store in stores)
    return sum(rest, first)


@lru_cache(8192)
def _moments_of(store: TokenStore) -> Moments:
    nothing = Moments.of(np.empty((0, store.shape[1])))
    return sum((Moments.of(values[:, 0].numpy()) for _, values in store.stream()), nothing)


class Projection(nn.Module):
    """Standardised features and a small network on them: features [N, 1, D] to embeddings [N, E].

    Every feature is standardised by mean and standard deviation of the training cells (a constant one becomes
    0), so that features of any scale train alike. Both are buffers: they lie in the model file, and
    prediction needs nothing else. The network is Linear(D, 2 E), GELU, Linear(2 E, E), LayerNorm(E); it
    starts at random from ``seed``, as a head does. It has the interface of
    :class:`myostage.features.encoder.Suffix`.

    Parameters
    ----------
    mean, sd : float[D]
        Of the features of the training cells, and of no others.
    width : int or None
        E. None: nothing is learnt, and the embedding is the standardised features themselves (E = D), which
        is what ``training.unfreeze: none`` means for ready-made features.
    seed : int
        Seed of the random start.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Floats, sd: Floats, width: int | None, seed: int = 0) -> None:
        super().__init__()
        varies = sd > CONSTANT * np.abs(mean)
        scale = np.divide(1.0, sd, out=np.zeros_like(sd, np.float64), where=varies)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.embedding = len(mean) if width is None else width
        self.network: nn.Module = nn.Identity()
        if width is not None:
            with torch.random.fork_rng(devices=[]):
                # not the numbers that the head starts from, which are drawn from the seed itself
                torch.manual_seed(int(np.random.SeedSequence([seed, width]).generate_state(1, np.uint64)[0]))
                self.network = nn.Sequential(
                    nn.Linear(len(mean), 2 * width),
                    nn.GELU(),
                    nn.Linear(2 * width, width),
                    nn.LayerNorm(width),
                )

    @classmethod
    def empty(cls, features: int, width: int | None) -> "Projection":
        """One of D = ``features`` features, to load a state into."""
        return cls(np.zeros(features), np.ones(features), width)

    def forward(self, features: Tensor) -> Tensor:
        values = features[:, 0].to(self.mean.dtype)
        return self.network((values - self.mean) * self.scale)

    def trainable(self, unfreeze: Unfreeze) -> list[nn.Parameter]:
        """Freeze all, or for ``block`` nothing, and return what learns.

        Raises
        ------
        UserError
            ``attention``: ready-made features have none.
        """
        if unfreeze == "attention":
            raise UserError(
                "training.unfreeze is attention, and ready-made features have none; set block, which trains "
                "their projection, or none"
            )
        self.requires_grad_(unfreeze == "block")
        return list(self.parameters()) if unfreeze == "block" else []
