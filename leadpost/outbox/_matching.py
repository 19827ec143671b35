"""
Which activities are the posted ones, as far as can be told, and where to look for them.

Pure functions: `Reconciler` reads, and decides with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from attrs import frozen

from leadpost._answers import LeadActivity
from leadpost._endpoints import moment, texts_in
from leadpost._models import Activity, Lead
from leadpost._validation import is_list, is_mapping
from leadpost.errors import InvalidActivity
from leadpost.outbox.database._settling import Doubt

CLOCKS_DIFFER = timedelta(minutes=2)
"""LeadSquared's clock may be so much behind ours."""
ZONES_DIFFER = timedelta(days=1)
"""Its times may be so much behind or ahead, if they are not in UTC."""


# Matching.


def lead_in(payload: Mapping[str, Any]) -> Lead | None:
    """Return the `Lead` that an activity was posted on, None if it names none."""
    try:
        lead = Activity.from_payload(payload).lead
    except InvalidActivity:
        return None
    return lead if isinstance(lead, Lead) else None


def candidates(
    payload: Mapping[str, Any], sent_at: datetime, has: Iterable[LeadActivity]
) -> list[LeadActivity]:
    """
    Return the activities of a lead that are the posted one, as far as can be told.

    They are of the same type, were created since it was sent, hold its note and date-time, and have
    no other value in one of its fields. If LeadSquared does not say type, time or value, they may
    be.
    """
    since = sent_at - CLOCKS_DIFFER
    return [
        activity
        for activity in has
        if may_be(activity, payload, since)
        and words(payload) <= set(map(_plain, activity.texts))
        and False not in _fields_agree(payload, activity.raw)
    ]


def may_be(activity: LeadActivity, payload: Mapping[str, Any], since: datetime) -> bool:
    """Whether an activity is of the posted one's type and time, or may be."""
    if activity.event not in {None, payload["ActivityEvent"]}:
        return False
    at = activity.modified_on or activity.created_on
    if at is None or at >= since:
        return True
    # In observed answers, CreatedOn is the date-time of the post itself.
    own = moment(payload.get("ActivityDateTime"))
    return activity.modified_on is None and own is not None and abs(at - own) <= ZONES_DIFFER


def is_twin(
    other: object, payload: Mapping[str, Any], lead: Lead | None, alike: Iterable[LeadActivity]
) -> bool:
    """
    Whether another entry on the same lead may have brought one of the activities that are `alike`.

    Args:
        other: The other entry's activity, of the same lead if both have an id.
        payload: This entry's activity, without details of the lead.
        lead: The `Lead` that this one is on, if it was posted on one.
        alike: What this one's candidates are.
    """
    if not is_mapping(other):
        return False
    posted = other
    if "LeadDetails" in other:
        of = lead_in(other)
        if lead is None or of is None or _key(of) != _key(lead):
            return False
        posted = other["Activity"]
    return (
        str(posted.get("ActivityEvent")) == str(payload.get("ActivityEvent"))
        and words(payload) <= set(map(_plain, texts_in(posted)))
        and any(False not in _fields_agree(posted, activity.raw) for activity in alike)
    )


def words(payload: Mapping[str, Any]) -> set[str]:
    """Return what an activity is recognized by."""
    texts = (_plain(payload.get(name) or "") for name in ("ActivityNote", "ActivityDateTime"))
    return {text for text in texts if text}


def _key(lead: Lead) -> tuple[str, str]:
    return lead.schema_name.lower(), _plain(lead.value).lower()


def _fields_agree(payload: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[bool]:
    """Yield for each posted field that LeadSquared shows whether it has the posted value."""
    shown = dict(_shown(row))
    items = payload.get("Fields")
    for item in items if is_list(items) else ():
        if is_mapping(item):
            posted, found = item.get("Value"), shown.get(str(item.get("SchemaName")).lower())
            if _is_comparable(posted) and _is_comparable(found):
                yield _normal(posted) == _normal(found)


def _shown(row: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the names and values of an activity: `{name: value}`, or a list of them in `Data`."""
    yield from ((name.lower(), value) for name, value in row.items())
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
        return float(text)
    except ValueError:
        return moment(text) or text


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
    doubts: tuple[Doubt, ...]

    @property
    def leads(self) -> int:
        """The number of leads."""
        return len({doubt.lead for doubt in self.doubts})


def windows(doubts: Iterable[Doubt], settle: timedelta) -> Iterator[Window]:
    """
    Yield windows of time in which LeadSquared processed what it has of these entries.

    It finds an activity by its last edit, so one that was edited after the window is not in it. A
    window that lasted until now would have it, but would grow by everything that an account posts:
    one entry that stays uncertain for weeks must not make it too long for all others.

    An activity may still arrive `settle` after its call.
    """
    of_types: dict[int, list[Doubt]] = {}
    for doubt in doubts:
        if doubt.lead is not None and doubt.event is not None:
            of_types.setdefault(doubt.event, []).append(doubt)
    apart = 2 * ZONES_DIFFER + settle
    for event, those in of_types.items():
        those.sort(key=lambda doubt: doubt.sent_at)
        # Those that are so far apart that two windows do not overlap are read separately.
        cuts = [
            number
            for number, (one, next_) in enumerate(pairwise(those), 1)
            if next_.sent_at - one.sent_at > apart
        ]
        for first, last in pairwise([0, *cuts, len(those)]):
            part = tuple(those[first:last])
            start = part[0].sent_at - ZONES_DIFFER
            yield Window(event, start, part[-1].sent_at + settle + ZONES_DIFFER, part)
