"""Checks of an activity before any call: what is wrong, where, and what is expected."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeGuard

from leadpost.errors import Problem

# A set: `pandas.NA in` a tuple of texts raises TypeError.
PARAMETERS = frozenset(
    ("RelatedProspectId", "ActivityEvent", "ActivityNote", "ActivityDateTime", "Fields")
)
_LOWERCASE = {name.lower(): name for name in PARAMETERS}
_SIMILAR = 0.85
"""By difflib's ratio: 0.96 for ActivityNotes, 0.86 for ActivityDate, 0.83 for ActivityType."""
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WANTED_GUID = "a GUID such as 00727844-51aa-11e2-9e64-12314004ac6b"
_WANTED_LEAD = f"{_WANTED_GUID}; for an e-mail address there are Lead.find_or_create and find_lead"
_TRIMMED = re.compile(r"\S(.*\S)?", re.DOTALL)
_FINDS_LEADS = {
    "EmailAddress": (re.compile(r"[^@\s]+@[^@\s]+"), "an email address"),
    "Phone": (re.compile(r"[+\d][\d ().-]*\d"), "a phone number such as +91-9812345678"),
    "ProspectID": (_GUID, _WANTED_GUID),
}
"""The form of a value that finds a lead: a typo in it would create another lead."""
_WANTED_DATETIME = (
    "a date-time with a time zone, or text 'YYYY-MM-DD HH:MM:SS' in UTC, or ISO 8601 with an offset"
)
_WANTED_SET = 'a list of items: [{"SchemaName": "mx_CustomObject_1", "Value": …}]'


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether the value is a JSON object, or a caller's mapping, whose keys may be anything."""
    # What most values are comes first, as `Mapping` takes ten times as long.
    return isinstance(value, dict) or (not isinstance(value, str) and isinstance(value, Mapping))


def is_list(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether the value is a JSON array, or a caller's list or tuple."""
    return isinstance(value, (list, tuple))


def python_value(value: Any) -> object:
    """Return a numpy integer, float or boolean as Python's own, and any other value unchanged."""
    # Not by `numbers.Integral`, which includes numpy's durations. An array has a length.
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    is_scalar = kind in {"b", "i", "u", "f"} and not hasattr(value, "__len__")
    return value.item() if is_scalar else value


def to_utc(moment: datetime) -> datetime:
    """Return an aware date-time in UTC, a pandas.Timestamp as Python's own class."""
    if type(moment) is datetime and moment.tzinfo is UTC:
        return moment
    return datetime.combine(moment.date(), moment.timetz()).astimezone(UTC)


def leadsquared_datetime(moment: datetime) -> str:
    """Return an aware date-time in LeadSquared's form: `YYYY-MM-DD HH:MM:SS`, UTC."""
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(sep=" ", timespec="seconds")


@lru_cache
def parameter_like(name: str) -> str | None:
    """
    Return the parameter of LeadSquared's that a column or key probably means.

    >>> parameter_like("Activity Notes"), parameter_like("mx_Custom_1")
    ('ActivityNote', None)
    """
    plain = re.sub(r"[\W_]", "", name).lower()
    similar = nearest(plain, _LOWERCASE, _SIMILAR)
    return _LOWERCASE[similar] if similar else None


def nearest(text: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the most similar of the known texts, None if no ratio of difflib's is that high."""
    from difflib import get_close_matches  # noqa: PLC0415  only for what is wrong

    return next(iter(get_close_matches(text, list(known), n=1, cutoff=least)), None)


def name_of(item: object) -> str | None:
    """Return a field item's SchemaName, which one of LeadSquared's pages calls Attribute."""
    if not is_mapping(item):
        return None
    name = item.get("SchemaName", item.get("Attribute"))
    return name if isinstance(name, str) and name.strip() else None


def by_name(where: str, items: object) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Return LeadSquared's list of field items by their names, and its problems."""
    named: dict[str, dict[str, Any]] = {}
    if items is None:
        return named, []
    if not is_list(items):
        return named, [problem(where, items, "a list of items with a name and a Value")]
    problems: list[Problem] = []
    for place, item in enumerate(items):
        name = name_of(item)
        if name is None:
            problems.append(problem(f"{where}[{place}]", item, "an item with a SchemaName"))
        elif name in named:
            problems.append(Problem(f"{where}[{place}]", f"a second {name!r}", "each name once"))
        else:
            named[name] = item
    return named, problems


def activity_problems(
    *, event: object, note: object, moment: object, fields: object, extra: object
) -> Iterator[Problem]:
    """Yield every problem of an activity with these parts, except those of its lead."""
    yield from _event_problems(event)
    if isinstance(note, str):
        yield from _json_problems("ActivityNote", note)
    elif note is not None:
        yield problem("ActivityNote", note, "text")
    if moment is not None:
        yield from datetime_problems("ActivityDateTime", moment)
    yield from _field_problems(fields)
    yield from _extra_problems(extra)


def lead_id_problems(lead: object, extra: object) -> Iterator[Problem]:
    """Yield the problem of a lead's id; without one, `extra` must have an email address."""
    if lead is None and is_mapping(extra):
        email = extra.get("EmailAddress")
        if isinstance(email, str) and email:
            return
    if not isinstance(lead, str) or not _GUID.fullmatch(lead):
        is_email = isinstance(lead, str) and "@" in lead
        yield problem("RelatedProspectId", lead, _WANTED_LEAD if is_email else _WANTED_GUID)


def lead_problems(name: object, value: object, attributes: object) -> Iterator[Problem]:
    """Yield the problems of a lead by a field, and of its new attributes."""
    if not _is_filled(name):
        yield problem("Lead", name, "the SchemaName of a field such as EmailAddress")
        return
    form, wanted = _FINDS_LEADS.get(name, (_TRIMMED, "text without blanks around it"))
    if not isinstance(value, str) or not form.fullmatch(value):
        yield problem(f"Lead.{name}", value, wanted)
    else:
        yield from _json_problems(f"Lead.{name}", value)
    if not is_mapping(attributes):
        yield problem("Lead", attributes, "a mapping of SchemaName to value")
        return
    for attribute, item in attributes.items():
        where = f"Lead.{attribute}"
        if not _is_filled(attribute):
            yield problem("Lead", attribute, "a SchemaName such as FirstName")
        elif attribute in {name, "SearchBy"}:
            yield Problem(where, "the search field among the attributes", "only other fields")
        elif item is None or (isinstance(item, str) and not item.strip()):
            wanted = "a value, or no such attribute: an empty value would erase the lead's"
            yield problem(where, item, wanted)
        elif is_mapping(item) or is_list(item):
            yield problem(where, item, "a single value")
        else:
            yield from _json_problems(where, item)


def _is_filled(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and bool(name.strip()) and not any(_json_problems("", name))


def _event_problems(event: object) -> Iterator[Problem]:
    wanted = "a positive integer such as 201"
    if not isinstance(event, int) or isinstance(event, bool):
        yield problem("ActivityEvent", event, wanted)
    elif event.bit_length() > 63:
        yield Problem("ActivityEvent", f"an integer of {event.bit_length()} bits", wanted)
    elif event < 1:
        yield Problem("ActivityEvent", str(event), wanted)


def datetime_problems(where: str, value: object) -> Iterator[Problem]:
    """Yield the problem of a value that is not a date-time, or that UTC cannot hold."""
    if not isinstance(value, datetime):
        yield problem(where, value, _WANTED_DATETIME)
        return
    try:
        if value.utcoffset() is None:
            yield Problem(where, "a date-time without a time zone", "an aware date-time")
        else:
            to_utc(value)
    except (OverflowError, NotImplementedError):  # the latter from a pandas.Timestamp
        yield Problem(where, "a date-time that UTC cannot hold", "one in the years 1 to 9999")
    except ValueError:  # from pandas.NaT, which is a datetime too
        yield problem(where, value, _WANTED_DATETIME)


def _field_problems(fields: object) -> Iterator[Problem]:
    if not is_mapping(fields):
        yield problem("fields", fields, "a mapping of SchemaName to value")
        return
    for name, value in fields.items():
        if not _is_filled(name):
            yield problem("fields", name, "a SchemaName such as mx_Custom_1")
        elif not isinstance(value, str) or not value.isascii():  # most values are such texts
            yield from _item_problems(name, value)
            yield from _json_problems(name, value)


def _item_problems(name: str, value: object) -> Iterator[Problem]:
    """Yield the problems in the form of a whole item, or of a nested set."""
    if is_mapping(value):
        found = name_of(value)
        if found is None:
            wanted = f"{_WANTED_SET}, or a whole item with the SchemaName {name}"
            yield Problem(name, "a mapping without a SchemaName", wanted)
        elif found != name:
            yield Problem(name, "an item with another SchemaName", f"SchemaName {name}")
        for part in ("Value", "Fields"):
            if is_mapping(value.get(part)):
                yield Problem(name, f"a mapping as {part}", _WANTED_SET)
        value = value.get("Fields")
    if is_list(value):
        yield from by_name(name, value)[1]


def _extra_problems(extra: object) -> Iterator[Problem]:
    if not is_mapping(extra):
        yield problem("extra", extra, "a mapping of further parameters")
        return
    for name, value in extra.items():
        if not _is_filled(name):
            yield problem("extra", name, "the name of a parameter")
        elif name in PARAMETERS:
            yield Problem(name, "in extra", "as an argument of `Activity`")
        elif meant := parameter_like(name):
            # LeadSquared would ignore it, and the intended parameter would be missing.
            wanted = f"{meant!r}, or an item of Fields if there is such a field"
            yield Problem(meant, f"the key {name!r}", wanted)
        else:
            yield from _json_problems(name, value)


def _json_problems(where: str, value: object) -> Iterator[Problem]:
    """Yield the problem of a value that JSON cannot hold."""
    if isinstance(value, datetime):
        yield from datetime_problems(where, value)
    elif not isinstance(value, str) or not value.isascii():
        try:
            json_text(value).encode()
        except UnicodeEncodeError:
            yield Problem(where, "text with half a surrogate pair", "text that UTF-8 can hold")
        except (TypeError, ValueError, RecursionError) as error:
            yield problem(where, python_value(value), f"a value that JSON can hold ({error})")


def json_text(value: object) -> str:
    """Return a value as JSON; raise TypeError, ValueError or RecursionError if it cannot be."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_json_value)


def _json_value(value: object) -> object:
    """Return what JSON can hold instead of a value that `json` does not know."""
    if is_mapping(value):
        return dict(value)
    if isinstance(value, datetime):
        for found in datetime_problems("a date-time", value):
            raise ValueError(str(found))
        return leadsquared_datetime(value)
    known = python_value(value)
    if known is value:
        raise TypeError(f"no value of type {type(value).__name__}")
    return known


def problem(where: str, value: object, wanted: str) -> Problem:
    """Return the problem of a value that is not the wanted one."""
    return Problem(where, _describe(value), wanted)


def _describe(value: object) -> str:
    """
    Describe a value without its text, which may be personal data in the wrong column.

    Only the form of a text is shown: that of 'Jo 7' is 'aa 9'.
    """
    if value is None:
        return "nothing"
    if isinstance(value, str):
        if not value.strip():
            return "empty text"
        form = re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", value[:40]))
        return f"text of the form {form!r}" + ("…" if len(value) > 40 else "")
    if isinstance(value, float) and not math.isfinite(value):
        return f"the number {value}"
    return f"a value of type {type(value).__name__}"
