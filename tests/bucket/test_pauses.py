"""What the bucket does after refusals: pauses, trials, named limits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from support import fullest, now, virtual

from leadpost import RateLimited, TokenBucket


def refusal(retry_after: float) -> RateLimited:
    return RateLimited("no", retry_after=retry_after)


async def use(
    bucket: TokenBucket, seconds: float = 0.0, error: Exception | None = None, *, sent: bool = True
) -> float:
    """Make a call that takes so long; return when it left."""
    left = -1.0
    with suppress(RateLimited):
        async with bucket.token() as begin:
            if sent:
                begin()
            left = now()
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
    return left


@pytest.mark.parametrize(("retry_after", "pause"), [(12.0, 12.0), (0.5, 0.5), (40_000, 60.0)])
@virtual
async def test_a_retry_after_pauses_every_caller_for_at_most_60_s_then_one_call_is_tried(
    retry_after: float, pause: float
) -> None:
    bucket = TokenBucket()
    await use(bucket, 0, refusal(retry_after))
    first, *others = await asyncio.gather(*(use(bucket, 2) for _ in range(24)))
    assert first == pytest.approx(pause, abs=0.01)
    assert others == pytest.approx([pause + 2] * 23, abs=0.01)


@virtual
async def test_a_refused_trial_is_followed_by_a_pause_and_an_unsent_one_by_another() -> None:
    bucket = TokenBucket()
    first = await use(bucket, 1, refusal(10))
    others = await asyncio.gather(
        use(bucket, 1, refusal(10)),
        use(bucket, 1, sent=False),
        use(bucket, 1),
        use(bucket, 1),
    )
    assert [first, *others] == pytest.approx([0, 11, 22, 23, 24], abs=0.01)


@virtual
async def test_a_refusal_pauses_callers_that_already_wait() -> None:
    bucket = TokenBucket(2)
    await use(bucket)
    _, left = await asyncio.gather(use(bucket, 1, refusal(9)), use(bucket))
    assert left == pytest.approx(10.0, abs=0.01)


@virtual
async def test_the_answer_to_an_earlier_trial_does_not_end_a_later_pause() -> None:
    bucket = TokenBucket()
    slow = asyncio.create_task(use(bucket, 12, refusal(10)))  # a pause until 22
    await asyncio.sleep(0)
    await use(bucket, 1, refusal(9))  # a pause until 10
    trial = asyncio.create_task(use(bucket, 4))  # leaves at 10, is answered at 14
    await asyncio.gather(slow, trial)
    left = await asyncio.gather(*(use(bucket, 3) for _ in range(10)))
    assert [round(time, 3) for time in sorted(left)] == [22, *[25] * 9]


@virtual
async def test_tokens_that_no_call_has_used_do_not_rest_in_a_pause() -> None:
    bucket = TokenBucket()
    await use(bucket, 0, refusal(30))
    at_once = bucket.statistics()
    assert (at_once.free, at_once.resting) == (0, 1)
    await asyncio.sleep(6)
    later = bucket.statistics()
    assert (later.free, later.resting, round(later.paused_for)) == (0, 0, 24)


@virtual
async def test_a_named_limit_applies_at_once_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "leadpost")
    bucket = TokenBucket()
    named = RateLimited("no", limit=(10, 5))
    await asyncio.gather(use(bucket), *(use(bucket, 0.1, named) for _ in range(24)))
    assert bucket.statistics().limit == 10
    assert fullest(await asyncio.gather(*(use(bucket) for _ in range(60)))) == 10
    resized = [record.message for record in caplog.records if "tokens" in record.message]
    assert len(resized) == 1
    assert "10 tokens, was 25" in resized[0]


@virtual
async def test_calls_made_before_the_limit_was_learned_count_against_it() -> None:
    bucket = TokenBucket()
    earlier = await asyncio.gather(*(use(bucket) for _ in range(9)))
    last = await use(bucket, 0, RateLimited("no", limit=(10, 5)))
    later = await asyncio.gather(*(use(bucket) for _ in range(30)))
    assert fullest([*earlier, last, *later]) == 10
