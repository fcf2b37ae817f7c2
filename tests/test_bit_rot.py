"""Bytes that change on the disk after a file was written: the next job that reads the file names it."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from myostage import tables
from myostage.cells.tables import CELLS, CROPS
from myostage.errors import Damaged
from myostage.features import tokens
from myostage.learning.outputs import cell_numbers
from myostage.learning.tables import SPLITS, predictions_table
from myostage.runtime import checksums, provenance, receipts

STAGES = 3
ROWS = 200
FLIPPED = 8


def column(dtype: pa.DataType, rng: np.random.Generator) -> pa.Array:
    """Values of any type of column."""
    if pa.types.is_string(dtype):
        return pa.array([f"slide {number}" for number in rng.integers(0, 5, ROWS)], dtype)
    if pa.types.is_fixed_size_binary(dtype):
        return pa.array([rng.bytes(dtype.byte_width) for _ in range(ROWS)], dtype)
    if pa.types.is_binary(dtype):
        return pa.array([rng.bytes(64) for _ in range(ROWS)], dtype)
    if pa.types.is_fixed_size_list(dtype):
        return pa.FixedSizeListArray.from_arrays(
            pa.array(rng.random(ROWS * dtype.list_size), dtype.value_type), dtype.list_size
        )
    if pa.types.is_list(dtype):
        values = pa.array(rng.random(ROWS * 6).astype(dtype.value_type.to_pandas_dtype()), dtype.value_type)
        return pa.ListArray.from_arrays(pa.array(np.arange(ROWS + 1, dtype=np.int32) * 6), values)
    return pa.array(rng.integers(0, 2**7, ROWS)).cast(pa.int64()).cast(dtype)


def write_table(table: tables.Table) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rng = np.random.default_rng(3)
        made = pa.table([column(field.type, rng) for field in table.schema], schema=table.schema)
        with tables.writer(path, table) as out:
            out.write_table(made, row_group_size=ROWS // 2)

    return write


def write_tokens(path: Path, cells: int = ROWS) -> None:
    values = np.random.default_rng(3).normal(size=(cells, 5, 24)).astype(np.float16)
    with tokens.writer(path, tokens=5, width=24) as out:
        out.write(np.arange(cells, dtype=np.int32), torch.from_numpy(values))


def write_model(path: Path) -> None:
    with tables.atomic(path) as temporary:
        save_file({"weight": torch.randn(40, 30), "bias": torch.randn(40)}, temporary, {"run": "a"})


def write_json(path: Path) -> None:
    path.write_text(json.dumps({f"fold {fold}": 100 + fold for fold in range(20)}))


def read_tokens(path: Path) -> tuple[Any, ...]:
    store = tokens.TokenStore(path)
    return store.cells.tolist(), store.read().view(torch.int16).tolist()


def read_table(table: tables.Table) -> Callable[[Path], Any]:
    return lambda path: tables.read_arrow(path, table)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "tokens.parquet": (write_tokens, read_tokens),
    **{
        f"{name}.parquet": (write_table(table), read_table(table))
        for name, table in {
            "crops": CROPS,
            "cells": CELLS,
            "predictions": predictions_table(STAGES),
            "splits": SPLITS,
        }.items()
    },
    "model.safetensors": (write_model, load_file),
    "precheck.json": (write_json, lambda path: path.read_text()),
}
TABLES = [name for name in KINDS if name.endswith(".parquet")]


def flip(path: Path, start: int) -> None:
    """Flip the bits of 8 bytes; the file keeps its size and its time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[start : start + FLIPPED] = bytes(byte ^ 0xFF for byte in content[start : start + FLIPPED])
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns


def places(path: Path) -> dict[str, int]:
    """Where bytes are flipped: each part of the file, and what lies between."""
    size = path.stat().st_size
    found = {"first bytes": 0, "last bytes": size - FLIPPED, "middle": size // 2}
    if path.suffix == ".parquet":
        footer = int.from_bytes(path.read_bytes()[-8:-4], "little") + 8
        found |= {"footer": size - footer, "end of the footer": size - 8 - FLIPPED, "header of a page": 4}
        described = pq.ParquetFile(path).metadata
        for index in range(described.num_columns):
            chunk = described.row_group(0).column(index)
            end = chunk.data_page_offset + chunk.total_compressed_size
            if chunk.has_dictionary_page:
                found[f"dictionary of {chunk.path_in_schema}"] = chunk.data_page_offset - FLIPPED
                end = chunk.dictionary_page_offset + chunk.total_compressed_size
            found[f"end of a page of {chunk.path_in_schema}"] = end - FLIPPED
    return found


def receipt_of(path: Path) -> str:
    """The receipt of a job that made ``path``."""
    receipt = path.parent / "made/rule/all.json"
    receipt.parent.mkdir(parents=True, exist_ok=True)
    content = {"rule": "rule", "members": {}, "outputs": {str(path): checksums.state(path)}}
    receipt.write_text(json.dumps(content))
    return str(receipt)


def one_sentence(caught: pytest.ExceptionInfo[Damaged], path: Path) -> bool:
    said = str(caught.value)
    return (
        said.startswith(str(path))
        and said.count(str(path)) == 1
        and said.count("delete it and run the workflow again") == 1
        and "\n" not in said
    )


@pytest.mark.parametrize("name", KINDS)
def test_flipped_bytes_are_noticed_before_a_job_that_reads_the_file_begins(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write, read = KINDS[name]
    write(path)
    receipt, written = receipt_of(path), path.read_bytes()
    recipe: dict[str, Any] = {"rule": "rule"}
    statement = tmp_path / "made/rule.json"
    receipts.verify([receipt])
    statement.write_text(json.dumps(provenance.statement(recipe, [str(path)])))
    for place, start in places(path).items():
        flip(path, start)
        # behind the receipt of a job for several slides or runs, and as a file that a rule hands on itself
        for given in (receipt, str(path)):
            with pytest.raises(Damaged) as caught:
                receipts.verify([given])
            assert one_sentence(caught, path), place
        # the job that made it takes it for missing, so that it is made again also where only the receipt goes
        assert not receipts.is_made(str(statement), recipe), place
        path.unlink()
        write(path)
        if name != "model.safetensors":
            assert path.read_bytes() == written
            receipts.verify([receipt, str(path)])
            read(path)


@pytest.mark.parametrize("name", TABLES)
def test_of_a_table_too_large_to_be_read_to_the_end_whoever_reads_notices_what_he_reads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SMALL_BYTES", 0)
    path = tmp_path / name
    write, read = KINDS[name]
    write(path)
    receipt, content = receipt_of(path), path.read_bytes()
    right = read(path)
    positions = sorted({*places(path).values(), *range(0, len(content), max(1, len(content) // 150))})
    unnoticed = []
    for start in positions:
        flip(path, start)
        try:
            receipts.verify([receipt])
            found = read(path)
        except Damaged as error:
            assert str(error).startswith(str(path))
        else:
            # bytes that no reader interprets
            assert found == right if name == "tokens.parquet" else found.equals(right), start
            unnoticed.append(start)
        path.write_bytes(content)
    assert all(any(low <= start < high for low, high in headers(path)) for start in unnoticed), unnoticed
    receipts.verify([receipt])


def headers(path: Path) -> Iterator[tuple[int, int]]:
    """Where headers of pages lie, whose statistics nobody reads: up to 100 bytes from a chunk's start."""
    described = pq.ParquetFile(path).metadata
    for group in range(described.num_row_groups):
        for index in range(described.num_columns):
            chunk = described.row_group(group).column(index)
            yield chunk.data_page_offset - FLIPPED, chunk.data_page_offset + 100


def test_a_read_of_some_rows_or_columns_notices_damage_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SMALL_BYTES", 0)
    path = tmp_path / "predictions.parquet"
    table = predictions_table(STAGES)
    write_table(table)(path)
    flip(path, places(path)["end of a page of slide"])
    for read in (
        lambda: tables.read(path, table, ["slide"]),
        lambda: tables.read_where(path, table, ["cell"], pc.field("slide") == "slide 1"),
        lambda: list(tables.open_table(path, table).__enter__().iter_batches(7)),
        lambda: tables.open_table(path, table).__enter__().read_row_group(0),
    ):
        with pytest.raises(Damaged) as caught:
            read()
        assert one_sentence(caught, path)
    assert len(tables.read(path, table, ["cell"])) == len(cell_numbers(path)) == ROWS


def test_a_bag_verifies_its_own_cells(tmp_path: Path) -> None:
    path = tmp_path / "tokens.parquet"
    write_tokens(path, 2 * tokens.ROW_GROUP_CELLS)
    content, size = path.read_bytes(), 5 * 24 * 2
    at = content.index(tokens.TokenStore(path).read_rows([150]).numpy().tobytes())
    for start in (at, at + size - FLIPPED, at + size // 2):
        flip(path, start)
        store = tokens.TokenStore(path)
        store.read_rows([149, 151, 0])
        for _ in range(2):
            with pytest.raises(Damaged) as caught:
                store.read_rows([149, 150])
            assert one_sentence(caught, path) and "cell 150" in str(caught.value)
        with pytest.raises(Damaged):
            list(store.stream())
        path.write_bytes(content)


def test_tokens_written_by_us_are_verified_by_any_reader_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "tokens.parquet"
    write_tokens(path)
    flip(path, path.stat().st_size // 2)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_a_file_that_no_job_made_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    path.write_bytes(b"x" * 100)
    receipts.verify([str(path)])
    assert provenance.stated(path) == []


def test_a_file_that_is_stated_by_a_rule_of_old_too_is_compared_with_the_newer(tmp_path: Path) -> None:
    path = tmp_path / "splits.parquet"
    for rule, text in (("divide", "old"), ("split", "new")):
        path.write_text(text)
        statement = tmp_path / f"made/{rule}.json"
        statement.parent.mkdir(exist_ok=True)
        statement.write_text(json.dumps(provenance.statement({}, [str(path)])))
        os.utime(statement, (len(rule), 100 - len(rule)))
    receipts.verify([str(path)])
    path.write_text("rot")
    with pytest.raises(Damaged):
        receipts.verify([str(path)])


def test_results_that_were_moved_are_compared_too(tmp_path: Path) -> None:
    path = tmp_path / "here/study/splits.parquet"
    path.parent.mkdir(parents=True)
    write_table(SPLITS)(path)
    (path.parent / "made").mkdir()
    (path.parent / "made/split.json").write_text(json.dumps(provenance.statement({}, [str(path)])))
    moved = (tmp_path / "here").rename(tmp_path / "there") / "study/splits.parquet"
    receipts.verify([str(moved)])
    flip(moved, 200)
    with pytest.raises(Damaged):
        receipts.verify([str(moved)])
