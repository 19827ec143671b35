"""The outbox as a store: what is put, what is told of it, and what becomes of it."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from support import API_KEY, SECRET_KEY, Vendor, account, activity, answers, within

from leadpost import (
    Activity,
    AsyncActivityPoster,
    InvalidActivity,
    KeyConflict,
    OpenBucket,
    OutboxError,
    RetryPolicy,
)
from leadpost.outbox import Outbox, SharedTokenBucket, again, schema

QUICK = RetryPolicy(initial_wait=0.01, jitter=0.01)


def poster(vendor: Vendor, **options: Any) -> AsyncActivityPoster:
    return AsyncActivityPoster(
        account(), client=vendor.client(), bucket=OpenBucket(), retry=QUICK, **options
    )


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url) as opened:
        yield opened


async def test_what_was_put_is_there_for_the_next_process(store_url: str) -> None:
    async with Outbox(store_url) as outbox:
        first = await outbox.put(activity(1), key="call-1", priority=2)
    async with Outbox(store_url) as outbox:
        [entry] = [entry async for entry in outbox.entries()]
    assert (entry.id, entry.key, entry.priority, entry.state) == (first, "call-1", 2, "pending")
    assert entry.payload == activity(1).to_payload()
    assert abs(entry.put_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("is_closed", [False, True])
async def test_it_is_used_while_it_is_open(sqlite_url: str, *, is_closed: bool) -> None:
    outbox = Outbox(sqlite_url)
    if is_closed:
        async with outbox:
            await outbox.put(activity(1))
    engine = create_async_engine(sqlite_url)
    posting = poster(Vendor())
    async with engine.connect() as own:
        uses: list[Coroutine[Any, Any, Any]] = [
            outbox.put(activity(1)),
            outbox.put(activity(1), connection=own),
            outbox.put_many([activity(1)]),
            outbox.put_many([activity(1)], connection=own),
            outbox.drain(posting),
            outbox.run(posting),
            outbox.verify(posting),
            outbox.reconcile(posting),
            outbox.counts(),
            outbox.unasked(),
            outbox.oldest_pending(),
            outbox.calls_per_second(),
            outbox.workers(),
            outbox.find(["1"]),
            outbox.history(1),
            outbox.retry("failed"),
            outbox.prune(timedelta(0)),
        ]
        for use in uses:
            with pytest.raises(RuntimeError, match="an Outbox is used within `async with`"):
                await use
        with pytest.raises(RuntimeError, match="an Outbox is used within `async with`"):
            await anext(outbox.entries())
    await engine.dispose()
    async with outbox:
        assert (await outbox.counts())["pending"] == is_closed


async def test_the_same_key_again_is_the_same_entry(outbox: Outbox) -> None:
    first = await outbox.put(activity(1), key="call-1")
    assert await outbox.put(activity(1).to_payload(), key="call-1") == first
    assert await outbox.put(activity(1)) != first
    assert (await outbox.counts())["pending"] == 2


async def test_another_activity_under_a_known_key_is_refused(outbox: Outbox) -> None:
    await outbox.put(activity(1, activity_note="private"), key="call-1")
    with pytest.raises(KeyConflict) as caught:
        await outbox.put(activity(2), key="call-1")
    assert caught.value.keys == ("call-1",)
    assert str(caught.value) == (
        "the key is there with another activity (ActivityEvent, ActivityNote differ); nothing was"
        " put"
    )
    with pytest.raises(KeyConflict, match=r"of the first one, ActivityEvent, ActivityNote differ"):
        await outbox.put_many([activity(3), activity(4)], keys=["new", "call-1"])
    assert (await outbox.counts())["pending"] == 1


async def test_many_are_put_in_their_order(outbox: Outbox) -> None:
    async def later() -> AsyncIterator[Activity]:
        for number in range(1, 1202):
            yield activity(number)

    assert await outbox.put_many(later()) == 1201
    numbers = [entry.payload["ActivityEvent"] async for entry in outbox.entries()]
    assert numbers == list(range(1, 1202))


async def test_many_with_keys_are_put_once(outbox: Outbox) -> None:
    numbers = range(1, 701)
    keys = [f"row-{number}" for number in numbers]
    assert await outbox.put_many(map(activity, numbers[:300]), keys=keys[:300]) == 300
    assert await outbox.put_many(map(activity, numbers), keys=keys, priority=1) == 400
    assert await outbox.put_many([activity(1), activity(1)], keys=["twice", "twice"]) == 1
    found = [entry.key async for entry in outbox.entries(key_prefix="row-")]
    assert found == keys
    assert [e.key async for e in outbox.entries("accepted", key_prefix="row-")] == []


async def test_a_bad_one_among_many_puts_none(outbox: Outbox) -> None:
    with pytest.raises(InvalidActivity):
        await outbox.put_many([activity(1), {"ActivityEvent": "x"}])
    with pytest.raises(InvalidActivity):
        await outbox.put({})
    with pytest.raises(ValueError, match="keys"):
        await outbox.put_many([activity(1), activity(2)], keys=["one"])
    with pytest.raises(FileNotFoundError, match="the caller's"):
        await outbox.put_many(broken())
    assert (await outbox.counts())["pending"] == 0


def broken() -> Iterator[Activity]:
    yield activity(1)
    raise FileNotFoundError("the caller's")


async def test_an_entry_lives_and_dies_with_the_callers_transaction(store_url: str) -> None:
    async with Outbox(store_url) as outbox:
        engine = create_async_engine(store_url)
        async with engine.begin() as own:
            await own.execute(sa.text("CREATE TABLE deals (name VARCHAR)"))
        async with engine.connect() as own:
            await own.execute(sa.text("INSERT INTO deals VALUES ('lost')"))
            await outbox.put(activity(1), connection=own)
            await outbox.put_many([activity(2)], connection=own)
            await own.rollback()
        assert (await outbox.counts())["pending"] == 0
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(sa.text("INSERT INTO deals VALUES ('won')"))
            await outbox.put(activity(3), key="won", connection=session)
            await outbox.put_many([activity(4)], connection=session)
        assert (await outbox.counts())["pending"] == 2
        await engine.dispose()


async def test_entries_are_posted_in_order_and_by_priority(outbox: Outbox) -> None:
    vendor = Vendor()
    await outbox.put_many(map(activity, range(1, 6)))
    await outbox.put(activity(9), priority=1)
    assert await outbox.drain(poster(vendor)) == {"accepted": 6}
    assert vendor.numbers == [9, 1, 2, 3, 4, 5]
    async for entry in outbox.entries():
        assert entry.state == "accepted"
        assert entry.request_id == f"r{entry.payload['ActivityEvent']}"
        assert entry.calls == 1


async def test_each_change_of_state_is_kept_with_its_time(outbox: Outbox) -> None:
    entry = await outbox.put(activity(1))
    await outbox.drain(poster(Vendor(answers(httpx.Response(500)))))
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


async def test_what_cannot_be_accepted_says_why(outbox: Outbox) -> None:
    mx = {
        "Status": "Error",
        "ExceptionType": "MXInvalidActivityException",
        "ExceptionMessage": "Event Code is invalid",
    }
    vendor = Vendor(answers(httpx.Response(500, json=mx), httpx.ReadTimeout("too slow")))
    await outbox.put_many(map(activity, (1, 2, 3)))
    assert await outbox.drain(poster(vendor)) == {"rejected": 1, "uncertain": 1, "accepted": 1}
    found = {entry.state: entry async for entry in outbox.entries()}
    assert found["rejected"].error_type == "ApplicationError"
    assert "Event Code is invalid" in (found["rejected"].message or "")
    assert found["uncertain"].error_type == "DeliveryUncertain"


async def test_an_entry_is_given_up_after_as_many_calls_as_the_policy_has(outbox: Outbox) -> None:
    vendor = Vendor(answers(*[httpx.Response(500)] * 5))
    await outbox.put(activity(1))
    assert await outbox.drain(poster(vendor)) == {"failed": 1}
    assert len(vendor.requests) == 5
    assert await outbox.retry("failed") == 1
    assert await outbox.drain(poster(vendor)) == {"accepted": 1}


async def test_only_what_has_ended_badly_is_put_back(outbox: Outbox) -> None:
    first = await outbox.put(activity(1))
    second = await outbox.put(activity(2))
    refused = answers(*[httpx.Response(400)] * 2)
    assert await outbox.drain(poster(Vendor(refused))) == {"rejected": 2}
    with pytest.raises(ValueError, match="accepted"):
        await outbox.retry("accepted")
    with pytest.raises(ValueError, match="none"):
        await outbox.retry(ids=[first])
    assert await outbox.retry("rejected", ids=[*range(10, 70_000), second]) == 1
    states = [entry.state async for entry in outbox.entries()]
    assert states == ["rejected", "pending"]


async def test_only_what_is_final_and_old_is_deleted(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.outbox.outbox._CHUNK", 5)
    await outbox.put_many(map(activity, range(1, 14)))
    await outbox.drain(poster(Vendor(answers(*[httpx.Response(400)] * 12))))
    assert await outbox.retry("rejected") == 12
    assert (await outbox.counts())["pending"] == 12
    await outbox.drain(poster(Vendor(answers(*[httpx.Response(400)] * 12))))
    assert await outbox.prune(timedelta(hours=1)) == 0
    assert await outbox.prune(timedelta(0)) == 12
    [left] = [entry async for entry in outbox.entries()]
    assert left.state == "accepted"
    assert await outbox.history(1) == []
    left_over = sa.select(schema.changes.c.entry_id).distinct()
    rows = await outbox._store.read(lambda connection: connection.execute(left_over))
    assert list(rows.scalars()) == [left.id]


async def test_no_key_and_no_text_is_shown(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    async with Outbox(store_url) as outbox:
        await outbox.put(activity(1, activity_note="private"))
        [entry] = [entry async for entry in outbox.entries()]
        await outbox.drain(poster(Vendor(answers(httpx.Response(500)))))
        shown = f"{outbox!r} {entry!r} {caplog.text}"
    for secret in ("private", SECRET_KEY, API_KEY):
        assert secret not in shown


async def test_the_store_holds_no_key_of_the_account(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/store.db"
    vendor = Vendor()
    async with Outbox(url) as outbox, SharedTokenBucket(url, account()) as bucket:
        await outbox.put(activity(1))
        shared = AsyncActivityPoster(account(), client=vendor.client(), bucket=bucket)
        await outbox.drain(shared)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"ActivityEvent" in content
    for key in (account().access_key, SECRET_KEY, API_KEY, account().host):
        assert key.encode() not in content


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    async with Outbox(f"sqlite+aiosqlite:///{tmp_path}/store.db") as outbox:
        await outbox.put(activity(1))
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_store_of_an_older_version_is_brought_up_to_date(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Outbox(store_url) as outbox:
        await outbox.put(activity(1))

    def migrate(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE leadpost_entries ADD COLUMN extra VARCHAR"))

    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, migrate])
    for _ in range(2):
        async with Outbox(store_url) as outbox:
            assert await outbox.drain(poster(Vendor())) in ({"accepted": 1}, {})
    engine = create_async_engine(store_url)
    async with engine.connect() as connection:
        await connection.execute(sa.text("SELECT extra FROM leadpost_entries"))
    await engine.dispose()


async def test_a_store_of_a_newer_version_is_refused(store_url: str) -> None:
    async with Outbox(store_url) as outbox:
        await outbox.put(activity(1))
    engine = create_async_engine(store_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE leadpost_schema SET version = 99"))
    await engine.dispose()
    with pytest.raises(OutboxError, match=r"version 99, this leadpost knows up to 2: install"):
        async with Outbox(store_url):
            pass


async def test_a_source_that_does_not_end_holds_up_no_cancellation(outbox: Outbox) -> None:
    drawn = asyncio.Event()

    async def endless() -> AsyncIterator[Activity]:
        for number in range(1, 502):
            yield activity(number)
        drawn.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(outbox.put_many(endless()))
    async with within(10):
        await drawn.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert [entry async for entry in outbox.entries()] == []
        await outbox.put(activity(1))  # nothing is locked


async def test_what_the_source_raises_is_raised_and_puts_none(outbox: Outbox) -> None:
    def broken() -> Iterator[Activity]:
        yield activity(1)
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        await outbox.put_many(broken())
    assert [entry async for entry in outbox.entries()] == []


@pytest.mark.parametrize("key", ["a\0b", "\ud83d"])
async def test_a_key_that_no_database_takes_is_told(outbox: Outbox, key: str) -> None:
    with pytest.raises(ValueError, match="key: found NUL or half a surrogate pair"):
        await outbox.put(activity(1), key=key)
    with pytest.raises(ValueError, match="key: found NUL or half a surrogate pair"):
        await outbox.put_many([activity(1)], keys=[key])
    assert [entry async for entry in outbox.entries()] == []


async def test_what_the_vendor_says_is_kept_as_far_as_a_database_takes_it(outbox: Outbox) -> None:
    said = b'{"ExceptionType": "MXError", "ExceptionMessage": "cut \\ud83d here\\u0000."}'
    await outbox.put(activity(1))
    refusing = Vendor(answers(httpx.Response(500, content=said)))
    assert await outbox.drain(poster(refusing)) == {"rejected": 1}
    [entry] = [entry async for entry in outbox.entries()]
    assert "cut ? here." in (entry.message or "")


async def test_one_that_is_put_back_is_not_deleted_meanwhile(postgresql_url: str) -> None:
    put_back, both_tried = asyncio.Event(), asyncio.Event()
    async with Outbox(postgresql_url) as outbox:
        await outbox.put(activity(1))
        await outbox.drain(poster(Vendor(answers(httpx.Response(400)))))

        async def slowly(connection: AsyncConnection) -> None:
            await again.put_back(connection, states=["rejected"], limit=1)
            put_back.set()
            await both_tried.wait()

        putting = asyncio.create_task(outbox._store.write(slowly))
        await put_back.wait()
        assert await outbox.prune(timedelta(0)) == 0
        both_tried.set()
        await putting
        assert [entry.state async for entry in outbox.entries()] == ["pending"]
