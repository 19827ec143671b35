"""Reconciling by windows of time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from outbox_support import (
    ACME,
    OWN_CALL,
    changed,
    executed,
    messages,
    poster,
    poster_to,
    table,
)
from support import LeadSquared, within

from leadpost import Activity, Lead, OpenBucket
from leadpost.outbox import EntryState, Outbox
from leadpost.outbox._reconciler import SETTLE
from leadpost.sandbox import Sandbox
from leadpost.sandbox.answers import Answer, RejectedError, error, unauthorized, unknown_activity
from leadpost.sandbox.checks import Span
from leadpost.sandbox.queue import Queue

pytestmark = pytest.mark.usefixtures("quick_queries")

LONG_AGO = SETTLE + timedelta(hours=1)


def on_lead(number: int, note: str = "note", **details: Any) -> Activity:
    return Activity(str(UUID(int=number)), 201, note, **details)


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


async def make_all_uncertain(outbox: Outbox, age: timedelta = LONG_AGO) -> None:
    sent_at = time.time() - age.total_seconds()
    await changed(outbox, state="uncertain", sent_at=sent_at, call_id=OWN_CALL)


async def sent(sandbox: Sandbox, *activities: Activity) -> None:
    """Post without the outbox, and wait until LeadSquared's queue is done."""
    async with poster_to(sandbox, bucket=OpenBucket()) as posting, within(120):
        await posting.post_many(activities)
        while (await posting.metrics()).pending_messages:
            await asyncio.sleep(0.01)


async def reconciled(outbox: Outbox, sandbox: Sandbox) -> tuple[Counter[EntryState], int]:
    """Reconcile, and return the states and the number of calls."""
    before = sandbox.report().arrivals
    async with poster_to(sandbox, bucket=OpenBucket()) as posting:
        tally = await outbox.reconcile(posting)
    return tally, sandbox.report().arrivals - before


@pytest.mark.parametrize("refuses", [False, True])
async def test_many_leads_are_read_by_a_window_of_time_where_the_account_allows_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, *, refuses: bool
) -> None:
    """
    500 uncertain entries over 400 leads: 480 have arrived, 20 have not.

    A window takes one call, and each lead to which an entry is to be sent again another. Where the
    account refuses windows, each of the 400 leads takes one.
    """
    if refuses:

        def refuse(*_: object) -> None:
            raise RejectedError(unknown_activity())

        monkeypatch.setattr(Queue, "activities_between", refuse)
    posts = [on_lead(number % 400 + 1, f"call {number}") for number in range(500)]
    async with Outbox(sqlite_url, ACME) as outbox:
        await outbox.put_many(posts)
        await make_all_uncertain(outbox)
        with Sandbox(limit=None, pace=1000) as sandbox:
            await sent(sandbox, *posts[:480])
            tally, calls = await reconciled(outbox, sandbox)
        found = [entry async for entry in outbox.entries("succeeded")]
    assert tally == {"succeeded": 480, "pending": 20}
    assert calls == (1 + 400 if refuses else 1 + 20)
    assert len({entry.activity_id for entry in found}) == 480
    assert sorted(entry.id for entry in found) == list(range(1, 481))


@pytest.mark.parametrize(
    "answer",
    [unauthorized(), error(500, "MXInvalidInputException", "no"), Answer(503), Answer(200, "{}")],
    ids=["not allowed", "rejected", "unavailable", "unreadable"],
)
async def test_leads_are_read_one_by_one_where_windows_cannot_be_read(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    def refuse(*_: object) -> None:
        raise RejectedError(answer)

    monkeypatch.setattr(Queue, "activities_between", refuse)
    posts = [on_lead(number) for number in range(1, 6)]
    await outbox.put_many(posts)
    await make_all_uncertain(outbox)
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, *posts[:3])
        tally, _ = await reconciled(outbox, sandbox)
    assert tally == {"succeeded": 3, "pending": 2}


async def test_a_lead_is_asked_before_what_its_window_lacks_is_sent_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An activity that was edited later is not in the window of its posting."""

    def nothing(*_: object) -> dict[str, Any]:
        return {"RecordCount": 0, "List": []}

    monkeypatch.setattr(Queue, "activities_between", nothing)
    posts = [on_lead(number) for number in range(1, 6)]
    await outbox.put_many(posts)
    await make_all_uncertain(outbox)
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, *posts[:4])
        tally, calls = await reconciled(outbox, sandbox)
    assert tally == {"succeeded": 4, "pending": 1}
    assert calls == 1 + 5


@pytest.mark.parametrize("missing", ["ActivityEvent_Note", "RelatedProspectId"])
async def test_leads_are_asked_where_the_rows_of_a_window_do_not_suffice(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    between = Queue.activities_between

    def with_less(*args: Any) -> dict[str, Any]:
        found = between(*args)
        for row in found["List"]:
            del row[missing]
        return found

    monkeypatch.setattr(Queue, "activities_between", with_less)
    posts = [on_lead(number) for number in range(1, 5)]
    await outbox.put_many(posts)
    await make_all_uncertain(outbox, timedelta(seconds=1))
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, *posts)
        tally, calls = await reconciled(outbox, sandbox)
    assert tally == {"succeeded": 4}
    assert calls == 1 + 4


async def test_a_window_is_not_read_for_two_leads(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("a window takes no fewer calls")

    monkeypatch.setattr(Queue, "activities_between", unexpected)
    posts = [on_lead(number % 2 + 1, f"call {number}") for number in range(6)]
    await outbox.put_many(posts)
    await make_all_uncertain(outbox)
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, *posts)
        assert await reconciled(outbox, sandbox) == ({"succeeded": 6}, 2)


async def test_leads_are_read_one_by_one_where_a_window_has_too_many_activities(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def many(*_: object) -> dict[str, Any]:
        rows = [{"ProspectActivityId": str(n), "RelatedProspectId": "x"} for n in range(1000)]
        return {"RecordCount": 5000, "List": rows}

    monkeypatch.setattr(Queue, "activities_between", many)
    posts = [on_lead(number) for number in range(1, 5)]
    await outbox.put_many(posts)
    await make_all_uncertain(outbox)
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, *posts)
        assert await reconciled(outbox, sandbox) == ({"succeeded": 4}, 1 + 4)


async def test_entries_that_may_still_arrive_cost_no_call_beside_the_window(outbox: Outbox) -> None:
    await outbox.put_many(on_lead(number) for number in range(1, 11))
    await make_all_uncertain(outbox, timedelta(minutes=1))
    with Sandbox(limit=None) as sandbox:
        assert await reconciled(outbox, sandbox) == ({"uncertain": 10}, 1)
    assert {message for _, message in await messages(outbox)} == {
        "the lead does not have it yet; it may still arrive"
    }


async def test_one_activity_in_a_window_is_never_matched_twice(outbox: Outbox) -> None:
    alike = [on_lead(1), on_lead(1), on_lead(1)]
    others = [on_lead(2), on_lead(3)]
    await outbox.put_many([*alike, *others])
    await make_all_uncertain(outbox)
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, *alike[:2], *others)
        tally, calls = await reconciled(outbox, sandbox)
    assert tally == {"succeeded": 4, "pending": 1}
    assert calls == 1 + 1
    found = [entry.activity_id async for entry in outbox.entries("succeeded")]
    assert len(set(found)) == 4


async def test_an_entry_of_long_ago_does_not_keep_the_others_from_a_window(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    between, spans = Queue.activities_between, list[timedelta]()

    def noting(queue: Queue, span: Span, now: float) -> dict[str, Any]:
        spans.append(span.end - span.start)
        return between(queue, span, now)

    monkeypatch.setattr(Queue, "activities_between", noting)
    posts = [on_lead(number) for number in range(1, 31)]
    await outbox.put_many(posts)
    await make_all_uncertain(outbox)
    month_ago = sa.update(table).where(table.c.id == 1).values(sent_at=time.time() - 30 * 86400)
    await executed(outbox, month_ago)
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, *posts)
        tally, calls = await reconciled(outbox, sandbox)
    assert tally == {"succeeded": 30}
    assert calls == 1 + 1
    assert [round(span.total_seconds() / 3600) for span in spans] == [24 + 12 + 24]


async def test_activities_that_differ_only_in_a_field_are_told_apart(outbox: Outbox) -> None:
    monday, tuesday = (on_lead(1, fields={"mx_Custom_1": day}) for day in ("Monday", "Tuesday"))
    await outbox.put_many([monday, tuesday])
    await make_all_uncertain(outbox)
    second = sa.update(table).where(table.c.id == 2).values(state="accepted", request_id="r")
    await executed(outbox, second)
    with Sandbox(limit=None, pace=1000) as sandbox:
        await sent(sandbox, tuesday)
        assert (await reconciled(outbox, sandbox))[0] == {"uncertain": 1}
        await sent(sandbox, monday)
        assert (await reconciled(outbox, sandbox))[0] == {"succeeded": 1}
        async with poster_to(sandbox) as posting:
            has = await posting.lead_activities(str(UUID(int=1)), 201)
    ids = {("Monday" in one.texts): one.activity_id for one in has}
    assert [entry.activity_id async for entry in outbox.entries()] == [ids[True], None]


async def test_an_activity_on_a_lead_without_an_id_stays_uncertain(outbox: Outbox) -> None:
    leadsquared = LeadSquared()
    await outbox.put(Activity(Lead.find_or_create("EmailAddress", "ada@example.com"), 201, "note"))
    await make_all_uncertain(outbox)
    assert await outbox.reconcile(poster(leadsquared)) == {"uncertain": 1}
    assert await messages(outbox) == [
        ("uncertain", "it names no lead's id, so it cannot be looked for")
    ]
    assert not leadsquared.requests
