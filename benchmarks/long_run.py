"""
How near does a long batch come to the ceiling, and how long does an urgent post wait in it?

2,000 posts in one batch over real sockets to a strict sandbox, for four ranges of delay and each
way in which a server may count, all at the same time, each with a sandbox of its own; every 4 s an
urgent single post, whose wait for a token counts. The ceiling: 25 / (5 + mean round trip - least
round trip) posts a second.

    python benchmarks/long_run.py [--posts 2000]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from common import activities, ceiling_rate, options, show

from leadpost import Activity, AsyncActivityPoster, TokenBucket
from leadpost.sandbox import Sandbox

WINDOWS = ("sliding", "fixed", "bucket")
DELAYS = ((0.02, 0.15), (0.1, 0.15), (0.3, 0.5), (0.1, 1.0))
LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"
EVERY = 4.0
urgent_waits: ContextVar[list[float] | None] = ContextVar("urgent_waits", default=None)


class WatchedBucket(TokenBucket):
    """Keeps how long urgent posts wait for their token, which is until they are sent."""

    @asynccontextmanager
    async def token(self) -> AsyncGenerator[None]:
        begun = time.perf_counter()
        async with super().token():
            waits = urgent_waits.get()
            if waits is not None:
                waits.append(time.perf_counter() - begun)
            yield


async def urgent(poster: AsyncActivityPoster, waits: list[float]) -> None:
    """Post single activities for ever."""
    urgent_waits.set(waits)
    while True:
        await asyncio.sleep(EVERY)
        await poster.post(Activity(LEAD, 201, f"urgent {len(waits)}"))


async def measure(low: float, high: float, window: str, posts: int) -> dict[str, Any]:
    with Sandbox(delay=(low, high), window=window) as sandbox:
        async with AsyncActivityPoster(sandbox.account(), bucket=WatchedBucket()) as poster:
            waits: list[float] = []
            single = asyncio.create_task(urgent(poster, waits))
            begun = time.perf_counter()
            await poster.post_many(activities(posts))
            took = time.perf_counter() - begun
            single.cancel()
        report = sandbox.report()
    ordered = sorted(waits)
    return {
        "delay each way, s": f"{low}-{high}",
        "server counts by": window,
        "refused": report.refused,
        "fullest 5 s": report.fullest_window,
        "share of the ceiling": (posts + len(waits)) / took / ceiling_rate(low, high),
        "urgent posts": len(waits),
        "sent after, median s": ordered[len(ordered) // 2],
        "99 of 100 after, s": ordered[len(ordered) * 99 // 100],
        "the last after, s": ordered[-1],
    }


async def main() -> None:
    chosen = options(__doc__, posts=2000)
    runs = (measure(*delay, window, chosen.posts) for window in WINDOWS for delay in DELAYS)
    rows = await asyncio.gather(*runs)
    show("long_run", f"{chosen.posts} posts in one batch", rows, save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
