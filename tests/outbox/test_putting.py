"""Putting and reading entries, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import ACME, executed, poster
from support import API_KEY, SECRET_KEY, LeadSquared, activity, answers, within

from leadpost import Activity, InvalidActivity, KeyConflict
from leadpost.outbox import Outbox
from leadpost.outbox.database import _putting
from leadpost.outbox.database._putting import New


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


async def keys(outbox: Outbox) -> list[str | None]:
    return [entry.key async for entry in outbox.entries()]


async def test_an_entry_is_there_for_the_next_process(store_url: str) -> None:
    async with Outbox(store_url, ACME) as outbox:
        first = await outbox.put(activity(1), key="call-1", priority=2)
    async with Outbox(store_url, ACME) as outbox:
        [entry] = [entry async for entry in outbox.entries()]
    assert (entry.id, entry.key, entry.priority, entry.state) == (first, "call-1", 2, "pending")
    assert entry.activity == activity(1).to_payload()
    assert abs(entry.put_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert entry.put_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("is_closed", [False, True])
async def test_an_outbox_that_is_not_open_raises(sqlite_url: str, *, is_closed: bool) -> None:
    outbox = Outbox(sqlite_url, ACME)
    if is_closed:
        async with outbox:
            await outbox.put(activity(1))
    posting = poster(LeadSquared())
    uses: list[Coroutine[Any, Any, Any]] = [
        outbox.put(activity(1)),
        outbox.put_many([activity(1)]),
        outbox.drain(posting),
        outbox.run(posting),
        outbox.verify(posting),
        outbox.reconcile(posting),
        outbox.counts(),
        outbox.others(),
        outbox.health(),
        outbox.find(["1"]),
        outbox.history(1),
        outbox.retry("failed"),
        outbox.replace({"1": activity(1)}),
        outbox.arrived([1]),
        outbox.adopt("other"),
        outbox.prune(timedelta(0)),
        anext(outbox.entries()),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="is not open: use it within `async with`"):
            await use
    async with outbox:
        assert (await outbox.counts())["pending"] == is_closed


async def test_the_same_key_again_is_the_same_entry(outbox: Outbox) -> None:
    first = await outbox.put(activity(1), key="call-1")
    assert await outbox.put(activity(1).to_payload(), key="call-1") == first
    assert await outbox.put(activity(1)) != first
    assert (await outbox.counts())["pending"] == 2


async def test_the_same_json_in_another_order_is_the_same_entry(outbox: Outbox) -> None:
    first = await outbox.put(activity(1, activity_note="x"), key="call-1")
    text = '{ "ActivityNote": "x", "ActivityEvent": 1, "RelatedProspectId": "%s"}'
    text %= activity(1).related_prospect_id
    put = partial(put_text, outbox)
    assert await put(text) == first
    with pytest.raises(KeyConflict, match="different: ActivityEvent"):  # true is not 1
        await put(text.replace("1,", "true,"))


async def put_text(outbox: Outbox, text: str) -> int:
    def put(connection: sa.Connection) -> int:
        return _putting.put_one(connection, ACME, New(text, "call-1", 0))

    return await outbox._database.write(put)


async def test_another_activity_with_a_known_key_raises(outbox: Outbox) -> None:
    await outbox.put(activity(1, activity_note="private"), key="call-1")
    with pytest.raises(KeyConflict) as caught:
        await outbox.put(activity(2), key="call-1")
    assert caught.value.keys == ("call-1",)
    assert str(caught.value) == (
        "the key belongs to another activity (different: ActivityEvent, ActivityNote); nothing was"
        " put"
    )
    with pytest.raises(KeyConflict, match=r"1 of the keys .* first one: ActivityEvent, Activity"):
        await outbox.put_many([activity(3), activity(4)], keys=["new", "call-1"])
    assert await keys(outbox) == ["call-1"]


async def test_a_duplicate_key_in_a_batch_needs_the_same_activity(outbox: Outbox) -> None:
    assert await outbox.put_many([activity(1), activity(1)], keys=["twice", "twice"]) == 1
    with pytest.raises(KeyConflict):
        await outbox.put_many([activity(1), activity(2)], keys=["other", "other"])
    assert await keys(outbox) == ["twice"]


async def test_put_many_keeps_the_order(outbox: Outbox) -> None:
    async def later() -> AsyncIterator[Activity]:
        for number in range(1, 1202):
            yield activity(number)

    backwards = [f"{number:04}" for number in range(1201, 0, -1)]
    assert await outbox.put_many(later(), keys=backwards) == 1201
    numbers = [entry.activity["ActivityEvent"] async for entry in outbox.entries()]
    assert numbers == list(range(1, 1202))
    assert await keys(outbox) == backwards


async def test_put_many_with_keys_is_idempotent(outbox: Outbox) -> None:
    numbers = range(1, 701)
    rows = [f"row-{number}" for number in numbers]
    assert await outbox.put_many(map(activity, numbers[:300]), keys=rows[:300]) == 300
    assert await outbox.put_many(map(activity, numbers), keys=rows, priority=1) == 400
    assert await keys(outbox) == rows
    assert set(await outbox.find(["row-1", "row-7", "unknown"])) == {"row-1", "row-7"}


async def test_entries_of_a_batch_are_yielded_and_counted(outbox: Outbox) -> None:
    numbers = range(1, 1102)
    rows = [f"june/{number}" for number in reversed(numbers)]
    await outbox.put_many(map(activity, numbers), keys=rows)
    others = ["JUNE/1", "june", "june-2/1", "jun/e/1", "july/1"]
    await outbox.put_many(map(activity, range(1, 6)), keys=others)
    await outbox.put(activity(1))
    assert [entry.key async for entry in outbox.entries(batch="june")] == rows
    assert [entry.key async for entry in outbox.entries("accepted", batch="june")] == []
    assert [entry.key async for entry in outbox.entries("pending", batch="jun")] == ["jun/e/1"]
    counts = await outbox.counts("june")
    assert counts == dict.fromkeys(counts, 0) | {"pending": 1101}
    assert (await outbox.counts("unknown"))["pending"] == 0


async def test_no_text_of_a_caller_becomes_sql(store_url: str) -> None:
    text = "' OR 1 = 1 --"
    async with Outbox(store_url, ACME) as outbox:
        key = f"{text}/1"
        await outbox.put(activity(1), key=key)
        state: Any = text
        assert [entry async for entry in outbox.entries(state)] == []
        assert [e.key async for e in outbox.entries("pending", batch=text)] == [key]
        assert [e.key async for e in outbox.entries("pending", batch="' OR 2")] == []
        assert set(await outbox.find([key])) == {key}
        assert (await outbox.counts(text))["pending"] == 1


async def test_put_many_with_an_invalid_activity_puts_nothing(outbox: Outbox) -> None:
    with pytest.raises(InvalidActivity):
        await outbox.put_many([activity(1), {"ActivityEvent": "x"}])
    with pytest.raises(InvalidActivity):
        await outbox.put({})
    with pytest.raises(ValueError, match="keys: wanted 2, one for each"):
        await outbox.put_many([activity(1), activity(2)], keys=["one"])
    with pytest.raises(FileNotFoundError, match="the caller's"):
        await outbox.put_many(broken())
    assert (await outbox.counts())["pending"] == 0


def broken() -> Iterator[Activity]:
    yield activity(1)
    raise FileNotFoundError("the caller's")


async def test_a_slow_source_blocks_nobody(outbox: Outbox) -> None:
    drawn = asyncio.Event()

    async def endless() -> AsyncIterator[Activity]:
        for number in range(1, 502):
            yield activity(number)
        drawn.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(outbox.put_many(endless()))
    async with within(10):
        await drawn.wait()
        await outbox.put(activity(1), key="meanwhile")
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
    assert await keys(outbox) == ["meanwhile"]


async def test_two_callers_that_put_the_same_keys_do_not_deadlock(postgresql_url: str) -> None:
    """Each in its own transaction and in the opposite order, which usually deadlocks."""
    rows = [f"{number:03}" for number in range(400)]
    activities = [activity(number + 1) for number in range(400)]
    async with (
        Outbox(postgresql_url, ACME) as one,
        Outbox(postgresql_url, ACME) as other,
        within(30),
    ):
        for round_ in range(5):
            prefixed = [f"{round_}-{row}" for row in rows]
            put = await asyncio.gather(
                one.put_many(activities, keys=prefixed),
                other.put_many(activities[::-1], keys=prefixed[::-1]),
            )
            assert sum(put) == 400


@pytest.mark.parametrize(
    ("key", "priority", "error", "reason"),
    [
        ("a\0b", 0, ValueError, "key: contains a character that no database stores"),
        ("\ud83d", 0, ValueError, "key: contains a character that no database stores"),
        ("", 0, ValueError, "key: found empty text, wanted a name or None"),
        (8812, 0, TypeError, "key: found int, wanted text"),
        ("a", "1", ValueError, "priority: wanted an integer of 32 bits"),
        ("a", 1.5, ValueError, "priority: wanted an integer of 32 bits"),
        ("a", None, ValueError, "priority: wanted an integer of 32 bits"),
        ("a", 2**31, ValueError, "priority: wanted an integer of 32 bits"),
    ],
)
async def test_an_invalid_key_or_priority_raises(
    outbox: Outbox, key: Any, priority: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        await outbox.put(activity(1), key=key, priority=priority)
    with pytest.raises(error, match=reason):
        await outbox.put_many([activity(1)], keys=[key], priority=priority)
    assert await keys(outbox) == []


async def test_a_note_may_have_any_character(outbox: Outbox) -> None:
    note = "\0 \N{GRINNING FACE} \\u0000 ü"
    await outbox.put(activity(1, activity_note=note), key="one")
    assert (await outbox.find(["one"]))["one"].activity["ActivityNote"] == note


async def test_a_key_that_no_database_stores_is_not_found(outbox: Outbox) -> None:
    await outbox.put(activity(1), key="a")
    assert list(await outbox.find(["a\0b", "a\ud800", "a"])) == ["a"]


async def test_find_takes_a_list_of_up_to_500_keys(outbox: Outbox) -> None:
    for wrong in ("one", ["x"] * 501):
        with pytest.raises(ValueError, match="up to 500 keys"):
            await outbox.find(wrong)


async def test_entries_of_some_states_are_yielded_in_the_order_of_putting(outbox: Outbox) -> None:
    await outbox.put_many(map(activity, range(1, 1301)))
    entries = sa.table("leadpost_entries", sa.column("id"), sa.column("state"))
    for state, rest in (("failed", 0), ("rejected", 1)):
        update = sa.update(entries).where(entries.c.id % 3 == rest).values(state=state)
        await executed(outbox, update)
    found = [entry.id async for entry in outbox.entries("failed", "rejected")]
    assert found == [number for number in range(1, 1301) if number % 3 != 2]
    assert await outbox.counts() == {
        **dict.fromkeys(await outbox.counts(), 0),
        "failed": 433,
        "rejected": 434,
        "pending": 433,
    }


async def test_no_key_and_no_text_is_shown(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    async with Outbox(store_url, ACME) as outbox:
        await outbox.put(activity(1, activity_note="private"))
        [entry] = [entry async for entry in outbox.entries()]
        await outbox.drain(poster(LeadSquared(answers(httpx.Response(500)))))
        shown = f"{outbox!r} {entry!r} {await outbox.health()!r} {caplog.text}"
    for secret in ("private", SECRET_KEY, API_KEY):
        assert secret not in shown


@pytest.mark.parametrize("many", [False, True])
async def test_an_entry_that_is_pruned_while_its_key_is_put_again_is_put(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch, *, many: bool
) -> None:
    """A transaction of PostgreSQL no longer finds it after its own INSERT has met it."""
    original = _putting._known

    def pruned_before(connection: sa.Connection, *args: Any) -> dict[str, int]:
        connection.execute(sa.text("DELETE FROM leadpost_entries"))
        return original(connection, *args)

    await outbox.put(activity(1), key="k")
    monkeypatch.setattr(_putting, "_known", pruned_before)
    if many:
        assert await outbox.put_many([activity(1)], keys=["k"]) == 1
    else:
        await outbox.put(activity(1), key="k")
    assert list(await outbox.find(["k"])) == ["k"]
