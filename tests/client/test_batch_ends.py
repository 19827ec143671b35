"""Early ends of a batch: errors of the source, the bucket or the client, and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import httpx
import pytest
from batch_support import numbered, poster_to
from support import (
    LeadSquared,
    accept,
    accepted,
    account,
    activity,
    answers,
    now,
    number_in,
    virtual,
)

from leadpost import Activity, AsyncActivityPoster, BatchError, OpenBucket
from leadpost.bucket import Priority


@pytest.mark.parametrize("error", [ValueError("row 31 is broken"), TimeoutError("no more rows")])
@virtual
async def test_an_error_of_the_source_is_raised_and_no_request_id_is_lost(error: Exception) -> None:
    def source() -> Iterator[Activity]:
        yield from numbered(30)
        raise error

    async with poster_to(LeadSquared(there=0.1)) as poster:
        stream = poster.post_stream(source())
        outcomes = [await anext(stream) for _ in range(30)]
        with pytest.raises(type(error), match="row"):
            await anext(stream)
        with pytest.raises(BatchError, match=f"30 of 30.*{type(error).__name__}") as caught:
            await poster.post_many(source())
    assert sorted(o.index for o in outcomes) == list(range(30))
    assert all(o.state == "accepted" for o in outcomes)
    assert [o.request_id for o in caught.value.outcomes] == [f"r{n}" for n in range(1, 31)]
    assert caught.value.exceptions == (error,)


@virtual
async def test_an_error_of_a_source_that_is_stopped_is_raised_too() -> None:
    async def source() -> AsyncIterator[Activity]:
        yield activity(1)
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the file could not be closed")

    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(3, stop.set)
    async with poster_to(LeadSquared()) as poster:
        stream = poster.post_stream(source(), stop=stop)
        assert (await anext(stream)).request_id == "r1"
        with pytest.raises(OSError, match="closed"):
            await anext(stream)


class Broken(OpenBucket):
    left = 10

    def token(self, priority: Priority, call_timeout: float) -> Any:
        self.left -= 1
        if self.left < 0:
            raise LookupError("the database of this bucket is down")
        return super().token(priority, call_timeout)


@virtual
async def test_a_broken_bucket_ends_the_wait_for_the_next_activity_of_a_source() -> None:
    async def source() -> AsyncIterator[Activity]:
        yield activity(1)
        await asyncio.Event().wait()

    class FailsInRetry(Broken):
        left = 1

    async with poster_to(
        LeadSquared(answers(httpx.Response(500))), bucket=FailsInRetry()
    ) as poster:
        with pytest.raises(BatchError) as caught:
            await poster.post_many(source())
    assert isinstance(caught.value.exceptions[-1], LookupError)
    assert now() < 2


@pytest.mark.parametrize(
    ("first", "state"), [(httpx.Response(500), "failed"), (httpx.ReadTimeout("no"), "uncertain")]
)
@virtual
async def test_a_bucket_that_breaks_before_a_retry_leaves_what_the_first_attempt_proved(
    first: httpx.Response | Exception, state: str
) -> None:
    class FailsInRetry(Broken):
        left = 1

    leadsquared = LeadSquared(answers(first))
    async with poster_to(leadsquared, bucket=FailsInRetry(), on_uncertain="retry") as poster:
        with pytest.raises(BatchError) as caught:
            await poster.post_many([activity(1)])
    assert [outcome.state for outcome in caught.value.outcomes] == [state]
    assert isinstance(caught.value.exceptions[-1], LookupError)


@virtual
async def test_a_broken_bucket_ends_the_batch_with_every_outcome() -> None:
    async with poster_to(LeadSquared(there=0.1), bucket=Broken()) as poster:
        with pytest.raises(BatchError) as caught:
            await poster.post_many(numbered(100))
    states = [o.state for o in caught.value.outcomes]
    assert states[:10] == ["accepted"] * 10
    assert set(states[10:]) == {"not_sent"}
    assert isinstance(caught.value.exceptions[-1], LookupError)


@virtual
async def test_a_source_that_raises_cancelled_error_ends_the_batch_without_a_hang() -> None:
    async def source() -> AsyncIterator[Activity]:
        yield activity(1)
        raise asyncio.CancelledError

    outcomes: list[str | None] = []
    async with poster_to(LeadSquared(there=0.1)) as poster:
        stream = poster.post_stream(source())
        outcomes.append((await anext(stream)).request_id)
        with pytest.raises(RuntimeError, match="cancelled its task"):
            await anext(stream)
    assert outcomes == ["r1"]


@pytest.mark.parametrize("takes", [0.1, 10.0])
@virtual
async def test_a_source_that_yields_within_a_time_out_ends_the_batch_and_loses_no_id(
    takes: float,
) -> None:
    """PEP 789 advises against it: the time-out cancels the task that entered it."""

    async def source() -> AsyncIterator[Activity]:
        async with asyncio.timeout(1):
            for number in range(1, 6):
                yield activity(number)
                await asyncio.sleep(0.4)

    leadsquared = LeadSquared(there=takes)
    async with poster_to(leadsquared) as poster:
        with pytest.raises(BatchError) as caught:
            await poster.post_many(source())
    assert [o.request_id for o in caught.value.outcomes] == ["r1", "r2", "r3"]
    assert leadsquared.numbers == [1, 2, 3]
    assert isinstance(caught.value.exceptions[-1], TimeoutError)


@pytest.mark.parametrize("where", ["source", "client"])
@virtual
async def test_a_base_exception_of_the_source_or_client_ends_the_batch_without_a_hang(
    where: str,
) -> None:
    """As `pytest.fail` does in the handler of a mock transport."""

    class Failed(BaseException):
        pass

    async def fail(_: httpx.Request) -> httpx.Response:
        raise Failed

    def source() -> Iterator[Activity]:
        yield activity(1)
        if where == "source":
            raise Failed
        yield from numbered(100)

    async with poster_to(LeadSquared(fail if where == "client" else accept)) as poster:
        stream = poster.post_stream(source())
        states = {(await anext(stream)).state}

        async def drain() -> None:
            async for outcome in stream:
                states.add(outcome.state)

        with pytest.raises(Failed):
            await drain()
        assert states == {"uncertain" if where == "client" else "accepted"}
        assert len(asyncio.all_tasks()) == 1


@virtual
async def test_leaving_the_stream_early_ends_its_tasks_but_not_the_calls_in_flight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    leadsquared = LeadSquared(there=0.1)
    async with poster_to(leadsquared) as poster:
        stream = poster.post_stream(numbered(500))
        first = await anext(stream)
        await stream.aclose()
        left_at = now()
        await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) == 1
        assert max(leadsquared.arrivals) <= left_at + 0.1
        for number in set(leadsquared.numbers) - {first.index + 1}:
            assert f"RequestID r{number}" in caplog.text


@virtual
async def test_what_a_hook_of_the_client_stops_before_sending_was_not_sent() -> None:
    leadsquared = LeadSquared(accept)

    async def stop(_: httpx.Request) -> None:
        raise KeyError("a hook")

    async with leadsquared.client() as client:
        client.event_hooks = {"request": [stop]}
        poster = AsyncActivityPoster(account(), client=client, bucket=OpenBucket())
        with pytest.raises(BatchError) as caught:
            await poster.post_many([activity(1)])
    assert [outcome.state for outcome in caught.value.outcomes] == ["not_sent"]
    assert leadsquared.requests == []


@virtual
async def test_of_several_errors_the_first_is_raised() -> None:
    leadsquared = LeadSquared(accept, there=1.0)

    async def fail(_: httpx.Response) -> None:
        raise KeyError("the second")

    def source() -> Iterator[Activity]:
        yield activity(1)
        raise ValueError("the first")

    async with leadsquared.client() as client:
        client.event_hooks = {"response": [fail]}
        poster = AsyncActivityPoster(account(), client=client, bucket=OpenBucket())
        with pytest.raises(ValueError, match="the first"):
            async for _ in poster.post_stream(source()):
                pass


@virtual
async def test_of_a_batch_that_is_left_all_unseen_that_may_have_arrived_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        number = number_in(request)
        await asyncio.sleep(number)
        return httpx.Response({2: 400, 3: 502}[number]) if number in {2, 3} else accepted(number)

    async with poster_to(LeadSquared(answer), bucket=OpenBucket()) as poster:
        stream = poster.post_stream(numbered(4))
        assert (await anext(stream)).request_id == "r1"
        await asyncio.sleep(10)
        await stream.aclose()
    left = [message for message in caplog.messages if "left early" in message]
    assert left == [
        "post (index 2): batch left early: uncertain, DeliveryUncertain, HTTP 502",
        "post (index 3): batch left early: accepted, RequestID r4",
    ]


@pytest.mark.usefixtures("nothing_unhandled")
async def test_a_caller_cancelled_again_and_again_loses_no_outcome(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = list[str | None]()
    async with poster_to(LeadSquared(), bucket=OpenBucket()) as poster:
        with anyio.CancelScope() as scope:
            async with aclosing(poster.post_stream(numbered(3))) as stream:
                async for outcome in stream:
                    seen.append(outcome.request_id)
                    await asyncio.sleep(0.05)  # the second outcome is queued, the third waits
                    scope.cancel()
                    await asyncio.sleep(0)  # raises, like every wait in the scope from now on
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
    assert seen == ["r1"]
    assert {f"RequestID r{n}" in caplog.text for n in (2, 3)} == {True}
