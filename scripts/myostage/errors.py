"""The one exception a user sees."""

import unicodedata
from collections.abc import Sequence

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode that steer a terminal, turn the direction of reading, or are half a character."""


def hidden(text: str) -> set[str]:
    """Characters of a text that cannot be shown."""
    return {letter for letter in set(text) if unicodedata.category(letter) in HIDDEN}


def printable(text: str) -> str:
    """The text with escapes (``\\x1b``) for characters that cannot be shown; lines and tabs stay."""
    for letter in hidden(text) - {"\n", "\t"}:
        text = text.replace(letter, letter.encode("unicode_escape").decode())
    return text


class UserError(Exception):
    """What is wrong, where it is and what to do, in one sentence without a traceback."""

    def __str__(self) -> str:
        # what it names is of files of others, and is printed in many places
        return printable(super().__str__())


class Damaged(UserError):
    """A file that the workflow made is not as it was written; no fault of its slide or run."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; delete it and run the workflow again")


def raise_all(where: str, problems: Sequence[str]) -> None:
    """Raise one UserError that names every problem, or none where there is none."""
    if problems:
        shown = list(problems[:20]) + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise UserError(f"{where}: {'; '.join(shown)}")
