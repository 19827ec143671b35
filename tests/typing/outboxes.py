"""Code of callers of `leadpost.outbox`: for type checkers only, never run."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from leadpost import Account, Activity, AsyncActivityPoster, KeyConflict, OutboxUnavailable
from leadpost.outbox import (
    Change,
    Entry,
    EntryState,
    Outbox,
    SharedTokenBucket,
    put_sync,
)


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
        Outbox("sqlite:///leadpost.db", account, connections=2) as outbox,
        AsyncActivityPoster(account, bucket=SharedTokenBucket("sqlite:///leadpost.db")) as poster,
    ):
        assert_type(await outbox.drain(poster), Counter[EntryState])
        assert_type(await outbox.verify(poster), Counter[EntryState])
        await outbox.reconcile(poster, settle=timedelta(hours=10))
        if account.name:
            await outbox.run(poster, keep=timedelta(days=30), reconcile_every=None)
        await outbox.run(poster, verify=False)


async def look(outbox: Outbox, activity: Activity) -> None:
    assert_type(await outbox.counts("calls.csv"), dict[EntryState, int])
    assert_type(await outbox.find(["call-8812"]), dict[str, Entry])
    async for entry in outbox.entries("uncertain", "failed"):
        assert_type(entry, Entry)
        assert_type(entry.put_at, datetime)
        assert_type(await outbox.history(entry.id), list[Change])
    assert_type(await outbox.retry("failed", ids=[1, 2]), int)
    await outbox.retry("faild")  # type: ignore[arg-type]  # no state
    await outbox.replace({"call-8812": activity})
    assert_type(await outbox.adopt("f3c0ffee00c0ffee"), int)
    assert_type(await outbox.others(), dict[str, int])
    assert_type((await outbox.health()).oldest_pending, float | None)
    assert_type(await outbox.arrived([1, 2]), int)
    assert_type(await outbox.prune(timedelta(days=30)), int)


def put_synchronously(session: Session, activity: Activity) -> None:
    assert_type(put_sync(session, activity, account="acme", key="call-8812"), int)
