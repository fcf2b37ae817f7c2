"""One Snakemake at a time on a results folder, and a lock that outlived its Snakemake is no hindrance."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pytest

from myostage.errors import UserError
from myostage.runtime import lock
from myostage.runtime.lock import Holder

SCRIPTS = Path(__file__).parents[2] / "scripts"
RUN = "0d5c2f2e-7f5e-4c0e-9d0a-1b1f6a1e2c3d"
# Locks a folder when a line comes, says how that went, and ends without unlocking at the next line.
OTHER = """
import os, sys
from myostage.runtime import lock
from myostage.errors import UserError
print("ready", flush=True)
sys.stdin.readline()
try:
    lock.acquire(sys.argv[1])
    print("locked", flush=True)
except UserError as error:
    print(error, flush=True)
sys.stdin.readline()
os._exit(1)
"""


class Other:
    """Another process that may lock a folder."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", OTHER, str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        assert self.hear() == "ready"

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def die(self) -> None:
        self.go_on()
        self.process.communicate()


@pytest.fixture(autouse=True)
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets what ``squeue`` does; at first there is none on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def program(body: str) -> None:
        (programs / "squeue").write_text(f"#!/bin/sh\n{body}\n")
        (programs / "squeue").chmod(0o755)

    return program


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "results"
    folder.mkdir()
    yield folder
    lock.release(folder)


def note(folder: Path, **changes: str) -> Holder:
    """The note of a Snakemake that was killed."""
    holder = Holder("alice", "login2", 12, "2024-05-01T08:00:00+00:00", "/home/alice/study")
    holder = holder._replace(**changes)
    (folder / lock.NOTE).write_text(json.dumps(holder._asdict()))
    return holder


def test_the_note_says_who_works_there_and_goes_with_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "new/results"
    lock.acquire(str(folder))
    lock.acquire(folder)  # by the same process
    holder = lock.read_note(folder)
    assert holder
    assert (holder.host, holder.pid, holder.directory) == (socket.gethostname(), os.getpid(), str(Path.cwd()))
    assert holder.since.endswith("+00:00")
    lock.release(folder)
    assert not list(folder.iterdir())
    lock.release(folder)


def test_a_living_snakemake_is_not_disturbed_and_a_dead_one_gives_way(
    results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Other(results)
    other.go_on()
    assert other.hear() == "locked"
    with pytest.raises(UserError) as caught:
        lock.acquire(results)
    assert f"(process {other.process.pid} on {socket.gethostname()}, since 20" in str(caught.value)
    assert f"works on {results}: wait for it, or, if it is gone for good, delete the file" in str(
        caught.value
    )
    lock.release(results)
    holder = lock.read_note(results)
    assert holder and holder.pid == other.process.pid
    other.die()
    with caplog.at_level(logging.INFO, "myostage"):
        lock.acquire(results)
    assert f"{holder} ended without unlocking {results}: its lock is taken over" in caplog.messages
    assert sorted(path.name for path in results.iterdir()) == [lock.LOCK, lock.NOTE]


def test_another_host_is_respected_and_its_jobs_are_named(
    results: Path, squeue: Callable[[str], None]
) -> None:
    (results / lock.LOCK).write_text("12\nlogin2\n")
    holder = note(results)
    with pytest.raises(UserError) as caught:
        lock.acquire(results)
    assert str(caught.value) == (
        f"{holder} works on {results}: wait for it, or, if it is gone for good, "
        f"delete the file {results}/.lock"
    )
    squeue("echo '12|RUNNING|/home/alice/study|x|rule_train'")
    with pytest.raises(UserError, match=r"good, call `scancel 12` and delete the file"):
        lock.acquire(results)


@pytest.mark.parametrize("text", ["", "{", "\0\0", "0\nlogin2\n"])
def test_a_damaged_lock_is_respected(text: str, results: Path) -> None:
    (results / lock.LOCK).write_text(text)
    with pytest.raises(UserError, match=r"^a Snakemake works on .* delete the file .*/results/\.lock$"):
        lock.acquire(results)
    assert (results / lock.LOCK).read_text() == text


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}'])
def test_a_damaged_note_is_replaced(text: str, results: Path) -> None:
    (results / lock.NOTE).write_text(text)
    lock.acquire(results)
    holder = lock.read_note(results)
    assert holder and holder.pid == os.getpid()


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_at_once_one_wins(stale: bool, results: Path) -> None:
    if stale:
        dead = Other(results)
        dead.go_on()
        assert dead.hear() == "locked"
        dead.die()
    others = [Other(results) for _ in range(4)]
    for other in others:
        other.go_on()
    answers = [other.hear() for other in others]
    (winner,) = [other for other, answer in zip(others, answers, strict=True) if answer == "locked"]
    assert sum(f"process {winner.process.pid} on" in answer for answer in answers) == 3
    for other in others:
        other.die()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EROFS, r"results is not writable: "),
        (errno.EACCES, r"results is not writable: "),
        (errno.ENOSPC, r"the disk of .*/results is full: "),
        (errno.EDQUOT, r"quota on the disk of .*/results "),
    ],
)
@pytest.mark.parametrize("file", ["lock", "note"])
def test_a_folder_that_takes_no_file(
    number: int, sentence: str, file: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    if file == "lock":
        monkeypatch.setattr(filelock.SoftFileLock, "_acquire", refused)
    else:
        monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(UserError, match=sentence):
        lock.acquire(results)
    assert not list(results.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/results"):
        with pytest.raises(UserError, match="is no folder"):
            lock.acquire(path)


QUEUE = rf"""
[ "$1 $2" = "--user=alice --noheader" ] || exit 1
[ "$SQUEUE_STATES" ] && exit
cat << 'END'
11|RUNNING|/home/alice/study|notebook|(null)
12|RUNNING|/home/alice/study|{RUN}|rule_train_wildcards_batch=1
13_[3-9%2]|PENDING|/home/alice/study|{RUN}|rule_embed
13_1|RUNNING|/home/alice/study|{RUN}|rule_embed
14|SUSPENDED|/home/alice/study|study_{RUN}|set by the cluster
15|COMPLETING|/home/alice/study|{RUN}|rule_train
16|RUNNING|/home/alice/study2|{RUN}|rule_train
17|RUNNING|/home/alice|{RUN}|rule_train
END
"""


def test_jobs_of_a_dead_snakemake_are_not_run_twice(
    results: Path, squeue: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/bin:/usr/bin")
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    squeue(QUEUE)
    ended = note(results)
    assert lock.orphans(ended) == ["12", "13", "14"]
    assert lock.orphans(ended._replace(directory="/home/alice/study2")) == ["16"]
    assert lock.orphans(ended._replace(user="bob")) == []
    with pytest.raises(UserError, match=r"wait for its jobs, or call `scancel 12 13 14`, then start again"):
        lock.acquire(results)
    assert [path.name for path in results.iterdir()] == [lock.NOTE]


@pytest.mark.parametrize("body", ["exit 1", "echo '12|RUNNING'; echo; echo junk", "exec sleep 60", "\0"])
def test_a_squeue_without_an_answer_names_no_jobs(
    body: str, results: Path, squeue: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/bin:/usr/bin")
    monkeypatch.setattr(lock, "SQUEUE_SECONDS", 0.5)
    squeue(body)
    note(results)
    lock.acquire(results)
    holder = lock.read_note(results)
    assert holder and holder.pid == os.getpid()
