"""Numbers that figures and sentences show and no table of a study holds: means, shares, intervals."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from myostage.evaluation.intervals import find_mean, find_pseudo_values
from myostage.evaluation.measured import Measured
from myostage.evaluation.weighted import spearman
from myostage.learning.stages import expected_stage

Floats = NDArray[np.float64]

# Curves are smoothed over this share of their steps: 1 / SMOOTHING.
SMOOTHING = 40
# Eigenvalues of the graph Laplacian below this are low frequencies: neighbours mostly agree.
LOW_FREQUENCY = 0.5
LEAST_SLIDES = 3  # a rank correlation of fewer says nothing


def compose_animals(scores: pd.DataFrame, stages: Sequence[str], experiment: str) -> pd.DataFrame:
    """Predicted shares per animal: ``group``, ``animal``, ``cells``, one column per stage."""
    rows = scores[(scores["experiment"] == experiment) & (scores["cells"] > 0)]
    shares = np.array(rows["proportions"].tolist(), dtype=float).reshape(-1, len(stages))
    cells = rows["cells"].to_numpy(dtype=float)
    sums = rows[["group", "animal", "cells"]].assign(
        **dict(zip(stages, (shares * cells[:, None]).T, strict=True))
    )
    animals = sums.groupby(["group", "animal"], as_index=False, sort=True).sum()
    animals[list(stages)] = animals[list(stages)].div(animals["cells"], axis=0)
    return animals


def list_expected_stages(given: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Day and expected stage of every group: ``group``, ``day``, ``expected`` (0..K-1), in order of the day.

    The day is the first number in the group's name. Where a group has none, ``day`` is missing for all, and
    they stand in the order of the table.
    """
    days = [re.search(r"\d+(?:\.\d+)?", group) for group in given]
    known = all(day is not None for day in days)
    frame = pd.DataFrame(
        {
            "group": list(given),
            "day": [float(day.group()) if known and day else np.nan for day in days],
            "expected": [expected_stage(share) for share in given.values()],
        }
    )
    return frame.sort_values("day", kind="stable", ignore_index=True) if known else frame


def average_stages(
    scores: pd.DataFrame, given: Mapping[str, Sequence[float]], stages: Sequence[str], experiment: str
) -> pd.DataFrame:
    """Predicted mean stage of every animal beside its group's: ``group``, ``day``, ``expected``, ``animal``,
    ``predicted`` (0..K-1; missing for a group without a slide), ``cells``."""
    animals = compose_animals(scores, stages, experiment)
    animals["predicted"] = animals[list(stages)].to_numpy(dtype=float) @ np.arange(len(stages))
    return list_expected_stages(given).merge(
        animals[["group", "animal", "predicted", "cells"]], on="group", how="left"
    )


def find_rhos(correlations: pd.DataFrame) -> dict[str, Measured]:
    """Spearman's rho of every experiment with its interval."""
    fields = (correlations[name] for name in ("rho", "low", "high", "slides", "cells"))
    return {
        str(experiment): Measured(float(rho), float(low), float(high), int(slides), int(cells))
        for experiment, rho, low, high, slides, cells in zip(correlations["experiment"], *fields, strict=True)
    }


def tabulate_recovery(
    scores: pd.DataFrame, experiments: Sequence[str], groups: Sequence[str] | None = None
) -> pd.DataFrame:
    """Predicted and true recovery score of every slide with a group, by experiment and group.

    Parameters
    ----------
    scores : DataFrame
        The SCORES table.
    experiments : sequence of str
    groups : sequence of str, optional
        Their order; by default as they come. Slides that are staged only are left out.

    Returns
    -------
    DataFrame
        ``experiment``, ``group``, ``slide``, ``animal``, ``cells``, ``predicted``, ``true``, ``error``
        (predicted minus true; missing without labels).
    """
    order = [group for group in (groups or dict.fromkeys(scores["group"])) if group]
    rows = scores[scores["experiment"].isin(list(experiments)) & scores["group"].isin(order)]
    rows = rows.rename(columns={"recovery_score": "predicted", "true_recovery_score": "true"})
    rows = rows.assign(error=rows["predicted"] - rows["true"])
    rank = {name: place for place, name in enumerate([*experiments, *order])}
    rows = rows.sort_values(["experiment", "group"], key=lambda names: names.map(rank), kind="stable")
    return rows[
        ["experiment", "group", "slide", "animal", "cells", "predicted", "true", "error"]
    ].reset_index(drop=True)


def find_recovery_error(rows: pd.DataFrame) -> Measured:
    """Mean absolute error of the recovery score with its 95 % interval over animals."""
    known = rows[rows["error"].notna()]
    if known.empty:
        return Measured()
    # Scores lie between 0 and 1, and so do their errors.
    value, low, high = (float(np.clip(end, 0, 1)) for end in find_mean(known["error"].abs(), known["animal"]))
    return Measured(value, low, high, len(known), int(known["cells"].sum()))


@dataclass(frozen=True)
class Errors:
    """Held-out cells of one experiment, mean over seeds, and how far off they are staged."""

    cells: float
    wrong: float
    neighbouring: float  # wrong by one stage

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Errors":
        """Of a confusion matrix float[K, K], rows annotated, columns predicted."""
        total, right = float(matrix.sum()), float(np.trace(matrix))
        return cls(total, total - right, float(np.trace(matrix, 1) + np.trace(matrix, -1)))

    @property
    def of_errors(self) -> float:
        """Share of all errors that are one stage off; nan without an error."""
        return self.neighbouring / self.wrong if self.wrong else np.nan

    @property
    def of_cells(self) -> float:
        """Share of all cells that are one stage off; nan without a cell."""
        return self.neighbouring / self.cells if self.cells else np.nan


def tabulate_errors(matrices: Mapping[str, np.ndarray], stages: Sequence[str]) -> pd.DataFrame:
    """One row per experiment and pair of stages, with the experiment's shares of cells one stage off."""
    rows = []
    for experiment, matrix in matrices.items():
        errors = Errors.of(matrix)
        rows += [
            {
                "experiment": experiment,
                "annotated": stages[true],
                "predicted": stages[predicted],
                "cells": cells,
                "one_stage_off_of_errors": errors.of_errors,
                "one_stage_off_of_cells": errors.of_cells,
            }
            for (true, predicted), cells in np.ndenumerate(matrix)
        ]
    names = [
        "experiment",
        "annotated",
        "predicted",
        "cells",
        "one_stage_off_of_errors",
        "one_stage_off_of_cells",
    ]
    return pd.DataFrame(rows, columns=names)


def rank_percentiles(values: ArrayLike) -> Floats:
    """Rank of every value among those there are, (rank - 1/2) / n, ties alike; missing stays missing, [n]."""
    given = np.asarray(values, dtype=np.float64)
    known = np.isfinite(given)
    out = np.full(given.shape, np.nan)
    out[known] = (rankdata(given[known]) - 0.5) / max(1, known.sum())
    return out


def average_bands(table: pd.DataFrame) -> pd.DataFrame:
    """Mean share of power per experiment, signal and band of SPECTRUM, with its interval over animals.

    Columns ``experiment``, ``signal``, ``low``, ``high``, ``share``, ``share_low``, ``share_high``,
    ``slides``.
    """
    rows = []
    for (experiment, signal), part in table.groupby(["experiment", "signal"], sort=False):
        wide = part.pivot(index=["slide", "animal"], columns=["low", "high"], values="share")
        wide = wide.sort_index(axis=1)
        found = find_mean(wide.to_numpy(dtype=float), wide.index.get_level_values("animal"))
        numbers = dict(zip(("share", "share_low", "share_high"), found, strict=True))
        edges = wide.columns.to_frame(index=False)
        edges = edges.assign(experiment=str(experiment), signal=str(signal), slides=len(wide))
        rows.append(edges.assign(**numbers))
    names = ["experiment", "signal", "low", "high", "share", "share_low", "share_high", "slides"]
    return pd.concat(rows, ignore_index=True)[names] if rows else pd.DataFrame(columns=names)


def summarise_spectra(table: pd.DataFrame) -> pd.DataFrame:
    """Share of power below LOW_FREQUENCY, energy and localisation of every slide.

    Columns ``experiment``, ``signal``, ``slide``, ``animal``, ``low_share``, ``energy``, ``instance_auroc``.
    """
    low = table["share"].where(table["high"] <= LOW_FREQUENCY + 1e-9, 0.0).where(table["share"].notna())
    keys = ["experiment", "signal", "slide", "animal"]
    grouped = table.assign(low_share=low).groupby(keys, sort=False)
    out = grouped[["energy", "instance_auroc"]].first()
    out.insert(0, "low_share", grouped["low_share"].sum(min_count=1))
    return out.reset_index()


def correlate(x: ArrayLike, y: ArrayLike, animals: ArrayLike) -> Measured:
    """Spearman's rho over slides with its 95 % interval over animals; nan for too few."""
    both = np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)])
    known = np.isfinite(both).all(axis=0)
    both, count = both[:, known], int(known.sum())
    if count < LEAST_SLIDES:
        return Measured(slides=count)

    def rho(weights: Floats) -> Floats:
        return spearman(both[0], both[1], weights)[..., None, None]

    value = float(rho(np.ones(count))[0, 0])
    mean, *ends = find_mean(find_pseudo_values(rho, np.asarray(animals)[known])[0, :, 0])
    low, high = (float(np.clip(end - mean + value, -1, 1)) for end in ends)
    return Measured(value, low, high, count, 0)


def tabulate_reconstruction(histories: pd.DataFrame, pairs: Mapping[str, str]) -> pd.DataFrame:
    """Reconstruction loss at the end of training, with true and with permuted coordinates.

    Parameters
    ----------
    histories : DataFrame
        Rows of :func:`myostage.figures.views.histories`.
    pairs : mapping of experiment to its control with permuted coordinates

    Returns
    -------
    DataFrame
        ``experiment``, ``coordinates`` (true or permuted), ``label`` (whose runs), ``loss`` (mean over the
        last tenth of steps of every run), ``low``, ``high`` (t over runs), ``runs``; missing without
        a run.
    """
    if "spatial_reconstruction" not in histories:
        histories = histories.assign(spatial_reconstruction=np.nan)
    last = histories["step"] >= 0.9 * (histories.groupby(["experiment", "run"])["step"].transform("max") + 1)
    ends = histories[last].groupby(["experiment", "run"])["spatial_reconstruction"].mean().dropna()
    rows = []
    for experiment, control in pairs.items():
        for coordinates, label in (("true", experiment), ("permuted", control)):
            own = ends[ends.index.get_level_values("experiment") == label].to_numpy(dtype=float)
            found = find_mean(own) if len(own) else (np.nan,) * 3
            rows.append((experiment, coordinates, label, *(float(one) for one in found), len(own)))
    return pd.DataFrame(rows, columns=["experiment", "coordinates", "label", "loss", "low", "high", "runs"])


def smooth_conflicts(histories: pd.DataFrame) -> pd.DataFrame:
    """Cosine of the gradients of supcr and cell by step, mean over runs with its interval.

    Smoothed over 1 / SMOOTHING of the steps at which it was measured. Columns ``experiment``, ``step``,
    ``cosine``, ``low``, ``high``, ``runs``.
    """
    parts = []
    for experiment, part in histories[histories["conflict"].notna()].groupby("experiment", sort=False):
        wide = part.pivot(index="step", columns="run", values="conflict").sort_index()
        smooth = wide.rolling(max(1, len(wide) // SMOOTHING), min_periods=1, center=True).mean()
        cosine, low, high = np.clip(find_mean(smooth.to_numpy(dtype=float).T), -1, 1)
        numbers = {"cosine": cosine, "low": low, "high": high, "runs": wide.shape[1]}
        parts.append(pd.DataFrame({"experiment": experiment, "step": wide.index, **numbers}))
    names = ["experiment", "step", "cosine", "low", "high", "runs"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def summarise_conflicts(histories: pd.DataFrame) -> pd.DataFrame:
    """The cosine over all measured steps, mean over runs, and the share of steps at which it is below 0.

    Columns ``experiment``, ``cosine``, ``low``, ``high``, ``below`` (mean over runs), ``runs``, ``steps``.
    """
    rows = []
    known = histories[histories["conflict"].notna()]
    for experiment, part in known.groupby("experiment", sort=False):
        of_run = part.assign(below=part["conflict"] < 0).groupby("run")[["conflict", "below"]].mean()
        found = np.clip(find_mean(of_run["conflict"]), -1, 1).tolist()
        rows.append((experiment, *found, float(of_run["below"].mean()), len(of_run), part["step"].nunique()))
    return pd.DataFrame(rows, columns=["experiment", "cosine", "low", "high", "below", "runs", "steps"])


def average_algebra(table: pd.DataFrame) -> pd.DataFrame:
    """Cosines, ranks and number of candidates of every experiment and slide, mean over seeds."""
    keys, values = ["experiment", "slide"], ["own", "others", "rank", "rank_p", "candidates"]
    return table.groupby(keys, sort=False)[values].mean().reset_index()
