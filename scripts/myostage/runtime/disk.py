"""What a disk refuses, in words a user can act on."""

import errno
import os
from pathlib import Path

from myostage.errors import UserError

_SILENT = (
    "the network disk of {path} does not answer: see that it is mounted and its server runs, then start again"
)
_HANDLES = "too many files are open, and {path} is one more: allow more (`ulimit -n 4096`), then start again"
_SENTENCES = {
    errno.ENOSPC: "the disk of {path} is full: free space there (`df -h {path}` shows the bytes, "
    "`df -i {path}` the number of files), then start again",
    errno.EDQUOT: "your quota on the disk of {path} is used up: delete what you no longer need there, or ask "
    "for more, then start again",
    errno.EROFS: "{path} is not writable: its disk is mounted read-only; choose another folder, or have the "
    "disk mounted for writing",
    errno.ESTALE: "the network disk of {path} no longer knows the file (stale file handle): see that it "
    "is mounted and that nobody replaced the folder, then start again",
    errno.EIO: "the disk of {path} fails (input/output error): have it and its connection checked, then "
    "start again",
    errno.ENOTCONN: _SILENT,
    errno.ETIMEDOUT: _SILENT,
    errno.EHOSTDOWN: _SILENT,
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
}
_DENIED = "{path} is not {way}: you lack the rights to it; have its owner grant them, or choose another path"


def disk_error(error: OSError, path: str | Path) -> UserError | None:
    """The sentence for an ``error`` of the disk on which ``path`` lies.

    Parameters
    ----------
    error
        As the operating system raised it.
    path
        The file or folder that the user knows, which need not be the one that the error names.

    Returns
    -------
    UserError | None
        To be raised: no space, no quota, a read-only disk, no rights, a stale handle, a failing or silent
        disk, too many open files; None for every other error.
    """
    if error.errno in (errno.EACCES, errno.EPERM):
        readable = os.access(path, os.R_OK) or not os.access(path, os.F_OK)
        return UserError(_DENIED.format(path=path, way="writable" if readable else "readable"))
    sentence = _SENTENCES.get(error.errno or 0)
    return UserError(sentence.format(path=path)) if sentence else None
