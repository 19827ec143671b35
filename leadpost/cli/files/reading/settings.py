"""The options that say how a file is read."""

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any, Self
from zoneinfo import ZoneInfo, available_timezones

from attrs import asdict, evolve, field, frozen

from leadpost._validation import is_list, is_mapping
from leadpost.cli.exits import InputError


@frozen(kw_only=True)
class Reading:
    """How to read a file. An attribute that is empty has its default."""

    sheet: str | None = None  # name of the sheet of a workbook, None for the first
    delimiter: str | None = None  # of CSV, None to find it from the header
    encoding: str | None = None  # of CSV and JSON without a BOM, None for UTF-8
    timezone: str | None = None  # zone of date-times without an offset, an IANA name or an offset
    date_formats: tuple[str, ...] = ()  # `strptime` formats of date-times, beside ISO 8601
    columns: Mapping[str, str] = field(factory=dict[str, str])  # heading to parameter or SchemaName
    # Parameter or SchemaName to the value for all rows.
    constants: Mapping[str, str] = field(factory=dict[str, str])
    ignored: tuple[str, ...] = ()
    include_hidden: bool = False  # whether hidden rows of a sheet are read
    ignore_others: bool = False
    send_empty: bool = False  # whether an empty cell is sent as empty text

    def as_json(self) -> dict[str, Any]:
        """Return the options that differ from the defaults."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        own: dict[str, Any] = {n: tuple(v) if is_list(v) else v for n, v in values.items()}
        return cls(**own)

    def over(self, others: "Reading") -> "Reading":
        """Return these options, with the others for the rest."""
        return Reading(**(others.as_json() | self.as_json()))

    def of_rejects(self) -> "Reading":
        """Return the options for rejects, which are CSV or JSON lines in UTF-8."""
        return evolve(self, sheet=None, delimiter=None, encoding=None, include_hidden=False)

    def as_options(self) -> str:
        """
        Write the options for the command line.

        >>> Reading(timezone="Asia/Kolkata", ignored=("Called by",)).as_options()
        "--timezone Asia/Kolkata --ignore 'Called by'"
        """
        names = {"date_formats": "date_format", "columns": "map", "constants": "set"}
        names["ignored"] = "ignore"
        words: list[str] = []
        for name, value in self.as_json().items():
            option = f"--{names.get(name, name).replace('_', '-')}"
            if value is True:
                words.append(option)
                continue
            texts = [value] if isinstance(value, str) else value
            if is_mapping(value):
                texts = [f"{key}={text}" for key, text in value.items()]
            words += [f"{option} {shlex.quote(text)}" for text in texts]
        return " ".join(words)


@lru_cache
def zone_of(name: str) -> tzinfo:
    """
    Return a time zone by its IANA name in any case, or by its offset.

    Raises:
        InputError: there is no such zone.
    """
    text = name.strip()
    with suppress(ValueError):
        if zone := datetime.strptime(text, "%z").tzinfo:
            return zone
    known = {zone.casefold(): zone for zone in available_timezones()}
    if found := known.get(text.casefold()):
        return ZoneInfo(found)
    raise InputError(
        f"--timezone: {name!r} is not a time zone; use a name such as Asia/Kolkata, or +05:30"
    )


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
