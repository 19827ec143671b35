"""A bucket and its tokens in one event loop after the other."""

from __future__ import annotations

import asyncio
import time

import pytest
from support import now, run_virtual

from leadpost import Priority, TokenBucket

CALL_TIMEOUT = 8.0


async def take(bucket: TokenBucket) -> None:
    async with bucket.token() as begin:
        begin()


def test_tokens_still_rest_in_the_next_event_loop() -> None:
    bucket = TokenBucket(3, period=0.3)

    async def use_all() -> None:
        await asyncio.gather(*(take(bucket) for _ in range(3)))

    asyncio.run(use_all())
    answered = time.monotonic()
    asyncio.run(take(bucket))
    assert time.monotonic() - answered > 0.25


def test_a_token_in_use_when_its_loop_died_rests_in_the_next_one() -> None:
    bucket = TokenBucket(1)

    async def die_holding() -> None:
        (await bucket.token(Priority.SINGLE, CALL_TIMEOUT).__aenter__())()

    with asyncio.Runner() as runner:
        runner.run(die_holding())

    async def main() -> None:
        await take(bucket)
        assert now() == pytest.approx(5 + CALL_TIMEOUT, abs=0.1)
        assert bucket.statistics().in_use == 0

    run_virtual(main())


def test_calls_of_an_abandoned_loop_that_end_later_make_no_tokens() -> None:
    bucket = TokenBucket()

    async def hold() -> None:
        async with bucket.token() as begin:
            begin()
            await asyncio.sleep(0.01)

    with asyncio.Runner() as abandoned:
        tasks = [abandoned.get_loop().create_task(hold()) for _ in range(5)]
        abandoned.run(asyncio.sleep(0))
        asyncio.run(take(bucket))
        abandoned.get_loop().run_until_complete(asyncio.gather(*tasks))
    statistics = bucket.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert statistics.free + statistics.resting == 25


def test_a_caller_that_still_waits_in_an_abandoned_loop_raises() -> None:
    bucket = TokenBucket(1, period=0.05)
    with asyncio.Runner() as abandoned:
        abandoned.run(take(bucket))
        waiting = abandoned.get_loop().create_task(take(bucket))
        abandoned.run(asyncio.sleep(0))
        asyncio.run(take(bucket))
        with pytest.raises(RuntimeError, match="has moved to another event loop"):
            abandoned.get_loop().run_until_complete(waiting)
    assert bucket.statistics().waiting == 0
    asyncio.run(take(bucket))


async def test_one_bucket_in_two_running_loops_raises() -> None:
    bucket = TokenBucket()
    await take(bucket)
    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, take(bucket))
