"""One row of the input: what it holds, where it stands, and whether it can be posted."""

import re
from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import BinaryIO, Protocol

from attrs import field, frozen

from leadpost.activity import Activity
from leadpost.cli.exits import InputError
from leadpost.errors import Problem

REASON = "leadpost_reason"
"""The column, or key, that says why a row is in a file of rejects. It is never posted."""

_NAIVE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", re.ASCII)


@frozen
class Row:
    """
    One row.

    Attributes:
        line: The line it begins on, from 1.
        own: What stands there: the cells of a CSV row, a JSON value.
        activity: What it says; None if it cannot be posted.
        problems: Why it cannot be posted.
        item: Its number in a JSON array, whose items may all be on one line; else None.
    """

    line: int
    own: object = field(repr=False)
    activity: Activity | None = None
    problems: tuple[Problem, ...] = ()
    item: int | None = None

    @property
    def place(self) -> str:
        return f"line {self.line}" + (f", item {self.item}" if self.item else "")


class Input(Protocol):
    """A file of activities, which can be read any number of times, a row at a time."""

    name: str
    suffix: str

    def rows(self) -> Iterator[Row]:
        """
        Read the rows.

        Raises:
            InputError: the file is broken where no row can be told from the next.
        """
        ...

    def head(self) -> bytes:
        """Give what a file of some of the rows begins with."""
        ...

    def written(self, row: Row, reason: str) -> bytes:
        """Give a row in the form of the file, with the reason added."""
        ...


def lines_of(file: BinaryIO, name: str) -> Iterator[str]:
    """
    Decode line by line, so that what is not UTF-8 can be told by its line.

    Raises:
        InputError: naming that line.
    """
    for number, line in enumerate(file, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: line {number}: found byte 0x{line[error.start]:02x}, wanted UTF-8 text"
            ) from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def in_zone(value: object, zone: tzinfo | None) -> object:
    """Give a date-time without a zone of its own this one; leave everything else to the check."""
    if zone is None or not isinstance(value, str) or not _NAIVE.fullmatch(value):
        return value
    try:
        return datetime.fromisoformat(value).replace(tzinfo=zone)
    except ValueError:
        return value
