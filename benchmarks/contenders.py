"""
leadpost, and the usual code without it, for each limiter: the limiter, then httpx, tenacity with
random exponential waits after a 429, and `asyncio.gather` over all posts.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx
import limits.aio.storage
import limits.aio.strategies
from aiolimiter import AsyncLimiter
from pyrate_limiter import Duration, Limiter, Rate
from tenacity import retry, retry_if_result, wait_random_exponential
from throttled.asyncio import RateLimiterType, Throttled, rate_limiter

from leadpost import Account, Activity, AsyncActivityPoster

Acquire = Callable[[], Awaitable[object]]
Contender = Callable[[Account, list[Activity]], Awaitable[None]]


async def leadpost(account: Account, posts: list[Activity]) -> None:
    async with AsyncActivityPoster(account) as poster:
        await poster.post_many(posts)


def aiolimiter_burst() -> Acquire:
    return AsyncLimiter(25, 5).acquire


def aiolimiter_even() -> Acquire:
    return AsyncLimiter(1, 0.2).acquire


def pyrate_limiter() -> Acquire:
    limiter = Limiter(Rate(25, 5 * Duration.SECOND))
    return lambda: limiter.try_acquire_async("leadsquared")


def throttled() -> Acquire:
    quota = rate_limiter.per_duration(timedelta(seconds=5), limit=25)
    limiter = Throttled(
        key="leadsquared", using=RateLimiterType.GCRA.value, quota=quota, timeout=3600
    )
    return limiter.limit


def limits_moving_window() -> Acquire:
    storage = limits.aio.storage.MemoryStorage()
    strategy = limits.aio.strategies.MovingWindowRateLimiter(storage)
    item = limits.RateLimitItemPerSecond(25, 5)

    async def acquire() -> None:
        while not await strategy.hit(item, "leadsquared"):  # noqa: ASYNC110  # all it offers
            await asyncio.sleep(0.05)  # it only says yes or no; waiting is up to the caller

    return acquire


def with_limiter(make: Callable[[], Acquire]) -> Contender:
    async def contend(account: Account, posts: list[Activity]) -> None:
        acquire = make()
        async with httpx.AsyncClient(
            base_url=account.host,
            params={"accessKey": account.access_key, "secretKey": account.secret_key},
            headers={"x-api-key": account.api_key},
            timeout=60,
        ) as client:

            @retry(
                retry=retry_if_result(lambda response: response.status_code == 429),
                wait=wait_random_exponential(max=10),
            )
            async def post(activity: Activity) -> httpx.Response:
                await acquire()
                return await client.post("/activity/create", json=activity.to_payload())

            responses = await asyncio.gather(*map(post, posts))
        assert all("RequestID" in response.json() for response in responses)

    return contend


def named(package: str, what: str) -> str:
    return f"{package} {importlib.metadata.version(package)} {what}"


CONTENDERS: dict[str, Contender] = {
    "leadpost": leadpost,
    named("aiolimiter", "25 per 5 s"): with_limiter(aiolimiter_burst),
    named("aiolimiter", "1 per 0.2 s"): with_limiter(aiolimiter_even),
    named("pyrate-limiter", "25 per 5 s"): with_limiter(pyrate_limiter),
    named("throttled-py", "GCRA"): with_limiter(throttled),
    named("limits", "moving window"): with_limiter(limits_moving_window),
}
