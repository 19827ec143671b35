"""Waiting for the end of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def until_done(tasks: Collection[asyncio.Task[Any]], seconds: float) -> None:
    """
    Wait until tasks have ended, but not longer than `seconds`, even if cancelled meanwhile.

    Raises:
        asyncio.CancelledError: it was cancelled; anyio's scopes cancel again and again.
    """
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    while (left := ends_at - loop.time()) > 0 and not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
