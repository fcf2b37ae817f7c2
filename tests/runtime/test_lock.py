"""One Snakemake at a time on a results folder, and a lock that outlived its Snakemake is no hindrance."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from myostage.errors import UserError
from myostage.runtime import lock

SCRIPTS = Path(__file__).parents[2] / "scripts"
RUN = "0d5c2f2e-7f5e-4c0e-9d0a-1b1f6a1e2c3d"
# Locks a folder when told to, says how that went, and ends when told to.
OTHER = """
import sys
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
"""


def start(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert hear(process) == "ready"
    return process


def hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def ended() -> int:
    """Number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write(folder: Path, **changes: Any) -> lock.Holder:
    """The lock of a holder like this process, but for the changes."""
    holder = replace(lock._this_process(), since="2024-05-01T08:00:00+00:00", **changes)
    (folder / lock.NAME).write_text(json.dumps(asdict(holder)))
    return holder


def holder_of(folder: Path) -> int:
    return int(json.loads((folder / lock.NAME).read_text())["pid"])


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
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def test_lock_says_who_works_there(tmp_path: Path) -> None:
    lock.acquire(str(tmp_path / "new/results"))
    said = json.loads((tmp_path / "new/results/.lock").read_text())
    assert said.keys() == {"user", "host", "pid", "started", "since", "directory"}
    assert said["pid"] == os.getpid() and said["directory"] == str(Path.cwd())
    assert said["since"].endswith("+00:00")


def test_the_same_process_may_lock_twice(results: Path) -> None:
    lock.acquire(results)
    lock.acquire(results)
    lock.release(results)
    assert not list(results.iterdir())
    lock.release(results)


def test_a_living_snakemake_is_not_disturbed(results: Path) -> None:
    other = start(results)
    go_on(other)
    assert hear(other) == "locked"
    with pytest.raises(UserError) as caught:
        lock.acquire(results)
    sentence = str(caught.value)
    assert f"(process {other.pid} on {socket.gethostname()}, since 20" in sentence
    assert (
        f"works on {results}: wait for it, or, if it is gone for good, delete the file {results}/.lock"
        in sentence
    )
    lock.release(results)
    assert holder_of(results) == other.pid
    go_on(other)
    other.communicate()
    lock.acquire(results)  # it ended without unlocking
    assert holder_of(results) == os.getpid()


def test_the_lock_of_a_process_that_ended_is_taken_over(
    results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = write(results, pid=ended())
    with caplog.at_level(logging.INFO, "myostage"):
        lock.acquire(results)
    assert holder_of(results) == os.getpid()
    (record,) = caplog.records
    assert record.getMessage() == f"{gone} ended without unlocking {results}: its lock is taken over"
    assert [path.name for path in results.iterdir()] == [".lock"]


def test_a_process_that_is_not_waited_for_has_ended(results: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.read() == b""
    while lock._state(process.pid)[0] != "Z":
        pass
    write(results, pid=process.pid, started=lock._state(process.pid)[1])
    lock.acquire(results)
    process.wait()


def test_a_number_used_again_is_another_process(results: Path) -> None:
    write(results, pid=os.getppid(), started="an-earlier-boot 1")
    lock.acquire(results)
    assert holder_of(results) == os.getpid()


@pytest.mark.parametrize("side", ["then", "now"])
def test_without_a_start_a_running_process_counts(
    side: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if side == "then":
        write(results, pid=os.getppid(), started="")
    else:
        write(results, pid=os.getppid(), started="boot 1")
        monkeypatch.setattr(lock, "_state", lambda pid: ("", ""))
    with pytest.raises(UserError, match="works on"):
        lock.acquire(results)


def test_a_process_of_another_user_is_alive(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "denied")

    write(results, pid=1, started=lock._state(1)[1], user="alice")
    monkeypatch.setattr(os, "kill", denied)
    with pytest.raises(UserError, match="a Snakemake of alice"):
        lock.acquire(results)


def test_another_host_cannot_be_judged(results: Path, squeue: Callable[[str], None]) -> None:
    write(results, pid=ended(), host="login2", directory="/home/alice/study")
    with pytest.raises(UserError) as caught:
        lock.acquire(results)
    sentence = str(caught.value)
    assert " on login2, since 2024-05-01T08:00:00+00:00, started in /home/alice/study) works on " in sentence
    assert sentence.endswith(f"cannot be told from here, delete the file {results}/.lock")
    squeue("echo '12|RUNNING|x|/home/alice/study|rule_train'")
    with pytest.raises(UserError, match=r"here, cancel its SLURM jobs \(`scancel 12`\) and delete the file"):
        lock.acquire(results)


def no_lock(pid: object) -> str:
    return json.dumps(asdict(lock._this_process()) | {"pid": pid})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"pid": 1}', "\0\0", no_lock(0), no_lock("1"), no_lock(2**40)]
)
def test_a_damaged_lock_is_respected(text: str, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WRITING_SECONDS", 0.1)
    (results / ".lock").write_text(text)
    with pytest.raises(
        UserError, match=r"damaged or may not be read: wait .* delete the file .*/results/\.lock$"
    ):
        lock.acquire(results)
    lock.release(results)
    assert (results / ".lock").read_text() == text


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_lock_that_is_no_file_is_respected(
    kind: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WRITING_SECONDS", 0.1)
    if kind == "folder":
        (results / ".lock").mkdir()
    else:
        (results / ".lock").symlink_to(results / "nowhere")
    with pytest.raises(UserError, match="may not be read"):
        lock.acquire(results)


def test_a_lock_that_is_being_written_is_waited_for(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results / ".lock"
    path.touch()
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: write(results, host="login2"))
    with pytest.raises(UserError, match="on login2"):
        lock.acquire(results)


@pytest.mark.parametrize("stale", [False, True])
def test_of_eight_at_once_one_wins(stale: bool, results: Path) -> None:
    if stale:
        write(results, pid=ended())
    others = [start(results) for _ in range(8)]
    for other in others:
        go_on(other)
    answers = [hear(other) for other in others]
    winners = [other.pid for other, answer in zip(others, answers, strict=True) if answer == "locked"]
    assert winners == [holder_of(results)]
    assert sum(f"process {winners[0]} on" in answer for answer in answers) == 7
    for other in others:
        go_on(other)
        other.communicate()


def test_a_lock_that_changed_meanwhile_is_not_written_over(results: Path) -> None:
    gone = write(results, pid=ended())
    text = (results / ".lock").read_bytes()
    fresh = write(results, host="login2")
    assert not lock._replace(results / ".lock", text, gone)
    assert json.loads((results / ".lock").read_text()) == asdict(fresh)
    (results / ".lock").unlink()
    assert not lock._replace(results / ".lock", text, gone)
    assert not list(results.iterdir())


@pytest.mark.parametrize("what", ["locks", "rights"])
def test_where_taking_over_is_impossible_the_user_does_it(
    what: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(results, pid=ended())
    if what == "locks":

        def none(file: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(lock.fcntl, "flock", none)
    else:
        real = os.open

        def denied(path: Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, "denied")
            return real(path, flags, mode)

        monkeypatch.setattr(os, "open", denied)
    with pytest.raises(UserError, match=r"cannot be taken over: delete the file .*/results/\.lock$"):
        lock.acquire(results)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EROFS, r"results is not writable: "),
        (errno.EACCES, r"results is not writable: "),
        (errno.ENOSPC, r"the disk of .*/results is full: "),
        (errno.EDQUOT, r"quota on the disk of .*/results "),
    ],
)
def test_a_folder_that_takes_no_file(
    number: int, sentence: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match=sentence):
        lock.acquire(results)


def test_a_disk_that_takes_the_name_but_not_the_content(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, mode: str) -> None:
        os.close(file)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(UserError, match="is full"):
        lock.acquire(results)
    assert not list(results.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/results"):
        with pytest.raises(UserError, match="is no folder"):
            lock.acquire(path)


QUEUE = rf"""
[ "$1 $2" = "--user=alice --noheader" ] || exit 1
cat << 'END'
11|RUNNING|notebook|/home/alice/study|(null)
12|RUNNING|{RUN}|/home/alice/study|rule_train_wildcards_batch=1
13_[3-9%2]|PENDING|{RUN}|/home/alice/study|rule_embed
13_1|RUNNING|{RUN}|/home/alice/study|rule_embed
14|SUSPENDED|study_{RUN}|/home/alice/study|set by the cluster
15|COMPLETING|{RUN}|/home/alice/study|rule_train
16|RUNNING|{RUN}|/home/alice/study2|rule_train
17|RUNNING|{RUN}|/home/alice|rule_train
END
"""


@pytest.fixture
def queue(squeue: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/bin:/usr/bin")
    squeue(QUEUE)


@pytest.mark.usefixtures("queue")
def test_orphans_are_jobs_of_that_user_and_directory(results: Path) -> None:
    assert lock.orphans(write(results, user="alice", directory="/home/alice/study")) == ["12", "13", "14"]
    assert lock.orphans(write(results, user="alice", directory="/home/alice/study2")) == ["16"]
    assert lock.orphans(write(results, user="bob", directory="/home/alice/study")) == []


@pytest.mark.usefixtures("queue")
def test_orphans_are_not_run_twice(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(results, user="alice", directory="/home/alice/study", pid=ended())
    found = (
        f"SLURM is still at work on {results} for a Snakemake that ended (job 12, 13, 14); wait for its jobs"
    )
    with pytest.raises(UserError) as caught:
        lock.acquire(results)
    assert str(caught.value) == f"{found}, or have alice call `scancel 12 13 14`, then start again"
    monkeypatch.setattr(lock, "_user", lambda: "alice")
    with pytest.raises(UserError) as caught:
        lock.acquire(results)
    assert str(caught.value) == f"{found}, or `scancel 12 13 14`, then start again"
    assert holder_of(results) == before.pid


@pytest.mark.parametrize("body", ["exit 1", "echo '12|RUNNING'; echo; echo junk", "exec sleep 60", "\0"])
def test_a_squeue_that_gives_no_answer_names_no_orphans(
    body: str, results: Path, squeue: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/bin:/usr/bin")
    monkeypatch.setattr(lock, "SQUEUE_SECONDS", 0.5)
    squeue(body)
    assert lock.orphans(write(results, pid=ended())) == []
    lock.acquire(results)
    assert holder_of(results) == os.getpid()


def test_settings_of_squeue_in_the_environment_do_not_count(
    results: Path, squeue: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    squeue(f"""[ "$SQUEUE_STATES" ] || echo '12|RUNNING|{RUN}|{Path.cwd()}|rule_train'""")
    assert lock.orphans(lock._this_process()) == ["12"]
