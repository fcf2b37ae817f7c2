"""How often intervals cover and tests err: simulated studies with known truth.

    python benchmarks/bench_coverage.py [--repeats 2000]

Writes benchmarks/results/coverage.csv, a row per setting, and coverage.md, a row per design. A slide's value
is that of its day, its animal, itself and the run that stages it; runs are one per fold and seed. Simulated
are the mean of a method, the paired difference of two equal methods, and quadratic kappa of both, from
confusions of unequal numbers of cells. :mod:`myostage.evaluation.intervals` judges them; on the same values
stand the plain t over folds, the percentile bootstrap over slides and the corrected resampled t-test.
"""

import argparse
import itertools
import logging
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.evaluation import intervals  # noqa: E402
from myostage.evaluation.metrics import cells  # noqa: E402
from myostage.learning.folds import assign_folds  # noqa: E402

Floats = NDArray[np.float64]

ANIMALS, SECTIONS, FOLDS, SEEDS = (5, 10, 20, 31), (1, 3), (3, 5), (1, 2, 3, 5)
SLIDE_SD, RUN_SD = (0.01, 0.02), (0.0, 0.01, 0.02)
ALPHA, POWER, FAMILY = 0.05, 0.8, 6
# Wanted of a 95 % interval and of a test at .05.
COVERAGE, FALSE_POSITIVES = (0.92, 0.98), (0.03, 0.07)
RESAMPLES = 200
# Share of the repeats that the bootstrap, and kappa, are tried on: they take longest.
BOOTSTRAPPED, OF_KAPPA = 4, 2
# Accuracy of a day, and the demo's proportions of stages
DAYS = np.linspace(-0.1, 0.1, 5)
STAGES = np.array(
    [
        [0, 0, 0, 0, 1],
        [0.59, 0.41, 0, 0, 0],
        [0.17, 0.28, 0.55, 0, 0],
        [0.12, 0.05, 0.77, 0.06, 0],
        [0.01, 0, 0.01, 0.97, 0],
    ]
)


@dataclass(frozen=True)
class Setting:
    """A design and its noise: standard deviation of slides and of runs, of values and differences alike."""

    animals: int
    sections: int
    folds: int
    seeds: int
    slide_sd: float
    run_sd: float


@dataclass(frozen=True)
class Layout:
    """The animal of each slide, and the day and fold of each animal."""

    animal: NDArray[np.int64]
    day: NDArray[np.int64]
    fold: NDArray[np.int64]

    @classmethod
    def of(cls, setting: Setting) -> "Layout":
        """Days in turn, folds as the workflow assigns them."""
        day = np.arange(setting.animals) % len(DAYS)
        slides = pd.DataFrame(
            {
                "slide": np.arange(setting.animals),
                "group": day.astype(str),
                "animal": [f"a{number:02}" for number in range(setting.animals)],
                "cells": 100,
            }
        )
        fold = assign_folds(slides, setting.folds).to_numpy()
        return cls(np.repeat(np.arange(setting.animals), setting.sections), day, fold)


def start_random(setting: Setting, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *(round(1000 * value) for value in asdict(setting).values())])


def draw_effects(setting: Setting, layout: Layout, repeats: int, rng: np.random.Generator) -> Floats:
    """Noise of slides and runs, [repeats, slides, seeds]. Sections of an animal correlate by 1/2."""
    animals, sections = setting.animals, setting.sections
    own = np.sqrt(0.5) if sections > 1 else 0.0
    animal = np.sqrt(1 - own**2) * rng.standard_normal((repeats, animals))[:, layout.animal]
    section = own * rng.standard_normal((repeats, layout.animal.size))
    run = rng.standard_normal((repeats, setting.folds, setting.seeds))[:, layout.fold[layout.animal]]
    return setting.slide_sd * (animal + section)[..., None] + setting.run_sd * run


def average_sections(values: Floats, setting: Setting) -> Floats:
    """Per animal, [repeats, animals, seeds]."""
    repeats, _, seeds = values.shape
    return values.reshape(repeats, setting.animals, setting.sections, seeds).mean(2)


def confuse(right: Floats, layout: Layout, number: Floats) -> Floats:
    """Expected cells by true and predicted stage, [repeats, slides, seeds, K * K].

    Of the wrong ones .8 are a neighbouring stage. ``right``: share of right cells, [repeats, slides, seeds].
    """
    stages = STAGES.shape[1]
    apart = np.abs(np.subtract.outer(np.arange(stages), np.arange(stages)))
    near, far = (apart == 1).astype(float), (apart > 1).astype(float)
    wrong = 0.8 * near / near.sum(1, keepdims=True) + 0.2 * far / far.sum(1, keepdims=True)
    share = right.clip(0, 1)[..., None, None]
    given = share * np.eye(stages) + (1 - share) * wrong
    true = STAGES[layout.day[layout.animal]] * number[..., None]  # [repeats, slides, K]
    return (true[:, :, None, :, None] * given).reshape(*right.shape, stages**2)


def find_kappa(weights: Floats, counts: Floats) -> Floats:
    """Of all slides, [..., seeds, repeats]; counts [slides, seeds, repeats, K * K]."""
    sums = np.tensordot(weights, counts, axes=1)
    matrix = sums.reshape(*sums.shape[:-1], STAGES.shape[1], STAGES.shape[1])
    return cells.kappa(cells.Counts(matrix, sums[..., 0]))


def bootstrap_slides(statistic: Callable[[Floats], Floats], slides: int) -> tuple[Floats, Floats]:
    """Percentile interval of the mean over seeds, [repeats] each, of a statistic [..., seeds, repeats]."""
    drawn = np.random.default_rng(0).multinomial(slides, np.full(slides, 1 / slides), size=RESAMPLES)
    low, high = np.quantile(statistic(drawn.astype(float)).mean(-2), (0.025, 0.975), axis=0)
    return low, high


def correct_resampled(by_fold: Floats) -> Floats:
    """p of the corrected resampled t-test, [repeats], of differences [repeats, folds, seeds]."""
    values = by_fold.reshape(len(by_fold), -1)
    error = values.std(1, ddof=1) * np.sqrt(1 / values.shape[1] + 1 / (by_fold.shape[1] - 1))
    return np.asarray(2 * student.sf(np.abs(values.mean(1)) / error, values.shape[1] - 1))


def find_share(low: Floats, high: Floats, true: float) -> float:
    return float(np.mean((low <= true) & (true <= high)))


def simulate_additive(setting: Setting, repeats: int, seed: int = 0) -> dict[str, float]:
    """Mean and paired difference of a metric that is the mean of slides."""
    layout = Layout.of(setting)
    rng = start_random(setting, seed)
    noise = draw_effects(setting, layout, repeats, rng)
    found: dict[str, float] = {}
    means = noise + DAYS[layout.day[layout.animal]][:, None]
    true = DAYS[layout.day].mean()
    animals = average_sections(means, setting)
    estimate = intervals.estimate_effect(animals, layout.fold, layout.day)
    found["mean"] = find_share(*estimate.find_interval(), true)
    by_folds = intervals.estimate_by_folds(animals, layout.fold, layout.day)
    found["mean_folds"] = find_share(*by_folds.find_interval(), true)

    def average(values: Floats, weights: Floats) -> Floats:
        return np.tensordot(weights, values.transpose(1, 2, 0), axes=1) / layout.animal.size

    slides = layout.animal.size
    found["mean_slides"] = find_share(
        *bootstrap_slides(partial(average, means[: repeats // BOOTSTRAPPED]), slides), true
    )
    found |= _judge(average_sections(noise, setting), layout, "difference")
    low, high = bootstrap_slides(partial(average, noise[: repeats // BOOTSTRAPPED]), slides)
    found["difference_slides"] = find_share(low, high, 0)
    of_folds = [noise[:, layout.fold[layout.animal] == fold].mean(1) for fold in range(setting.folds)]
    found["false_corrected"] = float((correct_resampled(np.stack(of_folds, 1)) < ALPHA).mean())
    return found


def simulate_kappa(setting: Setting, repeats: int, seed: int = 0) -> dict[str, float]:
    """The same of quadratic kappa, from two methods of equal skill on the same slides of 100 to 400 cells."""
    layout = Layout.of(setting)
    rng = start_random(setting, seed)
    number = np.exp(rng.uniform(np.log(100), np.log(400), (repeats, layout.animal.size)))
    hard = 0.03 * rng.standard_normal((repeats, setting.animals))[:, layout.animal, None]
    pseudo, values, counted = [], [], []
    for _ in range(2):
        noise = draw_effects(setting, layout, repeats, rng) / np.sqrt(2)  # that of the difference is whole
        right = 0.8 + DAYS[layout.day[layout.animal]][:, None] + hard + noise
        counts = confuse(right, layout, number).transpose(1, 2, 0, 3)
        statistic = partial(find_kappa, counts=counts)
        pseudo.append(intervals.find_pseudo_values(statistic, layout.animal))
        values.append(statistic(np.ones(layout.animal.size)).mean(0))
        counted.append(partial(find_kappa, counts=counts[:, :, : repeats // BOOTSTRAPPED]))
    found = {}
    estimate = intervals.estimate_effect(pseudo[0], layout.fold, layout.day)
    low, high = estimate.find_interval()
    shift = values[0] - estimate.value
    found["kappa_mean"] = find_share(low + shift, high + shift, float(values[0].mean()))
    found |= _judge(pseudo[0] - pseudo[1], layout, "kappa")
    interval = bootstrap_slides(lambda w: counted[0](w) - counted[1](w), layout.animal.size)
    found["kappa_slides"] = find_share(*interval, 0)
    return found


def _judge(differences: Floats, layout: Layout, name: str) -> dict[str, float]:
    """Coverage, false positives and power at the minimum detectable effect, of equal methods' differences.

    Power is that of a difference as large as the minimum detectable effect of the mean squared error.
    """
    estimate = intervals.estimate_effect(differences, layout.fold)
    by_folds = intervals.estimate_by_folds(differences, layout.fold)
    level = ALPHA / FAMILY
    detectable = float(np.sqrt((estimate.find_detectable(level, POWER) ** 2).mean()))
    shifted = intervals.estimate_effect(differences + detectable, layout.fold)
    low, high = estimate.find_interval()
    return {
        name: find_share(low, high, 0),
        f"{name}_false": float((estimate.p < ALPHA).mean()),
        f"{name}_power": float((shifted.p < level).mean()),
        f"{name}_width": float(np.median(high - low)),
        f"{name}_folds": find_share(*by_folds.find_interval(), 0),
    }


def list_settings() -> Iterator[Setting]:
    for values in itertools.product(ANIMALS, SECTIONS, FOLDS, SEEDS, SLIDE_SD, RUN_SD):
        yield Setting(*values)


def run(repeats: int) -> pd.DataFrame:
    rows = []
    for setting in list_settings():
        row = asdict(setting) | simulate_additive(setting, repeats)
        if setting.run_sd == setting.slide_sd:  # takes longer than the rest together
            row |= simulate_kappa(setting, repeats // OF_KAPPA)
        rows.append(row)
    return pd.DataFrame(rows)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Smallest to largest over the noises of a design, as text."""
    design = ["animals", "sections", "folds", "seeds"]

    def say(values: pd.Series) -> str:
        low, high = (f"{end:.2f}".removeprefix("0") for end in (values.min(), values.max()))
        return low if low == high else f"{low}–{high}"

    shown = {
        "mean": "mean",
        "difference": "difference",
        "kappa_mean": "kappa",
        "kappa": "difference of kappa",
        "difference_false": "false positives",
        "kappa_false": "of kappa",
        "difference_power": "power at MDE",
        "kappa_power": "of kappa ",
        "difference_folds": "t over folds",
        "mean_slides": "slides: mean",
        "difference_slides": "slides: difference",
        "false_corrected": "corrected t: false positives",
    }
    return rows.groupby(design)[list(shown)].agg(say).rename(columns=shown).reset_index()


def count_outside(rows: pd.DataFrame) -> str:
    """How many settings miss what is wanted, from 10 animals and 6 runs on."""
    chosen = rows[(rows["animals"] >= 10) & (rows["folds"] * rows["seeds"] >= 6)]
    parts = []
    for names, (low, high), words in (
        (["mean", "difference", "kappa_mean", "kappa"], COVERAGE, "coverages"),
        (["difference_false", "kappa_false"], FALSE_POSITIVES, "shares of false positives"),
    ):
        values = chosen[names].to_numpy().ravel()
        values = values[~np.isnan(values)]
        outside = int(((values < low) | (values > high)).sum())
        ends = f"{values.min():.3f} to {values.max():.3f}"
        parts.append(f"{outside} of {values.size} {words} lie outside {low} to {high} ({ends})")
    return f"From 10 animals and 6 runs on {' and '.join(parts)}."


def find_error(repeats: int) -> float:
    """Standard error of a share of .05 or .95."""
    return float(np.sqrt(0.05 * 0.95 / repeats))


def write(rows: pd.DataFrame, repeats: int, seconds: float, out: Path) -> None:
    rows.round(4).to_csv(out / "coverage.csv", index=False)
    table = summarise(rows).astype(str)
    lines = [" | ".join(table.columns), " | ".join(["---"] * table.shape[1])]
    lines += [" | ".join(line) for line in table.itertuples(index=False)]
    made = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}"
    text = f"""# Coverage of 95 % intervals, false positives at {ALPHA}, power at minimum detectable effects

{repeats:,} repeats a setting ({repeats // OF_KAPPA:,} of kappa), {made}, {seconds:.0f} s on one core
(`python benchmarks/bench_coverage.py`).

{count_outside(rows)}
The standard error of a share is {find_error(repeats):.3f}, of kappa {find_error(repeats // OF_KAPPA):.3f}.

Each cell: smallest to largest over slide sd {SLIDE_SD} and run sd {RUN_SD}; every setting is in
`coverage.csv`. Mean, difference and kappa: coverage by `myostage.evaluation.intervals`. Power: at level
{ALPHA} / {FAMILY}, wanted {POWER}. The last columns are the plain t over folds, the bootstrap over slides and
the corrected resampled t-test on the same values.

"""
    (out / "coverage.md").write_text(text + "\n".join(f"| {line} |" for line in lines) + "\n")
    print(table.to_string(index=False), count_outside(rows), sep="\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    given = parser.parse_args()
    logging.getLogger("myostage").setLevel(logging.ERROR)  # small designs lack days in folds
    start = datetime.now(UTC)
    rows = run(given.repeats)
    write(rows, given.repeats, (datetime.now(UTC) - start).total_seconds(), given.out)


if __name__ == "__main__":
    main()
