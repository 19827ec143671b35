"""Shared by the tests of single calls: three ways in which a caller leaves, and what ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from leadpost.hooks import Ended, Event

Cancel = Callable[[Awaitable[Any], float], Awaitable[None]]


def ended(events: list[Event]) -> list[Ended]:
    return [event for event in events if isinstance(event, Ended)]


async def task_cancel(call: Awaitable[Any], after: float) -> None:
    task = asyncio.ensure_future(call)
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out(call: Awaitable[Any], after: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await call


async def failing_group(call: Awaitable[Any], after: float) -> None:
    async def fail() -> None:
        await asyncio.sleep(after)
        raise LookupError

    async def waited_for() -> None:
        await call

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waited_for())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await together()
    assert caught.group_contains(LookupError)


CANCELS = [task_cancel, time_out, failing_group]


def leaks_in_httpcore(test: Any) -> Any:
    """Allow what httpcore (1.0) leaves to the garbage collector: connections cancelled early."""
    for ignored in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
        test = pytest.mark.filterwarnings(f"ignore::{ignored}")(test)
    return pytest.mark.usefixtures("garbage_of_httpcore")(test)
