"""The checks of an activity before any call: what is wrong, where, and what is wanted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from leadpost._shapes import is_list, is_mapping
from leadpost.errors import Problem

PARAMETERS = (
    "RelatedProspectId",
    "ActivityEvent",
    "ActivityNote",
    "ActivityDateTime",
    "Fields",
)
_PLAIN = {name.lower(): name for name in PARAMETERS}
_ALIKE = 0.85
"""By the ratio of difflib: 0.96 for ActivityNotes, 0.86 for ActivityDate, 0.83 for ActivityType."""
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DEEPEST = 20
_SURROGATE = ("text with half a surrogate pair", "text that UTF-8 can hold")
_WANTED_DATETIME = (
    "a date-time with a time zone, or text 'YYYY-MM-DD HH:MM:SS' in UTC, or ISO 8601 with an offset"
)


@lru_cache
def parameter_like(name: str) -> str | None:
    """
    Give the vendor's parameter that a column or key was probably meant to be.

    >>> parameter_like("Activity Notes"), parameter_like("mx_Custom_1")
    ('ActivityNote', None)
    """
    plain = re.sub(r"[\W_]", "", name).lower()
    alike = get_close_matches(plain, _PLAIN, n=1, cutoff=_ALIKE)
    return _PLAIN[alike[0]] if alike else None


def name_of(item: object) -> str | None:
    """Give a field item's SchemaName, or Attribute as one page of the vendor's has it."""
    if not is_mapping(item):
        return None
    name = item.get("SchemaName", item.get("Attribute"))
    return name if isinstance(name, str) and name.strip() else None


def activity_problems(
    *, lead: object, event: object, note: object, moment: object, fields: object, extra: object
) -> Iterator[Problem]:
    """Yield every reason why an activity of these parts cannot be posted."""
    yield from _lead_problems(lead, extra)
    wanted = "a positive integer such as 201"
    if not isinstance(event, int) or isinstance(event, bool):
        yield problem("ActivityEvent", event, wanted)
    elif event.bit_length() > 63:
        yield Problem("ActivityEvent", f"an integer of {event.bit_length()} bits", wanted)
    elif event < 1:
        yield Problem("ActivityEvent", str(event), wanted)
    if note is not None:
        if not isinstance(note, str):
            yield problem("ActivityNote", note, "text")
        else:
            yield from _json_problems("ActivityNote", note)
    if moment is not None:
        yield from _datetime_problems(moment)
    yield from _field_problems(fields)
    yield from _extra_problems(extra)


def _lead_problems(lead: object, extra: object) -> Iterator[Problem]:
    if lead is None and is_mapping(extra) and extra.get("EmailAddress"):
        return
    if not isinstance(lead, str) or not _GUID.fullmatch(lead):
        yield problem(
            "RelatedProspectId", lead, "a GUID such as 00727844-51aa-11e2-9e64-12314004ac6b"
        )


def _datetime_problems(moment: object) -> Iterator[Problem]:
    if not isinstance(moment, datetime):
        yield problem("ActivityDateTime", moment, _WANTED_DATETIME)
    else:
        yield from _json_problems("ActivityDateTime", moment)


def _field_problems(fields: object) -> Iterator[Problem]:
    if not is_mapping(fields):
        yield problem("fields", fields, "a mapping of SchemaName to value")
        return
    for name, value in fields.items():
        if not isinstance(name, str) or not name.strip():
            yield problem("fields", name, "a SchemaName such as mx_Custom_1")
            continue
        if not _encodes(name):
            yield Problem("fields", *_SURROGATE)
            continue
        if is_mapping(value) and name_of(value) != name:
            yield Problem(name, "an item with another SchemaName or none", f"SchemaName {name}")
        nested = value
        if is_mapping(value):
            nested = value.get("Fields")
        if is_list(nested):
            yield from _nested_problems(name, nested)
        yield from _json_problems(name, value)


def _nested_problems(where: str, items: list[Any] | tuple[Any, ...]) -> Iterator[Problem]:
    seen = set[str]()
    for place, item in enumerate(items):
        name = name_of(item)
        if name is None:
            yield problem(f"{where}[{place}]", item, "an item with a SchemaName")
        elif name in seen:
            yield Problem(f"{where}[{place}]", "a SchemaName a second time", "each SchemaName once")
        else:
            seen.add(name)


def _extra_problems(extra: object) -> Iterator[Problem]:
    if not is_mapping(extra):
        yield problem("extra", extra, "a mapping of further parameters")
        return
    for name, value in extra.items():
        if not isinstance(name, str) or not name.strip():
            yield problem("extra", name, "the name of a parameter")
        elif not _encodes(name):
            yield Problem("extra", *_SURROGATE)
        elif name in PARAMETERS:
            yield Problem(name, "it in extra", "the attribute of that name")
        elif meant := parameter_like(name):
            # It would go out beside the vendor's own, which leaves it unread.
            wanted = f"{meant!r}, or an item of Fields if there is such a field"
            yield Problem(meant, f"the key {name!r}", wanted)
        else:
            yield from _json_problems(name, value)


def _json_problems(where: str, value: object, depth: int = 0) -> Iterator[Problem]:
    """Say why JSON cannot hold the value, at any depth."""
    if not is_mapping(value) and not is_list(value):
        if (found := _leaf_problem(where, value)) is not None:
            yield found
    elif depth == _DEEPEST:
        yield Problem(where, f"more than {_DEEPEST} levels", "less nesting")
    elif is_mapping(value):
        for name, item in value.items():
            if isinstance(name, str):
                yield from _json_problems(where, name)
                yield from _json_problems(where, item, depth + 1)
            else:
                yield Problem(where, f"a key of type {type(name).__name__}", "text as keys")
    else:
        for item in value:
            yield from _json_problems(where, item, depth + 1)


def _leaf_problem(where: str, value: object) -> Problem | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if value.isascii() or _encodes(value) else Problem(where, *_SURROGATE)
    if isinstance(value, int):
        found = f"an integer of {value.bit_length()} bits"
        return None if value.bit_length() <= 1024 else Problem(where, found, "one of 1024 or fewer")
    if isinstance(value, float):
        found = f"the number {value}"
        return None if math.isfinite(value) else Problem(where, found, "a finite number")
    if isinstance(value, datetime):
        return _moment_problem(where, value)
    return problem(where, value, "a value that JSON can hold (text will do for all)")


def _moment_problem(where: str, moment: datetime) -> Problem | None:
    if moment.utcoffset() is None:
        return Problem(where, "a date-time without a time zone", "an aware date-time")
    try:
        moment.astimezone(UTC)
    except OverflowError:
        return Problem(where, "a date-time that UTC cannot hold", "one in the years 1 to 9999")
    return None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem(where: str, value: object, wanted: str) -> Problem:
    return Problem(where, _describe(value), wanted)


def _describe(value: object) -> str:
    """
    Say what a value is without saying its text, which may be somebody's data in the wrong column.

    A text is told by its form: 'Jo 7' is 'aa 9'.
    """
    if value is None:
        return "nothing"
    if isinstance(value, str):
        if not value.strip():
            return "empty text"
        form = re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", value[:40]))
        return f"text of the form {form!r}" + ("…" if len(value) > 40 else "")
    return f"a value of type {type(value).__name__}"
