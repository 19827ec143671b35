"""JSON as LeadSquared has it: an array of activities, or one after another, as on lines."""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from leadpost._validation import is_mapping
from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.csv_file import decoded
from leadpost.cli.files.reading.settings import Reading

_CHUNK = 2**16
_LONGEST = 2**22
"""Characters that one value may have; an error in the middle of a file is known after as many."""
_SPACE = re.compile(r"[ \t\r\n]*")


JsonItem = tuple[int, int | None, dict[str, Any]]
"""The line that an object begins on, from 1; its number if it is in an array; and the object."""


def json_items(file: BinaryIO, name: str, reading: Reading) -> Iterator[JsonItem]:
    """
    Yield the objects of a JSON file, which may be larger than memory.

    Raises:
        InputError: saying on which line the text is not JSON, or not an object.
    """
    with decoded(file, name, reading) as text:
        for line, item, value in values_of(text, name):
            if not is_mapping(value):
                raise InputError(f"{name}: line {line}: {value!r:.40} is not a JSON object")
            yield line, item, dict(value)


def as_written(digits: str) -> float | str:
    """
    Return a JSON number such that nothing of it is lost: as text where a float has less of it.

    >>> as_written("1.5"), as_written("1.50")
    (1.5, '1.50')
    """
    number = float(digits)
    return number if repr(number) == digits else digits


_decode = json.JSONDecoder(parse_float=as_written).raw_decode


def values_of(file: TextIO, name: str) -> Iterator[tuple[int, int | None, Any]]:
    """Yield each value of an array with its number, or each of values one after another."""
    text = _Text(file, name)
    if text.peek() != "[":
        while text.peek():
            yield text.line, None, text.value()
        return
    item, end = 0, text.take()
    if text.peek() == "]":
        end = text.take()
    while end != "]":
        item += 1
        text.peek()
        yield text.line, item, text.value()
        if text.peek() not in {",", "]"}:
            raise text.error("wanted ',' or ']' after an item")
        end = text.take()
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
            self._read_on()

    def take(self) -> str:
        """Return the character that `peek` returned, and move past it."""
        self._move_to(self._at + 1)
        return self._text[self._at - 1]

    def value(self) -> Any:
        while True:
            is_all = self._ended or len(self._text) - self._at > _LONGEST
            try:
                value, end = _decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if is_all:  # or else it may be that only a part of the value has been read
                    why = error.msg if isinstance(error, json.JSONDecodeError) else "no value"
                    remedy = "write an array of objects, or an object on each line"
                    raise self.error(f"not JSON: {why}; {remedy}") from None
            else:
                # "1" may be a part of "12", of "1.5", or of "1e+5".
                if is_all or end < len(self._text) - 2:
                    self._move_to(end)
                    return value
            self._read_on()

    def error(self, why: str) -> InputError:
        return InputError(f"{self._name}: line {self.line}: {why}")

    def _move_to(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _read_on(self) -> None:
        rest = self._text[self._at :]
        more = self._file.read(len(rest) + _CHUNK)  # twice as much each time
        self._ended = not more
        self._text = rest + more
        self._at = 0
