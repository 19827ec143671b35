"""The bucket on a virtual clock: what it promises, for any pattern of calls."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fullest, now, run_virtual

from leadpost import OpenBucket, RateLimited, TokenBucket
from leadpost.limit import limit_in


@frozen
class Call:
    """One call: when it comes, how long it takes, where in that it arrives, how it ends."""

    at: float
    takes: float
    arrives: float  # share of `takes`
    fails: bool
    cancelled_after: float | None


CALLS = st.lists(
    st.builds(
        Call,
        at=st.floats(0, 12),
        takes=st.sampled_from([0.0, 0.04, 0.3]) | st.floats(0, 8),
        arrives=st.floats(0, 1),
        fails=st.booleans(),
        cancelled_after=st.none() | st.floats(0, 15),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(calls=CALLS, limit=st.integers(1, 5))
def test_no_call_too_many_arrives_order_is_kept_and_no_token_is_lost(
    calls: list[Call], limit: int
) -> None:
    arrivals: list[float] = []
    came: list[int] = []
    served: list[int] = []

    async def make(number: int, call: Call, bucket: TokenBucket) -> None:
        await asyncio.sleep(call.at)
        came.append(number)
        async with bucket.token():
            served.append(number)
            sent = now()
            try:
                await asyncio.sleep(call.takes)
            finally:
                # It arrived at some moment between the sending and the end, whatever the end was.
                arrivals.append(sent + (now() - sent) * call.arrives)
            if call.fails:
                raise ConnectionError

    async def main() -> None:
        bucket = TokenBucket(limit)
        tasks: list[asyncio.Task[None]] = []
        for number, call in enumerate(calls):
            tasks.append(asyncio.create_task(make(number, call, bucket)))
            if call.cancelled_after is not None:
                asyncio.get_running_loop().call_later(call.cancelled_after, tasks[-1].cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert bucket.statistics().in_use == 0
        assert bucket.statistics().waiting == 0
        await asyncio.sleep(5.001)
        assert bucket.statistics().free == limit

    run_virtual(main())
    if arrivals:
        assert fullest(arrivals) <= limit
    assert served == [number for number in came if number in served]


@settings(max_examples=100, deadline=None)
@given(takes=st.lists(st.floats(0, 1), min_size=26, max_size=80))
def test_never_idle_a_waiting_call_leaves_as_soon_as_the_first_token_is_back(
    takes: list[float],
) -> None:
    async def main() -> None:
        bucket = TokenBucket()
        sent: list[float] = []
        backs: list[float] = []

        async def make(seconds: float) -> None:
            async with bucket.token():
                sent.append(now())
                await asyncio.sleep(seconds)
            backs.append(now() + 5)

        await asyncio.gather(*map(make, takes))
        assert sent[:25] == pytest.approx([0] * 25, abs=1e-3)
        for call, left in enumerate(sent[25:]):
            assert left == pytest.approx(sorted(backs)[call], abs=1e-3)

    run_virtual(main())


@frozen
class Trip:
    """One call: when it comes, how much longer than the least its ways take, whether it fails."""

    at: float
    there: float
    back: float
    fails: bool


@settings(max_examples=200, deadline=None)
@given(
    trips=st.lists(
        st.builds(
            Trip,
            at=st.floats(0, 6),
            there=st.floats(0, 2),
            back=st.floats(0, 2),
            fails=st.booleans(),
        ),
        min_size=3,
        max_size=40,
    ),
    least=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)),
    share=st.floats(0, 1),
    limit=st.integers(1, 5),
)
def test_with_a_head_start_of_up_to_the_least_round_trip_still_no_call_too_many_arrives(
    trips: list[Trip], least: tuple[float, float], share: float, limit: int
) -> None:
    arrivals: list[float] = []

    async def make(trip: Trip, bucket: TokenBucket) -> None:
        await asyncio.sleep(trip.at)
        async with bucket.token():
            await asyncio.sleep(least[0] + trip.there)
            arrivals.append(now())
            if trip.fails:  # at the very moment of its arrival: it saves the way back
                raise ConnectionError
            await asyncio.sleep(least[1] + trip.back)

    async def main() -> None:
        bucket = TokenBucket(limit)
        for _ in range(10**4):
            bucket.round_trip(sum(least) * share)
        calls = (make(trip, bucket) for trip in trips)
        await asyncio.gather(*calls, return_exceptions=True)

    run_virtual(main())
    assert fullest(arrivals) <= limit


def test_a_head_start_lets_tokens_come_back_earlier_and_a_refusal_ends_it() -> None:
    async def call(bucket: TokenBucket, seconds: float = 0.25, refusal: str = "") -> float:
        async with bucket.token():
            left = now()
            await asyncio.sleep(seconds)
            if refusal:
                raise RateLimited(refusal, retry_after=0)
        return left

    async def main() -> None:
        bucket = TokenBucket(1)
        for _ in range(1000):
            bucket.round_trip(0.25)
        first = await call(bucket)
        second = await call(bucket)
        assert second - first == pytest.approx(5.0, abs=0.01)
        with suppress(RateLimited):
            await call(bucket, refusal="no")
        refused = now()
        assert await call(bucket) - refused == pytest.approx(5.0, abs=0.01)

    run_virtual(main())


def test_a_token_that_rests_waits_longer_when_the_least_round_trip_proves_less() -> None:
    async def main() -> None:
        bucket = TokenBucket(1)
        for _ in range(1000):
            bucket.round_trip(0.25)
        await _take(bucket)
        bucket.round_trip(0.0)
        await _take(bucket)
        assert now() == pytest.approx(5.0, abs=0.01)

    run_virtual(main())


def test_twenty_five_leave_at_once_and_the_next_5_s_after_the_first_answer() -> None:
    async def main() -> list[float]:
        bucket = TokenBucket()
        sent: list[float] = []

        async def call() -> None:
            async with bucket.token():
                sent.append(now())
                await asyncio.sleep(0.25)

        await asyncio.gather(*(call() for _ in range(26)))
        return sent

    sent = run_virtual(main())
    assert max(sent[:25]) < 0.001
    assert sent[25] == pytest.approx(5.25, abs=0.001)


def test_statistics_and_repr_tell_free_in_use_resting_and_waiting() -> None:
    async def refused(bucket: TokenBucket) -> None:
        async with bucket.token():
            raise RateLimited("no", retry_after=7)

    async def main() -> None:
        bucket = TokenBucket(2)
        assert repr(bucket) == ("<TokenBucket 2 per 5 s: 2 free, 0 in use, 0 resting, 0 waiting>")
        async with bucket.token():
            async with bucket.token():
                waiter = asyncio.create_task(_take(bucket))
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
    assert bucket.statistics().free == 2  # also where no event loop runs
    run_virtual(main())


async def _take(bucket: TokenBucket) -> None:
    async with bucket.token():
        pass


def test_a_cancelled_waiter_loses_no_token_and_holds_nobody_up() -> None:
    async def main() -> None:
        bucket = TokenBucket(1)
        await _take(bucket)
        first, second = (asyncio.create_task(_take(bucket)) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        await second
        assert now() == pytest.approx(5, abs=0.01)

    run_virtual(main())


def test_tokens_still_rest_in_the_next_event_loop() -> None:
    bucket = TokenBucket(3, period=0.3)

    async def use_all() -> None:
        await asyncio.gather(*(_take(bucket) for _ in range(3)))

    asyncio.run(use_all())
    answered = time.monotonic()
    asyncio.run(_take(bucket))
    assert time.monotonic() - answered > 0.25


def test_a_token_in_use_when_its_loop_died_rests_in_the_next_one() -> None:
    bucket = TokenBucket(2)

    async def die_holding() -> None:
        await bucket.token().__aenter__()

    with asyncio.Runner() as runner:
        runner.run(die_holding())

    async def main() -> None:
        await _take(bucket)
        assert now() < 1
        await _take(bucket)
        assert now() == pytest.approx(5, abs=0.1)
        assert bucket.statistics().in_use == 0

    run_virtual(main())


def test_calls_of_an_abandoned_loop_that_end_later_make_no_tokens() -> None:
    bucket = TokenBucket()

    async def hold() -> None:
        async with bucket.token():
            await asyncio.sleep(0.01)

    with asyncio.Runner() as abandoned:
        tasks = [abandoned.get_loop().create_task(hold()) for _ in range(5)]
        abandoned.run(asyncio.sleep(0))
        asyncio.run(_take(bucket))
        abandoned.get_loop().run_until_complete(asyncio.gather(*tasks))
    statistics = bucket.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert statistics.free + statistics.resting == 25


def test_a_caller_of_an_abandoned_loop_that_waits_still_is_told() -> None:
    bucket = TokenBucket(1, period=0.05)
    with asyncio.Runner() as abandoned:
        abandoned.run(_take(bucket))
        waiting = abandoned.get_loop().create_task(_take(bucket))
        abandoned.run(asyncio.sleep(0))
        asyncio.run(_take(bucket))
        with pytest.raises(RuntimeError, match="went on to another event loop"):
            abandoned.get_loop().run_until_complete(waiting)
    assert bucket.statistics().waiting == 0
    asyncio.run(_take(bucket))


async def test_one_bucket_in_two_running_loops_is_refused() -> None:
    bucket = TokenBucket()
    await _take(bucket)
    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, _take(bucket))


@pytest.mark.parametrize(("retry_after", "pause"), [(None, 5.0), (12.0, 12.0), (0.5, 0.5)])
def test_a_refusal_stops_every_caller_for_retry_after_or_the_period(
    retry_after: float | None, pause: float
) -> None:
    async def main() -> None:
        bucket = TokenBucket()
        with pytest.raises(RateLimited):
            async with bucket.token():
                raise RateLimited("no", retry_after=retry_after)
        left: list[float] = []

        async def call() -> None:
            async with bucket.token():
                left.append(now())

        await asyncio.gather(*(call() for _ in range(24)))
        # Nobody knows what was left of the limit, so the half of it is tried at first.
        assert left[:11] == pytest.approx([pause] * 11, abs=0.01)
        assert left[-1] == pytest.approx(pause + 5, abs=0.01)

    run_virtual(main())


def test_a_refusal_while_callers_wait_stops_those_too() -> None:
    async def main() -> None:
        bucket = TokenBucket(2)
        await _take(bucket)
        sent: list[float] = []

        async def call() -> None:
            async with bucket.token():
                sent.append(now())

        async def refused() -> None:
            async with bucket.token():
                await asyncio.sleep(1)
                raise RateLimited("no", retry_after=9)

        await asyncio.gather(refused(), call(), return_exceptions=True)
        assert sent == pytest.approx([10.0], abs=0.01)

    run_virtual(main())


def test_a_pause_past_five_minutes_is_told_at_once() -> None:
    async def main() -> None:
        bucket = TokenBucket()
        with pytest.raises(RateLimited):
            async with bucket.token():
                raise RateLimited("no", retry_after=40_000)
        with pytest.raises(RateLimited, match="nothing was sent") as caught:
            await _take(bucket)
        assert caught.value.retry_after == pytest.approx(40_000, abs=1)
        assert now() < 1
        await asyncio.sleep(40_000)
        await _take(bucket)

    run_virtual(main())


def test_a_lower_limit_named_in_a_refusal_shrinks_the_bucket_for_good_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrivals: list[float] = []

    async def refused(bucket: TokenBucket, limit: tuple[int, int]) -> None:
        with suppress(RateLimited):
            async with bucket.token():
                await asyncio.sleep(0.1)
                raise RateLimited("no", limit=limit)

    async def main() -> None:
        bucket = TokenBucket()
        await asyncio.gather(*(refused(bucket, (10, 5)) for _ in range(25)))
        assert bucket.statistics().limit == 10
        await refused(bucket, (25, 5))
        await refused(bucket, (100, 5))
        assert bucket.statistics().limit < 10
        await asyncio.sleep(20)

        async def call() -> None:
            async with bucket.token():
                arrivals.append(now())

        await asyncio.gather(*(call() for _ in range(60)))
        assert bucket.statistics().in_use + bucket.statistics().resting <= 10

    with caplog.at_level(logging.WARNING, "leadpost"):
        run_virtual(main())
    assert fullest(arrivals) == 10
    shrinks = [record for record in caplog.records if "shrinks" in record.message]
    assert len(shrinks) == 1
    assert shrinks[0].message == (
        "the vendor's limit for this account is 10 calls in 5 s:"
        " the bucket shrinks from 25 to 10 tokens per 5 s"
    )


def test_calls_made_before_the_lower_limit_was_learned_count_against_it() -> None:
    async def main() -> None:
        bucket = TokenBucket()
        arrivals: list[float] = []

        async def call(refusal: RateLimited | None = None) -> None:
            async with bucket.token():
                arrivals.append(now())
                if refusal is not None:
                    raise refusal

        await asyncio.gather(*(call() for _ in range(9)))
        with suppress(RateLimited):
            await call(RateLimited("no", limit=(10, 5), retry_after=1))
        await asyncio.gather(*(call() for _ in range(30)))
        assert fullest(arrivals) == 10

    run_virtual(main())


@given(calls=st.integers(1, 10**6), seconds=st.integers(1, 10**6))
def test_a_limit_in_other_seconds_is_kept_by_the_tokens_it_gives(calls: int, seconds: int) -> None:
    tokens = limit_in(5, calls, seconds)
    spans = -(-seconds // 5)
    assert tokens * spans <= calls
    assert (tokens + 1) * spans > calls


def test_a_daily_quota_does_not_shrink_the_bucket() -> None:
    assert limit_in(5, 5000, 86400) == 0
    assert limit_in(5, 10, 5) == 10
    assert limit_in(5, 2, 1) == 2


@pytest.mark.parametrize("limit", [0, 26, -1])
def test_no_limit_but_1_to_25(limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit: found {limit}, wanted 1 to 25"):
        TokenBucket(limit)


@pytest.mark.parametrize("period", [0, -5, float("inf"), float("nan")])
def test_no_period_but_a_positive_number(period: float) -> None:
    with pytest.raises(ValueError, match="period: found"):
        TokenBucket(period=period)


async def test_an_open_bucket_lets_all_through_at_once() -> None:
    bucket = OpenBucket()
    for _ in range(1000):
        async with bucket.token():
            pass
    assert repr(bucket) == "<OpenBucket>"
