"""The end of an outage: nothing is lost or duplicated."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx
import pytest
from batch_support import numbered, poster_to
from outage_support import (
    NOTE,
    ONCE,
    PATIENT,
    READ_TIMEOUT,
    UNCERTAIN,
    Fault,
    Outage,
    attempt,
    each_fault,
    outcomes_of,
    warnings_in,
)
from support import LeadSquared, accept, account, activity, now, number_in, virtual

from leadpost import (
    AsyncActivityPoster,
    ConnectionFailed,
    DeliveryUncertain,
    NotSent,
    OpenBucket,
    RetryPolicy,
    TokenBucket,
)
from leadpost._availability import Availability


@pytest.mark.parametrize(
    ("use", "metrics"),
    [
        ("post_many", "down"),
        *(("post_stream", metrics) for metrics in ("down", "up", "404", "500", "other JSON")),
    ],
)
@each_fault
@virtual
async def test_an_outage_of_30_s_in_a_batch_loses_and_duplicates_nothing(
    use: str, metrics: Any, fault: Fault
) -> None:
    leadsquared = Outage(fault, begins=12, ends=42, metrics=metrics, there=0.1, back=0.1)
    async with poster_to(leadsquared) as poster:
        outcomes = await outcomes_of(use, poster, 200)
    states = Counter(outcome.state for outcome in outcomes)
    assert sum(states.values()) == 200
    assert set(states) <= {"accepted", "uncertain"}
    known_at = leadsquared.failed_at[2]
    sent_before = [at for at in leadsquared.posted_at if 12 <= at <= known_at + leadsquared.there]
    in_flight = len(sent_before) if fault in UNCERTAIN else 0
    assert states["uncertain"] <= in_flight + (5 if fault in UNCERTAIN else 0)
    assert set(leadsquared.taken.values()) == {1}
    assert {outcome.index + 1 for outcome in outcomes if outcome.state == "accepted"} <= set(
        leadsquared.taken
    )


@virtual
async def test_each_poster_leaves_at_most_five_more_uncertain() -> None:
    leadsquared = Outage(httpx.Response(502), begins=12, ends=42, there=0.1, back=0.1)
    bucket = TokenBucket()
    async with (
        poster_to(leadsquared, bucket=bucket) as one,
        poster_to(leadsquared, bucket=bucket) as other,
    ):
        batches = [outcomes_of("post_stream", poster, 100) for poster in (one, other)]
        found = [outcome for outcomes in await asyncio.gather(*batches) for outcome in outcomes]
    states = Counter(outcome.state for outcome in found)
    assert states["accepted"] + states["uncertain"] == 200
    known_at = leadsquared.failed_at[2]
    in_flight = sum(12 <= at <= known_at + leadsquared.there for at in leadsquared.posted_at)
    assert states["uncertain"] <= in_flight + 2 * 5


@virtual
async def test_in_a_batch_max_time_does_not_include_an_outage() -> None:
    leadsquared = Outage(httpx.Response(500), ends=250)
    policy = RetryPolicy(max_time=50, jitter=0)
    async with poster_to(leadsquared, retry=policy) as poster:
        assert await poster.post_many(numbered(5)) == ["r1", "r2", "r3", "r4", "r5"]


@virtual
async def test_an_outage_is_logged_when_it_begins_once_a_minute_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    fault = httpx.Response(500, json={"ExceptionMessage": f"no: {NOTE}"})
    leadsquared = Outage(fault, ends=250)
    async with poster_to(leadsquared, retry=PATIENT) as poster:
        await asyncio.gather(*(poster.post(activity(n)) for n in range(1, 4)))

    host = "http://127.0.0.1:9"
    begins, *progress, ends = warnings_in(caplog)
    assert begins == (
        f"{host} does not answer posts (ServerError, HTTP 500):"
        " posts wait, and one at a time is tried"
    )
    assert [message.split(" (")[0] for message in progress] == [
        f"{host} has not answered posts for {seconds} s" for seconds in (60, 120, 180, 240)
    ]
    assert "(ServerError, HTTP 500): 3 wait, the next try is in " in progress[0]
    assert ends.startswith(f"{host} answers posts again, after ")
    assert NOTE not in caplog.text


@virtual
async def test_late_failures_of_posts_sent_before_the_end_of_an_outage_do_not_reopen_it() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) > 3:
            return await accept(request)
        await asyncio.sleep(10)
        raise READ_TIMEOUT

    leadsquared = LeadSquared(answer)
    async with poster_to(leadsquared, retry=ONCE) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in (1, 2, 3)]
        await asyncio.sleep(5)
        await poster.post(activity(4))
        failed = await asyncio.gather(*posts, return_exceptions=True)
        assert [type(error) for error in failed] == [DeliveryUncertain] * 3
        assert not poster.is_away
        # Those sent since then count.
        later = [poster.post(activity(n)) for n in (1, 2, 3)]
        await asyncio.gather(*later, return_exceptions=True)
        assert poster.is_away


@virtual
async def test_after_a_failed_query_whoever_is_next_is_woken() -> None:
    asked, answered, failing = asyncio.Event(), asyncio.Event(), asyncio.Event()
    answers = iter([False, True])

    async def query() -> bool:
        asked.set()
        await answered.wait()
        return next(answers)

    availability = Availability("host", query)
    availability.enter_loop(asyncio.get_running_loop())

    async def fail(activity: int, when: asyncio.Event | None = None) -> None:
        with suppress(DeliveryUncertain):
            async with availability.turn(activity) as turn:
                assert availability.may_send(turn)
                if when is not None:
                    await when.wait()
                raise DeliveryUncertain("no answer")

    async def post(activity: int) -> float:
        async with availability.turn(activity) as turn:
            assert availability.may_send(turn)
            return now()

    late = asyncio.create_task(fail(7, failing))
    await asyncio.sleep(0)
    for number in (1, 2, 3):
        await fail(number)
    posts = [asyncio.create_task(post(7)), asyncio.create_task(post(8))]
    await asked.wait()  # before a trial with 7, of which an older post fails now
    failing.set()
    await late
    answered.set()
    async with asyncio.timeout(30):
        first, second = await asyncio.gather(*posts)
    assert second <= first


@virtual
async def test_a_trial_that_its_event_loop_left_behind_stops_no_other() -> None:
    async def query() -> bool:
        return True

    availability = Availability("host", query)
    availability.enter_loop(asyncio.get_running_loop())
    for number in (1, 2, 3):
        with suppress(ConnectionFailed):
            async with availability.turn(number) as turn:
                assert availability.may_send(turn)
                raise ConnectionFailed("no connection")
    left_behind = await availability.turn(4).__aenter__()
    assert availability.may_send(left_behind)
    availability.enter_loop(asyncio.get_running_loop())
    async with asyncio.timeout(60), availability.turn(5) as turn:
        assert availability.may_send(turn)
    assert not availability.is_away


@virtual
async def test_a_client_closed_during_an_outage_ends_a_waiting_post_as_not_sent() -> None:
    leadsquared = Outage(httpx.Response(504))
    client = leadsquared.client()
    poster = AsyncActivityPoster(account(), client=client, bucket=OpenBucket(), retry=ONCE)
    async with poster:
        await attempt(poster, 1, 2, 3)
        assert poster.is_away
        waiting = asyncio.create_task(poster.post(activity(4)))
        await asyncio.sleep(0.5)
        await client.aclose()
        with pytest.raises(NotSent, match="closed"):
            await waiting
