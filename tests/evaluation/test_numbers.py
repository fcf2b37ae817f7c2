"""Numbers are printed without the zero before the point, and missing ones as a dash."""

import numpy as np
import pytest

from myostage.evaluation.numbers import (
    format_amount,
    format_count,
    format_interval,
    format_number,
    format_p,
    format_setting,
    join_words,
)


def test_numbers_and_their_signs() -> None:
    values = (0.684, 1.07, -0.031, 0.001, -0.001, 10.5, np.nan)
    assert [format_number(value) for value in values] == [".68", "1.07", "-.03", ".00", ".00", "10.50", "–"]
    signed = [format_number(value, 3, sign=True) for value in (0.0314, -0.004, -0.0001, 10.5, np.nan)]
    assert signed == ["+.031", "-.004", ".000", "+10.500", "–"]
    assert format_interval(0.07, -0.02, 0.15, sign=True) == "+.07 [-.02, +.15]"
    assert format_interval(0.07, np.nan, 0.15) == ".07"


@pytest.mark.parametrize(
    ("p", "text"), [(0.012, ".012"), (0.0004, "< .001"), (0.0006, ".001"), (1.0, "1.000"), (np.nan, "–")]
)
def test_p(p: float, text: str) -> None:
    assert format_p(p) == text


def test_settings_amounts_counts_and_lists() -> None:
    assert [format_setting(value) for value in (0.1, 31, 0, 10)] == [".1", "31", "0", "10"]
    assert [format_amount(value) for value in (0.123, 9.87, 1234.5)] == ["0.12", "9.9", "1,234"]
    assert format_count(1, "pair") == "1 pair" and format_count(4573, "cell") == "4,573 cells"
    assert format_count(np.nan) == "–"
    assert join_words(["a"]) == "a" and join_words(["a", "b", "c"]) == "a, b and c"
