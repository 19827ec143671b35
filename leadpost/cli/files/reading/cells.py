"""Reading the cells of the parameters: ids, codes, date-times."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import product
from typing import Any, Literal

from attrs import define, field

from leadpost.cli.files.reading.settings import Reading, zone_of

_GUID = re.compile("-?".join(f"([0-9a-fA-F]{{{length}}})" for length in (8, 4, 4, 4, 12)))
_CODE = re.compile(r"([0-9]{1,18})(?:\.0+)?", re.ASCII)
_SHORTENED = re.compile(r"[+-]?[0-9](?:[.,][0-9]+)?E\+?[0-9]{2,3}", re.ASCII | re.IGNORECASE)
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)\s?(Z|[+-]\d\d:?\d\d)?",
    re.ASCII | re.IGNORECASE,
)
_LIKE_A_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(\s+\d{1,2}:\d\d.*)?", re.ASCII)
NO_ZONE = "has no time zone"
_NO_SUCH_DATE = "is a day or time that does not exist"
_DAY = timedelta(days=1)
_LENGTH = len("2026-11-28 14:05:07")
_DATES = (
    *("%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%Y", "%Y/%m/%d", "%d %b %Y"),
    *("%Y-%m-%d", "%d-%b-%Y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%y", "%d %B %Y", "%b %d, %Y"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")

NO_VALUE = "#FORMULA!"
"""What a workbook's formula without a stored value is read as."""
ERRORS = dict.fromkeys(
    ("#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!", "#SPILL!", "#CALC!"),
    ("is an error of the spreadsheet", "correct the formula, or delete the cell"),
) | {NO_VALUE: ("has no stored value", "open the file in a spreadsheet and save it")}
"""What spreadsheets show in place of a value, and write into CSV: what is wrong, and the remedy."""


class Invalid(Exception):
    """A cell cannot be read; the arguments are those of a `Problem` after the column."""


def lead_id(cell: str) -> str:
    """
    Return a lead's id with hyphens, as it may also be without them, or in braces.

    >>> lead_id("{0072784451AA11E29E6412314004AC6B}")
    '00727844-51AA-11E2-9E64-12314004AC6B'
    """
    text = _bare(cell)
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1].strip()
    if found := _GUID.fullmatch(text):
        return "-".join(found.groups())
    unrounded(cell)
    raise Invalid(cell, "is not a lead's id, such as 00727844-51aa-11e2-9e64-12314004ac6b")


class Rounded(str):
    """A number of a workbook that ends in zeros: somebody may have saved 9.19812E+11 as it is."""

    __slots__ = ()


def unshortened(cell: str) -> str:
    """Return a cell; refuse a number that a spreadsheet has written as 9.19812E+11."""
    if "e" in cell.lower() and _SHORTENED.fullmatch(cell.strip()):
        raise Invalid(cell.strip(), "was shortened by a spreadsheet", "format the column as text")
    return cell


def unrounded(cell: str) -> str:
    """Return a cell; refuse a number whose last digits are lost, or probably so."""
    unshortened(cell)
    if isinstance(cell, Rounded):
        what = "was probably shortened by a spreadsheet"
        raise Invalid(cell, what, "enter it again, in a column that is formatted as text")
    return cell


def _bare(cell: str) -> str:
    return cell.strip().strip("\"'").strip()


@define
class AccountFacts:
    """What only the account knows, and cells may need: it is asked once, if one does."""

    wanted: set[Literal["codes", "time_zone"]] = field(factory=set[Any])
    # The codes of activity types by their names, as `key_of_name` has them.
    codes: Mapping[str, Sequence[int]] = field(factory=dict[str, Sequence[int]])
    # What to do where a name is none of these.
    no_name: str = "names of activity types need your keys: leadpost setup"
    time_zone: str | None = None

    def event_code(self, cell: str) -> int:
        """
        Return the code of an activity type, which may be given by its name.

        >>> AccountFacts().event_code(" 201.0 "), AccountFacts().event_code('"201"')
        (201, 201)

        Raises:
            Invalid: it is neither the code nor the name of one type.
        """
        text = _bare(cell)
        if (found := _CODE.fullmatch(text)) and int(found[1]) > 0:
            return int(found[1])
        unshortened(text)
        remedy = ""
        if any(map(str.isalpha, text)):
            self.wanted.add("codes")
            codes = self.codes.get(key_of_name(text), ())
            if len(codes) == 1:
                return codes[0]
            if codes:
                what = f"is the name of {len(codes)} activity types"
                raise Invalid(cell, what, f"enter a code: {', '.join(map(str, codes))}")
            remedy = self.no_name
        raise Invalid(cell, "is not a positive whole number such as 201", remedy)


def key_of_name(name: str) -> str:
    """Return a name without case and repeated blanks: activity types are compared by it."""
    return " ".join(name.split()).casefold()


class Moments:
    """Reads date-times; those in LeadSquared's form may be UTC, as in its JSON."""

    def __init__(self, reading: Reading, facts: AccountFacts, *, naive_is_utc: bool) -> None:
        self._facts = facts
        self._zone = zone_of(reading.timezone) if reading.timezone else None
        self._formats = reading.date_formats
        self._naive_is_utc = naive_is_utc
        self._guess: str | None = None

    def utc(self, cell: str) -> str:
        """
        Return a date-time in LeadSquared's form, in UTC.

        Raises:
            Invalid: it cannot be read, has no zone, or is not one moment in its zone.
        """
        text = cell.strip()
        moment = self._parsed(text)
        try:
            if (offset := moment.utcoffset()) is None:
                offset = self._offset(moment, text)
            return (moment - offset).isoformat(" ", "seconds")[:_LENGTH]  # without an offset
        except OverflowError:
            raise Invalid(text, "is out of range", "correct it") from None

    def _parsed(self, text: str) -> datetime:
        if found := _ISO.fullmatch(text):
            day, clock, offset = found.groups()
            default = "Z" if self._naive_is_utc and text[len(day)] == " " else ""
            try:
                return datetime.fromisoformat(f"{day}T{clock}{(offset or default).upper()}")
            except ValueError:
                raise Invalid(text, _NO_SUCH_DATE, "correct it") from None
        for form in self._formats:
            with suppress(ValueError):
                return datetime.strptime(text, form)  # noqa: DTZ007  the zone comes after
        self._guess = guessed_format(text, self._guess)
        if self._guess is not None:
            remedy = f"add --date-format '{self._guess}'"
            raise Invalid(text, "is not in the form 2026-11-28 14:05", remedy)
        if _LIKE_A_DATE.fullmatch(text):
            raise Invalid(text, _NO_SUCH_DATE, "correct it")
        remedy = "write it as 2026-11-28 14:05, or add --date-format"
        raise Invalid(text, "is not a date-time", remedy)

    def _offset(self, moment: datetime, text: str) -> timedelta:
        zone = self._zone
        if zone is None:
            self._facts.wanted.add("time_zone")
            remedy = "name it, such as --timezone Asia/Kolkata"
            if known := self._facts.time_zone:
                remedy = f"the account's is --timezone {known}"
            raise Invalid(text, NO_ZONE, remedy)
        before = after = zone.utcoffset(moment) or timedelta()
        if zone.utcoffset(moment - _DAY) != zone.utcoffset(moment + _DAY):  # clocks are changed
            after = zone.utcoffset(moment.replace(fold=1)) or timedelta()
        if before < after:
            what = f"does not exist in {zone}, where clocks went forward"
            raise Invalid(text, what, "correct it, or add the offset")
        if before > after:
            what = f"occurs twice in {zone}, where clocks went back"
            both = (moment.replace(tzinfo=timezone(offset)) for offset in (before, after))
            offsets = " or ".join(m.isoformat(" ", "seconds")[_LENGTH:] for m in both)
            raise Invalid(text, what, f"add the offset, {offsets}")
        return before


def guessed_format(text: str, first: str | None = None) -> str | None:
    """
    Return the `strptime` format that a date-time is probably written in, day before month.

    `first`, the format of other cells, is tried before all others.

    >>> guessed_format("28/11/2026 14:05"), guessed_format("11/28/2026 2:05 PM")
    ('%d/%m/%Y %H:%M', '%m/%d/%Y %I:%M %p')
    """
    forms = [date + time for date, time in product(_DATES, _TIMES)]
    for form in [first, *forms] if first else forms:
        with suppress(ValueError):
            datetime.strptime(text.strip(), form)  # noqa: DTZ007  only its form is looked at
            return form
    return None
