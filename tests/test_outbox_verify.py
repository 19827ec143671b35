"""Verifying what was accepted, against a real sandbox."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import httpx
import pytest
import sqlalchemy as sa
from outbox_support import changed, noted, posted, poster_to, told
from support import LEAD, SECRET_KEY, Vendor, account, activity, answers, within

from leadpost import (
    Activity,
    AsyncActivityPoster,
    NotFound,
    OpenBucket,
    OutboxUnavailable,
    RetryPolicy,
    TokenBucket,
    Unauthorized,
)
from leadpost.bucket import LIMIT, PERIOD
from leadpost.outbox import Outbox, settling, verify
from leadpost.outbox.schema import entries as table
from leadpost.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("quick_checks")


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url) as opened:
        yield opened


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(limit=None, pace=1000, ends={207: "ERROR"}) as started:
        yield started


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
    assert "entry 1: its status cannot be read: BadRequest, HTTP 400" in caplog.text
    assert "MX" not in caplog.text


@pytest.mark.parametrize(("is_posting", "share"), [(True, 5), (False, 1)])
def test_it_leaves_four_fifths_of_the_limit_to_posting(*, is_posting: bool, share: int) -> None:
    assert verify._pause(is_posting=is_posting) == pytest.approx(share * PERIOD / LIMIT)


@pytest.mark.parametrize(
    ("state", "is_posting"), [("pending", True), ("sending", True), ("rejected", False)]
)
async def test_where_nothing_is_to_be_posted_it_takes_all_of_the_limit(
    outbox: Outbox,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    *,
    state: str,
    is_posting: bool,
) -> None:
    known: list[bool] = []

    def pause(*, is_posting: bool) -> float:
        known.append(is_posting)
        return 0.0

    monkeypatch.setattr(verify, "_pause", pause)
    await posted(outbox, sandbox, noted(1), noted(2))
    other = sa.update(table).where(table.c.id == await outbox.put(noted(3))).values(state=state)
    await outbox._store.write(lambda connection: connection.execute(other))
    async with poster_to(sandbox) as poster, within(20):
        assert await outbox.unasked() == 2
        assert await outbox.verify(poster) == {"succeeded": 2}
    assert await outbox.unasked() == 0
    assert set(known) == {is_posting}


async def test_the_time_that_an_asking_takes_is_part_of_its_pause(
    outbox: Outbox, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float, *_: object) -> None:
        pauses.append(seconds)
        await sleep(0)

    def pause(**_: object) -> float:
        return 1000.0

    await posted(outbox, sandbox, noted(1))
    monkeypatch.setattr(verify, "_pause", pause)
    async with poster_to(sandbox) as poster, within(20):
        monkeypatch.setattr(asyncio, "sleep", slept)
        assert await outbox.verify(poster) == {"succeeded": 1}
    assert 900 < max(pauses) < 1000


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


async def test_a_late_answer_says_nothing_of_a_later_call(outbox: Outbox, sandbox: Sandbox) -> None:
    await posted(outbox, sandbox, noted(1))
    await changed(outbox, calls=2)
    settle = partial(settling.settle, before="accepted", state="failed", note="", activity_id=None)
    for calls, is_it in ((1, False), (2, True)):
        of = settling.Check(1, calls, None, "{}")
        assert await outbox._store.write(partial(settle, of=of)) == is_it


async def test_the_reason_of_a_failure_is_kept_without_keys_and_not_logged(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "leadpost")
    status = {"Status": "ERROR", "StatusReason": f"note 'private words' of {SECRET_KEY}"}
    script = answers(
        httpx.Response(200, json={"RequestID": "r1"}),
        httpx.Response(200, json={"TaskStatus": status}),
    )
    poster = AsyncActivityPoster(account(), client=Vendor(script).client(), bucket=OpenBucket())
    await outbox.put(activity(1, activity_note="private words"))
    await outbox.drain(poster)
    async with within(20):
        assert await outbox.verify(poster) == {"failed": 1}
    assert await told(outbox) == [("failed", "note 'private words' of ***")]
    assert "private" not in caplog.text


async def test_a_status_for_which_no_token_comes_free_is_asked_for_later(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    final = httpx.Response(200, json={"TaskStatus": {"Status": "Success"}})
    script = answers(httpx.Response(200, json={"RequestID": "r1"}), final)
    bucket = TokenBucket(1, period=1.0)
    poster = AsyncActivityPoster(
        account(), client=Vendor(script).client(), bucket=bucket, retry=RetryPolicy(max_time=0.1)
    )
    await outbox.put(activity(1))
    await outbox.drain(poster)
    async with within(20):
        assert await outbox.verify(poster) == {"succeeded": 1}
    assert "the Status API is away: NotSent" in caplog.text


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
