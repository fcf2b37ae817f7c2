"""The one exception a user sees."""

from collections.abc import Sequence


class UserError(Exception):
    """What is wrong, where it is and what to do, in one sentence without a traceback."""


class Damaged(UserError):
    """A file that the workflow made is not as it was written; no fault of its slide or run."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; delete it and run the workflow again")


def raise_all(where: str, problems: Sequence[str]) -> None:
    """Raise one UserError that names every problem, or none where there is none."""
    if problems:
        shown = list(problems[:20]) + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise UserError(f"{where}: {'; '.join(shown)}")
