"""What callers write who plug in hooks and buckets. Type checkers read it, nobody runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import assert_type

from leadpost import Account, AsyncActivityPoster, Bucket, Hook, SteadyBucket, TokenBucket
from leadpost.hooks import Ended, Event, Retried
from leadpost.otel import OpenTelemetryHook


def told(event: Event) -> None:
    if isinstance(event, Ended) and event.operation.is_post:
        assert_type(event.request_id, str | None)
    if isinstance(event, Retried):
        assert_type(event.wait, float)


def told_too_little() -> None: ...


def hooks(account: Account) -> None:
    of_its_own: list[Hook] = [told, print, OpenTelemetryHook()]
    AsyncActivityPoster(account, hooks=of_its_own)
    AsyncActivityPoster(account, hooks=[told])
    AsyncActivityPoster(account, hooks=[told_too_little])  # type: ignore[list-item]  # no argument


class OneAtATime:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def token(self) -> AsyncGenerator[None]:
        async with self._lock:
            yield


class Steady(OneAtATime):
    interval = 0.2

    def round_trip(self, seconds: float) -> None:
        del seconds


class NoBucket:
    def token(self) -> AbstractAsyncContextManager[int]:
        raise NotImplementedError


def buckets(account: Account) -> None:
    of_its_own: Bucket = OneAtATime()
    AsyncActivityPoster(account, bucket=of_its_own)
    AsyncActivityPoster(account, bucket=Steady())
    AsyncActivityPoster(account, bucket=NoBucket())  # type: ignore[arg-type]  # gives a number
    steady: SteadyBucket = TokenBucket()
    assert_type(steady.interval, float)
