"""An outbox as OpenTelemetry's metrics show it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from otel_support import Telemetry
from support import activity, within

from leadpost import OutboxError, OutboxUnavailable
from leadpost.outbox import STATES, Outbox


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, "acme") as opened:
        yield opened


async def test_an_outbox_is_observed_until_cancelled(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = Telemetry()

    async def until(condition: Callable[[Any], bool]) -> None:
        async with within(60):
            while not condition(telemetry.metrics()):
                await asyncio.sleep(0.01)

    assert (await outbox.health()).oldest_pending is None
    observing = asyncio.create_task(telemetry.hook.observe(outbox, every=0.01))
    await until(lambda metrics: metrics.get("leadpost.outbox.oldest s") == {(): 0.0})
    await outbox.put(activity(1))
    await outbox.put(activity(2))
    await until(lambda metrics: metrics["leadpost.outbox.entries {entry}"][("pending",)] == 2)
    await until(lambda metrics: 0.0 < metrics["leadpost.outbox.oldest s"][()] < 10)
    assert set(telemetry.metrics()["leadpost.outbox.entries {entry}"]) == {
        (state,) for state in STATES
    }

    async def away() -> None:
        raise OutboxUnavailable("the outbox is away")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "health", away)
        async with within(60):
            while "could not be observed: the outbox is away" not in caplog.text:
                await asyncio.sleep(0.01)
    await outbox.put(activity(3))
    await until(lambda metrics: metrics["leadpost.outbox.entries {entry}"][("pending",)] == 3)
    observing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await observing


async def test_an_unusable_outbox_ends_the_observation(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise OutboxError("no such table")

    monkeypatch.setattr(outbox, "health", broken)
    with pytest.raises(OutboxError, match="no such table"):
        await Telemetry().hook.observe(outbox)
