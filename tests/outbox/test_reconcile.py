"""Reconciling uncertain entries, against a real sandbox."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import (
    ACME,
    OWN_CALL,
    WHEN,
    changed,
    executed,
    noted,
    posted,
    poster,
    poster_to,
    states,
    table,
    told,
    until,
)
from support import LEAD, Vendor, account, answers, within

from leadpost import (
    Activity,
    AsyncActivityPoster,
    LeadActivity,
    OpenBucket,
    ServerError,
    Unauthorized,
)
from leadpost.outbox import EntryState, Outbox, _reconciler
from leadpost.outbox._matching import candidates, is_rival
from leadpost.outbox.database import Store, _settling
from leadpost.outbox.database._settling import UncertainEntry, Verdict
from leadpost.outbox.database._sql import Transaction
from leadpost.sandbox import Faults, Sandbox, queue
from leadpost.sandbox.answers import RejectedError, unknown_activity
from leadpost.sandbox.queue import Queue

NOW = timedelta(0)
OTHER_LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"
pytestmark = pytest.mark.usefixtures("quick_checks")


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


MakeUncertain = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
def make_uncertain(outbox: Outbox) -> Iterator[MakeUncertain]:
    """Post so that each entry is uncertain, and return the running sandbox."""
    with ExitStack() as started:

        async def post(fault: str, *posts: Activity) -> Sandbox:
            faults = Faults(script=[fault] * len(posts))
            sandbox = started.enter_context(Sandbox(limit=None, pace=1000, faults=faults))
            await outbox.put_many(posts)
            async with poster_to(sandbox) as posting:
                await outbox.drain(posting)
            assert (await outbox.counts())["uncertain"] == len(posts)
            await asyncio.sleep(0.05)  # the vendor's queue
            return sandbox

        yield post


async def reconciled(outbox: Outbox, sandbox: Sandbox, settle: timedelta) -> Counter[EntryState]:
    async with poster_to(sandbox) as posting:
        return await outbox.reconcile(posting, settle=settle)


async def test_an_entry_that_arrived_is_accepted_with_the_id_of_its_activity(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1), noted(2))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 2}
    found = [entry async for entry in outbox.entries()]
    assert len({entry.activity_id for entry in found}) == 2
    async with poster_to(sandbox) as posting, within(20):
        assert await outbox.verify(posting) == {"succeeded": 2}
        has = {one.activity_id: one for one in await posting.lead_activities(LEAD, 201)}
    for entry in found:
        assert entry.activity["ActivityNote"] in has[entry.activity_id or ""].texts


async def test_an_entry_that_did_not_arrive_is_pending_again_when_it_can_no_longer_arrive(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    assert await reconciled(outbox, sandbox, timedelta(hours=1)) == {"uncertain": 1}
    assert await told(outbox) == [
        ("uncertain", "the lead does not have it yet; it may still arrive")
    ]
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}
    async with poster_to(sandbox) as posting:
        assert await outbox.drain(posting) == {"accepted": 1}
    assert sandbox.report().duplicates == 0


async def test_the_same_activity_twice_is_matched_once_each(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1), noted(1))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 2}
    found = [entry.activity_id async for entry in outbox.entries()]
    assert len(set(found)) == 2


async def test_an_activity_that_may_be_of_another_entry_proves_nothing(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    await outbox.put(noted(1))
    async with poster_to(sandbox) as posting:
        await outbox.drain(posting)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "may be that of another entry" in ((await told(outbox))[0][1] or "")
    async with poster_to(sandbox) as posting, within(20):
        await outbox.verify(posting)
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}


async def test_without_note_and_date_time_a_similar_activity_proves_nothing(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", Activity(LEAD, 201))
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "no note or date-time to compare" in ((await told(outbox))[0][1] or "")


async def test_without_note_and_date_time_it_is_pending_again_if_nothing_is_similar(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", Activity(LEAD, 201))
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}


async def test_an_entry_without_a_lead_stays_uncertain(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    by_email = Activity(None, 201, "note", extra={"EmailAddress": "a@example.com"})
    sandbox = await make_uncertain("cut-after", by_email)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "names no lead" in ((await told(outbox))[0][1] or "")


async def test_an_entry_whose_lead_cannot_be_read_stays_uncertain(outbox: Outbox) -> None:
    unknown = {"Status": "Error", "ExceptionType": "MXInvalidLeadException"}
    script = answers(httpx.ReadTimeout("slow"), httpx.Response(500, json=unknown))
    posting = poster(Vendor(script))
    await outbox.put(noted(1))
    await outbox.drain(posting)
    assert await outbox.reconcile(posting, settle=NOW) == {"uncertain": 1}
    assert "cannot be read" in ((await told(outbox))[0][1] or "")


async def test_an_entry_that_is_retried_meanwhile_is_left_alone(
    outbox: Outbox, make_uncertain: MakeUncertain, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))

    async def meanwhile(*_: object) -> list[LeadActivity]:
        await outbox.retry("uncertain")
        return []

    async with poster_to(sandbox) as posting:
        monkeypatch.setattr(posting, "lead_activities", meanwhile)
        assert await outbox.reconcile(posting, settle=NOW) == {}
    assert [state for state, _ in await told(outbox)] == ["pending"]


async def test_rejected_keys_end_reconciling(outbox: Outbox) -> None:
    script = answers(httpx.ReadTimeout("slow"), httpx.Response(401))
    posting = poster(Vendor(script))
    await outbox.put(noted(1))
    await outbox.drain(posting)
    with pytest.raises(Unauthorized):
        await outbox.reconcile(posting, settle=NOW)


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
def test_which_activities_may_be_the_posted_one(
    event: int | None, created: timedelta | None, texts: set[str], *, is_one: bool
) -> None:
    made = None if created is None else WHEN + created
    has = [LeadActivity("a1", LEAD, event, None, made, frozenset(texts), {})]
    assert candidates(noted(1).to_payload(), WHEN, has) == (has if is_one else [])
    assert timedelta(hours=12) == _reconciler.SETTLE


def test_line_ends_and_blanks_make_no_difference() -> None:
    posted = Activity(LEAD, 201, "one\r\ntwo  three ").to_payload()
    has = [LeadActivity("a1", LEAD, 201, None, WHEN, frozenset({"one\ntwo three"}), {})]
    assert candidates(posted, WHEN, has) == has


async def test_an_activity_with_other_fields_may_be_of_another_entry(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1, fields={"mx_Custom_1": "Monday"}))
    await posted(outbox, sandbox, noted(1, fields={"mx_Custom_1": "Tuesday"}))
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    async with poster_to(sandbox) as posting, within(20):
        assert await outbox.verify(posting) == {"succeeded": 1}
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}


async def test_an_activity_may_be_of_an_entry_that_succeeded_without_its_id(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    await posted(outbox, sandbox, noted(1))
    async with poster_to(sandbox) as posting, within(20):
        assert await outbox.verify(posting) == {"succeeded": 1}
    await changed(outbox, activity_id=None)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "may be that of another entry" in ((await told(outbox))[0][1] or "")


async def test_as_many_activities_as_entries_prove_that_all_arrived(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1))
    await posted(outbox, sandbox, noted(1))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 1}
    async with poster_to(sandbox) as posting, within(20):
        assert await outbox.verify(posting) == {"succeeded": 2}


async def test_an_unknown_activity_of_its_type_and_time_keeps_it_uncertain(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    async with poster_to(sandbox) as posting:
        await posting.post(noted(2))  # by whoever else
    await asyncio.sleep(0.05)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "which may be this one: look at the lead" in ((await told(outbox))[0][1] or "")


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
async def test_any_entry_that_matches_the_same_activity_counts(
    outbox: Outbox, make_uncertain: MakeUncertain, known: Activity, doubtful: Activity
) -> None:
    sandbox = await make_uncertain("cut-before", doubtful)
    await posted(outbox, sandbox, known)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "may be that of another entry" in ((await told(outbox))[0][1] or "")


async def test_an_entry_of_long_ago_does_not_count(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1))
    await posted(outbox, sandbox, noted(1, fields={"mx_Custom_1": "long ago"}))
    long_ago = sa.update(table).where(table.c.id == 2).values(sent_at=time.time() - 30 * 86400)
    await outbox._database.write(lambda connection: connection.execute(long_ago))
    assert await reconciled(outbox, sandbox, NOW) == {"accepted": 1}


def test_a_note_of_blanks_proves_nothing() -> None:
    blank = Activity(LEAD, 201, " \r\n ", WHEN).to_payload()
    has = [LeadActivity("a1", LEAD, 201, None, WHEN, frozenset({"", "anything"}), {})]
    assert candidates(blank, WHEN, has) == []


async def test_a_lead_is_read_once_for_all_its_entries(outbox: Outbox) -> None:
    read: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if "leadId" not in request.url.params:
            raise httpx.ReadTimeout("slow")
        read.append(request.url.params["leadId"])
        return httpx.Response(200, json={"RecordCount": 0, "ProspectActivities": []})

    other = LEAD.replace("0072", "0073")
    posts = [noted(1), noted(2), Activity(LEAD.upper(), 201, "note 3"), Activity(other, 201, "4")]
    await outbox.put_many(posts)
    progress: list[tuple[int, int]] = []
    posting = poster(Vendor(answer))
    await changed(outbox, state="uncertain")
    found = await outbox.reconcile(
        posting, settle=NOW, on_progress=lambda done, of: progress.append((done, of))
    )
    assert found == {"pending": 4}
    assert read == [LEAD, other]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


async def test_an_entry_without_an_activity_event_stays_uncertain(outbox: Outbox) -> None:
    insert = (
        "INSERT INTO leadpost_entries (account, state, activity)"
        f""" VALUES ('{ACME}', 'uncertain', '{{"RelatedProspectId": "{LEAD}"}}')"""
    )
    await outbox._database.write(lambda connection: connection.exec_driver_sql(insert))
    assert await outbox.reconcile(poster(Vendor())) == {"uncertain": 1}
    assert await told(outbox) == [
        ("uncertain", "it has no ActivityEvent, so it cannot be looked for")
    ]


async def test_an_entry_that_is_settled_meanwhile_is_left_alone(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1), noted(2))
    second = [entry.id async for entry in outbox.entries()][1]
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))

    read = Store.read

    async def then_settle(store: Store, work: Any, *args: Any, **details: Any) -> Any:
        found = await read(store, work, *args, **details)
        if work is _settling.uncertain_entries:
            assert len(found) == 2
            await outbox.arrived([second])
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Store, "read", then_settle)
        async with poster_to(sandbox) as posting:
            found = await outbox.reconcile(posting, settle=NOW, on_progress=on_progress)
    assert found == {"accepted": 1}
    assert await states(outbox) == ["accepted", "succeeded"]
    assert seen == [(1, 2), (2, 2)]


async def test_reconciling_that_fails_is_logged_and_the_run_continues(
    outbox: Outbox,
    make_uncertain: MakeUncertain,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse(*_: object) -> None:
        raise Unauthorized("not you", status=401)

    sandbox = await make_uncertain("cut-after", noted(1))
    monkeypatch.setattr(AsyncActivityPoster, "lead_activities", refuse)
    async with poster_to(sandbox) as posting, within(10):
        running = asyncio.create_task(
            outbox.run(posting, verify=False, reconcile_every=timedelta(seconds=0.05))
        )
        while caplog.text.count("reconciling failed: Unauthorized, HTTP 401") < 2:
            await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])


async def test_the_log_says_that_reconciling_needs_a_sync_host(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    await outbox.put(noted(1))
    await changed(outbox, state="uncertain")
    elsewhere = account(name=ACME, host="https://proxy.example.com")
    posting = AsyncActivityPoster(elsewhere, client=Vendor().client(), bucket=OpenBucket())
    every = timedelta(seconds=0.05)
    running = asyncio.create_task(outbox.run(posting, verify=False, reconcile_every=every))
    async with within(10):
        while "reconciling failed: sync_host (LEADPOST_SYNC_HOST) is missing" not in caplog.text:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def test_reconciling_that_failed_is_tried_again_before_it_is_due(
    outbox: Outbox, make_uncertain: MakeUncertain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reconciler, "_LOOK_EVERY", 0.02)
    monkeypatch.setattr(_reconciler, "_RETRY", 0.02)
    read, failures = AsyncActivityPoster.lead_activities, [ServerError("no", status=503)] * 3

    async def fail_at_first(*args: Any) -> list[LeadActivity]:
        if failures:
            raise failures.pop()
        return await read(*args)

    sandbox = await make_uncertain("cut-after", noted(1))
    monkeypatch.setattr(AsyncActivityPoster, "lead_activities", fail_at_first)
    monkeypatch.setattr(_reconciler, "FAILURES_IN_A_ROW", 1)
    async with poster_to(sandbox) as posting:
        every = timedelta(hours=1)
        running = asyncio.create_task(outbox.run(posting, verify=False, reconcile_every=every))
        await until(outbox, accepted=1)
        running.cancel()
        await asyncio.wait([running])
    assert not failures


async def test_one_of_several_workers_reconciles_and_reads_anew_each_time(
    outbox: Outbox, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An activity that arrived after the last look must not be posted again."""
    monkeypatch.setattr(_reconciler, "_LOOK_EVERY", 0.02)
    begin, looks, read = _settling.begin_reconciling, list[bool](), list[str]()

    async def look(transaction: Transaction, every: float) -> bool:
        looks.append(await begin(transaction, every))
        return looks[-1]

    async def answer(request: httpx.Request) -> httpx.Response:
        read.append(request.url.params["leadId"])
        return httpx.Response(200, json={"RecordCount": 0, "ProspectActivities": []})

    monkeypatch.setattr(_settling, "begin_reconciling", look)
    await outbox.put(noted(1))
    await changed(outbox, state="uncertain", sent_at=time.time())
    async with Outbox(store_url, ACME) as other, within(20):
        both = [
            asyncio.create_task(one.run(poster(Vendor(answer)), verify=False))
            for one in (outbox, other)
        ]
        while len(looks) < 8:
            await asyncio.sleep(0.01)
        assert (looks.count(True), read) == (1, [LEAD])
        for expected in (2, 3, 4):
            hour_later = "UPDATE leadpost_accounts SET reconciled_at = reconciled_at - 3601"
            await executed(outbox, sa.text(hour_later))
            while len(read) < expected:
                await asyncio.sleep(0.01)
        for task in both:
            task.cancel()
        await asyncio.wait(both)
    assert looks.count(True) == len(read) == 4


@pytest.mark.parametrize("refuses", [False, True])
async def test_many_leads_are_read_by_a_window_of_time_where_the_account_allows_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, *, refuses: bool
) -> None:
    """
    500 uncertain entries over 400 leads: 480 have arrived, 20 have not.

    A window takes one call, and each lead to which an entry is to be sent again another. Where the
    account refuses windows, each of the 400 leads takes one.
    """
    posts = [
        Activity(str(UUID(int=number % 400 + 1)), 201, f"call {number}") for number in range(500)
    ]
    if refuses:

        def refuse(*_: object) -> None:
            raise RejectedError(unknown_activity())

        monkeypatch.setattr(Queue, "activities_between", refuse)
    async with Outbox(sqlite_url, ACME) as outbox:
        await outbox.put_many(posts)
        day_ago = time.time() - 13 * 3600
        await changed(outbox, state="uncertain", sent_at=day_ago, call_id=OWN_CALL)
        tally, calls = await arrived_and_reconciled(outbox, posts[:480])
        found = [entry async for entry in outbox.entries("accepted")]
    assert tally == {"accepted": 480, "pending": 20}
    assert len({entry.activity_id for entry in found}) == 480
    assert sorted(entry.id for entry in found) == list(range(1, 481))
    assert calls == (1 + 400 if refuses else 1 + 20)


async def arrived_and_reconciled(
    outbox: Outbox, arrived: list[Activity]
) -> tuple[Counter[EntryState], int]:
    """Post without the outbox, reconcile, and return the states and the number of calls."""
    with Sandbox(limit=None, pace=1000) as sandbox:
        async with poster_to(sandbox, bucket=OpenBucket()) as posting:
            await posting.post_many(arrived)
            async with within(20):
                while (await posting.metrics()).pending_messages:  # LeadSquared's queue
                    await asyncio.sleep(0.05)
            before = sandbox.report().arrivals
            tally = await outbox.reconcile(posting)
        return tally, sandbox.report().arrivals - before


async def test_a_backdated_activity_that_arrived_is_not_posted_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LeadSquared's own description of a lead's activities has no ModifiedOn."""
    original = queue._lead_activity

    def without_modified_on(*args: Any) -> dict[str, Any]:
        return {k: v for k, v in original(*args).items() if k != "ModifiedOn"}

    monkeypatch.setattr(queue, "_lead_activity", without_modified_on)
    last_year = Activity(LEAD, 201, "Called", datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC))
    with Sandbox(limit=None, pace=1000, faults=Faults(script=["cut-after"])) as sandbox:
        await outbox.put(last_year)
        async with poster_to(sandbox) as posting:
            assert await outbox.drain(posting) == {"uncertain": 1}
            await asyncio.sleep(0.05)  # LeadSquared's queue
            await outbox.reconcile(posting, settle=NOW)
            await outbox.drain(posting)
        assert sandbox.report().duplicates == 0


async def test_a_lead_that_always_fails_does_not_keep_others_uncertain(
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


async def test_an_activity_found_for_two_entries_at_once_is_matched_once(outbox: Outbox) -> None:
    """Two processes that reconcile have both found it free, before either has recorded that."""
    first, second = await outbox.put(noted(1)), await outbox.put(noted(1))
    await changed(outbox, state="uncertain")
    found = Verdict("accepted", "the lead has it", "a1")
    for entry in (first, second):
        uncertain = UncertainEntry(entry, None, LEAD, noted(1).to_payload(), WHEN, 1e6)
        await outbox._store.write(_settling.settle, uncertain, "uncertain", found)
    assert await states(outbox) == ["accepted", "uncertain"]


async def test_an_outage_ends_reconciling(outbox: Outbox) -> None:
    """Or else each of thousands of leads would be asked five times."""
    asked = set[str]()

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.add(request.url.params["leadId"])
        return httpx.Response(500)

    leads = [f"3f0c1d52-7a54-4c1e-9b5a-{number:012x}" for number in range(5)]
    # Of many types, so that windows of time take no fewer calls.
    await outbox.put_many(Activity(lead, 301 + n, "n", WHEN) for n, lead in enumerate(leads))
    await changed(outbox, state="uncertain")
    reconciler = _reconciler.Reconciler(outbox._store, poster(Vendor(answer)), NOW)
    for _ in range(2):  # a worker tries again after an hour
        with pytest.raises(ServerError):
            await reconciler.reconcile(lambda _, __: None)
        assert asked == set(leads[:3])
    assert await states(outbox) == ["uncertain"] * 5


def test_what_plain_sql_has_inserted_is_compared_as_far_as_it_goes() -> None:
    payload = {"RelatedProspectId": LEAD, "ActivityEvent": 201, "Fields": [7], "ActivityNote": "n"}
    raw = {"Data": [7, {"Key": "mx_Custom_1", "Value": "a"}]}
    same = LeadActivity("a1", LEAD, 201, None, None, frozenset({"n"}), raw)
    assert candidates(payload, WHEN, [same]) == [same]
    assert not is_rival("n", payload, [same])
