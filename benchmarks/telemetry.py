"""
What do hooks cost a post in CPU time: where there are none, with one that does nothing, and with
OpenTelemetry's SDK?

"Off" is timed by itself, as it drowns in a whole post: all that one post asks of its watch. The
others are whole posts, as in overhead.py, beside posts without hooks; the three take turns in
rounds, and the median of the rounds' differences counts.

    python benchmarks/telemetry.py [--posts 2000] [--rounds 9]
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

from common import ACCOUNT, options, show
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from overhead import EXAMPLE, client

from leadpost import AsyncActivityPoster, Hook, OpenBucket
from leadpost.hooks import Event
from leadpost.otel import OpenTelemetryHook
from leadpost.watch import watcher


def off(posts: int) -> float:
    """Seconds for all that so many posts ask of their watch, where nobody is told."""
    watch_of = watcher(())
    begun = time.process_time()
    for _ in range(posts):
        watch = watch_of("post")
        with watch:
            watch.waiting()
            watch.has_token()
            watch.sent()
            watch.answered(200)
            watch.succeeded("")
    return time.process_time() - begun


async def whole(posts: int, hooks: Sequence[Hook] = ()) -> float:
    async with (
        client() as sending,
        AsyncActivityPoster(ACCOUNT, client=sending, bucket=OpenBucket(), hooks=hooks) as poster,
    ):
        begun = time.process_time()
        for _ in range(posts):
            await poster.post(EXAMPLE)
        return time.process_time() - begun


def silent(_: Event) -> None:
    """Do nothing."""


def telemetry() -> OpenTelemetryHook:
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    return OpenTelemetryHook(tracers, MeterProvider([InMemoryMetricReader()]))


async def main() -> None:
    chosen = options(__doc__, posts=2000, rounds=9)
    microseconds = 1e6 / chosen.posts
    costs: dict[str, list[float]] = {"off": [], "a hook": [], "OpenTelemetry": []}
    await whole(chosen.posts)  # warms up
    for _ in range(chosen.rounds):
        plain = await whole(chosen.posts)
        costs["off"].append(off(chosen.posts) * microseconds)
        costs["a hook"].append((await whole(chosen.posts, [silent]) - plain) * microseconds)
        costs["OpenTelemetry"].append(
            (await whole(chosen.posts, [telemetry()]) - plain) * microseconds
        )
    rows = [
        {
            "hooks": name,
            "µs a post": statistics.median(found),
            "least": min(found),
            "most": max(found),
        }
        for name, found in costs.items()
    ]
    show("telemetry", "CPU time that hooks add", rows, save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
