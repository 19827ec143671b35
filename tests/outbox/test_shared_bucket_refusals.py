"""The shared bucket after refusals (429): its pause, the trial after it, and its size."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from attrs import evolve
from shared_bucket_support import (
    PERIOD,
    all_tokens,
    bucket,
    calling,
    end_unsent,
    end_with,
    in_use_tokens,
    opened,
    store,
    take,
    until_in_use,
    until_known,
)
from sqlalchemy.util import await_only
from support import LeadSquared, account, activity, answers, fullest, within

from leadpost import AsyncActivityPoster, OutboxUnavailable, RateLimited
from leadpost._bucket_parts import Use
from leadpost.hooks import Event, Resized
from leadpost.outbox import SharedTokenBucket
from leadpost.outbox._clock import boot_time
from leadpost.outbox.database import _tokens
from leadpost.outbox.database._sql import Transaction


async def test_a_limit_named_in_a_refusal_applies_to_all_and_to_earlier_calls(
    store_url: str,
) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(300):
        arrivals: list[float] = []
        await asyncio.gather(*(take(one, arrivals) for _ in range(9)))
        await end_with(one, RateLimited("5 in 1 s", status=429, limit=(5, 1)))
        await until_known(one, "tokens = 5")
        later: list[float] = []
        await asyncio.gather(*(take(of, later) for of in (other, one) for _ in range(6)))
        events: list[Event] = []
        async with opened(store_url, hooks=[events.append]) as opened_later:
            assert events == [Resized(5, 25)]
            await asyncio.gather(*(take(opened_later, later) for _ in range(6)))
    assert later[0] - arrivals[-4] >= 1.0 - 0.01
    assert fullest(later, 1.0) <= 5


async def test_no_token_is_used_twice_in_a_period_while_others_of_before_a_named_limit_count(
    store_url: str,
) -> None:
    period = 2.0
    async with (
        opened(store_url, period=period) as of,
        AsyncExitStack() as slow,
        within(300),
    ):
        async with AsyncExitStack() as quick:
            await all_tokens(of, quick, 5)
            await all_tokens(of, slow, 19)
        await end_with(of, RateLimited("5 in 1 s", status=429, limit=(5, 1)))
        await until_known(of, "rest = 1.0")
        arrivals: list[float] = []
        waiting = [asyncio.create_task(take(of, arrivals)) for _ in range(6)]
        await asyncio.sleep(period + 0.5)
        assert not arrivals  # with these, 30 calls might arrive in a period
        await slow.aclose()
        ended = time.monotonic()
        await asyncio.wait(waiting)
    assert arrivals[0] - ended >= period - 0.01


async def test_a_longer_rest_applies_to_tokens_that_were_back_before_it(store_url: str) -> None:
    async with opened(store_url) as one, within(300):
        arrivals: list[float] = []
        await asyncio.gather(*(take(one, arrivals) for _ in range(5)))
        await asyncio.sleep(PERIOD + 0.1)
        await end_with(one, RateLimited("5 in 3 s", status=429, limit=(5, 3)))
        later: list[float] = []
        await take(one, later)
    assert later[0] - arrivals[0] >= 3.0 - 0.01


async def test_too_many_refusals_shrink_the_bucket_for_all_and_it_grows_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    monkeypatch.setattr("leadpost._refusals.PATIENCE", 1)
    arrivals: list[float] = []
    until_larger: list[int] = []

    def note(event: Event) -> None:
        if isinstance(event, Resized) and event.tokens > max(event.before, 13):
            until_larger.append(len(arrivals))

    async with opened(store_url) as one, opened(store_url, hooks=[note]) as other, within(300):
        refusal = RateLimited("429", status=429)
        await asyncio.gather(*(end_with(one, refusal) for _ in range(20)))
        await asyncio.gather(*(take(other, arrivals) for _ in range(40)))
    assert "bucket: 11 tokens, was 25: 20 of the last 20 calls were refused" in caplog.text
    assert "bucket: 11 tokens, was 25: as another process decided" in caplog.text
    grown = [r.message for r in caplog.records if r.message.startswith("bucket: 13 tokens, was 11")]
    assert 1 <= len(grown) <= 2  # by one of them, or by both at the same moment
    first = arrivals[: until_larger[0]]  # a busy machine makes few calls until it grows further
    assert first
    assert fullest(first, PERIOD) <= 13


async def test_if_two_processes_change_the_size_at_once_one_wins(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(300):
        limits = (10, 1), (100, 5)
        await asyncio.gather(
            *(
                end_with(of, RateLimited("429", status=429, limit=limit))
                for of, limit in zip((one, other), limits, strict=True)
            )
        )
        for of in (one, other):
            await take(of, [])
            await take(of, [])
        rules = [of._share.brakes.rule for of in (one, other) if of._share is not None]
        sizes = [(rule.tokens, rule.rest) for rule in rules]
        # What was decided by an older size changes nothing.
        row = await store(one).read(_tokens.read_row)
        older, size = evolve(row, version=row.version - 1), evolve(row.size, tokens=3)
        await store(one).write(_tokens.resize, older, size)
        assert (await store(one).read(_tokens.read_row)).version == row.version
    assert sizes in ([(10, 1.0)] * 2, [(25, 1.25)] * 2)


async def test_a_refusal_during_the_read_of_anothers_size_is_newer(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(300):
        await end_with(other, RateLimited("10 in 1 s", status=429, limit=(10, 1)))
        await until_known(other, "tokens = 10")
        share, write, refusals = one._share, one._database.write, [(5, 1)]
        assert share is not None

        async def refused_meanwhile(work: Any) -> Any:
            found = await write(work)
            if refusals:
                refusal = RateLimited("5 in 1 s", status=429, limit=refusals.pop())
                use = Use(sent_at=boot_time(), is_answered=True, refusal=refusal)
                share.brakes.record(use, boot_time())
            return found

        monkeypatch.setattr(one._database, "write", refused_meanwhile)
        await take(one, [])
        await until_known(one, "tokens = 5")


async def test_after_a_retry_after_one_call_of_all_processes_is_the_trial(store_url: str) -> None:
    in_flight: list[int] = []  # how many there were when each call began
    times: list[float] = []
    calls = 0

    async def call(of: SharedTokenBucket) -> None:
        nonlocal calls
        async with calling(of):
            times.append(time.monotonic())
            calls += 1
            in_flight.append(calls)
            await asyncio.sleep(0.7)
            calls -= 1

    async with AsyncExitStack() as stack, within(300):
        several = [await stack.enter_async_context(opened(store_url)) for _ in range(6)]
        begun = time.monotonic()
        await end_with(several[0], RateLimited("429", status=429, retry_after=0.6))
        await until_known(several[0], "paused_until IS NOT NULL")
        await asyncio.gather(*(call(of) for of in several for _ in range(2)))
    assert times[0] - begun >= 0.6
    assert times[1] - times[0] >= 0.7  # the first one was answered
    assert max(in_flight) > 2  # and then no others wait for each other


async def test_a_trial_that_is_not_sent_is_followed_by_another(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(300):
        await end_with(one, RateLimited("429", status=429, retry_after=0.3))
        await end_unsent(one)
        await until_known(one, "paused_until IS NOT NULL")
        times: list[float] = []
        await asyncio.gather(*(take(other, times, 0.5) for _ in range(3)))
    assert times[1] - times[0] >= 0.5


async def test_a_reservation_that_was_rolled_back_ends_no_trial_of_another_process(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(300):
        await end_with(one, RateLimited("429", status=429, retry_after=0.2))
        await until_known(one, "paused_until <= {now}")
        write, is_lost = one._database.write, asyncio.Event()
        loop = asyncio.get_running_loop()

        async def rolled_back(work: Any) -> None:
            def lost(connection: sa.Connection) -> None:
                work(connection)
                monkeypatch.setattr(one._database, "write", write)
                loop.call_soon_threadsafe(is_lost.set)
                raise OutboxUnavailable("the connection was lost")

            await write(lost)

        monkeypatch.setattr(one._database, "write", rolled_back)
        waiting = asyncio.create_task(take(one, []))
        await is_lost.wait()
        async with calling(other):
            await asyncio.sleep(1.5)  # `one` puts its reservation back meanwhile
            assert not waiting.done()
        await waiting


async def test_a_trial_that_ends_after_another_pause_ends_no_later_trial(store_url: str) -> None:
    async with opened(store_url) as one, opened(store_url) as other, within(300):
        await end_with(one, RateLimited("429", status=429, retry_after=0.2))
        async with calling(one):
            await store(other).write(_tokens.pause, 0.0)
            row = await store(other).read(_tokens.read_row)
            assert row.trial_id is None
            assert row.pause is not None
            assert row.pause <= 0.0  # not until the first trial must have ended
        times: list[float] = []
        await asyncio.gather(*(take(other, times, 0.5) for _ in range(3)))
    assert times[1] - times[0] >= 0.5


async def test_of_two_processes_that_begin_a_trial_at_once_one_makes_it(
    postgresql_url: str,
) -> None:
    async with opened(postgresql_url) as one, opened(postgresql_url) as other, within(300):
        await store(one).write(_tokens.pause, 0.0)
        both = asyncio.Barrier(2)

        async def reserve(of: SharedTokenBucket, use_id: str) -> float | None:
            def at_once(transaction: Transaction) -> float | None:
                _tokens.read_row(transaction)
                await_only(both.wait())
                _, wait = _tokens.reserve(
                    transaction, use_id, limit=25, hold=30.0, leaves_last=False
                )
                await_only(asyncio.sleep(0.5))  # before COMMIT
                return wait

            return await store(of).write(at_once)

        waits = await asyncio.gather(reserve(one, "one"), reserve(other, "other"))
        assert waits.count(None) == 1
        assert len(await in_use_tokens(one)) == 1


async def test_a_trial_waits_for_a_resting_token(store_url: str) -> None:
    async with opened(store_url, limit=1) as one, opened(store_url, limit=1) as other, within(300):
        async with calling(one):
            await store(one).write(_tokens.pause, 0.0)
            waiting = asyncio.create_task(take(other, []))
            await asyncio.sleep(0.6)
            assert not waiting.done()
        await waiting


async def test_a_token_reserved_before_a_pause_is_put_back(store_url: str) -> None:
    refusal, is_over = RateLimited("429", status=429, retry_after=2.0), asyncio.Event()
    async with (
        opened(store_url, limit=3, period=2.0) as one,
        opened(store_url, limit=3, period=2.0) as other,
        within(300),
    ):
        refused = asyncio.create_task(end_with(other, refusal, when=is_over))
        await until_in_use(other, 1)
        await asyncio.gather(take(one, []), take(one, []))
        await until_in_use(one, 1)
        times: list[float] = []
        waiter = asyncio.create_task(take(one, times))
        await until_in_use(one, 2)  # it has reserved a token that is back within 2 s
        begun = time.monotonic()
        is_over.set()
        await asyncio.wait([refused, waiter])
    assert not 0 < times[0] - begun < 2.0 - 0.01  # on a very slow machine it was before the pause


@pytest.mark.parametrize("moment", ["reserved", "offered"])
async def test_a_process_uses_no_reserved_token_in_a_pause_of_its_own(
    store_url: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    refusal, is_over = RateLimited("429", status=429, retry_after=1.0), asyncio.Event()
    begun: list[float] = []
    times: list[float] = []
    async with opened(store_url, limit=3) as of, within(300):
        in_flight = asyncio.Event()
        refused = asyncio.create_task(end_with(of, refusal, begun=in_flight, when=is_over))
        await in_flight.wait()
        share, write = of._share, of._database.write
        assert share is not None
        wake_first = share.waiters.wake_first

        async def refused_meanwhile(work: Any) -> Any:
            monkeypatch.setattr(of._database, "write", write)
            reserved = await write(work)
            begun.append(time.monotonic())
            is_over.set()
            await asyncio.wait([refused])
            return reserved

        def woken_late() -> None:
            begun.append(time.monotonic())
            is_over.set()
            asyncio.get_running_loop().call_later(0.1, wake_first)

        if moment == "reserved":
            monkeypatch.setattr(of._database, "write", refused_meanwhile)
        else:
            monkeypatch.setattr(share.waiters, "wake_first", woken_late)
        await take(of, times)
    assert times[0] - begun[0] >= 1.0 - 0.01


async def test_calls_refused_together_are_logged_once(
    shared: SharedTokenBucket, caplog: pytest.LogCaptureFixture
) -> None:
    both = asyncio.Barrier(2)

    async def refused() -> None:
        async with calling(shared):
            await both.wait()
            raise RateLimited("429", status=429, retry_after=1.0)

    await asyncio.gather(refused(), refused(), return_exceptions=True)
    assert caplog.text.count("after a refusal (429)") == 1


async def test_a_long_retry_after_is_honoured_up_to_a_minute(
    shared: SharedTokenBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost._bucket_parts.LONGEST_RETRY_AFTER", 1.0)
    begun = time.monotonic()
    await end_with(shared, RateLimited("daily quota", status=429, retry_after=3600.0))
    async with within(300):
        await take(shared, [])
    assert time.monotonic() - begun > 0.9


async def test_a_refusal_by_leadsquared_pauses_the_poster(store_url: str) -> None:
    leadsquared = LeadSquared(answers(httpx.Response(429, headers={"Retry-After": "1"})))
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=bucket(store_url))
    async with poster:
        begun = time.monotonic()
        assert await poster.post(activity(1)) == "r1"
    assert time.monotonic() - begun >= 1.0
