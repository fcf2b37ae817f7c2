"""What a job of several slides or runs leaves behind: a statement for each of them, one receipt for all.

A job makes its members one after another. When a member is complete, its statement is written beside it:
recipe (rule, specification, code, checksums of inputs, versions), and sizes and checksums of its files. A job
that was killed, or a batch that was cut otherwise, goes on with the members that have no statement of the
same recipe. The receipt is written last and is all that the rules hand on, so that a batch can have any size.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from myostage.errors import Damaged, UserError
from myostage.runtime import checksums, provenance

BYTES_PER_GB = 1e9


def is_made(statement: str, recipe: dict[str, Any]) -> bool:
    """Whether a member is complete: stated by the same recipe, with all its files as they were written."""
    try:
        said = json.loads(Path(statement).read_text(encoding="utf-8"))
        outputs = said.pop("outputs")
        complete = not any(checksums.fault(path, output) for path, output in outputs.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(complete and said == json.loads(provenance.to_json(recipe)))


def receipt(rule: str, statements: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The receipt of complete members: a digest of each statement, and the what all files are.

    Parameters
    ----------
    rule
        The rule that made them.
    statements
        Member and path of its statement.
    """
    members: dict[str, str] = {}
    outputs: dict[str, Any] = {}
    for member, path in statements:
        text = Path(path).read_text(encoding="utf-8")
        members[member] = hashlib.sha256(text.encode()).hexdigest()[:16]
        outputs |= json.loads(text)["outputs"]
    return {"rule": rule, "members": members, "outputs": outputs}


def joined(rule: str, receipts: Iterable[str]) -> dict[str, Any]:
    """One receipt for the members of several."""
    members: dict[str, str] = {}
    outputs: dict[str, Any] = {}
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
        for output, said in found["outputs"].items():
            if isinstance(said, int):  # of version 0.2: what it stands for is about to be made again
                found["outputs"][output] = {"bytes": said}
            elif not (isinstance(said, dict) and isinstance(said.get("bytes"), int)):
                raise ValueError(f"{output} is not described")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: the receipt of a job is damaged ({error}); delete it and run the workflow again"
        ) from None
    return found


def verify(inputs: Iterable[str]) -> None:
    """Whether what the workflow made of ``inputs``, and what receipts stand for, is as it was made.

    Tables beyond a few MB are read to the end by nobody: their readers verify what they read of them. Other
    large files that a receipt stands for are left to the jobs whose input they are.

    Raises
    ------
    Damaged
        One is gone, was changed or is damaged.
    """
    for path in inputs:
        receipt = read(path)
        if receipt is None:
            _verify_file(path)
        else:
            for output, said in receipt["outputs"].items():
                _refuse(output, checksums.fault(output, said, every_byte=False))


def _verify_file(path: str) -> None:
    """A file may be stated by several rules, most of them no longer in use: any that fits will do."""
    faults = [checksums.fault(path, said, every_byte="frame" not in said) for said in provenance.stated(path)]
    if faults and all(faults):
        _refuse(path, faults[0])


def _refuse(path: str, fault: str) -> None:
    if fault.endswith("gone since it was made"):
        raise UserError(f"{path} {fault}; run the workflow again")
    if fault:
        raise Damaged(f"{path} {fault}")


@cache
def _gigabytes(path: str, changed: int) -> float:
    found = read(path)
    made = found["outputs"].values() if found else [{"bytes": Path(path).stat().st_size}]
    return sum(said["bytes"] for said in made) / BYTES_PER_GB


def gigabytes(inputs: Iterable[str]) -> float:
    """Size of input files, GB; a receipt counts what it stands for.

    Raises
    ------
    FileNotFoundError
        One is not there yet.
    """
    return sum(_gigabytes(path, Path(path).stat().st_mtime_ns) for path in inputs)
