"""Correcting what did not get through: which entries, and what of the earlier activity stays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import changed, poster
from sqlalchemy.ext.asyncio import create_async_engine
from support import Vendor, activity, answers, within

from leadpost import InvalidActivity, KeyConflict
from leadpost.outbox import Change, Entry, Outbox, claims

ANY: Any = object()


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url) as opened:
        yield opened


async def one(outbox: Outbox) -> Entry:
    return (await outbox.find(["call-1"]))["call-1"]


async def test_a_rejected_one_is_posted_as_corrected(outbox: Outbox) -> None:
    vendor = Vendor(answers(httpx.Response(400)))
    put = await outbox.put(activity(1), key="call-1")
    await outbox.drain(poster(vendor))
    await outbox.correct({"call-1": activity(2)})
    entry = await one(outbox)
    assert (entry.id, entry.state, entry.payload) == (put, "pending", activity(2).to_payload())
    assert entry.original == activity(1).to_payload()
    assert await outbox.drain(poster(vendor)) == {"accepted": 1}
    assert vendor.numbers == [1, 2]
    history = await outbox.history(put)
    assert [change.state for change in history] == [
        *("pending", "sending", "rejected"),
        *("pending", "sending", "accepted"),
    ]
    assert history[3].note == "corrected"


@pytest.mark.parametrize("as_put", [True, False])
async def test_what_was_put_may_be_put_again(outbox: Outbox, *, as_put: bool) -> None:
    put = await outbox.put(activity(1), key="call-1")
    for number in (2, 3, 3):
        await changed(outbox, state="failed")
        corrected = activity(number)
        originals = {"call-1": corrected.to_payload()} if as_put else None
        await outbox.correct({"call-1": corrected}, originals=originals)
    entry = await one(outbox)
    assert entry.original == activity(3 if as_put else 1).to_payload()
    for number in (3,) if as_put else (1, 3):
        assert await outbox.put(activity(number), key="call-1") == put
        assert await outbox.put_many([activity(number)], keys=["call-1"]) == 0
    for number in (1, 2, 4) if as_put else (2, 4):
        with pytest.raises(KeyConflict):
            await outbox.put(activity(number), key="call-1")
    await changed(outbox, state="failed")
    await outbox.correct({"call-1": activity(1)})  # back to what was put
    assert (await one(outbox)).payload == activity(1).to_payload()


@pytest.mark.parametrize("known", [True, False])
async def test_one_that_is_not_there_is_put_if_none_is_expected(
    outbox: Outbox, *, known: bool
) -> None:
    await outbox.put(activity(1), key="call-2")
    corrections = {"call-1": activity(1), "call-2": activity(2)}
    with pytest.raises(KeyConflict):
        await outbox.correct(corrections, states=["pending"])
    with pytest.raises(KeyConflict):
        await outbox.correct(corrections, states=["pending"], calls={"call-1": 1, "call-2": 0})
    originals = {"call-1": {"row": 7}} if known else None
    await outbox.correct(
        corrections, states=["pending"], calls={"call-1": 0, "call-2": 0}, originals=originals
    )
    entry = await one(outbox)
    assert (entry.state, entry.payload) == ("pending", activity(1).to_payload())
    assert entry.original == ({"row": 7} if known else None)
    assert await outbox.drain(poster(Vendor())) == {"accepted": 2}
    await changed(outbox, state="succeeded")
    assert await outbox.prune(timedelta(0)) == 2
    assert await outbox.put(activity(1), key="call-1") == entry.id


async def test_true_is_not_the_same_as_1(outbox: Outbox) -> None:
    one_, true = (
        {**activity(1).to_payload(), "Fields": [{"SchemaName": "a", "Value": value}]}
        for value in (1, True)
    )
    await outbox.put(one_, key="call-1")
    with pytest.raises(KeyConflict, match=r"another activity \(Fields differs\)"):
        await outbox.put(true, key="call-1")
    await changed(outbox, state="rejected")
    await outbox.correct({"call-1": true})
    assert (await one(outbox)).original == one_
    assert str((await one(outbox)).payload) == str(true)


async def test_of_what_was_corrected_key_and_state_outlive_pruning(outbox: Outbox) -> None:
    await outbox.put_many([activity(1), activity(2)], keys=["call-1", "call-2"])
    await changed(outbox, state="rejected")
    await outbox.correct({"call-1": activity(3)})
    await changed(outbox, state="succeeded", message="private")
    for deleted in (2, 0):
        assert await outbox.prune(timedelta(0)) == deleted
    [left] = [entry async for entry in outbox.entries()]
    assert (left.key, left.state, left.payload, left.message) == ("call-1", "succeeded", {}, None)
    assert await outbox.history(left.id) == [Change("pending", left.put_at)]
    assert await outbox.put(activity(4), key="call-1") == left.id  # nobody knows: so it is the same
    await changed(outbox, state="rejected")
    assert await outbox.retry("rejected") == 0
    with pytest.raises(KeyConflict):
        await outbox.correct({"call-1": activity(5)})
    assert await outbox.drain(poster(Vendor())) == {}


async def test_what_was_seen_on_the_lead_is_there(outbox: Outbox) -> None:
    ids = [await outbox.put(activity(n), key=f"call-{n}") for n in range(1, 4)]
    await changed(outbox, state="uncertain", error_type="DeliveryUncertain", message="it may have")
    assert await outbox.arrived(ids[:2]) == 2
    assert await outbox.arrived(ids[:2]) == 0
    entry = await one(outbox)
    assert (entry.state, entry.error_type, entry.message) == ("succeeded", None, None)
    assert (await outbox.history(entry.id))[-1].note == "seen on the lead"
    assert (await outbox.counts())["uncertain"] == 1


@pytest.mark.parametrize("is_same", [True, False])
async def test_a_late_answer_is_none_to_another_activity(outbox: Outbox, *, is_same: bool) -> None:
    await outbox.put(activity(1), key="call-1")
    store = outbox._store
    await store.write(partial(claims.renew, worker="frozen", lease=0.0))
    claim = await store.write(partial(claims.claim, owner="frozen"))
    assert claim is not None
    assert await store.write(claims.abandon) == 1
    await outbox.correct({"call-1": activity(1 if is_same else 2)}, states=["uncertain"])
    late = partial(claims.record, claimed=claim, state="accepted", request_id="r1")
    assert await store.write(late) is is_same
    assert (await one(outbox)).state == ("accepted" if is_same else "pending")


async def test_an_answer_to_what_it_was_is_told_no_more(outbox: Outbox) -> None:
    vendor = Vendor(answers(*[httpx.Response(400)] * 2, httpx.ReadTimeout("slow")))
    await outbox.put(activity(1), key="call-1")
    for number, notes in ((1, "put back"), (2, "corrected")):
        await outbox.drain(poster(vendor))
        await outbox.correct({"call-1": activity(number)})
        entry = await one(outbox)
        assert (await outbox.history(entry.id))[-1].note == notes
        assert entry.error_type == ("BadRequest" if number == 1 else None)
    await outbox.drain(poster(vendor))
    await outbox.correct({"call-1": activity(3)}, states=["uncertain"])
    assert (await one(outbox)).error_type == "DeliveryUncertain"


@pytest.mark.parametrize(
    "state", ["pending", "sending", "accepted", "succeeded", "uncertain", "failed", "rejected"]
)
async def test_what_may_have_got_through_is_not_corrected(outbox: Outbox, state: str) -> None:
    await outbox.put_many([activity(1), activity(2)], keys=["call-1", "call-2"])
    await outbox.correct({"call-2": activity(2)}, states=["pending"])
    await changed(outbox, state=state)
    if state in {"failed", "rejected"}:
        await outbox.correct({"call-1": activity(3)})
        assert (await one(outbox)).state == "pending"
        return
    with pytest.raises(KeyConflict, match=r"^2 of the keys are of no entry that may") as caught:
        await outbox.correct({"call-1": activity(3), "call-2": activity(4)})
    assert caught.value.keys == ("call-1", "call-2")
    assert (await one(outbox)).payload == activity(1).to_payload()


async def test_one_that_was_sent_since_is_not_corrected(outbox: Outbox) -> None:
    await outbox.put(activity(1), key="call-1")
    await changed(outbox, state="uncertain", calls=2)
    for calls in ({"call-1": 1}, {}):
        with pytest.raises(KeyConflict, match="it was sent since; nothing was corrected"):
            await outbox.correct({"call-1": activity(2)}, states=["uncertain"], calls=calls)
    await outbox.correct({"call-1": activity(2)}, states=["uncertain"], calls={"call-1": 2})
    assert (await one(outbox)).state == "pending"


async def test_all_are_corrected_or_none(outbox: Outbox) -> None:
    numbers = range(1, 601)  # more than one statement's worth
    keys = [f"call-{number}" for number in numbers]
    await outbox.put_many(map(activity, numbers), keys=keys)
    await changed(outbox, state="rejected")
    corrections = {key: activity(7000) for key in keys}
    with pytest.raises(KeyConflict):
        await outbox.correct(corrections | {"another": activity(1)})
    assert (await outbox.counts())["rejected"] == len(numbers)
    await outbox.correct(corrections)
    found = [entry async for entry in outbox.entries()]
    assert {entry.payload["ActivityEvent"] for entry in found} == {7000}
    assert [entry.original for entry in found] == [activity(n).to_payload() for n in numbers]
    await outbox.correct({})


async def test_only_one_of_two_corrections_counts(outbox: Outbox, store_url: str) -> None:
    await outbox.put(activity(1), key="call-1")
    await changed(outbox, state="rejected", calls=1)
    async with Outbox(store_url) as other:
        ended = await asyncio.gather(
            outbox.correct({"call-1": activity(2)}, calls={"call-1": 1}),
            other.correct({"call-1": activity(3)}, calls={"call-1": 1}),
            return_exceptions=True,
        )
    assert [type(end) for end in ended if end is not None] == [KeyConflict]
    assert (await one(outbox)).original == activity(1).to_payload()


async def test_bad_input_is_told_before_anything_is_done(outbox: Outbox) -> None:
    await outbox.put(activity(1), key="call-1")
    await changed(outbox, state="rejected")
    with pytest.raises(ValueError, match=r"^states: found accepted, wanted failed, rejected, pend"):
        await outbox.correct({"call-1": activity(2)}, states=["failed", "accepted"])
    with pytest.raises(InvalidActivity):
        await outbox.correct({"call-1": {"ActivityEvent": 201}})
    for key in (ANY, "a\0b", "a\ud800"):
        with pytest.raises((TypeError, ValueError), match=r"^key: found"):
            await outbox.correct({key: activity(2)})
    assert (await one(outbox)).state == "rejected"


async def test_a_worker_that_waits_takes_it_up(outbox: Outbox) -> None:
    vendor = Vendor(answers(httpx.Response(400)))
    await outbox.put(activity(1), key="call-1")
    running = asyncio.create_task(outbox.run(poster(vendor)))
    async with within(10):
        while (await one(outbox)).state != "rejected":
            await asyncio.sleep(0.01)
        await outbox.correct({"call-1": activity(2)})
        while (await one(outbox)).state != "accepted":
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def test_no_log_or_repr_shows_what_was_corrected(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await outbox.put({**activity(1).to_payload(), "ActivityNote": "private one"}, key="call-1")
    await changed(outbox, state="rejected")
    await outbox.correct({"call-1": {**activity(1).to_payload(), "ActivityNote": "private two"}})
    assert "private" not in f"{await one(outbox)!r} {caplog.text}"


async def test_entries_of_the_first_version_may_be_corrected(store_url: str) -> None:
    async with Outbox(store_url) as outbox:
        await outbox.put(activity(1), key="call-1")
        await changed(outbox, state="failed")
        identity = await outbox.identity()
    engine = create_async_engine(store_url)
    async with engine.begin() as connection:
        for statement in (
            "ALTER TABLE leadpost_entries DROP COLUMN original",
            "ALTER TABLE leadpost_schema DROP COLUMN identity",
            "UPDATE leadpost_schema SET version = 1",
        ):
            await connection.execute(sa.text(statement))
    await engine.dispose()
    for number in (2, 3):
        async with Outbox(store_url) as outbox:
            await outbox.correct({"call-1": activity(number)}, states=["failed", "pending"])
    async with Outbox(store_url) as outbox:
        assert (await one(outbox)).original == activity(1).to_payload()
        assert len(await outbox.identity()) == len(identity)
        assert await outbox.identity() != identity


async def test_each_outbox_has_an_identity(sqlite_url: str, postgresql_url: str) -> None:
    identities = list[str]()
    for url in (sqlite_url, sqlite_url, postgresql_url):
        async with Outbox(url) as outbox:
            identities.append(await outbox.identity())
    assert identities[0] == identities[1] != identities[2]


async def test_entries_are_counted_by_their_keys(outbox: Outbox) -> None:
    keys = [f"call-{number}" for number in range(1, 601)]
    await outbox.put_many(map(activity, range(1, 601)), keys=keys)
    await outbox.put(activity(1))
    assert (await outbox.counts(keys=keys))["pending"] == len(keys)
    assert (await outbox.counts("call-1", keys=keys))["pending"] == 111
    assert sum((await outbox.counts(keys=[])).values()) == 0
