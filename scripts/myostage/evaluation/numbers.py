"""How numbers are printed: the only place that rounds, signs and leaves out leading zeros."""

import math
from collections.abc import Iterable

# Beside an interval that so few animals or folds cannot bear.
NOT_TRUSTED = "*"


def format_number(value: float, decimals: int = 2, *, sign: bool = False) -> str:
    """Without the leading zero: .68, 1.07, -.03; an en dash where there is no value.

    With ``sign`` a plus stands before what is above zero: +.07, -.03, .00.
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{decimals}f}"
    if not float(text):
        text, sign = text.removeprefix("-"), False
    text = text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
    return f"+{text}" if sign and value > 0 else text


def format_interval(value: float, low: float, high: float, decimals: int = 2, *, sign: bool = False) -> str:
    """``.68 [.59, .75]``, or ``+.07 [-.02, +.15]``; the value alone where there is no interval."""
    first, *ends = (format_number(number, decimals, sign=sign) for number in (value, low, high))
    return f"{first} [{', '.join(ends)}]" if math.isfinite(low) and math.isfinite(high) else first


def format_p(p: float) -> str:
    """Three decimals without the leading zero: .012; ``< .001`` below that; an en dash for none."""
    return "< .001" if p < 0.0005 else format_number(p, 3)


def format_setting(value: float) -> str:
    """A parameter as it was set, without the leading zero: .1, 31."""
    text = f"{value:g}"
    return text.removeprefix("0") if text.startswith("0.") else text


def format_amount(value: float) -> str:
    """A duration, an energy or a size: two digits below ten, whole numbers above."""
    return f"{value:.2g}" if abs(value) < 10 else f"{value:,.0f}"


def format_count(number: float, thing: str = "") -> str:
    """``1 run``, ``4,573 cells``; an en dash where the number is missing."""
    text = f"{number:,.0f}" if math.isfinite(number) else "–"
    if not thing:
        return text
    return f"{text} {thing}" if number == 1 else f"{text} {thing}s"


def join_words(parts: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
