"""The table of ready-made features: one row per cell, read without its features.

The features themselves are read by the job that cuts the table into slides (:mod:`myostage.features.cut`).
What is read here is what the Snakefile has to know: which slides there are, of which group and animal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from myostage.errors import UserError, raise_all
from myostage.schema import LARGEST, checked_name, nearest
from myostage.study.files import file_faults

if TYPE_CHECKING:
    import pyarrow as pa

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

# A table beyond is a slip, and what is read of it would fill memory: cells, bytes of text, numbers of a cell.
MOST_CELLS, MOST_TEXT, MOST_WIDTH = 20_000_000, 2**30, 8192
# Bytes of a column of a Parquet row group when it is unpacked.
MOST_UNPACKED = 2**30
SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SEPARATED = {",": "commas", "\t": "tabs"}
NEEDED, OPTIONAL = ("group", "animal"), ("slide", "cell", "stage", "x_um", "y_um")
_LARGEST_CELL = 2**31 - 1
_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Layout:
    """What a table is made of.

    Attributes
    ----------
    separator
        Of a table of text; empty of a Parquet file.
    keys
        Those of its columns that say whose cells they are.
    features
        Its columns of features: one of lists, or one for each number.
    """

    path: str
    separator: str
    keys: tuple[str, ...]
    features: tuple[str, ...]

    @property
    def first_row(self) -> int:
        """The number that messages give the first cell: the header of text is row 1."""
        return 2 if self.separator else 1


@dataclass(frozen=True)
class Cells:
    """The cells of a table of n rows.

    Attributes
    ----------
    slides
        Slide -> group (empty: staged only) and animal.
    slide : int64[n]
        Place of the cell's slide in ``slides``.
    cell : int64[n]
        Its number within the slide: as the table says, or by the order of rows, from 0.
    stage : int64[n]
        Its stage, 0..K-1; -1: unknown.
    places : float64[n, 2] or None
        Its centre, um; nan: unknown.
    """

    slides: dict[str, tuple[str, str]]
    slide: Integers
    cell: Integers
    stage: Integers
    places: Floats | None

    def rows(self, slide: str) -> Integers:
        """The rows of a slide, ascending."""
        return np.flatnonzero(self.slide == list(self.slides).index(slide))


def read_layout(path: str, columns: str) -> Layout:
    """The columns of a table; ``columns`` names a column of lists, or what columns of numbers begin with.

    Raises
    ------
    UserError
        No such file, one of another format or too large, a column that is missing, stands twice or has no
        features.
    """
    return _layout(path, columns, *_state(path))


def read_cells(path: str, columns: str, stages: Sequence[str]) -> Cells:
    """The cells of a table, without their features.

    Raises
    ------
    UserError
        As :func:`read_layout`; a name that is none, a slide of two groups or animals, a cell that stands
        twice, a stage that is none, a coordinate that is no number.
    """
    return _cells(path, columns, tuple(stages), *_state(path))


def _state(path: str) -> tuple[int, int]:
    """What tells a file that is written anew."""
    raise_all("features.table", file_faults("table", path))
    found = Path(path).stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(8)
def _layout(path: str, columns: str, changed_ns: int, size: int) -> Layout:
    with Path(path).open("rb") as file:
        is_parquet = file.read(4) == _PARQUET
    separator = "" if is_parquet else SEPARATORS.get(Path(path).suffix.lower(), "")
    if not is_parquet and not separator:
        hint = "; docs/features.md shows how to write one" if path.lower().endswith((".h5ad", ".h5")) else ""
        raise UserError(f"{path}: no Parquet file and no .csv or .tsv; write the table as one of them{hint}")
    if separator and size > MOST_TEXT:
        raise UserError(f"{path}: has {size:,} bytes of text, more than {MOST_TEXT:,}; write it as Parquet")
    with readable(path):
        names, numeric = _parquet_columns(path) if is_parquet else _text_columns(path, separator)
    listed = [columns] if columns in names else []
    features = listed or [name for name in names if name.startswith(columns)]
    known = [*NEEDED, *OPTIONAL]
    if separator and len(names) == 1:
        raise UserError(
            f"{path}: its columns are not separated by {SEPARATED[separator]}; save it so, or as Parquet"
        )
    problems = [
        f"column {name} stands twice; keep one" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    problems += [
        f"column {name} is missing{nearest(name, set(names) - set(known))}; add it"
        for name in NEEDED
        if name not in names
    ]
    if ("x_um" in names) != ("y_um" in names):
        problems.append("has one of x_um and y_um; give both, or none")
    if not features:
        problems.append(
            f"no column is named {columns} or begins with it; set features.columns to the column of lists, "
            "or to what the columns of features begin with"
        )
    if len(features) > MOST_WIDTH:
        problems.append(
            f"{len(features):,} columns begin with {columns}, more than {MOST_WIDTH:,}; name fewer"
        )
    problems += [
        f"column {name} begins with {columns} as features do; rename it, or set features.columns"
        for name in features
        if name in known
    ]
    wanted = "lists" if listed else "number"
    problems += [
        f"column {name} holds {numeric[name]}, where features are numbers; write them as numbers"
        for name in features
        if not (numeric.get(name, "") in ("number", "text column") or (listed and numeric[name] == wanted))
    ]
    raise_all(path, problems)
    return Layout(path, separator, tuple(name for name in known if name in names), tuple(features))


def _parquet_columns(path: str) -> tuple[list[str], dict[str, str]]:
    """Names of the columns, and for each ``number``, ``lists`` (of numbers) or its type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    described = pq.read_metadata(path)
    _check_size(path, described.num_rows)
    for group in range(described.num_row_groups):
        largest = max(
            described.row_group(group).column(number).total_uncompressed_size
            for number in range(described.num_columns)
        )
        if largest > MOST_UNPACKED:
            raise UserError(
                f"{path}: a column of row group {group} takes {largest / 2**30:,.1f} GiB unpacked, where "
                f"{MOST_UNPACKED / 2**30:.3g} GiB are the limit; write the table in smaller row groups"
            )

    def kind(found: pa.DataType) -> str:
        if pa.types.is_floating(found) or pa.types.is_integer(found):
            return "number"
        if pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
            return "lists" if kind(found.value_type) == "number" else str(found)
        return str(found)

    schema = described.schema.to_arrow_schema()
    return schema.names, {field.name: kind(field.type) for field in schema}


def _text_columns(path: str, separator: str) -> tuple[list[str], dict[str, str]]:
    from pyarrow import csv

    # the header alone: rows follow when they are read
    with csv.open_csv(path, parse_options=csv.ParseOptions(delimiter=separator)) as reader:
        names = reader.schema.names
    return names, dict.fromkeys(names, "text column")


def _check_size(path: str, rows: int) -> None:
    if not rows:
        raise UserError(f"{path}: has no rows; the table needs one for each cell")
    if rows > MOST_CELLS:
        raise UserError(f"{path}: has {rows:,} rows, more than {MOST_CELLS:,} cells; cut it into studies")


@contextmanager
def readable(path: str) -> Iterator[None]:
    """What Arrow raises of a file that is no table, as a sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None or isinstance(error, MemoryError):
            raise
        raise UserError(
            f"{path}: not a readable table ({str(error).splitlines()[0]}); write it again"
        ) from None


def text_options(layout: Layout, columns: Sequence[str], kind: Any) -> dict[str, Any]:
    """How Arrow reads ``columns`` of a table of text as values of one kind."""
    from pyarrow import csv

    return {
        "read_options": csv.ReadOptions(block_size=2**24),
        "parse_options": csv.ParseOptions(delimiter=layout.separator),
        "convert_options": csv.ConvertOptions(
            include_columns=list(columns), column_types=dict.fromkeys(columns, kind), null_values=[""]
        ),
    }


def _keys_of(layout: Layout) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    with readable(layout.path):
        if layout.separator:
            return csv.read_csv(layout.path, **text_options(layout, layout.keys, pa.string()))
        return pq.ParquetFile(layout.path).read(columns=list(layout.keys))


@lru_cache(2)
def _cells(path: str, columns: str, stages: tuple[str, ...], changed_ns: int, size: int) -> Cells:
    layout = _layout(path, columns, changed_ns, size)
    table = _keys_of(layout)
    _check_size(path, table.num_rows)
    found = {
        name: _texts(table, name) for name in ("group", "animal", "slide", "stage") if name in layout.keys
    }
    problems: list[str] = []

    def row_of(places: NDArray[np.bool_]) -> int:
        return int(places.argmax()) + layout.first_row

    for name in ("group", "animal", "slide"):
        words, codes = found.get(name, ([], np.zeros(0, np.int64)))
        for number, word in enumerate(words):
            try:
                checked_name(word if word or name == "slide" else "empty")
            except ValueError as fault:
                problems.append(f"row {row_of(codes == number)}, column {name}: {fault}")
    raise_all(path, problems)
    groups, group = found["group"]
    animals, animal = found["animal"]
    names, slide = found.get("slide", (animals, animal))
    for what, words, codes in (("group", groups, group), ("animal", animals, animal)):
        pairs = np.unique(np.stack([slide, codes], 1), axis=0)
        for twice in np.flatnonzero(np.bincount(pairs[:, 0], minlength=len(names)) > 1):
            both = " and ".join(repr(words[code]) for code in pairs[pairs[:, 0] == twice][:2, 1])
            remedy = "name them apart in a column slide" if "slide" not in found else "correct one"
            problems.append(f"slide {names[twice]}: its cells are of {what} {both}; {remedy}")
    first = np.unique(slide, return_index=True)[1]
    slides = {names[slide[at]]: (groups[group[at]], animals[animal[at]]) for at in first}
    problems += [
        f"row {at + layout.first_row}, column animal: is empty; fill it"
        for at, (of, owner) in zip(first, slides.values(), strict=True)
        if not owner and (of or "slide" not in found)
    ]
    raise_all(path, problems)
    stage = np.full(table.num_rows, -1)
    if "stage" in found:
        words, codes = found["stage"]
        rank = {name: place for place, name in enumerate(stages)} | {"": -1}
        problems += [
            f"row {row_of(codes == code)}, column stage: {word!r} is no stage ({', '.join(stages)})"
            f"{nearest(word, stages)}; correct it, or leave it empty"
            for code, word in enumerate(words)
            if word not in rank
        ]
        stage = np.array([rank.get(word, -1) for word in words], np.int64)[codes]
    cell = _numbers_of_cells(table, layout, slide, names, problems)
    places = _places(table, layout, problems)
    raise_all(path, problems)
    return Cells(
        {name: (of, owner or name) for name, (of, owner) in slides.items()}, slide, cell, stage, places
    )


def _texts(table: pa.Table, name: str) -> tuple[list[str], Integers]:
    """The different values of a column as text, and for each row which of them it has; empty where null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    encoded = pc.fill_null(column.cast(pa.string()), "").combine_chunks().dictionary_encode()
    words = [word.strip() for word in encoded.dictionary.to_pylist()]
    place = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return list(place), np.array([place[word] for word in words], np.int64)[encoded.indices.to_numpy()]


def _as_floats(table: pa.Table, name: str, layout: Layout, problems: list[str]) -> Floats:
    """A column as numbers, nan where it is empty; what is no number goes to ``problems``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.if_else(pc.equal(column, ""), None, column)
    try:
        return column.cast(pa.float64()).to_numpy().astype(np.float64, copy=False)
    except pa.ArrowInvalid:
        words = pc.fill_null(column.cast(pa.string()), "").to_pylist()
        at = next(at for at, word in enumerate(words) if word and not _is_number(word))
        problems.append(
            f"row {at + layout.first_row}, column {name}: is {words[at]!r}, not a number; correct it"
        )
    except pa.ArrowNotImplementedError:
        problems.append(f"column {name} holds {column.type}, where numbers are needed; write them as numbers")
    return np.full(table.num_rows, np.nan)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _numbers_of_cells(
    table: pa.Table, layout: Layout, slide: Integers, names: Sequence[str], problems: list[str]
) -> Integers:
    """The number of every cell in its slide."""
    order = np.argsort(slide, kind="stable")
    if "cell" not in layout.keys:
        starts = np.concatenate([[0], np.cumsum(np.bincount(slide, minlength=len(names)))])
        cell = np.empty(len(slide), np.int64)
        cell[order] = np.arange(len(slide)) - starts[slide[order]]
        return cell
    before = len(problems)
    found = _as_floats(table, "cell", layout, problems)
    if len(problems) > before:
        return np.zeros(len(slide), np.int64)
    wrong = ~((found >= 0) & (found <= _LARGEST_CELL) & (found == np.floor(found)))
    if wrong.any():
        at = int(wrong.argmax())
        said = "is empty" if np.isnan(found[at]) else f"is {found[at]:g}"
        problems.append(
            f"row {at + layout.first_row}, column cell: {said}, where a cell has a whole number from 0 to "
            f"{_LARGEST_CELL}; correct it, or leave the column out"
        )
        return np.zeros(len(slide), np.int64)
    cell = found.astype(np.int64)
    by = np.lexsort([cell, slide])
    twice = (np.diff(slide[by]) == 0) & (np.diff(cell[by]) == 0)
    if twice.any():
        at = by[int(twice.argmax()) + 1]
        problems.append(
            f"row {at + layout.first_row}: cell {cell[at]} of slide {names[slide[at]]} stands twice; keep one"
        )
    return cell


def _places(table: pa.Table, layout: Layout, problems: list[str]) -> Floats | None:
    """Centres of the cells, if the table says them."""
    if "x_um" not in layout.keys:
        return None
    found = []
    for name in ("x_um", "y_um"):
        values = _as_floats(table, name, layout, problems)
        beyond = np.abs(values) > LARGEST
        if beyond.any():
            at = int(beyond.argmax())
            problems.append(
                f"row {at + layout.first_row}, column {name}: is {values[at]:g}, beyond {LARGEST:g}; "
                "correct it"
            )
        found.append(values)
    return np.stack(found, 1)
