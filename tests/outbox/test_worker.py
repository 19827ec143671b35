"""A worker: which entries it sends, when, and what holds it up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import (
    ACME,
    executed,
    held_until,
    poster,
    states,
    until_accepted,
    until_true,
    working,
)
from sqlalchemy.ext.asyncio import create_async_engine
from support import LeadSquared, activity, answers, within

from leadpost import (
    OpenBucket,
    OutboxError,
    Priority,
    TokenBucket,
)
from leadpost.hooks import Ended, Event, Sent
from leadpost.outbox import Outbox, _worker
from leadpost.outbox._clock import boot_time
from leadpost.outbox.database import _calls, _settling
from leadpost.outbox.database._calls import Result


async def test_a_drain_of_a_batch_leaves_others_alone(outbox: Outbox) -> None:
    await outbox.put_many(
        [activity(n) for n in range(1, 6)],
        keys=["june/1", "july/1", "june/2", "june", "june-2/1"],
    )
    leadsquared = LeadSquared()
    assert await outbox.drain(poster(leadsquared), batch="june") == {"accepted": 2}
    assert leadsquared.numbers == [1, 3]
    assert (await outbox.counts())["pending"] == 3


class Broken(OpenBucket):
    """A bucket that raises before it yields a token, or when the token is returned."""

    def __init__(self, error: Exception, *, late: bool) -> None:
        self.error, self.late = error, late

    @asynccontextmanager
    async def token(
        self, priority: Priority, call_timeout: float
    ) -> AsyncGenerator[Callable[[], None]]:
        if not self.late:
            raise self.error
        async with super().token(priority, call_timeout) as check:

            def broken() -> None:
                check()
                raise self.error

            yield broken


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError, OutboxError])
async def test_an_error_of_a_bucket_ends_the_run(
    outbox: Outbox, error: type[Exception], *, late: bool
) -> None:
    await outbox.put_many(map(activity, range(1, 4)))
    leadsquared = LeadSquared()
    for posting in (outbox.drain, outbox.run):
        async with within(10):
            bucket = Broken(error("the bucket's"), late=late)
            with pytest.raises(error, match="the bucket's"):
                await posting(poster(leadsquared, bucket=bucket))
    counts = await outbox.counts()
    # An entry that was about to be sent is uncertain, which is the safe side.
    assert counts == counts | {"accepted": 0, "sending": 0, "failed": 0}
    if not late:
        assert counts["pending"] == 3
    assert leadsquared.requests == []


async def test_an_expired_claim_is_not_sent(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was frozen, or the machine suspended, between the claim and the call."""
    late = [11.0, 0.0]
    monkeypatch.setattr(_worker, "boot_time", lambda: boot_time() + late[-1])

    def freeze(event: Event) -> None:
        if isinstance(event, Sent) and len(late) > 1:
            late.pop()

    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    found = await outbox.drain(poster(leadsquared, hooks=[freeze]))
    assert (found, len(leadsquared.requests)) == ({"accepted": 1}, 1)
    changes = [change.state for change in await outbox.history(1)]
    assert changes == ["pending", "sending", "pending", "sending", "accepted"]


async def test_a_long_backlog_is_sent_evenly_and_a_short_one_at_once(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "LONG", 20)
    asked: list[Priority] = []

    class Noting(OpenBucket):
        def token(
            self, priority: Priority, call_timeout: float
        ) -> AbstractAsyncContextManager[Callable[[], None]]:
            asked.append(priority)
            return super().token(priority, call_timeout)

    await outbox.put_many(map(activity, range(1, 13)))
    await outbox.drain(poster(LeadSquared(), bucket=Noting()))
    assert asked[:10] == [Priority.BATCH] * 10
    assert asked[10:12] == [Priority.LONG_BATCH] * 2


async def test_a_new_entry_does_not_wait_for_the_next_poll(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("leadpost.outbox._worker._POLL", 60.0)
    leadsquared = LeadSquared(answers(httpx.Response(400)))
    async with within(30):
        await outbox.put(activity(1))
        assert await outbox.drain(poster(leadsquared)) == {"rejected": 1}
        async with working(outbox.run(poster(leadsquared))) as running:
            await asyncio.sleep(0.2)  # it has found nothing
            await outbox.retry("rejected")
            await until_accepted(outbox, 1)
            await outbox.put(activity(2))
            await until_accepted(outbox, 2)
            await outbox.put_many([activity(3)])
            await until_accepted(outbox, 3)
    assert running.cancelled()
    assert sum(" begins" in record.message for record in caplog.records) == 1


async def test_two_drains_share_the_work(store_url: str) -> None:
    leadsquared = LeadSquared()
    async with Outbox(store_url, ACME) as one, Outbox(store_url, ACME) as other:
        await one.put_many(map(activity, range(1, 201)))
        done = await asyncio.gather(
            one.drain(poster(leadsquared)), other.drain(poster(leadsquared))
        )
    assert sum(part["accepted"] for part in done) == 200
    assert sorted(leadsquared.numbers) == list(range(1, 201))


async def test_a_row_that_a_stranger_has_locked_is_tried_again_after_a_pause(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody edits the only due entry in a long transaction: the worker must not spin."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float, *_: object) -> None:
        pauses.append(seconds)
        await sleep(0)

    leadsquared = LeadSquared()
    async with Outbox(postgresql_url, ACME) as outbox, within(30):
        await outbox.put(activity(1))
        posting = poster(leadsquared)
        engine = create_async_engine(postgresql_url)
        async with engine.begin() as stranger:
            await stranger.execute(sa.text("UPDATE leadpost_entries SET priority = 1"))
            with monkeypatch.context() as patched:
                patched.setattr(asyncio, "sleep", slept)
                draining = asyncio.create_task(outbox.drain(posting))
                while pauses.count(_worker._LOCKED) < 3:
                    await sleep(0.001)
            assert not leadsquared.requests
        assert await draining == {"accepted": 1}
        await engine.dispose()


async def test_25_calls_are_in_flight_at_once(outbox: Outbox) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    leadsquared = LeadSquared(held_until(answer, started))
    await outbox.put_many(map(activity, range(1, 31)))
    draining = asyncio.create_task(outbox.drain(poster(leadsquared)))
    async with within(20):
        while len(leadsquared.requests) < 25:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(leadsquared.requests) == 25
        answer.set()
        assert await draining == {"accepted": 30}


async def test_a_token_without_an_entry_remains_unused(
    outbox: Outbox,
) -> None:
    events: list[Event] = []
    bucket = TokenBucket(1, period=2.0)
    await outbox.put(activity(1))
    async with bucket.token() as begin:
        begin()
    posting = poster(LeadSquared(), bucket=bucket, hooks=[events.append])
    draining = asyncio.create_task(outbox.drain(posting))
    await until_true(lambda: bool(events))  # it waits for its token
    assert await outbox.drain(poster(LeadSquared())) == {"accepted": 1}
    async with within(30):
        assert await draining == {}
    assert bucket.statistics().free == 1
    assert isinstance(events[-1], Ended)
    assert (events[-1].state, events[-1].error, events[-1].attempts) == (
        "not_sent",
        "NothingToSend",
        0,
    )


async def test_an_entry_whose_call_was_never_recorded_is_uncertain(outbox: Outbox) -> None:
    await outbox.put_many(map(activity, (1, 2)))
    for number in (1, 2):
        claim = partial(_calls.claim, call_id=f"call-{number}", call_time=40.0)
        await outbox._store.write(claim)
    late = sa.text("UPDATE leadpost_entries SET ends_by = ends_by - 71 WHERE id = 1")
    await executed(outbox, late)
    assert await outbox.drain(poster(LeadSquared())) == {"uncertain": 1}
    assert await states(outbox) == ["uncertain", "sending"]
    notes = [change.note for change in await outbox.history(1)]
    assert notes == [None, "call 1", "its call was not recorded"]


async def test_nothing_waits_until_a_clock_that_was_set_back_has_caught_up(
    store_url: str, jump_to: Callable[[float], None]
) -> None:
    async with Outbox(store_url, ACME) as outbox:
        jump_to(86400.0)
        assert not await outbox.drain(poster(LeadSquared()))
        await outbox.put_many(map(activity, (1, 2, 3)))
        results = (Result("pending", due_in=5.0), Result("accepted", request_id="r", due_in=5.0))
        for result in (*results, None):
            claim = await outbox._store.write(
                partial(_calls.claim, call_id=str(result), call_time=9.0)
            )
            assert claim is not None
            if result is not None:
                assert await outbox._store.write(_calls.record, claim, result)
        await outbox._store.write(_calls.be_seen, 1.0, 1.0, 1.0)
        assert (await outbox.health()).is_working
        assert (await outbox.health()).away_since
        jump_to(0.0)
        assert not (await outbox.health()).is_working
        await outbox._store.write(_calls.be_seen, None, 1.0, 1.0)
        assert not (await outbox.health()).away_since
        leadsquared = LeadSquared()
        async with within(20):
            assert await outbox.drain(poster(leadsquared)) == {"accepted": 1, "uncertain": 1}
            assert leadsquared.numbers == [1]
        assert await outbox._store.read(_settling.next_query) == 0
        entry = await outbox._store.write(_settling.claim_accepted)
        assert entry is not None
        assert entry.request_id == "r"
        due_in = await outbox._store.read(_settling.next_query)
        assert due_in is not None
        assert 0 < due_in <= _settling.WAITS[0]
