"""OpenTelemetry: what is exported about posts, the bucket and an outbox."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from otel_support import NOTE, VALUE, Telemetry, post, poster, used
from support import KEYS, LEAD, LeadSquared, account, activity, answers, virtual

import leadpost.otel
from leadpost import Activity, AsyncActivityPoster, DeliveryUncertain, NotSent, TokenBucket
from leadpost._attempts import Terms
from leadpost._poster import post_once
from leadpost._retry import NothingToSend
from leadpost.hooks import Ended, Event, Hook, Resized


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
