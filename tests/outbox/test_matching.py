"""Which activity of a lead is the posted one, and which windows of time to look in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from outbox_support import (
    WHEN,
    noted,
)
from support import LEAD

from leadpost import (
    Activity,
    LeadActivity,
)
from leadpost.outbox import _reconciler
from leadpost.outbox._matching import candidates, is_rival, windows
from leadpost.outbox.database._settling import UncertainEntry

DAY = 86400.0

NOW = timedelta(0)


@pytest.mark.parametrize(
    ("event", "created", "texts", "is_one"),
    [
        (201, NOW, {"note 1", "2026-11-01 10:30:00", "more"}, True),
        (None, None, {"note 1", "2026-11-01 10:30:00"}, True),
        (202, NOW, {"note 1", "2026-11-01 10:30:00"}, False),
        (201, -timedelta(minutes=3), {"note 1", "2026-11-01 10:30:00"}, False),
        (201, -timedelta(minutes=1), {"note 1", "2026-11-01 10:30:00"}, True),
        (201, NOW, {"note 1"}, False),
        (201, NOW, {"note 2", "2026-11-01 10:30:00"}, False),
    ],
)
def test_which_activities_may_be_the_posted_one(
    event: int | None, created: timedelta | None, texts: set[str], *, is_one: bool
) -> None:
    made = None if created is None else WHEN + created
    has = [LeadActivity("a1", LEAD, event, None, made, frozenset(texts), {})]
    assert candidates(noted(1).to_payload(), WHEN, has) == (has if is_one else [])
    assert timedelta(hours=12) == _reconciler.SETTLE


@pytest.mark.parametrize(
    ("own", "created", "is_one"),
    [
        (None, timedelta(days=-30), False),
        (None, -timedelta(minutes=1), True),
        (None, None, True),
        (WHEN - timedelta(days=30), timedelta(days=-30), True),  # LeadSquared shows that instead
    ],
)
def test_an_older_activity_that_was_edited_since_is_not_the_posted_one(
    own: datetime | None, created: timedelta | None, *, is_one: bool
) -> None:
    posted = Activity(LEAD, 201, "Called back", own)
    texts = frozenset({"Called back", "2026-10-02 10:30:00"})
    made = None if created is None else WHEN + created
    has = [LeadActivity("a1", LEAD, 201, made, WHEN, texts, {})]
    assert candidates(posted.to_payload(), WHEN, has) == (has if is_one else [])


def test_line_ends_and_blanks_make_no_difference() -> None:
    posted = Activity(LEAD, 201, "one\r\ntwo  three ").to_payload()
    has = [LeadActivity("a1", LEAD, 201, None, WHEN, frozenset({"one\ntwo three"}), {})]
    assert candidates(posted, WHEN, has) == has


def test_a_note_of_blanks_proves_nothing() -> None:
    blank = Activity(LEAD, 201, " \r\n ", WHEN).to_payload()
    has = [LeadActivity("a1", LEAD, 201, None, WHEN, frozenset({"", "anything"}), {})]
    assert candidates(blank, WHEN, has) == []


def test_what_plain_sql_has_inserted_is_compared_as_far_as_it_goes() -> None:
    payload = {"RelatedProspectId": LEAD, "ActivityEvent": 201, "Fields": [7], "ActivityNote": "n"}
    raw = {"Data": [7, {"Key": "mx_Custom_1", "Value": "a"}]}
    same = LeadActivity("a1", LEAD, 201, None, None, frozenset({"n"}), raw)
    assert candidates(payload, WHEN, [same]) == [same]
    assert not is_rival("n", payload, [same])
    assert candidates(payload | {"ActivityNote": 5}, WHEN, [same]) == []


def uncertain(number: int, lead: str | None, event: int | None, sent_at: float) -> UncertainEntry:
    moment = datetime.fromtimestamp(sent_at, UTC)
    return UncertainEntry(number, None, lead, {"ActivityEvent": event}, moment, 0.0)


def test_windows_are_of_one_type_and_do_not_overlap() -> None:
    sent_at = [0.0, 1 * DAY, 3.4 * DAY, 6.0 * DAY]
    entries = [
        *(uncertain(number, LEAD, 201, moment) for number, moment in enumerate(sent_at)),
        uncertain(4, LEAD, 202, 0.5 * DAY),
        uncertain(5, None, 201, 0.0),
        uncertain(6, LEAD, None, 0.0),
    ]
    found = list(windows(entries, timedelta(hours=12)))
    assert [[entry.id for entry in window.entries] for window in found] == [[0, 1, 2], [3], [4]]
    assert [window.event for window in found] == [201, 201, 202]
    assert found[0].start == datetime(1969, 12, 31, tzinfo=UTC)
    assert found[0].end == datetime(1970, 1, 5, 21, 36, tzinfo=UTC)
    assert found[0].end < found[1].start


def row(activity_id: str, **fields: object) -> LeadActivity:
    """Return an activity as in a window, with its fields beside its note."""
    note, when = "note 1", "2026-11-01 10:30:00"
    return LeadActivity(activity_id, LEAD, 201, None, WHEN, frozenset({note, when}), fields)


@pytest.mark.parametrize(
    ("posted", "shown", "is_one"),
    [
        ("Monday", {"mx_Custom_1": " monday "}, True),
        ("Monday", {"mx_Custom_1": "Tuesday"}, False),
        ("Monday", {"ActivityFields": {"mx_Custom_1": "Tuesday"}}, False),
        ("Monday", {"ActivityFields": {"mx_Custom_1": "Monday"}}, True),
        ("Monday", {"Data": [{"Key": "mx_Custom_1", "Value": "Tuesday"}]}, False),
        ("Monday", {"Data": [{"Key": "mx_Custom_1", "Value": "Monday"}]}, True),
        ("Monday", {}, True),
        ("Monday", {"mx_Custom_1": None}, True),
        ("Monday", {"mx_Custom_1": ""}, True),
        (12.5, {"MX_Custom_1": "12.5000"}, True),
        (12.5, {"mx_Custom_1": "12"}, False),
        (True, {"mx_Custom_1": "1"}, True),
        ("Nan", {"mx_Custom_1": "Nan"}, True),
        ("Inf", {"mx_Custom_1": "Infinity"}, False),
        ("2026-11-01 10:30:00", {"mx_Custom_1": "2026-11-01 10:30:00.000"}, True),
    ],
)
def test_an_activity_with_another_value_in_a_posted_field_is_another(
    posted: object, shown: dict[str, object], *, is_one: bool
) -> None:
    payload = noted(1, fields={"mx_Custom_1": posted}).to_payload()
    has = [row("a1", **shown)]
    assert candidates(payload, WHEN, has) == (has if is_one else [])
