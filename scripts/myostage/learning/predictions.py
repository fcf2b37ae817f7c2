"""Stages of a slide's cells, read from what runs predict."""

from pathlib import Path

import pandas as pd

from myostage import tables
from myostage.errors import UserError
from myostage.learning.tables import predictions_table


def read_stages(predictions: str | Path, stages: int) -> pd.DataFrame:
    """Staged cells of one slide: ``cell``, ``stage``, ``probabilities`` float32[K] per row; indexed by cell.

    Raises
    ------
    UserError
        The table is missing, damaged or of another number of stages, or a cell is staged twice.
    """
    table = tables.read(predictions, predictions_table(stages), ["slide", "cell", "stage", "probabilities"])
    if table["cell"].duplicated().any():
        raise UserError(
            f"{predictions}: a cell is staged more than once; delete it and run the workflow again"
        )
    return table.set_index("cell", drop=False)
