import pytest
from hypothesis import given
from hypothesis import strategies as st

from myostage.errors import UserError, printable
from myostage.schema import expand_path


@given(st.text())
def test_what_is_printed_steers_no_terminal_and_keeps_the_rest(text: str) -> None:
    shown = printable(text)
    shown.encode()  # no half of a character is left
    assert not any(
        (ord(letter) < 32 and letter not in "\n\t") or 127 <= ord(letter) < 160 for letter in shown
    )
    assert str(UserError(text)) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["Läufe/010 {b} 'ä'.tif", "Bildschirmfoto 3.45\u202fPM.png", "細胞.svs"])
def test_names_of_any_script_stay(text: str) -> None:
    assert printable(text) == text == expand_path(text)


@pytest.mark.parametrize("letter", ["\0", "\x1b", "\r", "\n", "\x9b", "\u202e", "\u2067", "\u200b", "\udc80"])
def test_paths_that_cannot_be_shown_are_refused(letter: str) -> None:
    with pytest.raises(ValueError, match=r"holds characters that cannot be shown \('\\"):
        expand_path(f"a{letter}b.svs")
