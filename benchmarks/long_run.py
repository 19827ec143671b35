"""
How close does a long batch come to the limit, and how long does an urgent post wait meanwhile?

2,000 posts in one batch, over real sockets to a strict sandbox, for four ranges of delay and each
way in which a server may count; all runs at the same time, each with its own sandbox. Every 4 s
there is an urgent single post; its time until it is sent is measured. The ceiling of a client that
must never be refused is 25 / (5 + mean round trip) posts a second. Beside each run there is one of
500 single posts, a tenth of which are cancelled in flight.

    python benchmarks/long_run.py [--posts 2000] [--singles 500]
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextvars import ContextVar
from typing import Any

from common import activities, ceiling_rate, options, show

from leadpost import Activity, AsyncActivityPoster
from leadpost.hooks import Event, Sent
from leadpost.sandbox import Sandbox

WINDOWS = ("sliding", "fixed", "bucket")
DELAYS = ((0.02, 0.15), (0.1, 0.15), (0.3, 0.5), (0.1, 1.0))
LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"
EVERY = 4.0
urgent_waits: ContextVar[list[float] | None] = ContextVar("urgent_waits", default=None)
single_post: ContextVar[asyncio.Task[Any] | None] = ContextVar("single_post", default=None)


async def urgent(poster: AsyncActivityPoster, waits: list[float]) -> None:
    """Post single activities until cancelled."""
    urgent_waits.set(waits)
    while True:
        await asyncio.sleep(EVERY)
        await poster.post(Activity(LEAD, 201, f"urgent {len(waits)}"))


def note_wait(event: Event) -> None:
    """Record how long urgent posts wait until they are sent."""
    waits = urgent_waits.get()
    if waits is not None and isinstance(event, Sent):
        waits.append(event.waited)


async def measure(low: float, high: float, window: str, posts: int) -> dict[str, Any]:
    with Sandbox(delay=(low, high), window=window) as sandbox:
        async with AsyncActivityPoster(sandbox.account(), hooks=[note_wait]) as poster:
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


async def measure_cancelled(low: float, high: float, window: str, posts: int) -> dict[str, Any]:
    async def post(poster: AsyncActivityPoster, activity: Activity) -> None:
        single_post.set(asyncio.current_task())
        await poster.post(activity)

    def cancel_some(event: Event) -> None:
        # A fifth of the calls, most of them in flight.
        task = single_post.get()
        if task is not None and isinstance(event, Sent) and random.random() < 0.2:
            delay = random.uniform(0, low + high)
            asyncio.get_running_loop().call_later(delay, task.cancel)

    with Sandbox(delay=(low, high), window=window) as sandbox:
        async with AsyncActivityPoster(sandbox.account(), hooks=[cancel_some]) as poster:
            calls = (post(poster, activity) for activity in activities(posts))
            ends = await asyncio.gather(*calls, return_exceptions=True)
        report = sandbox.report()
    return {
        "delay each way, s": f"{low}-{high}",
        "server counts by": window,
        "refused": report.refused,
        "fullest 5 s": report.fullest_window,
        "cancelled": sum(isinstance(end, asyncio.CancelledError) for end in ends),
        "arrived": report.accepted,
    }


async def main() -> None:
    chosen = options(__doc__, posts=2000, singles=500)
    logging.disable(logging.WARNING)  # each call whose caller has left is logged
    pairs = [(delay, window) for window in WINDOWS for delay in DELAYS]
    rows, cancelled = await asyncio.gather(
        asyncio.gather(*(measure(*delay, window, chosen.posts) for delay, window in pairs)),
        asyncio.gather(
            *(measure_cancelled(*delay, window, chosen.singles) for delay, window in pairs)
        ),
    )
    show("long_run", f"{chosen.posts} posts in one batch", rows, save=not chosen.no_save)
    title = f"{chosen.singles} posts, a fifth of them cancelled in flight"
    show("cancelled", title, cancelled, save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
