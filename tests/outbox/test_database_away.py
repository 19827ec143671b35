"""A worker whose database is temporarily unreachable, or fails permanently."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from outbox_support import ACME, changed, held_until, poster, states, until, until_accepted, working
from sqlalchemy.util import await_only
from support import LeadSquared, activity, answers, within

from leadpost import OutboxError, OutboxUnavailable, RetryPolicy, TokenBucket
from leadpost.outbox import Outbox, _reachability, _worker
from leadpost.outbox._clock import boot_time
from leadpost.outbox._reachability import Reachability
from leadpost.outbox.database import Store, _calls
from leadpost.outbox.database._sql import Transaction


async def gone(*_: object, **__: object) -> Any:
    raise OutboxUnavailable("the server is away")


async def damaged(*_: object, **__: object) -> Any:
    raise OutboxError("the file is damaged")


@contextmanager
def away(outbox: Outbox) -> Generator[None]:
    """Make the database unreachable."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outbox._database, "write", gone)
        patched.setattr(outbox._database, "read", gone)
        yield


def is_of(work: Any, statement: Callable[..., Any]) -> bool:
    return work is statement


def test_what_cannot_be_reached_is_logged_at_first_each_minute_and_at_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(_reachability, "boot_time", lambda: now)
    reachability = Reachability("it")
    for _ in range(250):  # 125 s
        reachability.failed(OutboxUnavailable("gone"))
        now += 0.5
    assert reachability.unreachable_for == 125.0
    for _ in range(2):
        reachability.answered()
    assert reachability.unreachable_for == 0.0
    reachability.failed(OutboxUnavailable("gone again"))
    assert [record.message for record in caplog.records] == [
        "it cannot be reached: gone",
        "it has not been reached for 60 s: gone",
        "it has not been reached for 120 s: gone",
        "it can be reached again, after 125 s",
        "it cannot be reached: gone again",
    ]


@pytest.mark.parametrize("how", ["run", "drain"])
async def test_a_worker_waits_for_an_unreachable_database_at_its_start(
    outbox: Outbox, how: str
) -> None:
    await outbox.put(activity(1))
    with away(outbox):
        working_off = asyncio.create_task(getattr(outbox, how)(poster(LeadSquared())))
        await asyncio.sleep(0.1)
    await until_accepted(outbox, 1)
    working_off.cancel()
    await asyncio.wait([working_off])
    assert working_off.cancelled() or working_off.result() == {"accepted": 1}


async def test_a_run_waits_for_a_lost_database_and_loses_no_request_id(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put_many(map(activity, range(1, 4)))
    leadsquared = LeadSquared(held_until(answer, started))
    draining = asyncio.create_task(
        outbox.drain(poster(leadsquared, bucket=TokenBucket(1, period=0.1)))
    )
    await started.wait()
    with away(outbox):
        answer.set()
        await asyncio.sleep(1.2)
    async with within(10):
        assert await draining == {"accepted": 3}
    assert sorted(leadsquared.numbers) == [1, 2, 3]
    said = [r.message for r in caplog.records if "reached" in r.message]
    assert said[0].endswith("cannot be reached: the server is away")
    assert re.search(r"can be reached again, after \d+ s$", said[-1])


async def test_a_database_that_remains_unreachable_ends_a_drain(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    patience = RetryPolicy(max_time=0.3, initial_wait=0.01)
    await outbox.put(activity(1))
    leadsquared = LeadSquared(held_until(answer, started))
    draining = asyncio.create_task(
        outbox.drain(poster(leadsquared, bucket=TokenBucket(1), retry=patience))
    )
    await started.wait()
    with away(outbox):
        answer.set()
        async with within(20):
            with pytest.raises(OutboxUnavailable):
                await draining
    assert "not recorded, as the database failed: entry 1: accepted r1" in caplog.text


async def test_a_permanent_failure_ends_a_run_and_the_request_id_is_logged(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    await outbox.put_many(map(activity, range(1, 4)))
    leadsquared = LeadSquared(held_until(answer, started))
    running = asyncio.create_task(outbox.run(poster(leadsquared, bucket=TokenBucket(1))))
    await started.wait()
    with monkeypatch.context() as patched:
        patched.setattr(outbox._database, "write", damaged)
        answer.set()
        async with within(10):
            with pytest.raises(OutboxError, match="file is damaged"):
                await running
    assert "not recorded, as the database failed: entry 1: accepted r1" in caplog.text


@pytest.mark.parametrize("statement", ["next_due", "claim"])
async def test_a_database_that_can_no_longer_be_read_ends_a_run(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    leadsquared = LeadSquared()
    await outbox.put(activity(1))

    def broken(*_: object, **__: object) -> None:
        raise OutboxError("the file is damaged")

    monkeypatch.setattr(_calls, statement, broken)
    async with within(10):
        with pytest.raises(OutboxError, match="file is damaged"):
            await outbox.run(poster(leadsquared))
    assert leadsquared.numbers == []


async def test_an_entry_whose_call_could_not_be_recorded_is_not_sent_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write

    async def fickle(store: Store, work: Any, *args: Any, **details: Any) -> Any:
        if is_of(work, _calls.record):
            raise OutboxError("the file is damaged")
        return await write(store, work, *args, **details)

    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", fickle)
        with pytest.raises(OutboxError, match="file is damaged"):
            await outbox.drain(poster(leadsquared))
    assert await outbox.drain(poster(leadsquared)) == {}
    assert await states(outbox) == ["sending"]
    assert leadsquared.numbers == [1]


async def test_a_run_that_ends_without_its_database_leaves_no_task_behind(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_worker, "GRACE", 0.1)
    monkeypatch.setattr(_worker, "_RECORDING", 0.1)
    await outbox.put(activity(1))
    answer, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(outbox.run(poster(LeadSquared(held_until(answer, started)))))
    await started.wait()
    with monkeypatch.context() as patched:
        patched.setattr(outbox._database, "write", gone)
        answer.set()
        running.cancel()
        async with within(20):
            await asyncio.wait([running])
            while asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.sleep(0.01)
    assert "not recorded, as the database failed: entry 1: accepted r1" in caplog.text


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_claim_whose_commit_was_lost_is_found_by_its_call_id(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, *, is_committed: bool
) -> None:
    claim, write, lost = _calls.claim, outbox._database.write, list[object]()

    def roll_back(*args: Any, **details: Any) -> Any:
        if is_committed or lost:
            return claim(*args, **details)
        lost.append(args)
        raise OutboxUnavailable("the connection was lost")

    async def deaf(work: Any, *args: Any) -> Any:
        done = await write(work, *args)
        if isinstance(done, _calls.Claim) and not lost:
            lost.append(done)
            raise OutboxUnavailable("the connection was lost")
        return done

    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    monkeypatch.setattr(_calls, "claim", roll_back)
    monkeypatch.setattr(outbox._database, "write", deaf)
    async with working(outbox.run(poster(leadsquared))):
        await until(outbox, accepted=1)
    assert lost
    assert leadsquared.numbers == [1]
    notes = [change.note or "" for change in await outbox.history(1)]
    assert [note for note in notes if note.startswith("call ")] == ["call 1"]


async def test_a_record_whose_commit_was_lost_is_retried_without_harm(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write, record = outbox._database.write, _calls.record
    recorded, lost = list[object](), list[object]()

    def note(*args: Any) -> bool:
        recorded.append(args)
        return record(*args)

    async def deaf(work: Any, *args: Any) -> Any:
        done = await write(work, *args)
        if recorded and not lost:
            lost.append(done)
            raise OutboxUnavailable("the connection was lost")
        return done

    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    monkeypatch.setattr(_calls, "record", note)
    monkeypatch.setattr(outbox._database, "write", deaf)
    async with within(10):
        assert await outbox.drain(poster(leadsquared)) == {"accepted": 1}
    assert (len(recorded), lost) == (2, [True])
    assert await states(outbox) == ["accepted"]
    assert leadsquared.numbers == [1]
    assert [change.state for change in await outbox.history(1)] == [
        "pending",
        "sending",
        "accepted",
    ]


async def test_a_database_that_can_only_be_read_is_tried_twice_a_second(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a full disk, or a standby during a failover."""
    monkeypatch.setattr(_worker, "GRACE", 0.1)
    tries = 0

    def fail(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise OutboxUnavailable("the disk is full")

    monkeypatch.setattr(_calls, "claim", fail)
    await outbox.put(activity(1))
    with caplog.at_level(logging.WARNING, "leadpost"):
        async with working(outbox.run(poster(LeadSquared()), verify=False)):
            await asyncio.sleep(2)
    assert caplog.text.count("cannot be reached") == 1
    assert 1 <= tries <= 5


async def test_a_claim_that_expired_while_the_database_was_away_was_never_sent(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its COMMIT was lost, and another worker expired it: it is pending again, without doubt."""
    original, late = outbox._database.write, [0.0]
    monkeypatch.setattr(_worker, "boot_time", lambda: boot_time() + late[-1])

    async def lose_first_claim(work: Any, *args: Any) -> Any:
        done = await original(work, *args)
        if isinstance(done, _calls.Claim) and len(late) == 1:
            late.append(71.0)
            await changed(outbox, ends_by=0.0)
            await outbox._store.write(_calls.expire)
            assert await states(outbox) == ["uncertain"]
            raise OutboxUnavailable("the connection was lost")
        return done

    monkeypatch.setattr(outbox._database, "write", lose_first_claim)
    leadsquared = LeadSquared(answers(httpx.Response(400)))
    await outbox.put(activity(1))
    async with within(20):
        assert await outbox.drain(poster(leadsquared)) == {"rejected": 1}
    assert leadsquared.numbers == [1]
    history = await outbox.history(1)
    assert [change.state for change in history] == [
        "pending",
        "sending",
        "uncertain",
        "pending",
        "sending",
        "rejected",
    ]
    assert history[3].note == "the claim on the entry expired before the call was sent"


async def test_a_claim_whose_commit_is_still_on_its_way_is_not_repeated(
    postgresql_url: str,
) -> None:
    """As when a server's disk hangs: the answer is lost, and the transaction still open."""
    async with Outbox(postgresql_url, ACME) as outbox, within(20):
        await outbox.put_many([activity(1), activity(2)])
        hangs, goes_on = asyncio.Event(), asyncio.Event()

        def claim_slowly(transaction: Transaction) -> _calls.Claim | None:
            claim = _calls.claim(transaction, "call", 40.0)
            hangs.set()
            await_only(goes_on.wait())
            return claim

        slow = asyncio.create_task(outbox._store.write(claim_slowly))
        await hangs.wait()
        again = asyncio.create_task(outbox._store.write(_calls.claim, "call", 40.0))
        await asyncio.sleep(0.5)
        goes_on.set()
        first = await slow
        with pytest.raises(OutboxUnavailable):
            await again
        assert first is not None
        assert await outbox._store.read(_calls.is_claimed, first)
        assert await states(outbox) == ["sending", "pending"]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_the_end_of_a_commit_on_its_way_is_waited_for(
    postgresql_url: str, *, is_committed: bool
) -> None:
    """As when a standby must confirm it: until then, no other transaction sees the claim."""
    async with Outbox(postgresql_url, ACME) as outbox, within(20):
        await outbox.put(activity(1))
        claims, ends = list[_calls.Claim | None](), asyncio.Event()

        def claim_slowly(transaction: Transaction) -> None:
            claims.append(_calls.claim(transaction, "call", 40.0))
            await_only(ends.wait())
            if not is_committed:
                raise OutboxUnavailable("the server stopped")

        slow = asyncio.create_task(outbox._store.write(claim_slowly))
        while not claims:
            await asyncio.sleep(0.01)
        assert claims[0] is not None
        looking = asyncio.create_task(outbox._store.write(_calls.is_claimed, claims[0]))
        await asyncio.sleep(0.3)
        assert not looking.done()
        ends.set()
        await asyncio.wait([slow])
        assert slow.exception() is None or not is_committed
        assert await looking is is_committed
