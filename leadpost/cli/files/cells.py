"""Reading the cells of the parameters: ids, codes, date-times."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Literal

from attrs import define, field

from leadpost.cli.files.reading import Fault, Reading, guessed_format

_GUID = re.compile(r"[0-9a-fA-F]{32}")
_DASHED = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CODE = re.compile(r"([0-9]{1,18})(?:\.0+)?", re.ASCII)
_SHORTENED = re.compile(r"[+-]?[0-9](?:[.,][0-9]+)?E\+?[0-9]{2,3}", re.ASCII | re.IGNORECASE)
_LIKE_A_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(\s+\d{1,2}:\d\d.*)?$", re.ASCII)
_NO_SUCH_DATE = "is a day or time that does not exist"
_NAME_ZONE = "name it, such as --timezone Asia/Kolkata"
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)\s?(Z|[+-]\d\d:?\d\d)?",
    re.ASCII | re.IGNORECASE,
)


class Invalid(Exception):
    """A cell cannot be read; the arguments are those of a `Fault` but the column."""

    def __init__(self, value: str, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.value = value
        self.what = what
        self.remedy = remedy

    def fault(self, column: str) -> Fault:
        return Fault(column, self.value, self.what, self.remedy)


def lead_id(cell: str) -> str:
    """
    Return a lead's id with hyphens, as it may also be without them, or in braces.

    >>> lead_id("{0072784451AA11E29E6412314004AC6B}")
    '00727844-51AA-11E2-9E64-12314004AC6B'
    """
    text = cell.strip().strip("\"'").strip()
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1].strip()
    if _DASHED.fullmatch(text):
        return text
    if not text:
        raise Invalid("", "is empty", "enter the lead's id")
    if not _GUID.fullmatch(text):
        refuse_shortened(text)
        wanted = "is not a lead's id, such as 00727844-51aa-11e2-9e64-12314004ac6b"
        raise Invalid(cell, wanted)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@lru_cache
def event_code(cell: str) -> int:
    """
    Return the code of an activity type.

    >>> event_code(" 201.0 "), event_code('"201"')
    (201, 201)
    """
    text = cell.strip().strip("\"'").strip()
    found = _CODE.fullmatch(text)
    if found and int(found[1]) > 0:
        return int(found[1])
    if not text:
        raise Invalid("", "is empty", "enter the activity type's code, or --set ActivityEvent=201")
    refuse_shortened(text)
    raise Invalid(cell, "is not a positive whole number such as 201")


def refuse_shortened(cell: str) -> None:
    """Refuse a number that a spreadsheet has written as 9.19812E+11: its digits are lost."""
    if "e" in cell.lower() and _SHORTENED.fullmatch(cell.strip()):
        raise Invalid(cell.strip(), "was shortened by a spreadsheet", "format the column as text")


@define
class Facts:
    """What only the account knows, and cells may need: it is asked once, if one does."""

    wanted: set[Literal["codes", "time_zone"]] = field(factory=set[Any])
    # The codes of activity types by their names, in small letters.
    codes: Mapping[str, Sequence[int]] = field(factory=dict[str, Sequence[int]])
    # What to do where a name is none of these.
    no_name: str = "names of activity types need your keys: leadpost setup"
    time_zone: str | None = None

    def event_code(self, cell: str) -> int:
        """
        Return the code of an activity type, which may be given by its name.

        Raises:
            Invalid: it is neither the code nor the name of one type.
        """
        try:
            return event_code(cell)
        except Invalid as error:
            name = " ".join(cell.split()).casefold()
            if error.remedy or not any(map(str.isalpha, name)):
                raise
            self.wanted.add("codes")
            codes = self.codes.get(name, ())
            if len(codes) > 1:
                what = f"is the name of {len(codes)} activity types"
                raise Invalid(cell, what, f"enter a code: {', '.join(map(str, codes))}") from None
            if not codes:
                raise Invalid(cell, error.what, self.no_name) from None
            return codes[0]


class Moments:
    """
    Reads date-times.

    Args:
        reading: The zone and the formats.
        facts: What is known of the account.
        naive_is_utc: Whether LeadSquared's form is UTC where there is no zone, as in its JSON.
    """

    def __init__(self, reading: Reading, facts: Facts | None = None, *, naive_is_utc: bool) -> None:
        self._facts = facts or Facts()
        self._zone = reading.zone
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
            if moment.tzinfo is None:
                moment -= self._offset(moment, text)
            else:
                moment = moment.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:
            raise Invalid(text, "is out of range") from None
        return moment.isoformat(" ", "seconds")

    def _offset(self, moment: datetime, text: str) -> timedelta:
        if self._zone is None:
            if self._naive_is_utc and "t" not in text.lower():
                return timedelta()
            self._facts.wanted.add("time_zone")
            zone = self._facts.time_zone
            remedy = f"name it; the account's is --timezone {zone}" if zone else _NAME_ZONE
            raise Invalid(text, "has no time zone", remedy)
        if (day := _offset_of_day(self._zone, moment.date())) is not None:
            return day
        return offset_in(moment, self._zone, text)

    def _parsed(self, text: str) -> datetime:
        if found := _ISO.fullmatch(text):
            day, clock, offset = found.groups()
            try:
                return datetime.fromisoformat(f"{day}T{clock}{(offset or '').upper()}")
            except ValueError:
                raise Invalid(text, _NO_SUCH_DATE) from None
        for form in self._formats:
            try:
                return datetime.strptime(text, form)  # noqa: DTZ007  the zone comes after
            except ValueError:
                continue
        self._guess = guessed_format(text, self._guess)
        if self._guess is None and _LIKE_A_DATE.match(text):
            raise Invalid(text, _NO_SUCH_DATE)
        if self._guess is None:
            raise Invalid(
                text, "is not a date-time", "write it as 2026-11-28 14:05, or add --date-format"
            )
        raise Invalid(
            text, "is not in the form 2026-11-28 14:05", f"add --date-format '{self._guess}'"
        )


@lru_cache
def _offset_of_day(zone: tzinfo, day: date) -> timedelta | None:
    """Return the offset that a zone has all day long, None if it changes its clocks."""
    begin = datetime.combine(day, time(), zone)
    offsets = {(begin + timedelta(hours=hours)).utcoffset() for hours in (-24, 0, 24, 48)}
    return offsets.pop() if len(offsets) == 1 else None


def offset_in(moment: datetime, zone: tzinfo, text: str) -> timedelta:
    """
    Return the offset that a date-time has in a zone.

    Raises:
        Invalid: the zone skips that time, or has it twice, as clocks are changed.
    """
    before, after = (
        moment.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta() for fold in (0, 1)
    )
    if before < after:
        raise Invalid(text, f"does not exist in {zone}, where clocks went forward")
    if before > after:
        raise Invalid(
            text, f"is there twice in {zone}, where clocks went back", _with_offsets(before, after)
        )
    return before


def _with_offsets(*offsets: timedelta) -> str:
    shown = [
        f"{datetime.fromtimestamp(0, UTC).replace(tzinfo=None) + abs(o):%H:%M}" for o in offsets
    ]
    signs = ["-" if o < timedelta(0) else "+" for o in offsets]
    written = " or ".join(sign + text for sign, text in zip(signs, shown, strict=True))
    return f"add the offset, {written}"
