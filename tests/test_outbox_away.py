"""A worker whose store is away for a while, or fails for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from outbox_support import held_until, poster, states, until_accepted
from support import Vendor, accept, activity, within

from leadpost import (
    NotSent,
    OpenBucket,
    OutboxError,
    OutboxUnavailable,
    Priority,
    RetryPolicy,
    TokenBucket,
)
from leadpost.outbox import Outbox, claims, worker
from leadpost.outbox.away import Away
from leadpost.outbox.worker import Worker


async def gone(_: object, **__: object) -> None:
    raise OutboxUnavailable("the server is away")


async def full(_: object, **__: object) -> None:
    raise OutboxError("the disk is full")


def test_what_is_back_is_tried_at_once_and_its_next_absence_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Away("it")
    for _ in range(2):  # the second is of the same round
        assert away.is_away(OutboxUnavailable("gone"), lambda tries: 60.0 * tries) == 1
    assert 50 < away.hold() <= 60
    away.is_back()
    assert away.hold() <= 0
    assert away.is_away(OutboxUnavailable("gone again")) == 1
    assert [record.message for record in caplog.records] == [
        "it is away: gone",
        "it is back after 0 s",
        "it is away: gone again",
    ]


async def test_a_run_goes_on_although_the_store_is_away_when_it_begins(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = outbox._store.write
    monkeypatch.setattr(outbox._store, "write", gone)
    running = asyncio.create_task(outbox.run(poster(Vendor())))
    await asyncio.sleep(0.1)
    monkeypatch.setattr(outbox._store, "write", write)
    await outbox.put(activity(1))
    await until_accepted(outbox, 1)
    running.cancel()
    await asyncio.wait([running])


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


async def test_what_a_run_could_not_set_down_it_does_not_take_for_unsent_later(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = outbox._store.write
    answer, started, back = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def fickle(work: Any, **options: Any) -> Any:
        if not back.is_set() and getattr(work, "func", None) is claims.record:
            await gone(work)
        return await write(work, **options)

    class Fickle(OpenBucket):
        @asynccontextmanager
        async def token(
            self, priority: Priority, call_timeout: float
        ) -> AsyncGenerator[Callable[[], None]]:
            if vendor.requests and not back.is_set():
                answer.set()  # the call under way ends as the run does
                await gone(self)
            async with super().token(priority, call_timeout) as begin:
                yield begin

    vendor = Vendor(held_until(answer, started))
    await outbox.put_many(map(activity, (1, 2)))
    monkeypatch.setattr(outbox._store, "write", fickle)
    running = asyncio.create_task(outbox.run(poster(vendor, bucket=Fickle())))
    async with within(20):
        while "could not be set down: entry 1: accepted r1" not in caplog.text:
            await asyncio.sleep(0.01)
        back.set()
        while await states(outbox) != ["uncertain", "accepted"]:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert vendor.numbers == [1, 2]


async def test_one_that_ends_while_the_store_is_away_leaves_no_task_behind(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "GRACE", 0.1)
    await outbox.put(activity(1))
    answer, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(outbox.run(poster(Vendor(held_until(answer, started)))))
    await started.wait()
    before = asyncio.all_tasks()
    with monkeypatch.context() as patched:
        patched.setattr(outbox._store, "write", gone)
        answer.set()
        running.cancel()
        async with within(20):
            await asyncio.wait([running, *before - {asyncio.current_task()}])
            while asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.sleep(0.01)
    assert "could not be set down: entry 1: accepted r1" in caplog.text


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


async def test_a_claim_whose_commit_was_not_heard_of_is_pending_again(outbox: Outbox) -> None:
    await outbox.put_many(map(activity, (1, 2)))
    of = Worker(outbox._store, poster(Vendor()), 10, asyncio.Event())
    write = outbox._store.write

    async def deaf(work: Any) -> None:
        await write(work)
        raise OutboxUnavailable("the connection was lost")

    known = worker._OneCall()
    await of._claim(known)
    outbox._store.write = deaf  # type: ignore[method-assign,assignment]  # for now
    with pytest.raises(NotSent):
        await of._claim(worker._OneCall())
    outbox._store.write = write  # type: ignore[method-assign]  # as before
    assert await states(outbox) == ["sending", "sending"]
    await of._beat()
    assert await states(outbox) == ["sending", "pending"]


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
        await until_accepted(outbox, 1)
        running.cancel()
        await asyncio.wait([running])
    assert " is back after " in caplog.text


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
