"""Hooks: what they are told of posts and buckets, and that none of them hurts a post."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from support import KEYS, Vendor, account, activity, answers, run_virtual

from leadpost import (
    AsyncActivityPoster,
    BadRequest,
    DeliveryUncertain,
    Hook,
    OpenBucket,
    RateLimited,
    RetryPolicy,
    TokenBucket,
)
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
from leadpost.outbox import Outbox, SharedTokenBucket
from leadpost.watch import watcher

NOTE = "Frau Özdemir asked to be called back"
VALUE = "jo.doe@example.com"
POLICY = RetryPolicy(initial_wait=1.0, jitter=0.0)


def told(
    use: Callable[[AsyncActivityPoster], Awaitable[Any]], vendor: Vendor, **options: Any
) -> list[Event]:
    """Use a poster on a virtual clock, and give what a hook was told."""
    events: list[Event] = []

    async def main() -> None:
        options.setdefault("retry", POLICY)
        client = vendor.client()
        poster = AsyncActivityPoster(account(), client=client, hooks=[events.append], **options)
        async with poster:
            await use(poster)

    run_virtual(main())
    return events


async def post(poster: AsyncActivityPoster) -> str:
    return await poster.post(activity(201, activity_note=NOTE, fields={"mx_Custom_1": VALUE}))


def operation_of(events: list[Event]) -> Operation:
    """Give the one operation of which all of these tell."""
    (operation,) = {e.operation for e in events if not isinstance(e, Paused | Resized)}
    return operation


def ends(events: list[Event]) -> list[Ended]:
    return [event for event in events if isinstance(event, Ended)]


def test_a_post_that_is_tried_again_is_told_step_by_step() -> None:
    events = told(post, Vendor(answers(httpx.Response(503))))
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


def test_each_wait_and_each_status_is_that_of_its_attempt() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        with pytest.raises(DeliveryUncertain):
            await post(poster)

    vendor = Vendor(answers(*[httpx.Response(503)] * 2, httpx.ReadTimeout("too slow")))
    events = told(use, vendor)
    assert [event.wait for event in events if isinstance(event, Retried)] == [1.0, 2.0]
    (end,) = ends(events)
    assert (end.state, end.attempts, end.status) == ("uncertain", 3, None)


def test_the_time_waited_for_a_token_is_told() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await asyncio.gather(post(poster), post(poster))

    events = told(use, Vendor(back=0.5), bucket=TokenBucket(1))
    assert [event.waited for event in events if isinstance(event, Sent)] == [
        0.0,
        pytest.approx(5.5),
    ]


@pytest.mark.parametrize(
    ("answer", "error", "state", "status"),
    [
        (httpx.Response(400), BadRequest, "rejected", 400),
        (httpx.ReadTimeout("late"), DeliveryUncertain, "uncertain", None),
    ],
)
def test_a_post_that_is_given_up_is_told_with_the_reason(
    answer: Any, error: type[Exception], state: Any, status: int | None
) -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        with pytest.raises(error):
            await post(poster)

    events = told(use, Vendor(answers(answer)))
    assert events[-1] == Ended(operation_of(events), state, 1, error.__name__, status)


@pytest.mark.parametrize(
    ("answer", "after", "state", "attempts"),
    [
        (None, 0.5, "not_sent", 0),  # while it waits for a token
        (None, 6.5, "uncertain", 1),  # during its call
        (httpx.Response(503), 7.5, "failed", 1),  # between two attempts
        (httpx.ReadTimeout("late"), 6.5, "uncertain", 1),  # likewise, after one in doubt
    ],
)
def test_a_post_that_is_cancelled_is_told_by_what_it_had_come_to(
    answer: Any, after: float, state: Any, attempts: int
) -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await post(poster)
        with suppress(TimeoutError):
            async with asyncio.timeout(after):
                await post(poster)

    vendor = Vendor(answers(None, answer), there=1.0, back=1.0)
    retry = RetryPolicy(initial_wait=10.0)
    events = told(use, vendor, bucket=TokenBucket(1), retry=retry, on_uncertain="retry")
    last = ends(events)[-1]
    assert (last.state, last.attempts, last.error) == (state, attempts, "CancelledError")


def test_a_batch_that_is_stopped_tells_of_what_was_not_sent() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(1, stop.set)
        async for _ in poster.post_stream([activity(1), activity(2)], stop=stop):
            pass

    events = told(use, Vendor(), bucket=TokenBucket(1))
    assert [(ended.state, ended.error) for ended in ends(events)] == [
        ("accepted", None),
        ("not_sent", "NotSent"),
    ]


def test_other_calls_are_told_too_by_their_names() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await poster.metrics()
        await poster.post_sync(activity(201))

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            names = ("PendingMessages", "ProcessingRatePerMinute", "MaxDelayInSeconds")
            return httpx.Response(200, json=dict.fromkeys(names, 0))
        return httpx.Response(200, json={"Status": "Success", "Message": {"Id": "a1"}})

    first, second = ends(told(use, Vendor(answer)))
    assert (first.operation.name, first.operation.is_post, first.error) == ("metrics", False, None)
    assert (second.operation.name, second.operation.is_post) == ("post_sync", True)
    assert second.request_id is None


def test_a_bucket_tells_of_its_pause_and_of_its_size() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await post(poster)
        await asyncio.sleep(3600)  # it tries one token more, in the end
        await poster.post_many(activity(number) for number in range(1, 60))

    events = told(use, Vendor(answers(httpx.Response(429, headers={"Retry-After": "7"}))))
    of_the_bucket = [event for event in events if isinstance(event, Paused | Resized)]
    assert of_the_bucket[0] == Paused(7.0)
    sizes = [event for event in of_the_bucket if isinstance(event, Resized)]
    assert sizes[0] == Resized(tokens=12, before=25)
    assert sizes[1].tokens > sizes[1].before == 12
    assert events.index(of_the_bucket[0]) < events.index(sizes[0])


def test_a_pause_that_is_made_much_longer_is_told_as_it_is() -> None:
    longer = httpx.Response(429, headers={"Retry-After": "120"})
    seen: list[tuple[Event, float]] = []

    def hook(event: Event) -> None:
        if isinstance(event, Paused):
            seen.append((event, bucket.statistics().paused_for))

    async def main() -> None:
        vendor = Vendor(answers(*[httpx.Response(429)] * 3, longer))
        poster = AsyncActivityPoster(account(), client=vendor.client(), bucket=bucket)
        await asyncio.gather(*(poster.post(activity(n)) for n in range(1, 11)))

    bucket = TokenBucket(hooks=[hook])
    run_virtual(main())
    assert seen == [(Paused(5.0), 5.0), (Paused(120.0), 120.0)]


async def test_a_shared_bucket_tells_of_its_pause_here_and_of_its_size_everywhere(
    sqlite_url: str,
) -> None:
    here: list[Event] = []
    there: list[Event] = []
    refusal = RateLimited("no", limit=(10, 5), retry_after=0.1)
    async with (
        SharedTokenBucket(sqlite_url, "test", hooks=[here.append]) as bucket,
        SharedTokenBucket(sqlite_url, "test", hooks=[there.append]) as other,
    ):
        with suppress(RateLimited):
            async with bucket.token():
                raise refusal
        # It is told to the store before the first gets one.
        for each in (bucket, other, bucket, other):
            async with each.token():
                pass
    assert here == [Paused(0.1), Resized(10, 25)]
    assert there == [Resized(10, 25)]


async def test_each_try_of_an_entry_is_an_operation_of_its_own(sqlite_url: str) -> None:
    events: list[Event] = []
    poster = AsyncActivityPoster(
        account(),
        client=Vendor(answers(httpx.Response(503))).client(),
        bucket=OpenBucket(),
        retry=RetryPolicy(initial_wait=0.01, jitter=0.0),
        hooks=[events.append],
    )
    async with Outbox(sqlite_url) as outbox, poster:
        await outbox.put(activity(201))
        await outbox.drain(poster)
    called = [ended for ended in ends(events) if ended.attempts]
    assert [(ended.state, ended.attempts) for ended in called] == [("failed", 1), ("accepted", 1)]
    assert called[0].operation != called[1].operation
    assert called[1].request_id == "r201"


class Broken:
    def __call__(self, event: Event, /) -> None:
        raise ValueError(f"{NOTE} {event}")


def test_a_hook_that_raises_hurts_nothing_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []

    async def main() -> None:
        hooks: list[Hook] = [Broken(), events.append, Broken()]
        vendor = Vendor(answers(httpx.Response(429)))
        poster = AsyncActivityPoster(account(), client=vendor.client(), retry=POLICY, hooks=hooks)
        async with poster:
            assert await post(poster) == "r201"
            assert await post(poster) == "r201"

    run_virtual(main())
    assert len(ends(events)) == 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    by_logger = [record.message for record in errors if record.name == "leadpost.watch"]
    # Two hooks, each of the poster and of its bucket.
    assert by_logger == ["the hook Broken raised ValueError; told only this once"] * 4
    assert not any(record.exc_info for record in errors)
    assert NOTE not in caplog.text


@pytest.mark.parametrize("error", [asyncio.CancelledError, pytest.fail.Exception])
def test_whatever_a_hook_raises_it_costs_no_request_id(error: type[BaseException]) -> None:
    def hook(event: Event) -> None:
        if isinstance(event, Answered):
            raise error

    async def main() -> None:
        async with AsyncActivityPoster(account(), client=Vendor().client(), hooks=[hook]) as poster:
            assert await post(poster) == "r201"

    run_virtual(main())


async def _awaited(_: Event) -> None: ...


@pytest.mark.parametrize(("hook", "found"), [(1, "found int"), (_awaited, "found an async func")])
def test_what_is_no_hook_is_refused_at_once(hook: Any, found: str) -> None:
    with pytest.raises(TypeError, match=f"hooks: {found}"):
        AsyncActivityPoster(account(), hooks=[hook])
    with pytest.raises(TypeError, match="wanted plain functions of one argument"):
        TokenBucket(hooks=[hook])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_hook_can_end_the_process(error: type[BaseException]) -> None:
    def hook(_: Event) -> None:
        raise error

    with pytest.raises(error):
        watcher([hook])("post").answered(200)


def test_what_a_closed_client_keeps_from_being_sent_is_told_so() -> None:
    async def use(poster: AsyncActivityPoster) -> None:
        await poster._call._given.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await post(poster)

    (last,) = told(use, Vendor())
    assert isinstance(last, Ended)
    assert (last.state, last.attempts, last.error) == ("not_sent", 0, "RuntimeError")


def test_a_post_that_was_accepted_is_so_although_the_bucket_fails() -> None:
    class Failing(OpenBucket):
        @asynccontextmanager
        async def token(self) -> AsyncGenerator[None]:
            yield
            raise LookupError("of the bucket")

    async def use(poster: AsyncActivityPoster) -> None:
        with pytest.raises(LookupError):
            await post(poster)

    (last,) = ends(told(use, Vendor(), bucket=Failing()))
    assert (last.state, last.request_id) == ("accepted", "r201")


def test_without_hooks_nothing_is_made_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What that costs is measured by benchmarks/telemetry.py."""

    def made(*_: object) -> None:
        pytest.fail("something was made for hooks that are not there")

    async def main() -> None:
        async with AsyncActivityPoster(account(), client=Vendor().client()) as poster:
            await post(poster)

    assert watcher(())("post") is watcher(())("status")
    for name in ("Operation", "Waiting", "Sent", "Answered", "Retried", "Ended"):
        monkeypatch.setattr(f"leadpost.watch.{name}", made)
    run_virtual(main())


def test_nothing_personal_and_no_key_is_in_any_event() -> None:
    echo = {"ExceptionMessage": f"{NOTE} {VALUE} {' '.join(KEYS)}", "ExceptionType": NOTE}
    script = [httpx.Response(status, json=echo) for status in (400, 401, 404, 429, 500, 503, 200)]

    async def use(poster: AsyncActivityPoster) -> None:
        for _ in range(10):
            with suppress(Exception):
                await post(poster)

    events = told(use, Vendor(answers(*script, httpx.ReadError(NOTE))), on_uncertain="retry")
    assert {type(event) for event in events} == {
        *(Waiting, Sent, Answered, Retried, Ended, Paused, Resized)
    }
    for hidden in (*KEYS, NOTE, VALUE):
        assert hidden not in repr(events)
