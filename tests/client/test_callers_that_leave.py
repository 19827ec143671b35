"""A caller that leaves: before its call is sent, or while it is in flight, when it finishes."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from random import Random
from typing import Any

import httpx
import pytest
from batch_support import numbered, poster_to
from call_support import CANCELS, Cancel, ended, leaks_in_httpcore, task_cancel, time_out
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    LeadSquared,
    accept,
    account,
    activity,
    answers,
    fullest,
    now,
    virtual,
    within,
)

from leadpost import (
    AsyncActivityPoster,
    ConnectionFailed,
    OpenBucket,
    Priority,
    RetryPolicy,
    TokenBucket,
)
from leadpost.hooks import Ended, Event
from leadpost.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("nothing_unhandled")


@pytest.mark.parametrize("cancel", CANCELS)
@virtual
async def test_a_post_cancelled_while_it_waits_for_a_token_sends_nothing(cancel: Cancel) -> None:
    events: list[Event] = []
    leadsquared, bucket = LeadSquared(), TokenBucket(1)
    async with poster_to(leadsquared, bucket=bucket, hooks=[events.append]) as poster:
        await poster.post(activity(1))
        await cancel(poster.post(activity(2)), 2.0)
        assert now() == pytest.approx(2.0)
        await poster.post(activity(3))
    assert leadsquared.numbers == [1, 3]
    assert leadsquared.arrivals[1] == pytest.approx(5.0)
    assert [(end.state, end.attempts) for end in ended(events)] == [
        ("accepted", 1),
        ("not_sent", 0),
        ("accepted", 1),
    ]


class FailsIfCancelled(OpenBucket):
    """A bucket whose wait for a token does not pass a cancellation on."""

    def token(self, priority: Priority, call_timeout: float) -> Any:
        del priority, call_timeout
        return self._wait()

    @asynccontextmanager
    async def _wait(self) -> AsyncGenerator[Callable[[], None]]:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            raise LookupError("the database of this bucket is down") from None
        yield lambda: None


@pytest.mark.parametrize("cancel", CANCELS)
@virtual
async def test_an_error_of_the_bucket_after_its_caller_left_is_not_reported(
    cancel: Cancel,
) -> None:
    async with poster_to(LeadSquared(), bucket=FailsIfCancelled()) as poster:
        await cancel(poster.post(activity(1)), 2.0)


@contextmanager
def full_backlog() -> Generator[str]:
    """Yield the URL of a server that never accepts another connection."""
    with ExitStack() as sockets:
        server = sockets.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)  # noqa: FBT003  positional only
            client.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def silent_tls() -> Generator[str]:
    """Yield the URL of a server that accepts connections and sends nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(10)
        yield f"https://127.0.0.1:{server.getsockname()[1]}"


@leaks_in_httpcore
@pytest.mark.parametrize("cancel", CANCELS)
@pytest.mark.parametrize("server", [full_backlog, silent_tls])
async def test_a_post_cancelled_while_it_connects_sends_nothing(
    server: Any, cancel: Cancel
) -> None:
    events: list[Event] = []
    bucket = TokenBucket(1)
    with server() as url:
        poster = AsyncActivityPoster(account(host=url), bucket=bucket, hooks=[events.append])
        async with within(60), poster:
            await cancel(poster.post(activity()), 0.2)
            assert (bucket.statistics().free, bucket.statistics().in_use) == (1, 0)
    gc.collect()
    (end,) = ended(events)
    assert (end.state, end.error) == ("not_sent", "CancelledError")


@leaks_in_httpcore
@pytest.mark.parametrize("server", [full_backlog, silent_tls])
async def test_a_connection_that_takes_longer_than_the_call_timeout_leaves_the_token_free(
    server: Any,
) -> None:
    bucket = TokenBucket(1)
    policy = RetryPolicy(max_attempts=1)
    with server() as url:
        poster = AsyncActivityPoster(
            account(host=url), bucket=bucket, retry=policy, call_timeout=0.2
        )
        async with within(60), poster:
            with pytest.raises(ConnectionFailed):
                await poster.post(activity())
            assert bucket.statistics().free == 1
    gc.collect()


@pytest.mark.parametrize("cancel", CANCELS)
@pytest.mark.parametrize("after", [0.5, 1.5])
@virtual
async def test_a_caller_cancelled_in_flight_leaves_at_once_and_its_call_finishes(
    cancel: Cancel,
    after: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    times: list[tuple[Ended, float]] = []

    def hook(event: Event) -> None:
        if isinstance(event, Ended):
            times.append((event, now()))

    leadsquared, bucket = LeadSquared(there=1.0, back=1.0), TokenBucket(1)
    async with poster_to(leadsquared, bucket=bucket, hooks=[hook]) as poster:
        await cancel(poster.post(activity(1)), after)
        assert now() == pytest.approx(after)
        assert times == []
        await asyncio.sleep(2)
        assert "RequestID r1" in caplog.text
        await poster.post(activity(2))
    # The token rests 5 s from the answer, which came at 2 s.
    assert leadsquared.arrivals == pytest.approx([1.0, 8.0])
    (first, at), _ = times
    assert (first.state, first.error, first.request_id) == ("accepted", None, "r1")
    assert at == pytest.approx(2.0)


@pytest.mark.parametrize("cancel", CANCELS)
async def test_a_post_cancelled_in_flight_arrives_over_a_real_connection(
    cancel: Cancel, caplog: pytest.LogCaptureFixture
) -> None:
    with Sandbox(delay=0.3) as sandbox:
        bucket = TokenBucket()
        async with within(60), AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
            await cancel(poster.post(activity()), 0.15)
            assert bucket.statistics().in_use == 1
        (taken,) = sandbox.accepted
        assert sandbox.report().arrivals == 1
    assert f"accepted, RequestID {taken.request_id}" in caplog.text


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        (httpx.Response(400), "rejected", "BadRequest"),
        (httpx.Response(429), "failed", "RateLimited"),
        (httpx.Response(500), "failed", "ServerError"),
        (httpx.ReadTimeout("late"), "uncertain", "DeliveryUncertain"),
        (httpx.ConnectError("no"), "failed", "ConnectionFailed"),
    ],
)
@virtual
async def test_the_outcome_of_an_abandoned_call_is_logged_and_it_is_not_retried(
    answer: Any,
    state: str,
    error: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []
    leadsquared = LeadSquared(answers(answer), there=1.0)
    async with poster_to(leadsquared, hooks=[events.append]) as poster:
        await time_out(poster.post(activity(1)), 0.5)
        await asyncio.sleep(60)
    assert leadsquared.numbers == [1]
    (end,) = ended(events)
    assert (end.state, end.error) == (state, error)
    assert error in caplog.text


@virtual
async def test_a_query_whose_caller_left_finishes_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "leadpost")
    events: list[Event] = []

    async def answer(_: httpx.Request) -> httpx.Response:
        names = ("PendingMessages", "ProcessingRatePerMinute", "MaxDelayInSeconds")
        return httpx.Response(200, json=dict.fromkeys(names, 0))

    async with poster_to(LeadSquared(answer, there=1.0), hooks=[events.append]) as poster:
        await time_out(poster.metrics(), 0.5)
        await asyncio.sleep(1)
    (end,) = ended(events)
    assert (end.operation.name, end.state) == ("metrics", "accepted")
    (said,) = (r for r in caplog.records if "its caller had left" in r.message)
    assert said.message == "metrics: its caller had left before it ended: accepted"
    assert said.levelno == logging.DEBUG


@virtual
async def test_a_query_whose_caller_left_is_cut_off_by_closing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "leadpost")
    events: list[Event] = []
    async with poster_to(LeadSquared(there=100.0), hooks=[events.append]) as poster:
        await time_out(poster.metrics(), 0.5)
    assert now() == pytest.approx(0.5)
    (end,) = ended(events)
    assert (end.operation.name, end.state) == ("metrics", "failed")
    assert "its caller had left before it ended: failed (CancelledError)" in caplog.text


@virtual
async def test_a_batch_that_is_cancelled_leaves_its_calls_in_flight_to_finish(
    caplog: pytest.LogCaptureFixture,
) -> None:
    leadsquared = LeadSquared(there=1.0, back=1.0)
    async with poster_to(leadsquared) as poster:
        await task_cancel(poster.post_many(numbered(100)), 8.0)
        assert now() == pytest.approx(8.0)
        await asyncio.sleep(10)
        assert len(asyncio.all_tasks()) == 1
        assert await poster.post(activity(51)) == "r51"
    assert leadsquared.numbers == list(range(1, 52))  # 25 were in flight, none left afterwards
    for number in range(26, 51):
        line = f"post (index {number - 1}): its caller had left before it ended: accepted"
        assert f"{line}, RequestID r{number}" in caplog.messages


@virtual
async def test_25_cancelled_calls_that_arrive_later_leave_no_room_for_25_more() -> None:
    leadsquared = LeadSquared(there=0.8, back=0.2)
    async with poster_to(leadsquared) as poster:
        calls = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 26)]
        await asyncio.sleep(0.3)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*(poster.post(activity(n)) for n in range(26, 51)))
    assert len(leadsquared.arrivals) == 50
    assert fullest(leadsquared.arrivals) <= 25


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), longest=st.sampled_from([0.1, 1.0, 4.0]))
@virtual
async def test_no_26th_call_arrives_in_any_5_s_whatever_is_cancelled(
    seed: int, longest: float
) -> None:
    random = Random(seed)

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(random.uniform(0, longest))  # the way back
        return await accept(request)

    class Uneven(LeadSquared):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(random.uniform(0, longest))  # the way there
            return await super().__call__(request)

    async def use(poster: AsyncActivityPoster, number: int) -> None:
        await asyncio.sleep(random.uniform(0, 8))
        patience = random.uniform(0, 2 * longest) if random.random() < 0.1 else None
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await poster.post(activity(number))

    leadsquared = Uneven(answer)
    async with poster_to(leadsquared) as poster:
        await asyncio.gather(*(use(poster, n) for n in range(1, 91)))
    assert fullest(leadsquared.arrivals) <= 25
    assert len(set(leadsquared.numbers)) == len(leadsquared.numbers)
