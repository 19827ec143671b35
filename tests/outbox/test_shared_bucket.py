"""The shared bucket over a real database: who has a token, and when it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise

import pytest
import sqlalchemy as sa
from raw_server import ACCEPTED, Connection, RawServer, answer
from shared_bucket_support import (
    PERIOD,
    all_tokens,
    bucket,
    calling,
    end,
    end_unsent,
    end_with,
    gone,
    in_use_tokens,
    opened,
    store,
    take,
    until_in_use,
)
from sqlalchemy import event
from support import LeadSquared, account, activity, fullest, within

from leadpost import (
    AsyncActivityPoster,
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    Priority,
    ServerError,
    TokenLost,
)
from leadpost.outbox import SharedTokenBucket, _shared_bucket
from leadpost.outbox._clock import boot_time
from leadpost.outbox.database._sql import Transaction


async def test_25_calls_are_in_flight_at_once_and_no_26th(store_url: str) -> None:
    period = 600.0  # if they were spread over it, this would take ten minutes
    async with (
        opened(store_url, period=period) as one,
        opened(store_url, period=period) as other,
        AsyncExitStack() as stack,
        within(300),
    ):
        await all_tokens(one, stack, 24)
        await all_tokens(other, stack, 1)  # the last one is left to a process without any
        waiting = [asyncio.create_task(take(of, [])) for of in (one, other)]
        await asyncio.sleep(1.0)
        assert not any(task.done() for task in waiting)
        await end(*waiting)


async def test_the_26th_call_is_sent_a_period_after_an_answer(store_url: str) -> None:
    arrivals: list[float] = []
    async with opened(store_url, period=2.0) as of, within(300):
        await asyncio.gather(*(take(of, arrivals, 0.05) for _ in range(60)))
    assert fullest(arrivals, 2.0) <= 25
    assert arrivals[25] - arrivals[0] >= 2.05


async def test_buckets_of_other_names_do_not_share_it(store_url: str) -> None:
    other = SharedTokenBucket(store_url, "other", limit=1)
    await other.open(account())
    async with opened(store_url, limit=1, period=600.0) as of, within(300):
        await asyncio.gather(take(of, []), take(other, []))
    await other.aclose()


async def test_tokens_still_rest_in_the_next_process(store_url: str) -> None:
    arrivals: list[float] = []
    for _ in range(2):
        async with opened(store_url, period=2.0) as of, within(300):
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
        tasks += [asyncio.create_task(keep_taking(few, "few")) for _ in range(5)]
        counts["many"] = 0
        await asyncio.sleep(8 * PERIOD)
        await end(*tasks)
    # In proportion to the callers it would be one in 11.
    assert counts["few"] >= sum(counts.values()) / 5


async def test_the_last_resting_token_is_left_to_processes_without_one(store_url: str) -> None:
    async with (
        opened(store_url, limit=2, period=600.0) as greedy,
        opened(store_url, limit=2, period=600.0) as modest,
        AsyncExitStack() as stack,
        within(300),
    ):
        await all_tokens(greedy, stack, 1)
        waiter = asyncio.create_task(take(greedy, []))
        await asyncio.sleep(0.6)
        assert not waiter.done()
        await take(modest, [])
        await end(waiter)


@contextmanager
def transactions() -> Generator[list[float]]:
    """Return the times at which transactions begin."""
    begun: list[float] = []

    def note(_: sa.Connection) -> None:
        begun.append(time.monotonic())

    event.listen(sa.Engine, "begin", note)
    yield begun
    event.remove(sa.Engine, "begin", note)


async def test_a_waiting_process_makes_at_most_5_transactions_a_second(store_url: str) -> None:
    async with (
        opened(store_url, limit=2, period=600.0) as of,
        opened(store_url, limit=2, period=600.0) as other,
        AsyncExitStack() as stack,
        within(300),
    ):
        await all_tokens(other, stack, 1)
        await all_tokens(of, stack, 1)
        waiter = asyncio.create_task(take(of, []))
        await asyncio.sleep(0.5)
        with transactions() as begun:
            while len(begun) < 10:
                await asyncio.sleep(0.01)
        await end(waiter)
    assert begun[9] - begun[0] >= 9 / 5


async def test_callers_that_come_and_go_cause_no_more_transactions(store_url: str) -> None:
    async with opened(store_url, limit=1, period=60.0) as of, calling(of), within(300):
        with transactions() as begun:
            while len(begun) < 6:
                waiter = asyncio.create_task(take(of, []))
                await asyncio.sleep(0.01)
                await end(waiter)
    assert begun[5] - begun[0] >= 5 / 5


async def test_a_lower_limit_is_that_of_its_process_alone(store_url: str) -> None:
    async with opened(store_url, limit=2, period=60.0):
        pass
    async with opened(store_url, period=60.0) as of, AsyncExitStack() as stack, within(50):
        await all_tokens(of, stack, 24)


async def test_a_waiting_process_looks_again_when_a_call_of_its_own_ends(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shared_bucket, "_LOOK_AGAIN", 600.0)
    async with opened(store_url, limit=1, period=0.1) as of, within(300):
        async with calling(of):
            waiter = asyncio.create_task(take(of, []))
            await asyncio.sleep(0.5)
            assert not waiter.done()
        await waiter


async def test_an_idle_bucket_makes_no_transactions(shared: SharedTokenBucket) -> None:
    await take(shared, [])
    await until_in_use(shared, 0)
    with transactions() as begun:
        await asyncio.sleep(2 * PERIOD)
        assert not begun
        await take(shared, [])
    assert begun


async def test_processes_that_reserve_at_once_never_get_the_same_token(store_url: str) -> None:
    async with AsyncExitStack() as stack, within(300):
        many = [await stack.enter_async_context(opened(store_url)) for _ in range(12)]
        arrivals: list[float] = []
        for _ in range(3):
            await asyncio.gather(*(take(of, arrivals) for of in many for _ in range(4)))
        assert len(arrivals) == 144
        assert fullest(arrivals, PERIOD) <= 25


async def test_a_token_without_a_call_remains_unused(store_url: str) -> None:
    async with opened(store_url, period=600.0) as of, within(300):
        for _ in range(15):
            await end_unsent(of)
            await end_with(of, ConnectionFailed("no route"))
        await asyncio.gather(*(take(of, []) for _ in range(24)))


@pytest.mark.parametrize(
    ("error", "call_timeout", "rest"),
    [
        (DeliveryUncertain("no answer"), 1.0, 1.0 + PERIOD),
        (ServerError("500", status=500), 600.0, PERIOD),
    ],
    ids=["unanswered", "answered"],
)
async def test_the_token_of_an_unanswered_call_rests_for_its_time_out_too(
    store_url: str, error: LeadpostError, call_timeout: float, rest: float
) -> None:
    async with opened(store_url, limit=1) as of, within(300):
        await end_with(of, error, call_timeout=call_timeout)
        ended = time.monotonic()
        arrivals: list[float] = []
        await take(of, arrivals)
    assert arrivals[0] - ended >= rest - 0.01


async def test_waiting_callers_are_served_by_priority(store_url: str) -> None:
    served: list[Priority] = []

    async def call(of: SharedTokenBucket, priority: Priority) -> None:
        async with calling(of, priority):
            served.append(priority)

    async with opened(store_url, limit=1, period=2.0) as of, within(300):
        await take(of, [])
        wanted = Priority.BATCH, Priority.SINGLE, Priority.BATCH_RETRY
        tasks = [asyncio.create_task(call(of, priority)) for priority in wanted]
        await until_in_use(of, 1)
        # The token is reserved, for whoever is first when it is back.
        tasks.append(asyncio.create_task(call(of, Priority.RETRY)))
        await asyncio.gather(*tasks)
    assert served == sorted([*wanted, Priority.RETRY])


async def test_long_batches_are_spaced_and_single_calls_go_first(store_url: str) -> None:
    async with opened(store_url, period=2.0) as of, within(300):
        times: list[float] = []
        batch = [
            asyncio.create_task(take(of, times, priority=Priority.LONG_BATCH)) for _ in range(40)
        ]
        while len(times) < 12:
            await asyncio.sleep(0.01)
        before = len(times)
        await take(of, [])
        assert len(times) - before <= 5
        await asyncio.gather(*batch)
    spaces = [after - before for before, after in pairwise(times[1:12])]
    assert sum(spaces) / len(spaces) > 2.0 / 25 / 2


async def test_a_cancelled_caller_loses_no_token(store_url: str) -> None:
    async def hold(of: SharedTokenBucket) -> None:
        async with of.token():
            await asyncio.sleep(60)

    async with opened(store_url, period=600.0) as of, within(300):
        tasks = [asyncio.create_task(hold(of)) for _ in range(40)]
        while len(await in_use_tokens(of)) < 20:
            await asyncio.sleep(0.01)
        await end(*tasks)
        await asyncio.gather(*(take(of, []) for _ in range(24)))


async def test_a_reserved_token_without_a_caller_is_put_back(store_url: str) -> None:
    def times(transaction: Transaction) -> list[float]:
        query = "SELECT back_at FROM leadpost_tokens ORDER BY number"
        return list(transaction.execute(query).scalars())

    async with (
        opened(store_url, limit=3, period=600.0) as of,
        opened(store_url, limit=3, period=600.0) as other,
        within(300),
    ):
        await asyncio.gather(take(of, []), take(of, []), take(other, []))
        await until_in_use(of, 0)
        before = await store(of).read(times)
        waiter = asyncio.create_task(take(of, []))
        await until_in_use(of, 1)
        await end(waiter)
        await until_in_use(of, 0)
        assert await store(of).read(times) == pytest.approx(before, abs=1e-3)


async def test_a_process_that_was_frozen_for_too_long_makes_no_call(store_url: str) -> None:
    taken: list[float] = []

    async def freeze(of: SharedTokenBucket, other: SharedTokenBucket) -> None:
        async with of.token(call_timeout=0.2) as begin:
            time.sleep(2.0)  # noqa: ASYNC251  # its loop does nothing
            await take(other, taken, 0.1)
            begin()

    async with (
        opened(store_url, limit=1) as frozen,
        opened(store_url, limit=1) as other,
        within(300),
    ):
        with pytest.raises(TokenLost, match="the token expired before the call was sent"):
            await freeze(frozen, other)
        await take(other, taken)  # `frozen` must not put back a token that it no longer has
    assert taken[1] - taken[0] >= 0.1 + PERIOD - 0.01


async def test_the_token_of_a_dead_process_returns_when_its_call_must_have_ended(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = bucket(store_url, limit=1)
    await dead.open(account())
    async with calling(dead, call_timeout=0.5):
        sent = time.monotonic()
        monkeypatch.setattr(dead._database, "write", gone)
    [back_at] = await in_use_tokens(dead)
    # It might have been used up to a second later.
    assert back_at - time.time() <= 1.0 + 0.5 + PERIOD + 0.01
    await dead.aclose()
    async with opened(store_url, limit=1) as other, within(300):
        await take(other, [])
    assert time.monotonic() - sent >= 0.5 + PERIOD


async def test_a_poster_does_not_send_with_a_lost_token(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leadsquared = LeadSquared()
    of = bucket(store_url)
    async with AsyncActivityPoster(account(), client=leadsquared.client(), bucket=of) as poster:
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
    assert leadsquared.numbers == [1, 2]


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
        within(300),
    ):
        assert await poster.post(activity(1)) == "r1"
        assert len(connections) == 2
        assert len(server.requests) == 1  # the first one was not complete
