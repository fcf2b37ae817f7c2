"""Confusion matrices: how many cells are staged wrongly, and how many of them by one stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Errors:
    """Held-out cells of one experiment, mean over seeds, and how far off they are staged."""

    cells: float
    wrong: float
    one_off: float  # wrong by one stage

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Errors":
        """Of a confusion matrix float[K, K], rows annotated, columns predicted."""
        total, right = float(matrix.sum()), float(np.trace(matrix))
        return cls(total, total - right, float(np.trace(matrix, 1) + np.trace(matrix, -1)))

    @property
    def of_errors(self) -> float:
        """Share of all errors that are one stage off; nan without an error."""
        return self.one_off / self.wrong if self.wrong else np.nan

    @property
    def of_cells(self) -> float:
        """Share of all cells that are one stage off; nan without a cell."""
        return self.one_off / self.cells if self.cells else np.nan


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
