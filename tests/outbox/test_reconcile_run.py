"""Reconciling by a worker: when it is due, and when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import (
    ACME,
    changed,
    executed,
    noted,
    posted,
    poster,
    poster_to,
    until,
    until_logged,
    until_true,
    working,
)
from support import LEAD, LeadSquared, account, within

from leadpost import (
    AsyncActivityPoster,
    LeadActivity,
    OpenBucket,
    ServerError,
    Unauthorized,
)
from leadpost._queries import Queries
from leadpost.outbox import Outbox, _reconciler
from leadpost.outbox.database import _settling
from leadpost.outbox.database._sql import Transaction
from leadpost.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("quick_queries")


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


async def test_reconciling_that_fails_is_logged_and_the_run_continues(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object) -> None:
        raise Unauthorized("not you", status=401)

    await outbox.put(noted(1))
    await changed(outbox, state="uncertain")
    monkeypatch.setattr(Queries, "lead_activities", refuse)
    every = timedelta(seconds=0.05)
    worker = outbox.run(poster(LeadSquared()), verify=False, reconcile_every=every)
    async with working(worker) as running:
        failed = "reconciling failed: Unauthorized, HTTP 401"
        await until_true(lambda: caplog.text.count(failed) >= 2)
        assert not running.done()


async def test_the_log_says_that_reconciling_needs_a_sync_host(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    await outbox.put(noted(1))
    await changed(outbox, state="uncertain")
    elsewhere = account(name=ACME, host="https://proxy.example.com")
    posting = AsyncActivityPoster(elsewhere, client=LeadSquared().client(), bucket=OpenBucket())
    every = timedelta(seconds=0.05)
    async with working(outbox.run(posting, verify=False, reconcile_every=every)):
        await until_logged(caplog, "reconciling failed: sync_host (LEADPOST_SYNC_HOST) is missing")


async def test_reconciling_that_failed_is_tried_again_before_it_is_due(
    outbox: Outbox, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reconciler, "_LOOK_EVERY", 0.02)
    monkeypatch.setattr(_reconciler, "_RETRY", 0.02)
    read, failures = Queries.lead_activities, [ServerError("no", status=503)] * 3

    async def fail_at_first(*args: Any) -> list[LeadActivity]:
        if failures:
            raise failures.pop()
        return await read(*args)

    await posted(outbox, sandbox, noted(1))
    await changed(outbox, state="uncertain")
    monkeypatch.setattr(Queries, "lead_activities", fail_at_first)
    monkeypatch.setattr(_reconciler, "FAILURES_IN_A_ROW", 1)
    async with poster_to(sandbox) as posting:
        every = timedelta(hours=1)
        async with working(outbox.run(posting, verify=False, reconcile_every=every)):
            await until(outbox, succeeded=1)
    assert not failures


async def test_one_of_several_workers_reconciles_and_reads_anew_each_time(
    outbox: Outbox, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An activity that arrived after the last look must not be posted again."""
    monkeypatch.setattr(_reconciler, "_LOOK_EVERY", 0.02)
    begin, looks, read = _settling.begin_reconciling, list[bool](), list[str]()

    def look(transaction: Transaction, every: float) -> bool:
        looks.append(begin(transaction, every))
        return looks[-1]

    async def answer(request: httpx.Request) -> httpx.Response:
        read.append(request.url.params["leadId"])
        return httpx.Response(200, json={"RecordCount": 0, "ProspectActivities": []})

    monkeypatch.setattr(_settling, "begin_reconciling", look)
    await outbox.put(noted(1))
    await changed(outbox, state="uncertain", sent_at=time.time())
    async with Outbox(store_url, ACME) as other, within(20):
        both = [
            asyncio.create_task(one.run(poster(LeadSquared(answer)), verify=False))
            for one in (outbox, other)
        ]
        while len(looks) < 8:
            await asyncio.sleep(0.01)
        assert (looks.count(True), read) == (1, [LEAD])
        for expected in (2, 3, 4):
            hour_later = "UPDATE leadpost_accounts SET reconciled_at = reconciled_at - 3601"
            await executed(outbox, sa.text(hour_later))
            while len(read) < expected:
                await asyncio.sleep(0.01)
        for task in both:
            task.cancel()
        await asyncio.wait(both)
    assert looks.count(True) == len(read) == 4
