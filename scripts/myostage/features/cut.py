"""Cut a table of ready-made features into what the runs read of each slide: tokens, positions, labels."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pyarrow import csv

from myostage import tables
from myostage.cells.tables import LABELS, POSITIONS
from myostage.errors import UserError, raise_all
from myostage.features import tokens
from myostage.schema import LARGEST
from myostage.study.cell_table import MOST_WIDTH, read_cells, read_layout, readable, text_options

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

# Features that are held at a time, bytes: a table whose slides lie together is cut in one reading.
HELD_BYTES = 2**30
ROWS_READ = 4096


class Cut:
    """A table of ready-made features, from which one slide after another is written.

    Parameters
    ----------
    path, columns, stages
        As :func:`myostage.study.cell_table.read_cells` takes them.

    Raises
    ------
    UserError
        The table is not readable, or what it says of its cells is at fault.
    """

    def __init__(self, path: str, columns: str, stages: Sequence[str]) -> None:
        self._layout = read_layout(path, columns)
        self._cells = read_cells(path, columns, stages)
        self._held: dict[str, NDArray[np.float32]] = {}
        self._width = 0

    def check(self) -> None:
        """Read every feature once.

        Raises
        ------
        UserError
            Features that are missing, no finite numbers or beyond 1e30, or more of one cell than of another.
        """
        problems: list[str] = []
        for first, part in self._parts(np.arange(len(self._cells.slide))):
            values = self._numbers(first, part)
            bad = ~(np.abs(values) <= LARGEST)
            if bad.any():
                row, place = np.unravel_index(bad.argmax(), bad.shape)
                problems.append(
                    f"row {first + row + self._layout.first_row}: feature {place} is {values[row, place]:g}, "
                    f"where a finite number up to {LARGEST:g} is needed; correct it, or leave the cell out"
                )
        raise_all(self._layout.path, problems)

    def write(
        self, slide: str, *, tokens_out: str, positions_out: str, labels_out: str, encoder_json: str
    ) -> None:
        """Write what the runs read of a slide.

        Parameters
        ----------
        tokens_out
            Token store of T = 1 token, float32; its metadata has ``encoder``.
        positions_out, labels_out
            ``POSITIONS`` (nan where nothing is said of them); ``LABELS`` of the cells whose stage is known.
        encoder_json
            What the tokens are of, as runs compare it.
        """
        if slide not in self._held:
            self._hold(slide)
        features, rows = self._held.pop(slide), self._cells.rows(slide)
        cells = self._cells.cell[rows].astype(np.int32)
        with tokens.writer(
            tokens_out, tokens=1, width=features.shape[1], metadata={"encoder": encoder_json}, dtype="float32"
        ) as out:
            out.write(cells, torch.from_numpy(features[:, None]))
        places = np.full((len(rows), 2), np.nan) if self._cells.places is None else self._cells.places[rows]
        positions = pd.DataFrame({"cell": cells, "x_um": places[:, 0], "y_um": places[:, 1]})
        tables.write(positions_out, positions, POSITIONS)
        labels = pd.DataFrame({"cell": cells, "stage": self._cells.stage[rows], "iou": 1.0})
        tables.write(labels_out, labels[labels["stage"] >= 0], LABELS)

    def _hold(self, slide: str) -> None:
        """Read the features of this slide, and of as many behind it as may be held."""
        self._held = {}
        slides = list(self._cells.slides)
        first, part = next(self._parts(self._cells.rows(slide)[:1]))
        width = self._numbers(first, part).shape[1]
        places: dict[str, Integers] = {}
        for name in slides[slides.index(slide) :]:
            rows = self._cells.rows(name)
            count = sum(map(len, places.values())) + len(rows)
            if places and count * width * 4 > HELD_BYTES:
                break
            places[name] = rows
        wanted = np.sort(np.concatenate(list(places.values())))
        values = np.empty((len(wanted), width), np.float32)
        for first, part in self._parts(wanted):
            here = slice(*np.searchsorted(wanted, (first, first + part.num_rows)))
            values[here] = self._numbers(first, part)[wanted[here] - first]
        self._held = {name: values[np.searchsorted(wanted, rows)] for name, rows in places.items()}

    def _parts(self, rows: Integers) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The parts of the table that hold any of these rows (ascending), each with its first row."""
        layout, first = self._layout, 0
        with readable(layout.path):
            if layout.separator:
                for part in csv.open_csv(layout.path, **text_options(layout, layout.features, pa.float64())):
                    yield first, part
                    first += part.num_rows
                return
            file = pq.ParquetFile(layout.path)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                at, end = np.searchsorted(rows, (first, first + count))
                if at < end:
                    start = first
                    for part in file.iter_batches(ROWS_READ, [group], list(layout.features)):
                        yield start, part
                        start += part.num_rows
                first += count

    def _numbers(self, first: int, part: pa.RecordBatch) -> Floats:
        """Features float64[n, D] of a part of the table; nan where they are missing."""
        if not pa.types.is_nested(part.column(0).type):
            columns = [column.to_numpy(zero_copy_only=False) for column in part.columns]
            return np.stack(columns, 1).astype(np.float64, copy=False)
        lists = part.column(0)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        width = self._width or int(lengths[0])
        self._width = width
        other = (lengths != width) | (lengths == 0) | (lengths > MOST_WIDTH)
        if other.any():
            at = int(other.argmax())
            raise UserError(
                f"{self._layout.path}: row {first + at + self._layout.first_row} has {lengths[at]} features, "
                f"where every cell has as many, from 1 to {MOST_WIDTH:,} (the first: {width}); correct it"
            )
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(lengths), width).astype(np.float64, copy=False)
