"""Faults that are known and not corrected yet; a test that passes here belongs elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from outbox_support import WHEN, changed, noted, poster, poster_to, states
from support import LEAD, Vendor, accept, activity, answers, within

from leadpost import (
    Activity,
    ConnectionFailed,
    OutboxUnavailable,
    RetryPolicy,
    TokenBucket,
)
from leadpost.outbox import Outbox, _worker
from leadpost.outbox.database import _calls, _settling
from leadpost.outbox.database._settling import Doubt, Verdict
from leadpost.sandbox import Faults, Sandbox, ledger

NOW = timedelta(0)
OTHER_LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"


@pytest.mark.xfail(strict=True, reason="its failures count, as if others succeeded meanwhile")
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


@pytest.mark.xfail(strict=True, reason="CreatedOn is the activity's own time, not its arrival's")
async def test_a_backdated_activity_that_arrived_is_not_posted_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LeadSquared's own description of a lead's activities has no ModifiedOn."""
    original = ledger._lead_activity

    def without_modified_on(*args: Any) -> dict[str, Any]:
        return {k: v for k, v in original(*args).items() if k != "ModifiedOn"}

    monkeypatch.setattr(ledger, "_lead_activity", without_modified_on)
    last_year = Activity(LEAD, 201, "Called", datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC))
    with Sandbox(limit=None, pace=1000, faults=Faults(script=["cut-after"])) as sandbox:
        await outbox.put(last_year)
        async with poster_to(sandbox) as posting:
            assert await outbox.drain(posting) == {"uncertain": 1}
            await asyncio.sleep(0.05)  # LeadSquared's queue
            await outbox.reconcile(posting, settle=NOW)
            await outbox.drain(posting)
        assert sandbox.report().duplicates == 0


@pytest.mark.xfail(strict=True, reason="reading works, so the worker claims again at once")
async def test_a_database_that_can_only_be_read_is_tried_twice_a_second(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a full disk, or a standby during a failover."""
    tries = 0

    async def fail(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise OutboxUnavailable("the disk is full")

    monkeypatch.setattr(_calls, "claim", fail)
    await outbox.put(activity(1))
    with caplog.at_level(logging.WARNING, "leadpost"):
        running = asyncio.create_task(outbox.run(poster(Vendor()), verify=False))
        await asyncio.sleep(2)
        running.cancel()
        await asyncio.wait([running])
    assert caplog.text.count("cannot be reached") == 1
    assert 1 <= tries <= 5


@pytest.mark.xfail(strict=True, reason="a drain ends without releasing the claim")
async def test_a_claim_whose_commit_was_lost_is_posted_by_the_same_drain(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else the entry, which was never sent, becomes uncertain."""
    original, lost = outbox._database.write, []

    async def lose_first_claim(work: Any, *args: Any) -> Any:
        done = await original(work, *args)
        if not lost and isinstance(done, _calls.Claim):
            lost.append(done)
            raise OutboxUnavailable("the connection was lost")
        return done

    monkeypatch.setattr(outbox._database, "write", lose_first_claim)
    await outbox.put(activity(1))
    async with within(20):
        await outbox.drain(poster(Vendor()))
    assert lost
    assert await states(outbox) == ["accepted"]


@pytest.mark.xfail(strict=True, reason="an error for one lead ends the reconciling of all")
async def test_a_lead_that_always_gets_an_error_does_not_keep_others_in_doubt(
    outbox: Outbox,
) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/create"):
            return httpx.Response(502)
        if request.url.params.get("leadId") == LEAD:
            return httpx.Response(500)
        return httpx.Response(200, json={"RecordCount": 0, "ProspectActivities": []})

    posting = poster(Vendor(answer))
    await outbox.put_many([noted(1), Activity(OTHER_LEAD, 201, "note 2", WHEN)])
    await changed(outbox, state="uncertain")
    tally = await outbox.reconcile(posting, settle=NOW)
    assert tally["pending"] == 1


@pytest.mark.xfail(strict=True, reason="it is accepted because of another's activity")
async def test_what_is_found_for_two_entries_at_once_is_only_ones(outbox: Outbox) -> None:
    """Two processes that reconcile have both found it free, before either has recorded that."""
    first, second = await outbox.put(noted(1)), await outbox.put(noted(1))
    await changed(outbox, state="uncertain")
    found = Verdict("accepted", "the lead has it", "a1")
    for entry in (first, second):
        doubt = Doubt(entry, None, json.dumps(noted(1).to_payload()), WHEN, 1e6)
        await outbox._store.write(_settling.settle, doubt, "uncertain", found)
    assert await states(outbox) == ["accepted", "uncertain"]


@pytest.mark.xfail(strict=True, reason="an activity that was never sent passes for an answer")
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


@pytest.mark.xfail(strict=True, reason="queries for reconciling go before all posts")
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
