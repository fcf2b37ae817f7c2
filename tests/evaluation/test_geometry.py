"""Cosines of stages against a double loop over cells; purity, draws and maps against known answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from myostage import tables
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.evaluation import geometry
from myostage.evaluation.tables import CORRELATIONS, SIMILARITIES
from myostage.learning.stages import similarity
from myostage.learning.tables import SPLITS, predictions_table
from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.training import Training

K = 4
WIDTH = 6
FOLD_OF = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "staged": -1}
# Stage 3 lies in fold 0 only, stage 0 in fold 1 only.
STAGES_OF = {"a": (1, 2), "b": (2, 3), "c": (1, 3), "d": (0, 1), "e": (0, 2), "staged": (0, 3)}
CELLS = 9


def spec_of(fold: int, seed: int = 0) -> RunSpec:
    return RunSpec(
        method="proportions",
        losses={"prop": 1.0},
        training=Training(),
        encoder=Encoder(),
        folds=2,
        fold=fold,
        seed=seed,
    )


class Bench:
    """Splits, labels and the predictions of two folds and two seeds."""

    def __init__(self, folder: Path, order: float = 1.0) -> None:
        self.folder = folder
        rng = np.random.default_rng(7)
        self.splits = folder / "splits.parquet"
        frame = pd.DataFrame({"slide": list(FOLD_OF), "fold": list(FOLD_OF.values())})
        frame["group"], frame["cells"] = np.where(frame["fold"] < 0, "", "d3"), CELLS
        frame["animal"] = frame["slide"].replace({"b": "a"})
        tables.write(self.splits, frame, SPLITS)
        self.labels: dict[str, Path] = {}
        self.truth: dict[str, pd.Series] = {}
        for slide, stages in STAGES_OF.items():
            # Cell numbers have gaps, and one cell of each slide carries no label.
            cell = np.arange(CELLS) * 2
            known = pd.Series(rng.choice(stages, CELLS), index=cell).iloc[:-1]
            known.iloc[:2] = stages
            self.truth[slide], self.labels[slide] = known, folder / f"{slide}.parquet"
            table = pd.DataFrame({"cell": known.index, "stage": known.to_numpy(), "iou": 0.9})
            tables.write(self.labels[slide], table, LABELS)
        self.vectors: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self.runs = []
        for fold in (0, 1):
            for seed in (0, 1):
                own = {
                    slide: self._embed(slide, order, rng) for slide, f in FOLD_OF.items() if f in (fold, -1)
                }
                self.vectors[fold, seed] = own
                self.runs.append((spec_of(fold, seed), self.write(f"{fold}{seed}", own)))

    def _embed(self, slide: str, order: float, rng: np.random.Generator) -> np.ndarray:
        """Stages along an arc, as far as ``order`` says; float16 unit vectors."""
        stage = self.truth[slide].reindex(np.arange(CELLS) * 2, fill_value=0).to_numpy()
        vectors = rng.normal(scale=0.3, size=(CELLS, WIDTH))
        vectors[:, 0] += np.cos(order * stage * 0.6)
        vectors[:, 1] += np.sin(order * stage * 0.6)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    def write(self, name: str, vectors: dict[str, np.ndarray]) -> Path:
        path = self.folder / f"predictions{name}.parquet"
        parts = [
            pd.DataFrame(
                {
                    "slide": slide,
                    "cell": np.arange(CELLS) * 2,
                    "stage": 0,
                    "probabilities": [np.full(K, 1 / K, np.float32)] * CELLS,
                    "embedding": list(own),
                }
            )
            for slide, own in vectors.items()
        ]
        columns = predictions_table(K).schema.names
        tables.write(path, pd.concat(parts) if parts else pd.DataFrame(columns=columns), predictions_table(K))
        return path

    def measure(
        self, experiments: dict[str, Sequence[tuple[RunSpec, Path]]]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        out = self.folder / "similarities.parquet", self.folder / "correlations.parquet"
        geometry.similarities(experiments, self.labels, self.splits, K, *out)
        return tables.read(out[0], SIMILARITIES), tables.read(out[1], CORRELATIONS)

    def by_hand(self, fold: int, seed: int, slides: Sequence[str] | None = None) -> np.ndarray:
        """Mean cosine of stages, cell by cell; a slide named twice is there twice."""
        cells = []
        for slide in slides or [slide for slide, f in FOLD_OF.items() if f == fold]:
            for row, vector in enumerate(self.vectors[fold, seed][slide].astype(np.float64)):
                if 2 * row in self.truth[slide].index:
                    cells.append((slide, row, self.truth[slide][2 * row], vector / np.linalg.norm(vector)))
        total, count = np.zeros((K, K)), np.zeros((K, K))
        for slide, row, stage, vector in cells:
            for slide_b, row_b, stage_b, vector_b in cells:
                if (slide, row) != (slide_b, row_b):
                    total[stage, stage_b] += vector @ vector_b
                    count[stage, stage_b] += 1
        return np.divide(total, count, out=np.full((K, K), np.nan), where=count > 0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("geometry"))


def _matrix(table: pd.DataFrame, experiment: str) -> np.ndarray:
    rows = table[table["experiment"] == experiment]
    return rows.pivot(index="stage_a", columns="stage_b", values="cosine").to_numpy()


def test_cosines_are_those_of_a_double_loop(bench: Bench) -> None:
    found, correlations = bench.measure({"combined": bench.runs, "one": bench.runs[:1]})
    by_run = np.stack([bench.by_hand(spec.fold, spec.seed) for spec, _ in bench.runs])
    # Stages 0 and 3 are never held out together.
    wanted = np.nanmean(np.ma.masked_invalid(by_run), axis=0).filled(np.nan)
    assert np.isnan(wanted[0, 3]) and np.isfinite(wanted).sum() == K * K - 2
    np.testing.assert_allclose(_matrix(found, "combined"), wanted, atol=1e-12)
    np.testing.assert_allclose(_matrix(found, "one"), by_run[0], atol=1e-12)
    upper = np.triu_indices(K)
    known = np.isfinite(wanted[upper])
    rho = stats.spearmanr(wanted[upper][known], similarity(K)[upper][known]).statistic
    row = correlations.set_index("experiment").loc["combined"]
    assert row["rho"] == pytest.approx(rho, abs=1e-12)
    assert (row["slides"], row["cells"]) == (5, 5 * (CELLS - 1))
    assert 0.3 < row["low"] <= row["rho"] <= row["high"] <= 1
    np.testing.assert_allclose(found["expected"].to_numpy().reshape(2, K, K), [similarity(K)] * 2)


def test_a_slide_drawn_twice_brings_no_cell_beside_itself(bench: Bench) -> None:
    spec, path = bench.runs[0]
    truth = {slide: bench.truth[slide] for slide in "abc"}
    products = geometry._products(path, truth, K)
    weights = np.array([[2.0, 1, 0], [1, 1, 1], [0, 3, 0], [0, 0, 0]])
    found = products.mean(weights)
    drawn = (["a", "a", "b"], ["a", "b", "c"], ["b"] * 3)
    for matrix, slides in zip(found, drawn, strict=False):
        np.testing.assert_allclose(matrix, bench.by_hand(spec.fold, spec.seed, slides), atol=1e-12)
    assert np.isnan(found[3]).all()


def test_an_embedding_without_order_has_an_interval_about_zero(tmp_path: Path) -> None:
    shuffled = Bench(tmp_path, order=0.0)
    row = shuffled.measure({"x": shuffled.runs})[1].iloc[0]
    assert row["low"] < 0 < row["high"]


def test_what_has_no_embedding_is_left_out(bench: Bench) -> None:
    empty = {slide: np.empty((CELLS, 0), np.float16) for slide in "abc"}
    baseline = [(spec_of(0), bench.write("baseline", empty))]
    failed = [(spec_of(0), bench.write("failed", {}))]
    found, correlations = bench.measure(
        {"majority": baseline, "failed": failed, "half": [*failed, bench.runs[0]], "ok": bench.runs[:1]}
    )
    assert correlations["experiment"].tolist() == ["half", "ok"]
    np.testing.assert_array_equal(_matrix(found, "half"), _matrix(found, "ok"))
    assert bench.measure({"majority": baseline})[0].empty


def test_one_slide_has_no_interval(bench: Bench) -> None:
    own = {"a": bench.vectors[0, 0]["a"]}
    found, correlations = bench.measure({"x": [(spec_of(0), bench.write("single", own))]})
    assert np.isnan(correlations.loc[0, ["low", "high"]].to_numpy(dtype=float)).all()
    assert np.isfinite(_matrix(found, "x")).sum() == 4


def test_what_is_no_direction_or_no_stage_is_refused(bench: Bench, tmp_path: Path) -> None:
    vectors = {slide: own.copy() for slide, own in bench.vectors[0, 0].items()}
    vectors["a"][0] = np.nan
    with pytest.raises(UserError, match="no direction"):
        bench.measure({"x": [(spec_of(0), bench.write("nan", vectors))]})
    tables.write(tmp_path / "l.parquet", pd.DataFrame({"cell": [0], "stage": [K], "iou": 1.0}), LABELS)
    with pytest.raises(UserError, match=f"in a study of {K} stages"):
        geometry.held_out_cells(bench.runs[0][1], {"a": tmp_path / "l.parquet"}, bench.splits, K, 10)


def test_spearman_of_ties_gaps_and_constants() -> None:
    a, b = np.array([1.0, 2, 2, 5, np.nan]), np.array([3.0, 1, 4, 4, 9])
    assert geometry.spearman(a, b) == pytest.approx(stats.spearmanr(a[:4], b[:4]).statistic)
    assert np.isnan(geometry.spearman([1, 1, 1], [1, 2, 3]))
    assert np.isnan(geometry.spearman([1, np.nan, 2], [1, 2, 3]))


def test_cells_of_a_map_are_held_out_labelled_and_drawn_evenly(bench: Bench) -> None:
    spec, path = bench.runs[0]
    cells, embedding = geometry.held_out_cells(path, bench.labels, bench.splits, K, most=10**6)
    assert set(cells["slide"]) == {"a", "b", "c"} and len(cells) == 3 * (CELLS - 1)
    assert set(cells.loc[cells["slide"] == "b", "animal"]) == {"a"}
    for row, vector in zip(cells.itertuples(), embedding, strict=True):
        assert row.stage == bench.truth[row.slide][row.cell]
        own = bench.vectors[spec.fold, spec.seed][row.slide][row.cell // 2].astype(float)
        np.testing.assert_allclose(vector, own / np.linalg.norm(own), atol=1e-12)
    some, vectors = geometry.held_out_cells(path, bench.labels, bench.splits, K, most=9)
    assert some["stage"].value_counts().to_dict() == {1: 3, 2: 3, 3: 3} and vectors.shape == (9, WIDTH)
    none, nothing = geometry.held_out_cells(path, {}, bench.splits, K, most=9)
    assert none.empty and len(nothing) == 0


def test_a_rare_stage_leaves_its_share_to_the_others() -> None:
    stage = np.array([0] * 50 + [1] * 50 + [2] * 2)
    drawn = stage[geometry._evenly(stage, 12, 0)]
    assert np.bincount(drawn).tolist() == [5, 5, 2]


def test_purity_of_two_clusters() -> None:
    rng = np.random.default_rng(0)
    stage, animal = np.repeat([0, 1], 40), np.tile([0, 1], 40)
    centre = np.eye(2)[stage]
    embedding = centre + rng.normal(scale=0.05, size=centre.shape)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    near = geometry.neighbours(embedding, 5)
    cosine = embedding @ embedding.T - 2 * np.eye(80)
    assert near.shape == (80, 5)
    np.testing.assert_array_equal(np.sort(near), np.sort(np.argsort(-cosine, axis=1)[:, :5]))
    by_stage = geometry.purity(near, stage)
    # One of 79 others is of the same stage in 39 cases.
    assert by_stage.found == 1 and by_stage.chance == pytest.approx(39 / 79) and by_stage.excess == 1
    by_animal = geometry.purity(near, animal)
    assert by_animal.found == pytest.approx((animal[near] == animal[:, None]).mean())
    # Every neighbour is of the same stage, of which 19 of 39 others are of the same animal.
    within = geometry.purity(near, animal, stage)
    assert (within.found, within.chance) == (pytest.approx(by_animal.found), pytest.approx(19 / 39))


def test_purity_within_a_stage_does_not_take_stage_for_animal() -> None:
    # Animals differ in their stages only: among neighbours of one stage, they mix as chance has it.
    rng = np.random.default_rng(1)
    animal = np.repeat([0, 1], 300)
    stage = np.where(rng.random(600) < 0.8, animal, 1 - animal)
    embedding = np.eye(2)[stage] + rng.normal(scale=0.1, size=(600, 2))
    near = geometry.neighbours(embedding)
    assert geometry.purity(near, animal).excess > 0.2
    assert abs(geometry.purity(near, animal, stage).excess) < 0.05
    assert np.isnan(geometry.purity(near, stage, np.arange(600)).found)


def test_a_map_keeps_clusters_apart_and_stays_the_same() -> None:
    rng = np.random.default_rng(2)
    kind = np.repeat([0, 1, 2], 30)
    embedding = np.eye(8)[kind] + rng.normal(scale=0.05, size=(90, 8))
    placed = geometry.plane(embedding)
    assert placed.shape == (90, 2)
    assert geometry.purity(geometry.neighbours(placed, 5), kind).found > 0.99
    np.testing.assert_array_equal(placed, geometry.plane(embedding))
    assert geometry.plane(embedding[:3]).shape == (3, 2)
