"""Verifying what was accepted, and reconciling what is in doubt, against a real sandbox."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from support import LEAD, Vendor, account, activity, answers, within

from leadpost import (
    Activity,
    AsyncActivityPoster,
    LeadActivity,
    NotFound,
    OpenBucket,
    OutboxUnavailable,
    RetryPolicy,
    TokenBucket,
    Unauthorized,
)
from leadpost.limit import LIMIT, PERIOD
from leadpost.outbox import EntryState, Outbox, reconcile, settling, verify
from leadpost.outbox.reconcile import candidates
from leadpost.outbox.schema import entries as table
from leadpost.sandbox import Faults, Sandbox

WHEN = datetime(2026, 11, 1, 10, 30, tzinfo=UTC)
NOW = timedelta(0)
QUICK = RetryPolicy(initial_wait=0.01, jitter=0.01)


def noted(number: int, **changes: Any) -> Activity:
    """Give an activity of a type that the sandbox's account has."""
    return Activity(LEAD, 201, f"note {number}", WHEN, **changes)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "WAITS", (0.02, 0.05))
    monkeypatch.setattr("leadpost.outbox.worker._FIRST_CHECK", 0.0)
    monkeypatch.setattr(verify, "_POLL", 0.05)


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url) as opened:
        yield opened


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(limit=None, pace=1000, ends={207: "ERROR"}) as started:
        yield started


def poster_to(sandbox: Sandbox) -> AsyncActivityPoster:
    return AsyncActivityPoster(sandbox.account(), bucket=TokenBucket(period=0.01), retry=QUICK)


async def told(outbox: Outbox) -> list[tuple[str, str | None]]:
    return [(entry.state, entry.message) async for entry in outbox.entries()]


async def test_what_was_accepted_is_asked_for_until_it_is_final(
    outbox: Outbox, sandbox: Sandbox
) -> None:
    await outbox.put_many([noted(1), Activity(LEAD, 207), noted(2)])
    async with poster_to(sandbox) as poster:
        assert await outbox.drain(poster) == {"accepted": 3}
        async with within(20):
            assert await outbox.verify(poster) == {"succeeded": 2, "failed": 1}
    found = [entry async for entry in outbox.entries()]
    assert [entry.state for entry in found] == ["succeeded", "failed", "succeeded"]
    assert found[0].activity_id
    assert found[1].message
    assert found[0].message is None
    assert [change.state for change in await outbox.history(found[0].id)][-1] == "succeeded"


async def test_verifying_for_ever_takes_up_what_comes(outbox: Outbox, sandbox: Sandbox) -> None:
    async with poster_to(sandbox) as poster:
        verifying = asyncio.create_task(outbox.verify(poster, forever=True))
        await asyncio.sleep(0.1)
        await outbox.put(noted(1))
        await outbox.drain(poster)
        async with within(20):
            while (await outbox.counts())["succeeded"] == 0:
                await asyncio.sleep(0.02)
        verifying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await verifying


async def test_the_newest_and_least_asked_for_come_first(outbox: Outbox) -> None:
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if "RequestID" not in request.url.params:
            number = json.loads(request.content)["ActivityEvent"]
            return httpx.Response(200, json={"RequestID": f"r{number}"})
        asked.append(request.url.params["RequestID"])
        status = "FAILURE" if asked.count("r2") < 3 and asked[-1] == "r2" else "Success"
        return httpx.Response(200, json={"TaskStatus": {"Status": status}})

    vendor = Vendor(answer)
    await outbox.put_many(map(activity, (1, 2, 3)))
    poster = AsyncActivityPoster(account(), client=vendor.client(), bucket=OpenBucket())
    await outbox.drain(poster)
    async with within(20):
        assert await outbox.verify(poster) == {"succeeded": 3}
    assert asked == ["r3", "r2", "r1", "r2", "r2"]


async def test_a_request_that_the_vendor_does_not_know_stays_accepted(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = {"Status": "Error", "ExceptionType": "MXInvalidInputException"}
    final = {"TaskStatus": {"Status": "Success"}}
    script = answers(
        httpx.Response(200, json={"RequestID": "r1"}),
        httpx.Response(400, json=unknown),
        httpx.Response(503),
        httpx.Response(200, json=final),
    )
    poster = AsyncActivityPoster(
        account(),
        client=Vendor(script).client(),
        bucket=OpenBucket(),
        retry=RetryPolicy(max_attempts=1),
    )
    await outbox.put(activity(1))
    await outbox.drain(poster)
    async with within(20):
        assert await outbox.verify(poster) == {"succeeded": 1}
    assert "entry 1: its status is not told: " in caplog.text


async def test_it_leaves_four_fifths_of_the_limit_to_posting() -> None:
    bucket = TokenBucket()
    steady = AsyncActivityPoster(account(), client=Vendor().client(), bucket=bucket)
    plain = AsyncActivityPoster(account(), client=Vendor().client(), bucket=OpenBucket())
    assert verify._pause(steady) == pytest.approx(5 * PERIOD / LIMIT)
    assert verify._pause(plain) == pytest.approx(5 * PERIOD / LIMIT)


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
async def test_keys_and_paths_that_are_wrong_end_it(
    outbox: Outbox, status: int, error: type[Exception]
) -> None:
    script = answers(httpx.Response(200, json={"RequestID": "r1"}), httpx.Response(status))
    poster = AsyncActivityPoster(account(), client=Vendor(script).client(), bucket=OpenBucket())
    await outbox.put(activity(1))
    await outbox.drain(poster)
    with pytest.raises(error):
        await outbox.verify(poster)
    assert (await outbox.counts())["accepted"] == 1


async def test_a_store_that_is_away_is_waited_for(
    outbox: Outbox, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await outbox.put(noted(1))
    write = outbox._store.write

    async def gone(_: object) -> None:
        raise OutboxUnavailable("the server is away")

    async with poster_to(sandbox) as poster:
        await outbox.drain(poster)
        monkeypatch.setattr(outbox._store, "write", gone)
        verifying = asyncio.create_task(outbox.verify(poster))
        await asyncio.sleep(0.2)
        monkeypatch.setattr(outbox._store, "write", write)
        async with within(20):
            assert await verifying == {"succeeded": 1}


# In doubt.


async def doubted(outbox: Outbox, fault: str, *posts: Activity, **options: Any) -> Sandbox:
    """Post so that each is in doubt, and give the sandbox, started."""
    sandbox = Sandbox(limit=None, pace=1000, faults=Faults(script=[fault] * len(posts)), **options)
    sandbox.__enter__()
    await outbox.put_many(posts)
    async with poster_to(sandbox) as poster:
        await outbox.drain(poster)
    assert (await outbox.counts())["uncertain"] == len(posts)
    await asyncio.sleep(0.05)  # the vendor's queue
    return sandbox


async def reconciled(outbox: Outbox, sandbox: Sandbox, settle: timedelta) -> Counter[EntryState]:
    async with poster_to(sandbox) as poster:
        return await outbox.reconcile(poster, settle=settle)


async def test_one_that_arrived_is_accepted_with_its_activitys_id(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-after", noted(1), noted(2))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 2}
    found = [entry async for entry in outbox.entries()]
    assert len({entry.activity_id for entry in found}) == 2
    async with poster_to(sandbox) as poster, within(20):
        assert await outbox.verify(poster) == {"succeeded": 2}
        has = {one.activity_id: one for one in await poster.lead_activities(LEAD, 201)}
    for entry in found:
        assert entry.payload["ActivityNote"] in has[entry.activity_id or ""].texts
    sandbox.__exit__(None, None, None)


async def test_one_that_did_not_arrive_is_pending_again_when_it_can_come_no_more(
    outbox: Outbox,
) -> None:
    sandbox = await doubted(outbox, "cut-before", noted(1))
    assert await reconciled(outbox, sandbox, timedelta(hours=1)) == {"uncertain": 1}
    assert await told(outbox) == [("uncertain", "the lead does not have it yet; it may still come")]
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}
    async with poster_to(sandbox) as poster:
        assert await outbox.drain(poster) == {"accepted": 1}
    assert sandbox.report().duplicates == 0
    sandbox.__exit__(None, None, None)


async def test_the_same_activity_twice_is_matched_once_each(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-after", noted(1), noted(1))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 2}
    found = [entry.activity_id async for entry in outbox.entries()]
    assert len(set(found)) == 2
    sandbox.__exit__(None, None, None)


async def test_what_may_be_anothers_stays_in_doubt(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-before", noted(1))
    await outbox.put(noted(1))
    async with poster_to(sandbox) as poster:
        await outbox.drain(poster)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "whose activity is not known" in ((await told(outbox))[0][1] or "")
    async with poster_to(sandbox) as poster, within(20):
        await outbox.verify(poster)
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}
    sandbox.__exit__(None, None, None)


async def test_what_nothing_tells_from_others_stays_in_doubt(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-after", Activity(LEAD, 201))
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "neither note nor date-time" in ((await told(outbox))[0][1] or "")
    sandbox.__exit__(None, None, None)


async def test_what_names_no_lead_stays_in_doubt(outbox: Outbox) -> None:
    by_email = Activity(None, 201, "note", extra={"EmailAddress": "a@example.com"})
    sandbox = await doubted(outbox, "cut-after", by_email)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "names no lead" in ((await told(outbox))[0][1] or "")
    sandbox.__exit__(None, None, None)


async def test_a_lead_that_cannot_be_read_leaves_it_in_doubt(outbox: Outbox) -> None:
    unknown = {"Status": "Error", "ExceptionType": "MXInvalidLeadException"}
    script = answers(httpx.ReadTimeout("slow"), httpx.Response(500, json=unknown))
    poster = AsyncActivityPoster(account(), client=Vendor(script).client(), bucket=OpenBucket())
    await outbox.put(noted(1))
    await outbox.drain(poster)
    assert await outbox.reconcile(poster, settle=NOW) == {"uncertain": 1}
    assert "cannot be read" in ((await told(outbox))[0][1] or "")


async def test_one_that_was_put_back_meanwhile_is_left_alone(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await doubted(outbox, "cut-before", noted(1))

    async def meanwhile(*_: object) -> list[LeadActivity]:
        await outbox.retry("uncertain")
        return []

    async with poster_to(sandbox) as poster:
        monkeypatch.setattr(poster, "lead_activities", meanwhile)
        assert await outbox.reconcile(poster, settle=NOW) == {}
    assert [state for state, _ in await told(outbox)] == ["pending"]
    sandbox.__exit__(None, None, None)


async def test_keys_that_are_refused_end_the_reconciling(outbox: Outbox) -> None:
    script = answers(httpx.ReadTimeout("slow"), httpx.Response(401))
    poster = AsyncActivityPoster(account(), client=Vendor(script).client(), bucket=OpenBucket())
    await outbox.put(noted(1))
    await outbox.drain(poster)
    with pytest.raises(Unauthorized):
        await outbox.reconcile(poster, settle=NOW)


@pytest.mark.parametrize(
    ("event", "created", "texts", "is_one"),
    [
        (201, NOW, {"note 1", "2026-11-01 10:30:00", "more"}, True),
        (None, None, {"note 1", "2026-11-01 10:30:00"}, True),
        (202, NOW, {"note 1", "2026-11-01 10:30:00"}, False),
        (201, -timedelta(minutes=3), {"note 1", "2026-11-01 10:30:00"}, False),
        (201, -timedelta(minutes=1), {"note 1", "2026-11-01 10:30:00"}, True),
        (201, NOW, {"note 1"}, False),
        (201, NOW, {"note 2", "2026-11-01 10:30:00"}, False),
    ],
)
def test_which_activities_may_be_it(
    event: int | None, created: timedelta | None, texts: set[str], *, is_one: bool
) -> None:
    made = None if created is None else WHEN + created
    has = [LeadActivity("a1", event, made, frozenset(texts), {})]
    assert candidates(noted(1).to_payload(), WHEN, has) == (["a1"] if is_one else [])
    assert timedelta(hours=12) == reconcile.SETTLE


def test_line_ends_and_blanks_make_no_difference() -> None:
    posted = Activity(LEAD, 201, "one\r\ntwo  three ").to_payload()
    has = [LeadActivity("a1", 201, WHEN, frozenset({"one\ntwo three"}), {})]
    assert candidates(posted, WHEN, has) == ["a1"]


async def posted(outbox: Outbox, sandbox: Sandbox, *posts: Activity) -> None:
    await outbox.put_many(posts)
    async with poster_to(sandbox) as poster:
        assert (await outbox.drain(poster))["accepted"] == len(posts)
    await asyncio.sleep(0.05)  # the vendor's queue


async def changed(outbox: Outbox, **values: Any) -> None:
    """Set what the vendor, or a clock, would have made of all entries."""
    update = sa.update(table).values(values)
    await outbox._store.write(lambda connection: connection.execute(update))


async def test_one_of_other_fields_is_anothers_too(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-before", noted(1, fields={"mx_Custom_1": "Monday"}))
    await posted(outbox, sandbox, noted(1, fields={"mx_Custom_1": "Tuesday"}))
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    async with poster_to(sandbox) as poster, within(20):
        assert await outbox.verify(poster) == {"succeeded": 1}
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}
    sandbox.__exit__(None, None, None)


async def test_one_that_succeeded_without_an_id_may_be_it(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-before", noted(1))
    await posted(outbox, sandbox, noted(1))
    async with poster_to(sandbox) as poster, within(20):
        assert await outbox.verify(poster) == {"succeeded": 1}
    await changed(outbox, activity_id=None)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "the same was posted for another entry" in ((await told(outbox))[0][1] or "")
    sandbox.__exit__(None, None, None)


async def test_where_there_are_enough_for_all_it_is_among_them(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-after", noted(1))
    await posted(outbox, sandbox, noted(1))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 1}
    async with poster_to(sandbox) as poster, within(20):
        assert await outbox.verify(poster) == {"succeeded": 2}
    sandbox.__exit__(None, None, None)


async def test_one_in_other_words_keeps_it_from_being_posted_again(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-before", noted(1))
    async with poster_to(sandbox) as poster:
        await poster.post(noted(2))  # by whoever else
    await asyncio.sleep(0.05)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "one may be it: look there" in ((await told(outbox))[0][1] or "")
    sandbox.__exit__(None, None, None)


async def test_an_activity_is_one_entrys_only(outbox: Outbox, sandbox: Sandbox) -> None:
    await posted(outbox, sandbox, noted(1), noted(2))
    for number in (1, 2):
        settle = partial(
            settling.settle,
            of=settling.Check(number, 1, None, "{}"),
            before="accepted",
            state="succeeded",
            note="",
            activity_id="a1",
        )
        assert await outbox._store.write(settle)
    found = [(entry.state, entry.activity_id) async for entry in outbox.entries()]
    assert found == [("succeeded", "a1"), ("succeeded", None)]


async def test_the_note_is_taken_out_of_what_the_status_says(outbox: Outbox) -> None:
    status = {"Status": "ERROR", "StatusReason": "note 'private words' is too long"}
    script = answers(
        httpx.Response(200, json={"RequestID": "r1"}),
        httpx.Response(200, json={"TaskStatus": status}),
    )
    poster = AsyncActivityPoster(account(), client=Vendor(script).client(), bucket=OpenBucket())
    await outbox.put(activity(1, activity_note="private words"))
    await outbox.drain(poster)
    async with within(20):
        assert await outbox.verify(poster) == {"failed": 1}
    assert await told(outbox) == [("failed", "note '***' is too long")]


async def test_a_clock_that_went_back_holds_up_no_asking(outbox: Outbox, sandbox: Sandbox) -> None:
    await posted(outbox, sandbox, noted(1))
    await changed(outbox, due_at=time.time() + 400 * 24 * 3600.0)
    async with poster_to(sandbox) as poster, within(20):
        assert await outbox.verify(poster) == {"succeeded": 1}


async def test_one_that_is_posted_again_is_asked_for_anew(outbox: Outbox) -> None:
    with Sandbox(limit=None, pace=1000, ends={207: "ERROR"}) as sandbox:
        await posted(outbox, sandbox, Activity(LEAD, 207))
        async with poster_to(sandbox) as poster, within(20):
            assert await outbox.verify(poster) == {"failed": 1}
    await changed(outbox, checks=7)
    assert await outbox.retry("failed") == 1
    checks = sa.select(table.c.checks, table.c.request_id)
    found = await outbox._store.read(lambda connection: connection.execute(checks))
    assert found.one() == (0, None)


@pytest.mark.parametrize(
    ("known", "doubtful"),
    [
        (Activity(LEAD, 201, "Called back", WHEN), Activity(LEAD, 201, "Called back")),
        (
            Activity(LEAD, 201, "Other note", fields={"mx_Custom_1": "yes"}),
            Activity(LEAD, 201, "yes"),
        ),
    ],
)
async def test_whatever_would_be_taken_for_it_is_reckoned_with(
    outbox: Outbox, known: Activity, doubtful: Activity
) -> None:
    sandbox = await doubted(outbox, "cut-before", doubtful)
    await posted(outbox, sandbox, known)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "whose activity is not known" in ((await told(outbox))[0][1] or "")
    sandbox.__exit__(None, None, None)


async def test_one_of_long_ago_is_not_reckoned_with(outbox: Outbox) -> None:
    sandbox = await doubted(outbox, "cut-after", noted(1))
    await posted(outbox, sandbox, noted(1, fields={"mx_Custom_1": "long ago"}))
    long_ago = sa.update(table).where(table.c.id == 2).values(sent_at=time.time() - 30 * 86400)
    await outbox._store.write(lambda connection: connection.execute(long_ago))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 1}
    sandbox.__exit__(None, None, None)


def test_a_note_of_blanks_says_nothing() -> None:
    blank = Activity(LEAD, 201, " \r\n ", WHEN).to_payload()
    has = [LeadActivity("a1", 201, WHEN, frozenset({"", "anything"}), {})]
    assert candidates(blank, WHEN, has) == []


async def test_a_late_answer_says_nothing_of_a_later_call(outbox: Outbox, sandbox: Sandbox) -> None:
    await posted(outbox, sandbox, noted(1))
    await changed(outbox, calls=2)
    settle = partial(settling.settle, before="accepted", state="failed", note="", activity_id=None)
    for calls, is_it in ((1, False), (2, True)):
        of = settling.Check(1, calls, None, "{}")
        assert await outbox._store.write(partial(settle, of=of)) == is_it
