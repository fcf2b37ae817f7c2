"""Where the cells of a slide lie."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from myostage import tables
from myostage.cells.tables import CELLS, POSITIONS
from myostage.errors import UserError

Floats = NDArray[np.float64]


def positions(cells_table: Path, cells: ArrayLike) -> Floats:
    """Centroids of cells, float64[n, 2], um (of tiles, their sides).

    Parameters
    ----------
    cells_table
        ``CELLS`` or ``POSITIONS`` of the slide.
    cells
        Cell numbers, [n].

    Raises
    ------
    UserError
        The table is missing or damaged, or has no finite coordinates of a cell.
    """
    wanted = np.asarray(cells, dtype=np.int64)
    frame = tables.read(cells_table, _kind(cells_table), ["cell", "x_um", "y_um"]).set_index("cell")
    found = frame.reindex(wanted).to_numpy(np.float64)
    bad = wanted[~np.isfinite(found).all(1)]
    if bad.size:
        raise UserError(
            f"{cells_table}: coordinates missing: {bad.size} of {wanted.size} cells, the first of them "
            f"cell {bad[0]}, have no finite x_um and y_um; correct the table or leave the slide out"
        )
    return found


def _kind(path: Path) -> tables.Table:
    """Which table a file holds; of a faulty one its reader tells what is wrong."""
    with suppress(OSError, UserError), tables.open_parquet(path) as file:
        if file.schema_arrow.names == POSITIONS.schema.names:
            return POSITIONS
    return CELLS
