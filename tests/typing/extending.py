"""Code of callers with hooks and buckets of their own: for type checkers only, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import assert_type

from leadpost import (
    Account,
    AsyncActivityPoster,
    Bucket,
    Hook,
    OpenBucket,
    Priority,
    TokenBucket,
    TokenLost,
)
from leadpost.hooks import Ended, Event, Retried
from leadpost.otel import OpenTelemetryHook


def handle(event: Event) -> None:
    if isinstance(event, Ended) and event.operation.is_post:
        assert_type(event.request_id, str | None)
    if isinstance(event, Retried):
        assert_type(event.wait, float)


def handle_nothing() -> None: ...


def hooks(account: Account) -> None:
    of_its_own: list[Hook] = [handle, print, OpenTelemetryHook()]
    AsyncActivityPoster(account, hooks=of_its_own)
    AsyncActivityPoster(account, hooks=[handle])
    AsyncActivityPoster(account, hooks=[handle_nothing])  # type: ignore[list-item]  # no argument


class OneAtATime:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def token(
        self, priority: Priority, call_timeout: float
    ) -> AsyncGenerator[Callable[[], None]]:
        del priority
        async with self._lock, asyncio.timeout(call_timeout):
            yield self._check

    def _check(self) -> None:
        if not self._lock.locked():
            raise TokenLost("the lock was lost")


class WithoutPriorities:
    @asynccontextmanager
    async def token(self) -> AsyncGenerator[Callable[[], None]]:
        yield print


class NothingToCall:
    def token(self, priority: Priority, call_timeout: float) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError


def buckets(account: Account) -> None:
    of_its_own: Bucket = OneAtATime()
    AsyncActivityPoster(account, bucket=of_its_own)
    AsyncActivityPoster(account, bucket=TokenBucket(hooks=[handle]))
    AsyncActivityPoster(account, bucket=OpenBucket())
    AsyncActivityPoster(account, bucket=WithoutPriorities())  # type: ignore[arg-type]  # no arguments
    AsyncActivityPoster(account, bucket=NothingToCall())  # type: ignore[arg-type]  # yields nothing


async def tokens(bucket: Bucket) -> None:
    async with bucket.token(Priority.BATCH, call_timeout=10.0) as begin:
        assert_type(begin, Callable[[], None])
        begin()
    async with TokenBucket().token() as begin:
        begin()
