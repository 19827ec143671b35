"""Changes made by hand: retry, replace, arrived, prune."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import ACME, changed, executed, held_until, poster, states
from sqlalchemy.util import await_only
from support import LeadSquared, activity, answers, within

from leadpost import DeliveryUncertain, InvalidActivity, KeyConflict, OutboxError, TokenBucket
from leadpost.outbox import Outbox
from leadpost.outbox.database import _calls, _edits, _entries
from leadpost.outbox.database._calls import Result
from leadpost.outbox.database._sql import LONGEST_WAIT, Transaction


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


def refused(number: int) -> LeadSquared:
    return LeadSquared(answers(*[httpx.Response(400)] * number))


async def test_only_failed_rejected_and_uncertain_entries_are_retried(outbox: Outbox) -> None:
    first = await outbox.put(activity(1))
    second = await outbox.put(activity(2))
    assert await outbox.drain(poster(refused(2))) == {"rejected": 2}
    with pytest.raises(ValueError, match="accepted"):
        await outbox.retry("accepted")
    with pytest.raises(ValueError, match="none"):
        await outbox.retry(ids=[first])
    assert await outbox.retry("rejected", ids=[*range(10, 2_000), second]) == 1
    assert await states(outbox) == ["rejected", "pending"]


async def test_more_entries_are_retried_than_one_statement_covers(outbox: Outbox) -> None:
    await outbox.put_many(map(activity, range(1, 1102)))
    await changed(outbox, state="failed", failures=5)
    assert await outbox.retry("failed", "rejected") == 1101
    assert (await outbox.counts())["pending"] == 1101
    last = [change.note for change in await outbox.history(1101)]
    assert last == [None, "retried by hand"]


async def test_only_old_finished_entries_are_deleted(outbox: Outbox) -> None:
    await outbox.put_many(map(activity, range(1, 14)))
    await outbox.drain(poster(refused(12)))
    assert await outbox.prune(timedelta(hours=1)) == 0
    assert await outbox.prune(timedelta(0)) == 12
    [left] = [entry async for entry in outbox.entries()]
    assert left.state == "accepted"
    assert await outbox.history(1) == []
    of_others = sa.text("SELECT DISTINCT entry_id FROM leadpost_changes")
    rows = await executed(outbox, of_others)
    assert list(rows.scalars()) == [left.id]


async def test_what_raises_has_made_no_entry_pending_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outbox.put_many(map(activity, range(1, 502)))
    await changed(outbox, state="uncertain")
    add_changes = _entries.add_changes

    def lost_after_the_first(transaction: Transaction, *args: Any) -> int:
        monkeypatch.setattr(_edits, "add_changes", fail)
        return add_changes(transaction, *args)

    def fail(*_: Any) -> int:
        raise OutboxError("lost")

    for change in (partial(outbox.retry, "uncertain"), partial(outbox.arrived, range(1, 502))):
        first = lost_after_the_first if change.func == outbox.retry else fail
        monkeypatch.setattr(_edits, "add_changes", first)
        with pytest.raises(OutboxError, match="lost"):
            await change()
        assert (await outbox.counts())["uncertain"] == 501
    monkeypatch.setattr(_edits, "add_changes", add_changes)
    assert await outbox.arrived(range(1, 502)) == 501


async def test_changes_of_a_million_entries_may_take_longer_than_others(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float | None] = []
    write = outbox._database.write

    async def noted(work: Any, within: float | None = LONGEST_WAIT) -> Any:
        limits.append(within)
        return await write(work, within)

    await outbox.put(activity(1), key="one")
    monkeypatch.setattr(outbox._database, "write", noted)
    await outbox.retry("failed")
    await outbox.replace({"one": activity(2)})
    await outbox.arrived([1])
    await outbox.adopt("other")
    assert limits == [None] * 4


async def test_an_entry_that_is_being_retried_is_not_deleted(postgresql_url: str) -> None:
    retried, both_tried = asyncio.Event(), asyncio.Event()
    async with Outbox(postgresql_url, ACME) as outbox:
        await outbox.put(activity(1))
        await outbox.drain(poster(refused(1)))

        def slowly(transaction: Transaction) -> None:
            _edits.retry(transaction, states=["rejected"], ids=None)
            retried.set()
            await_only(both_tried.wait())

        retrying = asyncio.create_task(outbox._store.write(slowly))
        await retried.wait()
        assert await outbox.prune(timedelta(0)) == 0
        both_tried.set()
        await retrying
        assert await states(outbox) == ["pending"]


async def test_a_rejected_entry_is_posted_with_its_new_activity(outbox: Outbox) -> None:
    await outbox.put(activity(1), key="one")
    assert await outbox.drain(poster(refused(1))) == {"rejected": 1}
    await outbox.replace({"one": activity(2).to_payload()})
    found = (await outbox.find(["one"]))["one"]
    assert (found.state, found.error_type, found.message) == ("pending", None, None)
    leadsquared = LeadSquared()
    assert await outbox.drain(poster(leadsquared)) == {"accepted": 1}
    assert leadsquared.numbers == [2]
    notes = [change.note for change in await outbox.history(found.id)]
    assert notes[3] == "replaced"
    with pytest.raises(KeyConflict):  # the original activity is another one now
        await outbox.put(activity(1), key="one")
    assert await outbox.put(activity(2), key="one") == found.id


@pytest.mark.parametrize("state", ["sending", "accepted", "succeeded", "uncertain"])
async def test_an_entry_that_may_have_been_accepted_is_not_replaced(
    outbox: Outbox, state: str
) -> None:
    await outbox.put_many(map(activity, (1, 2)), keys=["one", "two"])
    await executed(outbox, sa.text(f"UPDATE leadpost_entries SET state = '{state}' WHERE id = 1"))
    with pytest.raises(
        KeyConflict, match="1 keys cannot be replaced: unknown, or already"
    ) as caught:
        await outbox.replace({"two": activity(5), "one": activity(6)})
    assert caught.value.keys == ("one",)
    found = [entry.activity["ActivityEvent"] async for entry in outbox.entries()]
    assert found == [1, 2]


async def test_a_pending_entry_that_may_have_arrived_is_not_replaced(outbox: Outbox) -> None:
    await outbox.put(activity(1), key="one")
    await changed(outbox, error_type="DeliveryUncertain")
    with pytest.raises(KeyConflict):
        await outbox.replace({"one": activity(2)})


async def test_a_key_that_no_database_stores_is_not_replaced(outbox: Outbox) -> None:
    with pytest.raises(ValueError, match="a character that no database stores"):
        await outbox.replace({"one\0": activity(1)})


async def test_all_are_replaced_or_none(outbox: Outbox) -> None:
    rows = [f"{number:04}" for number in range(1200)]
    await outbox.put_many([activity(1)] * 1200, keys=rows)
    with pytest.raises(KeyConflict) as caught:
        await outbox.replace({key: activity(2) for key in [*rows, "unknown"]})
    assert caught.value.keys == ("unknown",)
    with pytest.raises(InvalidActivity):
        await outbox.replace({"0000": activity(2), "0001": {}})
    assert {e.activity["ActivityEvent"] async for e in outbox.entries()} == {1}
    await outbox.replace({key: activity(2) for key in reversed(rows)})
    assert {e.activity["ActivityEvent"] async for e in outbox.entries()} == {2}


@pytest.mark.parametrize(("new", "state"), [(2, "pending"), (1, "accepted")])
async def test_a_late_record_applies_only_to_the_activity_that_was_sent(
    outbox: Outbox, new: int, state: str
) -> None:
    await outbox.put(activity(1), key="one")
    claim = partial(_calls.claim, call_id="call", call_time=40.0)
    call = await outbox._store.write(claim)
    assert call is not None
    await changed(outbox, state="failed")  # as plain SQL might
    await outbox.replace({"one": activity(new)})
    record = partial(_calls.record, of=call, result=Result("accepted", request_id="late"))
    assert await outbox._store.write(record) is (state == "accepted")
    assert await states(outbox) == [state]


async def test_an_entry_seen_on_its_lead_has_succeeded(outbox: Outbox) -> None:
    slow = LeadSquared(answers(httpx.ReadTimeout("slow")))
    await outbox.put_many(map(activity, (1, 2)))
    assert await outbox.drain(poster(slow)) == {"uncertain": 1, "accepted": 1}
    assert await outbox.arrived([*range(3, 1200), 1, 2]) == 1
    assert await states(outbox) == ["succeeded", "accepted"]
    assert (await outbox.history(1))[-1].note == "seen on the lead"


async def test_no_log_shows_a_replaced_activity(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await outbox.put(activity(1, activity_note="private"), key="confidential")
    await outbox.replace({"confidential": activity(1, activity_note="private too")})
    with pytest.raises(KeyConflict) as caught:
        await outbox.replace({"secret": activity(1)})
    for text in ("private", "confidential"):
        assert text not in caplog.text
    assert "secret" not in str(caught.value)


async def test_the_result_of_a_call_in_flight_during_a_retry_is_recorded(outbox: Outbox) -> None:
    """Somebody retried it too early: the worker of the first call still records its RequestID."""
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put(activity(1))
    leadsquared = LeadSquared(held_until(answer, started))
    draining = asyncio.create_task(outbox.drain(poster(leadsquared, bucket=TokenBucket(1))))
    await started.wait()
    await changed(outbox, state="uncertain")
    assert await outbox.retry("uncertain") == 1
    answer.set()
    async with within(10):
        assert await draining == {"accepted": 1}
    [entry] = [entry async for entry in outbox.entries()]
    assert (entry.state, entry.request_id, len(leadsquared.requests)) == ("accepted", "r1", 1)


async def test_a_late_record_that_a_call_is_uncertain_does_not_undo_a_retry(
    outbox: Outbox,
) -> None:
    await outbox.put(activity(1))
    call = await outbox._store.write(_calls.claim, "call", 40.0)
    assert call is not None
    await changed(outbox, state="uncertain")
    assert await outbox.retry("uncertain") == 1
    late = Result("uncertain", error=DeliveryUncertain("no answer"), failed=True)
    assert not await outbox._store.write(_calls.record, call, late)
    assert await states(outbox) == ["pending"]
