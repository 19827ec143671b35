"""JSON as LeadSquared has it: an array of activities, or one on each line."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from attrs import frozen

from leadpost.cli.files.csv_file import borrowed, encoding_of, undecodable
from leadpost.cli.files.json_values import decoder, values_of
from leadpost.cli.files.reading import Fault, Reading


@frozen
class Value:
    """A value of the file, or why it cannot be read; `item` counts in an array."""

    line: int
    item: int | None
    value: Any
    fault: Fault | None = None


def json_items(file: BinaryIO, name: str, reading: Reading, *, are_lines: bool) -> Iterator[Value]:
    """
    Yield the values of a JSON file, which may be larger than memory.

    Args:
        file: Its bytes.
        name: What to call it in messages.
        reading: How to read it.
        are_lines: Whether each line is an activity.

    Raises:
        InputError: the text is not JSON where no value can be told from the next.
    """
    encoding = encoding_of(file, reading)
    with borrowed(file, encoding, newline=None if are_lines else "") as text:
        try:
            if not are_lines:
                for item, (line, value) in enumerate(values_of(text, name), 1):
                    yield Value(line, item, value)
                return
            for number, written in enumerate(text, 1):
                if stripped := written.strip():
                    yield _of_line(number, stripped)
        except UnicodeError:
            raise undecodable(file, name, encoding) from None


def _of_line(number: int, text: str) -> Value:
    try:
        return Value(number, None, decoder.decode(text))
    except (ValueError, RecursionError) as error:
        where = f"at character {error.colno} " if isinstance(error, json.JSONDecodeError) else ""
        fault = Fault("row", "", f"is not JSON {where}".strip(), "write a JSON object on each line")
        return Value(number, None, text, fault)
