"""A worker: what it does when calls fail, when it is stopped, and when the store is away."""

# pyright: reportPrivateUsage=false
# A few looks behind the curtain, on purpose.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import httpx
import pytest
from support import Vendor, accept, account, activity, answers, within

from leadpost import (
    AsyncActivityPoster,
    ConnectionFailed,
    NotFound,
    NotSent,
    OpenBucket,
    OutboxError,
    OutboxUnavailable,
    RateLimited,
    RetryPolicy,
    TokenBucket,
    Unauthorized,
)
from leadpost.outbox import Outbox, SharedTokenBucket, claims, worker
from leadpost.outbox.store import finished
from leadpost.outbox.worker import Worker
from leadpost.retry import waiting_until

QUICK = RetryPolicy(max_attempts=3, initial_wait=0.01, max_wait=0.02, jitter=0.0)


def poster(vendor: Vendor, **options: Any) -> AsyncActivityPoster:
    chosen: dict[str, Any] = {"bucket": OpenBucket(), "retry": QUICK} | options
    return AsyncActivityPoster(account(), client=vendor.client(), **chosen)


@pytest.fixture
async def outbox(sqlite_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(sqlite_url) as opened:
        yield opened


async def states(outbox: Outbox) -> list[str]:
    return [entry.state async for entry in outbox.entries()]


def held_until(event: asyncio.Event, started: asyncio.Event) -> Callable[..., Awaitable[Any]]:
    """Answer when told to."""

    async def answer(request: httpx.Request) -> httpx.Response:
        started.set()
        await event.wait()
        return await accept(request)

    return answer


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
async def test_what_goes_for_all_ends_the_run_and_leaves_all_pending(
    outbox: Outbox, status: int, error: type[Exception]
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
    async with within(10):
        while await states(outbox) != ["accepted"]:
            await asyncio.sleep(0.01)
        await outbox.put(activity(2))  # and goes on
        while await states(outbox) != ["accepted"] * 2:
            await asyncio.sleep(0.01)
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
    async with within(5):
        running = asyncio.create_task(outbox.run(poster(Vendor(answers(refused)))))
        while await states(outbox) != ["accepted"] * 2:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    assert "the vendor asked for a pause" in caplog.text


async def test_one_that_could_not_be_set_down_is_uncertain_and_not_sent_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refused, beaten = outbox._store.write, list[object](), asyncio.Event()

    async def fickle(work: Any, **options: Any) -> Any:
        if getattr(work, "func", None) is claims.record and not refused:
            refused.append(work)
            raise OutboxError("the disk is full")
        found = await write(work, **options)
        if refused and getattr(work, "__name__", "") == "beat":
            beaten.set()
        return found

    async def slowly(request: httpx.Request) -> httpx.Response:
        if len(vendor.requests) > 1:
            await beaten.wait()
        return await accept(request)

    vendor = Vendor(slowly)
    await outbox.put_many(map(activity, (1, 2, 3)))
    of = Worker(outbox._store, poster(vendor), 1.5, asyncio.Event())
    monkeypatch.setattr(outbox._store, "write", fickle)
    with pytest.raises(OutboxError, match="disk is full"):
        await of.drain()
    monkeypatch.setattr(outbox._store, "write", write)
    beaten.set()
    await outbox.drain(poster(vendor))
    assert await states(outbox) == ["uncertain", "accepted", "accepted"]
    assert sorted(vendor.numbers) == [1, 2, 3]


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


async def test_a_lease_of_a_clock_that_went_back_holds_nothing(outbox: Outbox) -> None:
    await outbox.put(activity(1))
    dead = Worker(outbox._store, poster(Vendor()), 10.0, asyncio.Event())
    await dead._claim(worker._OneCall())
    lease = claims.LONGEST_WAIT + 60.0
    await outbox._store.write(partial(claims.renew, worker=dead.id, lease=lease))
    await outbox.drain(poster(Vendor()))
    assert await states(outbox) == ["uncertain"]


@pytest.mark.parametrize("ends", [(-1.0, 60.0), (60.0, -1.0)])
async def test_a_lease_ends_by_either_clock(outbox: Outbox, ends: tuple[float, float]) -> None:
    """The monotonic one may stand still while a machine sleeps, the other one may go back."""
    of = Worker(outbox._store, poster(Vendor()), 10.0, asyncio.Event())
    of._lease_ends = time.monotonic() + ends[0], time.time() + ends[1]
    with pytest.raises(NotSent, match="lease ended"):
        of._check(worker._OneCall())


async def test_in_doubt_is_sent_again_only_where_that_is_asked_for(outbox: Outbox) -> None:
    lost = httpx.ReadTimeout("too slow")
    await outbox.put(activity(1))
    again = poster(Vendor(answers(lost)), on_uncertain="retry")
    assert await outbox.drain(again) == {"accepted": 1}
    await outbox.put(activity(2))
    always = poster(Vendor(answers(*[lost] * 3)), on_uncertain="retry")
    assert await outbox.drain(always) == {"uncertain": 1}


async def test_a_cancelled_drain_waits_for_the_calls_under_way(outbox: Outbox) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put_many(map(activity, range(1, 101)))
    vendor = Vendor(held_until(answer, started))
    draining = asyncio.create_task(outbox.drain(poster(vendor, bucket=TokenBucket(3))))
    await started.wait()
    await asyncio.sleep(0.1)
    draining.cancel()
    await asyncio.sleep(0.1)
    assert not draining.done()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await draining
    counts = await outbox.counts()
    assert counts == counts | {"accepted": 3, "pending": 97, "sending": 0}


async def test_cancelled_twice_it_ends_at_once_and_says_what_is_in_doubt(outbox: Outbox) -> None:
    started = asyncio.Event()
    await outbox.put_many(map(activity, range(1, 11)))
    vendor = Vendor(held_until(asyncio.Event(), started))
    draining = asyncio.create_task(outbox.drain(poster(vendor, bucket=TokenBucket(3))))
    await started.wait()
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    draining.cancel()
    await asyncio.sleep(0.05)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert time.monotonic() - begun < 5
    counts = await outbox.counts()
    assert counts == counts | {"uncertain": 3, "pending": 7, "sending": 0}


async def test_what_a_dead_worker_was_sending_is_uncertain_and_not_sent_again(
    sqlite_url: str,
) -> None:
    async with Outbox(sqlite_url) as outbox:
        await outbox.put_many(map(activity, (1, 2)))
        dead = Worker(outbox._store, poster(Vendor()), 15.0, asyncio.Event())
        await dead._beat()
        call = worker._OneCall()
        await dead._claim(call)
        vendor = Vendor()
        assert await outbox.drain(poster(vendor)) == {"accepted": 1}
        assert await states(outbox) == ["sending", "accepted"]
        await outbox._store.write(partial(claims.renew, worker=dead.id, lease=-1.0))
        dead._lease_ends = (time.monotonic() - 1.0, time.time() - 1.0)
        assert await outbox.drain(poster(vendor)) == {}
        assert await states(outbox) == ["uncertain", "accepted"]
        assert vendor.numbers == [2]
        # It was frozen only: it keeps what it had from being sent, and says so.
        with pytest.raises(Exception, match="lease ended before the call was sent"):
            dead._check(call)
        # Or its answer comes after all, and is not lost.
        await dead._record(call.claimed, "accepted", request_id="r1")
        assert await states(outbox) == ["accepted", "accepted"]


async def test_a_claim_whose_commit_was_not_heard_of_is_pending_again(outbox: Outbox) -> None:
    await outbox.put_many(map(activity, (1, 2)))
    of = Worker(outbox._store, poster(Vendor()), 10, asyncio.Event())
    write = outbox._store.write

    async def deaf(work: Any) -> None:
        await write(work)
        raise OutboxUnavailable("the connection was lost")

    known = worker._OneCall()
    await of._claim(known)
    outbox._store.write = deaf  # type: ignore[method-assign,assignment]
    with pytest.raises(NotSent):
        await of._claim(worker._OneCall())
    outbox._store.write = write  # type: ignore[method-assign]
    assert await states(outbox) == ["sending", "sending"]
    await of._beat()
    assert await states(outbox) == ["sending", "pending"]


async def test_a_run_goes_on_although_the_store_is_away_when_it_begins(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = outbox._store.write
    monkeypatch.setattr(outbox._store, "write", gone)
    running = asyncio.create_task(outbox.run(poster(Vendor())))
    await asyncio.sleep(0.1)
    monkeypatch.setattr(outbox._store, "write", write)
    await outbox.put(activity(1))
    async with within(10):
        while await states(outbox) != ["accepted"]:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def test_a_late_answer_is_kept_where_the_entry_was_sent_again_meanwhile(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    entry = await outbox.put(activity(1))
    late = Worker(outbox._store, poster(Vendor()), 10, asyncio.Event())
    call = worker._OneCall()
    await late._claim(call)
    assert await outbox.drain(poster(Vendor())) == {}  # its worker is gone: it never beat
    assert await outbox.retry("uncertain") == 1
    assert await outbox.drain(poster(Vendor())) == {"accepted": 1}
    await late._record(call.claimed, "accepted", request_id="the late one")
    assert "another call was made meanwhile: entry 1: accepted the late one" in caplog.text
    notes = [change.note for change in await outbox.history(entry)]
    assert "RequestID the late one" in notes
    [found] = [entry async for entry in outbox.entries()]
    assert found.request_id == "r1"


async def test_a_store_that_goes_away_is_waited_for_and_no_request_id_is_lost(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put_many(map(activity, range(1, 4)))
    vendor = Vendor(held_until(answer, started))
    draining = asyncio.create_task(outbox.drain(poster(vendor, bucket=TokenBucket(1, period=0.1))))
    await started.wait()
    write, read = outbox._store.write, outbox._store.read
    monkeypatch.setattr(outbox._store, "write", gone)
    monkeypatch.setattr(outbox._store, "read", gone)
    answer.set()
    await asyncio.sleep(1.2)
    monkeypatch.setattr(outbox._store, "write", write)
    monkeypatch.setattr(outbox._store, "read", read)
    async with within(10):
        assert await draining == {"accepted": 3}
    away = [r.message for r in caplog.records if r.name == "leadpost.outbox.away"]
    assert away[0].endswith("is away: the server is away")
    assert " is back after " in away[1]


async def gone(_: object, **__: object) -> None:
    raise OutboxUnavailable("the server is away")


async def full(_: object, **__: object) -> None:
    raise OutboxError("the disk is full")


async def test_a_store_that_stays_away_ends_a_drain(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    patience = RetryPolicy(max_time=0.3, initial_wait=0.01)
    await outbox.put(activity(1))
    vendor = Vendor(held_until(answer, started))
    draining = asyncio.create_task(
        outbox.drain(poster(vendor, bucket=TokenBucket(1), retry=patience))
    )
    await started.wait()
    monkeypatch.setattr(outbox._store, "write", gone)
    monkeypatch.setattr(outbox._store, "read", gone)
    answer.set()
    async with within(20):
        with pytest.raises(OutboxUnavailable):
            await draining
    assert "could not be set down: entry 1: accepted r1" in caplog.text


async def test_what_a_bucket_raises_ends_the_run_and_leaves_all_pending(
    outbox: Outbox, sqlite_url: str
) -> None:
    await outbox.put_many(map(activity, range(1, 4)))
    vendor = Vendor()
    not_entered = SharedTokenBucket(sqlite_url, "bucket")
    with pytest.raises(RuntimeError, match="used within `async with`"):
        await outbox.drain(poster(vendor, bucket=not_entered))
    assert (await states(outbox), vendor.requests) == (["pending"] * 3, [])


async def test_a_store_that_fails_for_good_ends_the_run_and_tells_the_request_id(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put_many(map(activity, range(1, 4)))
    vendor = Vendor(held_until(answer, started))
    running = asyncio.create_task(outbox.run(poster(vendor, bucket=TokenBucket(1))))
    await started.wait()
    write = outbox._store.write
    monkeypatch.setattr(outbox._store, "write", full)
    answer.set()
    async with within(10):
        with pytest.raises(OutboxError, match="disk is full"):
            await running
    assert "could not be set down: entry 1: accepted r1" in caplog.text
    monkeypatch.setattr(outbox._store, "write", write)


async def test_a_heartbeat_that_fails_for_good_ends_the_run(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Outbox(sqlite_url, lease=0.1) as outbox:
        running = asyncio.create_task(outbox.run(poster(Vendor())))
        await asyncio.sleep(0.02)
        write = outbox._store.write
        monkeypatch.setattr(outbox._store, "write", full)
        async with within(10):
            with pytest.raises(OutboxError, match="disk is full"):
                await running
        monkeypatch.setattr(outbox._store, "write", write)


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


async def test_a_store_that_goes_away_as_an_entry_is_claimed(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Worker(outbox._store, poster(Vendor()), 10, asyncio.Event())
    call = worker._OneCall()
    with monkeypatch.context() as patched:
        patched.setattr(outbox._store, "write", gone)
        with pytest.raises(NotSent, match="the server is away"):
            await of._claim(call)
    assert of._database.hold() > 0
    with pytest.raises(RuntimeError, match="for no entry"):
        _ = call.claimed

    with monkeypatch.context() as patched:
        patched.setattr(outbox._store, "write", full)
        with pytest.raises(OutboxError, match="disk is full"):
            await of._claim(call)
    with pytest.raises(RuntimeError, match="for no entry"):
        _ = call.claimed


async def test_one_that_is_stopped_before_its_call_left_is_pending_again(outbox: Outbox) -> None:
    await outbox.put(activity(1))
    of = Worker(outbox._store, poster(Vendor()), 10, asyncio.Event())
    call = worker._OneCall()
    await of._claim(call)
    await of._record_end(call.claimed, left=call.left)
    assert await states(outbox) == ["pending"]


async def test_a_heartbeat_waits_for_a_store_that_is_away(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Outbox(sqlite_url, lease=0.1) as outbox:
        running = asyncio.create_task(outbox.run(poster(Vendor())))
        await asyncio.sleep(0.02)
        with monkeypatch.context() as patched:
            patched.setattr(outbox._store, "write", gone)
            async with within(10):
                while "is away" not in caplog.text:
                    await asyncio.sleep(0.01)
        await outbox.put(activity(1))
        async with within(10):
            while await states(outbox) != ["accepted"]:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    assert " is back after " in caplog.text


async def test_what_fails_while_it_is_cancelled_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await asyncio.sleep(0.05)
        raise OutboxError("private")

    task = asyncio.create_task(finished(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caplog.messages == ["what was cancelled had failed: OutboxError"]


async def test_one_that_is_sent_again_before_the_store_is_back_is_not_taken_for_unsent(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was done, its answer lost, and the entry was claimed once more meanwhile."""
    write, lost = outbox._store.write, list[object]()
    answer, started = asyncio.Event(), asyncio.Event()

    async def fickle(work: Any, **options: Any) -> Any:
        is_record = getattr(work, "func", None) is claims.record
        if is_record and lost:
            await started.wait()  # the entry is claimed once more
        found = await write(work, **options)
        if is_record and not lost:
            lost.append(work)
            raise OutboxUnavailable("the connection was lost")
        return found

    async def first_fails(request: httpx.Request) -> httpx.Response:
        if len(vendor.requests) == 1:
            raise httpx.ConnectError("refused")
        started.set()
        await answer.wait()
        return await accept(request)

    vendor = Vendor(first_fails)
    await outbox.put(activity(1))
    of = Worker(outbox._store, poster(vendor), 15.0, asyncio.Event())
    monkeypatch.setattr(outbox._store, "write", fickle)
    draining = asyncio.create_task(of.drain())
    async with within(20):
        await started.wait()
        while len(await outbox.history(1)) < 5:  # the repeated record is in it
            await asyncio.sleep(0.01)
        await of._beat()
        assert await states(outbox) == ["sending"]
        answer.set()
        assert await draining == {"accepted": 1}
    assert len(vendor.requests) == 2


async def test_work_is_waited_for_however_often_it_is_cancelled() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.2)
        done.set()

    waiting = asyncio.create_task(finished(work()))
    for _ in range(5):
        await asyncio.sleep(0.01)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done.is_set()
