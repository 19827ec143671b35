"""
How near does a long batch come to the ceiling, and how long does an urgent post wait in it?

2,000 posts in one batch over real sockets to a strict sandbox (sliding window), for four ranges of
delay, all at the same time, each with a sandbox of its own; every 10 s an urgent single post. The
ceiling: 25 / (5 + mean round trip - least round trip) posts a second.

    python benchmarks/long_run.py [--posts 2000]
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from common import activities, ceiling_rate, options, show

from leadpost import Activity, AsyncActivityPoster
from leadpost.sandbox import Sandbox

DELAYS = ((0.02, 0.15), (0.1, 0.15), (0.3, 0.5), (0.1, 1.0))
LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"
EVERY = 10.0


async def urgent(poster: AsyncActivityPoster, waits: list[float], most_way: float) -> None:
    """Post single activities for ever; keep how long each took beyond what its ways may take."""
    while True:
        await asyncio.sleep(EVERY)
        begun = time.perf_counter()
        await poster.post(Activity(LEAD, 201, f"urgent {len(waits)}"))
        waits.append(time.perf_counter() - begun - most_way)


async def measure(low: float, high: float, posts: int) -> dict[str, Any]:
    with Sandbox(delay=(low, high)) as sandbox:
        async with AsyncActivityPoster(sandbox.account()) as poster:
            waits: list[float] = []
            single = asyncio.create_task(urgent(poster, waits, 2 * low))
            begun = time.perf_counter()
            await poster.post_many(activities(posts))
            took = time.perf_counter() - begun
            single.cancel()
        report = sandbox.report()
    ordered = sorted(waits)
    return {
        "delay each way, s": f"{low}-{high}",
        "refused": report.refused,
        "fullest 5 s": report.fullest_window,
        "share of the ceiling": (posts + len(waits)) / took / ceiling_rate(low, high),
        "urgent posts": len(waits),
        # Sent and answered: the wait for a token is less than that by a round trip.
        "urgent, median s": ordered[len(ordered) // 2],
        "urgent, most s": ordered[-1],
    }


async def main() -> None:
    chosen = options(__doc__, posts=2000)
    rows = await asyncio.gather(*(measure(low, high, chosen.posts) for low, high in DELAYS))
    show("long_run", f"{chosen.posts} posts in one batch", rows, save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
