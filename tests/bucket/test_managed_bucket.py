"""A bucket that the poster opens on entering, and closes when its calls have ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from support import LeadSquared, account, activity

from leadpost import Account, AsyncActivityPoster, ManagedBucket, OpenBucket, Priority, TokenBucket


class Noting:
    """Records its calls."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.account: Account | None = None

    async def open(self, account: Account) -> None:
        self.account = account
        self.done.append("opened")

    async def aclose(self) -> None:
        self.done.append("closed")

    @asynccontextmanager
    async def token(
        self, priority: Priority, call_timeout: float
    ) -> AsyncGenerator[Callable[[], None]]:
        del priority, call_timeout
        self.done.append("taken")
        try:
            yield lambda: None
        finally:
            self.done.append("given back")


def test_only_a_bucket_that_can_be_opened_is_managed() -> None:
    assert isinstance(Noting(), ManagedBucket)
    assert not isinstance(TokenBucket(), ManagedBucket)
    assert not isinstance(OpenBucket(), ManagedBucket)


async def test_the_poster_opens_it_for_its_account_and_closes_it_at_the_end() -> None:
    bucket = Noting()
    ours = account()
    async with AsyncActivityPoster(ours, client=LeadSquared().client(), bucket=bucket) as poster:
        assert bucket.account is ours
        await poster.post(activity(1))
    assert bucket.done == ["opened", "taken", "given back", "closed"]


async def test_it_is_closed_after_abandoned_calls_have_ended() -> None:
    bucket = Noting()
    leadsquared = LeadSquared(there=0.2)
    async with AsyncActivityPoster(account(), client=leadsquared.client(), bucket=bucket) as poster:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(poster.post(activity(1)), 0.1)
    assert bucket.done == ["opened", "taken", "given back", "closed"]


async def test_it_is_closed_after_a_call_that_is_cut_off() -> None:
    bucket = Noting()
    leadsquared = LeadSquared(there=60.0)
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=bucket)
    await poster.__aenter__()
    post = asyncio.create_task(poster.post(activity(1)))
    await asyncio.sleep(0.1)
    await poster.aclose(grace=0.0)
    assert bucket.done == ["opened", "taken", "given back", "closed"]
    await asyncio.wait([post])
    assert post.exception() is not None
