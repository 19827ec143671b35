"""One row of the input: what it holds, where it stands, and whether it can be posted."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import BinaryIO, Protocol

from attrs import evolve, field, frozen

from leadpost.activity import Activity
from leadpost.cli.exits import InputError
from leadpost.errors import Problem

REASON = "leadpost_reason"
"""The column, or key, that says why a row is in a file of rejects. It is never posted."""

KEY = "leadpost_key"
"""The column, or key, that says which entry of the outbox such a row has. It is never posted."""

CALLS = "leadpost_calls"
"""The same for how many calls were made for it by then."""

ADDED = (REASON, KEY, CALLS)
"""What a row of rejects has and the one of its input has not."""

REQUIRED = ("RelatedProspectId", "ActivityEvent")
PARAMETERS = (*REQUIRED, "ActivityNote", "ActivityDateTime")
_KEY = re.compile(r".+:[1-9]\d*", re.ASCII | re.DOTALL)
_CALLS = re.compile(r"(\d{1,9})(\.0+)?", re.ASCII)  # a spreadsheet may have made 1 into 1.0
_NAIVE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", re.ASCII)


@frozen
class Reject:
    """
    What a row of rejects says of itself.

    Attributes:
        key: Its entry.
        calls: How many calls were made for it by then.
    """

    key: str
    calls: int

    @property
    def name(self) -> str:
        """The name of the input that it is of."""
        return self.key.rpartition(":")[0]


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
        utc_assumed: Whether its date-time says no zone and was read as UTC.
        reject: Which row of another input it is; None if it is none, or does not say so any more.
    """

    line: int
    own: object = field(repr=False)
    activity: Activity | None = None
    problems: tuple[Problem, ...] = ()
    item: int | None = None
    utc_assumed: bool = False
    reject: Reject | None = None

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

    def written(self, row: Row, reason: str, key: str, calls: int) -> bytes:
        """Give a row in the form of the file, with these added."""
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


def reject_of(key: object, calls: object) -> Reject | None:
    """
    Read what stands in these columns.

    >>> reject_of("calls.csv:3", "1")
    Reject(key='calls.csv:3', calls=1)
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        return None
    found = _CALLS.fullmatch(str(calls))
    return Reject(key, int(found[1])) if found else None


def in_zone(value: object, zone: tzinfo | None) -> object:
    """Give a date-time without a zone of its own this one; leave everything else to the check."""
    if zone is None or not isinstance(value, str) or not _NAIVE.fullmatch(value):
        return value
    try:
        return datetime.fromisoformat(value).replace(tzinfo=zone)
    except ValueError:
        return value


def lacks_zone(value: object) -> bool:
    """Whether a date-time is one that `--timezone` would give its zone."""
    return in_zone(value, UTC) is not value


def naming_option(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Name `--timezone` where a date-time that lacks a zone was refused."""
    wanted = "an offset at its end, such as +05:30, or the option --timezone"
    return tuple(
        evolve(problem, wanted=wanted) if problem.field == "ActivityDateTime" else problem
        for problem in problems
    )
