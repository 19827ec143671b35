"""One row of the input: what it holds, where it stands, and whether it can be posted."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, BinaryIO, Protocol

from attrs import evolve, field, frozen

from leadpost._models import Activity
from leadpost.cli.exits import InputError
from leadpost.cli.versions import Version
from leadpost.errors import Problem

REASON = "leadpost_reason"
"""The column, or key, that says why a row is in a file of rejects. It is never posted."""

KEY = "leadpost_key"
"""The same for which entry of the outbox the row has."""

VERSION = "leadpost_version"
"""The same for what the row was by then, see `versions.Version`."""

ADDED = (REASON, KEY, VERSION)
"""What a row of rejects has and the one of its input has not."""

REQUIRED = ("RelatedProspectId", "ActivityEvent")
PARAMETERS = (*REQUIRED, "ActivityNote", "ActivityDateTime")
_KEY = re.compile(r"[^/\\\0\ud800-\udfff]+:\d+", re.ASCII)
_NAIVE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", re.ASCII)


@frozen
class Reject:
    """
    What a row of rejects says of itself.

    Attributes:
        key: Its entry.
        version: See `versions.Version`.
    """

    key: str
    version: str

    @property
    def is_whole(self) -> bool:
        """Whether both may be as they were written."""
        return _KEY.fullmatch(self.key) is not None and Version.read(self.version) is not None

    @property
    def name(self) -> str:
        """The name of the input that the row is of."""
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
        sends_empty: Whether its empty cells go out.
        reject: Which row of another input it is, if there is any word of that.
    """

    line: int
    own: object = field(repr=False)
    activity: Activity | None = None
    problems: tuple[Problem, ...] = ()
    item: int | None = None
    utc_assumed: bool = False
    sends_empty: bool = False
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

    def head(self, more: Sequence[str]) -> bytes:
        """Give what a file of some of the rows begins with; `more` fields than the input has."""
        ...

    def standing(self, row: Row) -> object:
        """Give what stands in a row as JSON, without what an earlier run has added."""
        ...

    def fields_beyond(self, payload: Mapping[str, Any]) -> list[str]:
        """Name the fields of an activity for which the input has no place."""
        ...

    def written(
        self,
        row: Row,
        added: Mapping[str, str],
        more: Sequence[str],
        payload: Mapping[str, Any] | None,
    ) -> bytes:
        """Give a row in the form of the file, with these added; or `payload`, if there is one."""
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


def reject_of(named: Mapping[str, object]) -> Reject | None:
    """
    Read what a row of rejects says of itself, from its cells or values by their names.

    >>> reject_of({"leadpost_key": "calls.csv:3", "leadpost_version": ""}).name
    'calls.csv'
    """
    if not any(name in named for name in ADDED):
        return None
    return Reject(str(named.get(KEY)), str(named.get(VERSION)))


def with_offset(value: object, zone: tzinfo | None) -> object:
    """Write a date-time without a zone with the offset that it was read with."""
    if zone is None and isinstance(value, str) and "T" in value:
        return value  # it is refused
    moment = in_zone(value, zone or UTC)
    return moment.isoformat(" ") if isinstance(moment, datetime) else value


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
