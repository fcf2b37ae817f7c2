"""One Snakemake at a time on a results folder, whoever starts it and wherever.

``filelock`` holds the lock, a file in the folder that names a process and its host, and takes it over from a
process that ended on the same host. A note beside it says who works there. The note outlives a Snakemake that
was killed, and leads to the SLURM jobs that are still at work for it.
"""

import getpass
import json
import logging
import os
import re
import socket
import subprocess
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from myostage.errors import UserError
from myostage.runtime.disk import disk_error

if TYPE_CHECKING:
    from filelock import SoftFileLock

log = logging.getLogger(__name__)

LOCK, NOTE = ".lock", ".lock.json"
# how long a lock may be without its note, and squeue without an answer
WAIT_SECONDS, SQUEUE_SECONDS = 1.0, 20.0
# name and comment of a job of the SLURM plugin: the id of the Snakemake run, and the rule
JOB = re.compile(r"[^|]*\|rule_|(?:.*_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\|")
HELD: "dict[Path, SoftFileLock]" = {}


class Holder(NamedTuple):
    """The Snakemake that works on a folder; ``since`` is in UTC."""

    user: str
    host: str
    pid: int
    since: str
    directory: str

    def __str__(self) -> str:
        place = f"process {self.pid} on {self.host}, since {self.since}, started in {self.directory}"
        return f"a Snakemake of {self.user} ({place})"


def acquire(folder: str | Path) -> None:
    """Lock the ``folder``, creating it if need be; a second time does nothing.

    Raises
    ------
    UserError
        Another Snakemake works on it, or SLURM jobs of a Snakemake that ended; or it cannot be written to.
    """
    # only what starts Snakemake locks, every job reads this file
    from filelock import SoftFileLock, Timeout

    folder = Path(folder)
    if folder.absolute() in HELD:
        return
    lock = SoftFileLock(folder / LOCK, timeout=WAIT_SECONDS, thread_local=False)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        if ended := read_note(folder):
            if jobs := orphans(ended):
                raise UserError(
                    f"SLURM is still at work on {folder} for {ended}, which ended; wait for its jobs, or "
                    f"call `scancel {' '.join(jobs)}`, then start again"
                )
            log.info("%s ended without unlocking %s: its lock is taken over", ended, folder)
        ours = Holder(
            _user(),
            socket.gethostname(),
            os.getpid(),
            since,
            str(Path.cwd()),
        )
        (folder / NOTE).write_text(json.dumps(ours._asdict()) + "\n", encoding="utf-8")
    except Timeout:
        holder = read_note(folder)
        jobs = orphans(holder) if holder else []
        cancel = f"call `scancel {' '.join(jobs)}` and " if jobs else ""
        raise UserError(
            f"{holder or 'a Snakemake'} works on {folder}: wait for it, or, if it is gone for good, {cancel}"
            f"delete the file {folder / LOCK}"
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} is no folder; move the file away, or name another folder") from None
    except OSError as error:
        lock.release()
        raise disk_error(error, folder) or error from None
    except UserError:
        lock.release()
        raise
    HELD[folder.absolute()] = lock


def release(folder: str | Path) -> None:
    """Unlock the ``folder`` if it is this process that locked it."""
    lock = HELD.pop(Path(folder).absolute(), None)
    try:
        if lock:
            (Path(folder) / NOTE).unlink(missing_ok=True)
            lock.release()
    except OSError as error:
        log.warning("%s could not be unlocked (%s): delete %s there", folder, error.strerror, LOCK)


def read_note(folder: Path) -> Holder | None:
    """Who works on the ``folder``, or did when it was killed; None without a readable note."""
    try:
        return Holder(**json.loads((folder / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def orphans(holder: Holder) -> list[str]:
    """Ids of SLURM jobs, queued or running, of a Snakemake, found by its user and working directory.

    None where SLURM is absent or does not answer. Jobs of another Snakemake of that user in that directory
    cannot be told apart.
    """
    command = ["squeue", f"--user={holder.user}", "--noheader", "--format=%i|%T|%Z|%j|%k"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    call = partial(subprocess.run, capture_output=True, text=True, errors="replace", timeout=SQUEUE_SECONDS)
    try:
        answer = call(command, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return []
    ids = []
    for line in answer.stdout.splitlines() if answer.returncode == 0 else ():
        job, state, rest = [*line.split("|", 2), "", ""][:3]
        name_and_comment = rest.removeprefix(f"{holder.directory}|")
        if state != "COMPLETING" and name_and_comment != rest and JOB.match(name_and_comment):
            # an array of jobs is listed task by task, as 12_3 or 12_[4-9]
            ids.append(job.strip().split("_")[0])
    return list(dict.fromkeys(ids))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may know no name
        return str(os.getuid())
