"""Reading JSON values one by one from a file that need not fit into memory."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from leadpost.cli.exits import InputError

_CHUNK = 2**16
_LONGEST = 2**22
"""Characters that one value may have; an error in the middle of a file is known after as many."""

_AFTER_VALUE = frozenset(" \t\r\n,]")
_SPACE = re.compile(r"[ \t\r\n]*")


def as_written(digits: str) -> float | str:
    """
    Return a JSON number such that nothing of it is lost: as text where a float has less of it.

    >>> as_written("1.5"), as_written("1.50")
    (1.5, '1.50')
    """
    number = float(digits)
    return number if repr(number) == digits else digits


decoder = json.JSONDecoder(parse_float=as_written)
_decode = decoder.raw_decode


def values_of(file: TextIO, name: str) -> Iterator[tuple[int, Any]]:
    """
    Yield each value of an array, or of a file of values one after another.

    Args:
        file: Text, read as far as it is needed.
        name: What to call it.

    Yields:
        The line that the value begins on, from 1, and the value.

    Raises:
        InputError: saying on which line the text is not JSON.
    """
    text = _Text(file, name)
    if text.peek() != "[":
        while text.peek():
            yield text.line, text.value()
        return
    text.skip()
    if text.peek() == "]":
        text.skip()
    else:
        while True:
            text.peek()
            yield text.line, text.value()
            end = text.peek()
            if end not in (",", "]"):
                raise text.error("wanted ',' or ']' after an item")
            text.skip()
            if end == "]":
                break
    if text.peek():
        raise text.error("wanted nothing after the array")


class _Text:
    """The part of the file that is being looked at."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._name = name
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False
        self.line = 1

    def peek(self) -> str:
        """Return the next character that is no space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._move_to(space.end() if space else self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on(_CHUNK)

    def skip(self) -> None:
        """Skip the character that `peek` returned."""
        self._move_to(self._at + 1)

    def value(self) -> Any:
        size = _CHUNK
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # It may be that only a part of the value has been read.
                if self._ended or len(self._text) - self._at > _LONGEST:
                    why = error.msg if isinstance(error, json.JSONDecodeError) else "no value"
                    raise self.error(f"an item is not JSON: {why}") from None
            else:
                # "1" may be a part of "12", and "1." of "1.5".
                closed = self._text[end : end + 1] in _AFTER_VALUE
                if closed or self._ended or len(self._text) - self._at > _LONGEST:
                    self._move_to(end)
                    return value
            self._read_on(size)
            size *= 2

    def error(self, why: str) -> InputError:
        return InputError(f"{self._name}: line {self.line}: {why}")

    def _move_to(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _read_on(self, size: int) -> None:
        more = self._file.read(size)
        self._ended = not more
        self._text = self._text[self._at :] + more
        self._at = 0
