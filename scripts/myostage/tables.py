"""The Parquet tables that rules hand on: columns, dtypes, units; reading, validating, writing.

Every table is written atomically (a temporary file beside it, then renamed) and validated on
writing and on reading, so that a half-written or foreign file is never taken for a table. Its pages bear
checksums, which every reader verifies: what is read, even of a part, is as it was written.
"""

import errno
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from myostage.errors import Damaged, UserError

_TRIAL_BYTES = 2**20


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, unit (empty where it has none) and meaning."""

    name: str
    dtype: pa.DataType
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One documented table; ``further`` is the type of columns that may follow those named here."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    further: pa.DataType | None = None

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, column.dtype) for column in self.columns])

    def having(self, names: Iterable[str]) -> "Table":
        """The table with those of ``names`` that are further columns, if it may have any."""
        if self.further is None:
            return self
        known = set(self.schema.names)
        own = tuple(Column(name, self.further, "", "") for name in names if name not in known)
        return replace(self, columns=(*self.columns, *own), further=None)


STRING, BOOL, INT32, INT64, FLOAT32, FLOAT64 = (
    pa.string(),
    pa.bool_(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
)


def read(path: str | Path, table: Table, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table, validated.

    Raises
    ------
    UserError
        The file is missing, no Parquet, or its columns are not those of ``table``.
    """
    return read_arrow(path, table, columns).to_pandas()


def read_arrow(path: str | Path, table: Table, columns: list[str] | None = None) -> pa.Table:
    """As :func:`read`, as an Arrow table (for columns of images and outlines)."""
    with open_table(path, table) as file:
        return file.read(columns=columns)


@contextmanager
def open_table(path: str | Path, table: Table) -> Iterator[pq.ParquetFile]:
    """Open a validated table to stream it by row group.

    Raises
    ------
    UserError
        The file is missing, no Parquet, or its columns are not those of ``table``.
    Damaged
        Here or while it is read: a page is not as it was written.
    """
    with open_parquet(path, table.name) as file:
        check(file.schema_arrow, table, path)
        yield file


def open_parquet(path: str | Path, name: str = "", *, memory_map: bool = False) -> "Verified":
    """Open a table, whatever its columns; ``name`` is for messages."""
    try:
        with _damage(path, name):
            return Verified(path, memory_map=memory_map, page_checksum_verification=True)
    except FileNotFoundError:
        missing = f"the {name} table is missing" if name else "the table is missing"
        raise UserError(f"{path}: {missing}; run the workflow to make it") from None


class Verified(pq.ParquetFile):
    """A Parquet file whose damage is one sentence, whenever it is met."""

    def __init__(self, path: str | Path, **options: bool) -> None:
        super().__init__(path, **options)
        self._path = path

    def read_row_groups(self, *arguments: Any, **options: Any) -> pa.Table:
        with _damage(self._path):
            return super().read_row_groups(*arguments, **options)

    def read_row_group(self, *arguments: Any, **options: Any) -> pa.Table:
        with _damage(self._path):
            return super().read_row_group(*arguments, **options)

    def read(self, *arguments: Any, **options: Any) -> pa.Table:
        with _damage(self._path):
            return super().read(*arguments, **options)

    def iter_batches(self, *arguments: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        batches = super().iter_batches(*arguments, **options)
        while True:
            with _damage(self._path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def read_where(path: str | Path, table: Table, columns: list[str], condition: ds.Expression) -> pa.Table:
    """The ``columns`` of the rows for which ``condition`` holds; row groups without any are passed over.

    Raises
    ------
    UserError, Damaged
        As :func:`open_table`.
    """
    with open_table(path, table):
        pass
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    with _damage(path, table.name):
        rows = ds.dataset(path, format=ds.ParquetFileFormat(default_fragment_scan_options=options))
        return rows.to_table(columns, filter=condition)


@contextmanager
def _damage(path: str | Path, name: str = "") -> Iterator[None]:
    """What Arrow raises of a file that is no table, or no longer; not an error of disk or memory."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EISDIR):
            raise
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Damaged(f"{path}: not a readable {name + ' ' if name else ''}table ({why})") from None


def carry(frame: pd.DataFrame, carried: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """A table with a row per slide, and behind its columns those that the slide table has besides.

    Parameters
    ----------
    carried : mapping of str to mapping
        Slide -> column -> text. A column that the table has itself becomes ``given_`` and its name.
    """
    names = dict.fromkeys(name for values in carried.values() for name in values)
    further = {
        f"given_{name}" if name in frame else name: [
            carried.get(slide, {}).get(name, "") for slide in frame["slide"]
        ]
        for name in names
    }
    return frame.assign(**further)


def check(schema: pa.Schema, table: Table, path: str | Path) -> None:
    """Raise Damaged unless ``schema`` has the columns of ``table``, in order."""
    table = table.having(schema.names)
    if not schema.remove_metadata().equals(table.schema):
        found = ", ".join(f"{field.name} {field.type}" for field in schema)
        wanted = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise Damaged(f"{path}: the {table.name} table has columns ({found}) where ({wanted}) are needed")


def write(
    path: str | Path, frame: pd.DataFrame | pa.Table, table: Table, metadata: dict[str, str] | None = None
) -> None:
    """Write a table, validated and atomically; ``metadata`` goes into the file's schema."""
    if isinstance(frame, pd.DataFrame):
        table = table.having(frame.columns)
        missing = [name for name in table.schema.names if name not in frame.columns]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)} for the {table.name} table")
        frame = pa.Table.from_pandas(frame[table.schema.names], schema=table.schema, preserve_index=False)
    with writer(path, table, metadata) as out:
        out.write_table(frame)


@contextmanager
def writer(
    path: str | Path, table: Table, metadata: dict[str, str] | None = None, **options: object
) -> Iterator[pq.ParquetWriter]:
    """A Parquet writer for ``table`` whose file appears at ``path`` only when the block ends well."""
    schema = table.schema.with_metadata(metadata or {})
    with (
        atomic(path) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True, **options) as out,
    ):
        yield out


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it is renamed to ``path`` when the block ends well.

    The file gets the permissions that the user's umask leaves.

    Raises
    ------
    OSError
        The disk is full, also where what writes within the block raises something else of it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)
    permissions = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(
            permissions
        )  # some writers, such as that of safetensors, put a file of their own there
        temporary.replace(target)
    except Exception as error:
        if getattr(error, "errno", None) is None and not isinstance(error, UserError):
            _try_to_write(temporary)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _try_to_write(path: Path) -> None:
    """OSError where the disk takes no more: torch, safetensors and tifffile say it in words of their own."""
    with path.open("ab") as file:
        file.write(bytes(_TRIAL_BYTES))
