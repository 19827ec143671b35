"""
Does a long stream of posts use memory, or block the event loop?

1,000,000 activities through `post_stream`, and 432,000 (a day at the limit) through `post_many`, on
a transport that answers at once, with an open bucket. A heartbeat on the same loop, every 10 ms,
shows how late the loop is. The arguments and results of `post_many` are not counted. The CPU
time between two beats shows whether this process held it up or a busy machine did.

    python benchmarks/memory.py [--activities 1000000] [--batch 432000]
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import psutil
from common import ACCOUNT, LEAD, answer_at_once, options, show

from leadpost import Activity, AsyncActivityPoster, OpenBucket

BEAT = 0.01


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


class Watch:
    """Measures how late the loop is, how much memory is used, and when the first call left."""

    def __init__(self) -> None:
        self.late = 0.0
        self.busy = 0.0
        self.most = 0.0
        self.begun = 0.0
        self.first_call = 0.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.first_call = self.first_call or time.perf_counter() - self.begun
        return await answer_at_once(request)

    async def beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, used = loop.time() + BEAT, time.process_time()
            await asyncio.sleep(BEAT)
            self.late = max(self.late, loop.time() - due)
            self.busy = max(self.busy, time.process_time() - used)
            self.most = max(self.most, resident())


def numbered(count: int) -> Iterator[Activity]:
    return (Activity(LEAD, 201, f"call {number}") for number in range(count))


async def stream(poster: AsyncActivityPoster, activities: Iterator[Activity]) -> float:
    async for outcome in poster.post_stream(activities):
        assert outcome.state == "accepted"
    return 0.0


async def batch(poster: AsyncActivityPoster, activities: list[Activity]) -> float:
    ids = await poster.post_many(activities)
    return (sys.getsizeof(ids) + sum(map(sys.getsizeof, ids))) / 2**20


async def measure(
    what: str, run: Callable[..., Awaitable[float]], activities: Any
) -> dict[str, Any]:
    watch = Watch()
    client = httpx.AsyncClient(transport=httpx.MockTransport(watch))
    async with client, AsyncActivityPoster(ACCOUNT, client=client, bucket=OpenBucket()) as poster:
        await poster.post(Activity(LEAD, 201))
        gc.collect()
        idle = watch.most = resident()
        heartbeat = asyncio.create_task(watch.beat())
        watch.first_call, watch.begun = 0.0, time.perf_counter()
        results = await run(poster, activities)
        heartbeat.cancel()
    return {
        "what": what,
        "memory grew by, MiB": watch.most - idle,
        "of it RequestIDs, MiB": results,
        "heartbeat late at most, ms": watch.late * 1e3,
        "CPU between two beats at most, ms": watch.busy * 1e3,
        "first call left after, ms": watch.first_call * 1e3,
    }


async def main() -> None:
    chosen = options(__doc__, activities=1_000_000, batch=432_000)
    streamed = numbered(chosen.activities)
    rows = [
        await measure(f"post_stream, {chosen.activities:,}", stream, streamed),
        await measure(f"post_many, {chosen.batch:,}", batch, [*numbered(chosen.batch)]),
    ]
    show("memory", "memory and the event loop", rows, save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
