"""A file of text that a user names: refused where reading it would wait for ever or fill memory."""

import errno
import stat
from pathlib import Path

from myostage.errors import UserError


def read_text(path: str | Path, what: str, wanted: str, most_bytes: int) -> str:
    """The text of a regular file of at most ``most_bytes``, in UTF-8 with or without a byte order mark.

    Parameters
    ----------
    what, wanted : str
        What messages call the file, and what they ask for: ``"table"``, ``"a table of tab-separated text"``.
    """
    path = str(path)
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is a folder; name {wanted}")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: is a pipe or device; name {wanted}")
        if status.st_size > most_bytes:
            raise UserError(
                f"{path}: has {status.st_size:,} bytes, and a {what} at most {most_bytes:,}; name {wanted}"
            )
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; correct the path, or write it") from None
    except ValueError:
        raise UserError(f"{path!r}: no path of a file; correct it") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: symbolic links that point at each other; name {wanted}") from None
        reason = error.strerror
        raise UserError(f"{path}: cannot be read ({reason}); correct its path or permissions") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        before = data[: error.start].rpartition(b"\n")[2].decode()[-30:]
        raise UserError(
            f"{path}, line {line}: byte {data[error.start]:#x} after {before!r} is not UTF-8 (Latin-1?); "
            "save it as UTF-8"
        ) from None
