"""The time-out of a call, which counts from its token to the last byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from batch_support import STEADY, poster_to
from raw_server import Connection, RawServer
from support import (
    Handler,
    LeadSquared,
    accept,
    accepted,
    account,
    activity,
    answers,
    now,
    virtual,
    within,
)

from leadpost import (
    Activity,
    AsyncActivityPoster,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    OpenBucket,
    RateLimited,
    RetryPolicy,
    ServerError,
    TokenBucket,
    TokenLost,
    Unauthorized,
)
from leadpost._attempts import Terms
from leadpost._poster import post_once

pytestmark = pytest.mark.usefixtures("nothing_unhandled")


async def endless(start: bytes = b"") -> AsyncIterator[bytes]:
    yield start
    while True:
        await asyncio.sleep(1)
        yield b" "


async def never(_: httpx.Request) -> httpx.Response:
    await asyncio.sleep(1000)
    raise AssertionError("its call waited for it")


async def half(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=endless(b'{"RequestID": "r1"'))


@pytest.mark.parametrize(
    ("first", "status", "rests"),
    [
        (never, None, 10.0 + 5.0),
        (half, 200, 5.0),  # it was answered, so it had arrived
    ],
)
@virtual
async def test_a_call_is_uncertain_at_its_time_out_and_its_token_rests_as_long_if_unanswered(
    first: Handler, status: int | None, rests: float
) -> None:
    leadsquared = LeadSquared(first)
    async with poster_to(leadsquared, bucket=TokenBucket(1), call_timeout=10.0) as poster:
        with pytest.raises(DeliveryUncertain) as caught:
            await poster.post(activity(1))
        assert now() == pytest.approx(10.0)
        assert (caught.value.status, caught.value.attempts) == (status, 1)
        leadsquared.answer = accept
        await poster.post(activity(2))
    assert leadsquared.arrivals == pytest.approx([0.0, 10.0 + rests], abs=0.01)


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (429, RateLimited), (503, ServerError)]
)
@virtual
async def test_a_status_decides_even_if_its_body_never_ends(
    status: int, error: type[LeadpostError]
) -> None:
    leadsquared = LeadSquared(answers(httpx.Response(status, content=endless())))
    policy = RetryPolicy(max_attempts=1, max_time=1.0)
    async with poster_to(leadsquared, retry=policy, call_timeout=10.0) as poster:
        with pytest.raises(error) as caught:
            await poster.post(activity(1))
    assert (caught.value.status, caught.value.attempts) == (status, 1)
    assert now() == pytest.approx(10.0)


async def test_headers_that_come_byte_by_byte_end_at_the_time_out() -> None:
    arrivals: list[float] = []

    async def drip(connection: Connection) -> None:
        arrivals.append(time.monotonic())
        await connection.request()
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.02)

    async with RawServer(drip) as server, within(60):
        bucket = TokenBucket(1, period=0.3)
        async with AsyncActivityPoster(
            account(host=server.url), bucket=bucket, call_timeout=0.5, retry=STEADY
        ) as poster:
            began = time.monotonic()
            with pytest.raises(DeliveryUncertain):
                await poster.post(activity(1))
            assert 0.5 <= time.monotonic() - began < 30  # all headers would take two minutes
            with pytest.raises(DeliveryUncertain):
                await poster.post(activity(2))
        assert arrivals[1] - began >= 0.5 + 0.5 + 0.3 - 0.05


async def test_the_posters_own_client_reads_and_writes_as_long_as_a_call_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeouts = list[dict[str, float | None]]()

    async def note(_: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"])
        return accepted(1)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", note)
    for host in ("http://127.0.0.1:9", "https://leadsquared.example"):
        made = account(host=host)
        async with AsyncActivityPoster(made, call_timeout=600, bucket=OpenBucket()) as poster:
            await poster.post(activity(1))
    assert timeouts == [{"connect": 10.0, "read": None, "write": None, "pool": None}] * 2


@pytest.mark.parametrize(
    ("chosen_in", "error", "at"), [(6.0, DeliveryUncertain, 10.0), (11.0, TokenLost, 11.0)]
)
@virtual
async def test_the_time_of_a_call_begins_with_its_token_even_if_it_is_chosen_later(
    chosen_in: float, error: type[LeadpostError], at: float
) -> None:
    """A bucket learns when a call will have ended; a shared one counts on it."""

    async def choose() -> Activity:
        await asyncio.sleep(chosen_in)
        return activity(1)

    leadsquared = LeadSquared(there=9.0)
    async with poster_to(leadsquared, call_timeout=10.0) as poster:
        with pytest.raises(error):
            await post_once(poster, choose, Terms())
        assert now() == pytest.approx(at)
    assert len(leadsquared.requests) == (error is DeliveryUncertain)


@virtual
async def test_a_queue_that_raises_at_the_last_moment_leaves_the_token_unused() -> None:
    async def draw() -> Activity:
        return activity(1)

    def refuse() -> None:
        raise NotSent("the claim is too old")

    leadsquared, bucket = LeadSquared(), TokenBucket(1)
    async with poster_to(leadsquared, bucket=bucket) as poster:
        with pytest.raises(NotSent, match="too old"):
            await post_once(poster, draw, Terms(before_send=refuse))
        assert bucket.statistics().free == 1
    assert leadsquared.requests == []
