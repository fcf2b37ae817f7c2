"""GeoJSON read feature by feature: a slide of 500,000 outlines takes 5 GB as Python's lists of numbers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_CHARACTERS = 2**20
MOST_CHARACTERS = 2**24
"""Of one feature, which takes ten times as much memory while it is read."""
_NUMBER = ("", *"0123456789.eE+-")
_SPACE = re.compile(r"[ \t\r\n]*")


class NoCollectionError(ValueError):
    """The JSON is neither a FeatureCollection nor a list."""


def read_features(path: str | Path) -> Iterator[Any]:
    """The features of a FeatureCollection, or of a bare list of features, one after another.

    Raises
    ------
    OSError
        The file cannot be read.
    NoCollectionError
        It holds something else.
    ValueError
        It is no JSON; features before the fault have been yielded then.
    RecursionError
        Something in it is nested too deeply.
    """
    with Path(path).open(encoding="utf-8-sig") as file:
        text = _Text(file)
        found = text.peek() == "["
        if found:
            yield from text.read_list()
        elif text.peek() == "{":
            for key in text.read_keys():
                if key == "features" and text.peek() == "[":
                    found = True
                    yield from text.read_list()
                else:
                    text.read_value()
        elif text.peek() not in '"-0123456789tfn':
            raise ValueError(f"it begins with {text.peek()!r}")
        else:
            raise NoCollectionError
        if text.peek():
            raise ValueError("something follows after its end")
        if not found:
            raise NoCollectionError


class _Text:
    """JSON of which a part is in memory: the value at hand, and what was read with it."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at, self._ended = file, "", 0, False
        self._decode = json.JSONDecoder().raw_decode

    def _read_on(self) -> None:
        """Read as much again as is not used yet: then a long value costs no more than its length."""
        rest = self._text[self._at :]
        if len(rest) > MOST_CHARACTERS:
            raise ValueError(f"a value of it is longer than {MOST_CHARACTERS:,} characters")
        more = self._file.read(max(_CHARACTERS, len(rest)))
        self._text, self._at, self._ended = rest + more, 0, not more

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space
            self._at = space.end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _take(self, marks: str) -> str:
        found = self.peek()
        if not found or found not in marks:
            raise ValueError(f"{found or 'the end'!r} stands where one of {marks} is due")
        self._at += 1
        return found

    def read_value(self) -> Any:
        """The value that starts here."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                # a number may go on beyond what is read
                if self._ended or self._text[end : end + 1] not in _NUMBER:
                    self._at = end
                    return value
            except json.JSONDecodeError:
                if self._ended:
                    raise
            self._read_on()

    def read_list(self) -> Iterator[Any]:
        """The values of the list that starts here."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        yield self.read_value()
        while self._take(",]") == ",":
            yield self.read_value()

    def read_keys(self) -> Iterator[Any]:
        """The keys of the object that starts here; whoever asks reads the value of each."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            key = self.read_value()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return
