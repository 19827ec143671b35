"""The bucket on a virtual clock: what it promises, for any pattern of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from support import account, fullest, now, run_virtual, virtual

from leadpost import (
    AsyncActivityPoster,
    ConfigurationError,
    ConnectionFailed,
    DeliveryUncertain,
    OpenBucket,
    Priority,
    RateLimited,
    ServerError,
    TokenBucket,
)
from leadpost.outbox import SharedTokenBucket

CALL_TIMEOUT = 8.0


@frozen
class Call:
    """
    One call.

    Attributes:
        at: When it comes, seconds.
        takes: Seconds from its sending to its end.
        arrives: When it arrives, as a share of the time in which it can.
        end: How it ends.
        cancelled_after: Seconds after which its task is cancelled, as at a shutdown.
    """

    at: float
    takes: float
    arrives: float
    end: Literal["answered", "server error", "no answer", "not sent", "no connection"]
    priority: Priority
    cancelled_after: float | None


CALLS = st.lists(
    st.builds(
        Call,
        at=st.floats(0, 12),
        takes=st.sampled_from([0.0, 0.04, 0.3]) | st.floats(0, CALL_TIMEOUT),
        arrives=st.floats(0, 1),
        end=st.sampled_from(
            ["answered"] * 3 + ["server error", "no answer", "not sent"] + ["no connection"]
        ),
        priority=st.sampled_from(Priority),
        cancelled_after=st.none() | st.floats(0, 25),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(calls=CALLS, limit=st.integers(1, 5))
@virtual
async def test_the_limit_is_never_exceeded_and_no_token_is_lost(
    calls: list[Call], limit: int
) -> None:
    arrivals: list[float] = []

    async def make(call: Call, bucket: TokenBucket) -> None:
        await asyncio.sleep(call.at)
        async with bucket.token(call.priority, CALL_TIMEOUT) as begin:
            if call.end == "not sent":
                await asyncio.sleep(call.takes)
                return
            begin()
            if call.end == "no connection":
                raise ConnectionFailed("refused")
            sent = now()
            is_answered = False
            try:
                await asyncio.sleep(call.takes)
                is_answered = call.end != "no answer"
                if call.end == "server error":
                    raise ServerError("500", status=500)
                if call.end == "no answer":
                    raise DeliveryUncertain("lost")
            finally:
                # Before its answer, or without one within the time-out after its end.
                latest = now() if is_answered else now() + CALL_TIMEOUT
                arrivals.append(sent + (latest - sent) * call.arrives)

    bucket = TokenBucket(limit)
    tasks: list[asyncio.Task[None]] = []
    for call in calls:
        tasks.append(asyncio.create_task(make(call, bucket)))
        if call.cancelled_after is not None:
            asyncio.get_running_loop().call_later(call.cancelled_after, tasks[-1].cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert bucket.statistics().in_use == 0
    assert bucket.statistics().waiting == 0
    await asyncio.sleep(CALL_TIMEOUT + 5.001)
    assert bucket.statistics().free == limit
    if arrivals:
        assert fullest(arrivals) <= limit


@settings(max_examples=100)
@given(
    priorities=st.lists(st.sampled_from([*Priority][:4]), min_size=2, max_size=30),
    given_up=st.sets(st.integers(0, 29)),
)
@virtual
async def test_callers_are_served_by_priority_then_in_order_of_arrival(
    priorities: list[Priority], given_up: set[int]
) -> None:
    served: list[int] = []

    async def call(number: int, priority: Priority, bucket: TokenBucket) -> None:
        async with bucket.token(priority, CALL_TIMEOUT) as begin:
            begin()
            served.append(number)

    bucket = TokenBucket(1)
    await take(bucket)
    tasks = [
        asyncio.create_task(call(number, priority, bucket))
        for number, priority in enumerate(priorities)
    ]
    await asyncio.sleep(1)
    for number in given_up:
        if number < len(tasks):
            tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    left = [n for n in range(len(priorities)) if n not in given_up]
    assert served == sorted(left, key=lambda number: (priorities[number], number))


async def take(bucket: TokenBucket, *, sent: bool = True) -> None:
    async with bucket.token() as begin:
        if sent:
            begin()


@settings(max_examples=100)
@given(takes=st.lists(st.floats(0, 1), min_size=26, max_size=80))
@virtual
async def test_a_waiting_call_is_sent_as_soon_as_a_token_is_back(
    takes: list[float],
) -> None:
    bucket = TokenBucket()
    sent: list[float] = []
    backs: list[float] = []

    async def make(seconds: float) -> None:
        async with bucket.token() as begin:
            begin()
            sent.append(now())
            await asyncio.sleep(seconds)
        backs.append(now() + 5)

    await asyncio.gather(*map(make, takes))
    assert sent[:25] == pytest.approx([0] * 25, abs=1e-3)
    for call, left in enumerate(sent[25:]):
        assert left == pytest.approx(sorted(backs)[call], abs=1e-3)


@pytest.mark.parametrize(
    ("error", "rests"),
    [
        (None, 5),
        (ServerError("500", status=500), 5),
        (RateLimited("429"), 5),
        (DeliveryUncertain("502", status=502), 5),
        (DeliveryUncertain("no answer"), 5 + CALL_TIMEOUT),
        (ConnectionFailed("no answer to a query", sent=True), 5 + CALL_TIMEOUT),
        (OSError("of somebody's transport"), 5 + CALL_TIMEOUT),
        (asyncio.CancelledError(), 5 + CALL_TIMEOUT),
        (ConnectionFailed("refused"), 0),
    ],
)
@virtual
async def test_a_token_rests_from_the_answer_or_longer_if_none_came(
    error: BaseException | None, rests: float
) -> None:
    bucket = TokenBucket(1)
    with suppress(BaseException):
        async with bucket.token(Priority.SINGLE, CALL_TIMEOUT) as begin:
            begin()
            await asyncio.sleep(2)
            if error is not None:
                raise error
    await take(bucket)
    assert now() == pytest.approx(2 + rests, abs=0.01)


@virtual
async def test_a_call_that_was_never_sent_leaves_its_token_unused() -> None:
    bucket = TokenBucket(1)
    await take(bucket)
    await asyncio.sleep(3)
    waiting = asyncio.create_task(take(bucket, sent=False))
    await waiting
    assert now() == pytest.approx(5, abs=0.01)
    await take(bucket)
    assert now() == pytest.approx(5, abs=0.01)
    await take(bucket)
    assert now() == pytest.approx(10, abs=0.01)


@virtual
async def test_only_long_batches_are_spaced_evenly() -> None:
    bucket = TokenBucket()
    sent: dict[Priority, list[float]] = {priority: [] for priority in Priority}

    async def call(priority: Priority) -> None:
        async with bucket.token(priority, CALL_TIMEOUT) as begin:
            begin()
            sent[priority].append(now())

    await asyncio.gather(*(call(Priority.LONG_BATCH) for _ in range(10)))
    evenly = [0.2 * number for number in range(10)]
    assert sent[Priority.LONG_BATCH] == pytest.approx(evenly, abs=0.01)
    begun = now()
    await asyncio.gather(*(call(Priority.BATCH) for _ in range(15)))
    assert now() == pytest.approx(begun, abs=0.01)


def test_statistics_and_repr_show_free_in_use_resting_and_waiting() -> None:
    async def refused(bucket: TokenBucket) -> None:
        async with bucket.token() as begin:
            begin()
            raise RateLimited("no", retry_after=7)

    async def main() -> None:
        bucket = TokenBucket(2)
        assert repr(bucket) == ("<TokenBucket 2 per 5 s: 2 free, 0 in use, 0 resting, 0 waiting>")
        async with bucket.token() as first:
            first()
            async with bucket.token() as second:
                second()
                waiter = asyncio.create_task(take(bucket))
                await asyncio.sleep(0.1)
                assert repr(bucket) == (
                    "<TokenBucket 2 per 5 s: 0 free, 2 in use, 0 resting, 1 waiting>"
                )
            await asyncio.sleep(0.1)
            statistics = bucket.statistics()
            assert (statistics.in_use, statistics.resting, statistics.waiting) == (1, 1, 1)
        await waiter
        with pytest.raises(RateLimited):
            await refused(bucket)
        assert repr(bucket).endswith("0 waiting, paused for 7.0 s>")
        assert bucket.statistics().free == 0

    bucket = TokenBucket(2)
    assert bucket.statistics().free == 2  # also without a running event loop
    run_virtual(main())


@pytest.mark.parametrize("limit", [0, 26, -1])
def test_a_limit_outside_1_to_25_raises(limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit: found {limit}, wanted 1 to 25"):
        TokenBucket(limit)


@pytest.mark.parametrize("period", [0, -5, float("inf"), float("nan")])
def test_a_period_that_is_not_positive_raises(period: float) -> None:
    with pytest.raises(ValueError, match="period: found"):
        TokenBucket(period=period)


@pytest.mark.parametrize(
    ("limit", "period", "most"),
    [(25, 1.0, 125), (6, 1.0, 30), (25, 4.9, 50), (5, 1.0, 25), (12, 2.5, 24), (25, 60.0, 25)],
)
@pytest.mark.parametrize("kind", [TokenBucket, partial(SharedTokenBucket, "sqlite:///unused.db")])
def test_only_a_host_on_this_machine_may_get_more_than_25_calls_in_5_s(
    kind: Callable[..., TokenBucket | SharedTokenBucket], limit: int, period: float, most: int
) -> None:
    bucket = kind(limit=limit, period=period)
    AsyncActivityPoster(account(), bucket=bucket)
    if most > 25:
        with pytest.raises(ConfigurationError, match=rf"allows {most} calls in 5 s, Lead"):
            AsyncActivityPoster(account(host="leadsquared.example"), bucket=bucket)
    else:
        AsyncActivityPoster(account(host="leadsquared.example"), bucket=bucket)


async def test_an_open_bucket_lets_all_through_at_once() -> None:
    bucket = OpenBucket()
    for _ in range(1000):
        async with bucket.token(Priority.BATCH, CALL_TIMEOUT) as begin:
            begin()
    assert repr(bucket) == "<OpenBucket>"
