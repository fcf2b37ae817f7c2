"""The token store: what is written is read back bit for bit, by any reader, and a foreign file is refused."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from myostage.errors import UserError
from myostage.features import tokens
from myostage.learning import runs

SHAPE = (5, 12)


def write_store(path: Path, cells: int, seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    """A store of random tokens written in uneven pieces."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(cells, *SHAPE, generator=generator).to(torch.float16)
    numbers = np.arange(cells, dtype=np.int32) * 3
    with tokens.writer(path, tokens=SHAPE[0], width=SHAPE[1], metadata={"encoder": "{}"}) as out:
        for start in range(0, cells, 37):
            out.write(numbers[start : start + 37], values[start : start + 37])
    assert out.written == cells
    return numbers, values


@given(cells=st.integers(0, 600), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_bit_for_bit(tmp_path: Path, cells: int, data: st.DataObject) -> None:
    numbers, values = write_store(tmp_path / "t.parquet", cells)
    store = tokens.TokenStore(tmp_path / "t.parquet")
    rows = data.draw(st.lists(st.integers(0, cells - 1), max_size=40) if cells else st.just([]))
    assert len(store) == cells and store.shape == SHAPE and store.cells.dtype == np.int32
    assert np.array_equal(store.cells, numbers)
    assert torch.equal(store.read_rows(rows), values[rows])
    assert torch.equal(store.read(), values)


def test_stream_gives_row_groups_in_order(tmp_path: Path) -> None:
    numbers, values = write_store(tmp_path / "t.parquet", 600)
    store = tokens.TokenStore(tmp_path / "t.parquet")
    pieces = list(store.stream())
    assert [len(cells) for cells, _ in pieces] == [256, 256, 88]
    assert np.array_equal(np.concatenate([cells for cells, _ in pieces]), numbers)
    (_, last), (_, first) = store.stream([2, 0])
    assert torch.equal(last, values[512:]) and torch.equal(first, values[:256])


def test_any_parquet_reader_finds_the_same_numbers(tmp_path: Path) -> None:
    _, values = write_store(tmp_path / "t.parquet", 300)
    column = pq.read_table(tmp_path / "t.parquet").column("tokens").to_pylist()
    read = np.frombuffer(b"".join(column), np.float16).reshape(300, *SHAPE)
    assert np.array_equal(read, values.numpy())


def test_big_tokens_take_smaller_row_groups() -> None:
    assert tokens.row_group_cells(65, 96) == 256
    assert tokens.row_group_cells(65, 768) == 64


def test_row_outside_the_store_is_an_index_error(tmp_path: Path) -> None:
    write_store(tmp_path / "t.parquet", 10)
    store = tokens.TokenStore(tmp_path / "t.parquet")
    for rows in ([10], [-1]):
        with pytest.raises(IndexError):
            store.read_rows(rows)


def test_writing_another_shape_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with pytest.raises(ValueError, match="5, 12"), tokens.writer(path, tokens=5, width=12) as out:
        out.write(np.zeros(2, np.int32), torch.zeros(2, 12, 5, dtype=torch.float16))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def few_handles() -> Iterator[None]:
    """As after `ulimit -Sn 1024`, which is what most systems allow."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_handles")
def test_a_thousand_slides_do_not_exhaust_file_handles(tmp_path: Path) -> None:
    _, values = write_store(tmp_path / "t.parquet", 20)
    files = [tmp_path / f"{number}.parquet" for number in range(1100)]
    for file in files:
        os.link(tmp_path / "t.parquet", file)
    stores = [runs.token_store(file) for file in files]
    for store in [*stores, *stores[::-1]]:
        assert torch.equal(store.read_rows([3, 7]), values[[3, 7]])
    assert len(list(Path("/proc/self/fd").iterdir())) < tokens.MAPPED_FILES + 100


@pytest.mark.parametrize("fault", ["was changed", "is gone"])
def test_a_store_that_is_written_anew_meanwhile_is_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "t.parquet"
    write_store(path, 20)
    store = tokens.TokenStore(path)
    tokens._map.cache_clear()
    path.unlink()
    if fault == "was changed":
        write_store(path, 30)
        os.utime(path, (0, 0))
    with pytest.raises(UserError, match=rf"t\.parquet: the file {fault} while its tokens were read"):
        store.read_rows([0])


def _rewritten(source: Path, out: Path, **options: object) -> None:
    pq.write_table(pq.read_table(source), out, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "use_dictionary": False},
        {"compression": "none", "use_dictionary": True},
        {"compression": "none", "use_dictionary": False, "data_page_size": 1024, "write_batch_size": 8},
    ],
    ids=["compressed", "dictionary", "many pages"],
)
def test_a_layout_of_another_writer_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    write_store(tmp_path / "t.parquet", 300)
    _rewritten(tmp_path / "t.parquet", tmp_path / "u.parquet", **options)
    with pytest.raises(UserError, match=r"u\.parquet: row group 0 .* run the workflow again"):
        tokens.TokenStore(tmp_path / "u.parquet")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    write_store(tmp_path / "t.parquet", 300)
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    pq.write_table(pa.table({"cell": pa.array([1], pa.int32())}), tmp_path / "foreign.parquet")
    for name, reason in (("none", "missing"), ("half", "not a readable"), ("foreign", "no token store")):
        with pytest.raises(UserError, match=rf"{name}\.parquet: .*{reason}"):
            tokens.TokenStore(tmp_path / f"{name}.parquet")
