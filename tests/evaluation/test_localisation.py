"""Spectra and borders of attention on hand-made slides with known answers."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from myostage import tables
from myostage.cells.positions import positions
from myostage.cells.tables import CELLS, LABELS, POSITIONS
from myostage.errors import UserError
from myostage.evaluation import localisation
from myostage.evaluation.tables import BORDERS, SPECTRUM
from myostage.learning.tables import ATTENTION
from myostage.spatial import roughness
from myostage.study.sections.graph import Graph

HEALTHY = (2, 3)
ALPHA, STEPS, BANDS = 0.5, 10, 8
SPACING_UM = 20.0
SIDE = 6
LINE = Graph(by="radius", radius_um=1.2 * SPACING_UM)


class Slides:
    """Tables of slides and of the attention to their cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells: dict[str, Path] = {}
        self.labels: dict[str, Path] = {}
        self.numbers: dict[str, np.ndarray] = {}
        self.runs = 0

    def add(self, slide: str, at: np.ndarray, stages: Sequence[int] | None = None) -> None:
        """A slide of cells at ``at`` [n, 2], um; cell numbers have gaps; stage -1: no label."""
        self.numbers[slide] = np.arange(len(at)) * 2 + 1
        self.cells[slide] = self.folder / f"{slide}.cells.parquet"
        frame = pd.DataFrame({"cell": self.numbers[slide], "x_um": at[:, 0], "y_um": at[:, 1]})
        # read by cell number and not by row
        tables.write(self.cells[slide], frame.iloc[::-1], POSITIONS)
        if stages is not None:
            self.labels[slide] = self.folder / f"{slide}.labels.parquet"
            known = pd.DataFrame({"cell": self.numbers[slide], "stage": stages, "iou": 0.9})
            tables.write(self.labels[slide], known[known["stage"] >= 0], LABELS)

    def attend(self, logits: dict[str, Any], **weights: Any) -> Path:
        """Attention of one run; the weights are the softmax of the logits where none are given."""
        self.runs += 1
        path = self.folder / f"attention{self.runs}.parquet"
        parts = []
        for slide, values in logits.items():
            logit = np.asarray(values, dtype=np.float64)
            even = np.exp(logit - logit.max()) if logit.size else logit
            frame = pd.DataFrame({"slide": slide, "cell": self.numbers[slide], "logit": logit})
            frame["weight"] = weights.get(slide, even / even.sum())
            parts.append(frame.sample(frac=1, random_state=self.runs))  # rows in an order of their own
        columns = ATTENTION.schema.names
        frame = pd.concat(parts) if parts else pd.DataFrame(columns=columns)
        tables.write(path, frame, ATTENTION)
        return path

    @property
    def _animals(self) -> dict[str, str]:
        """Every slide is of an animal of its own."""
        return {slide: f"animal of {slide}" for slide in self.cells}

    def spectra(
        self, experiments: dict[str, list[Path]], graph: Graph = LINE, **changes: Any
    ) -> pd.DataFrame:
        out = self.folder / "spectrum.parquet"
        arguments = {"alpha": ALPHA, "steps": STEPS, "bands": BANDS} | changes
        localisation.spectra(
            experiments,
            self.cells,
            self.labels,
            HEALTHY,
            graph,
            animal_of=self._animals,
            out=out,
            **arguments,
        )
        return tables.read(out, SPECTRUM)

    def borders(
        self,
        experiments: dict[str, list[Path]],
        edges: Sequence[float],
        border_of: dict[str, str] | None = None,
    ) -> pd.DataFrame:
        out = self.folder / "borders.parquet"
        localisation.borders(
            experiments, self.cells, self.labels, HEALTHY, border_of or {}, edges, self._animals, out
        )
        return tables.read(out, BORDERS)


@pytest.fixture
def slides(tmp_path: Path) -> Slides:
    return Slides(tmp_path)


def grid(side: int = SIDE) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return SPACING_UM * np.column_stack([columns.ravel(), rows.ravel()]).astype(float)


def line(cells: int) -> np.ndarray:
    return np.column_stack([SPACING_UM * np.arange(cells), np.zeros(cells)])


def modes(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of I - D^-1/2 A D^-1/2, neighbours within the radius of ``LINE``."""
    gap = np.linalg.norm(at[:, None] - at[None], axis=2)
    adjacency = ((gap < LINE.radius_um) & (gap > 0)).astype(float)
    degree = adjacency.sum(1)
    return np.linalg.eigh(np.eye(len(at)) - adjacency / np.sqrt(np.outer(degree, degree)))


def shares(table: pd.DataFrame, signal: str, slide: str = "s", experiment: str = "one") -> np.ndarray:
    chosen = (table["signal"] == signal) & (table["slide"] == slide) & (table["experiment"] == experiment)
    return table[chosen].sort_values("low")["share"].to_numpy()


def ring(cells: int) -> np.ndarray:
    """Cells on a circle, each ``SPACING_UM`` from the next: all have two neighbours."""
    angle = 2 * np.pi * np.arange(cells) / cells
    radius = SPACING_UM / 2 / np.sin(np.pi / cells)
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])


# of a ring the waves cos(2 pi k i / n) are eigenvectors, of eigenvalue 1 - cos(2 pi k / n)
@pytest.mark.parametrize("wave", [1, 5, 9, 12])
def test_an_eigenvector_has_all_power_in_the_band_of_its_eigenvalue(slides: Slides, wave: int) -> None:
    cells = 24
    slides.add("s", ring(cells))
    logits = 3 + 0.1 * np.cos(2 * np.pi * wave * np.arange(cells) / cells)
    found = slides.spectra({"one": [slides.attend({"s": logits})]})
    eigenvalue = 1 - np.cos(2 * np.pi * wave / cells)
    wanted = np.zeros(BANDS)
    wanted[min(int(eigenvalue / 2 * BANDS), BANDS - 1)] = 1
    for signal in ("raw", "smoothed"):
        np.testing.assert_allclose(shares(found, signal), wanted, atol=1e-5)
    # n values u of variance 1 and n edges: the sum over edges of (u_i - u_j)^2 is 2 n x eigenvalue
    assert found["energy"].to_numpy() == pytest.approx(2 * eigenvalue, rel=1e-4)
    assert found["instance_auroc"].isna().all()
    assert (found["low"].min(), found["high"].max()) == (0, 2)


def test_shares_of_a_random_signal_are_its_squared_coefficients(slides: Slides) -> None:
    slides.add("s", grid())
    logits = np.random.default_rng(0).normal(5, 3, SIDE**2).astype(np.float32).astype(float)
    found = slides.spectra({"one": [slides.attend({"s": logits})]})
    values, vectors = modes(grid())
    power = (vectors.T @ (logits - logits.mean())) ** 2
    # eigenvalues 0 and 2, to within rounding of which are the ends of the outer bands
    wanted, _ = np.histogram(values.clip(0, 2), np.linspace(0, 2, BANDS + 1), weights=power / power.sum())
    # eigenvalue 1 is many-fold on a grid and lies on an edge of bands: the two bands beside it are summed
    middle = BANDS // 2
    merged = [np.add.reduceat(x, [*range(middle), middle + 1]) for x in (shares(found, "raw"), wanted)]
    np.testing.assert_allclose(*merged, atol=1e-6)


def test_smoothing_moves_power_to_low_eigenvalues_and_lowers_energy(slides: Slides) -> None:
    slides.add("s", grid())
    logits = np.random.default_rng(1).normal(size=SIDE**2)
    found = slides.spectra({"one": [slides.attend({"s": logits})]})
    raw, smoothed = shares(found, "raw"), shares(found, "smoothed")
    assert (raw.sum(), smoothed.sum()) == pytest.approx((1, 1))
    assert (smoothed.cumsum() >= raw.cumsum() - 1e-9).all() and smoothed[0] > raw[0] + 0.05
    energy = found.groupby("signal")["energy"].first()
    assert energy["smoothed"] < 0.8 * energy["raw"]


def test_the_auroc_is_that_of_injured_cells_by_raw_and_smoothed_logit(slides: Slides) -> None:
    # injured cells 0-3, healthy 4-8, one without a label; cell 5 alone is mistaken, and smoothing mends it
    stages = [0, 1, 0, 0, 2, 3, 2, 2, -1, 3]
    logits = np.array([5.0, 5, 5, 5, -5, 6, -5, -5, 99, -6])
    slides.add("s", line(10), stages)
    found = (
        slides.spectra({"one": [slides.attend({"s": logits})]}).groupby("signal")["instance_auroc"].first()
    )
    assert found["raw"] == pytest.approx(16 / 20)
    values, vectors = modes(line(10))
    operator = vectors @ np.diag((1 - ALPHA) / (1 - ALPHA * (1 - values))) @ vectors.T
    smooth = operator @ ((logits - logits.mean()) / logits.std())
    pairs = [smooth[i] > smooth[j] for i in range(4) for j in (4, 5, 6, 7, 9)]
    assert found["smoothed"] == pytest.approx(np.mean(pairs)) and found["smoothed"] != found["raw"]


def test_numbers_are_means_over_seeds_and_slides_are_their_own(slides: Slides) -> None:
    rng = np.random.default_rng(2)
    for slide in "st":
        slides.add(slide, grid(), rng.integers(0, 4, SIDE**2).tolist())
    drawn = [rng.normal(size=SIDE**2) for _ in range(3)]
    one = slides.attend({"s": drawn[0]})
    two = slides.attend({"s": drawn[1], "t": drawn[2]})
    failed = slides.attend({})
    found = slides.spectra({"first": [one], "both": [one, two, failed], "second": [two], "none": [failed]})
    numbers = ["share", "energy", "instance_auroc"]
    rows = {
        name: found[(found["experiment"] == name) & (found["slide"] == "s")][numbers].to_numpy()
        for name in ("first", "second", "both")
    }
    np.testing.assert_allclose(rows["both"], (rows["first"] + rows["second"]) / 2, rtol=1e-12)
    of_t = [
        found[(found["experiment"] == name) & (found["slide"] == "t")][numbers] for name in ("both", "second")
    ]
    np.testing.assert_array_equal(*of_t)
    assert set(found["experiment"]) == {"first", "both", "second"}
    assert len(found) == 2 * BANDS * 5


def test_a_slide_is_decomposed_once_for_all_experiments(
    slides: Slides, monkeypatch: pytest.MonkeyPatch
) -> None:
    decomposed = []
    spectrum = roughness.spectrum
    monkeypatch.setattr(roughness, "spectrum", lambda edges: decomposed.append(edges) or spectrum(edges))
    for slide in "st":
        slides.add(slide, line(5))
    runs = [slides.attend({"s": np.arange(5), "t": np.arange(5)}) for _ in range(3)]
    slides.spectra({"one": runs, "two": runs})
    assert len(decomposed) == 2


def test_a_large_slide_is_measured_in_the_middle(slides: Slides) -> None:
    at = grid(7)
    middle = (np.abs(at - at.mean(0)) < 1.5 * SPACING_UM).all(1)  # 3 x 3
    rng = np.random.default_rng(4)
    logits, stages = rng.normal(size=49).astype(np.float32), rng.integers(0, 4, 49)
    logits[middle] = logits[middle] - logits[middle].mean()
    slides.add("s", at, stages.tolist())
    slides.add("t", at[middle], stages[middle].tolist())
    run = slides.attend({"s": logits, "t": logits[middle]})
    found = slides.spectra({"one": [run]}, max_cells=9)
    numbers = ["share", "energy", "instance_auroc"]
    windowed, alone = (found.loc[found["slide"] == slide, numbers].to_numpy() for slide in "st")
    np.testing.assert_allclose(windowed, alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("at", "logits"),
    [
        (np.zeros((1, 2)), [3.0]),
        (line(5), [0.0] * 5),
        # two neighbours among the numbers of float32: constant but for rounding
        (line(5), [0.1, 0.1 + 1e-8, 0.1, 0.1, 0.1 + 1e-8]),
        (1e4 * line(5), [1.0, 2.0, 3.0, 4.0, 5.0]),
        (np.zeros((5, 2)), [1.0, 2.0, 3.0, 4.0, 5.0]),
    ],
    ids=["one cell", "zero", "constant", "no edges", "one place"],
)
def test_slides_without_a_spectrum_have_defined_numbers(
    slides: Slides, at: np.ndarray, logits: list[float]
) -> None:
    slides.add("s", at, [0, 2, 0, 2, 2][: len(at)])
    found = slides.spectra({"one": [slides.attend({"s": logits})]})
    assert np.isfinite(found[["low", "high", "share", "energy"]].to_numpy()).all()
    assert len(found) == 2 * BANDS
    constant = np.ptp(logits) < 1e-6
    if constant:
        assert (found[["share", "energy"]] == 0).all(axis=None)
    else:
        assert found.groupby("signal")["share"].sum().to_numpy() == pytest.approx(1)
    assert found["instance_auroc"].isna().all() == (len(at) == 1)
    if constant and len(at) > 1:
        assert (found["instance_auroc"] == 0.5).all()


def test_no_runs_make_empty_tables(slides: Slides) -> None:
    for experiments in ({}, {"one": []}, {"one": [slides.attend({})]}):
        assert slides.spectra(experiments).empty
        assert slides.borders(experiments, [-40, 0, 40]).empty


# --- positions


def write_cells(path: Path, x: Sequence[float]) -> Path:
    columns = {column.name: 0 for column in CELLS.columns} | {"border": False}
    frame = pd.DataFrame({"cell": np.arange(len(x)), "x_um": x, "y_um": 2.0})
    frame = frame.assign(**{name: value for name, value in columns.items() if name not in frame})
    frame["polygon"] = pd.Series([np.zeros(6, np.float32)] * len(x), dtype=object)
    tables.write(path, frame, CELLS)
    return path


def test_positions_come_in_the_order_asked_from_either_table(tmp_path: Path, slides: Slides) -> None:
    path = write_cells(tmp_path / "cells.parquet", [1.0, 3.0, 5.0])
    assert positions(path, [2, 0]).tolist() == [[5, 2], [1, 2]]
    slides.add("s", line(3))
    found = positions(slides.cells["s"], np.array([5, 1]))
    assert found.tolist() == [[40, 0], [0, 0]] and found.dtype == np.float64
    assert positions(path, []).shape == (0, 2)


@pytest.mark.parametrize(("x", "cell"), [([1.0, np.nan], 1), ([1.0, np.inf], 1), ([1.0], 1), ([], 0)])
def test_missing_coordinates_are_named(tmp_path: Path, x: list[float], cell: int) -> None:
    path = write_cells(tmp_path / "cells.parquet", x)
    with pytest.raises(UserError, match=rf"cells\.parquet: coordinates missing: .* cell {cell}\b"):
        positions(path, [0, 1])


def test_a_slide_without_coordinates_is_named(slides: Slides, tmp_path: Path) -> None:
    slides.add("s", line(4), [0, 0, 2, 2])
    run = slides.attend({"s": np.arange(4)})
    slides.cells.pop("s")
    for work in (
        lambda: slides.spectra({"one": [run]}),
        lambda: slides.borders({"one": [run]}, [-40, 0, 40]),
    ):
        with pytest.raises(UserError, match="slide s: coordinates missing"):
            work()
    with pytest.raises(UserError, match="missing; run the workflow"):
        positions(tmp_path / "absent.parquet", [0])


def test_attention_that_is_not_finite_or_of_other_cells_is_named(slides: Slides) -> None:
    slides.add("s", line(4), [0, 0, 2, 2])
    good, bad = slides.attend({"s": np.arange(4)}), slides.attend({"s": [1, np.nan, 2, 3]})
    slides.numbers["s"] = slides.numbers["s"] + 2
    other = slides.attend({"s": np.arange(4)})
    for run, reason in ((bad, "not finite"), (other, "other cells")):
        for work in (slides.spectra, lambda runs: slides.borders(runs, [-40, 0, 40])):
            with pytest.raises(
                UserError, match=rf"{run.name}.*slide s.*{reason}|{run.name}.*{reason}.*slide s"
            ):
                work({"one": [good], "two": [run]})


# --- borders


def correct(
    table: pd.DataFrame, border: str = "all", experiment: str = "one"
) -> dict[tuple[float, float], float]:
    rows = table[(table["border"] == border) & (table["experiment"] == experiment)]
    return dict(zip(zip(rows["low_um"], rows["high_um"], strict=True), rows["correct"], strict=True))


def test_cells_of_a_line_fall_into_bands_by_their_distance(slides: Slides) -> None:
    # four injured cells at 0..60 um, four healthy ones at 80..140: 80, 60, 40, 20 um on either side
    slides.add("s", line(8), [0, 1, 0, 1, 2, 3, 2, 3])
    #             -80 -60 -40 -20  20  40  60  80; even is 1/8
    weights = np.array([0.2, 0.2, 0.1, 0.2, 0.2, 0.05, 0.05, 0.0])
    run = slides.attend({"s": np.zeros(8)}, s=weights)
    found = slides.borders({"one": [run]}, [-np.inf, -40, 0, 40, np.inf])
    # an edge belongs to the band towards the border: +-40 stand with +-20, not with +-60
    assert correct(found) == {(-np.inf, -40): 2 / 3, (-40, 0): 1.0, (0, 40): 0.0, (40, np.inf): 1.0}
    assert found["cells"].tolist() == [3, 1, 1, 3]
    assert (found["slides"] == 1).all()
    assert found[["correct_low", "correct_high"]].isna().all(axis=None)  # a single slide
    # the outer edges may be finite: what lies beyond is left out
    found = slides.borders({"one": [run]}, [-70, -30, 30])
    assert found["cells"].tolist() == [2, 2]


def test_a_slide_without_cells_in_a_band_has_no_say_in_it(slides: Slides) -> None:
    slides.add("long", line(8), [0, 0, 2, 2, 2, 2, 2, 2])
    slides.add("short", line(4), [0, 0, 2, 2])
    weights = {"long": np.array([0.5, 0.5, 0, 0, 0, 0, 0, 0]), "short": np.array([0.5, 0.5, 0, 0])}
    run = slides.attend({slide: np.zeros(len(of)) for slide, of in weights.items()}, **weights)
    found = slides.borders({"one": [run]}, [-80, -50, 0, 50, 80, 110])
    # no cell lies at -80..-50, and one of the long slide beyond 110 um
    assert found["low_um"].tolist() == [-50, 0, 50, 80]
    assert found["slides"].tolist() == [2, 2, 1, 1]
    assert found["cells"].tolist() == [4, 4, 1, 2]
    assert (found["correct"] == 1).all()
    assert found["correct_low"].notna().tolist() == [True, True, False, False]


def test_distances_are_those_of_a_double_loop(slides: Slides) -> None:
    rng = np.random.default_rng(5)
    at = rng.uniform(0, 200, (60, 2)).astype(np.float32).astype(float)
    stages = rng.integers(-1, 4, 60)
    slides.add("s", at, stages.tolist())
    weights = rng.dirichlet(np.ones(60))
    edges = [-np.inf, -30, -15, 0, 15, 30, np.inf]
    found = slides.borders({"one": [slides.attend({"s": np.zeros(60)}, s=weights)]}, edges)
    right: dict[tuple[float, float], list[bool]] = {}
    for i in np.flatnonzero(stages >= 0):
        injured = stages[i] not in HEALTHY
        away = min(
            float(np.linalg.norm(at[i] - at[j]))
            for j in np.flatnonzero(stages >= 0)
            if (stages[j] not in HEALTHY) != injured
        )
        signed = -away if injured else away
        band = next(ends for ends in pairwise(edges) if ends[0] < signed < ends[1])
        right.setdefault(band, []).append((weights[i] > 1 / 60) == injured)
    assert correct(found) == pytest.approx({band: np.mean(of_band) for band, of_band in right.items()})
    assert found["cells"].sum() == (stages >= 0).sum()


def test_cells_in_one_place_lie_on_the_side_they_are(slides: Slides) -> None:
    slides.add("s", np.zeros((3, 2)), [0, 0, 2])
    run = slides.attend({"s": np.zeros(3)}, s=np.array([0.5, 0.5, 0.0]))
    found = slides.borders({"one": [run]}, [-40, 0, 40])
    assert found["cells"].tolist() == [2, 1]
    assert (found["correct"] == 1).all()


@pytest.mark.parametrize("cells", [3, 7, 10, 1000, 10007])
def test_even_attention_tells_no_cell_injured(slides: Slides, cells: int) -> None:
    slides.add("s", line(cells), [0] + [2] * (cells - 1))
    # float32 of 1/n is above 1/n for some n
    run = slides.attend({"s": np.zeros(cells)}, s=np.float32(1) / np.float32(cells))
    found = slides.borders({"one": [run]}, [-np.inf, 0, np.inf])
    assert correct(found) == {(-np.inf, 0): 0.0, (0, np.inf): 1.0}


def test_slides_weigh_the_same_by_border_and_runs_are_averaged(slides: Slides) -> None:
    def told(*right: bool) -> np.ndarray:
        """Weights that tell the injured first cells and healthy last cells so."""
        injured = np.arange(len(right)) < len(right) // 2
        high = injured == np.array(right)
        return np.where(high, 2.0, 1.0) / np.where(high, 2.0, 1.0).sum()

    for slide, cells in {"a": 2, "b": 4, "c": 4, "plain": 4, "whole": 4}.items():
        stages = [0] * cells if slide == "whole" else [0] * (cells // 2) + [2] * (cells // 2)
        slides.add(slide, line(cells), stages)
    slides.add("bare", line(2))
    every = list(slides.numbers)
    right = {
        "a": told(True, True),
        "b": told(True, False, True, True),
        "c": told(False, True, True, True),
        "plain": told(True, False, True, True),
    }
    logits = {slide: np.zeros(slides.numbers[slide].size) for slide in every}
    one = slides.attend(logits, **right)
    two = slides.attend({"a": np.zeros(2)}, a=np.array([0.4, 0.6]))  # all wrong
    borders = {"a": "sharp", "b": "sharp", "c": "diffuse", "plain": "", "whole": "sharp"}
    found = slides.borders({"one": [one, two], "alone": [one]}, [-np.inf, 0, np.inf], borders)
    inside, outside = (-np.inf, 0), (0, np.inf)
    assert correct(found, "sharp") == {inside: (0.5 + 0.5) / 2, outside: (0.5 + 1) / 2}
    assert correct(found, "diffuse") == {inside: 0.5, outside: 1.0}
    assert correct(found, "all") == {inside: (0.5 + 0.5 + 0.5 + 0.5) / 4, outside: (0.5 + 3) / 4}
    assert correct(found, "sharp", "alone")[inside] == (1 + 0.5) / 2
    rows = found[found["experiment"] == "one"].groupby("border")
    assert rows["slides"].first().to_dict() == {"all": 4, "diffuse": 1, "sharp": 2}
    assert rows["cells"].sum().to_dict() == {
        "all": 14,
        "diffuse": 4,
        "sharp": 6,
    }  # runs are not counted twice
    interval = found[["correct_low", "correct", "correct_high"]].dropna().to_numpy()
    assert (np.diff(interval, axis=1) >= 0).all()
    assert found.loc[found["border"] == "diffuse", "correct_low"].isna().all()
    assert found.loc[found["border"] != "diffuse", "correct_low"].notna().all()


def test_slides_of_one_kind_of_cell_leave_an_empty_table(slides: Slides) -> None:
    slides.add("healthy", line(3), [2, 3, 2])
    slides.add("injured", line(3), [0, 1, 0])
    slides.add("unlabelled", line(3))
    run = slides.attend({slide: np.arange(3) for slide in slides.numbers})
    assert slides.borders({"one": [run]}, [-40, 0, 40]).empty


@pytest.mark.parametrize("edges", [[], [0], [0, 0], [40, 0], [0, np.nan]])
def test_edges_that_do_not_ascend_are_refused(slides: Slides, edges: list[float]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        slides.borders({}, edges)
