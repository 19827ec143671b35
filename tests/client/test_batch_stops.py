"""Batches that are stopped: by rejected keys, a spent quota, or a call of stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
from batch_support import numbered, poster_to, refuse
from support import LeadSquared, VirtualLoop, accept, activity, answers, now, number_in, virtual

from leadpost import (
    Activity,
    BatchError,
    NotFound,
    NotSent,
    OpenBucket,
    RateLimited,
    RetryPolicy,
    ServerError,
    TokenBucket,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("stopping", "kind"),
    [
        (httpx.Response(401), Unauthorized),
        (httpx.Response(403, json={"message": "Forbidden"}), Unauthorized),
        (httpx.Response(404), NotFound),
        (httpx.Response(302, headers={"Location": "/login"}), NotFound),
    ],
)
@virtual
async def test_rejected_keys_or_a_wrong_url_stop_the_batch_at_once(
    stopping: httpx.Response, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    leadsquared = LeadSquared(refuse(30, with_=stopping), there=0.1)
    async with poster_to(leadsquared) as poster:
        with pytest.raises(BatchError) as caught:
            await poster.post_many(numbered(1000))
    outcomes = caught.value.outcomes
    assert len(outcomes) == 1000
    assert type(outcomes[29].error) is kind
    assert len(leadsquared.requests) <= 50
    accepted = [o for o in outcomes if o.state == "accepted"]
    assert len(accepted) == len(leadsquared.requests) - 1
    assert {type(o.error) for o in outcomes[60:]} == {NotSent}
    assert now() < 11
    assert f"the batch stops sending: {kind.__name__}" in caplog.text


@virtual
async def test_a_spent_daily_quota_stops_the_batch_when_the_time_of_the_first_call_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    spent = httpx.Response(429, headers={"Retry-After": "86400"})

    async def answer(request: httpx.Request) -> httpx.Response:
        return spent if len(leadsquared.requests) > 100 else await accept(request)

    leadsquared = LeadSquared(answer, there=0.1)
    async with poster_to(leadsquared) as poster:
        with pytest.raises(BatchError) as caught:
            await poster.post_many(numbered(500))
    outcomes = caught.value.outcomes
    assert len(outcomes) == 500
    assert [o.state for o in outcomes[:100]] == ["accepted"] * 100
    assert {type(o.error) for o in outcomes[100:150]} <= {RateLimited, NotSent}
    assert {type(o.error) for o in outcomes[150:]} == {NotSent}
    # 25 were refused at once, and one trial a minute after that.
    assert len(leadsquared.requests) <= 100 + 25 + 6
    assert now() < 330
    assert "the batch stops sending: RateLimited" in caplog.text


@virtual
async def test_a_retry_waiting_when_the_batch_stops_ends_with_its_own_error() -> None:
    script = answers(httpx.Response(500), httpx.Response(401))
    leadsquared = LeadSquared(script)
    async with poster_to(leadsquared) as poster:
        outcomes = [o async for o in poster.post_stream(numbered(30))]
    errors = {o.index: type(o.error) for o in outcomes if o.error}
    assert errors[0] is ServerError
    assert errors[1] is Unauthorized


@virtual
async def test_stop_ends_drawing_and_waiting_but_not_calls_in_flight() -> None:
    leadsquared = LeadSquared(refuse(1, with_=httpx.Response(500)), there=1.0)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, stop.set)
    async with poster_to(leadsquared) as poster:
        outcomes = [o async for o in poster.post_stream(numbered(500), stop=stop)]
    assert now() < 2
    states = [o.state for o in sorted(outcomes, key=lambda o: o.index)]
    # 25 were in flight (one of them failed and is not retried), one waited for its token.
    assert states == ["failed", *["accepted"] * 24, "not_sent"]
    assert {str(o.error) for o in outcomes if o.state == "not_sent"} == {
        "stopped before anything was sent"
    }
    assert len(leadsquared.requests) == 25


@virtual
async def test_a_stop_in_the_same_loop_iteration_as_a_time_out_ends_all_waits() -> None:
    stop = asyncio.Event()
    bucket = TokenBucket(3)
    # Three fail at once; their retries wait for tokens until their time is over, at 2 s.
    leadsquared = LeadSquared(answers(*[httpx.Response(500)] * 3))
    policy = RetryPolicy(max_time=2, jitter=0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    def block() -> None:
        # Their time is over in the iteration in which the stop is set, just after it.
        loop.call_soon(stop.set)
        loop.jump(0.1)

    loop.call_at(1.95, block)
    async with poster_to(leadsquared, bucket=bucket, retry=policy) as poster:
        outcomes = [o async for o in poster.post_stream(numbered(50), stop=stop)]
    assert sorted(o.state for o in outcomes) == ["failed"] * 3 + ["not_sent"]


@virtual
async def test_stop_ends_the_wait_for_the_next_activity_of_a_source() -> None:
    async def source() -> AsyncIterator[Activity]:
        yield activity(1)
        await asyncio.Event().wait()

    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(3, stop.set)
    async with poster_to(LeadSquared()) as poster:
        outcomes = [o async for o in poster.post_stream(source(), stop=stop)]
    assert [o.request_id for o in outcomes] == ["r1"]


@virtual
async def test_a_source_that_ignores_the_cancellation_of_a_stop_is_drawn_from_once_more() -> None:
    async def source() -> AsyncIterator[Activity]:
        for number in range(1, 10):
            yield activity(number)
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
            await asyncio.sleep(0.1)

    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(3, stop.set)
    async with poster_to(LeadSquared()) as poster:
        outcomes = [o async for o in poster.post_stream(source(), stop=stop)]
    assert [outcome.state for outcome in outcomes] == ["accepted", "not_sent"]


@virtual
async def test_a_stop_after_rejected_keys_changes_nothing() -> None:
    stop = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) == 1:
            return httpx.Response(401)
        await asyncio.sleep(1)
        stop.set()
        await asyncio.sleep(1)
        return await accept(request)

    async with poster_to(LeadSquared(answer), bucket=OpenBucket()) as poster:
        outcomes = [o async for o in poster.post_stream(numbered(2), stop=stop)]
    assert sorted(outcome.state for outcome in outcomes) == ["accepted", "rejected"]
