"""The Parquet tables that rules hand on: columns, dtypes, units; reading, validating, writing.

Every table is written atomically (a temporary file beside it, then renamed) and validated on
writing and on reading, so that a half-written or foreign file is never taken for a table.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from myostage.errors import UserError


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
    """Open a validated table to stream it by row group."""
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise UserError(f"{path}: the {table.name} table is missing; run the workflow to make it") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: not a readable {table.name} table ({error}); delete it and run the workflow again"
        ) from None
    with file:
        check(file.schema_arrow, table, path)
        yield file


def check(schema: pa.Schema, table: Table, path: str | Path) -> None:
    """Raise UserError unless ``schema`` has the columns of ``table``, in order."""
    table = table.having(schema.names)
    if not schema.remove_metadata().equals(table.schema):
        found = ", ".join(f"{field.name} {field.type}" for field in schema)
        wanted = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise UserError(
            f"{path}: the {table.name} table has columns ({found}) where ({wanted}) are needed; "
            "delete it and run the workflow again"
        )


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
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as out:
        yield out


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it is renamed to ``path`` when the block ends well.

    The file gets the permissions that the user's umask leaves.
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
    finally:
        temporary.unlink(missing_ok=True)
