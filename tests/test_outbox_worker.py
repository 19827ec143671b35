"""A worker: what it sends, and what it does when calls fail."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from outbox_support import poster, states, until_accepted
from support import Vendor, accept, activity, answers, number_in, within

from leadpost import (
    ConnectionFailed,
    NotFound,
    NotSent,
    OpenBucket,
    OutageTimeout,
    OutboxError,
    Priority,
    RetryPolicy,
    TokenBucket,
    Unauthorized,
)
from leadpost._call import Terms
from leadpost.hooks import Ended, Event
from leadpost.outbox import Outbox, SharedTokenBucket, worker
from leadpost.outbox.worker import Worker


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
async def test_what_goes_for_all_ends_the_run_and_leaves_all_pending(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, status: int, error: type[Exception]
) -> None:
    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"ExceptionMessage": "private"})

    await outbox.put_many(map(activity, range(1, 101)))
    with pytest.raises(error):
        await outbox.drain(poster(Vendor(refuse)))
    assert set(await states(outbox)) == {"pending"}
    with pytest.raises(error):
        async with within(5):
            await outbox.run(poster(Vendor(refuse)))
    [told] = [record.message for record in caplog.records if " stops, " in record.message]
    what = rf"worker \w+ stops, nothing is posted: {error.__name__}, HTTP {status}"
    assert re.fullmatch(what, told)
    assert "private" not in caplog.text


def lost() -> httpx.ConnectError:
    return httpx.ConnectError("no route")


@pytest.mark.parametrize("number", [1, 10])
async def test_a_host_that_was_never_reached_ends_a_drain_and_costs_no_entry_a_call(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(worker, "_UNREACHABLE", 0.5)

    async def unreachable(_: httpx.Request) -> httpx.Response:
        raise lost()

    await outbox.put_many(map(activity, range(1, number + 1)))
    async with within(10):
        with pytest.raises(ConnectionFailed, match="no route"):
            await outbox.drain(poster(Vendor(unreachable)))
    assert set(await states(outbox)) == {"pending"}


@pytest.mark.parametrize(("number", "failures"), [(1, 12), (10, 4)])
async def test_an_outage_is_waited_for_where_a_call_was_answered_before(
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    failures: int,
) -> None:
    monkeypatch.setattr(worker, "_UNREACHABLE", 0.02)
    monkeypatch.setattr(worker, "OUTAGE_TIMEOUT", 20.0)
    vendor = Vendor(answers(httpx.Response(429), *[lost() for _ in range(failures)]))
    await outbox.put_many(map(activity, range(1, number + 1)))
    async with within(30):
        found = await outbox.drain(poster(vendor, bucket=TokenBucket(3, period=0.01)))
    assert found == {"accepted": number}
    assert ("answers posts again" in caplog.text) is (number > 1)


async def test_a_long_outage_ends_a_drain(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "OUTAGE_TIMEOUT", 1.5)

    async def fail(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    events: list[Event] = []
    await outbox.put_many(map(activity, range(1, 11)))
    async with within(10):
        with pytest.raises(OutageTimeout, match="has not answered posts for 2 s"):
            await outbox.drain(poster(Vendor(fail), hooks=[events.append]))
    assert set(await states(outbox)) == {"pending"}
    assert isinstance(events[-1], Ended)
    assert (events[-1].state, events[-1].error) == ("not_sent", "OutageTimeout")


async def test_while_leadsquared_is_away_each_trial_is_with_another_entry(outbox: Outbox) -> None:
    """Entries that fail for reasons of their own must not keep it away for the others."""

    async def fail_two(request: httpx.Request) -> httpx.Response:
        if number_in(request) in {1, 2}:
            return httpx.Response(500)
        return await accept(request)

    vendor = Vendor(fail_two)
    posting = poster(vendor)
    await outbox.put_many(map(activity, (1, 2)))
    running = asyncio.create_task(outbox.run(posting))
    async with within(20):
        while not posting.is_away:
            await asyncio.sleep(0.01)
        await outbox.put(activity(3))
        while (await outbox.counts())["accepted"] == 0:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("on_uncertain", ["raise", "retry"])
async def test_failures_during_an_outage_cost_no_entry_a_try(
    outbox: Outbox, on_uncertain: str
) -> None:
    one = RetryPolicy(max_attempts=1)
    away = httpx.Response(503, headers={"Retry-After": "1"})
    doubtful = [httpx.Response(502)] if on_uncertain == "retry" else []

    async def healthy(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":  # the query that goes before a trial
            names = ("PendingMessages", "MaxDelayInSeconds", "ProcessingRatePerMinute")
            return httpx.Response(200, json=dict.fromkeys(names, 0))
        return await accept(request)

    vendor = Vendor(answers(away, *doubtful, then=healthy))
    await outbox.put(activity(1))
    async with within(20):
        found = await outbox.drain(poster(vendor, retry=one, on_uncertain=on_uncertain))
    assert found == {"accepted": 1}


async def test_a_run_waits_until_the_vendor_is_back(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_UNREACHABLE", 0.01)
    vendor = Vendor(answers(*[lost() for _ in range(8)]))
    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(vendor)))
    await until_accepted(outbox, 1)
    await outbox.put(activity(2))  # and goes on
    await until_accepted(outbox, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_refusal_does_not_count_against_the_entry(outbox: Outbox) -> None:
    vendor = Vendor(answers(*[httpx.Response(429)] * 10))
    await outbox.put(activity(1))
    quick = TokenBucket(period=0.01)
    assert await outbox.drain(poster(vendor, bucket=quick)) == {"accepted": 1}


@pytest.mark.parametrize("status", [429, 503])
async def test_a_long_retry_after_is_honoured_up_to_a_minute(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    for module in ("bucket", "_availability", "outbox.worker"):
        monkeypatch.setattr(f"leadpost.{module}.LONGEST_RETRY_AFTER", 0.2)
    refused = httpx.Response(status, headers={"Retry-After": "3600"})
    vendor = Vendor(answers(refused, refused))
    await outbox.put(activity(1))
    async with within(10):
        found = await outbox.drain(poster(vendor, bucket=TokenBucket(period=0.01)))
    assert (found, len(vendor.requests)) == ({"accepted": 1}, 3)


@pytest.mark.parametrize(
    "last",
    [
        [httpx.Response(500), httpx.Response(500)],
        [httpx.Response(400)],
        [httpx.Response(429), httpx.ConnectError("refused"), httpx.Response(400)],
    ],
)
async def test_a_doubt_stays_whatever_later_calls_come_to(
    outbox: Outbox, last: list[httpx.Response]
) -> None:
    vendor = Vendor(answers(httpx.ReadTimeout("too slow"), *last))
    bucket = TokenBucket(period=0.01)
    await outbox.put(activity(1))
    found = await outbox.drain(poster(vendor, on_uncertain="retry", bucket=bucket))
    assert (found, len(vendor.requests)) == ({"uncertain": 1}, 1 + len(last))
    [entry] = [entry async for entry in outbox.entries()]
    assert entry.error_type == "DeliveryUncertain"
    assert (entry.message or "").startswith("an earlier call may have arrived; the last one: ")


async def test_a_bucket_whose_store_fails_ends_a_run(outbox: Outbox, sqlite_url: str) -> None:
    async with SharedTokenBucket(sqlite_url, "name"):
        await outbox.put(activity(1))
    async with SharedTokenBucket(sqlite_url, "name") as other, other.token() as begin:
        begin()
    async with SharedTokenBucket(sqlite_url, "name", period=1.0) as wrong, within(10):
        with pytest.raises(OutboxError, match="give it another name"):
            await outbox.run(poster(Vendor(), bucket=wrong))
    assert await states(outbox) == ["pending"]


async def test_in_doubt_is_sent_again_only_where_that_is_asked_for(outbox: Outbox) -> None:
    lost = httpx.ReadTimeout("too slow")
    await outbox.put(activity(1))
    again = poster(Vendor(answers(lost)), on_uncertain="retry")
    assert await outbox.drain(again) == {"accepted": 1}
    await outbox.put(activity(2))
    always = poster(Vendor(answers(*[lost] * 3)), on_uncertain="retry")
    assert await outbox.drain(always) == {"uncertain": 1}


async def test_what_a_bucket_raises_ends_the_run_and_leaves_all_pending(
    outbox: Outbox, sqlite_url: str
) -> None:
    await outbox.put_many(map(activity, range(1, 4)))
    vendor = Vendor()
    not_entered = SharedTokenBucket(sqlite_url, "bucket")
    with pytest.raises(RuntimeError, match="used within `async with`"):
        await outbox.drain(poster(vendor, bucket=not_entered))
    assert (await states(outbox), vendor.requests) == (["pending"] * 3, [])


async def test_a_long_queue_leaves_evenly_and_a_short_one_at_once(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost._batch.LONG", 20)
    asked: list[Priority] = []

    class Noting(OpenBucket):
        def token(
            self, priority: Priority, call_timeout: float
        ) -> AbstractAsyncContextManager[Callable[[], None]]:
            asked.append(priority)
            return super().token(priority, call_timeout)

    await outbox.put_many(map(activity, range(1, 13)))
    await outbox.drain(poster(Vendor(), bucket=Noting()))
    assert asked[:9] == [Priority.BATCH] * 9
    assert asked[9:12] == [Priority.LONG_BATCH] * 3


async def test_nothing_waits_until_the_outbox_is_looked_at_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("leadpost.outbox.worker._POLL", 60.0)
    vendor = Vendor(answers(httpx.Response(400)))
    async with within(30):
        await outbox.put(activity(1))
        assert await outbox.drain(poster(vendor)) == {"rejected": 1}
        running = asyncio.create_task(outbox.run(poster(vendor)))
        await asyncio.sleep(0.2)  # it finds nothing
        await outbox.retry("rejected")
        await until_accepted(outbox, 1)
        await outbox.put(activity(2))
        await until_accepted(outbox, 2)
        await outbox.put_many([activity(3)])
        await until_accepted(outbox, 3)
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled()
    begun = [
        record for record in caplog.records if re.fullmatch(r"worker \w+ begins", record.message)
    ]
    assert len(begun) == 2  # one that drains, and one that runs on though it has nothing to do


async def test_two_drains_share_the_work(store_url: str) -> None:
    vendor = Vendor()
    async with Outbox(store_url) as one, Outbox(store_url) as other:
        await one.put_many(map(activity, range(1, 201)))
        done = await asyncio.gather(one.drain(poster(vendor)), other.drain(poster(vendor)))
    assert sum(part["accepted"] for part in done) == 200
    assert sorted(vendor.numbers) == list(range(1, 201))


async def test_others_may_take_the_last_entry_before_there_is_a_token(outbox: Outbox) -> None:
    """A drain then ends, and does not wait for a token for which there is no use."""
    bucket = TokenBucket(1, period=60.0)
    async with bucket.token() as begin:
        begin()
    await outbox.put(activity(1))
    draining = asyncio.create_task(outbox.drain(poster(Vendor(), bucket=bucket)))
    await asyncio.sleep(0.1)
    assert await outbox.drain(poster(Vendor())) == {"accepted": 1}
    async with within(10):
        assert await draining == {}


async def test_a_token_that_comes_when_nothing_is_left_is_as_good_as_before(
    outbox: Outbox,
) -> None:
    events: list[Event] = []
    bucket = TokenBucket(1, period=60.0)
    posting = poster(Vendor(), bucket=bucket, hooks=[events.append])
    of = Worker(outbox._store, posting, 10, asyncio.Event())
    with pytest.raises(NotSent, match="nothing is pending"):
        await of._post({}, Terms())
    assert bucket.statistics().free == 1
    assert isinstance(events[-1], Ended)
    assert (events[-1].state, events[-1].error, events[-1].attempts) == ("not_sent", None, 0)
