"""Stages of a slide's cells, read from what runs predict, and what their tables say about the run."""

from pathlib import Path

import numpy as np
import pandas as pd

from myostage import tables
from myostage.errors import UserError
from myostage.learning.priors import Learnt
from myostage.learning.tables import predictions_table, stages_table


def read_run(predictions: str | Path, stages: int) -> tuple[float, str | None]:
    """Temperature of the run of these predictions (nan: none), and why it failed (None: it did not)."""
    with tables.open_table(predictions, predictions_table(stages)) as file:
        metadata = file.schema_arrow.metadata or {}
    failed = metadata.get(b"failed")
    return float(metadata.get(b"temperature", np.nan)), None if failed is None else failed.decode()


def read_learnt(predictions: str | Path, stages: int) -> Learnt | None:
    """What the run of these predictions says for a table to be put into them; None: it learnt nothing."""
    with tables.open_table(predictions, predictions_table(stages)) as file:
        said = (file.schema_arrow.metadata or {}).get(b"learnt")
    return None if said is None else Learnt.from_json(said.decode())


def read_stages(path: str | Path, stages: int) -> pd.DataFrame:
    """Staged cells of one slide, the columns of :func:`stages_table`; indexed by cell.

    Raises
    ------
    UserError
        The table is missing, damaged or of another number of stages, or a cell is staged twice.
    """
    table = tables.read(path, stages_table(stages))
    if table["cell"].duplicated().any():
        raise UserError(f"{path}: a cell is staged more than once; delete it and run the workflow again")
    return table.set_index("cell", drop=False)
