"""Evaluation of models of slide labels on a small study, against scikit-learn on its slides and cells."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from myostage import tables
from myostage.cells.tables import LABELS
from myostage.errors import UserError
from myostage.evaluation import comparisons, formatting, slide_results
from myostage.evaluation.experiments import Families
from myostage.evaluation.intervals import estimate_effect
from myostage.evaluation.metrics.registry import METRICS as DECLARED
from myostage.evaluation.slide_results import SlideRun, evaluate_slides
from myostage.evaluation.tables import COMPARISONS, METRICS, RUNS
from myostage.evaluation.weighted import auroc
from myostage.learning.tables import ATTENTION, HISTORY, OUTCOME, SLIDE_PREDICTIONS, SPLITS
from myostage.study.run import RunSpec
from myostage.study.sections.compare import Compare
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.mil import Mil
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.training import Training

Floats = NDArray[np.float64]

FOLDS, SEEDS, HEALTHY = 3, (0, 1), (0, 3)
SLIDES = [f"s{number:02}" for number in range(12)]
FOLD = {slide: place % FOLDS for place, slide in enumerate(SLIDES)} | {"bare": -1, "glass": 0}
UNLABELLED = "s11"  # its class is none of the label's
ONLY_HEALTHY = "s04"
# the last two slides have no annotated cell
ANNOTATED = SLIDES[:10]
CELLS = {slide: 20 + 3 * place for place, slide in enumerate(SLIDES)} | {"bare": 5, "glass": 0}
BINARY = SlideLabel(kind="binary", classes={"intact": ("d0",), "injured": ("d3", "d7")})
DAYS = SlideLabel(kind="ordinal", classes={"d0": ("d0",), "d3": ("d3",), "d7": ("d7",)})
TYPES = SlideLabel(kind="multiclass", classes={"a": ("d0",), "b": ("d3",), "c": ("d7",)})


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def spec(fold: int, seed: int, label: SlideLabel = BINARY, width: int = 8) -> RunSpec:
    return RunSpec(
        method="slide",
        losses={"slide": 1.0},
        training=Training(),
        encoder=Encoder(),
        mil=Mil(width=width),
        label=label,
        folds=FOLDS,
        fold=fold,
        seed=seed,
    )


@dataclass
class Told:
    """What the runs of an experiment say of the slides they hold out, by seed and slide."""

    label: SlideLabel
    runs: list[SlideRun]
    truth: dict[str, int]
    probabilities: dict[tuple[int, str], Floats] = field(default_factory=dict)
    logits: dict[tuple[int, str], Floats] = field(default_factory=dict)
    energy: dict[tuple[int, str], float] = field(default_factory=dict)

    @property
    def slides(self) -> list[str]:
        return [slide for slide in SLIDES if self.truth[slide] >= 0]

    def bags(self, seed: int) -> tuple[NDArray[np.int64], Floats]:
        """True class and probabilities of the slides with a label."""
        return (
            np.array([self.truth[slide] for slide in self.slides]),
            np.stack([self.probabilities[seed, slide] for slide in self.slides]),
        )


class Study:
    """Tables of a study in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(3)
        rows = [(slide, "d0", f"animal of {slide}", CELLS[slide], FOLD[slide]) for slide in FOLD]
        self.splits = folder / "splits.parquet"
        tables.write(self.splits, pd.DataFrame(rows, columns=SPLITS.schema.names), SPLITS)
        self.stage = {slide: rng.integers(0, 4, CELLS[slide]) for slide in SLIDES}
        self.stage[ONLY_HEALTHY] = np.resize(HEALTHY, CELLS[ONLY_HEALTHY])
        for slide in SLIDES:
            self.stage[slide][::5] = -1
        self.labels = {slide: folder / f"{slide}.labels.parquet" for slide in ANNOTATED}
        for slide, path in self.labels.items():
            cells = np.flatnonzero(self.stage[slide] >= 0)
            frame = pd.DataFrame({"cell": cells, "stage": self.stage[slide][cells], "iou": 1.0})
            tables.write(path, frame, LABELS)

    def experiment(
        self,
        label: SlideLabel = BINARY,
        width: int = 8,
        better: float = 0.0,
        truth: Callable[[int], int] | None = None,
        constant: bool = False,
    ) -> Told:
        """Runs over all folds and seeds, the probability of the true class raised by ``better``."""
        classes = len(label.classes)
        rng = np.random.default_rng(width)
        of_place = truth or (lambda place: place % classes)
        true = {slide: -1 if slide == UNLABELLED else of_place(place) for place, slide in enumerate(SLIDES)}
        told = Told(label, [], true)
        for fold in range(FOLDS):
            for seed in SEEDS:
                run = spec(fold, seed, label, width)
                rows, attention = [], []
                for slide in (slide for slide in [*SLIDES, "bare"] if FOLD[slide] in (fold, -1)):
                    # one decimal: ties among slides
                    raw = np.round(rng.dirichlet(np.ones(classes)), 1)
                    raw[-1] = 1 - raw[:-1].sum()
                    if true.get(slide, -1) >= 0:
                        raw = (1 - better) * raw + better * np.eye(classes)[true[slide]]
                    logits = np.round(rng.normal(size=CELLS[slide]), 1) * (not constant)
                    energy = rng.uniform()
                    told.probabilities[seed, slide], told.energy[seed, slide] = raw, energy
                    told.logits[seed, slide] = logits
                    label_of = true.get(slide, -1)
                    rows.append((slide, label_of, raw.argmax(), raw, CELLS[slide], energy))
                    cell = np.arange(CELLS[slide])
                    frame = {"slide": slide, "cell": cell, "logit": logits, "weight": softmax(logits)}
                    attention.append(pd.DataFrame(frame).astype({"logit": "f4", "weight": "f4"}))
                if fold == 0:
                    rows.append(("glass", 0, 0, np.eye(classes)[0], 0, 0.0))
                paths = [self.folder / f"{run.id}.{name}.parquet" for name in ("predictions", "attention")]
                frame = pd.DataFrame(rows, columns=SLIDE_PREDICTIONS.schema.names)
                tables.write(paths[0], frame, SLIDE_PREDICTIONS)
                # Rows of slides are mixed, as nothing says that they stand together.
                mixed = pd.concat(attention).sample(frac=1, random_state=0)
                tables.write(paths[1], mixed, ATTENTION)
                told.runs.append(SlideRun(run, *paths))
        return told

    def evaluate(
        self, experiments: dict[str, Told], failed: tuple[str, ...] = (), **changes: Any
    ) -> dict[str, pd.DataFrame]:
        """The tables; runs with their id in ``failed`` have no rows."""
        made = {"metrics": METRICS, "comparisons": COMPARISONS, "runs": RUNS}
        out = {name: self.folder / f"{name}.parquet" for name in made}
        outcomes = {}
        history = self.folder / "history.parquet"
        empty = pd.DataFrame(columns=HISTORY.schema.names).astype({"phase": "int32", "step": "int32"})
        tables.write(history, empty, HISTORY)
        for run in (run for told in experiments.values() for run in told.runs):
            status = "failed" if run.spec.id in failed else "ok"
            row: dict[str, Any] = {"run": run.spec.id, "status": status, "reason": "", "device": "cpu"}
            row |= {
                "steps": 7,
                "seconds": 1.0,
                "cpu_seconds": 1.0,
                "peak_memory_mb": 1.0,
                "joules": None,
                "temperature": None,
            }
            outcomes[run.spec.id] = self.folder / f"{run.spec.id}.outcome.parquet"
            tables.write(outcomes[run.spec.id], pd.DataFrame([row]), OUTCOME)
            if status == "failed":
                for path, table in ((run.predictions, SLIDE_PREDICTIONS), (run.attention, ATTENTION)):
                    tables.write(path, tables.read(path, table).iloc[:0], table)
        arguments: dict[str, Any] = {f"{name}_out": path for name, path in out.items()} | {
            "experiments": {name: told.runs for name, told in experiments.items()},
            "outcomes": outcomes,
            "histories": dict.fromkeys(outcomes, history),
            "splits": self.splits,
            "labels": self.labels,
            "healthy": HEALTHY,
            "kinds": {name: told.label.kind for name, told in experiments.items()},
            "classes": {name: len(told.label.classes) for name, told in experiments.items()},
            "compare": Compare(),
            "against": {},
            "families": Families(),
        }
        evaluate_slides(**(arguments | changes))
        return {name: tables.read(path, made[name]) for name, path in out.items()}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def value(frame: pd.DataFrame, metric: str, run: str = "", experiment: str = "a") -> pd.Series:
    rows = frame[(frame["run"] == run) & (frame["metric"] == metric) & (frame["experiment"] == experiment)]
    assert len(rows) == 1
    return rows.iloc[0]


def pairwise(positive: NDArray[np.bool_], scores: Floats) -> float:
    """How often a positive scores above a negative, over all pairs."""
    apart = np.sign(scores[positive][:, None] - scores[~positive])
    return float((apart + 1).mean() / 2) if apart.size else np.nan


def auroc_by_hand(
    truth: NDArray[np.int64], p: Floats, one: Callable[[NDArray[np.bool_], Floats], float] = pairwise
) -> float:
    """Of the second of two classes; of more, the mean over those with both sides."""
    if p.shape[1] == 2:
        return one(truth == 1, p[:, 1])
    sides = [k for k in range(p.shape[1]) if 0 < (truth == k).sum() < len(truth)]
    return float(np.mean([one(truth == k, p[:, k]) for k in sides])) if sides else np.nan


@pytest.mark.parametrize("label", [BINARY, DAYS, TYPES], ids=lambda label: str(label.kind))
def test_slide_metrics_are_those_of_scikit_learn(study: Study, label: SlideLabel) -> None:
    told = study.experiment(label)
    found = study.evaluate({"a": told})["metrics"]
    expected: dict[str, list[float]] = {}
    for seed in SEEDS:
        truth, p = told.bags(seed)
        predicted = p.argmax(1)
        average = {"average": "binary"} if label.kind == "binary" else {"average": "macro"}
        values = {
            "bag_auroc": auroc_by_hand(truth, p, reference.roc_auc_score),
            "bag_accuracy": reference.accuracy_score(truth, predicted),
            "bag_f1": reference.f1_score(truth, predicted, **average),
            "bag_kappa": reference.cohen_kappa_score(truth, predicted, weights="quadratic"),
            "bag_mae": reference.mean_absolute_error(truth, predicted),
        }
        for name, of_seed in values.items():
            expected.setdefault(name, []).append(of_seed)
    if label.kind != "ordinal":
        expected.pop("bag_mae")
    assert {name for name in found["metric"] if name.startswith("bag_")} == expected.keys()
    cells = sum(CELLS[slide] for slide in told.slides)
    for name, of_seeds in expected.items():
        row = value(found, name)
        assert row["value"] == pytest.approx(np.mean(of_seeds), rel=1e-9)
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["fold"], row["seed"], row["slides"], row["cells"]) == (-1, -1, 11, cells)


def test_runs_have_rows_of_their_own_fold(study: Study) -> None:
    told = study.experiment(DAYS)
    found = study.evaluate({"a": told})["metrics"]
    run = spec(1, 1, DAYS)
    chosen = [place for place, slide in enumerate(told.slides) if FOLD[slide] == 1]
    truth, p = (values[chosen] for values in told.bags(1))
    row = value(found, "bag_mae", run.id)
    assert row["value"] == pytest.approx(np.abs(truth - p.argmax(1)).mean())
    assert (row["fold"], row["seed"], row["slides"]) == (1, 1, len(chosen))
    assert value(found, "bag_auroc", run.id)["value"] == pytest.approx(auroc_by_hand(truth, p), nan_ok=True)


def pseudo_aurocs(told: Told) -> Floats:
    """n times the AUROC of a seed, less n - 1 times that without a slide, [slides, seeds]."""
    count = len(told.slides)
    by_slide = [
        [
            count * auroc_by_hand(*told.bags(seed))
            - (count - 1) * auroc_by_hand(*(np.delete(values, place, axis=0) for values in told.bags(seed)))
            for seed in SEEDS
        ]
        for place in range(count)
    ]
    return np.array(by_slide)


@pytest.mark.parametrize("label", [BINARY, DAYS], ids=lambda label: str(label.kind))
def test_the_interval_of_auroc_is_that_of_the_slides_left(study: Study, label: SlideLabel) -> None:
    """Every slide is of an animal of its own."""
    told = study.experiment(label)
    row = value(study.evaluate({"a": told})["metrics"], "bag_auroc")
    estimate = estimate_effect(pseudo_aurocs(told), [FOLD[slide] for slide in told.slides])
    ends = np.array(estimate.find_interval()) - estimate.value + row["value"]
    assert row[["low", "high"]].tolist() == pytest.approx(np.clip(ends, 0, 1).tolist(), nan_ok=True)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), distinct=st.integers(1, 40))
def test_weighted_auroc_is_that_of_the_values_written_out(seed: int, n: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, distinct, n) / 7, rng.random(n) < 0.4
    times = np.concatenate([np.ones((1, n), int), rng.multinomial(n, np.full(n, 1 / n), size=3)])
    for row, found in zip(times, auroc(scores, positive, times), strict=True):
        kind = np.repeat(positive, row)
        known = kind.any() and not kind.all()
        expected = reference.roc_auc_score(kind, np.repeat(scores, row)) if known else np.nan
        assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)


def cells_of(study: Study, told: Told, seed: int, slide: str) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Whether annotated cells are injured, their logits and their attention."""
    known = study.stage[slide] >= 0
    logits = told.logits[seed, slide]
    return ~np.isin(study.stage[slide][known], HEALTHY), logits[known], softmax(logits)[known]


def test_cell_metrics_are_those_of_scikit_learn_on_annotated_cells(study: Study) -> None:
    told = study.experiment()
    found = study.evaluate({"a": told})["metrics"]
    areas, f1 = [], []
    both = [slide for slide in ANNOTATED if slide != ONLY_HEALTHY]
    for seed in SEEDS:
        per_slide = {slide: cells_of(study, told, seed, slide) for slide in ANNOTATED}
        areas.append(np.mean([reference.roc_auc_score(*per_slide[slide][:2]) for slide in both]))
        # a slide of healthy cells only counts here
        injured = np.concatenate([per_slide[slide][0] for slide in ANNOTATED])
        above = np.concatenate([per_slide[slide][2] > 1 / CELLS[slide] for slide in ANNOTATED])
        f1.append(reference.f1_score(injured, above))
    row = value(found, "instance_auroc")
    known = {slide: int((study.stage[slide] >= 0).sum()) for slide in ANNOTATED}
    assert row["value"] == pytest.approx(np.mean(areas))
    assert (row["slides"], row["cells"]) == (9, sum(known[slide] for slide in both))
    row = value(found, "instance_f1")
    assert row["value"] == pytest.approx(np.mean(f1))
    assert (row["slides"], row["cells"]) == (10, sum(known.values()))
    row = value(found, "energy")
    energies = [told.energy[seed, slide] for seed in SEEDS for slide in SLIDES]
    # all slides with cells, also without a label; not the one that is staged only
    assert row["value"] == pytest.approx(np.mean(energies)) and row["slides"] == 12


def test_constant_attention_finds_nothing(study: Study) -> None:
    """In float32 1/n is more than 1/n for some n."""
    found = study.evaluate({"a": study.experiment(constant=True)})["metrics"]
    assert value(found, "instance_auroc")["value"] == 0.5
    assert value(found, "instance_f1")["value"] == 0


def test_one_class_only_has_no_auroc(study: Study) -> None:
    for label in (BINARY, DAYS):
        found = study.evaluate({"a": study.experiment(label, truth=lambda place: 0)})["metrics"]
        row = value(found, "bag_auroc")
        assert row[["value", "low", "high"]].isna().all() and row["slides"] == 11
        assert 0 < value(found, "bag_accuracy")["value"] < 1


def test_one_class_told_and_true_has_no_kappa(study: Study) -> None:
    found = study.evaluate({"a": study.experiment(better=1.0, truth=lambda place: 0)})["metrics"]
    assert value(found, "bag_accuracy")["value"] == 1
    # nothing of the second class, and nothing told so
    assert np.isnan(value(found, "bag_f1")["value"]) and np.isnan(value(found, "bag_kappa")["value"])


def test_without_any_label_slides_are_not_measured_and_cells_are(study: Study) -> None:
    found = study.evaluate({"a": study.experiment(truth=lambda place: -1)})["metrics"]
    assert set(found["metric"]) == {"instance_auroc", "instance_f1", "energy"}


def test_without_annotated_cells_attention_is_not_measured(study: Study) -> None:
    told = study.experiment()
    plain = {"bag_auroc", "bag_accuracy", "bag_f1", "bag_kappa", "energy"}
    assert set(study.evaluate({"a": told}, labels={})["metrics"]["metric"]) == plain
    for path in study.labels.values():
        tables.write(path, tables.read(path, LABELS).iloc[:0], LABELS)
    assert set(study.evaluate({"a": told})["metrics"]["metric"]) == plain
    for path in study.labels.values():
        tables.write(path, pd.DataFrame({"cell": [0, 1], "stage": [0, 3], "iou": 1.0}), LABELS)
    found = study.evaluate({"a": told})["metrics"]
    assert set(found["metric"]) == plain | {"instance_f1"}  # healthy cells only: no slide has both kinds


def test_energy_that_no_graph_gives_is_missing(study: Study) -> None:
    told = study.experiment()
    for run in told.runs:
        frame = tables.read(run.predictions, SLIDE_PREDICTIONS).assign(energy=np.nan)
        tables.write(run.predictions, frame, SLIDE_PREDICTIONS)
    found = study.evaluate({"a": told})["metrics"]
    assert "energy" not in set(found["metric"]) and found["value"].notna().any()


def test_a_failed_run_is_missing_and_its_seed_left_out(study: Study) -> None:
    told = study.experiment()
    failed = spec(1, 0).id
    found = study.evaluate({"a": told}, failed=(failed,))
    names = ("bag_auroc", "bag_accuracy", "bag_f1", "bag_kappa", "instance_auroc", "instance_f1", "energy")
    for name in names:
        row = value(found["metrics"], name, failed)
        assert row[["value", "low", "high"]].isna().all() and (row["slides"], row["cells"]) == (0, 0)
    assert value(found["metrics"], "bag_auroc")["value"] == pytest.approx(auroc_by_hand(*told.bags(1)))
    assert found["runs"].loc[found["runs"]["run"] == failed, "status"].tolist() == ["failed"]


def test_an_experiment_that_failed_altogether_is_there_and_missing(study: Study) -> None:
    gone, other = study.experiment(), study.experiment(width=16)
    found = study.evaluate({"a": gone, "b": other}, failed=tuple(run.spec.id for run in gone.runs))
    assert found["metrics"].query("experiment == 'a'")["value"].isna().all()
    assert found["metrics"].query("experiment == 'b' and run == ''")["value"].notna().all()
    assert found["comparisons"]["difference"].isna().all() and set(found["comparisons"]["pairs"]) == {0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[frame["cell"] != 3], "4 rows for 4 cells of slide bare, which has 5 cells"),
        (lambda frame: frame.assign(cell=frame["cell"].clip(1)), "5 rows for 4 cells of slide bare"),
        (
            lambda frame: frame.assign(slide=frame["slide"].replace("s00", "x")),
            "0 rows for 0 cells of slide s00",
        ),
        (lambda frame: frame.assign(weight=frame["weight"] * 2), "slide s00 is no distribution"),
        (lambda frame: frame.assign(logit=np.nan), "slide s00 is no distribution"),
    ],
)
def test_attention_that_is_not_that_of_the_cells_is_refused(
    study: Study, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    told = study.experiment()
    path = told.runs[0].attention
    tables.write(path, change(tables.read(path, ATTENTION)), ATTENTION)
    with pytest.raises(UserError, match=message) as error:
        study.evaluate({"a": told})
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.iloc[1:], "slide s00 of fold 0 is not predicted"),
        (
            lambda frame: frame.assign(slide=frame["slide"].replace("s00", "s01")),
            "s01 is not held out in fold 0",
        ),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), "a slide is predicted twice"),
        (lambda frame: frame.assign(label=2), "slide s00 has label 2, .* not those of 2 classes"),
        (lambda frame: frame.assign(predicted=-1), "slide s00 has .* class -1"),
        (lambda frame: frame.assign(probabilities=[[0.2, 0.2]] * len(frame)), "not those of 2 classes"),
        (lambda frame: frame.assign(probabilities=[[0.2, 0.2, 0.6]] * len(frame)), "not those of 2 classes"),
        (lambda frame: frame.assign(probabilities=[[np.nan, 1.0]] * len(frame)), "not those of 2 classes"),
    ],
)
def test_predictions_that_are_not_those_of_their_fold_are_refused(
    study: Study, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    told = study.experiment()
    path = told.runs[0].predictions
    frame = tables.read(path, SLIDE_PREDICTIONS)
    tables.write(path, change(frame), SLIDE_PREDICTIONS)
    with pytest.raises(UserError, match=message) as error:
        study.evaluate({"a": told})
    assert str(path) in str(error.value)


def compared(frame: pd.DataFrame, experiment: str, metric: str, family: str = "reference") -> pd.Series:
    rows = frame[
        (frame["family"] == family) & (frame["experiment"] == experiment) & (frame["metric"] == metric)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def test_comparisons_are_paired_by_slide_fold_and_seed(study: Study) -> None:
    told = {"a": study.experiment(), "b": study.experiment(width=16, better=0.45)}
    found = study.evaluate(told, compare=Compare(alpha=0.1))
    row = compared(found["comparisons"], "b", "bag_auroc")
    values = found["metrics"].query("run == ''").set_index(["experiment", "metric"])["value"]
    assert row["difference"] == pytest.approx(values["b", "bag_auroc"] - values["a", "bag_auroc"])
    paired = pseudo_aurocs(told["b"]) - pseudo_aurocs(told["a"])
    estimate = estimate_effect(paired, [FOLD[slide] for slide in told["a"].slides])
    estimate = replace(estimate, value=np.array(row["difference"]))
    expected = [*estimate.find_interval(), float(estimate.p), float(estimate.find_detectable(0.1, 0.8))]
    assert row[["low", "high", "p", "minimum_detectable"]].tolist() == pytest.approx(expected)
    assert (row["pairs"], row["animals"], row["slides"], row["tests"]) == (6, 11, 11, 1)
    row = compared(found["comparisons"], "b", "energy")
    assert (row["pairs"], row["slides"], row["trusted"]) == (6, 12, True)


def test_experiments_of_different_labels_are_compared_in_cells_alone(study: Study) -> None:
    told = {
        "injured": study.experiment(),
        "day": study.experiment(DAYS),
        "better day": study.experiment(DAYS, width=16, better=0.4),
    }
    found = study.evaluate(told)["comparisons"]
    assert set(found["experiment"]) == {"day", "better day"}
    assert set(found["metric"]) == {"instance_auroc", "instance_f1", "energy"}
    found = study.evaluate(told, reference_of={"better day": "day"}, against={"better day": "injured"})
    table = found["comparisons"]
    assert compared(table, "better day", "bag_mae")["reference"] == "day"
    assert compared(table, "better day", "bag_mae")["difference"] < 0
    row = compared(table, "better day", "energy", "against")
    assert row["reference"] == "injured" and "bag_mae" not in set(
        table.query("family == 'against'")["metric"]
    )


def test_holm_corrects_within_a_part(study: Study) -> None:
    told = {name: study.experiment(width=8 * place) for place, name in enumerate("abcd", 1)}
    parts = {"c": "placement", "d": "placement"}
    table = study.evaluate(told, families=Families(parts=parts))["comparisons"].query("metric == 'energy'")
    p, corrected = (table.set_index("experiment")[name] for name in ("p", "p_holm"))
    assert corrected["b"] == p["b"]
    assert corrected[["c", "d"]].tolist() == pytest.approx(comparisons.holm(p[["c", "d"]]).tolist())


def test_a_run_of_two_experiments_is_read_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    tally = slide_results.tally_slides

    def counting(run: SlideRun, *rest: Any) -> Any:
        read.append(run.attention)
        return tally(run, *rest)

    monkeypatch.setattr(slide_results, "tally_slides", counting)
    told = study.experiment()
    found = study.evaluate({"a": told, "b": told})
    assert len(read) == len(told.runs) == 6
    assert not found["comparisons"]["difference"].any() and set(found["comparisons"]["p"]) == {1}


def test_a_table_shows_the_metrics_it_is_asked_for(study: Study) -> None:
    told = {"a": study.experiment(), "b": study.experiment(DAYS)}
    found = study.evaluate(told, labels={})
    frame, chosen = found["metrics"], ["energy", "bag_mae", "instance_auroc", "bag_auroc"]
    rows = formatting.tabulate_experiments(frame, runs=found["runs"], metric="bag_auroc", columns=chosen)
    texts = [DECLARED[name].label for name in ("energy", "bag_mae", "bag_auroc")]
    assert list(rows.columns) == [*texts, "slides", "cells", "runs"]
    assert rows.loc["a", "slide MAE (classes)"] == "–" and rows.loc["b", "slide MAE (classes)"] != "–"
    assert rows["slides"].tolist() == [12, 12]
    only = formatting.tabulate_experiments(frame, columns=["bag_auroc"])
    assert only["slides"].tolist() == [11, 11]  # what the metrics shown were measured on
    assert set(DECLARED) >= set(frame["metric"])
    with pytest.raises(ValueError, match="bag_acc: no metric"):
        formatting.tabulate_experiments(frame, columns=["bag_acc"])
