"""Shared by the tests of an outbox: posters, activities, and the states of entries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from attrs import evolve
from support import LEAD, LeadSquared, accept, account, within

from leadpost import Activity, AsyncActivityPoster, OpenBucket, RetryPolicy, TokenBucket
from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox

ACME = "acme"
"""The account of most tests, for any server."""
QUICK = RetryPolicy(max_attempts=3, initial_wait=0.01, max_wait=0.02, jitter=0.0)
WHEN = datetime(2026, 11, 1, 10, 30, tzinfo=UTC)

table = sa.table(
    "leadpost_entries",
    *map(sa.column, ("id", "account", "key", "activity", "state", "due_at", "queries", "call_id")),
    *map(sa.column, ("put_at", "changed_at", "sent_at", "ends_by", "request_id", "activity_id")),
    *map(sa.column, ("calls", "failures", "error_type", "message")),
)
OWN_CALL = sa.cast(table.c.id, sa.Text)
"""For `changed`: a call id of each entry's own."""


def poster(leadsquared: LeadSquared, **options: Any) -> AsyncActivityPoster:
    chosen: dict[str, Any] = {"bucket": OpenBucket(), "retry": QUICK} | options
    return AsyncActivityPoster(account(name=ACME), client=leadsquared.client(), **chosen)


def poster_to(sandbox: Sandbox, name: str = ACME, **options: Any) -> AsyncActivityPoster:
    chosen: dict[str, Any] = {"bucket": TokenBucket(period=0.01), "retry": QUICK} | options
    return AsyncActivityPoster(evolve(sandbox.account(), name=name), **chosen)


def held_until(event: asyncio.Event, started: asyncio.Event) -> Callable[..., Awaitable[Any]]:
    """Accept posts once `event` is set, and set `started` when one arrives."""

    async def answer(request: httpx.Request) -> httpx.Response:
        started.set()
        await event.wait()
        return await accept(request)

    return answer


def noted(number: int, **changes: Any) -> Activity:
    """Return an activity of a type that the sandbox's account has."""
    return Activity(LEAD, 201, f"note {number}", WHEN, **changes)


async def posted(outbox: Outbox, sandbox: Sandbox, *posts: Activity) -> None:
    await outbox.put_many(posts)
    async with poster_to(sandbox) as poster:
        assert (await outbox.drain(poster))["accepted"] == len(posts)
    await asyncio.sleep(0.05)  # LeadSquared's queue


async def changed(outbox: Outbox, **values: Any) -> None:
    """Set columns of all entries, as LeadSquared or the clock would."""
    await executed(outbox, sa.update(table).values(values))


async def executed(outbox: Outbox, statement: sa.Executable, **values: Any) -> Any:
    """Execute a statement in plain SQL, and return its rows, if it has any."""

    def work(connection: sa.Connection) -> Any:
        result = connection.execute(statement, values)
        return result.freeze()() if result.returns_rows else result

    return await outbox._database.write(work)


async def states(outbox: Outbox) -> list[str]:
    return [entry.state async for entry in outbox.entries()]


async def until(outbox: Outbox, **counts: int) -> None:
    """Wait until each state has this number of entries."""
    async with within(10):
        while not counts.items() <= (await outbox.counts()).items():
            await asyncio.sleep(0.01)


async def until_accepted(outbox: Outbox, number: int) -> None:
    """Wait until `number` entries exist, all of them accepted."""
    async with within(10):
        while await states(outbox) != ["accepted"] * number:
            await asyncio.sleep(0.01)


async def until_true(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with within(120):
        while not condition():
            await asyncio.sleep(0.01)


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until the log has a text."""
    await until_true(lambda: text in caplog.text)


@asynccontextmanager
async def working(worker: Coroutine[Any, Any, Any]) -> AsyncGenerator[asyncio.Task[Any]]:
    """Let a worker run meanwhile, and cancel it at the end; raise what ended it before."""
    running = asyncio.create_task(worker)
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled():
        running.result()


async def messages(outbox: Outbox) -> list[tuple[str, str | None]]:
    return [(entry.state, entry.message) async for entry in outbox.entries()]
