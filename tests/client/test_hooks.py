"""Hooks: the events of posts and buckets, and that no hook can affect a post."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from support import LeadSquared, account, activity, answers, run_virtual, virtual

from leadpost import (
    AsyncActivityPoster,
    DeliveryUncertain,
    Hook,
    OpenBucket,
    RateLimited,
    RetryPolicy,
    TokenBucket,
)
from leadpost.bucket import Priority
from leadpost.hooks import (
    Answered,
    Ended,
    Event,
    Hooks,
    Operation,
    Paused,
    Resized,
    Retried,
    Sent,
    Waiting,
)
from leadpost.outbox import Outbox, SharedTokenBucket

NOTE = "Frau Özdemir asked to be called back"
VALUE = "jo.doe@example.com"
POLICY = RetryPolicy(initial_wait=1.0, jitter=0.0)


def events_of(
    use: Callable[[AsyncActivityPoster], Awaitable[Any]], leadsquared: LeadSquared, **options: Any
) -> list[Event]:
    """Use a poster on a virtual clock, and return the events that a hook received."""
    events: list[Event] = []

    async def main() -> None:
        options.setdefault("retry", POLICY)
        client = leadsquared.client()
        poster = AsyncActivityPoster(account(), client=client, hooks=[events.append], **options)
        async with poster:
            await use(poster)

    run_virtual(main())
    return events


async def post(poster: AsyncActivityPoster) -> str:
    return await poster.post(activity(201, activity_note=NOTE, fields={"mx_Custom_1": VALUE}))


def operation_of(events: list[Event]) -> Operation:
    """Return the operation of these events, after checking that there is only one."""
    (operation,) = {e.operation for e in events if not isinstance(e, Paused | Resized)}
    return operation


def ends(events: list[Event]) -> list[Ended]:
    return [event for event in events if isinstance(event, Ended)]


def test_a_retried_post_has_an_event_for_each_step() -> None:
    events = events_of(post, LeadSquared(answers(httpx.Response(503))))
    operation = operation_of(events)
    assert (operation.name, operation.is_post) == ("post", True)
    assert events == [
        Waiting(operation, 1),
        Sent(operation, 1, waited=0.0),
        Answered(operation, 1, 503),
        Retried(operation, 1, "ServerError", 503, wait=1.0),
        Waiting(operation, 2),
        Sent(operation, 2, waited=0.0),
        Answered(operation, 2, 200),
        Ended(operation, "accepted", 2, error=None, status=200, request_id="r201"),
    ]


def test_each_event_has_the_wait_and_status_of_its_own_attempt() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        with pytest.raises(DeliveryUncertain):
            await post(poster)

    leadsquared = LeadSquared(answers(*[httpx.Response(503)] * 2, httpx.ReadTimeout("too slow")))
    events = events_of(use, leadsquared)
    assert [event.wait for event in events if isinstance(event, Retried)] == [1.0, 2.0]
    (end,) = ends(events)
    assert (end.state, end.attempts, end.status) == ("uncertain", 3, None)


def test_sent_has_the_time_waited_for_a_token() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await asyncio.gather(post(poster), post(poster))

    events = events_of(use, LeadSquared(back=0.5), bucket=TokenBucket(1))
    assert [event.waited for event in events if isinstance(event, Sent)] == [
        0.0,
        pytest.approx(5.5),
    ]


@pytest.mark.parametrize(
    ("answer", "after", "state", "attempts", "error"),
    [
        (None, 0.5, "not_sent", 0, "CancelledError"),  # while it waits for a token
        (None, 6.5, "accepted", 1, None),  # during its call, which finishes
        (httpx.Response(503), 7.5, "failed", 1, "CancelledError"),  # between two attempts
        (httpx.ReadTimeout("late"), 6.5, "uncertain", 1, "CancelledError"),
    ],
)
def test_ended_of_a_cancelled_post_has_its_outcome(
    answer: Any, after: float, state: Any, attempts: int, error: str | None
) -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await post(poster)
        with suppress(TimeoutError):
            async with asyncio.timeout(after):
                await post(poster)

    leadsquared = LeadSquared(answers(None, answer), there=1.0, back=1.0)
    retry = RetryPolicy(initial_wait=10.0)
    events = events_of(use, leadsquared, bucket=TokenBucket(1), retry=retry, on_uncertain="retry")
    last = ends(events)[-1]
    assert (last.state, last.attempts, last.error) == (state, attempts, error)


def test_every_other_call_has_events_under_its_own_name() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await poster.metrics()
        await poster.post_sync(activity(201))

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            names = ("PendingMessages", "ProcessingRatePerMinute", "MaxDelayInSeconds")
            return httpx.Response(200, json=dict.fromkeys(names, 0))
        return httpx.Response(200, json={"Status": "Success", "Message": {"Id": "a1"}})

    first, second = ends(events_of(use, LeadSquared(answer)))
    assert (first.operation.name, first.operation.is_post, first.error) == ("metrics", False, None)
    assert (second.operation.name, second.operation.is_post) == ("post_sync", True)
    assert second.request_id is None


def test_a_bucket_emits_its_pause_and_its_new_size() -> None:
    refusal = {
        "ExceptionType": "MXAPIRateLimitExceededException",
        "ExceptionMessage": "API calls exceeded the limit of 10 in 5 second(s)",
    }
    answer = httpx.Response(429, json=refusal, headers={"Retry-After": "7"})
    events = events_of(post, LeadSquared(answers(answer)))
    assert Paused(7.0) in events
    assert Resized(tokens=10, before=25) in events


def test_a_pause_that_becomes_much_longer_is_emitted_again() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await asyncio.gather(post(poster), post(poster))

    script = [httpx.Response(429, headers={"Retry-After": seconds}) for seconds in ("7", "120")]
    events = events_of(use, LeadSquared(answers(*script)))
    assert [event for event in events if isinstance(event, Paused)] == [Paused(7.0), Paused(60.0)]


async def test_a_shared_bucket_emits_its_pause_here_and_its_size_in_every_process(
    sqlite_url: str,
) -> None:
    here: list[Event] = []
    there: list[Event] = []
    refusal = RateLimited("no", limit=(10, 5), retry_after=0.1)
    bucket = SharedTokenBucket(sqlite_url, "test", hooks=[here.append])
    other = SharedTokenBucket(sqlite_url, "test", hooks=[there.append])
    for each in (bucket, other):
        await each.open(account())
    with suppress(RateLimited):
        async with bucket.token() as begin:
            begin()
            raise refusal
    # The database has it before the first of these gets its token.
    for each in (bucket, other, bucket, other):
        async with each.token():
            pass
    for each in (bucket, other):
        await each.aclose()
    assert here == [Resized(10, 25), Paused(0.1)]
    assert there == [Resized(10, 25)]


async def test_each_attempt_at_an_outbox_entry_is_an_operation_of_its_own(sqlite_url: str) -> None:
    events: list[Event] = []
    poster = AsyncActivityPoster(
        account(),
        client=LeadSquared(answers(httpx.Response(503))).client(),
        bucket=OpenBucket(),
        retry=RetryPolicy(initial_wait=0.01, jitter=0.0),
        hooks=[events.append],
    )
    async with Outbox(sqlite_url, account()) as outbox, poster:
        await outbox.put(activity(201))
        await outbox.drain(poster)
    called = [ended for ended in ends(events) if ended.attempts]
    assert [(ended.state, ended.attempts) for ended in called] == [("failed", 1), ("accepted", 1)]
    assert called[0].operation != called[1].operation
    assert called[1].request_id == "r201"


class Broken:
    def __call__(self, event: Event, /) -> None:
        raise ValueError(f"{NOTE} {event}")


@virtual
async def test_a_hook_that_raises_affects_no_post_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []
    hooks: list[Hook] = [Broken(), events.append, Broken()]
    leadsquared = LeadSquared(answers(httpx.Response(429, headers={"Retry-After": "1"})))
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), retry=POLICY, hooks=hooks)
    async with poster:
        assert await post(poster) == "r201"
        assert await post(poster) == "r201"
    assert len(ends(events)) == 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    by_logger = [record.message for record in errors if record.name == "leadpost"]
    # Two hooks, each of the poster and of its bucket.
    assert by_logger == ["hook Broken raised ValueError; further errors of it are not logged"] * 4
    assert not any(record.exc_info for record in errors)
    assert NOTE not in caplog.text


@pytest.mark.parametrize("error", [asyncio.CancelledError, pytest.fail.Exception])
@virtual
async def test_no_error_of_a_hook_costs_a_request_id(error: type[BaseException]) -> None:
    def hook(event: Event) -> None:
        if isinstance(event, Answered):
            raise error

    async with AsyncActivityPoster(
        account(), client=LeadSquared().client(), hooks=[hook]
    ) as poster:
        assert await post(poster) == "r201"


async def _awaited(_: Event) -> None: ...


def test_a_hook_must_be_a_plain_function() -> None:
    hooks: Any = [_awaited]
    message = "^hooks: found an async function, wanted plain functions$"
    with pytest.raises(TypeError, match=message):
        AsyncActivityPoster(account(), hooks=hooks)
    with pytest.raises(TypeError, match=message):
        TokenBucket(hooks=hooks)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_hook_can_end_the_process(error: type[BaseException]) -> None:
    def hook(_: Event) -> None:
        raise error

    with pytest.raises(error):
        Hooks([hook])(Paused(1.0))


@virtual
async def test_a_call_by_a_closed_client_has_no_events() -> None:
    events: list[Event] = []
    client = LeadSquared().client()
    await client.aclose()
    async with AsyncActivityPoster(account(), client=client, hooks=[events.append]) as poster:
        with pytest.raises(RuntimeError, match="closed"):
            await post(poster)
    assert events == []


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [(None, "accepted", None), (httpx.Response(400), "rejected", "BadRequest")],
)
@pytest.mark.parametrize("use", ["post", "post_many"])
@virtual
async def test_the_answer_counts_if_the_bucket_fails_afterwards(
    use: str, answer: Any, state: str, error: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(OpenBucket):
        @asynccontextmanager
        async def token(
            self, priority: Priority, call_timeout: float
        ) -> AsyncGenerator[Callable[[], None]]:
            try:
                async with super().token(priority, call_timeout) as begin:
                    yield begin
            finally:
                raise LookupError("of the bucket")

    events: list[Event] = []
    client = LeadSquared(answers(answer)).client()
    poster = AsyncActivityPoster(account(), client=client, bucket=Failing(), hooks=[events.append])
    if use == "post":
        (result,) = await asyncio.gather(poster.post(activity()), return_exceptions=True)
    else:
        (result,) = await poster.post_many([activity()], return_exceptions=True)
    found = result if isinstance(result, str) else type(result).__name__
    assert found == (error or "r201")
    (end,) = ends(events)
    assert (end.state, end.error) == (state, error)
    assert "ended, but then its bucket failed: LookupError" in caplog.text
