"""What a job of several slides or runs leaves behind: a statement for each of them, one receipt for all.

A job makes its members one after another. When a member is complete, its statement is written beside it:
recipe (rule, specification, code, checksums of inputs, versions) and sizes of its files. A job that was
killed, or a batch that was cut otherwise, goes on with the members that have no statement of the same recipe.
The receipt is written last and is all that the rules hand on, so that a batch can have any size.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from myostage.errors import UserError
from myostage.runtime import provenance

BYTES_PER_GB = 1e9


def is_made(statement: str, recipe: dict[str, Any]) -> bool:
    """Whether a member is complete: stated by the same recipe, with all its files as large as stated."""
    try:
        said = json.loads(Path(statement).read_text(encoding="utf-8"))
        sizes = said.pop("outputs")
        complete = all(Path(path).stat().st_size == size for path, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(complete and said == json.loads(provenance.to_json(recipe)))


def receipt(rule: str, statements: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The receipt of complete members: a digest of each statement, and the sizes of all files.

    Parameters
    ----------
    rule
        The rule that made them.
    statements
        Member and path of its statement.
    """
    members: dict[str, str] = {}
    outputs: dict[str, int] = {}
    for member, path in statements:
        text = Path(path).read_text(encoding="utf-8")
        members[member] = hashlib.sha256(text.encode()).hexdigest()[:16]
        outputs |= json.loads(text)["outputs"]
    return {"rule": rule, "members": members, "outputs": outputs}


def joined(rule: str, receipts: Iterable[str]) -> dict[str, Any]:
    """One receipt for the members of several."""
    members: dict[str, str] = {}
    outputs: dict[str, int] = {}
    for path in receipts:
        found = read(path)
        assert found is not None
        members |= found["members"]
        outputs |= found["outputs"]
    return {"rule": rule, "members": members, "outputs": outputs}


def read(path: str) -> dict[str, Any] | None:
    """A receipt; None where the file is none, as JSON of another kind, in whatever folder, is not.

    Raises
    ------
    UserError
        It lies where receipts do and is damaged.
    FileNotFoundError
        It is not there.
    """
    if not path.endswith(".json") or "/made/" not in path:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        parts = [found.get(key) for key in ("members", "outputs")] if isinstance(found, dict) else []
        if not any(part is not None for part in parts):
            return None
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError("members or outputs are not listed")
    except ValueError as error:
        raise UserError(
            f"{path}: the receipt of a job is damaged ({error}); delete it and run the workflow again"
        ) from None
    return found


def verify(inputs: Iterable[str]) -> None:
    """Whether the files that the receipts among ``inputs`` stand for are there, as large as they were.

    Raises
    ------
    UserError
        One is gone or was changed.
    """
    for path in inputs:
        for output, size in (read(path) or {"outputs": {}})["outputs"].items():
            try:
                found = Path(output).stat().st_size
            except OSError:
                found = -1
            if found != size:
                fault = (
                    "is gone since it was made;"
                    if found < 0
                    else "was changed since it was made; delete it and"
                )
                raise UserError(f"{output} {fault} run the workflow again, which makes it anew")


@cache
def _gigabytes(path: str, changed: int) -> float:
    found = read(path)
    sizes = found["outputs"].values() if found else [Path(path).stat().st_size]
    return sum(sizes) / BYTES_PER_GB


def gigabytes(inputs: Iterable[str]) -> float:
    """Size of input files, GB; a receipt counts what it stands for.

    Raises
    ------
    FileNotFoundError
        One is not there yet.
    """
    return sum(_gigabytes(path, Path(path).stat().st_mtime_ns) for path in inputs)
