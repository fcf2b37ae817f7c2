"""One Snakemake at a time on a results folder, whoever starts it and wherever.

The lock is a file in the folder itself, so that it holds between working directories, users and hosts. One
that outlived its Snakemake is taken over where that can be told, which is on the same host only.
"""

import fcntl
import getpass
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from myostage.errors import UserError
from myostage.runtime.disk import disk_error

log = logging.getLogger(__name__)

NAME = ".lock"
SQUEUE_SECONDS = 20.0
# For so long a lock without content may be one that is being written.
WRITING_SECONDS = 2.0
# A job of the SLURM plugin: its comment names the rule, its name is the id of the Snakemake run.
_RULE_COMMENT = "rule_"
_RUN_NAME = re.compile(r"(?:.*_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Holder:
    """Who works on a folder.

    ``started`` tells the process from a later one of the same number: the boot of the host and the clock
    ticks from it to the start of the process; empty where the system does not tell. ``since`` is in UTC.
    """

    user: str
    host: str
    pid: int
    started: str
    since: str
    directory: str

    def __str__(self) -> str:
        return (
            f"a Snakemake of {self.user} (process {self.pid} on {self.host}, since {self.since}, "
            f"started in {self.directory})"
        )


def acquire(folder: str | Path) -> None:
    """Lock the ``folder``, creating it if need be; a second time does nothing.

    Raises
    ------
    UserError
        Another Snakemake works on it, or SLURM jobs of one that ended; or no file can be written there.
    """
    folder = Path(folder)
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not (_create(path) or _take_over(path)):
            pass
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"{folder} is no folder; move the file away, or name another results folder"
        ) from None
    except OSError as error:
        raise disk_error(error, folder) or error from None


def release(folder: str | Path) -> None:
    """Unlock the ``folder`` if it is this process that locked it."""
    path = Path(folder) / NAME
    try:
        text = _read(path)
        holder = _parse(text) if text else None
        if holder and _is_this_process(holder):
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the lock %s could not be removed (%s); delete the file", path, error.strerror)


def _create(path: Path) -> bool:
    """Whether there was no lock, and now there is ours."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(file, "wb") as out:
            out.write(_text(_this_process()))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _take_over(path: Path) -> bool:
    """Whether the lock is ours now; False if it changed meanwhile, which calls for another look."""
    found = _read_whole(path)
    if found is None:
        return False
    text, holder = found
    if _is_this_process(holder):
        return True
    folder = path.parent
    if not _is_gone(holder):
        elsewhere = holder.host != socket.gethostname()
        unsure = ", which cannot be told from here" if elsewhere else ""
        jobs = orphans(holder) if elsewhere else []
        cancel = f"cancel its SLURM jobs (`scancel {' '.join(jobs)}`) and " if jobs else ""
        raise UserError(
            f"{holder} works on {folder}: wait for it, or, if it is gone for good{unsure}, {cancel}"
            f"delete the file {path}"
        )
    if jobs := orphans(holder):
        cancel = f"`scancel {' '.join(jobs)}`"
        if holder.user != _user():
            cancel = f"have {holder.user} call {cancel}"
        raise UserError(
            f"SLURM is still at work on {folder} for a Snakemake that ended (job {', '.join(jobs)}); wait "
            f"for its jobs, or {cancel}, then start again"
        )
    return _replace(path, text, holder)


def _replace(path: Path, text: bytes, holder: Holder) -> bool:
    """Write our name over that of a ``holder`` that is gone, unless another process was faster.

    The file is written in place under a lock of the operating system, and only if it still says what was
    found stale: a file that is renamed or deleted could by then be the fresh lock of another process.
    """
    by_hand = UserError(
        f"{holder} ended without unlocking {path.parent}, and its lock cannot be taken over: delete the file "
        f"{path}"
    )
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except PermissionError:
        raise by_hand from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a disk without such locks
            raise by_hand from None
        if os.pread(file, len(text) + 1, 0) != text or not _is_open(file, path):
            return False
        ours = _text(_this_process())
        os.pwrite(file, ours, 0)
        os.ftruncate(file, len(ours))
        if not _is_open(file, path):
            return False
    finally:
        os.close(file)
    log.info("%s ended without unlocking %s: its lock is taken over", holder, path.parent)
    return True


def _is_open(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read_whole(path: Path) -> tuple[bytes, Holder] | None:
    """The lock as it is written and what it says; None if there is none any more."""
    waited_from = time.monotonic()
    while True:
        text = _read(path)
        if text is None:
            return None
        holder = _parse(text)
        if holder:
            return text, holder
        if time.monotonic() - waited_from > WRITING_SECONDS:
            raise UserError(
                f"{path} says that a Snakemake works on {path.parent}, but not which, as the file is damaged "
                f"or may not be read: wait for it, or, if it is gone for good, delete the file {path}"
            )
        time.sleep(WRITING_SECONDS / 40)


def _read(path: Path) -> bytes | None:
    """What the lock says: nothing if it cannot be read, None if there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    try:
        return os.read(file, 2**16)
    except OSError:
        return b""
    finally:
        os.close(file)


def _parse(text: bytes) -> Holder | None:
    try:
        holder = Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None
    words = (holder.user, holder.host, holder.started, holder.since, holder.directory)
    usable = (
        all(isinstance(word, str) for word in words) and type(holder.pid) is int and 0 < holder.pid < 2**31
    )
    return holder if usable else None


def _text(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=1) + "\n").encode()


def _this_process() -> Holder:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(_user(), socket.gethostname(), os.getpid(), _state(os.getpid())[1], since, str(Path.cwd()))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may know no name
        return str(os.getuid())


def _is_this_process(holder: Holder) -> bool:
    ours = _this_process()
    return (holder.host, holder.pid, holder.started) == (ours.host, ours.pid, ours.started)


def _is_gone(holder: Holder) -> bool:
    """Whether the process has certainly ended, which only its own host can tell."""
    if holder.host != socket.gethostname():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    state, started = _state(holder.pid)
    # Z, X: it ended, and its parent has not asked how
    return state in ("Z", "X") or bool(started and holder.started and started != holder.started)


def _state(pid: int) -> tuple[str, str]:
    """State letter and start of a process, as in ``Holder.started``; empty without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Field 2, the name, may hold blanks and brackets; field 3 is the state, field 22 the start.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return "", ""


def orphans(holder: Holder) -> list[str]:
    """Ids of SLURM jobs, queued or running, of a Snakemake, told by its user and working directory.

    None where SLURM is absent or does not answer. Jobs of another Snakemake of that user in that directory
    cannot be told apart.
    """
    command = ["squeue", f"--user={holder.user}", "--noheader", "--format=%i|%T|%j|%Z|%k"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    if not shutil.which("squeue"):
        return []
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=SQUEUE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode:
        return []
    ids = []
    for line in answer.stdout.splitlines():
        job, state, name, place = (line.split("|", 3) + [""] * 3)[:4]
        if state == "COMPLETING" or not place.startswith(f"{holder.directory}|"):
            continue
        comment = place.removeprefix(f"{holder.directory}|")
        if comment.startswith(_RULE_COMMENT) or _RUN_NAME.fullmatch(name):
            # an array of jobs is listed task by task, as 12_3 or 12_[4-9]
            ids.append(job.strip().split("_")[0])
    return list(dict.fromkeys(ids))
