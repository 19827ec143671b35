"""Closing a poster, and calls that it or their caller cuts off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from batch_support import numbered, poster_to
from call_support import ended, time_out
from support import LeadSquared, activity, answers, now, run_virtual, virtual

from leadpost import (
    Activity,
    BatchError,
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    RetryPolicy,
    ServerError,
    TokenBucket,
    Unauthorized,
)
from leadpost._attempts import Terms
from leadpost._poster import post_once
from leadpost.hooks import Event

pytestmark = pytest.mark.usefixtures("nothing_unhandled")


@virtual
async def test_closing_waits_for_calls_in_flight() -> None:
    poster = poster_to(LeadSquared(there=2.0, back=2.0))
    post = asyncio.create_task(poster.post(activity(1)))
    await asyncio.sleep(1)
    await poster.aclose()
    assert now() == pytest.approx(4.0)
    assert await post == "r1"


@pytest.mark.parametrize(("options", "grace"), [({"grace": 3.0}, 3.0), ({}, 8.0)])
@virtual
async def test_a_call_that_outlasts_the_grace_is_uncertain_and_its_token_rests_longer(
    options: dict[str, float], grace: float
) -> None:
    leadsquared, bucket = LeadSquared(there=1.0, back=20.0), TokenBucket(1)
    poster = poster_to(leadsquared, bucket=bucket)
    post = asyncio.create_task(poster.post(activity(1)))
    await asyncio.sleep(1)
    await poster.aclose(**options)
    assert now() == pytest.approx(1.0 + grace)
    with pytest.raises(DeliveryUncertain, match="cut off before its answer") as caught:
        await post
    assert caught.value.attempts == 1
    quick = LeadSquared()
    async with poster_to(quick, bucket=bucket) as other:
        await other.post(activity(2))
    assert quick.arrivals == pytest.approx([1.0 + grace + 30.0 + 5.0])


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (503, ServerError), (200, DeliveryUncertain)]
)
@virtual
async def test_a_status_decides_even_if_its_body_is_cut_off_by_the_closing(
    status: int, error: type[LeadpostError]
) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(1000)

    leadsquared = LeadSquared(answers(httpx.Response(status, content=stalled())))
    bucket = TokenBucket(1)
    poster = poster_to(leadsquared, bucket=bucket)
    post = asyncio.create_task(poster.post(activity(1)))
    await asyncio.sleep(1)
    await poster.aclose(grace=2.0)
    with pytest.raises(error) as caught:
        await post
    assert (caught.value.status, caught.value.attempts) == (status, 1)
    assert now() == pytest.approx(3.0)
    async with poster_to(LeadSquared(), bucket=bucket) as other:
        await other.post(activity(2))
    assert now() == pytest.approx(3.0 + 5.0)  # it was answered, so it had arrived


@virtual
async def test_closing_ends_a_post_that_waits_for_its_token_as_not_sent() -> None:
    leadsquared = LeadSquared(back=2.0)
    poster = poster_to(leadsquared, bucket=TokenBucket(1))
    first = asyncio.create_task(poster.post(activity(1)))
    second = asyncio.create_task(poster.post(activity(2)))
    await asyncio.sleep(1)
    await poster.aclose()
    assert await first == "r1"
    with pytest.raises(NotSent, match="the poster was closed before anything was sent"):
        await second
    assert leadsquared.numbers == [1]


@virtual
async def test_closing_ends_a_post_that_waits_to_be_retried_with_its_last_error() -> None:
    leadsquared = LeadSquared(answers(httpx.Response(500)))
    poster = poster_to(leadsquared, retry=RetryPolicy(initial_wait=10, jitter=0))
    post = asyncio.create_task(poster.post(activity(1)))
    await asyncio.sleep(1)
    await poster.aclose()
    with pytest.raises(ServerError):
        await post
    assert now() == pytest.approx(1)
    assert leadsquared.numbers == [1]


@virtual
async def test_a_batch_sends_nothing_more_once_its_poster_is_closing() -> None:
    leadsquared = LeadSquared(there=1.0, back=1.0)
    poster = poster_to(leadsquared)
    batch = asyncio.create_task(poster.post_many(numbered(100)))
    await asyncio.sleep(8)
    await poster.aclose()
    with pytest.raises(BatchError) as caught:
        await batch
    states = [outcome.state for outcome in caught.value.outcomes]
    assert states[:50] == ["accepted"] * 50
    assert set(states[50:]) == {"not_sent"}
    assert leadsquared.numbers == list(range(1, 51))


@virtual
async def test_closing_that_is_cancelled_cuts_off_the_calls_in_flight() -> None:
    leadsquared, bucket = LeadSquared(back=20.0), TokenBucket(2)
    poster = poster_to(leadsquared, bucket=bucket)
    posts = [asyncio.create_task(poster.post(activity(n))) for n in (1, 2, 3)]
    await asyncio.sleep(1)
    await time_out(poster.aclose(), 1.0)
    assert now() == pytest.approx(2.0)
    ends = await asyncio.gather(*posts, return_exceptions=True)
    assert [type(end) for end in ends] == [DeliveryUncertain, DeliveryUncertain, NotSent]
    assert bucket.statistics().in_use == 0
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(("calls", "next_at"), [(25, 30.0 + 5.0), (24, 0.0)])
def test_only_tokens_of_calls_that_the_end_of_a_run_cut_off_rest_in_the_next_run(
    calls: int, next_at: float
) -> None:
    leadsquared, bucket = LeadSquared(back=20.0), TokenBucket()
    poster = poster_to(leadsquared, bucket=bucket)

    async def cut_off() -> None:
        for number in range(calls):
            asyncio.create_task(poster.post(activity(number + 1)))  # noqa: RUF006  the point
        await asyncio.sleep(1)

    async def next_run() -> None:
        leadsquared.back = 0.0
        await poster.post(activity(26))
        assert now() == pytest.approx(next_at, abs=0.01)

    run_virtual(cut_off())  # both clocks start at 0
    assert len(leadsquared.arrivals) == calls
    run_virtual(next_run())


async def draw_one() -> Activity:
    return activity(1)


@virtual
async def test_a_call_that_is_cut_off_in_flight_is_uncertain_and_leaves_nothing_behind() -> None:
    events: list[Event] = []
    leadsquared, bucket = LeadSquared(there=1.0), TokenBucket(1)
    async with poster_to(leadsquared, bucket=bucket, hooks=[events.append]) as poster:
        cut_off = asyncio.get_running_loop().create_future()
        post = asyncio.create_task(post_once(poster, draw_one, Terms(cut_off=cut_off)))
        await asyncio.sleep(0.5)
        cut_off.set_result(None)
        with pytest.raises(DeliveryUncertain, match="cut off before its answer"):
            await post
        assert now() == pytest.approx(0.5)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await poster.post(activity(2))
    # The token rests for the call's time-out and the period, from when it was cut off.
    assert leadsquared.arrivals == pytest.approx([0.5 + 30 + 5 + 1.0])
    assert [end.state for end in ended(events)] == ["uncertain", "accepted"]


@pytest.mark.parametrize("before", [True, False])
@virtual
async def test_a_call_cut_off_before_its_request_is_sent_sends_nothing(before: Any) -> None:
    leadsquared, bucket = LeadSquared(), TokenBucket(1)
    async with poster_to(leadsquared, bucket=bucket) as poster:
        await poster.post(activity(2))
        cut_off = asyncio.get_running_loop().create_future()
        terms = Terms(stopped=cut_off, cut_off=cut_off)
        if before:
            cut_off.set_result(None)
        post = asyncio.create_task(post_once(poster, draw_one, terms))
        await asyncio.sleep(1.0)
        if not before:
            cut_off.set_result(None)
        with pytest.raises(NotSent, match="stopped before anything was sent"):
            await post
        assert now() == pytest.approx(1.0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await poster.post(activity(3))
    assert leadsquared.numbers == [2, 3]
    assert leadsquared.arrivals[1] == pytest.approx(5.0)  # the token was as it had been


@virtual
async def test_a_query_that_is_cut_off_has_changed_nothing() -> None:
    events: list[Event] = []
    bucket = TokenBucket(1)
    async with poster_to(LeadSquared(there=100.0), bucket=bucket, hooks=[events.append]) as poster:
        metrics = asyncio.create_task(poster.metrics())
        await asyncio.sleep(0.5)
        await poster.aclose()
        assert now() == pytest.approx(0.5)  # a query changes nothing
        with pytest.raises(ConnectionFailed, match="cut off before its answer") as caught:
            await metrics
        assert caught.value.sent
        assert (bucket.statistics().in_use, bucket.statistics().resting) == (0, 1)
    assert [end.state for end in ended(events)] == ["failed"]
