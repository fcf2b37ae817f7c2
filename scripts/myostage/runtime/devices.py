"""A GPU of its own for every job on a machine that has several.

Which GPU is taken is settled by file locks, so that a job that is killed frees its GPU at once. The module
imports nothing that starts CUDA, as a process can no longer choose its GPU afterwards.
"""

import fcntl
import logging
import os
import random
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICE_FILES = Path("/dev")
# Not $TMPDIR, which may differ from job to job: all users of a machine have to meet here.
LOCKS = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
POLL_SECONDS = 2.0


@contextmanager
def own_gpu(wanted: int) -> Iterator[str | None]:
    """Hold GPUs that no other job holds, and show CUDA only these; wait while too few are free.

    To be entered before CUDA starts. In a SLURM job the scheduler has assigned the GPUs; only where it shows
    the job more of them than are wanted (several jobs in one allocation) do they share these out here.

    Parameters
    ----------
    wanted
        Number of GPUs; more than the machine has are taken as all of them.

    Yields
    ------
    str | None
        ``CUDA_VISIBLE_DEVICES`` within the block; None where it is left as it is: no GPU is wanted, there is
        none, SLURM has assigned them, or no locks can be kept (which the log says).
    """
    held = _take(wanted)
    if not held:
        yield None
        return
    before = os.environ.get(VISIBLE)
    own = ",".join(held)
    log.info("on GPU %s", own)
    os.environ[VISIBLE] = own
    try:
        yield own
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
        _free(held)


def _take(wanted: int) -> dict[str, int]:
    """The GPUs taken, each with the open file whose lock holds it; none where there is nothing to choose."""
    devices = _devices()
    if wanted < 1 or not devices or ("SLURM_JOB_ID" in os.environ and len(devices) <= wanted):
        return {}
    logged = False
    try:
        while not (held := _try_all(devices, min(wanted, len(devices)))):
            if not logged:
                log.info("waiting for a GPU: other jobs are on %s", ", ".join(devices))
                logged = True
            # Uneven, lest two jobs that want several keep on taking half of them from each other.
            time.sleep(POLL_SECONDS * random.uniform(0.5, 1.0))
    except OSError as error:
        log.warning("no locks on GPUs can be kept in %s (%s): jobs may share a GPU", LOCKS, error.strerror)
        return {}
    return held


def _devices() -> list[str]:
    """The GPUs that CUDA would show this process."""
    if VISIBLE in os.environ:
        devices: list[str] = []
        for entry in os.environ[VISIBLE].split(","):
            device = entry.strip()
            # CUDA, too, ignores what follows an entry that is no device.
            if device in ("", "-1", "NoDevFiles"):
                break
            devices.append(device)
        return list(dict.fromkeys(devices))
    if "SLURM_JOB_ID" in os.environ:
        return []
    found = [file for file in DEVICE_FILES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name)]
    return [str(index) for index in range(len(found))]


def _try_all(devices: list[str], wanted: int) -> dict[str, int]:
    """``wanted`` free devices, locked; none at all if fewer are free."""
    held: dict[str, int] = {}
    try:
        for device in devices:
            if len(held) < wanted and (file := _lock(device)) is not None:
                held[device] = file
    except BaseException:
        _free(held)
        raise
    if len(held) < wanted:
        _free(held)
        return {}
    return held


def _free(held: dict[str, int]) -> None:
    """Close the files, which drops their locks.

    They are not deleted: a job that has one open by then would lock what no other job sees.
    """
    for file in held.values():
        os.close(file)


def _lock(device: str) -> int | None:
    """The open, locked file of a device; None where another process has it."""
    # Within an allocation, numbers of devices may count from 0 in each.
    allocation = f"slurm{os.environ['SLURM_JOB_ID']}-" if "SLURM_JOB_ID" in os.environ else ""
    path = LOCKS / f"myostage-gpu-{allocation}{re.sub(r'[^A-Za-z0-9_.-]', '_', device)}.lock"
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A cleaner of temporary files may have removed it between opening and locking.
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _open(path: Path) -> int:
    """Open for reading, which is enough to lock a file of another user; create it if there is none.

    Never through a link nor waiting at a pipe that someone put there in a folder open to all.
    """
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            pass
        mask = os.umask(0o022)
        try:
            return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            pass
        finally:
            os.umask(mask)
