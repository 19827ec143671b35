"""Outages: posts wait, one at a time is tried, and nothing is lost or duplicated."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from random import Random
from typing import Any, Literal

import httpx
import pytest
from batch_support import STEADY, numbered, numbered_list, poster_to
from support import Vendor, accept, activity, answers, now, number_in, run_virtual

from leadpost import (
    AsyncActivityPoster,
    BatchError,
    ConnectionFailed,
    DeliveryUncertain,
    NotSent,
    OpenBucket,
    OutageTimeout,
    Outcome,
    RetryPolicy,
    ServerError,
    TokenBucket,
)
from leadpost._availability import Availability
from leadpost._call import Terms
from leadpost._poster import post_once
from leadpost.hooks import Ended, Event

METRICS = {"PendingMessages": 0, "ProcessingRatePerMinute": 0, "MaxDelayInSeconds": 0}
NOTE = "Frau Özdemir asked to be called back"
ONCE = RetryPolicy(max_attempts=1, jitter=0)
PATIENT = RetryPolicy(max_time=100_000, jitter=0)

HTML = httpx.Response(200, text="<html>We will be back soon</html>")
CONNECT_ERROR = httpx.ConnectError("no route")
READ_TIMEOUT = httpx.ReadTimeout("late")
IN_DOUBT = [httpx.Response(502), HTML, READ_TIMEOUT]
NOT_IN_DOUBT = [httpx.Response(500), httpx.Response(503), CONNECT_ERROR]

Fault = httpx.Response | Exception


def name_of(value: object) -> str | None:
    if isinstance(value, httpx.Response):
        return f"{value.status_code}{' HTML' if value.status_code == 200 else ''}"
    return type(value).__name__ if isinstance(value, Exception) else None


def posts_by(bad: int, fault: Fault) -> Callable[[httpx.Request], Awaitable[httpx.Response]]:
    """Answer one activity with a fault, always, and accept all others."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) != bad:
            return await accept(request)
        if isinstance(fault, Exception):
            raise fault
        return fault

    return answer


class Outage(Vendor):
    """
    A LeadSquared that answers posts with a fault from `begins` until `ends`.

    Attributes:
        metrics: How the Metrics API answers: `down` for like the posts, `up` for always well, and
            `404` for never, as if its path were wrong.
        probes: When metrics were asked for.
        failed_at: When posts failed.
        taken: How often each activity was taken, with an answer that said so or without.
    """

    def __init__(
        self,
        fault: Fault,
        begins: float = 0.0,
        ends: float = 1e9,
        metrics: Literal["down", "up", "404"] = "down",
        **ways: float,
    ) -> None:
        super().__init__(self._answer, **ways)
        self.fault = fault
        self.begins = begins
        self.ends = ends
        self.metrics = metrics
        self.probes: list[float] = []
        self.posted_at: list[float] = []
        self.posted: list[int] = []
        self.failed_at: list[float] = []
        self.taken = Counter[int]()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        is_down = self.begins <= now() < self.ends
        if request.method == "GET":
            self.probes.append(now())
            if self.metrics == "404":
                return httpx.Response(404)
            if is_down and self.metrics == "down":
                return await self._fail()
            return httpx.Response(200, json=METRICS)
        number = number_in(request)
        self.posted.append(number)
        self.posted_at.append(now())
        if not is_down:
            self.taken[number] += 1
            return await accept(request)
        if self.fault in IN_DOUBT:
            self.taken[number] += 1
        try:
            return await self._fail()
        finally:
            self.failed_at.append(now())

    async def _fail(self) -> httpx.Response:
        if isinstance(self.fault, httpx.Response):
            return self.fault
        if isinstance(self.fault, httpx.ReadTimeout):
            await asyncio.sleep(2)
        raise self.fault


async def attempt(poster: AsyncActivityPoster, *numbers: int) -> None:
    """Post activities one after the other, ignoring their errors."""
    for number in numbers:
        await asyncio.gather(poster.post(activity(number)), return_exceptions=True)


@asynccontextmanager
async def away(vendor: Outage, **options: Any) -> AsyncGenerator[AsyncActivityPoster]:
    """Open a poster in an outage: three of its posts have just failed."""
    options.setdefault("bucket", OpenBucket())
    async with poster_to(vendor, **options) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in (901, 902, 903)]
        while not poster.is_away:
            await asyncio.sleep(0.1)
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        yield poster


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


# When LeadSquared is away.


@pytest.mark.parametrize("fault", [*NOT_IN_DOUBT, *IN_DOUBT, httpx.Response(504)], ids=name_of)
def test_three_posts_in_a_row_without_a_proper_answer_are_an_outage(fault: Fault) -> None:
    async def main() -> None:
        async with poster_to(Outage(fault), retry=ONCE, bucket=OpenBucket()) as poster:
            await attempt(poster, 1, 2)
            assert not poster.is_away
            third = asyncio.create_task(poster.post(activity(3)))
            await asyncio.sleep(3)
            assert poster.is_away
            third.cancel()

    run_virtual(main())


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
def test_a_refusal_is_a_proper_answer(answer: httpx.Response) -> None:
    async def main() -> None:
        policy = RetryPolicy(max_attempts=1, max_time=1, jitter=0)
        vendor = Outage(answer)
        async with poster_to(vendor, retry=policy, bucket=OpenBucket()) as poster:
            await attempt(poster, 1, 2, 3, 4)
            assert not poster.is_away
            assert set(vendor.posted) == {1, 2, 3, 4}

    run_virtual(main())


@pytest.mark.parametrize("between", [None, httpx.Response(400)], ids=["accepted", "refused"])
def test_a_proper_answer_in_between_starts_the_count_again(between: Any) -> None:
    async def main() -> None:
        fault = httpx.Response(500)
        vendor = Vendor(answers(fault, fault, between, fault, fault))
        async with poster_to(vendor, retry=ONCE) as poster:
            await attempt(poster, 1, 2, 3, 4, 5)
            assert not poster.is_away

    run_virtual(main())


def test_a_query_that_is_answered_proves_nothing_about_posts() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(500), metrics="up")
        async with poster_to(vendor, retry=ONCE, bucket=OpenBucket()) as poster:
            await attempt(poster, 1, 2)
            await poster.metrics()
            third = asyncio.create_task(poster.post(activity(3)))
            await asyncio.sleep(0.1)
            assert poster.is_away
            await poster.metrics()  # goes at once, and ends nothing
            assert now() == pytest.approx(0.1, abs=0.01)
            assert poster.is_away
            third.cancel()

    run_virtual(main())


def test_queries_that_fail_are_no_outage() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(500))
        async with poster_to(vendor, retry=ONCE) as poster:
            for _ in range(5):
                with pytest.raises(ServerError):
                    await poster.metrics()
            assert not poster.is_away

    run_virtual(main())


def test_the_synchronous_api_has_its_own_outage() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/activity/create":
            return httpx.Response(500)
        return httpx.Response(200, json={"Status": "Success", "Message": {"Id": "a1"}})

    async def main() -> None:
        async with poster_to(Vendor(answer), retry=ONCE) as poster:
            await attempt(poster, 1, 2)
            third = asyncio.create_task(poster.post(activity(3)))
            await asyncio.sleep(0.1)
            assert poster.is_away
            assert await poster.post_sync(activity(4)) == "a1"
            assert now() == pytest.approx(0.1, abs=0.01)
            third.cancel()

    run_virtual(main())


def test_one_activity_that_always_fails_is_no_outage() -> None:
    async def main() -> None:
        async with poster_to(Outage(httpx.Response(500))) as poster:
            with pytest.raises(ServerError) as caught:
                await poster.post(activity(1))
            assert caught.value.attempts == 5
            assert not poster.is_away

    run_virtual(main())


@pytest.mark.parametrize("use", ["post_many", "post_stream"])
def test_one_activity_that_always_fails_among_successful_ones_is_no_outage(
    use: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        vendor = Vendor(posts_by(7, httpx.Response(500)), there=0.1)
        async with poster_to(vendor) as poster:
            outcomes = await outcomes_of(use, poster, 100)
        (failed,) = [outcome for outcome in outcomes if outcome.error is not None]
        assert (failed.index, type(failed.error), failed.state) == (6, ServerError, "failed")
        assert failed.error is not None
        assert failed.error.attempts == vendor.numbers.count(7) == 5

    run_virtual(main())
    assert "does not answer posts" not in caplog.text


def test_two_in_a_hundred_failing_by_chance_are_no_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    random = Random(1)

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if random.random() < 0.02 else await accept(request)

    async def main() -> None:
        vendor = Vendor(answer, there=0.1, back=0.1)
        async with poster_to(vendor) as poster:
            assert len(await poster.post_many(numbered(900))) == 900
        assert len(vendor.requests) > 910

    run_virtual(main())
    assert "does not answer posts" not in caplog.text


def test_an_activity_that_cannot_be_drawn_does_not_end_an_outage() -> None:
    async def draw() -> dict[str, Any]:
        return {"ActivityEvent": "none"}

    async def main() -> None:
        vendor = Outage(httpx.Response(500))
        async with away(vendor, retry=PATIENT) as poster:
            sent = len(vendor.posted)
            terms = Terms(outage_until=lambda since: since + 1000)
            await asyncio.gather(post_once(poster, draw, terms), return_exceptions=True)
            assert poster.is_away
            assert len(vendor.posted) == sent

    run_virtual(main())


# While LeadSquared is away.


def test_one_post_at_a_time_is_tried_after_growing_pauses_each_time_another() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(500))
        async with poster_to(vendor, retry=PATIENT, bucket=OpenBucket()) as poster:
            posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 4)]
            await asyncio.sleep(130)
            assert poster.is_away
            for post in posts:
                post.cancel()
        pauses = [b - a for a, b in pairwise(vendor.posted_at[2:])]
        assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30], abs=0.01)
        assert all(a != b for a, b in pairwise(vendor.posted[2:]))
        assert set(vendor.posted[3:]) >= {1, 2}
        assert vendor.probes == []  # a 500 leaves nothing uncertain

    run_virtual(main())


def test_another_activity_is_tried_before_the_one_that_failed_last() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(500))
        async with away(vendor, retry=PATIENT) as poster:
            first = asyncio.create_task(poster.post(activity(1)))
            await asyncio.sleep(40)
            assert vendor.posted[-1] == 1
            second = asyncio.create_task(poster.post(activity(2)))
            await asyncio.sleep(30)
            assert vendor.posted[-1] == 2
            await asyncio.sleep(30)
            assert vendor.posted[-1] == 1
            first.cancel()
            second.cancel()

    run_virtual(main())


def test_posts_that_wait_for_tokens_when_an_outage_begins_are_not_sent() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(500), ends=50)
        async with poster_to(vendor, retry=PATIENT, bucket=TokenBucket(4)) as poster:
            posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 21)]
            await asyncio.sleep(45)
            # 4 were sent before it was known, and one at a time tried, after 5, 10, 20 and 36 s.
            assert len(vendor.posted) <= 4 + 5
            assert await asyncio.gather(*posts) == [f"r{n}" for n in range(1, 21)]

    run_virtual(main())


def test_an_answer_to_a_post_from_before_an_outage_does_not_end_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) != 1:
            return httpx.Response(500)
        await asyncio.sleep(10)
        return await accept(request)

    async def main() -> None:
        async with poster_to(Vendor(answer), retry=PATIENT) as poster:
            posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 5)]
            await asyncio.sleep(9)
            assert poster.is_away
            assert await posts[0] == "r1"
            assert poster.is_away
            for post in posts:
                post.cancel()

    run_virtual(main())
    assert "answers posts again" not in caplog.text


def test_an_uncertain_trial_makes_the_pauses_grow_to_five_minutes() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(502), metrics="up")
        async with away(vendor, retry=PATIENT) as poster:
            before = len(vendor.posted)
            posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 30)]
            await asyncio.sleep(1500)
            for post in posts:
                post.cancel()
        times = vendor.posted_at[before - 1 :]
        pauses = [b - a for a, b in pairwise(times)]
        assert pauses == pytest.approx([2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300], abs=0.01)
        # A query went right before each.
        assert vendor.probes == pytest.approx(times[1:], abs=0.01)

    run_virtual(main())


@pytest.mark.parametrize("fault", IN_DOUBT, ids=name_of)
def test_after_an_uncertain_post_no_post_is_tried_before_a_query_is_answered(fault: Fault) -> None:
    async def main() -> None:
        vendor = Outage(fault, ends=200)
        async with away(vendor, retry=PATIENT) as poster:
            before = len(vendor.posted)
            began = now()
            posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 6)]
            await asyncio.sleep(190 - began)
            assert len(vendor.posted) == before
            # A query that times out takes 2 s itself.
            pauses = [b - a for a, b in pairwise(vendor.probes)]
            assert pauses[:6] == pytest.approx([4, 8, 16, 30, 30, 30], abs=2.1)
            assert await asyncio.gather(*posts) == ["r1", "r2", "r3", "r4", "r5"]
            assert now() < 235

    run_virtual(main())


def test_a_wrong_metrics_path_does_not_keep_posts_away() -> None:
    async def main() -> None:
        vendor = Outage(READ_TIMEOUT, ends=20, metrics="404")
        async with away(vendor, retry=PATIENT) as poster:
            posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 11)]
            results = await asyncio.gather(*posts, return_exceptions=True)
        uncertain = [result for result in results if isinstance(result, DeliveryUncertain)]
        assert len(uncertain) <= 3
        assert len(uncertain) + sum(isinstance(result, str) for result in results) == 10
        assert now() < 50

    run_virtual(main())


def test_failures_during_an_outage_do_not_count_as_attempts() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(503), ends=250)
        policy = RetryPolicy(max_attempts=2, jitter=0)
        async with poster_to(vendor, retry=policy) as poster:
            ids = await asyncio.gather(*(poster.post(activity(n)) for n in (1, 2, 3)))
            assert ids == ["r1", "r2", "r3"]
        assert max(Counter(vendor.posted).values()) > 2

    run_virtual(main())


@pytest.mark.parametrize("status", ["in time", "too late"])
def test_a_503_with_a_retry_after_is_an_outage_at_once(
    status: str, caplog: pytest.LogCaptureFixture
) -> None:
    ends = 170.0 if status == "in time" else 1000.0

    async def main() -> None:
        fault = httpx.Response(503, headers={"Retry-After": "3600"})
        vendor = Outage(fault, ends=ends)
        async with poster_to(vendor, retry=RetryPolicy(max_time=290, jitter=0)) as poster:
            first = asyncio.create_task(poster.post(activity(1)))
            await asyncio.sleep(0.1)
            assert poster.is_away
            second = asyncio.create_task(poster.post(activity(2)))
            results = await asyncio.gather(first, second, return_exceptions=True)
        if status == "in time":
            assert list(results) == ["r1", "r2"]
            assert vendor.posted_at == pytest.approx([0, 60, 120, 180, 180], abs=0.01)
        else:
            assert [type(result) for result in results] == [ServerError, ServerError]
            assert vendor.posted_at == pytest.approx([0, 60, 120, 180, 240], abs=0.01)

    run_virtual(main())
    assert "(HTTP 503, ServerError, Retry-After 3600 s)" in warnings_in(caplog)[0]


# Giving up.


def test_a_single_post_gives_up_when_its_time_is_over() -> None:
    events: list[Event] = []

    async def main() -> None:
        vendor = Outage(httpx.Response(502))
        policy = RetryPolicy(max_time=40, jitter=0)
        async with away(vendor, retry=policy, hooks=[events.append]) as poster:
            await asyncio.sleep(100)
            before, began = len(vendor.posted), now()
            with pytest.raises(OutageTimeout, match="has not answered posts for") as caught:
                await poster.post(activity(1))
            assert (caught.value.state, caught.value.attempts) == ("not_sent", 0)
            assert now() - began == pytest.approx(40, abs=0.01)
            assert len(vendor.posted) == before

    run_virtual(main())
    *_, end = (event for event in events if isinstance(event, Ended) and event.operation.is_post)
    assert (end.state, end.attempts, end.error) == ("not_sent", 0, "OutageTimeout")


def test_a_post_cancelled_during_an_outage_is_not_sent() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(502), ends=100)
        async with away(vendor, retry=PATIENT) as poster:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(20):
                    await poster.post(activity(1))
            assert await poster.post(activity(2)) == "r2"
        assert 1 not in vendor.posted

    run_virtual(main())


def test_closing_ends_posts_that_wait_for_the_end_of_an_outage_as_not_sent() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(502))
        async with away(vendor, retry=PATIENT) as poster:
            posts = [asyncio.create_task(poster.post(activity(n))) for n in range(1, 4)]
            await asyncio.sleep(20)
            await poster.aclose()
            for result in await asyncio.gather(*posts, return_exceptions=True):
                assert isinstance(result, NotSent)
            assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_a_stopped_batch_does_not_wait_for_the_end_of_an_outage() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(502))
        async with away(vendor, retry=PATIENT) as poster:
            before, began, stop = len(vendor.posted), now(), asyncio.Event()
            asyncio.get_running_loop().call_later(20, stop.set)
            outcomes = [o async for o in poster.post_stream(numbered(30), stop=stop)]
            assert now() - began == pytest.approx(20, abs=0.01)
            assert {outcome.state for outcome in outcomes} == {"not_sent"}
            assert len(vendor.posted) == before

    run_virtual(main())


async def outcomes_of(
    use: str, poster: AsyncActivityPoster, count: int, **options: Any
) -> list[Outcome]:
    """Post `count` activities by either method, and return the outcomes in input order."""
    if use == "post_stream":
        outcomes = [o async for o in poster.post_stream(numbered(count), **options)]
        return sorted(outcomes, key=lambda outcome: outcome.index)
    try:
        many: Any = poster.post_many  # as options may be any of its own
        ids: list[str] = await many(numbered_list(count), **options)
    except BatchError as error:
        return list(error.outcomes)
    return [Outcome(n, activity(n + 1), request_id) for n, request_id in enumerate(ids)]


@pytest.mark.parametrize("use", ["post_many", "post_stream"])
@pytest.mark.parametrize("fault", [*NOT_IN_DOUBT, *IN_DOUBT], ids=name_of)
def test_a_batch_gives_up_after_its_outage_timeout_and_the_rest_is_not_sent(
    use: str, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        vendor = Outage(fault, begins=7.0, there=0.1, back=0.1)
        async with poster_to(vendor) as poster:
            outcomes = await outcomes_of(use, poster, 200, outage_timeout=60)
            began = vendor.failed_at[2]
        assert now() - began == pytest.approx(60, abs=3)
        states = [outcome.state for outcome in outcomes]
        assert len(states) == 200
        assert states[:50] == ["accepted"] * 50
        tried = set(vendor.posted)
        assert {states[n - 1] for n in range(51, 201) if n not in tried} == {"not_sent"}
        assert {states[n - 1] for n in tried if n > 50} <= {"failed", "uncertain"}
        assert any(isinstance(outcome.error, OutageTimeout) for outcome in outcomes)
        assert {type(outcome.error) for outcome in outcomes[-50:]} == {NotSent}

    run_virtual(main())
    assert "the batch stops sending: OutageTimeout" in caplog.text


@pytest.mark.parametrize("use", ["post_many", "post_stream"])
def test_a_batch_begun_later_in_an_outage_waits_its_own_time(use: str) -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(502), ends=1e6)
        async with away(vendor, retry=PATIENT) as poster:
            await asyncio.sleep(1000)
            began = now()
            outcomes = await outcomes_of(use, poster, 20, outage_timeout=100)
            assert now() - began == pytest.approx(100, abs=0.1)
            assert [outcome.state for outcome in outcomes] == ["not_sent"] * 20
            vendor.ends = now() + 80
            outcomes = await outcomes_of(use, poster, 20, outage_timeout=150)
            assert [outcome.state for outcome in outcomes] == ["accepted"] * 20

    run_virtual(main())


@pytest.mark.parametrize("fault", [*NOT_IN_DOUBT, *IN_DOUBT], ids=name_of)
def test_posts_that_may_not_wait_make_the_trial_that_is_due(fault: Fault) -> None:
    """Or else no post of a program that has only such posts would ever end an outage."""

    async def main() -> None:
        vendor = Outage(fault, ends=900)
        async with away(vendor, retry=STEADY) as poster:
            await asyncio.sleep(1000)
            assert await poster.post_many(numbered(3), outage_timeout=0) == ["r1", "r2", "r3"]
            assert not poster.is_away

    run_virtual(main())


def test_a_batch_waits_300_seconds_by_default() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(502))
        async with away(vendor, retry=STEADY) as poster:
            await asyncio.sleep(1000)
            began = now()
            with pytest.raises(BatchError):
                await poster.post_many(numbered(3))
            assert now() - began == pytest.approx(300, abs=0.1)

    run_virtual(main())


# The end.


@pytest.mark.parametrize("use", ["post_many", "post_stream"])
@pytest.mark.parametrize("metrics", ["down", "up", "404"])
@pytest.mark.parametrize("fault", [*NOT_IN_DOUBT, *IN_DOUBT], ids=name_of)
def test_an_outage_of_30_s_in_a_batch_loses_and_duplicates_nothing(
    use: str, metrics: Any, fault: Fault
) -> None:
    async def main() -> None:
        vendor = Outage(fault, begins=12, ends=42, metrics=metrics, there=0.1, back=0.1)
        async with poster_to(vendor) as poster:
            outcomes = await outcomes_of(use, poster, 200)
        states = Counter(outcome.state for outcome in outcomes)
        assert sum(states.values()) == 200
        assert set(states) <= {"accepted", "uncertain"}
        known_at = vendor.failed_at[2]
        sent_before = [at for at in vendor.posted_at if 12 <= at <= known_at + vendor.there]
        in_flight = len(sent_before) if fault in IN_DOUBT else 0
        assert states["uncertain"] <= in_flight + (5 if fault in IN_DOUBT else 0)
        assert set(vendor.taken.values()) == {1}
        assert {outcome.index + 1 for outcome in outcomes if outcome.state == "accepted"} <= set(
            vendor.taken
        )

    run_virtual(main())


def test_in_a_batch_max_time_does_not_include_an_outage() -> None:
    async def main() -> None:
        vendor = Outage(httpx.Response(500), ends=250)
        policy = RetryPolicy(max_time=50, jitter=0)
        async with poster_to(vendor, retry=policy) as poster:
            assert await poster.post_many(numbered(5)) == ["r1", "r2", "r3", "r4", "r5"]

    run_virtual(main())


@pytest.mark.parametrize("fault", [*NOT_IN_DOUBT, *IN_DOUBT], ids=name_of)
def test_single_posts_that_waited_are_all_accepted_after_an_outage(fault: Fault) -> None:
    async def main() -> None:
        vendor = Outage(fault, ends=100)
        async with away(vendor, bucket=None) as poster:
            ids = await asyncio.gather(*(poster.post(activity(n)) for n in range(1, 31)))
            assert ids == [f"r{n}" for n in range(1, 31)]

    run_virtual(main())


def test_an_outage_is_logged_when_it_begins_once_a_minute_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        fault = httpx.Response(500, json={"ExceptionMessage": f"no: {NOTE}"})
        vendor = Outage(fault, ends=250)
        async with poster_to(vendor, retry=PATIENT) as poster:
            await asyncio.gather(*(poster.post(activity(n)) for n in range(1, 4)))

    with caplog.at_level(logging.INFO, "leadpost"):
        run_virtual(main())
    host = "http://127.0.0.1:9"
    begins, *progress, ends = warnings_in(caplog)
    assert begins == (
        f"{host} does not answer posts (HTTP 500, ServerError):"
        " posts wait, and one at a time is tried"
    )
    assert [message.split(" (")[0] for message in progress] == [
        f"{host} has not answered posts for {seconds} s" for seconds in (60, 120, 180, 240)
    ]
    assert "(HTTP 500, ServerError): 3 wait, the next try is in " in progress[0]
    assert ends.startswith(f"{host} answers posts again, after ")
    assert NOTE not in caplog.text


def test_late_failures_of_posts_sent_before_the_end_of_an_outage_do_not_reopen_it() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) > 3:
            return await accept(request)
        await asyncio.sleep(10)
        raise READ_TIMEOUT

    async def main() -> None:
        vendor = Vendor(answer)
        async with poster_to(vendor, retry=ONCE) as poster:
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

    run_virtual(main())


def test_after_a_failed_query_whoever_is_next_is_woken() -> None:
    async def main() -> None:
        asked, answered, failing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        answers = iter([False, True])

        async def query() -> bool:
            asked.set()
            await answered.wait()
            return next(answers)

        availability = Availability("host", query)

        async def fail(activity: int, when: asyncio.Event | None = None) -> None:
            with suppress(DeliveryUncertain):
                async with availability.turn(activity) as turn:
                    assert turn.may_send()
                    if when is not None:
                        await when.wait()
                    raise DeliveryUncertain("no answer")

        async def post(activity: int) -> float:
            async with availability.turn(activity) as turn:
                assert turn.may_send()
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

    run_virtual(main())


def test_a_trial_that_its_event_loop_left_behind_stops_no_other() -> None:
    async def main() -> None:
        async def query() -> bool:
            return True

        availability = Availability("host", query)
        for number in (1, 2, 3):
            with suppress(ConnectionFailed):
                async with availability.turn(number) as turn:
                    assert turn.may_send()
                    raise ConnectionFailed("no connection")
        left_behind = await availability.turn(4).__aenter__()
        assert left_behind.may_send()
        availability.leave_loop()
        async with asyncio.timeout(60), availability.turn(5) as turn:
            assert turn.may_send()
        assert not availability.is_away

    run_virtual(main())
