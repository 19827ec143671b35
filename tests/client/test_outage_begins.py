"""What counts as an outage, and what does not."""

from __future__ import annotations

import asyncio
from random import Random
from threading import Thread
from typing import Any

import httpx
import pytest
from batch_support import numbered, poster_to
from outage_support import (
    NOT_UNCERTAIN,
    ONCE,
    PATIENT,
    UNCERTAIN,
    Fault,
    Outage,
    attempt,
    away,
    name_of,
    outcomes_of,
    posts_by,
)
from support import LeadSquared, accept, activity, answers, now, virtual

from leadpost import (
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    OpenBucket,
    RetryPolicy,
    ServerError,
)
from leadpost._attempts import Terms
from leadpost._poster import post_once


@pytest.mark.parametrize("fault", [*NOT_UNCERTAIN, *UNCERTAIN, httpx.Response(504)], ids=name_of)
@virtual
async def test_three_posts_in_a_row_without_a_proper_answer_are_an_outage(fault: Fault) -> None:
    async with poster_to(Outage(fault), retry=ONCE, bucket=OpenBucket()) as poster:
        await attempt(poster, 1, 2)
        assert not poster.is_away
        third = asyncio.create_task(poster.post(activity(3)))
        await asyncio.sleep(3)
        assert poster.is_away
        third.cancel()


@virtual
async def test_how_long_an_outage_lasts_can_be_read_from_a_thread() -> None:
    async with away(Outage(httpx.Response(503))) as poster:
        await asyncio.sleep(7)
        found = list[float | None]()
        thread = Thread(target=lambda: found.append(poster.away_for))
        thread.start()
        thread.join()
        assert found == [poster.away_for]
        assert found == [pytest.approx(7.0, abs=0.2)]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(400),
        httpx.Response(401),
        httpx.Response(404),
        httpx.Response(429),
        httpx.Response(500, json={"ExceptionType": "MXInvalidActivityException"}),
        httpx.Response(200, json={"Status": "Error", "ExceptionType": "MXLeadNotFoundException"}),
    ],
    ids=lambda response: str(response.status_code),
)
@virtual
async def test_a_refusal_is_a_proper_answer(answer: httpx.Response) -> None:
    policy = RetryPolicy(max_attempts=1, max_time=1, jitter=0)
    leadsquared = Outage(answer)
    async with poster_to(leadsquared, retry=policy, bucket=OpenBucket()) as poster:
        await attempt(poster, 1, 2, 3, 4)
        assert not poster.is_away
        assert set(leadsquared.posted) == {1, 2, 3, 4}


@pytest.mark.parametrize("between", [None, httpx.Response(400)], ids=["accepted", "refused"])
@virtual
async def test_a_proper_answer_in_between_starts_the_count_again(between: Any) -> None:
    fault = httpx.Response(500)
    leadsquared = LeadSquared(answers(fault, fault, between, fault, fault))
    async with poster_to(leadsquared, retry=ONCE) as poster:
        await attempt(poster, 1, 2, 3, 4, 5)
        assert not poster.is_away


@virtual
async def test_a_query_that_is_answered_proves_nothing_about_posts() -> None:
    leadsquared = Outage(httpx.Response(500), metrics="up")
    async with poster_to(leadsquared, retry=ONCE, bucket=OpenBucket()) as poster:
        await attempt(poster, 1, 2)
        await poster.metrics()
        third = asyncio.create_task(poster.post(activity(3)))
        await asyncio.sleep(0.1)
        assert poster.is_away
        await poster.metrics()  # goes at once, and ends nothing
        assert now() == pytest.approx(0.1, abs=0.01)
        assert poster.is_away
        third.cancel()


@virtual
async def test_queries_that_fail_are_no_outage() -> None:
    leadsquared = Outage(httpx.Response(500))
    async with poster_to(leadsquared, retry=ONCE) as poster:
        for _ in range(5):
            with pytest.raises(ServerError):
                await poster.metrics()
        assert not poster.is_away


@virtual
async def test_the_synchronous_api_has_its_own_outage() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/activity/create":
            return httpx.Response(500)
        return httpx.Response(200, json={"Status": "Success", "Message": {"Id": "a1"}})

    async with poster_to(LeadSquared(answer), retry=ONCE) as poster:
        await attempt(poster, 1, 2)
        third = asyncio.create_task(poster.post(activity(3)))
        await asyncio.sleep(0.1)
        assert poster.is_away
        assert await poster.post_sync(activity(4)) == "a1"
        assert now() == pytest.approx(0.1, abs=0.01)
        third.cancel()


@virtual
async def test_one_activity_that_always_fails_is_no_outage() -> None:
    async with poster_to(Outage(httpx.Response(500))) as poster:
        with pytest.raises(ServerError) as caught:
            await poster.post(activity(1))
        assert caught.value.attempts == 5
        assert not poster.is_away


@pytest.mark.parametrize("use", ["post_many", "post_stream"])
@pytest.mark.parametrize(
    ("fault", "kind", "attempts"),
    [
        (httpx.Response(500), ServerError, 5),
        (httpx.ConnectError("no"), ConnectionFailed, 5),
        (httpx.ReadError("a dead connection"), DeliveryUncertain, 1),
    ],
    ids=name_of,
)
@virtual
async def test_one_activity_that_always_fails_among_successful_ones_is_no_outage(
    use: str,
    fault: Fault,
    kind: type[LeadpostError],
    attempts: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    leadsquared = LeadSquared(posts_by(7, fault), there=0.1)
    async with poster_to(leadsquared) as poster:
        outcomes = await outcomes_of(use, poster, 100)
    (failed,) = [outcome for outcome in outcomes if outcome.error is not None]
    assert (failed.index, type(failed.error)) == (6, kind)
    assert failed.error is not None
    assert failed.error.attempts == leadsquared.numbers.count(7) == attempts
    assert "does not answer posts" not in caplog.text


@virtual
async def test_two_in_a_hundred_failing_by_chance_are_no_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    random = Random(1)

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if random.random() < 0.02 else await accept(request)

    leadsquared = LeadSquared(answer, there=0.1, back=0.1)
    async with poster_to(leadsquared) as poster:
        assert len(await poster.post_many(numbered(900))) == 900
    assert len(leadsquared.requests) > 910
    assert "does not answer posts" not in caplog.text


@virtual
async def test_an_activity_that_cannot_be_drawn_does_not_end_an_outage() -> None:
    async def draw() -> dict[str, Any]:
        return {"ActivityEvent": "none"}

    leadsquared = Outage(httpx.Response(500))
    async with away(leadsquared, retry=PATIENT) as poster:
        sent = len(leadsquared.posted)
        terms = Terms(outage_until=lambda since: since + 1000)
        await asyncio.gather(post_once(poster, draw, terms), return_exceptions=True)
        assert poster.is_away
        assert len(leadsquared.posted) == sent
