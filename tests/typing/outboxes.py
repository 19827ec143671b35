"""Code of callers of `leadpost.outbox`: for type checkers only, never run."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession

from leadpost import Account, Activity, AsyncActivityPoster, KeyConflict, OutboxUnavailable
from leadpost.outbox import DEFAULT_URL, Change, Entry, EntryState, Outbox, SharedTokenBucket


async def put(outbox: Outbox, activity: Activity, session: AsyncSession) -> None:
    assert_type(await outbox.put(activity, key="call-8812", priority=1), int)
    assert_type(await outbox.put({"RelatedProspectId": "…", "ActivityEvent": 201}), int)
    assert_type(await outbox.put_many([activity], keys=["call-8813"]), int)
    async with session.begin():
        await outbox.put(activity, connection=session)
    try:
        await outbox.put(activity, key="call-8812")
    except KeyConflict as error:
        assert_type(error.keys, tuple[str, ...])
    except OutboxUnavailable:
        pass


async def work(account: Account) -> None:
    async with (
        Outbox(DEFAULT_URL, lease=30) as outbox,
        SharedTokenBucket(DEFAULT_URL, account) as bucket,
        AsyncActivityPoster(account, bucket=bucket) as poster,
    ):
        assert_type(await outbox.drain(poster), Counter[EntryState])
        assert_type(await outbox.verify(poster), Counter[EntryState])
        await outbox.reconcile(poster, settle=timedelta(hours=10))
        await outbox.run(poster)


async def look(outbox: Outbox, activity: Activity) -> None:
    assert_type(await outbox.counts("calls.csv"), dict[EntryState, int])
    assert_type(await outbox.find(["call-8812"]), dict[str, Entry])
    async for entry in outbox.entries("uncertain", "failed"):
        assert_type(entry, Entry)
        assert_type(entry.put_at, datetime)
        assert_type(await outbox.history(entry.id), list[Change])
    assert_type(await outbox.retry("failed", ids=[1, 2]), int)
    await outbox.retry("faild")  # type: ignore[arg-type]  # no state
    await outbox.correct({"call-8812": activity}, states=["uncertain"], calls={"call-8812": 1})
    await outbox.correct({"call-8812": activity}, originals={"call-8812": {"row": 1}})
    assert_type(await outbox.counts(keys=["call-8812"]), dict[EntryState, int])
    assert_type(await outbox.identity(), str)
    assert_type(await outbox.arrived([1, 2]), int)
    await outbox.correct({"call-8812": activity}, states=["acepted"])  # type: ignore[list-item]  # no state
    assert_type(await outbox.prune(timedelta(days=30)), int)
