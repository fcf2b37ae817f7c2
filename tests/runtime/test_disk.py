"""What a disk refuses is said in one sentence that names the place and the remedy."""

import errno
import os
from pathlib import Path

import pytest

from myostage.errors import UserError
from myostage.runtime.disk import disk_error


@pytest.mark.parametrize(
    ("number", "what", "remedy"),
    [
        (errno.ENOSPC, "the disk of results is full: ", "free space there"),
        (errno.EDQUOT, "your quota on the disk of results is used up: ", "delete what you no longer need"),
        (errno.EROFS, "results is not writable: its disk is mounted read-only", "choose another folder"),
        (errno.EACCES, "results is not writable: you lack the rights", "have its owner grant them"),
        (errno.EPERM, "results is not writable: you lack the rights", "have its owner grant them"),
        (errno.ESTALE, "the network disk of results no longer knows the file", "start again"),
        (errno.EIO, "the disk of results fails (input/output error): ", "checked"),
    ],
)
def test_sentences(number: int, what: str, remedy: str) -> None:
    error = disk_error(OSError(number, os.strerror(number), "other"), "results")
    assert isinstance(error, UserError)
    sentence = str(error)
    assert sentence.startswith(what) and remedy in sentence
    assert "\n" not in sentence and "{" not in sentence


def test_what_may_not_be_read_is_not_called_unwritable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK)
    assert "is not readable: " in str(disk_error(PermissionError(errno.EACCES, "denied"), tmp_path))


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "none"), OSError("without a number")])
def test_other_errors_are_not_of_the_disk(error: OSError) -> None:
    assert disk_error(error, "results") is None
