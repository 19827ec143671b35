"""Shared by the tests of the shared bucket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from support import account

from leadpost import OutboxUnavailable, Priority, TokenLost
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


async def take(
    of: SharedTokenBucket,
    arrivals: list[float],
    seconds: float = 0.0,
    priority: Priority = Priority.SINGLE,
) -> None:
    with suppress(TokenLost):  # on a busy machine a token may come too late
        async with of.token(priority) as begin:
            begin()
            arrivals.append(time.monotonic())
            await asyncio.sleep(seconds)
            return
    await take(of, arrivals, seconds, priority)


async def end_with(
    of: SharedTokenBucket,
    error: Exception,
    *,
    sent: bool = True,
    after: float = 0.0,
    call_timeout: float = 1.0,
) -> None:
    """Make a call that ends with an error."""
    with suppress(type(error)):
        async with of.token(call_timeout=call_timeout) as begin:
            if sent:
                begin()
            await asyncio.sleep(after)
            raise error


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def all_tokens(of: SharedTokenBucket, stack: AsyncExitStack, number: int = 25) -> None:
    """Hold `number` tokens, with calls in flight; the last one is free after a period."""
    for _ in range(number):
        begin = await stack.enter_async_context(of.token())
        begin()


async def in_use_tokens(of: SharedTokenBucket) -> list[float]:
    """Return when the tokens in use, or reserved, are back if this process dies."""

    async def found(transaction: Transaction) -> list[float]:
        query = "SELECT back_at FROM leadpost_tokens WHERE use_id IS NOT NULL"
        return list((await transaction.execute(query)).scalars())

    return await store(of).read(found)


async def until_known(of: SharedTokenBucket, condition: str) -> None:
    """Wait until something is written to the database."""

    async def holds(transaction: Transaction) -> bool:
        found = await transaction.execute(f"SELECT 1 FROM leadpost_buckets WHERE {condition}")
        return found.one_or_none() is not None

    while not await store(of).read(holds):
        await asyncio.sleep(0.01)


async def gone(*_: object, **__: object) -> None:
    raise OutboxUnavailable("the server is away")
