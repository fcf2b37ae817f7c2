"""Token store: the tokens that enter the last block, one Parquet file per slide and encoder.

A cell's T x D float16 tokens are one value of a fixed-size binary column, uncompressed and without dictionary
or statistics, so that reading is copying: a bag touches the bytes of its own cells and nothing else. Any
Parquet reader can open the file; ours maps it into memory and finds each row by arithmetic, which needs every
row group to hold one single data page. The writer sees to that and the reader verifies it. Each cell's tokens
bear a checksum, so that a bag verifies the cells that it reads and no page of others. Only the files read
last are mapped: each keeps a handle, of which a process has few (`ulimit -n`).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from torch import Tensor

from myostage import tables
from myostage.errors import Damaged, UserError

ROW_GROUP_CELLS = 256
BIG_ROW_GROUP_CELLS = 64
"""Cells of a row group where 256 would exceed ``ROW_GROUP_BYTES`` (ViT-B/8: 6.4 MB instead of 25.6 MB)."""
ROW_GROUP_BYTES = 8 * 2**20

Dtype = Literal["float16", "float32"]
DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
"""Of an encoder's tokens, and of ready-made features, which may be of any scale."""
LAYOUT = "row-major T x D, one data page per row group"
_PAGE_OVERHEAD_BYTES = 64
"""At most this lies before a page's values: its header and its definition levels."""
_MAXIMUM_PAGE_BYTES = 2**30
MAPPED_FILES = 128
"""Most token files mapped at a time, over all stores of a process."""


def tokens_table(tokens: int, width: int, dtype: str = "float16") -> tables.Table:
    """The table of ``tokens`` (T) tokens of ``width`` (D) numbers per cell."""
    return tables.Table(
        "tokens",
        "tokens of every cell that enter the last block of the encoder",
        (
            tables.Column("cell", pa.int32(), "", "cell number within the slide"),
            tables.Column(
                "tokens",
                pa.binary(tokens * width * DTYPES[dtype].itemsize),
                "",
                f"{tokens} x {width} {dtype}, row-major, prefix tokens first",
            ),
            tables.Column("checksum", pa.uint64(), "", "XXH3 of the cell's tokens, 64 bits"),
        ),
    )


def row_group_cells(tokens: int, width: int) -> int:
    """Cells per row group: 256, or 64 where T x D is large."""
    return ROW_GROUP_CELLS if ROW_GROUP_CELLS * tokens * width * 2 <= ROW_GROUP_BYTES else BIG_ROW_GROUP_CELLS


class TokenWriter:
    """Collects cells into row groups of equal size; made by :func:`writer`."""

    def __init__(
        self, out: pq.ParquetWriter, table: tables.Table, shape: tuple[int, int], dtype: str
    ) -> None:
        self._out = out
        self._table = table
        self._shape = shape
        self._dtype = DTYPES[dtype]
        self._size = row_group_cells(*shape)
        self._cells = np.empty(self._size, np.int32)
        self._tokens = np.empty((self._size, *shape), dtype)
        self._filled = 0
        self.written = 0

    def write(self, cells: np.ndarray, tokens: Tensor) -> None:
        """Append cells: numbers int32[n] and tokens [n, T, D] of the file's dtype, on the CPU."""
        if tokens.dtype != self._dtype or tuple(tokens.shape) != (len(cells), *self._shape):
            raise ValueError(
                f"tokens {tokens.dtype}{list(tokens.shape)} for {len(cells)} cells of {self._shape}"
            )
        values = tokens.numpy()
        start = 0
        while start < len(cells):
            count = min(len(cells) - start, self._size - self._filled)
            self._cells[self._filled : self._filled + count] = cells[start : start + count]
            self._tokens[self._filled : self._filled + count] = values[start : start + count]
            self._filled += count
            start += count
            if self._filled == self._size:
                self.flush()

    def flush(self) -> None:
        """Write what is collected as one row group."""
        if not self._filled:
            return
        width = self._tokens[0].nbytes
        column = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), self._filled, [None, pa.py_buffer(self._tokens[: self._filled])]
        )
        checksums = [xxhash.xxh3_64_intdigest(cell) for cell in self._tokens[: self._filled]]
        batch = pa.table(
            [pa.array(self._cells[: self._filled]), column, pa.array(checksums, pa.uint64())],
            schema=self._table.schema,
        )
        self._out.write_table(batch, row_group_size=self._size)
        self.written += self._filled
        self._filled = 0


@contextmanager
def writer(
    path: str | Path,
    *,
    tokens: int,
    width: int,
    metadata: dict[str, str] | None = None,
    dtype: Dtype = "float16",
) -> Iterator[TokenWriter]:
    """A writer of one token file of T = ``tokens`` by D = ``width``; it appears when the block ends well."""
    table = tokens_table(tokens, width, dtype)
    described = {"dtype": dtype, "shape": json.dumps([tokens, width]), "layout": LAYOUT} | (metadata or {})
    with tables.writer(
        path,
        table,
        described,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        data_page_size=_MAXIMUM_PAGE_BYTES,
    ) as out:
        collected = TokenWriter(out, table, (tokens, width), dtype)
        yield collected
        collected.flush()


class TokenStore:
    """The tokens of one slide, mapped into memory while they are read.

    Parameters
    ----------
    path : str or Path
        A file made by :func:`writer`.

    Attributes
    ----------
    cells : int32[n]
        Cell number of every row.
    shape : (int, int)
        T tokens, D numbers each.
    metadata : dict of str
        What the file says of itself: dtype, shape, encoder, versions.

    Raises
    ------
    UserError
        The file is missing, no token table, cut short, or not laid out as this reader needs it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with tables.open_parquet(self.path, "tokens", memory_map=True) as file:
            self._changed_ns = self.path.stat().st_mtime_ns
            self.metadata = {
                key.decode(errors="replace"): value.decode(errors="replace")
                for key, value in (file.schema_arrow.metadata or {}).items()
                if not key.startswith(b"ARROW:")
            }
            self.shape = self._read_shape()
            dtype = self.metadata["dtype"]
            tables.check(file.schema_arrow, tokens_table(*self.shape, dtype), self.path)
            self._dtype = DTYPES[dtype]
            self._bytes = self.shape[0] * self.shape[1] * self._dtype.itemsize
            own = file.read(columns=["cell", "checksum"])
            self.cells: np.ndarray = own.column("cell").to_numpy().astype(np.int32, copy=False)
            self._checksums = own.column("checksum").to_numpy()
            self._verified = np.zeros(len(self.cells), bool)
            self._groups, self._starts = self._lay_out(file.metadata)
            self._verify(file)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens."""
        return len(self.cells) * self._bytes

    @property
    def row_groups(self) -> int:
        """Number of row groups."""
        return len(self._groups) - 1

    def read_rows(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Tokens of the given rows, in the order given (ascending rows read fastest).

        Parameters
        ----------
        rows : int[n]
            Row numbers, 0 <= row < len(self); not cell numbers.

        Returns
        -------
        Tensor [n, T, D]
            float16; of ready-made features float32.

        Raises
        ------
        IndexError
            A row lies outside the store.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"{self.path}: rows {wanted.min()} to {wanted.max()} asked of {len(self)}")
        out = torch.empty((len(wanted), *self.shape), dtype=self._dtype)
        target = out.numpy().view(np.uint8).reshape(len(wanted), self._bytes)
        owner = np.searchsorted(self._groups, wanted, side="right") - 1
        for group in np.unique(owner):
            here = np.flatnonzero(owner == group)
            target[here] = self._rows_of(int(group))[wanted[here] - self._groups[group]]
        self._compare(wanted, target)
        return out

    def stream(self, row_groups: Iterable[int] | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Row group after row group (all by default): cell numbers int32[n], tokens float16[n, T, D]."""
        for group in range(self.row_groups) if row_groups is None else row_groups:
            first, last = self._groups[group], self._groups[group + 1]
            out = torch.empty((int(last - first), *self.shape), dtype=self._dtype)
            target = out.numpy().view(np.uint8).reshape(-1, self._bytes)
            target[...] = self._rows_of(group)
            self._compare(np.arange(first, last), target)
            yield self.cells[first:last], out

    def read(self) -> Tensor:
        """All tokens, float16[n, T, D]."""
        parts = [tokens for _, tokens in self.stream()]
        return torch.cat(parts) if parts else torch.empty((0, *self.shape), dtype=self._dtype)

    def _rows_of(self, group: int) -> np.ndarray:
        """The mapped bytes of one row group, uint8[n, T * D * 2]; nothing is read yet."""
        count = int(self._groups[group + 1] - self._groups[group])
        start = int(self._starts[group])
        mapped = _map(self.path, self._changed_ns)
        return mapped[start : start + count * self._bytes].reshape(count, self._bytes)

    def _compare(self, rows: np.ndarray, read: np.ndarray) -> None:
        """Compare rows ``read``, uint8[n, T * D * 2], with their checksums, each when first read."""
        for place in np.flatnonzero(~self._verified[rows]):
            if xxhash.xxh3_64_intdigest(read[place]) != self._checksums[rows[place]]:
                raise Damaged(
                    f"{self.path}: the tokens of cell {self.cells[rows[place]]} are not those written"
                )
        self._verified[rows] = True

    def _read_shape(self) -> tuple[int, int]:
        try:
            tokens, width = json.loads(self.metadata["shape"])
            if self.metadata["dtype"] not in DTYPES or tokens < 1 or width < 1:
                raise ValueError
        except (KeyError, ValueError, TypeError):
            raise Damaged(
                f"{self.path}: the file says nothing of float16 tokens and their shape, so it is no token "
                "store"
            ) from None
        return int(tokens), int(width)

    def _lay_out(self, described: pq.FileMetaData) -> tuple[np.ndarray, np.ndarray]:
        """First row of every row group (with the end), and where its token bytes start in the file."""
        sizes = [described.row_group(group).num_rows for group in range(described.num_row_groups)]
        starts = []
        for group, size in enumerate(sizes):
            chunk = described.row_group(group).column(1)
            overhead = chunk.total_compressed_size - size * self._bytes
            if chunk.compression != "UNCOMPRESSED" or not 0 <= overhead <= _PAGE_OVERHEAD_BYTES:
                raise Damaged(
                    f"{self.path}: row group {group} is not one uncompressed page of tokens, so another "
                    "program wrote this file"
                )
            # The values are the page's last bytes: the header and the definition levels go before them.
            starts.append(chunk.data_page_offset + overhead)
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64), np.array(
            starts, np.int64
        )

    def _verify(self, file: pq.ParquetFile) -> None:
        """Compare the mapped bytes of the last row group with what Parquet's own reader finds there."""
        if not len(self):
            return
        last = self.row_groups - 1
        column = file.read_row_group(last, columns=["tokens"]).column("tokens").combine_chunks()
        expected = np.frombuffer(
            column.buffers()[1], np.uint8, len(column) * self._bytes, column.offset * self._bytes
        )
        if not np.array_equal(expected, self._rows_of(last).reshape(-1)):
            raise Damaged(f"{self.path}: the tokens do not lie where the file's footer says")


@lru_cache(MAPPED_FILES)
def _map(path: Path, changed_ns: int) -> np.ndarray:
    """The bytes of a file; its handle goes with the last array that shows them."""
    try:
        mapped = np.memmap(path, np.uint8, "r")
        if path.stat().st_mtime_ns == changed_ns:
            return mapped
        fault = "was changed"
    except FileNotFoundError:
        fault = "is gone"
    raise UserError(f"{path}: the file {fault} while its tokens were read; run the workflow again")
