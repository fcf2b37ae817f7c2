"""Copies on the node's disk: made once, checked, removed; never a job that fails for want of space."""

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from myostage.errors import UserError
from myostage.runtime import scratch
from myostage.runtime.scratch import on_scratch


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scratch folder of a node."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setenv("NODE_DISK", str(folder))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two files of one name in the folders of two slides, the first under two keys."""
    found = {}
    for slide in ("a", "b"):
        found[slide] = tmp_path / "results" / slide / "tokens.parquet"
        found[slide].parent.mkdir(parents=True)
        found[slide].write_bytes(slide.encode() * 1000)
    return {**found, "again": found["a"].parent / ".." / "a" / "tokens.parquet"}


def test_without_the_setting_the_files_themselves_are_read(files: dict[str, Path]) -> None:
    with on_scratch(files, None) as read:
        assert read == files


def test_copies_are_read_and_removed(
    files: dict[str, Path], node: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with caplog.at_level(logging.INFO, "myostage"), on_scratch(files, "${NODE_DISK}") as read:
        assert read.keys() == files.keys()
        assert read["a"] == read["again"] != read["b"]
        assert {read[key].read_bytes() == files[key].read_bytes() for key in files} == {True}
        (own,) = node.iterdir()
        assert own.name.startswith("myostage-42-") and len(list(own.iterdir())) == 2
        assert {path.parent for path in read.values()} == {own}
        assert {path.suffix for path in read.values()} == {".parquet"}
    assert not list(node.iterdir())
    assert "copied 2 files, 0.0 MB, to " in caplog.text and " MB/s)" in caplog.text
    assert all(path.is_file() for path in files.values())


def test_copies_are_removed_after_an_error_of_the_job(files: dict[str, Path], node: Path) -> None:
    with pytest.raises(ZeroDivisionError), on_scratch(files, str(node)):
        raise ZeroDivisionError
    assert not list(node.iterdir())


def test_an_error_of_the_job_is_not_taken_for_one_of_copying(files: dict[str, Path], node: Path) -> None:
    with pytest.raises(OSError, match="full"), on_scratch(files, str(node)):
        raise OSError(errno.ENOSPC, "full")


def test_home_stands_for_itself(files: dict[str, Path], node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(node.parent))
    with on_scratch(files, "~/node") as read:
        assert read["a"].is_relative_to(node)


@pytest.mark.parametrize("folder", ["$SLURM_TMPDIR/x", "${SLURM_TMPDIR}"])
@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_variable_is_named(
    folder: str, value: str | None, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    if value is not None:
        monkeypatch.setenv("SLURM_TMPDIR", value)
    with pytest.raises(UserError, match=r"^jobs\.scratch is .* variable SLURM_TMPDIR is not set"):
        on_scratch(files, folder).__enter__()


@pytest.mark.parametrize("folder", ["$NODE_DISK/none", "~nobody-of-this-name/x"])
def test_a_folder_that_does_not_exist_is_named(folder: str, files: dict[str, Path], node: Path) -> None:
    with pytest.raises(UserError, match=r"^jobs\.scratch is .* is no folder of the node"):
        on_scratch(files, folder).__enter__()


@pytest.mark.parametrize(
    ("total", "free", "fits"),
    # the two files take 2000 bytes; the reserve is 5 % of a small disk, 1 GB of a large one
    [
        (100_000, 7_000, True),
        (100_000, 6_999, False),
        (10**12, 10**9 + 2000, True),
        (10**12, 10**9 + 1999, False),
    ],
)
def test_files_that_do_not_fit_are_read_where_they_are(
    total: int,
    free: int,
    fits: bool,
    files: dict[str, Path],
    node: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(total, total - free, free))
    with on_scratch(files, str(node)) as read:
        assert (read != files) == fits
        assert len(list(node.iterdir())) == fits
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == (not fits)
    assert fits or f"2 files take 0 MB, {node} has 0 MB to spare" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up_meanwhile(
    number: int,
    files: dict[str, Path],
    node: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        copy(source, target)
        if target.name.startswith("0001"):
            raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with on_scratch(files, str(node)) as read:
        assert read == files and not list(node.iterdir())
    assert f"copying to {node} failed ({os.strerror(number)}); the shared files are read" in caplog.text


def test_a_short_copy_is_not_read(
    files: dict[str, Path],
    node: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: target.write_bytes(b"a"))
    with on_scratch(files, str(node)) as read:
        assert read == files and not list(node.iterdir())
    assert "has 1000 bytes, its copy 1" in caplog.text


def test_a_folder_without_rights_is_named(
    files: dict[str, Path], node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**_: object) -> str:
        raise PermissionError(errno.EACCES, "denied", str(node / "myostage-1"))

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", denied)
    with pytest.raises(UserError, match="node/myostage-1 is not writable"):
        on_scratch(files, str(node)).__enter__()
