"""
A hook for OpenTelemetry: a span for each post, and metrics.

    telemetry = OpenTelemetryHook()
    async with AsyncActivityPoster(account, hooks=[telemetry]) as poster:
        ...

Needs the extra: pip install 'leadpost[otel]'.
"""

from __future__ import annotations

import asyncio
import logging
from time import time_ns
from typing import TYPE_CHECKING, Never

from leadpost import __version__
from leadpost._retry import NothingToSend
from leadpost.errors import OutboxUnavailable
from leadpost.hooks import (
    Answered,
    Ended,
    Event,
    Operation,
    Paused,
    Resized,
    Retried,
    Sent,
    Waiting,
)

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    raise ImportError(
        "leadpost.otel needs opentelemetry-api: pip install 'leadpost[otel]'"
    ) from error

if TYPE_CHECKING:
    from leadpost.outbox import Outbox

_NAMES = {
    "attempt": "leadpost.attempt",
    "attempts": "leadpost.attempts",
    "waited": "leadpost.token.wait",
    "wait": "leadpost.retry.wait",
    "state": "leadpost.state",
    "request_id": "leadpost.request_id",
    "status": "http.response.status_code",
    "error": "error.type",
}
"""Attribute of our events to OpenTelemetry's, named by its conventions where there is a name."""

_SECONDS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

_log = logging.getLogger(__name__)


class OpenTelemetryHook:
    """
    Turns events into spans and metrics, for any number of posters and buckets.

    "Hooks and OpenTelemetry" in leadpost/README.md lists them all.

    Args:
        tracer_provider: Creates the tracer; the global one by default.
        meter_provider: Creates the meter; the global one by default.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("leadpost", __version__, tracer_provider)
        meter = metrics.get_meter("leadpost", __version__, meter_provider)
        self._posts = meter.create_counter("leadpost.posts", "{post}", "Finished posts, by state")
        self._wait = meter.create_histogram(
            "leadpost.token.wait",
            "s",
            "Time that calls waited for a token",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._calls: dict[type[Event], metrics.UpDownCounter] = {
            Waiting: meter.create_up_down_counter(
                "leadpost.tokens.waiting", "{call}", "Calls that wait for a token"
            ),
            Sent: meter.create_up_down_counter(
                "leadpost.tokens.in_use", "{token}", "Tokens of calls in flight"
            ),
        }
        self._limit = meter.create_gauge("leadpost.tokens.limit", "{token}", "Tokens of the bucket")
        self._pauses = meter.create_counter(
            "leadpost.bucket.pauses", "{pause}", "Pauses of the bucket after refusals"
        )
        self._entries = meter.create_gauge(
            "leadpost.outbox.entries", "{entry}", "Entries of the outbox, by state"
        )
        self._oldest = meter.create_gauge(
            "leadpost.outbox.oldest", "s", "Age of the oldest pending entry"
        )
        self._began: dict[Operation, tuple[Waiting, int]] = {}
        self._spans: dict[Operation, trace.Span] = {}
        self._phases: dict[Operation, metrics.UpDownCounter] = {}

    def __call__(self, event: Event, /) -> None:
        match event:
            case Paused():
                self._pauses.add(1)
            case Resized():
                self._limit.set(event.tokens)
            case _:
                self._count(event)
                self._trace(event)

    async def observe(self, outbox: Outbox, every: float = 15.0) -> Never:
        """
        Report the entries of an outbox as metrics, until cancelled.

        Args:
            outbox: The outbox. One process that observes it is enough.
            every: Seconds between two readings. If the database is unreachable, that is logged, and
                the metrics keep their last values.

        Raises:
            OutboxError: the database cannot be used.
        """
        while True:
            try:
                health = await outbox.health()
            except OutboxUnavailable as error:
                _log.warning("the outbox could not be observed: %s", error)
            else:
                for state, count in health.counts.items():
                    self._entries.set(count, {"leadpost.state": state})
                self._oldest.set(health.oldest_pending or 0.0)
            await asyncio.sleep(every)

    def _count(self, event: Waiting | Sent | Answered | Retried | Ended) -> None:
        if (left := self._phases.pop(event.operation, None)) is not None:
            left.add(-1)
        if (entered := self._calls.get(type(event))) is not None:
            entered.add(1)
            self._phases[event.operation] = entered
        if isinstance(event, Sent):
            self._wait.record(event.waited)
        if isinstance(event, Ended) and event.operation.is_post and not _is_nothing(event):
            of = _attributes(event)
            names = ("leadpost.state", "error.type")
            self._posts.add(1, {name: of[name] for name in names if name in of})

    def _trace(self, event: Waiting | Sent | Answered | Retried | Ended) -> None:
        operation = event.operation
        if isinstance(event, Waiting) and operation not in self._spans:
            # The span is created later, with this start time: a worker may find nothing to send.
            self._began[operation] = event, time_ns()
            return
        began = self._began.pop(operation, None)
        if began is not None and not _is_nothing(event):
            first, at = began
            span = self._tracer.start_span(
                f"leadpost {operation.name}", kind=trace.SpanKind.CLIENT, start_time=at
            )
            span.add_event("leadpost.waiting", _attributes(first), at)
            self._spans[operation] = span
        if operation not in self._spans:
            return  # no span began: a worker found nothing, or a batch was stopped
        span = self._spans[operation]
        if not isinstance(event, Ended):
            span.add_event(f"leadpost.{type(event).__name__.lower()}", _attributes(event))
            return
        del self._spans[operation]
        span.set_attributes(_attributes(event))
        if event.error is not None:
            span.set_status(trace.StatusCode.ERROR)
        span.end()


def _is_nothing(event: Event) -> bool:
    """Whether this is the end of a worker's turn that found nothing to send."""
    return isinstance(event, Ended) and event.error == NothingToSend.__name__


def _attributes(event: Event) -> dict[str, str | int | float]:
    """Return the attributes of an event, by OpenTelemetry's names."""
    found = ((attribute, getattr(event, name, None)) for name, attribute in _NAMES.items())
    return {attribute: value for attribute, value in found if value is not None}
