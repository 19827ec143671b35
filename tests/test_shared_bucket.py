"""The shared bucket over a real store: SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from heapq import heappop
from itertools import pairwise
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from support import KEYS, Vendor, account, activity, answers, fullest, within

from leadpost import (
    AsyncActivityPoster,
    Bucket,
    ConnectionFailed,
    DeliveryUncertain,
    NotSent,
    OutboxError,
    OutboxUnavailable,
    Priority,
    RateLimited,
    ServerError,
    TokenLost,
)
from leadpost.outbox import SharedTokenBucket
from leadpost.outbox.bucket import fingerprint
from leadpost.outbox.schema import buckets
from leadpost.outbox.store import now

PERIOD = 0.5


def bucket(url: str, **options: Any) -> SharedTokenBucket:
    return SharedTokenBucket(url, "test", period=options.pop("period", PERIOD), **options)


@pytest.fixture
async def shared(store_url: str) -> AsyncIterator[SharedTokenBucket]:
    async with bucket(store_url) as opened:
        yield opened


async def take(of: SharedTokenBucket, arrivals: list[float], seconds: float = 0.0) -> None:
    async with of.token() as begin:
        begin()
        arrivals.append(time.monotonic())
        await asyncio.sleep(seconds)


async def test_25_calls_leave_at_once_and_the_26th_a_period_after_an_answer(
    shared: SharedTokenBucket,
) -> None:
    arrivals: list[float] = []
    await asyncio.gather(*(take(shared, arrivals, 0.05) for _ in range(60)))
    assert fullest(arrivals, PERIOD) == 25
    assert arrivals[24] - arrivals[0] < PERIOD
    assert arrivals[25] - arrivals[0] >= PERIOD + 0.05


async def test_buckets_of_one_name_share_the_limit(store_url: str) -> None:
    arrivals: list[float] = []
    async with AsyncExitStack() as stack:
        buckets = [await stack.enter_async_context(bucket(store_url)) for _ in range(4)]
        calls = (take(of, arrivals, 0.01) for of in buckets for _ in range(20))
        await asyncio.gather(*calls)
    assert len(arrivals) == 80
    assert fullest(arrivals, PERIOD) == 25


async def test_each_of_them_has_its_turn_whatever_its_number_of_callers(store_url: str) -> None:
    counts = {"many": 0, "few": 0}
    async with bucket(store_url) as many, bucket(store_url) as few:

        async def keep_taking(of: SharedTokenBucket, name: str) -> None:
            while True:
                async with of.token() as begin:
                    begin()
                    counts[name] += 1

        tasks = [asyncio.create_task(keep_taking(many, "many")) for _ in range(50)]
        await asyncio.sleep(PERIOD)
        tasks.append(asyncio.create_task(keep_taking(few, "few")))
        counts["many"] = 0
        await asyncio.sleep(8 * PERIOD)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    # By the number of callers it would be one in 51.
    assert counts["few"] >= sum(counts.values()) / 10


async def test_a_process_that_waits_asks_the_store_seldom(store_url: str) -> None:
    # With the vendor's own period; nothing is waited for but these two seconds.
    async with (
        bucket(store_url, period=5.0) as first,
        bucket(store_url, period=5.0) as waits,
        AsyncExitStack() as stack,
    ):
        for _ in range(25):
            await stack.enter_async_context(first.token())
        waiter = asyncio.create_task(take(waits, []))
        await asyncio.sleep(0.5)
        statements: list[str] = []

        def note(_: object, __: object, statement: str, *___: object) -> None:
            statements.append(statement)

        event.listen(waits._store._engine.sync_engine, "before_cursor_execute", note)
        await asyncio.sleep(2.0)
        assert 2 <= len(statements) <= 20
        waiter.cancel()
        await asyncio.wait([waiter])


async def test_a_refusal_stops_all_and_the_limit_that_it_names_goes_for_all(
    store_url: str,
) -> None:
    async with bucket(store_url) as one, bucket(store_url) as other:
        refusal = RateLimited("limit of 10 in 5 second(s)", status=429, limit=(10, 5))
        with pytest.raises(RateLimited):  # noqa: PT012  left by it
            async with one.token() as begin:
                begin()
                raise refusal
        refused = time.monotonic()
        while one._refusals:  # the store has not heard of it yet
            await asyncio.sleep(0.001)
        arrivals: list[float] = []
        await asyncio.gather(*(take(other, arrivals) for _ in range(3)))
        assert arrivals[0] - refused >= PERIOD - 0.01
        # 10 in 5 s are 1 in half a second.
        assert fullest(arrivals, PERIOD) == 1


async def test_calls_that_are_refused_together_are_told_once(
    shared: SharedTokenBucket, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused() -> None:
        async with shared.token() as begin:
            begin()
            await asyncio.sleep(0.1)
            raise RateLimited("429", status=429)

    await asyncio.gather(refused(), refused(), return_exceptions=True)
    assert caplog.text.count("the vendor refused a call") == 1


async def test_a_long_retry_after_is_honoured_up_to_a_minute(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.outbox.bucket.LONGEST_RETRY_AFTER", 1.0)
    begun = time.monotonic()
    with pytest.raises(RateLimited):  # noqa: PT012  left by it
        async with shared.token() as begin:
            begin()
            raise RateLimited("daily quota", status=429, retry_after=3600.0)
    arrivals: list[float] = []
    async with within(10):
        await take(shared, arrivals)
    assert 0.9 < arrivals[0] - begun < 3


async def test_a_token_for_which_no_call_was_made_is_as_good_as_before(
    shared: SharedTokenBucket,
) -> None:
    begun = time.monotonic()
    for error in [NotSent("nothing to send"), ConnectionFailed("no route")] * 15:
        with pytest.raises(type(error)):  # noqa: PT012  left by it
            async with shared.token() as begin:
                if isinstance(error, ConnectionFailed):
                    begin()
                raise error
    arrivals: list[float] = []
    await asyncio.gather(*(take(shared, arrivals) for _ in range(25)))
    assert arrivals[-1] - arrivals[0] < PERIOD < arrivals[-1] - begun + PERIOD


async def test_a_token_whose_call_was_not_answered_rests_until_the_call_has_arrived_too(
    store_url: str,
) -> None:
    async with bucket(store_url, limit=1) as of:
        with pytest.raises(DeliveryUncertain):  # noqa: PT012  left by it
            async with of.token(call_timeout=1.0) as begin:
                begin()
                raise DeliveryUncertain("no answer")
        ended = time.monotonic()
        arrivals: list[float] = []
        async with within(10):
            await take(of, arrivals)
    assert arrivals[0] - ended >= 1.0 + PERIOD - 0.01


async def test_who_waits_here_is_served_by_priority_and_long_batches_are_spaced(
    store_url: str,
) -> None:
    served: list[Priority] = []

    async def call(of: SharedTokenBucket, priority: Priority) -> float:
        async with of.token(priority) as begin:
            begin()
            served.append(priority)
            return time.monotonic()

    async with bucket(store_url, limit=1) as of:
        await take(of, [])
        wanted = Priority.BATCH, Priority.SINGLE, Priority.BATCH_RETRY, Priority.RETRY
        async with within(20):
            await asyncio.gather(*(call(of, priority) for priority in wanted))
    assert served == sorted(wanted)
    async with bucket(store_url) as of, within(20):
        times = await asyncio.gather(*(call(of, Priority.LONG_BATCH) for _ in range(5)))
    assert all(b - a > PERIOD / 25 / 2 for a, b in pairwise(sorted(times)))


async def test_a_token_that_was_taken_from_us_is_not_given_back(shared: SharedTokenBucket) -> None:
    async with shared.token() as begin:
        begin()
        shared._epoch += 1  # as where the lease ended while the process was frozen
        shared._in_use = 0
    assert shared._in_use == 0
    assert not shared._released


async def test_a_cancelled_caller_loses_no_token(shared: SharedTokenBucket) -> None:
    async def hold() -> None:
        async with shared.token():
            await asyncio.sleep(60)

    tasks = [asyncio.create_task(hold()) for _ in range(40)]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    arrivals: list[float] = []
    async with within(10):
        await asyncio.gather(*(take(shared, arrivals) for _ in range(25)))


async def test_one_that_is_cancelled_as_its_turn_comes_gives_the_token_back(
    shared: SharedTokenBucket,
) -> None:
    await take(shared, [])
    waiter = asyncio.create_task(take(shared, [], 60))
    await asyncio.sleep(0)
    heappop(shared._waiting)[2].set_result(shared._epoch)
    shared._in_use += 1
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    assert shared._in_use == 0
    arrivals: list[float] = []
    async with within(10):
        await asyncio.gather(*(take(shared, arrivals) for _ in range(25)))


async def test_a_token_in_advance_that_nobody_waits_for_any_more_is_given_back(
    shared: SharedTokenBucket,
) -> None:
    await asyncio.gather(*(take(shared, []) for _ in range(25)))
    waiter = asyncio.create_task(take(shared, []))

    def has_token_in_advance() -> bool:
        return shared._ahead is not None

    async with within(10):
        while not has_token_in_advance():
            await asyncio.sleep(0.001)
        waiter.cancel()
        await asyncio.wait([waiter])
        while has_token_in_advance() or shared._released:
            await asyncio.sleep(0.001)
        arrivals: list[float] = []
        await asyncio.gather(*(take(shared, arrivals) for _ in range(25)))
    assert arrivals[-1] - arrivals[0] < PERIOD


async def test_failures_give_the_token_back(shared: SharedTokenBucket) -> None:
    for _ in range(26):
        with pytest.raises(ServerError):  # noqa: PT012  left by it
            async with shared.token() as begin:
                begin()
                raise ServerError("500", status=500)


async def test_one_that_was_silent_for_its_lease_makes_no_call(store_url: str) -> None:
    async with bucket(store_url, lease=1.0) as frozen, bucket(store_url) as other:
        async with frozen.token() as begin:
            begin()
            time.sleep(1.5)  # noqa: ASYNC251  # frozen: its loop does nothing
            await take(other, [])  # which finds the lease over
            with pytest.raises(TokenLost, match="lease"):
                begin()
        await take(frozen, [])
    assert (await tokens_of(store_url))["holders"] == {}


async def tokens_of(url: str) -> dict[str, Any]:
    """Read the state of the bucket as it is in the store."""
    async with bucket(url) as reader:
        return await reader._changed(lambda tokens, _: json.loads(tokens.to_json()))


async def test_a_poster_keeps_a_lost_token_from_sending(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = Vendor()
    async with bucket(store_url) as of:
        poster = AsyncActivityPoster(account(), client=vendor.client(), bucket=of)
        await poster.post(activity(1))
        has_lease, refused = of._has_lease, list[bool]()

        def lose_once() -> bool:
            # Asked once more as the token is handed on; the second time is right before sending.
            if len(refused) < 2 and of._in_use:
                refused.append(True)
                return False
            return has_lease()

        monkeypatch.setattr(of, "_has_lease", lose_once)
        assert await poster.post(activity(2)) == "r2"
    assert vendor.numbers == [1, 2]
    assert refused


async def test_a_refusal_by_the_vendor_pauses_the_poster(store_url: str) -> None:
    vendor = Vendor(answers(httpx.Response(429, headers={"Retry-After": "1"})))
    async with bucket(store_url) as of:
        poster = AsyncActivityPoster(account(), client=vendor.client(), bucket=of)
        begun = time.monotonic()
        assert await poster.post(activity(1)) == "r1"
    assert time.monotonic() - begun >= 1.0


async def test_a_clock_that_jumps_lets_no_call_more_through_and_stops_none_for_long(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jump = 0.0

    def jumping(connection: AsyncConnection) -> sa.ColumnElement[float]:
        return now(connection) + jump

    monkeypatch.setattr("leadpost.outbox.bucket.now", jumping)
    arrivals: list[float] = []
    async with bucket(store_url) as one, bucket(store_url) as other:
        for jump in (0.0, 3600.0, 0.0, -3600.0):  # noqa: B007  # `jumping` reads it
            calls = (take(of, arrivals) for of in (one, other) for _ in range(25))
            await asyncio.gather(*calls)
    assert fullest(arrivals, PERIOD) == 25
    ordered = sorted(arrivals)
    assert max(b - a for a, b in pairwise(ordered)) < 3 * PERIOD


async def test_a_newcomer_does_not_trust_a_clock_when_others_ended_without_a_word(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    arrivals: list[float] = []
    dead = bucket(postgresql_url)
    await dead.__aenter__()
    await asyncio.gather(*(take(dead, arrivals) for _ in range(25)))
    await asyncio.sleep(PERIOD / 5)
    monkeypatch.setattr(dead._store, "write", gone)
    await dead.aclose()

    def later(connection: AsyncConnection) -> sa.ColumnElement[float]:
        return now(connection) + 3600

    monkeypatch.setattr("leadpost.outbox.bucket.now", later)
    async with bucket(postgresql_url) as new:
        await asyncio.gather(*(take(new, arrivals) for _ in range(5)))
    assert fullest(arrivals, PERIOD) == 25
    assert "may have jumped" in caplog.text


async def gone(_: object) -> None:
    raise OutboxUnavailable("the server is away")


async def test_what_is_not_in_use_costs_the_store_nothing(store_url: str) -> None:
    async with bucket(store_url) as of:
        await take(of, [])
        await asyncio.sleep(PERIOD)
        touched = of._touched_at
        await asyncio.sleep(PERIOD)
        assert of._touched_at == touched


async def test_buckets_of_one_name_have_one_period(store_url: str) -> None:
    async with bucket(store_url) as of, bucket(store_url, period=1.0) as other:
        await take(of, [])
        with pytest.raises(OutboxError, match=r"is of 0.5 s, not 1 s: give it another name"):
            await take(other, [])
        with pytest.raises(OutboxError, match="another name"):
            await take(other, [])


async def test_a_closed_bucket_gives_no_tokens(store_url: str) -> None:
    of = bucket(store_url)
    with pytest.raises(RuntimeError, match="within `async with`"):
        await take(of, [])
    async with of:
        tasks = [asyncio.create_task(take(of, [], 60)) for _ in range(30)]
        await asyncio.sleep(0.2)
    with pytest.raises(RuntimeError, match="closed"):
        await tasks[-1]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await of.aclose()


async def test_a_store_that_goes_away_is_waited_for(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await take(shared, [])
    write = shared._store.write
    monkeypatch.setattr(shared._store, "write", gone)
    waiter = asyncio.create_task(take(shared, []))
    await asyncio.sleep(0.7)
    assert not waiter.done()
    monkeypatch.setattr(shared._store, "write", write)
    async with within(10):
        await waiter
    told = [r.message for r in caplog.records if r.name == "leadpost.outbox.away"]
    name = f"the tokens' store {shared._store.name}"
    assert told[0] == f"{name} is away: the server is away"
    assert told[1].startswith(f"{name} is back after ")


async def test_a_store_that_is_away_at_the_end_is_let_go(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with bucket(store_url) as of:
        await take(of, [])
        monkeypatch.setattr(of._store, "write", gone)
    assert "the tokens are back when their lease ends: the server is away" in caplog.text


async def test_one_that_is_frozen_while_it_asks_does_not_stop_the_others(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.outbox.store.BRIEF", 0.3)
    async with bucket(postgresql_url) as frozen, bucket(postgresql_url) as other:
        await take(frozen, [])

        async def freeze(connection: AsyncConnection) -> None:
            await connection.execute(sa.update(buckets).values(touches=0))
            await asyncio.sleep(1.0)
            await connection.execute(sa.select(buckets))

        freezing = asyncio.create_task(frozen._store.write(freeze))
        await asyncio.sleep(0.1)
        async with within(10):
            await take(other, [])
        with pytest.raises(OutboxUnavailable):
            await freezing


async def test_it_is_a_bucket_and_shows_no_key(store_url: str) -> None:
    async with SharedTokenBucket(store_url, account()) as of:
        assert isinstance(of, Bucket)
        assert of.name == fingerprint(account()) != fingerprint(account(access_key="other"))
        shown = f"{of!r}{of.name}"
    assert not any(secret in shown for secret in (*KEYS, account().host))


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"limit": 26}, {"period": 0.0}, {"lease": float("inf")}]
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        bucket("sqlite+aiosqlite:///x.db", **wrong)


@pytest.mark.parametrize("ends", [(-1.0, 60.0), (60.0, -1.0)])
async def test_a_lease_ends_by_either_clock(
    shared: SharedTokenBucket, ends: tuple[float, float]
) -> None:
    async with shared.token() as begin:
        begin()
        shared._lease_ends = time.monotonic() + ends[0], time.time() + ends[1]
        with pytest.raises(TokenLost, match="lease"):
            begin()


async def test_a_token_in_advance_is_used_only_where_a_pause_would_be_known(
    shared: SharedTokenBucket,
) -> None:
    await take(shared, [])
    assert shared._clerk is not None
    shared._clerk.cancel()  # by hand from here
    await asyncio.wait([shared._clerk])
    turn = asyncio.get_running_loop().create_future()
    shared._waiting.append((Priority.SINGLE, 0, turn))
    shared._ahead = time.monotonic() - 0.01
    shared._lease_ends = time.monotonic() + 60.0, time.time() + 60.0
    shared._touched_at = time.monotonic() - PERIOD / 5
    shared._hand_on()
    assert not turn.done()
    shared._touched_at = time.monotonic()
    shared._hand_on()
    assert turn.done()


async def test_a_good_bye_waits_not_long_for_a_database_that_hangs(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(postgresql_url)
    async with engine.connect() as holder, within(30):
        async with bucket(postgresql_url) as of:
            await take(of, [])
            await holder.execute(sa.text("LOCK TABLE leadpost_buckets"))
        assert "the tokens are back when their lease ends: no answer" in caplog.text
        await holder.rollback()
        closing = of._store._closing
        assert closing is not None
        await closing
    await engine.dispose()
