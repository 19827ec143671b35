"""Verifying accepted entries, with a real sandbox."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import (
    ACME,
    changed,
    executed,
    messages,
    noted,
    posted,
    poster,
    poster_to,
    table,
    until_true,
    working,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only
from support import LEAD, SECRET_KEY, LeadSquared, accept, activity, answers, within

from leadpost import Activity, NotFound, OutboxUnavailable, RetryPolicy, TokenBucket, Unauthorized
from leadpost.outbox import Outbox, _verifier
from leadpost.outbox.database import _settling
from leadpost.outbox.database._settling import AcceptedEntry, Verdict
from leadpost.outbox.database._sql import Transaction
from leadpost.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("quick_queries")


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(limit=None, pace=1000, ends={207: "ERROR"}) as started:
        yield started


async def test_accepted_entries_are_verified_until_they_are_final(
    outbox: Outbox, sandbox: Sandbox
) -> None:
    await outbox.put_many([noted(1), Activity(LEAD, 207), noted(2)])
    async with poster_to(sandbox) as posting:
        assert await outbox.drain(posting) == {"accepted": 3}
        async with within(20):
            assert await outbox.verify(posting) == {"succeeded": 2, "failed": 1}
    found = [entry async for entry in outbox.entries()]
    assert [entry.state for entry in found] == ["succeeded", "failed", "succeeded"]
    assert found[0].activity_id
    assert found[1].message
    assert found[0].message is None
    assert [change.state for change in await outbox.history(found[0].id)][-1] == "succeeded"


async def test_an_entry_that_a_stranger_has_locked_is_verified_later(
    postgresql_url: str, sandbox: Sandbox
) -> None:
    async with Outbox(postgresql_url, ACME) as outbox, poster_to(sandbox) as posting, within(30):
        await posted(outbox, sandbox, noted(1))
        calls = sandbox.report().arrivals
        engine = create_async_engine(postgresql_url)
        async with engine.begin() as stranger:
            await stranger.execute(sa.text("UPDATE leadpost_entries SET priority = 1"))
            verifying = asyncio.create_task(outbox.verify(posting))
            await asyncio.sleep(0.3)
            assert (verifying.done(), sandbox.report().arrivals) == (False, calls)
        assert await verifying == {"succeeded": 1}
        await engine.dispose()


async def test_entries_are_verified_in_the_order_in_which_they_are_due(outbox: Outbox) -> None:
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if "RequestID" not in request.url.params:
            number = json.loads(request.content)["ActivityEvent"]
            return httpx.Response(200, json={"RequestID": f"r{number}"})
        asked.append(request.url.params["RequestID"])
        status = "FAILURE" if asked.count("r2") < 3 and asked[-1] == "r2" else "Success"
        return httpx.Response(200, json={"TaskStatus": {"Status": status}})

    posting = poster(LeadSquared(answer))
    for number in (1, 2, 3):
        await outbox.put(activity(number))
        await outbox.drain(posting)
    async with within(20):
        assert await outbox.verify(posting) == {"succeeded": 3}
    assert asked == ["r1", "r2", "r3", "r2", "r2"]


async def test_an_entry_whose_status_is_never_answered_blocks_no_other(outbox: Outbox) -> None:
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return await accept(request)
        asked.append(request.url.params["RequestID"])
        if asked[-1] == "r1" and "r2" not in asked:
            return httpx.Response(503)
        return httpx.Response(200, json={"TaskStatus": {"Status": "Success"}})

    posting = poster(LeadSquared(answer), retry=RetryPolicy(max_attempts=1))
    for number in (1, 2):
        await outbox.put(activity(number))
        await outbox.drain(posting)
    async with within(20):
        assert await outbox.verify(posting) == {"succeeded": 2}
    assert asked == ["r1", "r2", "r1"]


async def test_a_request_that_leadsquared_does_not_know_stays_accepted(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = {"Status": "Error", "ExceptionType": "MXInvalidInputException"}
    final = {"TaskStatus": {"Status": "Success"}}
    script = answers(
        httpx.Response(200, json={"RequestID": "r1"}),
        *[httpx.Response(400, json=unknown)] * 2,  # one for each path of the Status API
        httpx.Response(503),
        httpx.Response(200, json=final),
    )
    posting = poster(LeadSquared(script), retry=RetryPolicy(max_attempts=1))
    await outbox.put(activity(1))
    await outbox.drain(posting)
    async with within(20):
        assert await outbox.verify(posting) == {"succeeded": 1}
    assert "entry 1: its status cannot be read: BadRequest, HTTP 400" in caplog.text
    assert "MX" not in caplog.text


@pytest.mark.parametrize(
    ("state", "is_posting"), [("pending", True), ("sending", True), ("rejected", False)]
)
async def test_verifying_leaves_four_fifths_of_the_limit_to_posts(
    outbox: Outbox,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    *,
    is_posting: bool,
) -> None:
    await posted(outbox, sandbox, noted(1), noted(2))
    other = sa.update(table).where(table.c.id == await outbox.put(noted(3))).values(state=state)
    await executed(outbox, other)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float, *_: object) -> None:
        pauses.append(seconds)
        await sleep(0)

    # Long, so that on a slow machine the query itself takes little of it.
    monkeypatch.setattr(_verifier, "PERIOD", 500.0)
    async with poster_to(sandbox) as posting, within(20):
        monkeypatch.setattr(asyncio, "sleep", slept)
        assert await outbox.verify(posting) == {"succeeded": 2}
    if is_posting:  # a fifth of 25 calls in 500 s is one in 100 s, including the query itself
        assert 50 < max(pauses) < 100
    else:
        assert max(pauses) < 0.5


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (404, NotFound)])
async def test_wrong_keys_and_paths_end_verifying(
    outbox: Outbox, status: int, error: type[Exception]
) -> None:
    refusals = [httpx.Response(status)] * 2  # one for each path of the Status API
    script = answers(httpx.Response(200, json={"RequestID": "r1"}), *refusals)
    posting = poster(LeadSquared(script))
    await outbox.put(activity(1))
    await outbox.drain(posting)
    with pytest.raises(error):
        await outbox.verify(posting)
    assert (await outbox.counts())["accepted"] == 1


async def test_an_unreachable_database_ends_verifying(
    outbox: Outbox, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object, **__: object) -> None:
        raise OutboxUnavailable("the server is away")

    await posted(outbox, sandbox, noted(1))
    async with poster_to(sandbox) as posting:
        with monkeypatch.context() as away:
            away.setattr(outbox._database, "write", gone)
            with pytest.raises(OutboxUnavailable):
                await outbox.verify(posting)
        async with within(20):
            assert await outbox.verify(posting) == {"succeeded": 1}


async def test_a_run_verifies_again_once_the_database_is_back(
    outbox: Outbox, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, is_back = threading.Event(), threading.Event()
    claim_accepted = _settling.claim_accepted

    def gone(*args: Any) -> AcceptedEntry | None:
        tried.set()
        if is_back.is_set():
            return claim_accepted(*args)
        raise OutboxUnavailable("the server is away")

    await posted(outbox, sandbox, noted(1))
    async with poster_to(sandbox) as posting, within(20):
        monkeypatch.setattr(_settling, "claim_accepted", gone)
        async with working(outbox.run(posting)):
            await until_true(tried.is_set)
            is_back.set()
            while (await outbox.counts())["succeeded"] < 1:
                await asyncio.sleep(0.01)


async def test_an_activity_belongs_to_only_one_entry(outbox: Outbox, sandbox: Sandbox) -> None:
    await posted(outbox, sandbox, noted(1), noted(2))
    query = sa.select(table.c.call_id).order_by(table.c.id)
    call_ids = (await executed(outbox, query)).scalars().all()
    for number in (1, 2):
        settle = partial(
            _settling.settle,
            of=_settling.AcceptedEntry(number, call_ids[number - 1], "r1"),
            before="accepted",
            verdict=_settling.Verdict("succeeded", activity_id="a1"),
        )
        assert await outbox._store.write(settle)
    found = [(entry.state, entry.activity_id) async for entry in outbox.entries()]
    assert found == [("succeeded", "a1"), ("succeeded", None)]


async def test_a_late_answer_does_not_apply_to_a_later_call(
    outbox: Outbox, sandbox: Sandbox
) -> None:
    await posted(outbox, sandbox, noted(1))
    await changed(outbox, call_id="second")
    failed = _settling.Verdict("failed")
    settle = partial(_settling.settle, before="accepted", verdict=failed)
    for call_id, is_it in (("first", False), ("second", True)):
        of = _settling.AcceptedEntry(1, call_id, "r1")
        assert await outbox._store.write(partial(settle, of=of)) == is_it


async def test_the_reason_of_a_failure_is_stored_without_keys_and_not_logged(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "leadpost")
    status = {"Status": "ERROR", "StatusReason": f"note 'private words' of {SECRET_KEY}"}
    script = answers(
        httpx.Response(200, json={"RequestID": "r1"}),
        httpx.Response(200, json={"TaskStatus": status}),
    )
    posting = poster(LeadSquared(script))
    await outbox.put(activity(1, activity_note="private words"))
    await outbox.drain(posting)
    async with within(20):
        assert await outbox.verify(posting) == {"failed": 1}
    assert await messages(outbox) == [("failed", "note 'private words' of ***")]
    assert "private" not in caplog.text


async def test_a_query_without_a_free_token_is_made_later(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    final = httpx.Response(200, json={"TaskStatus": {"Status": "Success"}})
    script = answers(httpx.Response(200, json={"RequestID": "r1"}), final)
    bucket = TokenBucket(1, period=1.0)
    posting = poster(LeadSquared(script), bucket=bucket, retry=RetryPolicy(max_time=0.1))
    await outbox.put(activity(1))
    await outbox.drain(posting)
    async with within(20):
        assert await outbox.verify(posting) == {"succeeded": 1}
    assert "the Status API cannot be reached: NotSent" in caplog.text


async def test_an_entry_that_is_posted_again_is_verified_again(outbox: Outbox) -> None:
    with Sandbox(limit=None, pace=1000, ends={207: "ERROR"}) as sandbox:
        await posted(outbox, sandbox, Activity(LEAD, 207))
        async with poster_to(sandbox) as posting, within(20):
            assert await outbox.verify(posting) == {"failed": 1}
    await changed(outbox, queries=7)
    assert await outbox.retry("failed") == 1
    query = sa.select(table.c.queries, table.c.request_id)
    assert (await executed(outbox, query)).one() == (0, None)


async def test_two_that_record_the_same_activity_at_once_end_no_worker(
    postgresql_url: str,
) -> None:
    """A worker's `run` ends for an OutboxError that is not temporary."""
    async with Outbox(postgresql_url, ACME) as one, Outbox(postgresql_url, ACME) as other:
        first, second = await one.put(noted(1)), await one.put(noted(2))
        await changed(one, state="accepted")
        verdict = Verdict("succeeded", "", "a1")
        is_written, may_commit = asyncio.Event(), asyncio.Event()

        def slowly(transaction: Transaction) -> bool:
            entry = AcceptedEntry(first, None, "r1")
            done = _settling.settle(transaction, entry, "accepted", verdict)
            is_written.set()
            await_only(may_commit.wait())
            return done

        recording = asyncio.create_task(one._store.write(slowly))
        await is_written.wait()
        entry = AcceptedEntry(second, None, "r2")
        waiting = asyncio.create_task(
            other._store.write(_settling.settle, entry, "accepted", verdict)
        )
        await asyncio.sleep(0.5)
        may_commit.set()
        assert await recording
        failure = (await asyncio.gather(waiting, return_exceptions=True))[0]
    assert failure is True or isinstance(failure, OutboxUnavailable)
