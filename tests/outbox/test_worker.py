"""A worker: what it sends, and what it does when calls fail."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import (
    ACME,
    WHEN,
    changed,
    executed,
    held_until,
    noted,
    poster,
    poster_to,
    states,
    until,
    until_accepted,
)
from support import Vendor, accept, account, activity, answers, number_in, within

from leadpost import (
    Activity,
    ConnectionFailed,
    NotFound,
    OpenBucket,
    OutageTimeout,
    OutboxError,
    Priority,
    RetryPolicy,
    TokenBucket,
    TokenLost,
    Unauthorized,
)
from leadpost.hooks import Ended, Event, Sent
from leadpost.outbox import Outbox, _upkeep, _verifier, _worker
from leadpost.outbox._clock import boot_time
from leadpost.outbox.database import _calls
from leadpost.sandbox import Sandbox


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
async def test_an_error_that_concerns_all_entries_ends_the_run_and_leaves_them_pending(
    outbox: Outbox, caplog: pytest.LogCaptureFixture, status: int, error: type[Exception]
) -> None:
    async def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"ExceptionMessage": "private"})

    await outbox.put_many(map(activity, range(1, 101)))
    with pytest.raises(error):
        await outbox.drain(poster(Vendor(refuse)))
    assert set(await states(outbox)) == {"pending"}
    with pytest.raises(error):
        async with within(5):
            await outbox.run(poster(Vendor(refuse)))
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
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.5)

    async def unreachable(_: httpx.Request) -> httpx.Response:
        raise lost()

    await outbox.put_many(map(activity, range(1, number + 1)))
    async with within(10):
        with pytest.raises(ConnectionFailed, match="no route"):
            await outbox.drain(poster(Vendor(unreachable)))
    assert set(await states(outbox)) == {"pending"}


@pytest.mark.parametrize(("number", "failures"), [(1, 12), (10, 4)])
async def test_a_drain_waits_for_the_end_of_an_outage_if_a_call_was_answered_before(
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    failures: int,
) -> None:
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.02)
    vendor = Vendor(answers(httpx.Response(429), *[lost() for _ in range(failures)]))
    # Long enough for other entries to fail before the first one does so again.
    patient = RetryPolicy(initial_wait=0.3, jitter=0.0)
    await outbox.put_many(map(activity, range(1, number + 1)))
    async with within(30):
        posting = poster(vendor, bucket=TokenBucket(3, period=0.01), retry=patient)
        found = await outbox.drain(posting, outage_timeout=20.0)
    assert found == {"accepted": number}
    assert ("answers posts again" in caplog.text) is (number > 1)


async def test_a_drain_of_a_batch_leaves_others_alone(outbox: Outbox) -> None:
    await outbox.put_many(
        [activity(n) for n in range(1, 6)],
        keys=["june/1", "july/1", "june/2", "june", "june-2/1"],
    )
    vendor = Vendor()
    assert await outbox.drain(poster(vendor), batch="june") == {"accepted": 2}
    assert vendor.numbers == [1, 3]
    assert (await outbox.counts())["pending"] == 3


async def test_a_long_outage_ends_a_drain(outbox: Outbox) -> None:
    async def fail(_: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    events: list[Event] = []
    # Long enough for another entry to fail before the first one does so again.
    patient = RetryPolicy(max_attempts=3, initial_wait=1.0)
    await outbox.put_many(map(activity, range(1, 11)))
    posting = poster(Vendor(fail), retry=patient, hooks=[events.append])
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
    posting = poster(Vendor(failing), retry=patient)
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
    posting = poster(Vendor(answer), retry=patient)
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

    vendor = Vendor(fail_two)
    posting = poster(vendor)
    await outbox.put_many(map(activity, (1, 2)))
    running = asyncio.create_task(outbox.run(posting))
    async with within(20):
        while not posting.is_away:
            await asyncio.sleep(0.01)
        await outbox.put(activity(3))
        while (await outbox.counts())["accepted"] == 0:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("status", [500, 502])
async def test_an_entry_that_fails_while_no_other_succeeds_is_not_given_up(
    outbox: Outbox, status: int
) -> None:
    calls = Counter[int]()

    async def fail_one(request: httpx.Request) -> httpx.Response:
        calls[number_in(request)] += 1
        return httpx.Response(status) if number_in(request) == 2 else await accept(request)

    twice = RetryPolicy(max_attempts=2, initial_wait=0.01, jitter=0)
    posting = poster(Vendor(fail_one), retry=twice, on_uncertain="retry")
    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(posting, verify=False))
    await until_accepted(outbox, 1)
    await outbox.put(activity(2))
    async with within(20):
        while calls[2] < 4:
            await asyncio.sleep(0.01)
    assert not {"failed", "uncertain"} & set(await states(outbox))
    running.cancel()
    await asyncio.wait([running])


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

    vendor = Vendor(answers(away, *doubtful, then=healthy))
    await outbox.put(activity(1))
    async with within(20):
        found = await outbox.drain(poster(vendor, retry=one, on_uncertain=on_uncertain))
    assert found == {"accepted": 1}


async def test_a_run_waits_until_leadsquared_is_back(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.01)
    vendor = Vendor(answers(*[lost() for _ in range(8)]))
    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(vendor)))
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
    vendor = Vendor(answers(*[httpx.Response(429)] * 10))
    await outbox.put(activity(1))
    quick = TokenBucket(period=0.01)
    assert await outbox.drain(poster(vendor, bucket=quick)) == {"accepted": 1}


@pytest.mark.parametrize("status", [429, 503])
async def test_a_long_retry_after_is_honoured_up_to_a_minute(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    for module in ("_bucket_parts", "_availability", "outbox._results"):
        monkeypatch.setattr(f"leadpost.{module}.LONGEST_RETRY_AFTER", 0.2)
    refused = httpx.Response(status, headers={"Retry-After": "3600"})
    vendor = Vendor(answers(refused, refused))
    await outbox.put(activity(1))
    async with within(10):
        found = await outbox.drain(poster(vendor, bucket=TokenBucket(period=0.01)))
    assert (found, len(vendor.requests)) == ({"accepted": 1}, 3)


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
    vendor = Vendor(answers(httpx.ReadTimeout("too slow"), *last))
    bucket = TokenBucket(period=0.01)
    await outbox.put(activity(1))
    found = await outbox.drain(poster(vendor, on_uncertain="retry", bucket=bucket))
    assert (found, len(vendor.requests)) == ({"uncertain": 1}, 1 + len(last))
    [entry] = [entry async for entry in outbox.entries()]
    assert entry.error_type == "DeliveryUncertain"
    assert (entry.message or "").startswith("an earlier call may have arrived; the last one: ")


async def test_an_uncertain_post_is_retried_only_on_request(outbox: Outbox) -> None:
    lost = httpx.ReadTimeout("too slow")
    await outbox.put(activity(1))
    again = poster(Vendor(answers(lost)), on_uncertain="retry")
    assert await outbox.drain(again) == {"accepted": 1}
    await outbox.put(activity(2))
    always = poster(Vendor(answers(*[lost] * 3)), on_uncertain="retry")
    assert await outbox.drain(always) == {"uncertain": 1}


class Broken(OpenBucket):
    """A bucket that raises before it yields a token, or when the token is returned."""

    def __init__(self, *, late: bool) -> None:
        self.late = late

    @asynccontextmanager
    async def token(
        self, priority: Priority, call_timeout: float
    ) -> AsyncGenerator[Callable[[], None]]:
        if not self.late:
            raise ZeroDivisionError("the bucket's")
        async with super().token(priority, call_timeout) as check:

            def broken() -> None:
                check()
                raise ZeroDivisionError("the bucket's")

            yield broken


@pytest.mark.parametrize("late", [False, True])
async def test_an_error_of_a_bucket_ends_the_run(outbox: Outbox, *, late: bool) -> None:
    await outbox.put_many(map(activity, range(1, 4)))
    vendor = Vendor()
    for posting in (outbox.drain, outbox.run):
        async with within(10):
            with pytest.raises(ZeroDivisionError, match="the bucket's"):
                await posting(poster(vendor, bucket=Broken(late=late)))
    counts = await outbox.counts()
    # An entry that was about to be sent is uncertain, which is the safe side.
    assert counts == counts | {"accepted": 0, "sending": 0}
    if not late:
        assert counts["pending"] == 3
    assert vendor.requests == []


async def test_a_bucket_whose_database_fails_ends_a_run(outbox: Outbox) -> None:
    class Failing(OpenBucket):
        def token(
            self, priority: Priority, call_timeout: float
        ) -> AbstractAsyncContextManager[Callable[[], None]]:
            del priority, call_timeout
            raise OutboxError("the database is damaged")

    await outbox.put(activity(1))
    async with within(10):
        with pytest.raises(OutboxError, match="damaged"):
            await outbox.run(poster(Vendor(), bucket=Failing()))
    assert await states(outbox) == ["pending"]


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

    vendor = Vendor()
    await outbox.put(activity(1))
    once = RetryPolicy(max_attempts=1)
    found = await outbox.drain(poster(vendor, bucket=Losing(), retry=once))
    assert (found, len(vendor.requests)) == ({"accepted": 1}, 1)


async def test_an_expired_claim_is_not_sent(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was frozen, or the machine suspended, between the claim and the call."""
    late = [11.0, 0.0]
    monkeypatch.setattr(_worker, "boot_time", lambda: boot_time() + late[-1])

    def freeze(event: Event) -> None:
        if isinstance(event, Sent) and len(late) > 1:
            late.pop()

    vendor = Vendor()
    await outbox.put(activity(1))
    found = await outbox.drain(poster(vendor, hooks=[freeze]))
    assert (found, len(vendor.requests)) == ({"accepted": 1}, 1)
    changes = [change.state for change in await outbox.history(1)]
    assert changes == ["pending", "sending", "pending", "sending", "accepted"]


async def test_a_long_backlog_is_sent_evenly_and_a_short_one_at_once(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "LONG", 20)
    asked: list[Priority] = []

    class Noting(OpenBucket):
        def token(
            self, priority: Priority, call_timeout: float
        ) -> AbstractAsyncContextManager[Callable[[], None]]:
            asked.append(priority)
            return super().token(priority, call_timeout)

    await outbox.put_many(map(activity, range(1, 13)))
    await outbox.drain(poster(Vendor(), bucket=Noting()))
    assert asked[:10] == [Priority.BATCH] * 10
    assert asked[10:12] == [Priority.LONG_BATCH] * 2


async def test_a_new_entry_does_not_wait_for_the_next_poll(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("leadpost.outbox._worker._POLL", 60.0)
    vendor = Vendor(answers(httpx.Response(400)))
    async with within(30):
        await outbox.put(activity(1))
        assert await outbox.drain(poster(vendor)) == {"rejected": 1}
        running = asyncio.create_task(outbox.run(poster(vendor)))
        await asyncio.sleep(0.2)  # it has found nothing
        await outbox.retry("rejected")
        await until_accepted(outbox, 1)
        await outbox.put(activity(2))
        await until_accepted(outbox, 2)
        await outbox.put_many([activity(3)])
        await until_accepted(outbox, 3)
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled()
    assert sum(" begins" in record.message for record in caplog.records) == 1


async def test_two_drains_share_the_work(store_url: str) -> None:
    vendor = Vendor()
    async with Outbox(store_url, ACME) as one, Outbox(store_url, ACME) as other:
        await one.put_many(map(activity, range(1, 201)))
        done = await asyncio.gather(one.drain(poster(vendor)), other.drain(poster(vendor)))
    assert sum(part["accepted"] for part in done) == 200
    assert sorted(vendor.numbers) == list(range(1, 201))


async def test_a_row_that_a_stranger_has_locked_is_tried_again_after_a_pause(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody edits the only due entry in a long transaction: the worker must not spin."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float, *_: object) -> None:
        pauses.append(seconds)
        await sleep(0)

    vendor = Vendor()
    async with Outbox(postgresql_url, ACME) as outbox, within(30):
        await outbox.put(activity(1))
        posting = poster(vendor)
        engine = outbox._database._engine
        assert engine is not None
        async with engine.begin() as stranger:
            await stranger.execute(sa.text("UPDATE leadpost_entries SET priority = 1"))
            with monkeypatch.context() as patched:
                patched.setattr(asyncio, "sleep", slept)
                draining = asyncio.create_task(outbox.drain(posting))
                while pauses.count(_worker._LOCKED) < 3:
                    await sleep(0.001)
            assert not vendor.requests
        assert await draining == {"accepted": 1}


async def test_25_calls_are_in_flight_at_once(outbox: Outbox) -> None:
    answer, started = asyncio.Event(), asyncio.Event()
    vendor = Vendor(held_until(answer, started))
    await outbox.put_many(map(activity, range(1, 31)))
    draining = asyncio.create_task(outbox.drain(poster(vendor)))
    async with within(20):
        while len(vendor.requests) < 25:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(vendor.requests) == 25
        answer.set()
        assert await draining == {"accepted": 30}


async def test_a_token_without_an_entry_remains_unused(
    outbox: Outbox,
) -> None:
    events: list[Event] = []
    bucket = TokenBucket(1, period=0.5)
    async with bucket.token() as begin:
        begin()
    await outbox.put(activity(1))
    posting = poster(Vendor(), bucket=bucket, hooks=[events.append])
    draining = asyncio.create_task(outbox.drain(posting))
    await asyncio.sleep(0.1)
    assert await outbox.drain(poster(Vendor())) == {"accepted": 1}
    async with within(10):
        assert await draining == {}
    assert bucket.statistics().free == 1
    assert isinstance(events[-1], Ended)
    assert (events[-1].state, events[-1].error, events[-1].attempts) == (
        "not_sent",
        "NothingToSend",
        0,
    )


# What a service sees.


async def test_health_has_counts_oldest_entry_worker_and_outage(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await outbox.health()
    assert (before.oldest_pending, before.is_working, before.away_since) == (None, False, None)
    assert before.called_at is None
    monkeypatch.setattr(_upkeep, "_EVERY", 0.05)
    refused = [httpx.Response(503, headers={"Retry-After": "2"}) for _ in range(2)]
    vendor = Vendor(answers(*refused))
    await outbox.put(activity(1))
    assert ((await outbox.health()).oldest_pending or 99) < 5
    running = asyncio.create_task(outbox.run(poster(vendor)))
    async with within(20):
        # The outage may be seen before the end of the call is recorded.
        while (during := await outbox.health()).counts["pending"] == 0 or not during.away_since:
            await asyncio.sleep(0.01)
        assert during.is_working
        while (await outbox.health()).away_since is not None:
            await asyncio.sleep(0.01)
    await until(outbox, accepted=1)
    async with within(10):
        while (await outbox.health()).called_at == during.called_at:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    called_at = (await outbox.health()).called_at
    assert called_at is not None
    assert abs(datetime.now(UTC) - called_at) < timedelta(seconds=30)
    later = sa.text("UPDATE leadpost_accounts SET worker_seen_at = worker_seen_at - 61")
    await executed(outbox, later)
    assert not (await outbox.health()).is_working


async def test_health_shows_that_the_only_entry_cannot_reach_its_host(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One activity makes no outage of LeadSquared, but its host may be wrong."""
    monkeypatch.setattr(_upkeep, "_EVERY", 0.05)
    is_wrong = True

    async def unreachable(request: httpx.Request) -> httpx.Response:
        if is_wrong:
            raise lost()
        return await accept(request)

    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(Vendor(unreachable))))
    async with within(10):
        while (await outbox.health()).away_since is None:
            await asyncio.sleep(0.01)
        is_wrong = False
        while (await outbox.health()).away_since is not None:
            await asyncio.sleep(0.01)
    await until(outbox, accepted=1)
    running.cancel()
    await asyncio.wait([running])


async def test_the_log_has_the_counts_of_each_minute(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_upkeep, "_REPORT_EVERY", 0.1)
    monkeypatch.setattr(_upkeep, "_EVERY", 0.05)
    private = httpx.Response(400, json={"ExceptionMessage": "private"})
    vendor = Vendor(answers(None, private, httpx.ReadTimeout("slow")))
    await outbox.put(activity(1, activity_note="private"))
    running = asyncio.create_task(outbox.run(poster(vendor)))
    async with within(10):
        while "outbox: 1 accepted" not in caplog.messages:
            await asyncio.sleep(0.01)
        await outbox.put_many(map(activity, (2, 3)))
        await until(outbox, rejected=1, uncertain=1)
        while "1 uncertain" not in caplog.text or "1 rejected" not in caplog.text:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    reports = [record for record in caplog.records if " accepted" in record.message]
    assert [record.levelname for record in reports] == ["INFO"]
    for record in caplog.records:
        if "rejected" in record.message or "uncertain" in record.message:
            assert record.levelname == "WARNING"
    assert "private" not in caplog.text


async def test_a_run_verifies_reconciles_and_prunes(
    outbox: Outbox, sandbox: Sandbox, quick_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick_checks
    monkeypatch.setattr(_worker, "SETTLE", timedelta(0))
    await outbox.put_many(map(noted, range(1, 4)))
    hour = timedelta(seconds=0.2)
    async with poster_to(sandbox) as posting:
        running = asyncio.create_task(outbox.run(posting, reconcile_every=hour))
        await until(outbox, succeeded=3)
        # An entry whose call never reached LeadSquared.
        await outbox.put(noted(4))
        await until(outbox, succeeded=4)
        await changed(outbox, state="uncertain", activity_id=None, ends_by=0)
        await until(outbox, succeeded=4)
        running.cancel()
        await asyncio.wait([running])
        assert sandbox.report().accepted == 4
        running = asyncio.create_task(outbox.run(posting, keep=timedelta(seconds=0.1)))
        await until(outbox, succeeded=0)
        running.cancel()
        await asyncio.wait([running])


async def test_a_run_may_leave_verifying_and_reconciling_to_others(
    outbox: Outbox, quick_checks: None
) -> None:
    del quick_checks
    vendor = Vendor()
    await outbox.put(activity(1))
    await changed(outbox, state="uncertain", ends_by=0)
    running = asyncio.create_task(outbox.run(poster(vendor), verify=False, reconcile_every=None))
    await outbox.put(activity(2))
    await until(outbox, accepted=1)
    await asyncio.sleep(0.2)
    running.cancel()
    await asyncio.wait([running])
    assert len(vendor.requests) == 1
    assert (await outbox.counts())["uncertain"] == 1


async def test_a_wrong_status_path_does_not_end_a_run(
    outbox: Outbox, quick_checks: None, caplog: pytest.LogCaptureFixture
) -> None:
    del quick_checks

    async def no_status(request: httpx.Request) -> httpx.Response:
        return await accept(request) if request.method == "POST" else httpx.Response(404)

    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(Vendor(no_status))))
    async with within(10):
        while "verifying pauses for 10 minutes, posting continues: NotFound" not in caplog.text:
            await asyncio.sleep(0.01)
    await outbox.put(activity(2))
    await until_accepted(outbox, 2)
    running.cancel()
    await asyncio.wait([running])


async def test_a_status_path_that_works_again_is_used_again(
    outbox: Outbox, quick_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway may answer 404 or 403 in passing."""
    del quick_checks
    monkeypatch.setattr(_verifier, "_PAUSE", 0.1)
    fails = 2  # one for each of the two paths

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal fails
        if request.method == "POST":
            return await accept(request)
        if fails:
            fails -= 1
            return httpx.Response(404)
        return httpx.Response(200, json={"RequestId": "r1", "TaskStatus": {"Status": "Success"}})

    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(Vendor(answer))))
    await until(outbox, succeeded=1)
    running.cancel()
    await asyncio.wait([running])
    assert fails == 0


async def test_a_page_of_html_in_place_of_a_status_does_not_end_a_run(
    outbox: Outbox, sandbox: Sandbox, quick_checks: None, caplog: pytest.LogCaptureFixture
) -> None:
    del quick_checks
    is_maintained = True

    async def behind_a_proxy(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and is_maintained:
            return httpx.Response(200, html="<h1>Maintenance</h1>")
        async with httpx.AsyncClient() as client:
            copy = client.build_request(
                request.method, request.url, headers=request.headers, content=request.content
            )
            return await client.send(copy)

    client = httpx.AsyncClient(transport=httpx.MockTransport(behind_a_proxy))
    await outbox.put(noted(1))
    async with client, poster_to(sandbox, client=client) as posting:
        running = asyncio.create_task(outbox.run(posting))
        async with within(10):
            while "the Status API cannot be reached: UnexpectedAnswer" not in caplog.text:
                await asyncio.sleep(0.01)
        await outbox.put(noted(2))
        await until_accepted(outbox, 2)
        is_maintained = False
        await until(outbox, succeeded=2)
        running.cancel()
        await asyncio.wait([running])


async def test_pending_posts_have_four_fifths_of_the_tokens(
    outbox: Outbox, quick_checks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick_checks
    monkeypatch.setattr("leadpost.outbox._verifier.WAITS", (0.0,))
    calls: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        if request.method == "POST":
            return await accept(request)
        return httpx.Response(200, json={"TaskStatus": {"Status": "Pending"}})

    await outbox.put_many(map(activity, range(1, 2001)))
    running = asyncio.create_task(
        outbox.run(poster(Vendor(answer), bucket=TokenBucket(5, period=0.2)))
    )
    async with within(60):
        while calls.count("GET") < 20:
            await asyncio.sleep(0.01)
    assert (await outbox.counts())["pending"] > 0
    # Four posts begin before each query; up to six of them have not arrived yet.
    assert calls.count("POST") >= 4 * 20 - 6
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("time", [timedelta(0), timedelta(seconds=-1)])
async def test_times_of_a_run_must_be_above_zero(outbox: Outbox, time: timedelta) -> None:
    for name in ("reconcile_every", "keep"):
        options: Any = {name: time}
        with pytest.raises(ValueError, match=f"{name}: found .*, wanted a time above zero"):
            await outbox.run(poster(Vendor()), **options)
    if time:
        with pytest.raises(ValueError, match="settle: found"):
            await outbox.reconcile(poster(Vendor()), settle=time)
        with pytest.raises(ValueError, match="older_than: found"):
            await outbox.prune(time)
        with pytest.raises(ValueError, match="outage_timeout: found"):
            await outbox.drain(poster(Vendor()), outage_timeout=time.total_seconds())


async def test_an_entry_whose_call_was_never_recorded_is_uncertain(outbox: Outbox) -> None:
    await outbox.put_many(map(activity, (1, 2)))
    for number in (1, 2):
        claim = partial(_calls.claim, call_id=f"call-{number}", call_time=40.0)
        await outbox._store.write(claim)
    late = sa.text("UPDATE leadpost_entries SET ends_by = ends_by - 71 WHERE id = 1")
    await executed(outbox, late)
    assert await outbox.drain(poster(Vendor())) == {"uncertain": 1}
    assert await states(outbox) == ["uncertain", "sending"]
    notes = [change.note for change in await outbox.history(1)]
    assert notes == [None, "call 1", "its call was not recorded"]


@pytest.mark.parametrize("status", [500, 503])
async def test_the_only_entry_is_posted_after_an_outage(outbox: Outbox, status: int) -> None:
    """An activity is at fault itself only if others succeed while it fails."""
    fails = [httpx.Response(status) for _ in range(8)]
    await outbox.put(activity(1))
    running = asyncio.create_task(outbox.run(poster(Vendor(answers(*fails)))))
    async with within(20):
        while await states(outbox) not in (["accepted"], ["failed"]):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert await states(outbox) == ["accepted"]


async def test_an_invalid_entry_does_not_hide_that_the_host_is_never_reached(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "_UNREACHABLE", 0.5)

    async def unreachable(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    await outbox.put(activity(1), priority=1)
    await changed(outbox, activity="{}")  # as plain SQL may insert it
    await outbox.put(activity(2))
    async with within(10):
        with pytest.raises(ConnectionFailed, match="no route"):
            await outbox.drain(poster(Vendor(unreachable)))


async def test_reconciling_leaves_posts_most_tokens(outbox: Outbox) -> None:
    """While entries are pending, posts have four fifths of them."""
    order: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        if request.url.path.endswith("/create"):
            order.append("post")
            return await accept(request)
        order.append("query")
        return httpx.Response(200, json={"RecordCount": 0, "ProspectActivities": []})

    leads = [f"3f0c1d52-7a54-4c1e-9b5a-{number:012x}" for number in range(60)]
    # Of many types, so that windows of time take no fewer calls.
    await outbox.put_many(Activity(lead, 300 + n, "n", WHEN) for n, lead in enumerate(leads))
    await changed(outbox, state="uncertain")
    await outbox.put_many(map(activity, range(1, 201)))
    posting = poster(Vendor(answer), bucket=TokenBucket(5, period=0.5), retry=RetryPolicy(jitter=0))
    every = timedelta(seconds=0.5)
    running = asyncio.create_task(outbox.run(posting, verify=False, reconcile_every=every))
    async with within(30):
        while order.count("query") < 20:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    first = order.index("query")
    assert order[first:].count("post") >= 2 * order[first:].count("query")
