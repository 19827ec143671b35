"""OpenTelemetry: what is exported about posts, the bucket and an outbox."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support import (
    KEYS,
    LEAD,
    LeadSquared,
    account,
    activity,
    answers,
    run_virtual,
    virtual,
    within,
)

import leadpost.otel
from leadpost import (
    Activity,
    AsyncActivityPoster,
    DeliveryUncertain,
    NotSent,
    OutboxError,
    OutboxUnavailable,
    RetryPolicy,
    TokenBucket,
)
from leadpost._attempts import Terms
from leadpost._poster import post_once
from leadpost._retry import NothingToSend
from leadpost.hooks import Ended, Event, Hook, Resized
from leadpost.otel import OpenTelemetryHook
from leadpost.outbox import STATES, Outbox

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


def test_a_post_is_a_span_with_its_attempts_as_events() -> None:
    telemetry = used(post, LeadSquared(answers(httpx.Response(503))))
    (span,) = telemetry.spans
    assert (span.name, span.kind) == ("leadpost post", SpanKind.CLIENT)
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "leadpost"
    assert dict(span.attributes or {}) == {
        "leadpost.state": "accepted",
        "leadpost.attempts": 2,
        "leadpost.request_id": "r201",
        "http.response.status_code": 200,
    }
    assert span.status.status_code is StatusCode.UNSET
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("leadpost.waiting", {"leadpost.attempt": 1}),
        ("leadpost.sent", {"leadpost.attempt": 1, "leadpost.token.wait": 0.0}),
        ("leadpost.answered", {"leadpost.attempt": 1, "http.response.status_code": 503}),
        (
            "leadpost.retried",
            {
                "leadpost.attempt": 1,
                "leadpost.retry.wait": 1.0,
                "http.response.status_code": 503,
                "error.type": "ServerError",
            },
        ),
        ("leadpost.waiting", {"leadpost.attempt": 2}),
        ("leadpost.sent", {"leadpost.attempt": 2, "leadpost.token.wait": 0.0}),
        ("leadpost.answered", {"leadpost.attempt": 2, "http.response.status_code": 200}),
    ]


def test_a_post_that_fails_is_a_span_in_error_with_the_type() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        with pytest.raises(DeliveryUncertain):
            await post(poster)

    (span,) = used(use, LeadSquared(answers(httpx.ReadTimeout("late")))).spans
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {}) == {
        "leadpost.state": "uncertain",
        "leadpost.attempts": 1,
        "error.type": "DeliveryUncertain",
    }


async def test_spans_are_children_of_the_callers_span() -> None:
    telemetry = Telemetry()
    tracer = telemetry.tracers.get_tracer("service")
    async with poster(LeadSquared(), telemetry) as opened:
        with tracer.start_as_current_span("one"):
            await post(opened)
        with tracer.start_as_current_span("many"):
            await opened.post_many([activity(1), activity(2)])
    by_name = {span.name: span.context.span_id for span in telemetry.spans if span.context}
    parents = [
        span.parent.span_id
        for span in telemetry.spans
        if span.name == "leadpost post"
        if span.parent
    ]
    assert parents == [by_name["one"], by_name["many"], by_name["many"]]


def test_a_caller_that_leaves_before_its_call_is_sent_ends_the_span() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await post(poster)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await post(poster)

    telemetry = used(use, LeadSquared(there=1.0), bucket=TokenBucket(1))
    _, cancelled = telemetry.spans
    assert cancelled.end_time
    assert cancelled.status.status_code is StatusCode.ERROR
    assert dict(cancelled.attributes or {}) == {
        "leadpost.state": "not_sent",
        "leadpost.attempts": 0,
        "error.type": "CancelledError",
    }
    metrics = telemetry.metrics()
    assert metrics["leadpost.tokens.waiting {call}"] == {(): 0}
    assert metrics["leadpost.tokens.in_use {token}"] == {(): 0}


def test_a_caller_that_leaves_a_call_in_flight_leaves_its_span_open_until_the_answer() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await post(poster)

    telemetry = used(use, LeadSquared(there=1.0))
    (span,) = telemetry.spans
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["leadpost.request_id"] == "r201"
    metrics = telemetry.metrics()
    assert metrics["leadpost.posts {post}"] == {("accepted",): 1}
    assert metrics["leadpost.tokens.in_use {token}"] == {(): 0}


@virtual
async def test_posts_tokens_and_the_bucket_have_metrics() -> None:
    seen: list[dict[str, dict[tuple[Any, ...], Any]]] = []
    telemetry = Telemetry()
    refusal = httpx.Response(429, headers={"Retry-After": "7"})
    script = answers(httpx.Response(400), refusal)
    bucket = TokenBucket(3, hooks=[telemetry.hook])
    async with poster(LeadSquared(script, back=1.0), telemetry, bucket=bucket) as opened:
        posts = [asyncio.create_task(post(opened)) for _ in range(5)]
        await asyncio.sleep(0.5)
        seen.append(telemetry.metrics())
        await asyncio.gather(*posts, return_exceptions=True)
    (during,) = seen
    assert during["leadpost.tokens.in_use {token}"] == {(): 3}
    assert during["leadpost.tokens.waiting {call}"] == {(): 2}
    after = telemetry.metrics()
    assert after["leadpost.tokens.in_use {token}"] == {(): 0}
    assert after["leadpost.tokens.waiting {call}"] == {(): 0}
    assert after["leadpost.bucket.pauses {pause}"] == {(): 1}
    assert after["leadpost.posts {post}"] == {("rejected", "BadRequest"): 1, ("accepted",): 4}
    ((count, seconds),) = after["leadpost.token.wait s"].values()
    assert count == 6
    assert 10 < seconds < 60


def test_the_size_of_the_bucket_is_a_metric_once_it_changes() -> None:
    telemetry = Telemetry()
    assert "leadpost.tokens.limit {token}" not in telemetry.metrics()
    telemetry.hook(Resized(20, before=25))
    assert telemetry.metrics()["leadpost.tokens.limit {token}"] == {(): 20}


def test_a_query_is_a_span_but_no_post() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await poster.activity_types()

    telemetry = used(use, LeadSquared(answers(httpx.Response(200, json=[]))))
    assert [span.name for span in telemetry.spans] == ["leadpost activity_types"]
    metrics = telemetry.metrics()
    assert "leadpost.posts {post}" not in metrics
    assert metrics["leadpost.token.wait s"] == {(): (1, 0.0)}


def test_activities_that_a_batch_did_not_begin_are_counted_without_a_span() -> None:
    async def slowly() -> AsyncIterator[Activity]:
        yield activity(1)
        await asyncio.sleep(1)  # meanwhile the keys are rejected
        yield activity(2)

    async def use(poster: AsyncActivityPoster) -> None:
        states = [outcome.state async for outcome in poster.post_stream(slowly())]
        assert states == ["rejected", "not_sent"]

    telemetry = used(use, LeadSquared(answers(httpx.Response(401))))
    (span,) = telemetry.spans
    assert (span.attributes or {})["leadpost.state"] == "rejected"
    assert telemetry.metrics()["leadpost.posts {post}"] == {
        ("rejected", "Unauthorized"): 1,
        ("not_sent", "NotSent"): 1,
    }


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, "acme") as opened:
        yield opened


async def test_an_outbox_is_observed_until_cancelled(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = Telemetry()

    async def until(condition: Callable[[Any], bool]) -> None:
        async with within(60):
            while not condition(telemetry.metrics()):
                await asyncio.sleep(0.01)

    assert (await outbox.health()).oldest_pending is None
    observing = asyncio.create_task(telemetry.hook.observe(outbox, every=0.01))
    await until(lambda metrics: metrics.get("leadpost.outbox.oldest s") == {(): 0.0})
    await outbox.put(activity(1))
    await outbox.put(activity(2))
    await until(lambda metrics: metrics["leadpost.outbox.entries {entry}"][("pending",)] == 2)
    await until(lambda metrics: 0.0 < metrics["leadpost.outbox.oldest s"][()] < 10)
    assert set(telemetry.metrics()["leadpost.outbox.entries {entry}"]) == {
        (state,) for state in STATES
    }

    async def away() -> None:
        raise OutboxUnavailable("the outbox is away")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "health", away)
        async with within(60):
            while "could not be observed: the outbox is away" not in caplog.text:
                await asyncio.sleep(0.01)
    await outbox.put(activity(3))
    await until(lambda metrics: metrics["leadpost.outbox.entries {entry}"][("pending",)] == 3)
    observing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await observing


async def test_an_unusable_outbox_ends_the_observation(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise OutboxError("no such table")

    monkeypatch.setattr(outbox, "health", broken)
    with pytest.raises(OutboxError, match="no such table"):
        await Telemetry().hook.observe(outbox)


def test_no_key_no_note_and_no_value_is_exported() -> None:
    echo = {"ExceptionMessage": f"{NOTE} {VALUE} {' '.join(KEYS)}", "ExceptionType": NOTE}
    statuses = (200, 400, 401, 403, 404, 429, 500, 503)
    script = [httpx.Response(status, json=echo) for status in statuses]

    async def use(poster: AsyncActivityPoster) -> None:
        for _ in range(12):
            with suppress(Exception):
                await post(poster)

    leadsquared = LeadSquared(
        answers(*script, httpx.ReadError(NOTE), ValueError(f"{NOTE} {VALUE}"))
    )
    telemetry = used(use, leadsquared)
    exported = telemetry.everything()
    assert len(telemetry.spans) == 12
    assert "ServerError" in exported
    assert "leadpost.token.wait" in exported
    for hidden in (*KEYS, NOTE, VALUE, LEAD, "Özdemir"):
        assert hidden not in exported
        assert hidden.encode("unicode_escape").decode() not in exported


def test_without_its_extra_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"pip install 'leadpost\[otel\]'"):
        importlib.reload(leadpost.otel)


@virtual
async def test_a_worker_that_finds_nothing_to_send_exports_nothing() -> None:
    events: list[Event] = []

    async def nothing() -> Activity:
        raise NothingToSend("another worker was faster")

    telemetry = Telemetry()
    hooks: list[Hook] = [telemetry.hook, events.append]
    client = LeadSquared().client()
    async with AsyncActivityPoster(account(), client=client, hooks=hooks) as opened:
        with pytest.raises(NotSent):
            await post_once(opened, nothing, Terms())
        await post(opened)
    (span,) = telemetry.spans
    assert telemetry.started == [span.name]
    assert span.attributes is not None
    assert span.attributes["leadpost.state"] == "accepted"
    assert telemetry.metrics()["leadpost.posts {post}"] == {("accepted",): 1}
    assert telemetry.metrics()["leadpost.tokens.waiting {call}"] == {(): 0}
    assert not telemetry.hook._began
    assert not telemetry.hook._spans
    last = next(event for event in events if isinstance(event, Ended))
    assert (last.state, last.attempts, last.error) == ("not_sent", 0, "NothingToSend")
