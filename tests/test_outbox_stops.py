"""A worker that is stopped, frozen or dead: nothing of its is lost, nothing sent twice."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
from outbox_support import held_until, poster, states
from support import Vendor, activity

from leadpost import NotSent, OutboxError, TokenBucket
from leadpost.outbox import Outbox, claims, worker
from leadpost.outbox.store import finished
from leadpost.outbox.worker import Worker


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


async def test_one_that_is_stopped_before_its_call_left_is_pending_again(outbox: Outbox) -> None:
    await outbox.put(activity(1))
    of = Worker(outbox._store, poster(Vendor()), 10, asyncio.Event())
    call = worker._OneCall()
    await of._claim(call)
    await of._record_end(call.claimed, left=call.left)
    assert await states(outbox) == ["pending"]


async def test_what_a_dead_worker_was_sending_is_uncertain_and_not_sent_again(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
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
        assert "worker is gone" not in caplog.text
        await outbox._store.write(partial(claims.renew, worker=dead.id, lease=-1.0))
        dead._lease_ends = (time.monotonic() - 1.0, time.time() - 1.0)
        assert await outbox.drain(poster(vendor)) == {}
        assert "entries that are uncertain now, as their worker is gone: 1" in caplog.text
        assert await states(outbox) == ["uncertain", "accepted"]
        assert vendor.numbers == [2]
        # It was frozen only: it keeps what it had from being sent, and says so.
        with pytest.raises(Exception, match="lease ended before the call was sent"):
            dead._check(call)
        # Or its answer comes after all, and is not lost.
        await dead._record(call.claimed, "accepted", request_id="r1")
        assert await states(outbox) == ["accepted", "accepted"]


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
