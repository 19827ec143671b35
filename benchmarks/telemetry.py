"""
How much CPU time do hooks take: one that does nothing, and OpenTelemetry's SDK?

Posts as in overhead.py, compared with posts without hooks. The three take turns in rounds, and the
median of the ratios counts.

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
    ratios: dict[str, list[float]] = {"a hook": [], "OpenTelemetry": []}
    await whole(chosen.posts)  # warms up
    for _ in range(chosen.rounds):
        plain = await whole(chosen.posts)
        ratios["a hook"].append(await whole(chosen.posts, [silent]) / plain)
        ratios["OpenTelemetry"].append(await whole(chosen.posts, [telemetry()]) / plain)
    rows = [
        {
            "hooks": name,
            "CPU, ratio to no hooks": statistics.median(found),
            "least": min(found),
            "most": max(found),
        }
        for name, found in ratios.items()
    ]
    show("telemetry", "CPU time of a post with hooks", rows, save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
