"""The bags of cells that training draws.

Which cells a step sees depends on the seed and the step's number alone, so a resumed run draws what an
uninterrupted one would have drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from myostage.errors import UserError
from myostage.features.tokens import TokenStore
from myostage.study.inputs import check_bag_size

_MB = 1e6

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bag:
    """N cells that share one proportion vector.

    Attributes
    ----------
    name : str
        The slide the cells come from, or the group.
    group : str
        Their group.
    rows : dict of slide to int64[n]
        Rows of each slide's token store, ascending; the tokens follow in this order.
    tokens : float16 Tensor [N, T, D]
        Their tokens.
    proportions : float64[K]
        The proportions p of the group, or of the slide.
    """

    name: str
    group: str
    rows: dict[str, np.ndarray]
    tokens: Tensor
    proportions: Floats


@dataclass(frozen=True)
class _Unit:
    """What a bag is drawn from: a slide, or all slides of a group laid end to end."""

    name: str
    group: str
    slides: tuple[str, ...]
    rows: tuple[np.ndarray, ...]

    @property
    def cells(self) -> int:
        return sum(len(rows) for rows in self.rows)


class BagSampler:
    """Draws the two bags of every step.

    Each bag: a group, uniformly; for bags of slides one of the group's slides, uniformly; then ``bag_size``
    cells without replacement. The two groups are drawn independently, so they may be equal. Where both bags
    fall on the same slide (or group) and it has cells for both, they share no cell: a cell compared with
    itself says nothing. The draw is a function of ``seed`` and the step's number.

    Parameters
    ----------
    stores : mapping of slide to TokenStore
        Tokens of at least the slides in ``splits``.
    splits : DataFrame
        Rows of table ``splits`` that may be learnt from; slides without cells are passed over.
    proportions : mapping of group, or slide, to float64[K]
        Given proportions.
    bag_size : int
        Cells N in a bag.
    by : {"slide", "group"}
        What a bag's cells have in common.
    seed : int
        Seed of the draws, at least 0.
    cache_mb : float
        Tokens held in memory, MB; slides that do not fit are read from their mapped files at each step.
    device : str or torch.device
        Where cached tokens lie and bags are delivered.
    draw_from : mapping of slide to int[n], optional
        Rows that may be drawn (the labelled cells, for the supervised ceiling); all rows by default.
    proportions_of : {"group", "slide"}
        Whose ``proportions`` they are; those of slides need bags of slides.

    Raises
    ------
    UserError
        A slide (or group) has fewer cells than a bag, or a group (or slide) has no proportions.
    """

    def __init__(
        self,
        stores: Mapping[str, TokenStore],
        splits: pd.DataFrame,
        proportions: Mapping[str, Floats],
        bag_size: int,
        by: Literal["slide", "group"] = "slide",
        seed: int = 0,
        *,
        cache_mb: float = 0.0,
        device: str | torch.device = "cpu",
        draw_from: Mapping[str, np.ndarray] | None = None,
        proportions_of: Literal["group", "slide"] = "group",
    ) -> None:
        self.bag_size = bag_size
        self.seed = seed
        self.device = torch.device(device)
        self._stores = stores
        self._units = _units(splits, stores, by, draw_from)
        self.groups = sorted(self._units)
        _check(self._units, proportions, bag_size, by, proportions_of)
        self._proportions = {
            unit.name: proportions[unit.name if proportions_of == "slide" else unit.group]
            for units in self._units.values()
            for unit in units
        }
        self._cache_mb = cache_mb

    def pair(self, step: int) -> tuple[Bag, Bag]:
        """Bags A and B of step ``step``: the same for the same seed and step, whatever was drawn before."""
        rng = np.random.default_rng([self.seed, step])
        first, second = self._draw_unit(rng), self._draw_unit(rng)
        n = self.bag_size
        if first is second and first.cells >= 2 * n:
            places = rng.choice(first.cells, 2 * n, replace=False)
        else:
            places = np.concatenate([rng.choice(unit.cells, n, replace=False) for unit in (first, second)])
        return self._bag(first, places[:n]), self._bag(second, places[n:])

    def _draw_unit(self, rng: np.random.Generator) -> _Unit:
        units = self._units[self.groups[rng.integers(len(self.groups))]]
        return units[rng.integers(len(units))]

    def _bag(self, unit: _Unit, places: np.ndarray) -> Bag:
        places = np.sort(places)
        ends = np.cumsum([0, *(len(rows) for rows in unit.rows)])
        rows: dict[str, np.ndarray] = {}
        parts: list[Tensor] = []
        for slide, own, start, end in zip(unit.slides, unit.rows, ends[:-1], ends[1:], strict=True):
            here = own[places[(places >= start) & (places < end)] - start]
            if len(here):
                rows[slide] = here
                parts.append(self._read(slide, here))
        tokens = parts[0] if len(parts) == 1 else torch.cat(parts)
        return Bag(unit.name, unit.group, rows, tokens, self._proportions[unit.name])

    def _read(self, slide: str, rows: np.ndarray) -> Tensor:
        cached = self._cached.get(slide)
        if cached is not None:
            return cached[torch.from_numpy(rows).to(self.device)]
        return self._stores[slide].read_rows(rows).to(self.device)

    def forget(self) -> None:
        """Drop the tokens held in memory; those of the next draw are read anew."""
        self.__dict__.pop("_cached", None)

    @cached_property
    def _cached(self) -> dict[str, Tensor]:
        left = self._cache_mb * _MB
        cached: dict[str, Tensor] = {}
        for slide in sorted(
            {slide for units in self._units.values() for unit in units for slide in unit.slides}
        ):
            store = self._stores[slide]
            if store.nbytes <= left:
                cached[slide] = store.read().to(self.device)
                left -= store.nbytes
        return cached


def _units(
    splits: pd.DataFrame,
    stores: Mapping[str, TokenStore],
    by: Literal["slide", "group"],
    draw_from: Mapping[str, np.ndarray] | None,
) -> dict[str, list[_Unit]]:
    """What bags are drawn from, by group; independent of the order of rows."""
    units: dict[str, list[_Unit]] = {}
    for group, members in splits.sort_values("slide").groupby("group"):
        slides, rows = [], []
        for slide in members["slide"]:
            own = np.arange(len(stores[slide])) if draw_from is None else np.unique(draw_from.get(slide, ()))
            if len(own):
                slides.append(str(slide))
                rows.append(own.astype(np.int64))
        if not slides:
            continue
        name = str(group)
        if by == "group":
            units[name] = [_Unit(name, name, tuple(slides), tuple(rows))]
        else:
            units[name] = [
                _Unit(slide, name, (slide,), (own,)) for slide, own in zip(slides, rows, strict=True)
            ]
    return units


def _check(
    units: dict[str, list[_Unit]],
    proportions: Mapping[str, Floats],
    bag_size: int,
    by: Literal["slide", "group"],
    proportions_of: Literal["group", "slide"],
) -> None:
    if not units:
        raise UserError(
            "training: no slide with a group and cells is left to learn from; add slides or lower folds"
        )
    cells = {unit.name: unit.cells for own in units.values() for unit in own}
    lacking = sorted((units.keys() if proportions_of == "group" else cells.keys()) - proportions.keys())
    if lacking:
        table = "proportions" if proportions_of == "group" else "slide_proportions"
        raise UserError(f"{table}: no row for {proportions_of} {', '.join(lacking)}; add it")
    check_bag_size(cells, bag_size, by)
