"""What a job asks a cluster for: memory and time by rule, size of input and attempt, from a table.

It is read whenever the Snakefile is.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from myostage.errors import UserError
from myostage.runtime.receipts import gigabytes
from myostage.study.inputs import read_tsv

Resource = Callable[[Any, Iterable[str], int], int]
"""(wildcards, input, attempt) -> amount, as Snakemake calls it."""


@dataclass(frozen=True)
class Need:
    """One row of the table: MB of memory and minutes at the first try, and more of both per GB of input."""

    mem_mb: float
    mem_mb_per_gb: float
    minutes: float
    minutes_per_gb: float

    def memory(self, gb: float, attempt: int, most: int) -> int:
        """Memory, MB, of a job with ``gb`` of input at its ``attempt`` (from 1), ``most`` at most."""
        return min(math.ceil((self.mem_mb + self.mem_mb_per_gb * gb) * attempt), most)

    def runtime(self, gb: float, attempt: int, most: int) -> int:
        """Time, minutes, likewise."""
        return min(math.ceil((self.minutes + self.minutes_per_gb * gb) * attempt), most)


def read_needs(path: str | Path) -> dict[str, Need]:
    """The table by rule.

    Raises
    ------
    UserError
        It is no such table (:func:`myostage.study.inputs.read_tsv`), a rule is there twice, or a value is no
        positive number.
    """
    names = [field.name for field in fields(Need)]
    needs: dict[str, Need] = _Needs(path)
    for row in read_tsv(str(path), ["rule", *names], []):
        try:
            values = [float(row[name]) for name in names]
        except ValueError:
            values = [math.nan]
        if row["rule"] in needs:
            raise UserError(f"{path}: rule {row['rule']} is there more than once; keep one row")
        if not all(0 <= value < math.inf for value in values) or not (values[0] > 0 and values[2] > 0):
            raise UserError(
                f"{path}: rule {row['rule']} needs a number of at least 0 in every column, and more than 0 "
                "in mem_mb and minutes"
            )
        needs[row["rule"]] = Need(*values)
    return needs


class _Needs(dict[str, Need]):
    """By rule; a rule without a row is a mistake in the table."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = path

    def __missing__(self, rule: str) -> Need:
        raise UserError(f"{self.path}: rule {rule} has no row; take it from the repository again")


def scaled(need: Need, max_mem_mb: int, max_runtime: int, times: int = 1) -> dict[str, Resource]:
    """``mem_mb`` and ``runtime`` (minutes) of a rule as functions of a job's input and attempt.

    ``times`` is how many runs a job takes in turn: so many times the minutes of one.
    """
    need = replace(need, minutes=need.minutes * times, minutes_per_gb=need.minutes_per_gb * times)

    def mem_mb(wildcards: Any, input: Iterable[str], attempt: int) -> int:
        return need.memory(gigabytes(input), attempt, max_mem_mb)

    def runtime(wildcards: Any, input: Iterable[str], attempt: int) -> int:
        return need.runtime(gigabytes(input), attempt, max_runtime)

    return {"mem_mb": mem_mb, "runtime": runtime}
