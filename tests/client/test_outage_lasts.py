"""While LeadSquared is away: posts wait, one at a time is tried, and patience may end."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import httpx
import pytest
from batch_support import STEADY, numbered, poster_to
from outage_support import (
    PATIENT,
    READ_TIMEOUT,
    UNCERTAIN,
    Fault,
    Outage,
    away,
    each_fault,
    name_of,
    outcomes_of,
    warnings_in,
)
from support import LeadSquared, accept, activity, now, number_in, virtual

from leadpost import (
    BatchError,
    DeliveryUncertain,
    NotSent,
    OpenBucket,
    OutageTimeout,
    RetryPolicy,
    ServerError,
    TokenBucket,
)
from leadpost.hooks import Ended, Event


@virtual
async def test_one_post_at_a_time_is_tried_after_growing_pauses_each_time_another() -> None:
    leadsquared = Outage(httpx.Response(500))
    async with poster_to(leadsquared, retry=PATIENT, bucket=OpenBucket()) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 4)]
        await asyncio.sleep(130)
        assert poster.is_away
        for post in posts:
            post.cancel()
    pauses = [b - a for a, b in pairwise(leadsquared.posted_at[2:])]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30], abs=0.01)
    assert all(a != b for a, b in pairwise(leadsquared.posted[2:]))
    assert set(leadsquared.posted[3:]) >= {1, 2}
    assert leadsquared.probes == []  # a 500 leaves nothing uncertain


@virtual
async def test_another_activity_is_tried_before_the_one_that_failed_last() -> None:
    leadsquared = Outage(httpx.Response(500))
    async with away(leadsquared, retry=PATIENT) as poster:
        first = asyncio.create_task(poster.post(activity(1)))
        await asyncio.sleep(40)
        assert leadsquared.posted[-1] == 1
        second = asyncio.create_task(poster.post(activity(2)))
        await asyncio.sleep(30)
        assert leadsquared.posted[-1] == 2
        await asyncio.sleep(30)
        assert leadsquared.posted[-1] == 1
        first.cancel()
        second.cancel()


@virtual
async def test_posts_that_wait_for_tokens_when_an_outage_begins_are_not_sent() -> None:
    leadsquared = Outage(httpx.Response(500), ends=50)
    async with poster_to(leadsquared, retry=PATIENT, bucket=TokenBucket(4)) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 21)]
        await asyncio.sleep(45)
        # 4 were sent before it was known, and one at a time tried, after 5, 10, 20 and 36 s.
        assert len(leadsquared.posted) <= 4 + 5
        assert await asyncio.gather(*posts) == [f"r{n}" for n in range(1, 21)]


@virtual
async def test_an_answer_to_a_post_from_before_an_outage_does_not_end_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) != 1:
            return httpx.Response(500)
        await asyncio.sleep(10)
        return await accept(request)

    async with poster_to(LeadSquared(answer), retry=PATIENT) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 5)]
        await asyncio.sleep(9)
        assert poster.is_away
        assert await posts[0] == "r1"
        assert poster.is_away
        for post in posts:
            post.cancel()
    assert "answers posts again" not in caplog.text


@virtual
async def test_an_uncertain_trial_makes_the_pauses_grow_to_five_minutes() -> None:
    leadsquared = Outage(httpx.Response(502), metrics="up")
    async with away(leadsquared, retry=PATIENT) as poster:
        before = len(leadsquared.posted)
        posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 30)]
        await asyncio.sleep(1500)
        for post in posts:
            post.cancel()
    times = leadsquared.posted_at[before - 1 :]
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses == pytest.approx([2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300], abs=0.01)
    # A query went right before each.
    assert leadsquared.probes == pytest.approx(times[1:], abs=0.01)


@pytest.mark.parametrize("fault", UNCERTAIN, ids=name_of)
@virtual
async def test_after_an_uncertain_post_no_post_is_tried_before_a_query_is_answered(
    fault: Fault,
) -> None:
    leadsquared = Outage(fault, ends=145)
    async with away(leadsquared, retry=PATIENT) as poster:
        before = len(leadsquared.posted)
        began = now()
        posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 6)]
        await asyncio.sleep(140 - began)
        assert len(leadsquared.posted) == before
        # A query that times out takes 2 s itself.
        pauses = [b - a for a, b in pairwise(leadsquared.probes)]
        assert pauses[:6] == pytest.approx([4, 8, 16, 30, 30, 30], abs=2.1)
        assert await asyncio.gather(*posts) == ["r1", "r2", "r3", "r4", "r5"]
        assert now() < 180


@virtual
async def test_a_wrong_metrics_path_does_not_keep_posts_away() -> None:
    leadsquared = Outage(READ_TIMEOUT, ends=20, metrics="404")
    async with away(leadsquared, retry=PATIENT) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 11)]
        results = await asyncio.gather(*posts, return_exceptions=True)
    uncertain = [result for result in results if isinstance(result, DeliveryUncertain)]
    assert len(uncertain) <= 3
    assert len(uncertain) + sum(isinstance(result, str) for result in results) == 10
    assert now() < 50


@virtual
async def test_queries_that_are_never_answered_do_not_keep_posts_away_for_ever() -> None:
    leadsquared = Outage(httpx.Response(502), ends=3000, metrics="500")
    async with away(leadsquared, retry=PATIENT) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 6)]
        results = await asyncio.gather(*posts, return_exceptions=True)
    # The trials after 8, 16, 32 and 64 queries fail; that after 128 ends the outage.
    kinds = Counter(type(result) for result in results)
    assert kinds == {DeliveryUncertain: 4, str: 1}
    pauses = [b - a for a, b in pairwise(leadsquared.posted_at[2:7])]
    assert pauses == pytest.approx([150, 270, 510, 990], abs=10)


@virtual
async def test_failures_during_an_outage_do_not_count_as_attempts() -> None:
    leadsquared = Outage(httpx.Response(503), ends=250)
    policy = RetryPolicy(max_attempts=2, jitter=0)
    async with poster_to(leadsquared, retry=policy) as poster:
        ids = await asyncio.gather(*(poster.post(activity(n)) for n in (1, 2, 3)))
        assert ids == ["r1", "r2", "r3"]
    assert max(Counter(leadsquared.posted).values()) > 2


@pytest.mark.parametrize("status", ["in time", "too late"])
@virtual
async def test_a_503_with_a_retry_after_is_an_outage_at_once(
    status: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends = 170.0 if status == "in time" else 1000.0
    fault = httpx.Response(503, headers={"Retry-After": "3600"})
    leadsquared = Outage(fault, ends=ends)
    async with poster_to(leadsquared, retry=RetryPolicy(max_time=290, jitter=0)) as poster:
        first = asyncio.create_task(poster.post(activity(1)))
        await asyncio.sleep(0.1)
        assert poster.is_away
        second = asyncio.create_task(poster.post(activity(2)))
        results = await asyncio.gather(first, second, return_exceptions=True)
    if status == "in time":
        assert list(results) == ["r1", "r2"]
        assert leadsquared.posted_at == pytest.approx([0, 60, 120, 180, 180], abs=0.01)
    else:
        assert [type(result) for result in results] == [ServerError, ServerError]
        assert leadsquared.posted_at == pytest.approx([0, 60, 120, 180, 240], abs=0.01)
    assert "(ServerError, HTTP 503, Retry-After 3600 s)" in warnings_in(caplog)[0]


@virtual
async def test_a_single_post_gives_up_when_its_time_is_over() -> None:
    events: list[Event] = []
    leadsquared = Outage(httpx.Response(502))
    policy = RetryPolicy(max_time=40, jitter=0)
    async with away(leadsquared, retry=policy, hooks=[events.append]) as poster:
        await asyncio.sleep(100)
        before, began = len(leadsquared.posted), now()
        with pytest.raises(OutageTimeout, match="has not answered posts for") as caught:
            await poster.post(activity(1))
        assert (caught.value.state, caught.value.attempts) == ("not_sent", 0)
        assert now() - began == pytest.approx(40, abs=0.01)
        assert len(leadsquared.posted) == before
    *_, end = (event for event in events if isinstance(event, Ended) and event.operation.is_post)
    assert (end.state, end.attempts, end.error) == ("not_sent", 0, "OutageTimeout")


@virtual
async def test_a_post_cancelled_during_an_outage_is_not_sent() -> None:
    leadsquared = Outage(httpx.Response(502), ends=100)
    async with away(leadsquared, retry=PATIENT) as poster:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20):
                await poster.post(activity(1))
        assert await poster.post(activity(2)) == "r2"
    assert 1 not in leadsquared.posted


@pytest.mark.parametrize("ends", [130.0, 1e9])
@virtual
async def test_a_batch_waits_out_or_gives_up_a_503_with_a_retry_after_of_an_hour(
    ends: float,
) -> None:
    fault = httpx.Response(503, headers={"Retry-After": "3600"})
    leadsquared = Outage(fault, begins=7.0, ends=ends, there=0.1, back=0.1)
    async with poster_to(leadsquared) as poster:
        outcomes = await outcomes_of("post_stream", poster, 200)
    states = [outcome.state for outcome in outcomes]
    if ends == 130.0:
        assert states == ["accepted"] * 200
    else:
        assert now() - leadsquared.failed_at[0] == pytest.approx(300, abs=3)
        assert states[-100:] == ["not_sent"] * 100


@pytest.mark.parametrize("use", ["post_many", "post_stream"])
@each_fault
@virtual
async def test_a_batch_gives_up_after_its_outage_timeout_and_the_rest_is_not_sent(
    use: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    leadsquared = Outage(fault, begins=7.0, there=0.1, back=0.1)
    async with poster_to(leadsquared) as poster:
        outcomes = await outcomes_of(use, poster, 200, outage_timeout=60)
        began = leadsquared.failed_at[2]
    assert now() - began == pytest.approx(60, abs=3)
    states = [outcome.state for outcome in outcomes]
    assert len(states) == 200
    assert states[:50] == ["accepted"] * 50
    tried = set(leadsquared.posted)
    assert {states[n - 1] for n in range(51, 201) if n not in tried} == {"not_sent"}
    assert {states[n - 1] for n in tried if n > 50} <= {"failed", "uncertain"}
    assert any(isinstance(outcome.error, OutageTimeout) for outcome in outcomes)
    assert {type(outcome.error) for outcome in outcomes[-50:]} == {NotSent}
    assert "the batch stops sending: OutageTimeout" in caplog.text


@pytest.mark.parametrize("use", ["post_many", "post_stream"])
@virtual
async def test_a_batch_begun_later_in_an_outage_waits_its_own_time(use: str) -> None:
    leadsquared = Outage(httpx.Response(502), ends=1e6)
    async with away(leadsquared, retry=PATIENT) as poster:
        await asyncio.sleep(1000)
        began = now()
        outcomes = await outcomes_of(use, poster, 20, outage_timeout=30)
        assert now() - began == pytest.approx(30, abs=0.1)
        assert [outcome.state for outcome in outcomes] == ["not_sent"] * 20
        leadsquared.ends = now() + 80
        outcomes = await outcomes_of(use, poster, 20, outage_timeout=150)
        assert [outcome.state for outcome in outcomes] == ["accepted"] * 20


@each_fault
@virtual
async def test_posts_that_may_not_wait_make_the_trial_that_is_due(fault: Fault) -> None:
    """Or else no post of a program that has only such posts would ever end an outage."""
    leadsquared = Outage(fault, ends=900)
    async with away(leadsquared, retry=STEADY) as poster:
        await asyncio.sleep(1000)
        assert await poster.post_many(numbered(3), outage_timeout=0) == ["r1", "r2", "r3"]
        assert not poster.is_away


@virtual
async def test_a_batch_waits_300_seconds_by_default() -> None:
    leadsquared = Outage(httpx.Response(502))
    async with away(leadsquared, retry=STEADY) as poster:
        await asyncio.sleep(1000)
        began = now()
        with pytest.raises(BatchError):
            await poster.post_many(numbered(3))
        assert now() - began == pytest.approx(300, abs=0.1)
