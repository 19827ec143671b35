"""The shared bucket over a real database: SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from raw_server import ACCEPTED, Connection, RawServer, answer
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from support import KEYS, Vendor, account, activity, answers, fullest, within

from leadpost import (
    AsyncActivityPoster,
    Bucket,
    ConnectionFailed,
    DeliveryUncertain,
    NotSent,
    OpenableBucket,
    OutboxError,
    OutboxUnavailable,
    Priority,
    RateLimited,
    ServerError,
    TokenLost,
)
from leadpost._bucket_parts import Use
from leadpost.outbox import SharedTokenBucket, _shared_bucket
from leadpost.outbox._clock import boot_time
from leadpost.outbox.database import Store, _sql, _tokens
from leadpost.outbox.database._sql import Transaction

PERIOD = 0.5


def bucket(url: str, **options: Any) -> SharedTokenBucket:
    chosen: dict[str, Any] = {"period": PERIOD} | options
    return SharedTokenBucket(url, "test", **chosen)


def store(of: SharedTokenBucket) -> Store:
    return Store(of._database, bucket="test")


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[SharedTokenBucket]:
    of = bucket(url, **options)
    await of.open(account())
    try:
        yield of
    finally:
        await of.aclose()


@pytest.fixture
async def shared(store_url: str) -> AsyncIterator[SharedTokenBucket]:
    async with opened(store_url) as of:
        yield of


@pytest.fixture
async def engine(store_url: str) -> AsyncIterator[AsyncEngine]:
    """A connection of our own to the database of the test."""
    made = create_async_engine(store_url)
    yield made
    await made.dispose()


async def take(
    of: SharedTokenBucket,
    arrivals: list[float],
    seconds: float = 0.0,
    priority: Priority = Priority.SINGLE,
) -> None:
    with suppress(TokenLost):  # on a busy machine a token may come too late
        async with of.token(priority) as begin:
            begin()
            arrivals.append(time.monotonic())
            await asyncio.sleep(seconds)
            return
    await take(of, arrivals, seconds, priority)


async def end_with(
    of: SharedTokenBucket, error: Exception, *, sent: bool = True, after: float = 0.0
) -> None:
    """Make a call that ends with an error."""
    with suppress(type(error)):
        async with of.token(call_timeout=1.0) as begin:
            if sent:
                begin()
            await asyncio.sleep(after)
            raise error


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def all_tokens(of: SharedTokenBucket, stack: AsyncExitStack, number: int = 25) -> None:
    """Hold `number` tokens, with calls in flight; the last one is free after a period."""
    for _ in range(number):
        begin = await stack.enter_async_context(of.token())
        begin()


async def until_known(of: SharedTokenBucket, condition: str) -> None:
    """Wait until something is written to the database."""

    async def holds(transaction: Transaction) -> bool:
        found = await transaction.execute(f"SELECT 1 FROM leadpost_buckets WHERE {condition}")
        return found.one_or_none() is not None

    while not await store(of).read(holds):
        await asyncio.sleep(0.01)


async def test_25_calls_are_in_flight_at_once_and_no_26th(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(30):
        async with AsyncExitStack() as stack:
            await all_tokens(one, stack, 12)
            await all_tokens(other, stack, 13)
            waiting = [asyncio.create_task(take(of, [])) for of in (one, other)]
            await asyncio.sleep(2 * PERIOD)
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)


async def test_25_calls_of_two_processes_need_no_part_of_the_period(store_url: str) -> None:
    """Spread over the period, they would take it all: ten minutes."""
    period = 600.0
    async with (
        opened(store_url, period=period) as one,
        opened(store_url, period=period) as other,
        AsyncExitStack() as stack,
        within(60),
    ):
        await all_tokens(one, stack, 24)
        await all_tokens(other, stack, 1)  # the last one is left to a process without any


async def test_the_26th_call_is_sent_a_period_after_an_answer(store_url: str) -> None:
    arrivals: list[float] = []
    async with opened(store_url, period=2.0) as of, within(20):
        await asyncio.gather(*(take(of, arrivals, 0.05) for _ in range(60)))
    assert fullest(arrivals, 2.0) <= 25
    assert arrivals[25] - arrivals[0] >= 2.05


async def test_buckets_of_one_name_share_the_limit(store_url: str) -> None:
    arrivals: list[float] = []
    async with AsyncExitStack() as stack, within(30):
        of_one_name = [await stack.enter_async_context(opened(store_url)) for _ in range(4)]
        calls = (take(of, arrivals, 0.01) for of in of_one_name for _ in range(20))
        await asyncio.gather(*calls)
    assert len(arrivals) == 80
    assert fullest(arrivals, PERIOD) <= 25


async def test_buckets_of_other_names_do_not_share_it(store_url: str) -> None:
    other = SharedTokenBucket(store_url, "other", limit=1)
    await other.open(account())
    async with opened(store_url, limit=1, period=5.0) as of, within(4):
        await asyncio.gather(take(of, []), take(other, []))
    await other.aclose()


async def test_tokens_still_rest_in_the_next_process(
    store_url: str,
) -> None:
    arrivals: list[float] = []
    for _ in range(2):
        async with opened(store_url, period=2.0) as of, within(20):
            await asyncio.gather(*(take(of, arrivals) for _ in range(20)))
    assert fullest(arrivals, 2.0) <= 25


async def test_each_process_has_its_share_whatever_its_number_of_callers(store_url: str) -> None:
    counts = {"many": 0, "few": 0}
    async with opened(store_url) as many, opened(store_url) as few:

        async def keep_taking(of: SharedTokenBucket, name: str) -> None:
            while True:
                await take(of, [], 0.01)
                counts[name] += 1

        tasks = [asyncio.create_task(keep_taking(many, "many")) for _ in range(50)]
        await asyncio.sleep(PERIOD)
        tasks.append(asyncio.create_task(keep_taking(few, "few")))
        counts["many"] = 0
        await asyncio.sleep(8 * PERIOD)
        await end(*tasks)
    # In proportion to the callers it would be one in 51.
    assert counts["few"] >= sum(counts.values()) / 10


async def test_the_last_resting_token_is_left_to_processes_without_one(store_url: str) -> None:
    async with (
        opened(store_url, limit=2, period=5.0) as greedy,
        opened(store_url, limit=2, period=5.0) as modest,
        AsyncExitStack() as stack,
        within(4),
    ):
        await all_tokens(greedy, stack, 1)
        waiter = asyncio.create_task(take(greedy, []))
        await asyncio.sleep(0.6)
        assert not waiter.done()
        await take(modest, [])
        await end(waiter)


async def test_a_waiting_process_makes_at_most_5_transactions_a_second(
    store_url: str,
) -> None:
    begun: list[float] = []

    def note(_: sa.Connection) -> None:
        begun.append(time.monotonic())

    async with (
        opened(store_url, limit=2, period=5.0) as of,
        opened(store_url, limit=2, period=5.0) as other,
        AsyncExitStack() as stack,
    ):
        await all_tokens(other, stack, 1)
        await all_tokens(of, stack, 1)
        waiter = asyncio.create_task(take(of, []))
        await asyncio.sleep(0.5)
        event.listen(sa.Engine, "begin", note)
        await asyncio.sleep(2.0)
        event.remove(sa.Engine, "begin", note)
        await end(waiter)
    assert 4 <= len(begun) <= 10


async def test_an_idle_bucket_makes_no_transactions(shared: SharedTokenBucket) -> None:
    begun: list[float] = []

    def note(_: sa.Connection) -> None:
        begun.append(time.monotonic())

    await take(shared, [])
    await asyncio.sleep(0.2)
    event.listen(sa.Engine, "begin", note)
    await asyncio.sleep(2 * PERIOD)
    assert not begun
    await take(shared, [])
    event.remove(sa.Engine, "begin", note)
    assert begun


async def test_processes_that_reserve_at_once_never_get_the_same_token(store_url: str) -> None:
    async with AsyncExitStack() as stack, within(60):
        many = [await stack.enter_async_context(opened(store_url)) for _ in range(12)]
        arrivals: list[float] = []
        for _ in range(3):
            await asyncio.gather(*(take(of, arrivals) for of in many for _ in range(4)))
        assert len(arrivals) == 144
        assert fullest(arrivals, PERIOD) <= 25


async def test_a_token_without_a_call_remains_unused(
    store_url: str,
) -> None:
    async with opened(store_url, period=10.0) as of, within(9):
        for error in [NotSent("nothing to send"), ConnectionFailed("no route")] * 15:
            await end_with(of, error, sent=isinstance(error, ConnectionFailed))
        await asyncio.gather(*(take(of, []) for _ in range(24)))


async def test_the_token_of_an_unanswered_call_rests_for_its_time_out_too(
    store_url: str,
) -> None:
    async with opened(store_url, limit=1) as of, within(20):
        await end_with(of, DeliveryUncertain("no answer"))
        ended = time.monotonic()
        arrivals: list[float] = []
        await take(of, arrivals)
    assert 1.0 + PERIOD - 0.01 <= arrivals[0] - ended < 1.0 + PERIOD + 1.0


async def test_the_token_of_a_failed_but_answered_call_rests_as_usual(store_url: str) -> None:
    async with opened(store_url, limit=1) as of, within(20):
        await end_with(of, ServerError("500", status=500))
        ended = time.monotonic()
        arrivals: list[float] = []
        await take(of, arrivals)
    assert PERIOD - 0.01 <= arrivals[0] - ended < PERIOD + 0.5


async def test_waiting_callers_are_served_by_priority(store_url: str) -> None:
    served: list[Priority] = []

    async def call(of: SharedTokenBucket, priority: Priority) -> None:
        async with of.token(priority) as begin:
            begin()
            served.append(priority)

    async with opened(store_url, limit=1) as of, within(30):
        await take(of, [])
        wanted = Priority.BATCH, Priority.SINGLE, Priority.BATCH_RETRY
        tasks = [asyncio.create_task(call(of, priority)) for priority in wanted]
        await asyncio.sleep(0.3)  # the next token is reserved for whoever is first then
        tasks.append(asyncio.create_task(call(of, Priority.RETRY)))
        await asyncio.gather(*tasks)
    assert served == sorted([*wanted, Priority.RETRY])


async def test_long_batches_are_spaced_and_single_calls_go_first(store_url: str) -> None:
    async with opened(store_url, period=2.0) as of, within(30):
        times: list[float] = []
        batch = [
            asyncio.create_task(take(of, times, priority=Priority.LONG_BATCH)) for _ in range(40)
        ]
        await asyncio.sleep(1.0)
        begun = time.monotonic()
        await take(of, [])
        assert time.monotonic() - begun < 1.0
        assert len(times) < 40
        await asyncio.gather(*batch)
    spaces = [after - before for before, after in pairwise(times[1:12])]
    assert sum(spaces) / len(spaces) > 2.0 / 25 / 2


async def test_a_cancelled_caller_loses_no_token(store_url: str) -> None:
    async def hold(of: SharedTokenBucket) -> None:
        async with of.token():
            await asyncio.sleep(60)

    async with opened(store_url, period=5.0) as of:
        tasks = [asyncio.create_task(hold(of)) for _ in range(40)]
        await asyncio.sleep(0.3)
        await end(*tasks)
        async with within(4):
            await asyncio.gather(*(take(of, []) for _ in range(24)))


async def test_a_reserved_token_without_a_caller_is_put_back(
    store_url: str, engine: AsyncEngine
) -> None:
    async with (
        opened(store_url, limit=3, period=2.0) as of,
        opened(store_url, limit=3, period=2.0) as other,
        within(10),
    ):
        begun = time.monotonic()
        await asyncio.gather(take(of, []), take(of, []), take(other, []))
        ended = time.monotonic()
        waiter = asyncio.create_task(take(of, []))
        while not await in_use(engine):
            await asyncio.sleep(0.01)
        await end(waiter)
        while await in_use(engine):
            await asyncio.sleep(0.01)
        assert time.monotonic() - ended < 2.0
        arrivals: list[float] = []
        await take(of, arrivals)
        assert arrivals[0] - begun >= 2.0
        assert arrivals[0] - ended < 3.0


async def in_use(engine: AsyncEngine) -> int:
    query = sa.text("SELECT count(*) FROM leadpost_tokens WHERE use_id IS NOT NULL")
    async with engine.connect() as connection:
        return int((await connection.execute(query)).scalar_one())


async def test_a_process_that_was_frozen_for_too_long_makes_no_call(store_url: str) -> None:
    async def freeze(of: SharedTokenBucket, other: SharedTokenBucket) -> None:
        async with of.token(call_timeout=0.2) as begin:
            time.sleep(2.0)  # noqa: ASYNC251  # its loop does nothing
            await take(other, [], 0.1)
            begin()

    async with (
        opened(store_url, limit=1) as frozen,
        opened(store_url, limit=1) as other,
        within(20),
    ):
        with pytest.raises(TokenLost, match="the token expired before the call was sent"):
            await freeze(frozen, other)
        ended = time.monotonic()
        arrivals: list[float] = []
        await take(other, arrivals)  # `frozen` must not put back a token that it no longer has
    assert arrivals[0] - ended >= PERIOD - 0.1


async def test_the_token_of_a_dead_process_returns_when_its_call_must_have_ended(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = bucket(store_url, limit=1)
    await dead.open(account())
    async with dead.token(call_timeout=0.5) as begin:
        begin()
        monkeypatch.setattr(dead._database, "write", gone)
    await dead.aclose()
    ended = time.monotonic()
    async with opened(store_url, limit=1) as other, within(20):
        await take(other, [])
    # The process might have used it up to a second later.
    assert 0.5 < time.monotonic() - ended < 0.5 + 1.0 + PERIOD + 0.5


async def test_a_poster_does_not_send_with_a_lost_token(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = Vendor()
    of = bucket(store_url)
    async with AsyncActivityPoster(account(), client=vendor.client(), bucket=of) as poster:
        await poster.post(activity(1))
        jumps = [0.0, 1000.0]  # once, between token and call
        begin = _shared_bucket._Use.before_send

        def late(use: _shared_bucket._Use) -> None:
            with monkeypatch.context() as patched:
                jump = jumps.pop()
                patched.setattr(_shared_bucket, "boot_time", lambda: boot_time() + jump)
                begin(use)

        monkeypatch.setattr(_shared_bucket._Use, "before_send", late)
        assert await poster.post(activity(2)) == "r2"
        assert not jumps
    assert vendor.numbers == [1, 2]


async def test_a_process_frozen_between_headers_and_body_does_not_send_the_body(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezes = [2.0]
    connections = list[Connection]()
    begin = _shared_bucket._Use.before_send

    async def accept(connection: Connection) -> None:
        connections.append(connection)
        await connection.request()
        await connection.send(answer(200, ACCEPTED))

    def freeze(use: _shared_bucket._Use) -> None:
        begin(use)
        if freezes:  # once the headers are sent
            asyncio.get_running_loop().call_soon(time.sleep, freezes.pop())

    monkeypatch.setattr(_shared_bucket._Use, "before_send", freeze)
    async with (
        RawServer(accept) as server,
        AsyncActivityPoster(
            account(host=server.url), bucket=bucket(store_url), call_timeout=0.5
        ) as poster,
        within(20),
    ):
        assert await poster.post(activity(1)) == "r1"
        assert len(connections) == 2
        assert len(server.requests) == 1  # the first one was not complete


async def test_a_limit_named_in_a_refusal_applies_to_all_and_to_earlier_calls(
    store_url: str,
) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(30):
        arrivals: list[float] = []
        await asyncio.gather(*(take(one, arrivals) for _ in range(9)))
        await end_with(one, RateLimited("5 in 1 s", status=429, limit=(5, 1)))
        await until_known(one, "tokens = 5")
        later: list[float] = []
        await asyncio.gather(*(take(of, later) for of in (other, one) for _ in range(6)))
    assert later[0] - arrivals[-4] >= 1.0 - 0.01
    assert fullest(later, 1.0) <= 5


async def test_a_longer_rest_applies_to_tokens_that_were_back_before_it(store_url: str) -> None:
    async with opened(store_url) as one, within(30):
        arrivals: list[float] = []
        await asyncio.gather(*(take(one, arrivals) for _ in range(5)))
        await asyncio.sleep(PERIOD + 0.1)
        await end_with(one, RateLimited("5 in 3 s", status=429, limit=(5, 3)))
        later: list[float] = []
        await take(one, later)
    assert later[0] - arrivals[0] >= 3.0 - 0.01


async def test_too_many_refusals_shrink_the_bucket_for_all_and_it_grows_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    monkeypatch.setattr("leadpost._refusals.PATIENCE", 1)
    arrivals: list[float] = []
    async with opened(store_url) as one, opened(store_url) as other, within(30):
        refusal = RateLimited("429", status=429)
        await asyncio.gather(*(end_with(one, refusal) for _ in range(20)))
        await asyncio.gather(*(take(other, arrivals) for _ in range(40)))
    assert "bucket: 11 tokens, was 25: 20 of the last 20 calls were refused" in caplog.text
    assert "bucket: 11 tokens, was 25: as another process decided" in caplog.text
    grown = [r.message for r in caplog.records if r.message.startswith("bucket: 13 tokens, was 11")]
    assert 1 <= len(grown) <= 2  # by one of them, or by both at the same moment
    assert fullest(arrivals[:20], PERIOD) <= 13


async def test_if_two_processes_change_the_size_at_once_one_wins(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(30):
        limits = (10, 1), (100, 5)
        await asyncio.gather(
            *(
                end_with(of, RateLimited("429", status=429, limit=limit))
                for of, limit in zip((one, other), limits, strict=True)
            )
        )
        for of in (one, other):
            await take(of, [])
            await take(of, [])
        rules = [of._share.brakes.rule for of in (one, other) if of._share is not None]
        sizes = [(rule.tokens, rule.rest) for rule in rules]
    assert sizes in ([(10, 1.0)] * 2, [(25, 1.25)] * 2)


async def test_a_refusal_during_the_read_of_anothers_size_is_newer(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(30):
        await end_with(other, RateLimited("10 in 1 s", status=429, limit=(10, 1)))
        await until_known(other, "tokens = 10")
        share, write, refusals = one._share, one._database.write, [(5, 1)]
        assert share is not None

        async def refused_meanwhile(work: Any) -> Any:
            found = await write(work)
            if refusals:
                refusal = RateLimited("5 in 1 s", status=429, limit=refusals.pop())
                use = Use(sent_at=boot_time(), is_answered=True, refusal=refusal)
                share.brakes.record(use, boot_time())
            return found

        monkeypatch.setattr(one._database, "write", refused_meanwhile)
        await take(one, [])
        await until_known(one, "tokens = 5")


async def test_after_a_retry_after_one_call_of_all_processes_is_the_trial(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(30):
        await end_with(one, RateLimited("429", status=429, retry_after=0.6))
        refused = time.monotonic()
        await until_known(one, "paused_until IS NOT NULL")
        times: list[float] = []
        await asyncio.gather(*(take(of, times, 0.7) for of in (one, other) for _ in range(4)))
    assert times[0] - refused >= 0.59
    assert times[1] - times[0] >= 0.7  # the first one was answered
    assert times[-1] - times[1] < 0.7


async def test_a_trial_that_is_not_sent_is_followed_by_another(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(20):
        await end_with(one, RateLimited("429", status=429, retry_after=0.3))
        await end_with(one, NotSent("nothing to send"), sent=False)
        await until_known(one, "paused_until IS NOT NULL")
        times: list[float] = []
        await asyncio.gather(*(take(other, times, 0.5) for _ in range(3)))
    assert times[1] - times[0] >= 0.5


async def test_a_reservation_that_was_rolled_back_ends_no_trial_of_another_process(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(20):
        await end_with(one, RateLimited("429", status=429, retry_after=0.2))
        await until_known(one, "paused_until <= {now}")
        write, is_lost = one._database.write, asyncio.Event()

        async def rolled_back(work: Any) -> None:
            async def lost(connection: AsyncConnection) -> None:
                await work(connection)
                monkeypatch.setattr(one._database, "write", write)
                is_lost.set()
                raise OutboxUnavailable("the connection was lost")

            await write(lost)

        monkeypatch.setattr(one._database, "write", rolled_back)
        waiting = asyncio.create_task(take(one, []))
        await is_lost.wait()
        async with other.token() as begin:
            begin()
            await asyncio.sleep(1.5)  # `one` puts its reservation back meanwhile
            assert not waiting.done()
        await waiting


async def test_a_trial_that_ends_after_another_pause_ends_no_later_trial(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(20):
        await end_with(one, RateLimited("429", status=429, retry_after=0.2))
        async with one.token() as begin:
            begin()
            await store(other).write(_tokens.pause, 0.0)
        times: list[float] = []
        await asyncio.gather(*(take(other, times, 0.5) for _ in range(3)))
    assert times[1] - times[0] >= 0.5


async def test_a_trial_waits_for_a_resting_token(store_url: str) -> None:
    async with opened(store_url, limit=1) as one, opened(store_url, limit=1) as other, within(20):
        async with one.token() as begin:
            begin()
            await store(one).write(_tokens.pause, 0.0)
            waiting = asyncio.create_task(take(other, []))
            await asyncio.sleep(0.6)
            assert not waiting.done()
        await waiting


async def test_a_token_reserved_before_a_pause_is_put_back(store_url: str) -> None:
    async with (
        opened(store_url, limit=3, period=1.0) as one,
        opened(store_url, limit=3, period=1.0) as other,
        within(20),
    ):
        refusal = RateLimited("429", status=429, retry_after=2.0)
        refused = asyncio.create_task(end_with(other, refusal, after=0.6))
        await asyncio.sleep(0.1)
        await asyncio.gather(take(one, []), take(one, []))
        times: list[float] = []
        # It reserves the token that is back in a second, and learns of the pause before that.
        waiter = asyncio.create_task(take(one, times))
        await refused
        ended = time.monotonic()
        await waiter
    assert times[0] - ended >= 2.0 - 0.01


async def test_calls_refused_together_are_logged_once(
    shared: SharedTokenBucket, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused() -> None:
        async with shared.token() as begin:
            begin()
            await asyncio.sleep(0.1)
            raise RateLimited("429", status=429, retry_after=1.0)

    await asyncio.gather(refused(), refused(), return_exceptions=True)
    assert caplog.text.count("after a refusal (429)") == 1


async def test_a_long_retry_after_is_honoured_up_to_a_minute(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost._bucket_parts.LONGEST_RETRY_AFTER", 1.0)
    begun = time.monotonic()
    await end_with(shared, RateLimited("daily quota", status=429, retry_after=3600.0))
    arrivals: list[float] = []
    async with within(10):
        await take(shared, arrivals)
    assert 0.9 < arrivals[0] - begun < 3


async def test_a_refusal_by_leadsquared_pauses_the_poster(store_url: str) -> None:
    vendor = Vendor(answers(httpx.Response(429, headers={"Retry-After": "1"})))
    poster = AsyncActivityPoster(account(), client=vendor.client(), bucket=bucket(store_url))
    async with poster:
        begun = time.monotonic()
        assert await poster.post(activity(1)) == "r1"
    assert time.monotonic() - begun >= 1.0


@pytest.mark.parametrize("paused", [False, True])
async def test_a_clock_that_jumps_back_neither_exceeds_the_limit_nor_blocks_calls_for_long(
    store_url: str, monkeypatch: pytest.MonkeyPatch, *, paused: bool
) -> None:
    now = {dialect: words["now"] for dialect, words in _sql.WORDS.items()}

    def jump_to(seconds: float) -> None:
        for dialect, words in _sql.WORDS.items():
            monkeypatch.setitem(words, "now", f"({now[dialect]} + {seconds})")

    jump_to(3600.0)
    arrivals: list[float] = []
    async with opened(store_url) as one, opened(store_url) as other, within(30):
        if paused:
            await end_with(one, RateLimited("429", status=429, retry_after=0.1))
        for jump in (3600.0, 0.0, -3600.0):
            jump_to(jump)
            calls = (take(of, arrivals) for of in (one, other) for _ in range(25))
            await asyncio.gather(*calls)
    assert fullest(arrivals, PERIOD) <= 25
    # Not the hour of the jump: a busy machine may need a few seconds.
    assert max(after - before for before, after in pairwise(sorted(arrivals))) < 15


async def gone(*_: object, **__: object) -> None:
    raise OutboxUnavailable("the server is away")


async def test_callers_wait_for_an_unreachable_database(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await take(shared, [])
    write = shared._database.write
    monkeypatch.setattr(shared._database, "write", gone)
    waiter = asyncio.create_task(take(shared, []))
    await asyncio.sleep(1.2)
    assert not waiter.done()
    monkeypatch.setattr(shared._database, "write", write)
    async with within(10):
        await waiter
    logged = [r.message for r in caplog.records if r.name == "leadpost"]
    assert logged[0].endswith("cannot be reached: the server is away")
    assert "can be reached again, after " in logged[1]
    assert len(logged) == 2


async def test_the_end_of_a_call_is_written_when_the_database_is_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url, limit=1) as of, within(20):
        async with of.token() as begin:
            begin()
            write = of._database.write
            monkeypatch.setattr(of._database, "write", gone)
        ended = time.monotonic()
        await asyncio.sleep(1.0)
        monkeypatch.setattr(of._database, "write", write)
        await take(of, [])  # not only after 30 s, when the call must have ended
        assert PERIOD <= time.monotonic() - ended < 3.0


async def test_a_token_whose_reservation_was_not_confirmed_is_not_lost(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url, limit=1) as of, within(20):
        write = of._database.write

        async def done_and_lost(work: Any) -> None:
            monkeypatch.setattr(of._database, "write", write)
            await write(work)
            raise OutboxUnavailable("the connection was lost")

        monkeypatch.setattr(of._database, "write", done_and_lost)
        await take(of, [])


async def test_a_permanent_error_is_raised_and_the_next_caller_tries_again(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: object) -> None:
        raise OutboxError("the disk is full")

    write = shared._database.write
    monkeypatch.setattr(shared._database, "write", full)
    results = await asyncio.gather(take(shared, []), take(shared, []), return_exceptions=True)
    assert [str(result) for result in results] == ["the disk is full"] * 2
    monkeypatch.setattr(shared._database, "write", write)
    async with within(10):
        await take(shared, [])


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
    async with opened(store_url) as of:
        async with of.token() as begin:
            begin()
            monkeypatch.setattr(of._database, "write", gone)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2.0
    assert "the last tokens return late" in caplog.text


async def test_closing_does_not_wait_long_for_a_hanging_database(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(postgresql_url)
    async with engine.connect() as holder, within(30):
        async with opened(postgresql_url) as of:
            async with of.token() as begin:
                begin()
                await holder.execute(sa.text("LOCK TABLE leadpost_buckets, leadpost_tokens"))
            begun = time.monotonic()
        assert time.monotonic() - begun < 2.0
        assert "the last tokens return late" in caplog.text
        await holder.rollback()
    await engine.dispose()


async def test_a_process_frozen_in_a_transaction_does_not_stop_the_others(
    postgresql_url: str,
) -> None:
    engine = create_async_engine(postgresql_url)
    async with opened(postgresql_url) as of, engine.connect() as frozen, within(20):
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
        with pytest.raises(OutboxError, match=r"period of 0.5 s, not 1 s: give it another name"):
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
    tasks = [asyncio.create_task(take(of, [], 60)) for _ in range(30)]
    async with within(5):
        while "24 in use here" not in repr(of):
            await asyncio.sleep(0.01)
    assert repr(of).endswith("24 in use here, 6 waiting here>")
    await of.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await tasks[-1]
    await end(*tasks)


def test_a_bucket_can_be_opened_again_in_another_event_loop(store_url: str) -> None:
    of = bucket(store_url)
    vendor = Vendor()

    async def post(number: int) -> str:
        poster = AsyncActivityPoster(account(), client=vendor.client(), bucket=of)
        async with poster:
            return await poster.post(activity(number))

    assert [asyncio.run(post(number)) for number in (1, 2)] == ["r1", "r2"]


async def test_it_is_an_openable_bucket_and_shows_no_key(
    store_url: str, engine: AsyncEngine
) -> None:
    of = SharedTokenBucket(store_url)
    assert isinstance(of, Bucket)
    assert isinstance(of, OpenableBucket)
    await of.open(account())
    shown = repr(of)
    await of.aclose()
    async with engine.connect() as connection:
        names = (
            (await connection.execute(sa.text("SELECT bucket FROM leadpost_buckets")))
            .scalars()
            .all()
        )
    assert names == [account().id]
    assert names != [account(access_key="other").id]
    assert names[0] in shown
    assert not any(secret in f"{shown}{names}" for secret in (*KEYS, account().host))


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 26}, {"period": 0.0}])
def test_invalid_options_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        bucket("sqlite+aiosqlite:///x.db", **wrong)


async def test_callers_do_not_hasten_the_attempts_while_the_database_is_away(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def counted(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise OutboxUnavailable("the server is away")

    write = shared._database.write
    monkeypatch.setattr(shared._database, "write", counted)
    waiter = asyncio.create_task(take(shared, []))
    for _ in range(100):
        another = asyncio.create_task(take(shared, []))
        await asyncio.sleep(0.01)
        await end(another)
    assert 1 <= tries < 50
    monkeypatch.setattr(shared._database, "write", write)
    async with within(10):
        await waiter
