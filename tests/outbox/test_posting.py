"""The states of posted entries."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from outbox_support import ACME, poster
from support import LeadSquared, activity, answers

from leadpost import RetryPolicy
from leadpost.outbox import Outbox

FIVE = RetryPolicy(initial_wait=0.01, max_wait=0.02, jitter=0.0)


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


async def test_entries_are_posted_in_order_and_by_priority(outbox: Outbox) -> None:
    leadsquared = LeadSquared()
    await outbox.put_many(map(activity, range(1, 6)))
    await outbox.put(activity(9), priority=1)
    assert await outbox.drain(poster(leadsquared)) == {"accepted": 6}
    assert leadsquared.numbers == [9, 1, 2, 3, 4, 5]
    async for entry in outbox.entries():
        assert entry.state == "accepted"
        assert entry.request_id == f"r{entry.activity['ActivityEvent']}"
        assert entry.calls == 1


async def test_each_change_of_state_is_stored_with_its_time(outbox: Outbox) -> None:
    entry = await outbox.put(activity(1))
    await outbox.drain(poster(LeadSquared(answers(httpx.Response(500)))))
    history = await outbox.history(entry)
    assert [change.state for change in history] == [
        "pending",
        "sending",
        "pending",
        "sending",
        "accepted",
    ]
    assert history[-1].note == "RequestID r1"
    assert [change.at for change in history] == sorted(change.at for change in history)
    assert await outbox.history(entry + 1) == []


async def test_an_entry_that_is_not_accepted_has_its_reason(outbox: Outbox) -> None:
    mx = {
        "Status": "Error",
        "ExceptionType": "MXInvalidActivityException",
        "ExceptionMessage": "Event Code is invalid",
    }
    leadsquared = LeadSquared(answers(httpx.Response(500, json=mx), httpx.ReadTimeout("too slow")))
    await outbox.put_many(map(activity, (1, 2, 3)))
    assert await outbox.drain(poster(leadsquared)) == {"rejected": 1, "uncertain": 1, "accepted": 1}
    found = {entry.state: entry async for entry in outbox.entries()}
    assert found["rejected"].error_type == "ApplicationError"
    assert "Event Code is invalid" in (found["rejected"].message or "")
    assert found["uncertain"].error_type == "DeliveryUncertain"


async def test_an_entry_fails_after_the_maximum_of_attempts(outbox: Outbox) -> None:
    leadsquared = LeadSquared(answers(*[httpx.Response(500)] * 5))
    await outbox.put(activity(1))
    assert await outbox.drain(poster(leadsquared, retry=FIVE)) == {"failed": 1}
    assert len(leadsquared.requests) == 5
    assert await outbox.retry("failed") == 1
    assert await outbox.drain(poster(leadsquared)) == {"accepted": 1}


async def test_leadsquareds_reason_is_stored_without_invalid_characters(
    outbox: Outbox,
) -> None:
    said = b'{"ExceptionType": "MXError", "ExceptionMessage": "cut \\ud83d here\\u0000."}'
    await outbox.put(activity(1))
    refusing = LeadSquared(answers(httpx.Response(500, content=said)))
    assert await outbox.drain(poster(refusing)) == {"rejected": 1}
    [entry] = [entry async for entry in outbox.entries()]
    assert "cut ? here." in (entry.message or "")
