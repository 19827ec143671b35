"""Shared by the tests of the shared bucket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from support import account

from leadpost import NotSent, OutboxUnavailable, Priority, TokenLost
from leadpost.outbox import SharedTokenBucket
from leadpost.outbox.database import Store
from leadpost.outbox.database._sql import Transaction

PERIOD = 0.5


def bucket(url: str, **options: Any) -> SharedTokenBucket:
    chosen: dict[str, Any] = {"period": PERIOD} | options
    return SharedTokenBucket(url, "test", **chosen)


def store(of: SharedTokenBucket) -> Store:
    return Store(of._database, bucket="test")


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[SharedTokenBucket]:
    of = bucket(url, **options)
    await of.open(account())
    try:
        yield of
    finally:
        await of.aclose()


@asynccontextmanager
async def calling(
    of: SharedTokenBucket, priority: Priority = Priority.SINGLE, call_timeout: float = 30.0
) -> AsyncGenerator[None]:
    """Have a call in flight; on a busy machine its token may come too late, and is taken again."""
    while True:
        async with of.token(priority, call_timeout) as begin:
            try:
                begin()
            except TokenLost:
                continue
            yield
            return


async def take(
    of: SharedTokenBucket,
    arrivals: list[float],
    seconds: float = 0.0,
    priority: Priority = Priority.SINGLE,
) -> None:
    """Make a call that takes some seconds, and note when it was sent."""
    async with calling(of, priority):
        arrivals.append(time.monotonic())
        await asyncio.sleep(seconds)


async def end_with(
    of: SharedTokenBucket,
    error: Exception,
    *,
    begun: asyncio.Event | None = None,
    when: asyncio.Event | None = None,
    call_timeout: float = 1.0,
) -> None:
    """
    Make a call that ends with an error, at once or when an event is set.

    Once it has begun, `begun` is set.
    """
    with suppress(type(error)):
        async with calling(of, call_timeout=call_timeout):
            if begun is not None:
                begun.set()
            if when is not None:
                await when.wait()
            raise error


async def end_unsent(of: SharedTokenBucket) -> None:
    """Take a token for a call that is not sent."""
    with suppress(NotSent):
        async with of.token():
            raise NotSent("nothing to send")


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def all_tokens(of: SharedTokenBucket, stack: AsyncExitStack, number: int = 25) -> None:
    """Hold `number` tokens, with calls in flight; the last one is free after a period."""
    for _ in range(number):
        await stack.enter_async_context(calling(of))


async def in_use_tokens(of: SharedTokenBucket) -> list[float]:
    """Return when the tokens in use, or reserved, are back if this process dies."""

    def found(transaction: Transaction) -> list[float]:
        query = "SELECT back_at FROM leadpost_tokens WHERE use_id IS NOT NULL"
        return list(transaction.execute(query).scalars())

    return await store(of).read(found)


async def until_in_use(of: SharedTokenBucket, number: int) -> None:
    """Wait until a number of tokens is in use, or reserved."""
    while len(await in_use_tokens(of)) != number:
        await asyncio.sleep(0.01)


async def until_known(of: SharedTokenBucket, condition: str) -> None:
    """Wait until something is written to the database."""

    def holds(transaction: Transaction) -> bool:
        found = transaction.execute(f"SELECT 1 FROM leadpost_buckets WHERE {condition}")
        return found.one_or_none() is not None

    while not await store(of).read(holds):
        await asyncio.sleep(0.01)


async def gone(*_: object, **__: object) -> None:
    raise OutboxUnavailable("the server is away")
