"""A call that has left finishes, whatever its caller does; its outcome is logged and emitted."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from random import Random
from typing import Any

import httpx
import pytest
from batch_support import STEADY, numbered, poster_to
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Vendor, accept, account, activity, answers, fullest, now, run_virtual, within

from leadpost import (
    Activity,
    AsyncActivityPoster,
    BatchError,
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    RateLimited,
    RetryPolicy,
    ServerError,
    TokenBucket,
    Unauthorized,
)
from leadpost._call import Terms
from leadpost._poster import post_once
from leadpost.hooks import Ended, Event
from leadpost.sandbox import Faults, Sandbox

Cancel = Callable[[Awaitable[Any], float], Awaitable[None]]


@pytest.fixture
def unhandled() -> Iterator[Callable[[], list[str]]]:
    """Yield a function that records what the running loop's exception handler receives."""
    messages: list[str] = []

    def record() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: messages.append(context["message"]))
        return messages

    yield record
    gc.collect()
    assert messages == []


def ended(events: list[Event]) -> list[Ended]:
    return [event for event in events if isinstance(event, Ended)]


async def task_cancel(call: Awaitable[Any], after: float) -> None:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out(call: Awaitable[Any], after: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await call


async def failing_group(call: Awaitable[Any], after: float) -> None:
    async def fail() -> None:
        await asyncio.sleep(after)
        raise LookupError

    async def waited_for() -> None:
        await call

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waited_for())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await together()
    assert caught.group_contains(LookupError)


CANCELS = [task_cancel, time_out, failing_group]


def leaks_in_httpcore(test: Any) -> Any:
    """Allow what httpcore (1.0) leaves to the garbage collector: cancelled TLS handshakes."""
    for ignored in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{ignored}")(test)
    return test


# Before anything was sent.


@pytest.mark.parametrize("cancel", CANCELS)
def test_a_post_cancelled_while_it_waits_for_a_token_sends_nothing(
    cancel: Cancel, unhandled: Callable[[], list[str]]
) -> None:
    events: list[Event] = []

    async def main() -> None:
        unhandled()
        vendor, bucket = Vendor(), TokenBucket(1)
        async with poster_to(vendor, bucket=bucket, hooks=[events.append]) as poster:
            await poster.post(activity(1))
            await cancel(poster.post(activity(2)), 2.0)
            assert now() == pytest.approx(2.0)
            await poster.post(activity(3))
        assert vendor.numbers == [1, 3]
        assert vendor.arrivals[1] == pytest.approx(5.0)

    run_virtual(main())
    assert [(end.state, end.attempts) for end in ended(events)] == [
        ("accepted", 1),
        ("not_sent", 0),
        ("accepted", 1),
    ]


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
        async with within(10), poster:
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
        async with within(10), poster:
            with pytest.raises(ConnectionFailed):
                await poster.post(activity())
            assert bucket.statistics().free == 1
    gc.collect()


def test_a_post_that_finds_no_connection_leaves_its_token_free() -> None:
    async def main() -> None:
        bucket = TokenBucket(1)
        policy = RetryPolicy(max_attempts=1)
        vendor = Vendor(answers(httpx.ConnectError("no route")))
        async with poster_to(vendor, bucket=bucket, retry=policy) as poster:
            with pytest.raises(ConnectionFailed):
                await poster.post(activity(1))
            assert bucket.statistics().free == 1

    run_virtual(main())


# In flight.


@pytest.mark.parametrize("cancel", CANCELS)
@pytest.mark.parametrize("after", [0.5, 1.5])
def test_a_caller_cancelled_in_flight_leaves_at_once_and_its_call_finishes(
    cancel: Cancel,
    after: float,
    unhandled: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    times: list[tuple[Ended, float]] = []

    def hook(event: Event) -> None:
        if isinstance(event, Ended):
            times.append((event, now()))

    async def main() -> None:
        unhandled()
        vendor, bucket = Vendor(there=1.0, back=1.0), TokenBucket(1)
        async with poster_to(vendor, bucket=bucket, hooks=[hook]) as poster:
            await cancel(poster.post(activity(1)), after)
            assert now() == pytest.approx(after)
            assert times == []
            await asyncio.sleep(2)
            assert "RequestID r1" in caplog.text
            await poster.post(activity(2))
        # The token rests 5 s from the answer, which came at 2 s.
        assert vendor.arrivals == pytest.approx([1.0, 8.0])

    run_virtual(main())
    (first, at), _ = times
    assert (first.state, first.error, first.request_id) == ("accepted", None, "r1")
    assert at == pytest.approx(2.0)


@pytest.mark.parametrize("cancel", CANCELS)
async def test_a_post_cancelled_in_flight_arrives_over_a_real_connection(
    cancel: Cancel, unhandled: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    unhandled()
    with Sandbox(delay=0.3) as sandbox:
        async with within(20), AsyncActivityPoster(sandbox.account()) as poster:
            began = time.monotonic()
            await cancel(poster.post(activity()), 0.15)
            assert time.monotonic() - began < 0.3
        (taken,) = sandbox.taken
        assert sandbox.report().arrivals == 1
    assert f"accepted, RequestID {taken.request_id}" in caplog.text


async def test_a_post_cut_off_over_a_real_connection_is_uncertain() -> None:
    with Sandbox(faults=Faults(script=["slow"], slow=30)) as sandbox:
        bucket = TokenBucket(1)
        poster = AsyncActivityPoster(sandbox.account(), bucket=bucket)
        async with within(20):
            post = asyncio.create_task(poster.post(activity()))
            while not sandbox.report().taken:
                await asyncio.sleep(0.01)
            await poster.aclose(grace=0.1)
            with pytest.raises(DeliveryUncertain, match="cut off before its answer"):
                await post
        assert (bucket.statistics().in_use, bucket.statistics().resting) == (0, 1)


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
def test_the_outcome_of_an_abandoned_call_is_logged_and_it_is_not_retried(
    answer: Any,
    state: str,
    error: str,
    unhandled: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []

    async def main() -> None:
        unhandled()
        vendor = Vendor(answers(answer), there=1.0)
        async with poster_to(vendor, hooks=[events.append]) as poster:
            await time_out(poster.post(activity(1)), 0.5)
            await asyncio.sleep(60)
        assert vendor.numbers == [1]

    run_virtual(main())
    (end,) = ended(events)
    assert (end.state, end.error) == (state, error)
    assert error in caplog.text


def test_a_query_whose_caller_left_finishes_too(
    unhandled: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "leadpost")
    events: list[Event] = []

    async def answer(_: httpx.Request) -> httpx.Response:
        names = ("PendingMessages", "ProcessingRatePerMinute", "MaxDelayInSeconds")
        return httpx.Response(200, json=dict.fromkeys(names, 0))

    async def main() -> None:
        unhandled()
        async with poster_to(Vendor(answer, there=1.0), hooks=[events.append]) as poster:
            await time_out(poster.metrics(), 0.5)

    run_virtual(main())
    (end,) = ended(events)
    assert (end.operation.name, end.state) == ("metrics", "accepted")
    (said,) = (r for r in caplog.records if "its caller had left" in r.message)
    assert said.message == "metrics: its caller had left before it ended: done"
    assert said.levelno == logging.DEBUG


def test_a_batch_that_is_cancelled_leaves_its_calls_in_flight_to_finish(
    unhandled: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        unhandled()
        vendor = Vendor(there=1.0, back=1.0)
        async with poster_to(vendor) as poster:
            await task_cancel(poster.post_many(numbered(100)), 8.0)
            assert now() == pytest.approx(8.0)
            await asyncio.sleep(10)
        assert vendor.numbers == list(range(1, 51))  # 25 were in flight, none left afterwards
        for number in range(26, 51):
            assert f"RequestID r{number}" in caplog.text

    run_virtual(main())


def test_25_cancelled_calls_that_arrive_later_leave_no_room_for_25_more() -> None:
    async def main() -> None:
        vendor = Vendor(there=0.8, back=0.2)
        async with poster_to(vendor) as poster:
            calls = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 26)]
            await asyncio.sleep(0.3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.gather(*(poster.post(activity(n)) for n in range(26, 51)))
        assert len(vendor.arrivals) == 50
        assert fullest(vendor.arrivals) <= 25

    run_virtual(main())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), longest=st.sampled_from([0.1, 1.0, 4.0]))
def test_no_26th_call_arrives_in_any_5_s_whatever_is_cancelled(seed: int, longest: float) -> None:
    random = Random(seed)

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(random.uniform(0, longest))  # the way back
        return await accept(request)

    class Uneven(Vendor):
        async def __call__(self, request: httpx.Request) -> httpx.Response:
            await asyncio.sleep(random.uniform(0, longest))  # the way there
            return await super().__call__(request)

    async def use(poster: AsyncActivityPoster, number: int) -> None:
        await asyncio.sleep(random.uniform(0, 8))
        patience = random.uniform(0, 2 * longest) if random.random() < 0.1 else None
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await poster.post(activity(number))

    async def main() -> None:
        vendor = Uneven(answer)
        async with poster_to(vendor) as poster:
            await asyncio.gather(*(use(poster, n) for n in range(1, 91)))
        assert fullest(vendor.arrivals) <= 25
        assert len(set(vendor.numbers)) == len(vendor.numbers)

    run_virtual(main())


# Closing.


def test_closing_waits_for_calls_in_flight() -> None:
    async def main() -> None:
        poster = poster_to(Vendor(there=2.0, back=2.0))
        post = asyncio.create_task(poster.post(activity(1)))
        await asyncio.sleep(1)
        await poster.aclose()
        assert now() == pytest.approx(4.0)
        assert await post == "r1"

    run_virtual(main())


def test_a_call_that_outlasts_the_grace_is_uncertain_and_its_token_rests_accordingly(
    unhandled: Callable[[], list[str]],
) -> None:
    async def main() -> None:
        unhandled()
        vendor, bucket = Vendor(there=1.0, back=20.0), TokenBucket(1)
        poster = poster_to(vendor, bucket=bucket)
        post = asyncio.create_task(poster.post(activity(1)))
        await asyncio.sleep(1)
        await poster.aclose(grace=3.0)
        assert now() == pytest.approx(4.0)
        with pytest.raises(DeliveryUncertain, match="cut off before its answer") as caught:
            await post
        assert caught.value.attempts == 1
        quick = Vendor()
        async with poster_to(quick, bucket=bucket) as other:
            await other.post(activity(2))
        assert quick.arrivals == pytest.approx([4.0 + 30.0 + 5.0])

    run_virtual(main())


def test_the_default_grace_is_8_seconds() -> None:
    async def main() -> None:
        poster = poster_to(Vendor(back=1000.0))
        post = asyncio.create_task(poster.post(activity(1)))
        await asyncio.sleep(1)
        await poster.aclose()
        assert now() == pytest.approx(9.0)
        with pytest.raises(DeliveryUncertain):
            await post

    run_virtual(main())


def test_closing_ends_a_post_that_waits_for_its_token_as_not_sent() -> None:
    async def main() -> None:
        vendor = Vendor(back=2.0)
        poster = poster_to(vendor, bucket=TokenBucket(1))
        first = asyncio.create_task(poster.post(activity(1)))
        second = asyncio.create_task(poster.post(activity(2)))
        await asyncio.sleep(1)
        await poster.aclose()
        assert await first == "r1"
        with pytest.raises(NotSent, match="the poster was closed before anything was sent"):
            await second
        assert vendor.numbers == [1]

    run_virtual(main())


def test_closing_ends_a_post_that_waits_to_be_retried_with_its_last_error() -> None:
    async def main() -> None:
        vendor = Vendor(answers(httpx.Response(500)))
        poster = poster_to(vendor, retry=RetryPolicy(initial_wait=10, jitter=0))
        post = asyncio.create_task(poster.post(activity(1)))
        await asyncio.sleep(1)
        await poster.aclose()
        with pytest.raises(ServerError):
            await post
        assert vendor.numbers == [1]

    run_virtual(main())


def test_a_batch_sends_nothing_more_once_its_poster_is_closing() -> None:
    async def main() -> None:
        vendor = Vendor(there=1.0, back=1.0)
        poster = poster_to(vendor)
        batch = asyncio.create_task(poster.post_many(numbered(100)))
        await asyncio.sleep(8)
        await poster.aclose()
        with pytest.raises(BatchError) as caught:
            await batch
        states = [outcome.state for outcome in caught.value.outcomes]
        assert states[:50] == ["accepted"] * 50
        assert set(states[50:]) == {"not_sent"}
        assert vendor.numbers == list(range(1, 51))

    run_virtual(main())


def test_closing_that_is_cancelled_cuts_off_the_calls_in_flight(
    unhandled: Callable[[], list[str]],
) -> None:
    async def main() -> None:
        unhandled()
        vendor, bucket = Vendor(back=20.0), TokenBucket(2)
        poster = poster_to(vendor, bucket=bucket)
        posts = [asyncio.create_task(poster.post(activity(n))) for n in (1, 2, 3)]
        await asyncio.sleep(1)
        await time_out(poster.aclose(), 1.0)
        assert now() == pytest.approx(2.0)
        ends = await asyncio.gather(*posts, return_exceptions=True)
        assert [type(end) for end in ends] == [DeliveryUncertain, DeliveryUncertain, NotSent]
        assert bucket.statistics().in_use == 0
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_an_abandoned_call_that_is_cut_off_is_logged_as_uncertain(
    unhandled: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []

    async def main() -> None:
        unhandled()
        async with poster_to(Vendor(back=1000.0), hooks=[events.append]) as poster:
            await time_out(poster.post(activity(1)), 1.0)

    run_virtual(main())
    (end,) = ended(events)
    assert (end.state, end.attempts) == ("uncertain", 1)
    assert "its caller had left before it ended" in caplog.text
    assert "HTTP None" not in caplog.text


def test_tokens_of_calls_that_the_end_of_a_run_cut_off_rest_in_the_next_run() -> None:
    vendor, bucket = Vendor(back=20.0), TokenBucket()
    poster = poster_to(vendor, bucket=bucket)

    async def cut_off() -> None:
        for number in range(1, 26):
            asyncio.create_task(poster.post(activity(number)))  # noqa: RUF006  the point
        await asyncio.sleep(1)

    async def next_run() -> None:
        vendor.back = 0.0
        await poster.post(activity(26))
        assert now() == pytest.approx(30.0 + 5.0)

    run_virtual(cut_off())  # both clocks start at 0
    assert len(vendor.arrivals) == 25
    run_virtual(next_run())


def test_a_token_that_was_not_used_is_free_in_the_next_run() -> None:
    vendor, bucket = Vendor(back=20.0), TokenBucket(2)
    poster = poster_to(vendor, bucket=bucket)

    async def cut_off() -> None:
        asyncio.create_task(poster.post(activity(1)))  # noqa: RUF006  the point
        await asyncio.sleep(1)

    async def next_run() -> None:
        vendor.back = 0.0
        await poster.post(activity(2))
        assert now() < 0.01

    run_virtual(cut_off())
    run_virtual(next_run())


# The time-out of a call.


def test_a_call_without_an_answer_ends_at_its_time_out_and_its_token_rests_as_long_again() -> None:
    async def main() -> None:
        async def answer(request: httpx.Request) -> httpx.Response:
            if len(vendor.requests) == 1:
                await asyncio.sleep(1000)
            return await accept(request)

        vendor = Vendor(answer)
        async with poster_to(vendor, bucket=TokenBucket(1), call_timeout=10.0) as poster:
            with pytest.raises(DeliveryUncertain) as caught:
                await poster.post(activity(1))
            assert now() == pytest.approx(10.0)
            assert caught.value.attempts == 1
            await poster.post(activity(2))
        assert vendor.arrivals == pytest.approx([0.0, 10.0 + 10.0 + 5.0], abs=0.01)

    run_virtual(main())


async def endless(start: bytes = b"") -> AsyncIterator[bytes]:
    yield start
    while True:
        await asyncio.sleep(1)
        yield b" "


def test_a_success_whose_body_never_ends_is_uncertain_at_the_time_out() -> None:
    async def main() -> None:
        vendor = Vendor(answers(httpx.Response(200, content=endless(b'{"RequestID": "r1"'))))
        async with poster_to(vendor, bucket=TokenBucket(1), call_timeout=10.0) as poster:
            with pytest.raises(DeliveryUncertain) as caught:
                await poster.post(activity(1))
            assert now() == pytest.approx(10.0)
            assert caught.value.status == 200
            await poster.post(activity(2))
        # It was answered, so it had arrived: its token rests the usual time.
        assert vendor.arrivals == pytest.approx([0.0, 10.0 + 5.0], abs=0.01)

    run_virtual(main())


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (429, RateLimited), (503, ServerError)]
)
def test_a_status_decides_even_if_its_body_never_ends(
    status: int, error: type[LeadpostError]
) -> None:
    async def main() -> None:
        async def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(status, content=endless())

        vendor = Vendor(answer)
        policy = RetryPolicy(max_attempts=1, max_time=1.0)
        async with poster_to(vendor, retry=policy, call_timeout=10.0) as poster:
            with pytest.raises(error) as caught:
                await poster.post(activity(1))
        assert (caught.value.status, caught.value.attempts) == (status, 1)
        assert now() == pytest.approx(10.0)

    run_virtual(main())


def test_a_refusal_whose_body_never_ends_is_retried() -> None:
    async def main() -> None:
        vendor = Vendor(answers(httpx.Response(429, content=endless())))
        async with poster_to(vendor, call_timeout=10.0) as poster:
            assert await poster.post(activity(1)) == "r1"

    run_virtual(main())


async def test_headers_that_come_byte_by_byte_end_at_the_time_out() -> None:
    arrivals: list[float] = []
    over = asyncio.Semaphore(0)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrivals.append(time.monotonic())
        with suppress(ConnectionError):
            await reader.readuntil(b"}")
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        over.release()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    host = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, within(20):
        bucket = TokenBucket(1, period=0.3)
        async with AsyncActivityPoster(
            account(host=host), bucket=bucket, call_timeout=0.5, retry=STEADY
        ) as poster:
            began = time.monotonic()
            with pytest.raises(DeliveryUncertain):
                await poster.post(activity(1))
            assert 0.5 <= time.monotonic() - began < 2
            with pytest.raises(DeliveryUncertain):
                await poster.post(activity(2))
        for _ in arrivals:
            await over.acquire()
        first, second = arrivals
        assert second - first >= 0.5 + 0.5 + 0.3 - 0.05


def test_a_queue_that_raises_at_the_last_moment_leaves_the_token_unused() -> None:
    async def draw() -> Activity:
        return activity(1)

    def refuse() -> None:
        raise NotSent("the claim is too old")

    async def main() -> None:
        vendor, bucket = Vendor(), TokenBucket(1)
        async with poster_to(vendor, bucket=bucket) as poster:
            with pytest.raises(NotSent, match="too old"):
                await post_once(poster, draw, Terms(before_send=refuse))
            assert bucket.statistics().free == 1
        assert vendor.requests == []

    run_virtual(main())


# Cut off by the caller.


async def draw_one() -> Activity:
    return activity(1)


def test_a_call_that_is_cut_off_in_flight_is_uncertain_and_leaves_nothing_behind(
    unhandled: Callable[[], list[str]],
) -> None:
    events: list[Event] = []

    async def main() -> None:
        unhandled()
        vendor, bucket = Vendor(there=1.0), TokenBucket(1)
        async with poster_to(vendor, bucket=bucket, hooks=[events.append]) as poster:
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
        assert vendor.arrivals == pytest.approx([0.5 + 30 + 5 + 1.0])

    run_virtual(main())
    assert [end.state for end in ended(events)] == ["uncertain", "accepted"]


def test_an_abandoned_call_that_is_cut_off_is_over_before_the_poster_closes(
    unhandled: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []

    async def main() -> None:
        unhandled()
        vendor, bucket = Vendor(there=100.0), TokenBucket(1)
        async with poster_to(vendor, bucket=bucket, hooks=[events.append]) as poster:
            cut_off = asyncio.get_running_loop().create_future()
            await task_cancel(post_once(poster, draw_one, Terms(cut_off=cut_off)), 0.5)
            assert ended(events) == []
            cut_off.set_result(None)
        assert now() == pytest.approx(0.5)
        assert (bucket.statistics().in_use, bucket.statistics().resting) == (0, 1)

    run_virtual(main())
    assert [end.state for end in ended(events)] == ["uncertain"]
    assert "its caller had left" in caplog.text


@pytest.mark.parametrize("before", [True, False])
def test_a_call_cut_off_before_its_request_is_sent_sends_nothing(
    before: Any, unhandled: Callable[[], list[str]]
) -> None:
    async def main() -> None:
        unhandled()
        vendor, bucket = Vendor(), TokenBucket(1)
        async with poster_to(vendor, bucket=bucket) as poster:
            await poster.post(activity(2))
            cut_off = asyncio.get_running_loop().create_future()
            if before:
                cut_off.set_result(None)
            post = asyncio.create_task(post_once(poster, draw_one, Terms(cut_off=cut_off)))
            await asyncio.sleep(1.0)
            if not before:
                cut_off.set_result(None)
            with pytest.raises(NotSent, match="stopped before anything was sent"):
                await post
            assert now() == pytest.approx(1.0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await poster.post(activity(3))
        assert vendor.numbers == [2, 3]
        assert vendor.arrivals[1] == pytest.approx(5.0)  # the token was as it had been

    run_virtual(main())


def test_a_query_that_is_cut_off_has_changed_nothing() -> None:
    events: list[Event] = []

    async def main() -> None:
        bucket = TokenBucket(1)
        async with poster_to(Vendor(there=100.0), bucket=bucket, hooks=[events.append]) as poster:
            metrics = asyncio.create_task(poster.metrics())
            await asyncio.sleep(0.5)
            await poster.aclose(grace=1.0)
            with pytest.raises(ConnectionFailed, match="cut off before its answer") as caught:
                await metrics
            assert caught.value.sent
            assert (bucket.statistics().in_use, bucket.statistics().resting) == (0, 1)

    run_virtual(main())
    assert [end.state for end in ended(events)] == ["failed"]
