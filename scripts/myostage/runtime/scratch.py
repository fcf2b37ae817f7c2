"""Token files on the disk of the node: read once over the network, then as often as training wants."""

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from myostage.errors import UserError
from myostage.runtime.disk import disk_error
from myostage.schema import UnsetVariable, expand_path

log = logging.getLogger(__name__)

MB = 1e6
# Left free for the other jobs of the node: a share of the disk, but no more than so many bytes.
RESERVE_SHARE = 0.05
RESERVE_BYTES = 1e9
# With these the copies are given up, not the job: the shared files are still there.
NO_COPIES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def on_scratch(files: Mapping[str, Path], folder: str | None) -> Iterator[dict[str, Path]]:
    """Copies of the files on scratch, removed at the end; where they do not fit, the files themselves.

    Parameters
    ----------
    files
        By any key; a file under several keys is copied once.
    folder
        The setting ``jobs.scratch``: a folder in which ``$SLURM_TMPDIR``, other variables and ``~`` stand for
        what they are on the node. None: nothing is copied.

    Yields
    ------
    dict[str, Path]
        The same keys.

    Raises
    ------
    UserError
        A variable is not set on the node, the folder does not exist or may not be written to.
    """
    if folder is None or not files:
        yield dict(files)
        return
    parent = _on_this_node(folder)
    sources = {key: Path(os.path.realpath(path)) for key, path in files.items()}
    sizes = {path: path.stat().st_size for path in sources.values()}
    read, own = dict(files), None
    try:
        try:
            if _fits(sum(sizes.values()), len(sizes), parent):
                job = os.environ.get("SLURM_JOB_ID") or os.getpid()
                own = Path(tempfile.mkdtemp(prefix=f"myostage-{job}-", dir=parent))
                copies = _copy(sizes, own)
                read = {key: copies[source] for key, source in sources.items()}
        except OSError as error:
            if error.errno not in NO_COPIES:
                raise disk_error(error, error.filename or parent) or error from None
            log.warning(
                "jobs.scratch: copying to %s failed (%s); the shared files are read instead",
                parent,
                error.strerror,
            )
            _remove(own)
        yield read
    finally:
        _remove(own)


def _on_this_node(folder: str) -> Path:
    path = folder
    try:
        path = expand_path(folder)
        if Path(path).is_dir():
            return Path(path)
        fault = f"{path} is no folder of the node"
    except UnsetVariable as unset:
        fault = f"the variable {', '.join(unset.names)} is not set on the node"
    except (ValueError, OSError):  # no such home; a folder above that may not be entered
        fault = f"{path} is no folder of the node"
    raise UserError(
        f"jobs.scratch is {folder}, but {fault} {os.uname().nodename}; name a folder that every node has, or "
        "leave jobs.scratch out"
    )


def _fits(needed: int, number: int, parent: Path) -> bool:
    """Whether so many bytes leave the reserve of the disk untouched; the log says if not."""
    disk = shutil.disk_usage(parent)
    spare = max(0.0, disk.free - min(RESERVE_SHARE * disk.total, RESERVE_BYTES))
    if needed > spare:
        log.warning(
            "jobs.scratch: %d files take %.0f MB, %s has %.0f MB to spare; the shared files are read instead",
            number,
            needed / MB,
            parent,
            spare / MB,
        )
    return needed <= spare


def _copy(sizes: Mapping[Path, int], own: Path) -> dict[Path, Path]:
    """Copy the files, given with their bytes, into the folder; numbered, as file names may repeat."""
    started = time.monotonic()
    copies: dict[Path, Path] = {}
    for index, (source, size) in enumerate(sizes.items()):
        copies[source] = own / f"{index:04d}-{source.name}"
        shutil.copyfile(source, copies[source])
        copied = copies[source].stat().st_size
        if copied != size:
            raise OSError(errno.EIO, f"{source} has {size} bytes, its copy {copied}")
    seconds = time.monotonic() - started
    total_mb = sum(sizes.values()) / MB
    log.info(
        "copied %d files, %.1f MB, to %s in %.1f s (%.0f MB/s)",
        len(copies),
        total_mb,
        own,
        seconds,
        total_mb / max(seconds, 1e-9),
    )
    return copies


def _remove(own: Path | None) -> None:
    if own is not None:
        shutil.rmtree(own, ignore_errors=True)
        if own.exists():
            log.warning("%s could not be removed; delete it", own)
