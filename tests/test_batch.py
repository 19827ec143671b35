"""Batches, on a virtual clock: order, the window, fair turns, and what ends one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from support import (
    Vendor,
    VirtualLoop,
    accept,
    account,
    activity,
    answers,
    fullest,
    now,
    number_in,
    run_virtual,
)

from leadpost import (
    Activity,
    ApplicationError,
    AsyncActivityPoster,
    BatchError,
    DeliveryUncertain,
    InvalidActivity,
    NotSent,
    OpenBucket,
    RateLimited,
    RetryPolicy,
    ServerError,
    TokenBucket,
    Unauthorized,
)
from leadpost.batch import LONG, WINDOW

STEADY = RetryPolicy(jitter=0)


def poster_to(vendor: Vendor, **options: Any) -> AsyncActivityPoster:
    options.setdefault("retry", STEADY)
    return AsyncActivityPoster(account(), client=vendor.client(), **options)


def numbered(count: int) -> Iterator[Activity]:
    return (activity(n) for n in range(1, count + 1))


def numbered_list(count: int) -> list[Activity]:
    return list(numbered(count))


async def numbered_async(count: int) -> AsyncIterator[Activity]:
    for one in numbered(count):
        yield one


def refuse(*numbers: int, with_: httpx.Response) -> Any:
    """Answer these activities so, always, and accept all others."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) in numbers:
            return with_
        return await Vendor().answer(request)

    return answer


def test_200_posts_reach_nine_tenths_of_the_ceiling_and_leave_in_order() -> None:
    async def main() -> None:
        vendor = Vendor(there=0.085, back=0.085)
        async with poster_to(vendor) as poster:
            await poster.post_many(numbered(200))
        assert vendor.numbers == list(range(1, 201))
        # The ceiling: 25 at once and 25 more every 5 s.
        assert 35 / now() >= 0.90
        for start in range(175):
            assert vendor.arrivals[start + 25] - vendor.arrivals[start] >= 5 - 1e-6

    run_virtual(main())


@pytest.mark.parametrize("source", [numbered, numbered_async, numbered_list])
def test_request_ids_come_in_the_order_of_the_inputs(source: Callable[[int], Any]) -> None:
    async def late_for_some(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(number_in(request) % 7)
        return await Vendor().answer(request)

    async def main() -> None:
        async with poster_to(Vendor(late_for_some)) as poster:
            ids = await poster.post_many(source(120))
        assert ids == [f"r{n}" for n in range(1, 121)]

    run_virtual(main())


def test_an_empty_batch_is_no_error() -> None:
    async def main() -> None:
        async with poster_to(Vendor()) as poster:
            assert await poster.post_many([]) == []
            assert [o async for o in poster.post_stream(iter(()))] == []

    run_virtual(main())


def test_the_source_is_drawn_only_as_fast_as_it_is_posted_and_tasks_are_bounded() -> None:
    drawn = 0
    most_tasks = 0

    def source() -> Iterator[Activity]:
        nonlocal drawn, most_tasks
        for one in numbered(500):
            drawn += 1
            most_tasks = max(most_tasks, len(asyncio.all_tasks()))
            yield one

    async def main() -> None:
        vendor = Vendor(there=0.1)
        async with poster_to(vendor) as poster:
            async for _ in poster.post_stream(source()):
                assert drawn - len(vendor.requests) <= 26
        assert drawn == 500
        assert most_tasks <= WINDOW + 5

    run_virtual(main())


def test_a_consumer_that_is_slow_holds_the_drawing_up() -> None:
    drawn: list[Activity] = []

    def source() -> Iterator[Activity]:
        for one in numbered(500):
            drawn.append(one)
            yield one

    async def main() -> None:
        async with poster_to(Vendor(), bucket=OpenBucket()) as poster:
            stream = poster.post_stream(source())
            await anext(stream)
            await asyncio.sleep(1000)
            assert len(drawn) <= WINDOW + 2
            await stream.aclose()

    run_virtual(main())


def test_a_retry_does_not_wait_behind_activities_that_were_not_tried() -> None:
    async def main() -> None:
        vendor = Vendor(answers(None, httpx.Response(500)))
        async with poster_to(vendor) as poster:
            await poster.post_many(numbered(500))
        assert vendor.numbers.count(2) == 2
        # Among the first of the second 25, not the last of 500.
        assert vendor.numbers.index(2, 2) <= 30

    run_virtual(main())


def test_many_that_are_to_be_tried_again_do_not_stop_the_others() -> None:
    async def main() -> None:
        vendor = Vendor(answers(*[httpx.Response(503, headers={"Retry-After": "60"})] * 20))
        async with poster_to(vendor) as poster:
            await poster.post_many(numbered(200))
        assert [n for n in vendor.numbers[:125] if n > 20] == list(range(21, 126))

    run_virtual(main())


def test_a_single_post_passes_the_batch() -> None:
    async def main() -> None:
        vendor = Vendor(there=0.1)
        async with poster_to(vendor) as poster:
            batch = asyncio.create_task(poster.post_many(numbered(500)))
            await asyncio.sleep(12)
            sent = len(vendor.numbers)
            assert await poster.post(activity(9999)) == "r9999"
            assert vendor.numbers.index(9999) - sent <= 1  # one had the turn already
            await batch

    run_virtual(main())


@pytest.mark.parametrize(
    ("source", "even_from"),
    [
        pytest.param(numbered_list(LONG), 0, id="long"),
        pytest.param(numbered(LONG), LONG // 2 + WINDOW, id="of unknown length"),
        pytest.param(numbered_list(LONG - 1), LONG, id="shorter"),
    ],
)
def test_a_long_batch_leaves_evenly_and_a_single_post_finds_a_token_soon(
    source: Any, even_from: int
) -> None:
    async def main() -> None:
        vendor = Vendor()
        async with poster_to(vendor) as poster:
            batch = asyncio.create_task(poster.post_many(source))
            await asyncio.sleep(150)
            await poster.post(activity(9999))
            if even_from < LONG:
                assert now() - 150 < 1
            await batch
        even, before = vendor.arrivals[even_from:], vendor.arrivals[:even_from]
        assert not even or fullest(even, 1.0) <= 7
        assert not before or fullest(before, 1.0) == 25

    run_virtual(main())


def test_all_that_can_be_posted_is_and_the_error_carries_every_outcome() -> None:
    said_no = httpx.Response(500, json={"ExceptionType": "MXInvalidActivityException"})
    inputs: list[Any] = [activity(1), activity(2), {"ActivityEvent": 3}, activity(4)]

    async def main() -> None:
        vendor = Vendor(refuse(2, with_=said_no))
        async with poster_to(vendor) as poster:
            with pytest.raises(BatchError) as caught:
                await poster.post_many(inputs)
            results = await poster.post_many(inputs, return_exceptions=True)
        error = caught.value
        assert str(error).startswith("2 of 4 activities were accepted (2 rejected)")
        assert [o.state for o in error.outcomes] == ["accepted", "rejected", "rejected", "accepted"]
        assert [o.request_id for o in error.outcomes] == ["r1", None, None, "r4"]
        assert [o.activity for o in error.outcomes] == inputs
        assert [o.index for o in error.outcomes] == [0, 1, 2, 3]
        assert [type(e) for e in error.exceptions] == [ApplicationError, InvalidActivity]
        assert [type(result) for result in results] == [str, ApplicationError, InvalidActivity, str]

    run_virtual(main())


def test_except_star_works_on_a_batch_error() -> None:
    async def main() -> BatchError:
        vendor = Vendor(refuse(2, with_=httpx.Response(502)))
        async with poster_to(vendor) as poster:
            with pytest.raises(BatchError) as caught:
                await poster.post_many([activity(2), activity(1), {"ActivityEvent": 3}])
            return caught.value

    error = run_virtual(main())
    matched, rest = error.split(DeliveryUncertain)
    assert isinstance(matched, BatchError)
    assert isinstance(rest, BatchError)
    assert [type(e) for e in matched.exceptions] == [DeliveryUncertain]
    assert rest.outcomes == error.outcomes


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


@pytest.mark.parametrize("one", [activity(), activity().to_payload(), "text", b"bytes"])
def test_one_activity_in_place_of_many_is_told(one: Any) -> None:
    async def main() -> None:
        async with poster_to(Vendor()) as poster:
            with pytest.raises(TypeError, match=f"found one {type(one).__name__}, wanted an iter"):
                await poster.post_many(one)
            with pytest.raises(TypeError, match="found one"):
                await anext(poster.post_stream(one))

    run_virtual(main())


def test_the_log_tells_when_a_batch_begins_and_what_became_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with poster_to(Vendor(answers(httpx.Response(400)))) as poster:
            await poster.post_many(numbered(3), return_exceptions=True)
            await poster.post_many([])

    with caplog.at_level(logging.INFO, "leadpost"):
        run_virtual(main())
    told = [r.message for r in caplog.records if r.name == "leadpost.poster"]
    assert told[0] == "batch begins"
    assert set(told[1].removeprefix("batch ended: ").split(", ")) == {"2 accepted", "1 rejected"}
    assert told[3] == "batch ended: nothing was posted"
