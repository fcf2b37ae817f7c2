"""Where attention lies: its spectrum over the graph of cells, and what it makes of cells near a border.

Annotated stages of cells are used here to measure, and never to learn. A cell is injured where its annotated
stage is none of the healthy ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from myostage import tables
from myostage.cells.positions import positions
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.evaluation.intervals import find_mean
from myostage.evaluation.tables import BORDERS, SPECTRUM
from myostage.evaluation.weighted import auroc
from myostage.learning.tables import ATTENTION
from myostage.study.sections.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor

    from myostage.spatial.graph import CellGraph

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Eigenvalues of a normalised Laplacian lie in [0, 2].
LARGEST_EIGENVALUE = 2.0
# Of the Sm that attention is smoothed by afterwards, where the study's own is learnt.
ALPHA = 0.5
# Bands of signed distance to the border of the injured region: a fibre is some 35 um wide.
EDGES_UM = (-math.inf, -120.0, -80.0, -40.0, 0.0, 40.0, 80.0, 120.0, math.inf)
# Share by which attention must exceed 1/n for a cell to count as injured: a softmax in float32 rounds.
ROUNDING = 1e-5
# A standard deviation below this share of the largest logit is rounding of float32: the logits are constant.
CONSTANT = 1e-6
SIGNALS = ("raw", "smoothed")


@dataclass(frozen=True)
class _Modes:
    """Eigenvectors of the graph of a slide's cells, or of those in the window of a large slide."""

    cells: Ints  # of the whole slide [n]
    window: Ints  # places of the m cells that are measured
    graph: "CellGraph"  # of these
    eigenvalues: "Tensor"  # [m]
    eigenvectors: "Tensor"  # [m, m]
    injured: Floats  # [m], 1 or 0; nan: no label

    @classmethod
    def of(cls, cells: Ints, at: Floats, injured: Floats, graph: Graph, max_cells: int) -> "_Modes":
        # torch is imported where it computes: whoever reads metrics of slides imports this file
        from myostage.spatial.graph import cell_graph
        from myostage.spatial.roughness import spectrum

        away = np.linalg.norm(at - at.mean(0), axis=1)
        window = np.sort(np.argsort(away, kind="stable")[:max_cells])
        joined = cell_graph(at[window], graph)
        return cls(cells, window, joined, *spectrum(joined), injured[window])

    def measure(self, logits: Floats, bands: Floats, alpha: float, steps: int) -> Floats:
        """Shares of power, energy per edge and AUROC of each of ``SIGNALS``, [2, bands + 2]."""
        import torch

        from myostage.spatial.roughness import band_shares, energy_per_edge
        from myostage.spatial.smoothing import sm

        raw = torch.from_numpy(_standardised(logits[self.window]))
        smoothed = sm(raw, self.graph, alpha, steps)
        return np.stack(
            [
                [
                    *band_shares(values, self.eigenvalues, self.eigenvectors, bands),
                    energy_per_edge(values, self.graph),
                    _auroc(values.numpy(), self.injured),
                ]
                for values in (raw, smoothed)
            ]
        )


@dataclass(frozen=True)
class _Bands:
    """The labelled cells of a slide with cells of both kinds, by their distance to the border."""

    cells: Ints  # of the whole slide [n]
    labelled: NDArray[np.bool_]  # [n]
    injured: NDArray[np.bool_]  # of the labelled cells [m]
    band: Ints  # of the labelled cells [m]; -1 or the number of bands: beyond the edges
    counts: Ints  # labelled cells by band

    @classmethod
    def of(
        cls, injured: Floats, cells: Ints, tables: Mapping[str, Path], slide: str, edges: Floats
    ) -> "_Bands | None":
        """None where the labelled cells are all of one kind."""
        labelled = np.isfinite(injured)
        inside = injured[labelled] == 1
        if inside.all() or not inside.any():
            return None
        at = positions(_table(tables, slide), cells[labelled])
        away, _ = cKDTree(at[~inside]).query(at[inside])
        near, _ = cKDTree(at[inside]).query(at[~inside])
        band = np.empty(inside.size, np.int64)
        band[inside] = np.digitize(-away, edges, right=True) - 1
        band[~inside] = np.digitize(near, edges) - 1
        return cls(cells, labelled, inside, band, _count(band, edges.size - 1))

    def right(self, weights: Floats) -> Floats:
        """Share of the labelled cells classified correctly by band; 0 in a band without any."""
        found = weights[self.labelled] > (1 + ROUNDING) / weights.size
        right = _count(self.band[found == self.injured], self.counts.size)
        return right / self.counts.clip(1)


def spectra(
    experiments: Mapping[str, Sequence[Path]],
    cells: Mapping[str, Path],
    labels: Mapping[str, Path],
    healthy: Sequence[int],
    graph: Graph,
    alpha: float,
    steps: int,
    animal_of: Mapping[str, str],
    out: Path,
    bands: int = 20,
    max_cells: int = 4000,
) -> None:
    """Write the power of attention logits by eigenvalue of the graph Laplacian, before and after Sm.

    The logits of a slide are standardised before they are smoothed by Sm (arXiv 2410.03276): it would turn an
    offset, which attention does not see, into a pattern of the cells' numbers of neighbours. Shares and
    energies are relative to the variance of what they describe; constant logits have none of either. Of a
    slide with more than ``max_cells`` cells, all numbers are those of the ``max_cells`` cells nearest to the
    mean of its centroids: a dense eigen-decomposition takes time with the cube of their number.

    Parameters
    ----------
    experiments
        Label of every experiment, and the tables of attention of its folds and seeds.
    cells
        Table of cells or positions of every slide.
    labels
        Table of labels of every slide that has one.
    healthy
        Stages of uninjured cells.
    graph
        Which cells are neighbours.
    alpha, steps
        Strength, between 0 and 1, and steps T of Sm.
    animal_of
        The animal of every slide.
    out
        ``SPECTRUM`` to write; ``instance_auroc`` is how well the logit tells injured cells.
    bands
        Number of bands of equal width on [0, 2].
    max_cells
        See above.

    Raises
    ------
    UserError
        A table is missing or damaged, a cell has no coordinates, attention that is not finite.
    """
    edges = np.linspace(0, LARGEST_EIGENVALUE, bands + 1)
    held = _held(experiments)
    rows: list[dict[str, Any]] = []
    for slide in sorted({slide for of_slide in held.values() for slide in of_slide}):
        modes = None  # decomposed once for all experiments
        for name, of_slide in held.items():
            runs = []
            for path in of_slide.get(slide, ()):
                attention = _attention(path, slide, None if modes is None else modes.cells)
                if modes is None:
                    numbers = attention["cell"].to_numpy(np.int64)
                    at = positions(_table(cells, slide), numbers)
                    modes = _Modes.of(
                        numbers, at, _injured(labels, slide, numbers, healthy), graph, max_cells
                    )
                runs.append(modes.measure(attention["logit"].to_numpy(np.float64), edges, alpha, steps))
            if not runs:
                continue
            for signal, of_signal in zip(SIGNALS, np.mean(runs, axis=0), strict=True):
                *shares, energy, auroc = of_signal
                key = {"experiment": name, "signal": signal, "slide": slide, "animal": animal_of[slide]}
                rows += [
                    key
                    | {"low": low, "high": high, "share": share, "energy": energy, "instance_auroc": auroc}
                    for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True)
                ]
    tables.write(out, pd.DataFrame(rows, columns=SPECTRUM.schema.names), SPECTRUM)


def borders(
    experiments: Mapping[str, Sequence[Path]],
    cells: Mapping[str, Path],
    labels: Mapping[str, Path],
    healthy: Sequence[int],
    border_of: Mapping[str, str],
    edges_um: Sequence[float],
    animal_of: Mapping[str, str],
    out: Path,
) -> None:
    """Write the share of cells that attention tells rightly, by their distance to the border of the injury.

    That distance is the one to the nearest labelled cell of the other kind, negative for injured cells. A
    cell counts as injured where its attention is more than the even one, 1/n of the slide's n cells. The
    share is taken per slide and run, then the mean over the runs of a slide, the slides of an animal, and
    animals. A band without cells has no row; slides without a label, or with cells of one kind only, take
    no part.

    Parameters
    ----------
    experiments, cells, labels, healthy
        See :func:`spectra`.
    border_of
        ``sharp`` or ``diffuse`` by slide; a slide that is neither counts among ``all`` alone.
    edges_um
        Ascending edges of the bands, um. A band holds its end nearer to 0 and not the other, and 0 itself is
        on either side what the cell is. The outer edges may be infinite, and are then so in the table.
    animal_of
        The animal of every slide.
    out
        ``BORDERS`` to write. The interval is missing where a single animal has cells in a band.

    Raises
    ------
    UserError
        A table is missing or damaged, a labelled cell has no coordinates, attention that is not finite.
    ValueError
        Edges that do not ascend.
    """
    edges = np.asarray(edges_um, dtype=np.float64)
    if edges.size < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges of bands must ascend, not {list(edges_um)}")
    bands = edges.size - 1
    known: dict[str, _Bands | None] = {}
    rows: list[dict[str, Any]] = []
    for name, of_slide in _held(experiments).items():
        slides, shares, counts = [], [], []
        for slide, paths in sorted(of_slide.items()):
            if slide not in known:
                numbers = _attention(paths[0], slide)["cell"].to_numpy(np.int64)
                known[slide] = _Bands.of(
                    _injured(labels, slide, numbers, healthy), numbers, cells, slide, edges
                )
            found = known[slide]
            if found is None:
                continue
            weights = [_attention(path, slide, found.cells)["weight"].to_numpy(np.float64) for path in paths]
            slides.append(slide)
            shares.append(np.mean([found.right(weight) for weight in weights], axis=0))
            counts.append(found.counts)
        for border in ("sharp", "diffuse", "all"):
            chosen = np.array([border in ("all", border_of.get(slide, "")) for slide in slides], dtype=bool)
            for place in range(bands if chosen.any() else 0):
                count = np.array(counts)[chosen, place]
                held = count > 0
                if not held.any():
                    continue
                share = np.array(shares)[chosen, place][held]
                own = np.array([animal_of[slide] for slide in slides])[chosen][held]
                value, low, high = find_mean(share, own)
                rows.append(
                    {
                        "experiment": name,
                        "border": border,
                        "low_um": edges[place],
                        "high_um": edges[place + 1],
                        "correct": float(value),
                        "correct_low": float(low),
                        "correct_high": float(high),
                        "cells": count.sum(),
                        "slides": held.sum(),
                    }
                )
    tables.write(out, pd.DataFrame(rows, columns=BORDERS.schema.names), BORDERS)


def _held(experiments: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, list[Path]]]:
    """Experiment -> held-out slide -> its tables of attention, one per seed."""
    slides: dict[Path, list[str]] = {}
    held: dict[str, dict[str, list[Path]]] = {}
    for name, paths in experiments.items():
        of_slide = held.setdefault(name, {})
        for path in paths:
            if path not in slides:
                names = tables.read_arrow(path, ATTENTION, ["slide"])["slide"]
                slides[path] = names.unique().to_pylist()
            for slide in slides[path]:
                of_slide.setdefault(slide, []).append(path)
    return held


def _attention(path: Path, slide: str, cells: Ints | None = None) -> pd.DataFrame:
    """Columns cell, logit, weight of one slide, cells ascending; only row groups that may hold it are read.

    UserError where a number is not finite, or where the cells are not ``cells``.
    """
    rows = tables.read_where(path, ATTENTION, ["cell", "logit", "weight"], pc.field("slide") == slide)
    frame = rows.to_pandas().sort_values("cell")
    again = "delete the file and run the workflow again"
    if not np.isfinite(frame[["logit", "weight"]].to_numpy()).all():
        raise UserError(f"{path}: attention to cells of slide {slide} is not finite; {again}")
    if cells is not None and not np.array_equal(frame["cell"], cells):
        raise UserError(f"{path}: slide {slide} has other cells than under another run; {again}")
    return frame


def _injured(labels: Mapping[str, Path], slide: str, cells: Ints, healthy: Sequence[int]) -> Floats:
    """1 for an injured and 0 for a healthy cell, nan for one without a label, [n]."""
    if slide not in labels:
        return np.full(cells.size, np.nan)
    stage = tables.read(labels[slide], LABELS, ["cell", "stage"]).set_index("cell")["stage"]
    injured = (~stage.isin(list(healthy))).astype(np.float64)
    return np.asarray(injured.reindex(cells), dtype=np.float64)


def _table(cells: Mapping[str, Path], slide: str) -> Path:
    if slide not in cells:
        raise UserError(f"slide {slide}: coordinates missing: it has no table of cells or positions")
    return cells[slide]


def _standardised(values: Floats) -> Floats:
    """Mean 0 and standard deviation 1; all 0 where constant."""
    centred = values - values.mean()
    spread = centred.std()
    if spread <= CONSTANT * np.abs(values).max():
        return np.zeros_like(values)
    scaled: Floats = centred / spread
    return scaled


def _auroc(values: Floats, injured: Floats) -> float:
    """How well values tell injured from healthy cells; nan without cells of both kinds."""
    return float(auroc(values, injured == 1, np.isfinite(injured)))


def _count(band: Ints, bands: int) -> Ints:
    """Cells by band, without those beyond the edges."""
    return np.bincount(band[(band >= 0) & (band < bands)], minlength=bands).astype(np.int64)
