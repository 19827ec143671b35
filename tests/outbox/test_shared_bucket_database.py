"""A shared bucket whose database is away, fails, hangs or has a clock that jumps; opening it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from database_support import execute
from shared_bucket_support import (
    PERIOD,
    bucket,
    calling,
    end,
    gone,
    opened,
    store,
    take,
    until_in_use,
    until_known,
)
from sqlalchemy.ext.asyncio import create_async_engine
from support import KEYS, LeadSquared, account, activity, fullest, within

from leadpost import (
    AsyncActivityPoster,
    Bucket,
    ManagedBucket,
    OutboxError,
    OutboxUnavailable,
)
from leadpost.outbox import SharedTokenBucket
from leadpost.outbox.database import _tokens


async def test_callers_wait_for_an_unreachable_database_and_do_not_hasten_the_attempts(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[float] = []

    async def noted(*_: object) -> None:
        attempts.append(time.monotonic())
        await gone()

    await take(shared, [])
    write = shared._database.write
    monkeypatch.setattr(shared._database, "write", noted)
    async with within(300):
        waiter = asyncio.create_task(take(shared, []))
        while len(attempts) < 4:
            another = asyncio.create_task(take(shared, []))
            await asyncio.sleep(0.01)
            await end(another)
        assert attempts[3] - attempts[0] >= 3 * 0.5
        assert not waiter.done()
        monkeypatch.setattr(shared._database, "write", write)
        await waiter
    logged = [r.message for r in caplog.records if r.name == "leadpost"]
    assert logged[0].endswith("cannot be reached: the server is away")
    assert "can be reached again, after " in logged[1]
    assert len(logged) == 2


_SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(1.2); RETURN NULL; END
    $$;
    CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON leadpost_tokens
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
"""


async def test_calls_get_through_though_each_commit_takes_longer_than_a_token_is_offered(
    postgresql_url: str,
) -> None:
    async with opened(postgresql_url) as of, within(60):
        await execute(postgresql_url, _SLOW)
        for _ in range(2):
            await take(of, [])


async def test_the_end_of_a_call_is_written_when_the_database_is_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url, limit=1) as of, within(300):
        async with calling(of, call_timeout=600.0):
            write = of._database.write
            monkeypatch.setattr(of._database, "write", gone)
        ended = time.monotonic()
        await asyncio.sleep(1.0)
        monkeypatch.setattr(of._database, "write", write)
        await take(of, [])  # not only when the call must have ended
        assert time.monotonic() - ended >= PERIOD


async def test_a_token_whose_reservation_was_not_confirmed_is_not_lost(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url, limit=1) as of, within(300):
        write = of._database.write

        async def done_and_lost(work: Any) -> None:
            monkeypatch.setattr(of._database, "write", write)
            await write(work)
            raise OutboxUnavailable("the connection was lost")

        monkeypatch.setattr(of._database, "write", done_and_lost)
        async with calling(of, call_timeout=600.0):
            pass


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_slow_database_costs_time_but_no_call(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    write = shared._database.write

    async def slow(work: Any) -> Any:
        monkeypatch.setattr(shared._database, "write", write)
        if when == "before":  # as if another process kept SQLite locked
            await asyncio.sleep(1.2)
        done = await write(work)
        if when == "after":
            await asyncio.sleep(1.2)
        return done

    await take(shared, [])
    await until_in_use(shared, 0)
    monkeypatch.setattr(shared._database, "write", slow)
    async with within(300), shared.token() as begin:
        begin()


async def full(_: object) -> None:
    raise OutboxError("the disk is full")


async def test_a_permanent_error_is_raised_and_the_next_caller_tries_again(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = shared._database.write
    monkeypatch.setattr(shared._database, "write", full)
    results = await asyncio.gather(take(shared, []), take(shared, []), return_exceptions=True)
    assert [str(result) for result in results] == ["the disk is full"] * 2
    monkeypatch.setattr(shared._database, "write", write)
    async with within(300):
        await take(shared, [])


async def test_a_permanent_error_that_no_caller_waits_for_is_logged(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = shared._database.write
    async with calling(shared):
        monkeypatch.setattr(shared._database, "write", full)
    async with within(300):
        while "cannot be reached: the disk is full" not in caplog.text:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(shared._database, "write", write)
        while "can be reached again" not in caplog.text:
            await asyncio.sleep(0.01)


async def test_an_unexpected_error_is_raised_in_all_callers(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(shared._database, "write", broken)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await take(shared, [])


async def test_closing_gives_up_on_an_unreachable_database(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with within(300), opened(store_url) as of, calling(of):
        monkeypatch.setattr(of._database, "write", gone)
    assert "the last tokens return late" in caplog.text


async def test_a_cancelled_close_leaves_no_task(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(_: object) -> None:
        await asyncio.sleep(600)

    of = bucket(store_url)
    await of.open(account())
    before = asyncio.all_tasks()
    async with within(300), calling(of):
        monkeypatch.setattr(of._database, "write", hangs)
    closing = asyncio.create_task(of.aclose())
    await asyncio.sleep(0.1)
    await end(closing)
    assert closing.cancelled()
    assert asyncio.all_tasks() < before


async def test_callers_do_not_wait_for_a_bucket_whose_task_was_cancelled(
    shared: SharedTokenBucket,
) -> None:
    # As by a shutdown that cancels all tasks of the event loop.
    assert shared._share is not None
    shared._share._serving.cancel()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the task of the SharedTokenBucket was cancelled"):
            await take(shared, [])


async def test_closing_does_not_wait_long_for_a_hanging_database(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(postgresql_url)
    async with engine.connect() as holder, within(50):  # a transaction may wait for 60 s
        async with opened(postgresql_url) as of, calling(of):
            await holder.execute(sa.text("LOCK TABLE leadpost_buckets, leadpost_tokens"))
        assert "the last tokens return late" in caplog.text
        await holder.rollback()
    await engine.dispose()


async def test_a_process_frozen_in_a_transaction_does_not_stop_the_others(
    postgresql_url: str,
) -> None:
    engine = create_async_engine(postgresql_url)
    async with opened(postgresql_url) as of, engine.connect() as frozen, within(300):
        lock = sa.text("SELECT 1 FROM leadpost_tokens WHERE number < 5 FOR UPDATE")
        await frozen.execute(lock)
        arrivals: list[float] = []
        await asyncio.gather(*(take(of, arrivals) for _ in range(30)))
        assert fullest(arrivals, PERIOD) <= 20
        await frozen.rollback()
    await engine.dispose()


async def test_buckets_of_one_name_have_one_period(store_url: str) -> None:
    async with opened(store_url):
        other = bucket(store_url, period=1.0)
        with pytest.raises(OutboxError, match=r"period of 0.5 s, not 1 s: use another name"):
            await other.open(account())
        with pytest.raises(OutboxError, match="another name"):  # and it remains closed
            await other.open(account())


async def test_a_bucket_that_is_not_open_raises(store_url: str) -> None:
    of = bucket(store_url)
    with pytest.raises(RuntimeError, match="use its poster with `async with`"):
        await take(of, [])
    assert repr(of).endswith("not open>")
    await of.aclose()
    await of.open(account())
    with pytest.raises(RuntimeError, match="belongs to one poster"):
        await of.open(account())
    tasks = [asyncio.create_task(take(of, [], 600)) for _ in range(30)]
    async with within(300):
        while "24 in use here, 6 waiting here" not in repr(of):
            await asyncio.sleep(0.01)
    await of.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await tasks[-1]
    await end(*tasks)


def test_a_bucket_can_be_opened_again_in_another_event_loop(store_url: str) -> None:
    of = bucket(store_url)
    leadsquared = LeadSquared()

    async def post(number: int) -> str:
        poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=of)
        async with poster:
            return await poster.post(activity(number))

    assert [asyncio.run(post(number)) for number in (1, 2)] == ["r1", "r2"]


async def test_without_a_name_a_bucket_says_that_other_keys_do_not_share_it(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    for name, of in (
        ("acme", SharedTokenBucket(sqlite_url)),
        ("", SharedTokenBucket(sqlite_url, "x")),
    ):
        await of.open(account(name=name))
        await of.aclose()
    assert not caplog.text
    of = SharedTokenBucket(sqlite_url)
    await of.open(account())
    await of.aclose()
    assert "not shared with other access keys, as the account has no name" in caplog.text


async def test_it_is_a_managed_bucket_and_shows_no_key(store_url: str) -> None:
    of = SharedTokenBucket(store_url)
    assert isinstance(of, Bucket)
    assert isinstance(of, ManagedBucket)
    await of.open(account())
    shown = repr(of)
    await until_known(of, f"bucket = '{account().id}'")
    await of.aclose()
    assert account().id in shown
    assert account().id != account(access_key="other").id
    assert not any(secret in shown + account().id for secret in (*KEYS, account().host))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 26}, {"period": 0.0}])
def test_invalid_options_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        bucket("sqlite+aiosqlite:///x.db", **wrong)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_clock_that_jumps_back_neither_exceeds_the_limit_nor_blocks_calls_for_long(
    store_url: str, jump_to: Callable[[float], None], *, paused: bool
) -> None:
    jump_to(3600.0)
    arrivals: list[float] = []
    async with opened(store_url) as one, opened(store_url) as other, within(300):
        for jump in (3600.0, 0.0, -3600.0):
            if paused:
                await store(one).write(_tokens.pause, 0.1)
            jump_to(jump)
            calls = (take(of, arrivals) for of in (one, other) for _ in range(25))
            await asyncio.gather(*calls)
    assert fullest(arrivals, PERIOD) <= 25


async def test_a_token_that_is_put_back_after_the_clock_jumped_back_is_not_lost(
    store_url: str, jump_to: Callable[[float], None]
) -> None:
    jump_to(3600.0)
    async with opened(store_url, limit=1) as of, within(300):
        async with of.token():
            jump_to(0.0)
        await take(of, [])
