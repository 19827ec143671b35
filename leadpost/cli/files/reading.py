"""The options that say how a file is read, and what can be wrong with a row."""

import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Any, Self
from zoneinfo import ZoneInfo, available_timezones

from attrs import asdict, evolve, field, frozen

from leadpost.cli.exits import InputError

_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)", re.ASCII)
_LONGEST = 60
_DATES = (
    *("%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%Y", "%Y/%m/%d", "%d %b %Y"),
    *("%Y-%m-%d", "%d-%b-%Y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%y", "%d %B %Y", "%b %d, %Y"),
)

REASON = "leadpost_reason"
"""The column of a rejects file that says why a row is there. It is never posted."""
KEY = "leadpost_key"
"""The column of a rejects file that says which row it is. It is never posted."""
OWN = (REASON, KEY)


class Format(StrEnum):
    CSV = "csv"
    XLSX = "xlsx"
    JSON = "json"
    JSONL = "jsonl"


@frozen(kw_only=True)
class Reading:
    """How to read a file."""

    form: Format | None = None  # the format, None to find it from the name and the content
    sheet: str | None = None  # name of the sheet of a workbook, None for the first
    delimiter: str | None = None  # of CSV, None to find it from the header
    encoding: str | None = None  # of CSV and JSON without a BOM, None for UTF-8
    include_hidden: bool = False  # whether hidden rows of a sheet are read
    timezone: str | None = None  # zone of date-times without an offset, an IANA name or an offset
    date_formats: tuple[str, ...] = ()  # `strptime` formats of date-times, beside ISO 8601
    columns: Mapping[str, str] = field(factory=dict[str, str])  # heading to parameter or SchemaName
    # Parameter or SchemaName to the value for all rows.
    constants: Mapping[str, str] = field(factory=dict[str, str])
    ignored: tuple[str, ...] = ()
    ignore_others: bool = False
    send_empty: bool = False  # whether an empty cell is sent as empty text

    def as_json(self) -> dict[str, Any]:
        """Return the options that differ from the defaults."""
        default = asdict(Reading())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        values = dict(values)
        for name in ("date_formats", "ignored"):
            values[name] = tuple(values.get(name, ()))
        if values.get("form"):
            values["form"] = Format(values["form"])
        return cls(**values)

    def over(self, others: "Reading") -> "Reading":
        """Return these options, with the others for the rest."""
        return Reading.from_json(others.as_json() | self.as_json())

    def of_rejects(self) -> "Reading":
        """Return the options for rejects, which are CSV or JSON lines in UTF-8."""
        return evolve(
            self, form=None, sheet=None, delimiter=None, encoding=None, include_hidden=False
        )

    def as_options(self) -> str:
        """
        Write the options for the command line.

        >>> Reading(timezone="Asia/Kolkata", ignored=("Agent",)).as_options()
        "--timezone Asia/Kolkata --ignore 'Agent'"
        """
        words: list[str] = []
        for option, value in (
            ("--format", self.form),
            ("--sheet", self.sheet),
            ("--delimiter", self.delimiter),
            ("--encoding", self.encoding),
            ("--timezone", self.timezone),
        ):
            words += [f"{option} {shlex.quote(value)}"] if value else []
        words += [f"--date-format '{text}'" for text in self.date_formats]
        words += [f"--map '{heading}={name}'" for heading, name in self.columns.items()]
        words += [f"--set '{name}={value}'" for name, value in self.constants.items()]
        words += [f"--ignore '{heading}'" for heading in self.ignored]
        words += ["--include-hidden"] if self.include_hidden else []
        words += ["--ignore-others"] if self.ignore_others else []
        words += ["--send-empty"] if self.send_empty else []
        return " ".join(words)

    @property
    def zone(self) -> tzinfo | None:
        return None if self.timezone is None else zone_of(self.timezone)


@lru_cache
def zone_of(name: str) -> tzinfo:
    """
    Return a time zone by its IANA name in any case, or by its offset.

    Raises:
        InputError: there is no such zone.
    """
    text = name.strip()
    if found := _OFFSET.fullmatch(text):
        hours, minutes = int(found[2]), int(found[3])
        if hours < 24 and minutes < 60:
            span = timedelta(hours=hours, minutes=minutes)
            return timezone(-span if found[1] == "-" else span)
    if text.upper() in {"UTC", "Z"}:
        return UTC
    known = {zone.casefold(): zone for zone in available_timezones()}
    if zone := known.get(text.casefold()):
        return ZoneInfo(zone)
    raise InputError(f"--timezone: {name!r} is no zone; use a name such as Asia/Kolkata, or +05:30")


@frozen
class Fault:
    """Why a row cannot be posted."""

    column: str  # its heading, or a parameter
    value: str = field(repr=False)  # the cell, "" where there is none
    what: str  # what is wrong with it; the same words for the same kind
    remedy: str = ""

    @property
    def parts(self) -> tuple[str, str, str, str]:
        return self.column, self.value, self.what, self.remedy

    def __str__(self) -> str:
        said = " ".join(part for part in (shortened(self.value), self.what) if part)
        return f"{self.column}: {said}" + (f"; {self.remedy}" if self.remedy else "")


def shortened(text: str) -> str:
    """Return a cell so that it fits into a message, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def pairs_of(option: str, texts: Iterable[str]) -> dict[str, str]:
    """
    Read options of the form NAME=VALUE; of more than one `=`, the last one counts in `--map`.

    Raises:
        InputError: one has another form.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        split = text.rpartition if option == "--map" else text.partition
        name, equals, value = split("=")
        if not equals or not name.strip():
            example = "'Heading=ActivityNote'" if option == "--map" else "ActivityEvent=201"
            raise InputError(f"{option}: {text!r} has no name and value; write {option} {example}")
        pairs[name.strip()] = value.strip()
    return pairs


def guessed_format(text: str, first: str | None = None) -> str | None:
    """
    Return the `strptime` format that a date-time is probably written in, day before month.

    Args:
        text: The date-time.
        first: What is tried before all others: the format of other cells.

    >>> guessed_format("28/11/2026 14:05"), guessed_format("11/28/2026 2:05 PM")
    ('%d/%m/%Y %H:%M', '%m/%d/%Y %I:%M %p')
    """
    times = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
    forms = [date + time for date in _DATES for time in times]
    for form in [first, *forms] if first else forms:
        with suppress(ValueError):
            datetime.strptime(text.strip(), form)  # noqa: DTZ007  only its form is looked at
            return form
    return None
