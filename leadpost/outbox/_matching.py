"""
Which of a lead's activities may be a posted one, and in which windows of time to look for it.

Pure functions: `Reconciler` reads, and decides with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from attrs import frozen

from leadpost._answers import LeadActivity
from leadpost._endpoints.values import moment, texts_in
from leadpost._validation import is_list, is_mapping
from leadpost.outbox.database._settling import UncertainEntry

CLOCKS_DIFFER = timedelta(minutes=2)
"""LeadSquared's clock may be so much behind ours."""
ZONES_DIFFER = timedelta(days=1)
"""Its times may be so much behind or ahead, if they are not in UTC."""


# Matching.


def candidates(
    activity: Mapping[str, Any], sent_at: datetime, has: Iterable[LeadActivity]
) -> list[LeadActivity]:
    """
    Return the activities of a lead that may be the posted one.

    They are of the same type, were created since it was sent, hold its note and date-time, and have
    no other value in one of its fields. An answer without type, time or value is no reason against
    it.
    """
    since = sent_at - CLOCKS_DIFFER
    # An older one may have been edited since. One with a date-time of its own shows that instead.
    shows_creation = not activity.get("ActivityDateTime")
    return [
        one
        for one in has
        if may_be(one, activity, since)
        and not (shows_creation and one.created_on is not None and one.created_on < since)
        and words(activity) <= set(map(_plain, one.texts))
        and _fields_agree(one, activity)
    ]


def may_be(one: LeadActivity, activity: Mapping[str, Any], since: datetime) -> bool:
    """Whether an activity of a lead may be the posted one, by its type and time."""
    if one.event not in {None, activity.get("ActivityEvent")}:
        return False
    at = one.modified_on or one.created_on
    if at is None or at >= since:
        return True
    # In observed answers, CreatedOn is the date-time of the post itself.
    own = moment(activity.get("ActivityDateTime"))
    return one.modified_on is None and own is not None and abs(at - own) <= ZONES_DIFFER


def is_rival(
    other: object, activity: Mapping[str, Any], candidates: Iterable[LeadActivity]
) -> bool:
    """
    Whether one of the candidates for an uncertain activity may belong to another entry.

    Args:
        other: The parameters of another entry of the same lead; plain SQL may have put any JSON.
        activity: The uncertain activity.
        candidates: Activities of the lead that may be the uncertain one.
    """
    return (
        is_mapping(other)
        and str(other.get("ActivityEvent")) == str(activity.get("ActivityEvent"))
        and words(activity) <= set(map(_plain, texts_in(other)))
        and any(_fields_agree(one, other) for one in candidates)
    )


def words(activity: Mapping[str, Any]) -> set[str]:
    """Return what an activity is recognized by."""
    texts = (_plain(str(activity.get(name) or "")) for name in ("ActivityNote", "ActivityDateTime"))
    return {text for text in texts if text}


def _fields_agree(one: LeadActivity, activity: Mapping[str, Any]) -> bool:
    """Whether LeadSquared shows no other value in a posted field."""
    shown = dict(_shown(one.raw))
    items = activity.get("Fields")
    for item in items if is_list(items) else ():
        if is_mapping(item):
            value, found = item.get("Value"), shown.get(str(item.get("SchemaName")).lower())
            comparable = _is_comparable(value) and _is_comparable(found)
            if comparable and _normal(value) != _normal(found):
                return False
    return True


def _shown(row: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the names and values of an activity: of its own, in `ActivityFields`, or in `Data`."""
    for part in (row, row.get("ActivityFields")):
        if is_mapping(part):
            yield from ((name.lower(), value) for name, value in part.items())
    data = row.get("Data")
    for item in data if is_list(data) else ():
        if is_mapping(item):
            yield str(item.get("Key")).lower(), item.get("Value")


def _is_comparable(value: object) -> bool:
    """Whether it is a text or a number; how LeadSquared shows other values is not known."""
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def _normal(value: object) -> object:
    """Return a value as LeadSquared may write it: 12.50 is 12.5, and 10:30:00.000 is 10:30:00."""
    text = _plain(str(value)).lower()
    try:
        number = float(text)
    except ValueError:
        return moment(text) or text
    return number if isfinite(number) else text


def _plain(text: str) -> str:
    """Ignore line ends and blanks, which others may write in their own way."""
    return " ".join(text.split())


# Windows of time.


@frozen
class Window:
    """A span of time, and the entries to look for in it."""

    event: int  # the activity type's code
    start: datetime
    end: datetime
    entries: tuple[UncertainEntry, ...]


def windows(entries: Iterable[UncertainEntry], settle: timedelta) -> list[Window]:
    """
    Return windows of time in which LeadSquared processed what it has of these entries.

    It finds an activity by its last edit, so one that was edited after the window is not in it. A
    window that lasted until now would have it, but would grow by everything that an account posts:
    one entry that stays uncertain for weeks must not make it too long for all others.

    An activity may still arrive `settle` after its call.
    """
    found: list[Window] = []
    known = [(entry.event, entry) for entry in entries if entry.lead and entry.event is not None]
    for event, entry in sorted(known, key=lambda pair: (pair[0], pair[1].sent_at)):
        start, end = entry.sent_at - ZONES_DIFFER, entry.sent_at + settle + ZONES_DIFFER
        last = found[-1] if found else None
        if last is not None and last.event == event and last.end >= start:
            found[-1] = Window(event, last.start, end, (*last.entries, entry))
        else:
            found.append(Window(event, start, end, (entry,)))
    return found
