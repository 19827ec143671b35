"""Reconciling uncertain entries, against a real sandbox."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import (
    ACME,
    WHEN,
    changed,
    executed,
    messages,
    noted,
    posted,
    poster,
    poster_to,
    states,
    table,
)
from sqlalchemy.util import await_only
from support import LEAD, LeadSquared, answers, within

from leadpost import (
    Activity,
    Lead,
    LeadActivity,
    ServerError,
    Unauthorized,
)
from leadpost.outbox import EntryState, Outbox, _reconciler
from leadpost.outbox.database import Store, _settling
from leadpost.outbox.database._settling import UncertainEntry, Verdict
from leadpost.outbox.database._sql import Transaction
from leadpost.sandbox import Faults, Sandbox, queue

NOW = timedelta(0)

OTHER_LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"

pytestmark = pytest.mark.usefixtures("quick_queries")


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
            await asyncio.sleep(0.05)  # the leadsquared's queue
            return sandbox

        yield post


async def reconciled(outbox: Outbox, sandbox: Sandbox, settle: timedelta) -> Counter[EntryState]:
    async with poster_to(sandbox) as posting:
        return await outbox.reconcile(posting, settle=settle)


async def test_an_entry_that_arrived_has_succeeded_with_the_id_of_its_activity(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1), noted(2))
    assert await reconciled(outbox, sandbox, NOW) == {"succeeded": 2}
    found = [entry async for entry in outbox.entries()]
    assert [entry.state for entry in found] == ["succeeded", "succeeded"]
    assert len({entry.activity_id for entry in found}) == 2
    async with poster_to(sandbox) as posting:
        has = {one.activity_id: one for one in await posting.lead_activities(LEAD, 201)}
    for entry in found:
        assert entry.activity["ActivityNote"] in has[entry.activity_id or ""].texts


async def test_an_entry_that_did_not_arrive_is_pending_again_when_it_can_no_longer_arrive(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    assert await reconciled(outbox, sandbox, timedelta(hours=1)) == {"uncertain": 1}
    assert await messages(outbox) == [
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
    assert await reconciled(outbox, sandbox, NOW) == {"succeeded": 2}
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
    assert "may be that of another entry" in ((await messages(outbox))[0][1] or "")
    async with poster_to(sandbox) as posting, within(20):
        await outbox.verify(posting)
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}


@pytest.mark.parametrize(
    ("fault", "state"), [("ok", "uncertain"), ("cut-after", "pending")], ids=["posted", "found"]
)
async def test_an_activity_of_another_user_of_the_same_leadsquared_proves_nothing(
    outbox: Outbox, store_url: str, make_uncertain: MakeUncertain, fault: str, state: str
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    sandbox.fail(fault)
    async with (
        Outbox(store_url, "colleague") as of_colleague,
        poster_to(sandbox, "colleague") as posting,
    ):
        await of_colleague.put(noted(1))
        await of_colleague.drain(posting)
        await asyncio.sleep(0.05)  # LeadSquared's queue
        if fault == "cut-after":
            assert await of_colleague.reconcile(posting) == {"succeeded": 1}
    assert await reconciled(outbox, sandbox, NOW) == {state: 1}


@pytest.mark.parametrize("name", ["EmailAddress", "ProspectID"])
@pytest.mark.parametrize("fault", ["ok", "cut-after"])
async def test_an_entry_that_does_not_name_its_leads_id_may_have_posted_on_any_lead(
    outbox: Outbox, make_uncertain: MakeUncertain, name: str, fault: str
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    value = "ada@example.com" if name == "EmailAddress" else LEAD
    sandbox.add_lead(ProspectID=LEAD, EmailAddress="ada@example.com")
    sandbox.fail(fault)
    await outbox.put(Activity(Lead.find_or_create(name, value), 201, "note 1", WHEN))
    async with poster_to(sandbox) as posting:
        await outbox.drain(posting)
    await asyncio.sleep(0.05)  # the sandbox's queue
    assert len(sandbox.accepted) == 1
    await reconciled(outbox, sandbox, NOW)
    assert (await states(outbox))[0] == "uncertain"


async def test_an_entry_on_a_lead_that_is_found_by_its_id_is_looked_for(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    on_lead = Activity(Lead.find_or_create("ProspectID", LEAD), 201, "note 1", WHEN)
    sandbox = await make_uncertain("cut-after", on_lead)
    assert await reconciled(outbox, sandbox, NOW) == {"succeeded": 1}


async def test_without_note_and_date_time_a_similar_activity_proves_nothing(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", Activity(LEAD, 201))
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "no note or date-time to compare" in ((await messages(outbox))[0][1] or "")


async def test_without_note_and_date_time_it_is_pending_again_if_nothing_is_similar(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", Activity(LEAD, 201))
    assert await reconciled(outbox, sandbox, NOW) == {"pending": 1}


async def test_an_entry_whose_lead_cannot_be_read_stays_uncertain(outbox: Outbox) -> None:
    unknown = {"Status": "Error", "ExceptionType": "MXInvalidLeadException"}
    script = answers(httpx.ReadTimeout("slow"), httpx.Response(500, json=unknown))
    posting = poster(LeadSquared(script))
    await outbox.put(noted(1))
    await outbox.drain(posting)
    assert await outbox.reconcile(posting, settle=NOW) == {"uncertain": 1}
    assert "cannot be read" in ((await messages(outbox))[0][1] or "")


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
    assert [state for state, _ in await messages(outbox)] == ["pending"]


async def test_rejected_keys_end_reconciling(outbox: Outbox) -> None:
    script = answers(httpx.ReadTimeout("slow"), httpx.Response(401))
    posting = poster(LeadSquared(script))
    await outbox.put(noted(1))
    await outbox.drain(posting)
    with pytest.raises(Unauthorized):
        await outbox.reconcile(posting, settle=NOW)


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
    assert "may be that of another entry" in ((await messages(outbox))[0][1] or "")


async def test_as_many_activities_as_entries_prove_that_all_arrived(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1))
    await posted(outbox, sandbox, noted(1))
    assert await reconciled(outbox, sandbox, NOW) == {"succeeded": 1}
    assert await states(outbox) == ["succeeded", "accepted"]


async def test_an_unknown_activity_of_its_type_and_time_keeps_it_uncertain(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-before", noted(1))
    async with poster_to(sandbox) as posting:
        await posting.post(noted(2))  # by whoever else
    await asyncio.sleep(0.05)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert "which may be this one: look at the lead" in ((await messages(outbox))[0][1] or "")


@pytest.mark.parametrize(
    ("known", "doubtful", "reason"),
    [
        (  # it is shown with its date-time, as if it were older
            Activity(LEAD, 201, "Called back", WHEN),
            Activity(LEAD, 201, "Called back"),
            "which may be this one",
        ),
        (
            Activity(LEAD, 201, "Other note", fields={"mx_Custom_1": "yes"}),
            Activity(LEAD, 201, "yes"),
            "may be that of another entry",
        ),
    ],
)
async def test_any_entry_that_matches_the_same_activity_counts(
    outbox: Outbox,
    make_uncertain: MakeUncertain,
    known: Activity,
    doubtful: Activity,
    reason: str,
) -> None:
    sandbox = await make_uncertain("cut-before", doubtful)
    await posted(outbox, sandbox, known)
    assert await reconciled(outbox, sandbox, NOW) == {"uncertain": 1}
    assert reason in ((await messages(outbox))[0][1] or "")


async def test_an_entry_of_long_ago_does_not_count(
    outbox: Outbox, make_uncertain: MakeUncertain
) -> None:
    sandbox = await make_uncertain("cut-after", noted(1))
    await posted(outbox, sandbox, noted(1, fields={"mx_Custom_1": "long ago"}))
    long_ago = sa.update(table).where(table.c.id == 2).values(sent_at=time.time() - 30 * 86400)
    await outbox._database.write(lambda connection: connection.execute(long_ago))
    assert await reconciled(outbox, sandbox, NOW) == {"succeeded": 1}


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
    posting = poster(LeadSquared(answer))
    await changed(outbox, state="uncertain")
    found = await outbox.reconcile(
        posting, settle=NOW, on_progress=lambda done, of: progress.append((done, of))
    )
    assert found == {"pending": 4}
    assert sorted(read) == [LEAD, other]
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


async def test_an_entry_without_an_activity_event_stays_uncertain(outbox: Outbox) -> None:
    insert = (
        "INSERT INTO leadpost_entries (account, state, activity)"
        f""" VALUES ('{ACME}', 'uncertain', '{{"RelatedProspectId": "{LEAD}"}}')"""
    )
    await outbox._database.write(lambda connection: connection.exec_driver_sql(insert))
    assert await outbox.reconcile(poster(LeadSquared())) == {"uncertain": 1}
    assert await messages(outbox) == [
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
    assert found == {"succeeded": 1}
    assert await states(outbox) == ["succeeded", "succeeded"]
    assert seen == [(1, 2), (2, 2)]


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

    posting = poster(LeadSquared(answer))
    await outbox.put_many([noted(1), Activity(OTHER_LEAD, 201, "note 2", WHEN)])
    await changed(outbox, state="uncertain")
    tally = await outbox.reconcile(posting, settle=NOW)
    assert tally["pending"] == 1


async def test_leads_that_always_fail_do_not_keep_others_from_being_looked_at(
    outbox: Outbox,
) -> None:
    leads = [f"3f0c1d52-7a54-4c1e-9b5a-{number:012x}" for number in range(7)]

    async def answer(request: httpx.Request) -> httpx.Response:
        lead = request.url.params.get("leadId")
        if lead == leads[3]:
            return httpx.Response(400)  # an answer, so not in a row with the failures
        found: dict[str, Any] = {"RecordCount": 0, "ProspectActivities": []}
        return httpx.Response(500) if lead in leads[:3] else httpx.Response(200, json=found)

    posting = poster(LeadSquared(answer))
    await outbox.put_many(Activity(lead, 301 + n, "n", WHEN) for n, lead in enumerate(leads))
    await changed(outbox, state="uncertain")
    async with within(30):
        while (await outbox.counts())["uncertain"] > 4:  # by chance all may be looked at at once
            with suppress(ServerError):
                await outbox.reconcile(posting, settle=NOW)
    assert await states(outbox) == ["uncertain"] * 4 + ["pending"] * 3


async def test_an_activity_found_for_two_entries_at_once_is_matched_once(outbox: Outbox) -> None:
    """Two processes that reconcile have both found it free, before either has recorded that."""
    first, second = await outbox.put(noted(1)), await outbox.put(noted(1))
    await changed(outbox, state="uncertain")
    found = Verdict("succeeded", "the lead has it", "a1")
    for entry in (first, second):
        uncertain = UncertainEntry(entry, None, LEAD, noted(1).to_payload(), WHEN, 1e6)
        await outbox._store.write(_settling.settle, uncertain, "uncertain", found)
    assert await states(outbox) == ["succeeded", "uncertain"]


async def test_an_activity_found_by_two_transactions_at_once_is_matched_once(
    postgresql_url: str,
) -> None:
    found = Verdict("succeeded", "the lead has it", "a1")
    settled, may_commit = asyncio.Event(), asyncio.Event()

    def slowly(transaction: Transaction, *arguments: Any) -> bool:
        done = _settling.settle(transaction, *arguments)
        settled.set()
        await_only(may_commit.wait())
        return done

    async with (
        Outbox(postgresql_url, ACME) as outbox,
        Outbox(postgresql_url, "colleague") as of_colleague,
        within(10),
    ):
        of_both = [
            (one._store, UncertainEntry(await one.put(noted(1)), None, LEAD, {}, WHEN, 1e6))
            for one in (outbox, of_colleague)
        ]
        await changed(outbox, state="uncertain")
        works: list[Callable[..., bool]] = [slowly, _settling.settle]
        settling: list[asyncio.Task[bool]] = []
        for settle, (store, entry) in zip(works, of_both, strict=True):
            write = store.write(settle, entry, "uncertain", found)
            settling.append(asyncio.create_task(write))
            await settled.wait()
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        while not (await executed(outbox, waiting)).scalar():
            await asyncio.sleep(0.01)
        may_commit.set()
        assert await asyncio.gather(*settling) == [True, False]


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
    reconciler = _reconciler.Reconciler(outbox._store, poster(LeadSquared(answer)), NOW)
    for _ in range(2):  # a worker tries again after an hour
        asked.clear()
        with pytest.raises(ServerError):
            await reconciler.reconcile(lambda _, __: None)
        assert len(asked) == 3
    assert await states(outbox) == ["uncertain"] * 5
