"""A worker that is stopped, or whose calls end late: nothing is lost or sent twice."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import httpx
import pytest
from outbox_support import changed, held_until, poster, states, until
from support import LeadSquared, accept, activity, answers, number_in, within

from leadpost import AsyncActivityPoster, ConnectionFailed, OutboxError, ServerError, TokenBucket
from leadpost.outbox import EntryState, Outbox, _verifier, _worker
from leadpost.outbox.database import Store, _calls, _settling
from leadpost.outbox.database._calls import Claim, Result


async def test_a_cancelled_drain_waits_for_the_calls_in_flight(outbox: Outbox) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put_many(map(activity, range(1, 101)))
    leadsquared = LeadSquared(held_until(answer, started))
    draining = asyncio.create_task(outbox.drain(poster(leadsquared, bucket=TokenBucket(3))))
    await until(outbox, sending=3)
    draining.cancel()
    await asyncio.sleep(0.1)
    assert not draining.done()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await draining
    counts = await outbox.counts()
    assert counts == counts | {"accepted": 3, "pending": 97, "sending": 0}


async def test_a_cancelled_run_asks_for_no_more_statuses(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_settling, "WAITS", (0.0,))
    monkeypatch.setattr(_verifier, "_POLL", 0.01)
    monkeypatch.setattr(_worker, "_FIRST_QUERY", 0.0)
    answer, started, asked = asyncio.Event(), asyncio.Event(), list[httpx.Request]()
    held = held_until(answer, started)

    async def first_at_once(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            asked.append(request)
            return httpx.Response(200, json={"TaskStatus": {"Status": "Pending"}})
        return await (accept if number_in(request) == 1 else held)(request)

    await outbox.put_many(map(activity, (1, 2)))
    running = asyncio.create_task(outbox.run(poster(LeadSquared(first_at_once))))
    async with within(20):
        await started.wait()
        while len(asked) < 2:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.sleep(0)
        before = len(asked)
        await asyncio.sleep(0.3)
        assert not running.done()
        answer.set()
        await asyncio.wait([running])
    assert len(asked) <= before + 1
    assert await states(outbox) == ["accepted", "accepted"]


async def ended(posting: AsyncActivityPoster, draining: asyncio.Task[object]) -> float:
    """Wait for the end of a drain, close its poster, and return how long that took."""
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await draining
    await posting.aclose()
    return time.monotonic() - began


async def test_calls_that_outlast_the_grace_are_cut_off(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has 10 s in total: the poster must not wait for these calls again."""
    monkeypatch.setattr(_worker, "GRACE", 0.3)
    await outbox.put_many(map(activity, range(1, 11)))
    leadsquared = LeadSquared(held_until(asyncio.Event(), asyncio.Event()))
    posting = poster(leadsquared, bucket=TokenBucket(3))
    draining = asyncio.create_task(outbox.drain(posting))
    await until(outbox, sending=3)
    draining.cancel()
    assert 0.3 <= await ended(posting, draining) < 3
    counts = await outbox.counts()
    assert counts == counts | {"uncertain": 3, "pending": 7, "sending": 0}


async def test_cancelled_twice_it_ends_at_once_and_records_what_is_uncertain(
    outbox: Outbox,
) -> None:
    await outbox.put_many(map(activity, range(1, 11)))
    leadsquared = LeadSquared(held_until(asyncio.Event(), asyncio.Event()))
    posting = poster(leadsquared, bucket=TokenBucket(3))
    others = asyncio.all_tasks()
    running = asyncio.create_task(outbox.run(posting))
    await until(outbox, sending=3)
    running.cancel()
    await asyncio.sleep(0.05)
    running.cancel()
    assert await ended(posting, running) < 5
    assert asyncio.all_tasks() == others
    counts = await outbox.counts()
    assert counts == counts | {"uncertain": 3, "pending": 7, "sending": 0}


async def test_cancelled_repeatedly_it_still_records_what_is_uncertain(outbox: Outbox) -> None:
    await outbox.put(activity(1))
    leadsquared = LeadSquared(held_until(asyncio.Event(), asyncio.Event()))
    draining = asyncio.create_task(outbox.drain(poster(leadsquared, bucket=TokenBucket(1))))
    await until(outbox, sending=1)
    while not draining.done():  # as anyio's scopes do
        draining.cancel()
        await asyncio.sleep(0)
    assert await states(outbox) == ["uncertain"]


async def test_a_cancellation_while_recording_is_not_swallowed(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_worker, "GRACE", 0.05)
    monkeypatch.setattr(_worker, "_RECORDING", 0.2)
    write, recording = Store.write, list["asyncio.Task[object] | None"]()

    async def hang(store: Store, work: Any, *args: Any, **details: Any) -> Any:
        if work is not _calls.record:
            return await write(store, work, *args, **details)
        recording.append(asyncio.current_task())
        return await asyncio.Event().wait()

    monkeypatch.setattr(Store, "write", hang)
    await outbox.put(activity(1))
    draining = asyncio.create_task(outbox.drain(poster(LeadSquared())))
    async with within(10):
        while not recording:
            await asyncio.sleep(0.01)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
    [task] = recording
    assert task is not None
    assert task.cancelled()
    assert "not recorded, as the database failed: entry 1: accepted r1" in caplog.text


async def test_an_entry_whose_call_was_not_sent_stays_pending(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that waits for a token is no call in flight: the worker does not wait for it."""
    monkeypatch.setattr(_worker, "GRACE", 600.0)
    await outbox.put(activity(1))
    bucket = TokenBucket(1, period=60.0)
    async with bucket.token() as check:
        check()
    leadsquared = LeadSquared()
    draining = asyncio.create_task(outbox.drain(poster(leadsquared, bucket=bucket)))
    await asyncio.sleep(0.2)
    draining.cancel()
    await asyncio.wait([draining], timeout=30)
    assert draining.cancelled()
    assert (await states(outbox), leadsquared.requests) == (["pending"], [])


async def test_an_entry_whose_claim_was_cut_off_stays_pending(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its COMMIT is done, but the worker does not know that yet: nothing was sent."""
    monkeypatch.setattr(_worker, "GRACE", 0.05)
    write, committed = outbox._database.write, asyncio.Event()

    async def answer_late(work: Any, *args: Any) -> Any:
        done = await write(work, *args)
        if isinstance(done, Claim):
            committed.set()
            await asyncio.Event().wait()
        return done

    monkeypatch.setattr(outbox._database, "write", answer_late)
    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    draining = asyncio.create_task(outbox.drain(poster(leadsquared)))
    async with within(10):
        await committed.wait()
        assert await states(outbox) == ["sending"]
        draining.cancel()
        await asyncio.wait([draining])
    assert draining.cancelled()
    assert (await states(outbox), leadsquared.requests) == (["pending"], [])


async def test_an_entry_stays_pending_if_its_claim_was_the_last_that_the_database_did(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = outbox._database.write

    async def break_after_claim(work: Any, *args: Any) -> Any:
        done = await write(work, *args)
        if isinstance(done, Claim):
            raise OutboxError("the file is damaged")
        return done

    monkeypatch.setattr(outbox._database, "write", break_after_claim)
    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    with pytest.raises(OutboxError, match="damaged"):
        await outbox.drain(poster(leadsquared))
    assert (await states(outbox), leadsquared.requests) == (["pending"], [])


def test_a_worker_that_is_stopped_ends_within_8_s() -> None:
    assert _worker.GRACE + 2 * _worker._RECORDING <= 8.0


async def claimed(outbox: Outbox, call_id: str = "call") -> Claim:
    """Claim an entry, as a worker does before it is frozen."""
    claim = partial(_calls.claim, call_id=call_id, call_time=40.0)
    found = await outbox._store.write(claim)
    assert found is not None
    return found


async def test_a_late_record_of_a_slow_worker_makes_an_uncertain_entry_accepted(
    outbox: Outbox,
) -> None:
    await outbox.put(activity(1))
    call = await claimed(outbox)
    await changed(outbox, ends_by=0)
    assert await outbox.drain(poster(LeadSquared())) == {"uncertain": 1}
    record = partial(_calls.record, of=call, result=Result("accepted", request_id="r1"))
    assert await outbox._store.write(record)
    [entry] = [entry async for entry in outbox.entries()]
    assert (entry.state, entry.request_id, entry.error_type) == ("accepted", "r1", None)


async def test_or_pending_if_nothing_was_sent(outbox: Outbox) -> None:
    await outbox.put(activity(1))
    call = await claimed(outbox)
    await changed(outbox, state="uncertain")
    error = ConnectionFailed("no route")
    assert await outbox._store.write(
        partial(_calls.record, of=call, result=Result("pending", error=error))
    )
    assert await states(outbox) == ["pending"]


async def test_a_record_that_is_repeated_counts_as_one_failure(outbox: Outbox) -> None:
    """As if the answer to the first COMMIT was lost."""
    await outbox.put(activity(1))
    call = await claimed(outbox)
    error = ServerError("out of order", status=500)
    record = partial(_calls.record, of=call, result=Result("pending", error=error, failed=True))
    assert await outbox._store.write(record)
    before = await outbox.history(1)
    assert await outbox._store.write(record)
    assert await outbox.history(1) == before
    assert (await claimed(outbox, "next")).failures == 1


async def test_a_late_record_is_ignored_after_another_call(outbox: Outbox) -> None:
    await outbox.put(activity(1))
    late = await claimed(outbox)
    await changed(outbox, state="uncertain")
    await outbox.retry("uncertain")
    leadsquared = LeadSquared()
    assert await outbox.drain(poster(leadsquared)) == {"accepted": 1}
    before = await outbox.history(1)
    record = partial(_calls.record, of=late, result=Result("accepted", request_id="late"))
    assert not await outbox._store.write(record)
    [entry] = [entry async for entry in outbox.entries()]
    assert (entry.state, entry.request_id) == ("accepted", "r1")
    assert await outbox.history(1) == before


@pytest.mark.parametrize("result", ["accepted", "pending", "rejected", "failed", "uncertain"])
@pytest.mark.parametrize("state", ["accepted", "succeeded", "failed", "rejected"])
async def test_a_late_record_changes_no_final_state(
    outbox: Outbox, state: str, result: EntryState
) -> None:
    await outbox.put(activity(1))
    call = await claimed(outbox)
    await changed(outbox, state=state)
    record = partial(_calls.record, of=call, result=Result(result, request_id="late"))
    assert await outbox._store.write(record) == (result == state)  # it is recorded already
    assert await states(outbox) == [state]
    assert [entry.request_id async for entry in outbox.entries()] == [None]


async def test_a_late_record_is_logged_with_its_request_id(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put(activity(1))
    held = held_until(answer, started)
    slow = asyncio.create_task(
        outbox.drain(poster(LeadSquared(answers(then=held)), bucket=TokenBucket(1)))
    )
    await started.wait()
    await changed(outbox, state="uncertain")
    await outbox.retry("uncertain")
    assert await outbox.drain(poster(LeadSquared())) == {"accepted": 1}
    answer.set()
    assert await slow == {}
    assert "ignored, as the entry has changed since: entry 1: accepted r1" in caplog.text
