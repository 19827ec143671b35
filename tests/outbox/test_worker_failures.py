"""Calls of a worker that fail: what becomes of their entries, and when a worker ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from outbox_support import (
    changed,
    poster,
    states,
    until_accepted,
    until_true,
    working,
)
from support import LeadSquared, accept, account, activity, answers, number_in, within

from leadpost import (
    ConnectionFailed,
    NotFound,
    OpenBucket,
    OutageTimeout,
    Priority,
    RetryPolicy,
    TokenBucket,
    TokenLost,
    Unauthorized,
)
from leadpost.hooks import Ended, Event
from leadpost.outbox import Outbox, _worker


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
async def test_an_error_that_concerns_all_entries_ends_the_run_and_leaves_them_pending(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, status: int, error: type[Exception]
) -> None:
    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"ExceptionMessage": "private"})

    await outbox.put_many(map(activity, range(1, 101)))
    with pytest.raises(error):
        await outbox.drain(poster(LeadSquared(refuse)))
    assert set(await states(outbox)) == {"pending"}
    with pytest.raises(error):
        async with within(5):
            await outbox.run(poster(LeadSquared(refuse)))
    said = [record.message for record in caplog.records if "worker stopped" in record.message]
    assert said == [
        f"outbox: the worker stopped; nothing is posted: {error.__name__}, HTTP {status}"
    ]
    assert "private" not in caplog.text


def lost() -> httpx.ConnectError:
    return httpx.ConnectError("no route")


@pytest.mark.parametrize("number", [1, 10])
async def test_a_host_that_is_never_reached_ends_a_drain_and_costs_no_attempt(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """An invalid entry does not hide that: it needs no call."""
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.5)

    async def unreachable(_: httpx.Request) -> httpx.Response:
        raise lost()

    await outbox.put(activity(1), priority=1)
    await changed(outbox, activity="{}")  # as plain SQL may insert it
    await outbox.put_many(map(activity, range(1, number + 1)))
    async with within(10):
        with pytest.raises(ConnectionFailed, match="no route"):
            await outbox.drain(poster(LeadSquared(unreachable)))
    assert await states(outbox) == ["rejected"] + ["pending"] * number


@pytest.mark.parametrize(("number", "failures"), [(1, 12), (10, 4)])
async def test_a_drain_waits_for_the_end_of_an_outage_if_a_call_was_answered_before(
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    failures: int,
) -> None:
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.02)
    leadsquared = LeadSquared(answers(httpx.Response(429), *[lost() for _ in range(failures)]))
    # Long enough for other entries to fail before the first one does so again.
    patient = RetryPolicy(initial_wait=0.3, jitter=0.0)
    await outbox.put_many(map(activity, range(1, number + 1)))
    async with within(30):
        posting = poster(leadsquared, bucket=TokenBucket(3, period=0.01), retry=patient)
        found = await outbox.drain(posting, outage_timeout=20.0)
    assert found == {"accepted": number}
    assert ("answers posts again" in caplog.text) is (number > 1)


async def test_a_drain_does_not_wait_for_ever_for_the_host_of_its_only_entry(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One activity makes no outage, however long its host cannot be reached."""
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.02)

    async def unreachable(_: httpx.Request) -> httpx.Response:
        raise lost()

    leadsquared = LeadSquared(answers(httpx.Response(429), then=unreachable))
    posting = poster(leadsquared, bucket=TokenBucket(3, period=0.01))
    loop = asyncio.get_running_loop()
    await outbox.put(activity(1))
    began = loop.time()
    async with within(10):
        with pytest.raises(ConnectionFailed, match="no route"):
            await outbox.drain(posting, outage_timeout=0.5)
    assert loop.time() - began >= 0.5
    assert await states(outbox) == ["pending"]


async def test_a_long_outage_ends_a_drain(outbox: Outbox) -> None:
    async def fail(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    events: list[Event] = []
    # Long enough for another entry to fail before the first one does so again.
    patient = RetryPolicy(max_attempts=3, initial_wait=1.0)
    await outbox.put_many(map(activity, range(1, 11)))
    posting = poster(LeadSquared(fail), retry=patient, hooks=[events.append])
    async with within(10):
        with pytest.raises(OutageTimeout, match="has not answered posts for 2 s"):
            await outbox.drain(posting, outage_timeout=1.5)
    assert set(await states(outbox)) == {"pending"}
    assert isinstance(events[-1], Ended)
    assert (events[-1].state, events[-1].error) == ("not_sent", "OutageTimeout")


async def test_a_drain_waits_its_whole_time_for_an_outage_that_began_before_it(
    outbox: Outbox,
) -> None:
    failing = answers(*[httpx.Response(503) for _ in range(100)])
    patient = RetryPolicy(max_attempts=100, initial_wait=0.01, jitter=0)
    posting = poster(LeadSquared(failing), retry=patient)
    await outbox.put_many(map(activity, range(1, 11)))
    loop = asyncio.get_running_loop()
    async with within(20):
        for _ in range(2):
            began = loop.time()
            with pytest.raises(OutageTimeout):
                await outbox.drain(posting, outage_timeout=0.7)
            assert loop.time() - began >= 0.7


async def test_a_drain_after_one_that_gave_up_tries_whether_leadsquared_is_back(
    outbox: Outbox,
) -> None:
    fails = True

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503) if fails else await accept(request)

    patient = RetryPolicy(max_attempts=100, initial_wait=0.01, jitter=0)
    posting = poster(LeadSquared(answer), retry=patient)
    await outbox.put_many(map(activity, range(1, 11)))
    async with within(20):
        with pytest.raises(OutageTimeout):
            await outbox.drain(posting, outage_timeout=0.5)
        fails = False
        while set(await states(outbox)) != {"accepted"}:
            with suppress(OutageTimeout):  # until a trial is due
                await outbox.drain(posting, outage_timeout=0.5)
            await asyncio.sleep(0.1)


async def test_during_an_outage_each_trial_has_another_entry(outbox: Outbox) -> None:
    """Entries that always fail must not make the outage last for the others."""

    async def fail_two(request: httpx.Request) -> httpx.Response:
        if number_in(request) in {1, 2}:
            return httpx.Response(500)
        return await accept(request)

    leadsquared = LeadSquared(fail_two)
    posting = poster(leadsquared)
    await outbox.put_many(map(activity, (1, 2)))
    async with working(outbox.run(posting)), within(20):
        while not posting.is_away:
            await asyncio.sleep(0.01)
        await outbox.put(activity(3))
        while (await outbox.counts())["accepted"] == 0:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [500, 502])
async def test_an_entry_that_fails_while_no_other_succeeds_is_not_given_up(
    outbox: Outbox, status: int
) -> None:
    calls = Counter[int]()

    async def fail_one(request: httpx.Request) -> httpx.Response:
        calls[number_in(request)] += 1
        return httpx.Response(status) if number_in(request) == 2 else await accept(request)

    twice = RetryPolicy(max_attempts=2, initial_wait=0.01, jitter=0)
    posting = poster(LeadSquared(fail_one), retry=twice, on_uncertain="retry")
    await outbox.put(activity(1))
    async with working(outbox.run(posting, verify=False)):
        await until_accepted(outbox, 1)
        await outbox.put(activity(2))
        await until_true(lambda: calls[2] >= 4)
        assert not {"failed", "uncertain"} & set(await states(outbox))


@pytest.mark.parametrize("on_uncertain", ["raise", "retry"])
async def test_failures_during_an_outage_cost_no_attempt(outbox: Outbox, on_uncertain: str) -> None:
    one = RetryPolicy(max_attempts=1)
    away = httpx.Response(503, headers={"Retry-After": "1"})
    doubtful = [httpx.Response(502)] if on_uncertain == "retry" else []

    async def healthy(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":  # the query before a trial
            names = ("PendingMessages", "MaxDelayInSeconds", "ProcessingRatePerMinute")
            return httpx.Response(200, json=dict.fromkeys(names, 0))
        return await accept(request)

    leadsquared = LeadSquared(answers(away, *doubtful, then=healthy))
    await outbox.put(activity(1))
    async with within(20):
        found = await outbox.drain(poster(leadsquared, retry=one, on_uncertain=on_uncertain))
    assert found == {"accepted": 1}


async def test_a_run_waits_until_leadsquared_is_back(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.01)
    leadsquared = LeadSquared(answers(*[lost() for _ in range(8)]))
    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(leadsquared)))
    await until_accepted(outbox, 1)
    host = account().host
    assert caplog.text.count(f"the host {host} cannot be reached: ConnectionFailed") == 1
    assert caplog.text.count(f"the host {host} can be reached again") == 1
    await outbox.put(activity(2))  # and it continues
    await until_accepted(outbox, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_refusal_does_not_count_against_the_entry(outbox: Outbox) -> None:
    leadsquared = LeadSquared(answers(*[httpx.Response(429)] * 10))
    await outbox.put(activity(1))
    quick = TokenBucket(period=0.01)
    assert await outbox.drain(poster(leadsquared, bucket=quick)) == {"accepted": 1}


@pytest.mark.parametrize("status", [429, 503])
async def test_a_long_retry_after_is_honoured_up_to_a_minute(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    for module in ("_bucket_parts", "_availability", "outbox._results"):
        monkeypatch.setattr(f"leadpost.{module}.LONGEST_RETRY_AFTER", 0.2)
    refused = httpx.Response(status, headers={"Retry-After": "3600"})
    leadsquared = LeadSquared(answers(refused, refused))
    await outbox.put(activity(1))
    async with within(10):
        found = await outbox.drain(poster(leadsquared, bucket=TokenBucket(period=0.01)))
    assert (found, len(leadsquared.requests)) == ({"accepted": 1}, 3)


@pytest.mark.parametrize(
    "last",
    [
        [httpx.Response(500), httpx.Response(500)],
        [httpx.Response(400)],
        [httpx.Response(429), httpx.ConnectError("refused"), httpx.Response(400)],
    ],
)
async def test_an_entry_stays_uncertain_however_later_calls_end(
    outbox: Outbox, last: list[httpx.Response]
) -> None:
    leadsquared = LeadSquared(answers(httpx.ReadTimeout("too slow"), *last))
    bucket = TokenBucket(period=0.01)
    await outbox.put(activity(1))
    found = await outbox.drain(poster(leadsquared, on_uncertain="retry", bucket=bucket))
    assert (found, len(leadsquared.requests)) == ({"uncertain": 1}, 1 + len(last))
    [entry] = [entry async for entry in outbox.entries()]
    assert entry.error_type == "DeliveryUncertain"
    assert (entry.message or "").startswith("an earlier call may have arrived; the last one: ")


async def test_an_uncertain_post_is_retried_only_on_request(outbox: Outbox) -> None:
    lost = httpx.ReadTimeout("too slow")
    await outbox.put(activity(1))
    again = poster(LeadSquared(answers(lost)), on_uncertain="retry")
    assert await outbox.drain(again) == {"accepted": 1}
    await outbox.put(activity(2))
    always = poster(LeadSquared(answers(*[lost] * 3)), on_uncertain="retry")
    assert await outbox.drain(always) == {"uncertain": 1}


async def test_a_lost_token_costs_no_attempt(outbox: Outbox) -> None:
    class Losing(OpenBucket):
        left = 3

        @asynccontextmanager
        async def token(
            self, priority: Priority, call_timeout: float
        ) -> AsyncGenerator[Callable[[], None]]:
            del priority, call_timeout

            def check() -> None:
                if self.left:
                    self.left -= 1
                    raise TokenLost("gone")

            yield check

    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    once = RetryPolicy(max_attempts=1)
    found = await outbox.drain(poster(leadsquared, bucket=Losing(), retry=once))
    assert (found, len(leadsquared.requests)) == ({"accepted": 1}, 1)
