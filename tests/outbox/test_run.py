"""What a service sees of `run`: health, log, and what it does beside posting."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, repeat
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import (
    WHEN,
    changed,
    executed,
    noted,
    poster,
    poster_to,
    until,
    until_accepted,
    until_logged,
    until_true,
    working,
)
from support import LEAD, LeadSquared, accept, activity, answers, within

from leadpost import (
    Activity,
    RetryPolicy,
    TokenBucket,
)
from leadpost.outbox import Outbox, _upkeep, _verifier, _worker
from leadpost.outbox.database import _calls
from leadpost.sandbox import Sandbox


async def test_health_has_counts_oldest_entry_worker_and_outage(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await outbox.health()
    assert (before.oldest_pending, before.is_working, before.away_since) == (None, False, None)
    assert before.called_at is None
    monkeypatch.setattr(_upkeep, "_EVERY", 0.05)
    refused = [httpx.Response(503, headers={"Retry-After": "2"}) for _ in range(2)]
    leadsquared = LeadSquared(answers(*refused))
    await outbox.put(activity(1))
    assert ((await outbox.health()).oldest_pending or 99) < 5
    async with working(outbox.run(poster(leadsquared))):
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
    called_at = (await outbox.health()).called_at
    assert called_at is not None
    assert abs(datetime.now(UTC) - called_at) < timedelta(seconds=30)
    later = sa.text("UPDATE leadpost_accounts SET worker_seen_at = worker_seen_at - 61")
    await executed(outbox, later)
    assert not (await outbox.health()).is_working


async def test_a_worker_without_calls_ends_no_outage_of_another(outbox: Outbox) -> None:
    async def be_seen(away_for: float | None, known_ago: float) -> bool:
        seen = partial(_calls.be_seen, away_for=away_for, called_ago=None, known_ago=known_ago)
        await outbox._store.write(seen)
        return (await outbox.health()).away_since is not None

    await outbox.drain(poster(LeadSquared()))
    assert await be_seen(30.0, 100.0)
    assert await be_seen(None, 40.0)
    assert await be_seen(None, 31.0)
    assert not await be_seen(None, 29.0)


async def test_health_shows_when_the_last_call_of_a_short_drain_ended(outbox: Outbox) -> None:
    await outbox.put(activity(1))
    assert await outbox.drain(poster(LeadSquared())) == {"accepted": 1}
    assert (await outbox.health()).called_at is not None


async def test_health_shows_that_the_only_entry_cannot_reach_its_host(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One activity makes no outage of LeadSquared, but its host may be wrong."""
    monkeypatch.setattr(_upkeep, "_EVERY", 0.05)
    is_wrong = True

    async def unreachable(request: httpx.Request) -> httpx.Response:
        if is_wrong:
            raise httpx.ConnectError("no route")
        return await accept(request)

    await outbox.put(activity(1))
    async with working(outbox.run(poster(LeadSquared(unreachable)))):
        async with within(10):
            while (await outbox.health()).away_since is None:
                await asyncio.sleep(0.01)
            is_wrong = False
            while (await outbox.health()).away_since is not None:
                await asyncio.sleep(0.01)
        await until(outbox, accepted=1)


async def test_the_log_has_the_counts_of_each_minute(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_upkeep, "_REPORT_EVERY", 0.1)
    monkeypatch.setattr(_upkeep, "_EVERY", 0.05)
    private = httpx.Response(400, json={"ExceptionMessage": "private"})
    leadsquared = LeadSquared(answers(None, private, httpx.ReadTimeout("slow")))
    await outbox.put(activity(1, activity_note="private"))
    async with working(outbox.run(poster(leadsquared))), within(10):
        while "outbox: 1 accepted" not in caplog.messages:
            await asyncio.sleep(0.01)
        await outbox.put_many(map(activity, (2, 3)))
        await until(outbox, rejected=1, uncertain=1)
        while "1 uncertain" not in caplog.text or "1 rejected" not in caplog.text:
            await asyncio.sleep(0.01)
    reports = [record for record in caplog.records if " accepted" in record.message]
    assert [record.levelname for record in reports] == ["INFO"]
    for record in caplog.records:
        if "rejected" in record.message or "uncertain" in record.message:
            assert record.levelname == "WARNING"
    assert "private" not in caplog.text


async def test_a_run_verifies_reconciles_and_prunes(
    outbox: Outbox, sandbox: Sandbox, quick_queries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick_queries
    monkeypatch.setattr(_worker, "SETTLE", timedelta(0))
    await outbox.put_many(map(noted, range(1, 4)))
    hour = timedelta(seconds=0.2)
    async with poster_to(sandbox) as posting:
        async with working(outbox.run(posting, reconcile_every=hour)):
            await until(outbox, succeeded=3)
            # An entry whose call never reached LeadSquared.
            await outbox.put(noted(4))
            await until(outbox, succeeded=4)
            await changed(outbox, state="uncertain", activity_id=None, ends_by=0)
            await until(outbox, succeeded=4)
        assert sandbox.report().accepted == 4
        async with working(outbox.run(posting, keep=timedelta(seconds=0.1))):
            await until(outbox, succeeded=0)


async def test_a_run_may_leave_verifying_and_reconciling_to_others(
    outbox: Outbox, quick_queries: None
) -> None:
    del quick_queries
    leadsquared = LeadSquared()
    await outbox.put(activity(1))
    await changed(outbox, state="uncertain", ends_by=0)
    async with working(outbox.run(poster(leadsquared), verify=False, reconcile_every=None)):
        await outbox.put(activity(2))
        await until(outbox, accepted=1)
        await asyncio.sleep(0.2)
    assert len(leadsquared.requests) == 1
    assert (await outbox.counts())["uncertain"] == 1


async def test_a_wrong_status_path_does_not_end_a_run_and_is_tried_again(
    outbox: Outbox,
    quick_queries: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A gateway may answer 404 or 403 in passing."""
    del quick_queries
    monkeypatch.setattr(_verifier, "_PAUSE", 0.1)
    is_wrong = True

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return await accept(request)
        if is_wrong:
            return httpx.Response(404)
        return httpx.Response(200, json={"RequestId": "r1", "TaskStatus": {"Status": "Success"}})

    await outbox.put(activity(1))
    async with working(outbox.run(poster(LeadSquared(answer)))):
        await until_logged(caplog, "verifying pauses for 10 minutes, posting continues: NotFound")
        await outbox.put(activity(2))
        await until_accepted(outbox, 2)
        is_wrong = False
        await until(outbox, succeeded=2)


async def test_a_page_of_html_in_place_of_a_status_does_not_end_a_run(
    outbox: Outbox, sandbox: Sandbox, quick_queries: None, caplog: pytest.LogCaptureFixture
) -> None:
    del quick_queries
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
    async with (
        client,
        poster_to(sandbox, client=client) as posting,
        working(outbox.run(posting)),
    ):
        await until_logged(caplog, "the Status API cannot be reached: UnexpectedAnswer")
        await outbox.put(noted(2))
        await until_accepted(outbox, 2)
        is_maintained = False
        await until(outbox, succeeded=2)


async def test_pending_posts_have_four_fifths_of_the_tokens(
    outbox: Outbox, quick_queries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    del quick_queries
    monkeypatch.setattr("leadpost.outbox.database._settling.WAITS", (0.0,))
    calls: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        if request.method == "POST":
            return await accept(request)
        return httpx.Response(200, json={"TaskStatus": {"Status": "Pending"}})

    await outbox.put_many(map(activity, range(1, 2001)))
    async with working(outbox.run(poster(LeadSquared(answer), bucket=TokenBucket(5, period=0.2)))):
        await until_true(lambda: calls.count("GET") >= 20)
        assert (await outbox.counts())["pending"] > 0
        # Four posts begin before each query; up to six of them have not arrived yet.
        assert calls.count("POST") >= 4 * 20 - 6


@pytest.mark.parametrize("time", [timedelta(0), timedelta(seconds=-1)])
async def test_times_of_a_run_must_be_above_zero(outbox: Outbox, time: timedelta) -> None:
    for name in ("reconcile_every", "keep"):
        options: Any = {name: time}
        with pytest.raises(ValueError, match=f"{name}: found .*, wanted a time above zero"):
            await outbox.run(poster(LeadSquared()), **options)
    if time:
        with pytest.raises(ValueError, match="settle: found"):
            await outbox.reconcile(poster(LeadSquared()), settle=time)
        with pytest.raises(ValueError, match="older_than: found"):
            await outbox.prune(time)
        with pytest.raises(ValueError, match="outage_timeout: found"):
            await outbox.drain(poster(LeadSquared()), outage_timeout=time.total_seconds())


@pytest.mark.parametrize("by", ["windows", "leads"])
async def test_reconciling_leaves_posts_most_tokens(outbox: Outbox, by: str) -> None:
    """While entries are pending, posts have four fifths of them."""
    order: list[str] = []
    pages = count(1)

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        if request.url.path.endswith("/create"):
            order.append("post")
            return await accept(request)
        order.append("query")
        if by == "leads":
            return httpx.Response(200, json={"RecordCount": 0, "ProspectActivities": []})
        page = next(pages)  # always another one
        ids = range(1000 * page, 1000 * page + 1000)
        rows = [{"ProspectActivityId": str(n), "RelatedProspectId": LEAD} for n in ids]
        return httpx.Response(200, json={"RecordCount": 1000, "List": rows})

    leads = [f"3f0c1d52-7a54-4c1e-9b5a-{number:012x}" for number in range(60)]
    # If they are of many types, windows of time take no fewer calls.
    types = range(300, 360) if by == "leads" else repeat(300)
    await outbox.put_many(map(Activity, leads, types, repeat("n"), repeat(WHEN)))
    await changed(outbox, state="uncertain")
    await outbox.put_many(map(activity, range(1, 201)))
    posting = poster(
        LeadSquared(answer), bucket=TokenBucket(5, period=0.5), retry=RetryPolicy(jitter=0)
    )
    every = timedelta(seconds=0.5)
    async with working(outbox.run(posting, verify=False, reconcile_every=every)):
        await until_true(lambda: order.count("query") >= 20)
    first = order.index("query")
    assert order[first:].count("post") >= 2 * order[first:].count("query")
