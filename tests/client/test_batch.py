"""Batches, on a virtual clock: order, pace, priorities, outcomes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from batch_support import numbered, numbered_async, numbered_list, poster_to, refuse
from support import LeadSquared, activity, answers, fullest, now, number_in, run_virtual, virtual

from leadpost import (
    Activity,
    ApplicationError,
    BatchError,
    DeliveryUncertain,
    InvalidActivity,
    OpenBucket,
    RetryPolicy,
)
from leadpost._batch import LONG, MOST_AT_ONCE


@virtual
async def test_200_posts_reach_nine_tenths_of_the_possible_rate_and_leave_in_order() -> None:
    leadsquared = LeadSquared(there=0.085, back=0.085)
    async with poster_to(leadsquared) as poster:
        await poster.post_many(numbered(200))
    assert leadsquared.numbers == list(range(1, 201))
    # Possible are 25 at once and 25 more every 5 s.
    assert 35 / now() >= 0.90
    for start in range(175):
        assert leadsquared.arrivals[start + 25] - leadsquared.arrivals[start] >= 5 - 1e-6


@pytest.mark.parametrize("source", [numbered, numbered_async, numbered_list])
@virtual
async def test_request_ids_are_in_the_order_of_the_inputs(source: Callable[[int], Any]) -> None:
    async def late_for_some(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(number_in(request) % 7)
        return await LeadSquared().answer(request)

    async with poster_to(LeadSquared(late_for_some)) as poster:
        ids = await poster.post_many(source(120))
    assert ids == [f"r{n}" for n in range(1, 121)]


@virtual
async def test_an_empty_batch_returns_nothing() -> None:
    async with poster_to(LeadSquared()) as poster:
        assert await poster.post_many([]) == []
        assert [o async for o in poster.post_stream(iter(()))] == []


@virtual
async def test_the_source_is_drawn_as_fast_as_it_is_posted_by_a_bounded_number_of_tasks() -> None:
    drawn = 0
    most_tasks = 0

    def source() -> Iterator[Activity]:
        nonlocal drawn, most_tasks
        for one in numbered(500):
            drawn += 1
            most_tasks = max(most_tasks, len(asyncio.all_tasks()))
            yield one

    leadsquared = LeadSquared(there=0.1)
    async with poster_to(leadsquared) as poster:
        async for _ in poster.post_stream(source()):
            assert drawn - len(leadsquared.requests) <= 26
    assert drawn == 500
    assert most_tasks <= MOST_AT_ONCE + 25 + 5  # posts, their calls, and the batch itself


@virtual
async def test_a_slow_consumer_slows_the_drawing() -> None:
    drawn: list[Activity] = []

    def source() -> Iterator[Activity]:
        for one in numbered(500):
            drawn.append(one)
            yield one

    async with poster_to(LeadSquared(), bucket=OpenBucket()) as poster:
        stream = poster.post_stream(source())
        await anext(stream)
        await asyncio.sleep(1000)
        assert len(drawn) <= MOST_AT_ONCE + 2
        await stream.aclose()


@virtual
async def test_a_retry_goes_before_untried_activities(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    leadsquared = LeadSquared(answers(None, httpx.Response(500)))
    async with poster_to(leadsquared) as poster:
        await poster.post_many(numbered(500))
    assert leadsquared.numbers.count(2) == 2
    # Among the first of the second 25, not the last of 500.
    assert leadsquared.numbers.index(2, 2) <= 30
    line = "post (index 1): attempt 1 failed (ServerError, HTTP 500), the next one in 0.5 s"
    assert line in caplog.messages


@virtual
async def test_many_activities_waiting_to_be_retried_do_not_stop_the_others() -> None:
    async def some_refused(request: httpx.Request) -> httpx.Response:
        number = number_in(request)
        if number % 2 or number > 40 or leadsquared.numbers.count(number) > 1:
            return await LeadSquared().answer(request)
        return httpx.Response(500)

    leadsquared = LeadSquared(some_refused)
    patient = RetryPolicy(initial_wait=60, max_wait=60, jitter=0)
    async with poster_to(leadsquared, retry=patient) as poster:
        await poster.post_many(numbered(200))
    assert leadsquared.numbers[:200] == list(range(1, 201))
    assert sorted(leadsquared.numbers[200:]) == list(range(2, 41, 2))


@virtual
async def test_a_single_post_goes_before_a_batch() -> None:
    leadsquared = LeadSquared(there=0.1)
    async with poster_to(leadsquared) as poster:
        batch = asyncio.create_task(poster.post_many(numbered(500)))
        await asyncio.sleep(12)
        sent = len(leadsquared.numbers)
        assert await poster.post(activity(9999)) == "r9999"
        assert leadsquared.numbers.index(9999) - sent <= 1  # one had its token already
        await batch


@virtual
async def test_a_small_batch_gets_through_beside_a_long_one() -> None:
    leadsquared = LeadSquared(there=0.1)
    async with poster_to(leadsquared) as poster:
        long = asyncio.create_task(poster.post_many(numbered_list(2 * LONG)))
        await asyncio.sleep(60)
        began = now()
        await poster.post_many([activity(9000 + n) for n in range(5)])
        # The two take turns, a token each 0.2 s.
        assert now() - began < 3
        assert not long.done()
        long.cancel()


@pytest.mark.parametrize(
    ("source", "even_from"),
    [
        pytest.param(numbered_list(LONG), 0, id="long"),
        pytest.param(numbered(LONG), LONG // 2 + MOST_AT_ONCE, id="of unknown length"),
        # All leave as fast as tokens allow: nothing is evenly spaced.
        pytest.param(numbered_list(LONG - 1), LONG, id="shorter"),
    ],
)
@virtual
async def test_a_long_batch_leaves_evenly_spaced_so_a_single_post_finds_a_token_soon(
    source: Any, even_from: int
) -> None:
    leadsquared = LeadSquared()
    async with poster_to(leadsquared) as poster:
        batch = asyncio.create_task(poster.post_many(source))
        await asyncio.sleep(150)
        await poster.post(activity(9999))
        if even_from < LONG:
            assert now() - 150 < 1
        await batch
    even, before = leadsquared.arrivals[even_from:], leadsquared.arrivals[:even_from]
    assert not even or fullest(even, 1.0) <= 7
    assert not before or fullest(before[-200:], 1.0) == 25


@virtual
async def test_everything_valid_is_posted_and_the_error_has_every_outcome() -> None:
    refusal = httpx.Response(500, json={"ExceptionType": "MXInvalidActivityException"})
    inputs: list[Any] = [activity(1), activity(2), {"ActivityEvent": 3}, activity(4)]
    leadsquared = LeadSquared(refuse(2, with_=refusal))
    async with poster_to(leadsquared) as poster:
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


def test_except_star_works_on_a_batch_error() -> None:
    async def main() -> BatchError:
        leadsquared = LeadSquared(refuse(2, with_=httpx.Response(502)))
        async with poster_to(leadsquared) as poster:
            with pytest.raises(BatchError) as caught:
                await poster.post_many([activity(2), activity(1), {"ActivityEvent": 3}])
            return caught.value

    error = run_virtual(main())
    matched, rest = error.split(DeliveryUncertain)
    assert isinstance(matched, BatchError)
    assert isinstance(rest, BatchError)
    assert [type(e) for e in matched.exceptions] == [DeliveryUncertain]
    assert rest.outcomes == error.outcomes


@pytest.mark.parametrize("one", [activity(), activity().to_payload(), "text", b"bytes"])
@virtual
async def test_one_activity_in_place_of_many_raises(one: Any) -> None:
    async with poster_to(LeadSquared()) as poster:
        with pytest.raises(TypeError, match=f"found one {type(one).__name__}, wanted an iter"):
            await poster.post_many(one)
        with pytest.raises(TypeError, match="found one"):
            await anext(poster.post_stream(one))


@virtual
async def test_a_batch_logs_when_it_begins_and_counts_its_states_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    async with poster_to(LeadSquared(answers(httpx.Response(400)))) as poster:
        await poster.post_many(numbered(3), return_exceptions=True)
        await poster.post_many([])

    logged = [r.message for r in caplog.records if r.name == "leadpost"]
    assert logged[0] == "batch begins"
    assert set(logged[1].removeprefix("batch ended: ").split(", ")) == {"2 accepted", "1 rejected"}
    assert logged[3] == "batch ended: nothing was posted"
