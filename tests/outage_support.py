"""Shared by the tests of outages: a LeadSquared that is away, and a poster that has noticed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import pytest
from batch_support import numbered, numbered_list, poster_to
from support import LeadSquared, accept, activity, now, number_in

from leadpost import AsyncActivityPoster, BatchError, OpenBucket, Outcome, RetryPolicy

METRICS = {"PendingMessages": 0, "ProcessingRatePerMinute": 0, "MaxDelayInSeconds": 0}
NOTE = "Frau Özdemir asked to be called back"
ONCE = RetryPolicy(max_attempts=1, jitter=0)
PATIENT = RetryPolicy(max_time=100_000, jitter=0)

HTML = httpx.Response(200, text="<html>We will be back soon</html>")
CONNECT_ERROR = httpx.ConnectError("no route")
READ_TIMEOUT = httpx.ReadTimeout("late")
UNCERTAIN = [httpx.Response(502), HTML, READ_TIMEOUT]
NOT_UNCERTAIN = [httpx.Response(500), httpx.Response(503), CONNECT_ERROR]

Fault = httpx.Response | Exception


def name_of(value: object) -> str | None:
    if isinstance(value, httpx.Response):
        return f"{value.status_code}{' HTML' if value.status_code == 200 else ''}"
    return type(value).__name__ if isinstance(value, Exception) else None


each_fault = pytest.mark.parametrize("fault", [*NOT_UNCERTAIN, *UNCERTAIN], ids=name_of)


def posts_by(bad: int, fault: Fault) -> Callable[[httpx.Request], Awaitable[httpx.Response]]:
    """Answer one activity with a fault, always, and accept all others."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) != bad:
            return await accept(request)
        if isinstance(fault, Exception):
            raise fault
        return fault

    return answer


class Outage(LeadSquared):
    """
    A LeadSquared that answers posts with a fault from `begins` until `ends`.

    Attributes:
        metrics: How the Metrics API answers: `down` for like the posts, `up` for always well, and
            `404`, `500` or `other JSON` for never, as if its path were wrong.
        probes: When metrics were asked for.
        failed_at: When posts failed.
        taken: How often each activity was taken, with an answer that said so or without.
    """

    def __init__(
        self,
        fault: Fault,
        begins: float = 0.0,
        ends: float = 1e9,
        metrics: Literal["down", "up", "404", "500", "other JSON"] = "down",
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
            if self.metrics in {"404", "500"}:
                return httpx.Response(int(self.metrics))
            if self.metrics == "other JSON":
                return httpx.Response(200, json=[])
            if is_down and self.metrics == "down":
                return await self._fail()
            return httpx.Response(200, json=METRICS)
        number = number_in(request)
        self.posted.append(number)
        self.posted_at.append(now())
        if not is_down:
            self.taken[number] += 1
            return await accept(request)
        if self.fault in UNCERTAIN:
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
async def away(leadsquared: Outage, **options: Any) -> AsyncGenerator[AsyncActivityPoster]:
    """Open a poster in an outage: three of its posts have just failed."""
    options.setdefault("bucket", OpenBucket())
    async with poster_to(leadsquared, **options) as poster:
        posts = [asyncio.create_task(poster.post(activity(n))) for n in (901, 902, 903)]
        while not poster.is_away:
            await asyncio.sleep(0.1)
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        yield poster


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


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
