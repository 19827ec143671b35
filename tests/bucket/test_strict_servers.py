"""The limit against strict servers over real sockets; these tests are slow."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from itertools import count, islice

import httpx
import pytest
from call_support import leaks_in_httpcore
from support import activity

from leadpost import (
    AsyncActivityPoster,
    Outcome,
    RetryPolicy,
    TokenBucket,
)
from leadpost.sandbox import Faults, Sandbox, request_id_of

UNCERTAIN = ("cut-before", "cut-after", "slow")
ANSWERED = (
    *("429", "429-retry-after", "429-gateway", "403-rate-limit", "200-rate-limit"),
    *("500", "500-mx", "503", "200-error"),
)


@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
async def test_200_posts_are_never_refused_and_return_in_order(window: str) -> None:
    posted = [activity(201, activity_note=f"call {n}") for n in range(200)]
    # Against the shorter period the delays weigh five times as much.
    with Sandbox(period=1.0, delay=(0.02, 0.15), window=window) as sandbox:
        bucket = TokenBucket(period=1.0)
        async with AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
            ids = await poster.post_many(posted)
        report = sandbox.report()
    assert ids == [request_id_of(one.to_payload()) for one in posted]
    assert report.refused == 0
    assert report.fullest_window <= 25
    assert report.duplicates == 0


@pytest.mark.parametrize("idle_timeout", [5.0, (4.9, 5.3)])
async def test_a_server_that_closes_idle_connections_costs_no_post(
    idle_timeout: float | tuple[float, float],
) -> None:
    """The one test over real sockets with the real period: 5 s is also when connections close."""
    posted = [activity(201, activity_note=f"call {n}") for n in range(40)]
    with Sandbox(delay=(0.02, 0.15), idle_timeout=idle_timeout) as sandbox:
        async with AsyncActivityPoster(sandbox.account()) as poster:
            ids = await poster.post_many(posted)
        report = sandbox.report()
    assert len(set(ids)) == 40
    assert (report.accepted, report.duplicates, report.refused) == (40, 0, 0)
    assert report.fullest_window <= 25


async def test_the_limit_of_the_account_is_learned_from_its_first_refusal() -> None:
    with Sandbox(limit=10, period=1) as sandbox:
        bucket = TokenBucket(period=1)
        async with AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
            numbered = (activity(201, activity_note=str(number)) for number in count())
            batches = 1
            while not (learned := sandbox.report().refused):  # at once, unless it is very slow
                await poster.post_many([*islice(numbered, 20)])
                batches += 1
            await poster.post_many([*islice(numbered, 20)])
        report = sandbox.report()
    assert bucket.statistics().limit == 10
    assert (report.accepted, report.duplicates) == (20 * batches, 0)
    assert report.refused == learned <= 15


async def test_under_every_fault_each_activity_has_the_right_outcome() -> None:
    posted = [activity(201, activity_note=f"call {n}") for n in range(600)]
    # Few calls without an answer: the token of each rests for its whole time-out.
    shares = dict.fromkeys(ANSWERED, 0.02) | dict.fromkeys(UNCERTAIN, 0.006)
    faults = Faults(shares, retry_after=0, slow=600)
    with Sandbox(faults=faults, period=0.05, seed=7) as sandbox:
        client = httpx.AsyncClient(timeout=10.0)
        poster = AsyncActivityPoster(
            sandbox.account(),
            client=client,
            bucket=TokenBucket(period=0.05),
            call_timeout=10.0,
            retry=RetryPolicy(initial_wait=0.05, jitter=0.05),
        )
        outcomes: dict[int, Outcome] = {}
        async with client, poster:
            async for outcome in poster.post_stream(posted):
                assert outcome.index not in outcomes
                outcomes[outcome.index] = outcome
        report = sandbox.report()
        accepted = Counter(one.request_id for one in sandbox.accepted)

    assert sorted(outcomes) == list(range(600))
    assert set(report.faults) == set(shares)
    assert report.refused == 0
    assert report.duplicates == 0
    assert max(accepted.values()) == 1
    for index, outcome in outcomes.items():
        expected = request_id_of(posted[index].to_payload())
        if outcome.state == "accepted":
            assert outcome.request_id == expected
            assert expected in accepted
        elif outcome.state != "uncertain":
            assert expected not in accepted
    states = Counter(outcome.state for outcome in outcomes.values())
    assert states["uncertain"] == sum(report.faults[name] for name in UNCERTAIN)
    assert states["rejected"] == report.faults["500-mx"] + report.faults["200-error"]
    assert states["accepted"] + states["uncertain"] + states["rejected"] == 600


@leaks_in_httpcore  # on a slow machine, callers leave while they connect
@pytest.mark.parametrize("delay", [(0.02, 0.15), (0.3, 0.5)])
async def test_posts_whose_callers_leave_are_never_refused_and_all_arrive_once(
    delay: tuple[float, float],
) -> None:
    chance = random.Random(1)
    with Sandbox(period=1.0, delay=delay) as sandbox:

        async def post(number: int) -> None:
            async with asyncio.timeout(chance.choice([0.05, 0.2, 0.4, 60, 60])):
                await poster.post(activity(201, activity_note=str(number)))

        bucket = TokenBucket(period=1.0)
        async with AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
            first = (post(number) for number in range(25))
            ends = await asyncio.gather(*first, return_exceptions=True)
            others = (post(number) for number in range(25, 50))
            ends += await asyncio.gather(*others, return_exceptions=True)
        statistics, report = bucket.statistics(), sandbox.report()
    gc.collect()  # while such warnings are ignored
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert report.refused == report.duplicates == 0
    assert report.fullest_window <= 25
    left = sum(isinstance(end, TimeoutError) for end in ends)
    assert 0 < left < 50
    assert report.accepted >= 50 - left
