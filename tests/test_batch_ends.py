"""What ends a batch before its time: refusals, a stop, errors, cancellation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from batch_support import numbered, poster_to, refuse
from support import Vendor, VirtualLoop, accept, activity, answers, now, run_virtual

from leadpost import (
    Activity,
    BatchError,
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
        (httpx.Response(429, headers={"Retry-After": "86400"}), RateLimited),
    ],
)
def test_refused_keys_or_a_spent_quota_stop_the_batch_at_once(
    stopping: httpx.Response, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        vendor = Vendor(refuse(30, with_=stopping), there=0.1)
        async with poster_to(vendor) as poster:
            with pytest.raises(BatchError) as caught:
                await poster.post_many(numbered(1000))
        outcomes = caught.value.outcomes
        assert len(outcomes) == 1000
        assert type(outcomes[29].error) is kind
        assert len(vendor.requests) <= 50
        accepted = [o for o in outcomes if o.state == "accepted"]
        assert len(accepted) == len(vendor.requests) - 1
        assert {type(o.error) for o in outcomes[60:]} == {NotSent}
        assert now() < 11

    with caplog.at_level(logging.INFO, "leadpost"):
        run_virtual(main())
    assert f"the batch stops sending: {kind.__name__}" in caplog.text


def test_a_retry_under_way_when_the_batch_stops_gives_its_own_error() -> None:
    async def main() -> None:
        script = answers(httpx.Response(500), httpx.Response(401))
        vendor = Vendor(script)
        async with poster_to(vendor) as poster:
            outcomes = [o async for o in poster.post_stream(numbered(30))]
        errors = {o.index: type(o.error) for o in outcomes if o.error}
        assert errors[0] is ServerError
        assert errors[1] is Unauthorized

    run_virtual(main())


def test_stop_ends_drawing_and_waiting_but_not_what_is_under_way() -> None:
    async def main() -> None:
        vendor = Vendor(refuse(1, with_=httpx.Response(500)), there=1.0)
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, stop.set)
        async with poster_to(vendor) as poster:
            outcomes = [o async for o in poster.post_stream(numbered(500), stop=stop)]
        assert now() < 2
        states = [o.state for o in sorted(outcomes, key=lambda o: o.index)]
        # 25 were under way (one of them failed and is not tried again), one had the turn.
        assert states == ["failed", *["accepted"] * 24, "not_sent"]
        assert {str(o.error) for o in outcomes if o.state == "not_sent"} == {
            "the wait for a token ended before a call was made"
        }
        assert len(vendor.requests) == 25

    run_virtual(main())


def test_stop_in_the_turn_in_which_a_wait_ends_by_itself_ends_the_others_too() -> None:
    async def main() -> None:
        stop = asyncio.Event()
        bucket = TokenBucket(3)
        # Three fail at once; their retries wait for tokens until the time is up, at 2 s.
        vendor = Vendor(answers(*[httpx.Response(500)] * 3))
        policy = RetryPolicy(max_time=2, jitter=0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        def block() -> None:
            # The times run out in the turn in which the stop is set, just after it.
            loop.call_soon(stop.set)
            loop.jump(0.1)

        loop.call_at(1.95, block)
        async with poster_to(vendor, bucket=bucket, retry=policy) as poster:
            outcomes = [o async for o in poster.post_stream(numbered(50), stop=stop)]
        assert sorted(o.state for o in outcomes) == ["failed"] * 3 + ["not_sent"]

    run_virtual(main())


def test_stop_ends_the_wait_for_a_source_that_has_nothing_more() -> None:
    async def source() -> AsyncIterator[Activity]:
        yield activity(1)
        await asyncio.Event().wait()

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(3, stop.set)
        async with poster_to(Vendor()) as poster:
            outcomes = [o async for o in poster.post_stream(source(), stop=stop)]
        assert [o.request_id for o in outcomes] == ["r1"]

    run_virtual(main())


@pytest.mark.parametrize("error", [ValueError("row 31 is broken"), TimeoutError("no more rows")])
def test_an_error_of_the_source_comes_out_and_no_request_id_is_lost(error: Exception) -> None:
    def source() -> Iterator[Activity]:
        yield from numbered(30)
        raise error

    async def main() -> None:
        async with poster_to(Vendor(there=0.1)) as poster:
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

    run_virtual(main())


def test_a_broken_bucket_ends_the_batch_with_every_outcome_known_or_in_doubt() -> None:
    class Broken(OpenBucket):
        left = 10

        def token(self) -> Any:
            self.left -= 1
            if self.left < 0:
                raise LookupError("the database of this bucket is away")
            return super().token()

    async def main() -> None:
        async with poster_to(Vendor(there=0.1), bucket=Broken()) as poster:
            with pytest.raises(BatchError) as caught:
                await poster.post_many(numbered(100))
        states = [o.state for o in caught.value.outcomes]
        assert states[:10] == ["accepted"] * 10
        assert set(states[10:]) == {"not_sent"}
        assert isinstance(caught.value.exceptions[-1], LookupError)

    run_virtual(main())


def test_a_source_that_is_cancelled_by_itself_ends_the_batch_and_does_not_hang_it() -> None:
    async def source() -> AsyncIterator[Activity]:
        yield activity(1)
        raise asyncio.CancelledError

    async def main() -> None:
        outcomes: list[str | None] = []
        async with poster_to(Vendor(there=0.1)) as poster:
            stream = poster.post_stream(source())
            outcomes.append((await anext(stream)).request_id)
            with pytest.raises(RuntimeError, match="cancelled a worker"):
                await anext(stream)
        assert outcomes == ["r1"]

    run_virtual(main())


def test_a_source_that_yields_within_a_time_out_ends_the_batch_and_no_request_id_is_lost() -> None:
    """Which PEP 789 advises against: it cancels the task that entered it, not the one in it."""

    async def source() -> AsyncIterator[Activity]:
        async with asyncio.timeout(1):
            for number in range(1, 6):
                yield activity(number)
                await asyncio.sleep(0.4)

    async def main() -> None:
        vendor = Vendor(there=0.1)
        async with poster_to(vendor) as poster:
            with pytest.raises(BatchError) as caught:
                await poster.post_many(source())
        found = [o.request_id for o in caught.value.outcomes if o.state == "accepted"]
        assert found == [f"r{number}" for number in vendor.numbers]

    run_virtual(main())


@pytest.mark.parametrize("where", ["source", "client"])
def test_what_no_handler_of_exceptions_takes_ends_the_batch_and_does_not_hang_it(
    where: str,
) -> None:
    """As what `pytest.fail` raises, in the handler of somebody's fake vendor."""

    class Failed(BaseException):
        pass

    async def fail(_: httpx.Request) -> httpx.Response:
        raise Failed

    def source() -> Iterator[Activity]:
        yield activity(1)
        if where == "source":
            raise Failed
        yield from numbered(100)

    async def main() -> None:
        async with poster_to(Vendor(fail if where == "client" else accept)) as poster:
            stream = poster.post_stream(source())
            states = {(await anext(stream)).state}

            async def drain() -> None:
                async for outcome in stream:
                    states.add(outcome.state)

            with pytest.raises(Failed):
                await drain()
            assert states == {"uncertain" if where == "client" else "accepted"}
            assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_leaving_the_stream_early_ends_its_tasks() -> None:
    async def main() -> None:
        async with poster_to(Vendor(there=0.1)) as poster:
            stream = poster.post_stream(numbered(500))
            async for _ in stream:
                break
            await stream.aclose()
            assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_cancellation_passes_through_a_batch() -> None:
    async def main() -> None:
        async with poster_to(Vendor(there=0.1)) as poster:
            batch = asyncio.create_task(poster.post_many(numbered(500)))
            await asyncio.sleep(7)
            batch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await batch
            assert len(asyncio.all_tasks()) == 1
            assert await poster.post(activity(1)) == "r1"

    run_virtual(main())
