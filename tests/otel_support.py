"""Shared by the tests of OpenTelemetry: what is exported, and a poster that exports."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support import LeadSquared, account, activity, run_virtual

from leadpost import AsyncActivityPoster, RetryPolicy
from leadpost.otel import OpenTelemetryHook

NOTE = "Frau Özdemir asked to be called back"
VALUE = "jo.doe@example.com"


class Started(SpanProcessor):
    """Records spans as they begin, whether they end or not."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        del parent_context
        self.names.append(span.name)


class Telemetry:
    """A hook whose spans and metrics stay in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._started = Started()
        self.tracers.add_span_processor(self._started)
        self.meters = MeterProvider([self.reader])
        self.hook = OpenTelemetryHook(self.tracers, self.meters)
        self._found: dict[str, dict[tuple[Any, ...], Any]] = {}

    @property
    def started(self) -> list[str]:
        return self._started.names

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def metrics(self) -> dict[str, dict[tuple[Any, ...], Any]]:
        """Return the values of each metric by attributes; count and sum for a histogram."""
        data = self.reader.get_metrics_data()
        found = self._found  # older SDKs report a gauge only when it was set again
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points: Any = metric.data.data_points
                    found[f"{metric.name} {metric.unit}"] = {
                        tuple(dict[str, Any](point.attributes).values()): (
                            point.value if hasattr(point, "value") else (point.count, point.sum)
                        )
                        for point in points
                    }
        return found

    def everything(self) -> str:
        data = self.reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in self.spans), data.to_json() if data else ""])


@asynccontextmanager
async def poster(
    leadsquared: LeadSquared, telemetry: Telemetry, **options: Any
) -> AsyncGenerator[AsyncActivityPoster]:
    options.setdefault("retry", RetryPolicy(initial_wait=1.0, jitter=0.0))
    client = leadsquared.client()
    async with AsyncActivityPoster(
        account(), client=client, hooks=[telemetry.hook], **options
    ) as opened:
        yield opened


def used(
    use: Callable[[AsyncActivityPoster], Awaitable[Any]], leadsquared: LeadSquared, **options: Any
) -> Telemetry:
    """Use a poster on a virtual clock, and return what was exported."""
    telemetry = Telemetry()

    async def main() -> None:
        async with poster(leadsquared, telemetry, **options) as opened:
            await use(opened)

    run_virtual(main())
    return telemetry


async def post(poster: AsyncActivityPoster) -> str:
    return await poster.post(activity(201, activity_note=NOTE, fields={"mx_Custom_1": VALUE}))
