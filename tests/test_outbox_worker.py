"""A worker: what it sends, and what it does when calls fail."""

from __future__ import annotations

import asyncio
import logging
import re

import httpx
import pytest
from outbox_support import poster, states, until_accepted
from support import Vendor, activity, answers, within

from leadpost import (
    ConnectionFailed,
    NotFound,
    NotSent,
    OutboxError,
    RateLimited,
    RetryPolicy,
    TokenBucket,
    Unauthorized,
)
from leadpost.outbox import Outbox, SharedTokenBucket, claims
from leadpost.outbox.worker import Worker
from leadpost.retry import waiting_until


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
async def test_what_goes_for_all_ends_the_run_and_leaves_all_pending(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, status: int, error: type[Exception]
) -> None:
    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status)

    await outbox.put_many(map(activity, range(1, 101)))
    with pytest.raises(error):
        await outbox.drain(poster(Vendor(refuse)))
    assert set(await states(outbox)) == {"pending"}
    with pytest.raises(error):
        async with within(5):
            await outbox.run(poster(Vendor(refuse)))
    [told] = [record.message for record in caplog.records if " stops, " in record.message]
    assert re.match(rf"worker \w+ stops, nothing is posted: .*{status}", told)


async def test_a_vendor_that_cannot_be_reached_ends_a_drain_and_costs_no_entry_a_call(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    async def unreachable(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route", request=request)

    await outbox.put_many(map(activity, range(1, 11)))
    with pytest.raises(ConnectionFailed):
        await outbox.drain(poster(Vendor(unreachable)))
    assert set(await states(outbox)) == {"pending"}
    assert [r.message for r in caplog.records if "away" in r.message] == [
        "LeadSquared is away: ConnectError: no route"
    ]


async def test_a_run_waits_until_the_vendor_is_back(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "leadpost")
    vendor = Vendor(answers(*[httpx.ConnectError("no route")] * 8))
    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(vendor)))
    await until_accepted(outbox, 1)
    await outbox.put(activity(2))  # and goes on
    await until_accepted(outbox, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "LeadSquared is back after" in caplog.text


async def test_a_refusal_does_not_count_against_the_entry(outbox: Outbox) -> None:
    vendor = Vendor(answers(*[httpx.Response(429)] * 10))
    await outbox.put(activity(1))
    quick = TokenBucket(period=0.01)
    assert await outbox.drain(poster(vendor, bucket=quick)) == {"accepted": 1}


async def test_a_long_pause_ends_a_drain_and_is_waited_out_by_a_run(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = httpx.Response(429, headers={"Retry-After": "3600"})
    await outbox.put(activity(1))
    with pytest.raises(RateLimited):
        await outbox.drain(poster(Vendor(answers(refused))))
    assert await states(outbox) == ["pending"]
    monkeypatch.setattr(claims, "LONGEST_WAIT", 0.1)
    assert await outbox.drain(poster(Vendor())) == {"accepted": 1}
    await outbox.put(activity(2))
    running = asyncio.create_task(outbox.run(poster(Vendor(answers(refused)))))
    await until_accepted(outbox, 2)
    running.cancel()
    await asyncio.wait([running])
    assert "the vendor asked for a pause" in caplog.text


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
    async with SharedTokenBucket(sqlite_url, "name") as other, other.token():
        pass
    async with SharedTokenBucket(sqlite_url, "name", period=1.0) as wrong, within(10):
        with pytest.raises(OutboxError, match="give it another name"):
            await outbox.run(poster(Vendor(), bucket=wrong))
    assert await states(outbox) == ["pending"]


async def test_a_pause_that_the_bucket_does_not_wait_for_ends_a_drain(outbox: Outbox) -> None:
    patience = RetryPolicy(max_time=3600, jitter=0)
    daily = httpx.Response(429, headers={"Retry-After": "400"})
    vendor = Vendor(answers(daily))
    await outbox.put(activity(1))
    async with within(10):
        with pytest.raises(RateLimited):
            await outbox.drain(poster(vendor, bucket=TokenBucket(), retry=patience))
    assert (await states(outbox), len(vendor.requests)) == (["pending"], 1)


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


async def test_a_long_queue_leaves_evenly_and_a_short_one_at_once(sqlite_url: str) -> None:
    bucket = TokenBucket()
    async with Outbox(sqlite_url) as outbox:
        short = Worker(outbox._store, poster(Vendor(), bucket=bucket), 10, asyncio.Event())
        await outbox.put(activity(1))
        await short._beat()
        assert short._pace() == 0
        await outbox.put_many(map(activity, range(1, 1001)))
        await short._beat()
        assert short._pace() == bucket.interval
        plain = Worker(outbox._store, poster(Vendor()), 10, asyncio.Event())
        await plain._beat()
        assert plain._pace() == 0


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
    begun = [record for record in caplog.records if record.message.endswith(" begins")]
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
    async with bucket.token():
        pass
    await outbox.put(activity(1))
    draining = asyncio.create_task(outbox.drain(poster(Vendor(), bucket=bucket)))
    await asyncio.sleep(0.1)
    assert await outbox.drain(poster(Vendor())) == {"accepted": 1}
    async with within(10):
        assert await draining == {}


async def test_a_token_that_comes_when_nothing_is_left_is_as_good_as_before(
    outbox: Outbox,
) -> None:
    bucket = TokenBucket(1, period=60.0)
    of = Worker(outbox._store, poster(Vendor(), bucket=bucket), 10, asyncio.Event())
    with pytest.raises(NotSent, match="nothing is pending"):
        await of._post({}, waiting_until)
    assert bucket.statistics().free == 1
