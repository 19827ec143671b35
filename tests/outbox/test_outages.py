"""A worker in each kind of outage of LeadSquared: it waits, nothing fails, little is uncertain."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest
from outage_support import METRICS
from outbox_support import poster, working
from support import LeadSquared, accept, activity, number_in, within

from leadpost import TokenBucket
from leadpost.outbox import Outbox

TOKENS = 5
ENTRIES = 100
NOT_SENT: dict[str, httpx.Response | Exception | None] = {
    "500": httpx.Response(500),
    "503": httpx.Response(503),
    "refused connections": httpx.ConnectError("refused"),
}
UNCERTAIN: dict[str, httpx.Response | Exception | None] = {
    "502": httpx.Response(502),
    "504": httpx.Response(504),
    "a page of HTML": httpx.Response(200, html="<h1>We will be back soon</h1>"),
    "time-outs": None,
}


class FailingLeadSquared(LeadSquared):
    """LeadSquared, which has an outage while `is_down`; with an uncertain fault it accepts all."""

    def __init__(self, kind: str) -> None:
        super().__init__(self._answer)
        self.fault = (NOT_SENT | UNCERTAIN)[kind]
        self.is_uncertain = kind in UNCERTAIN
        self.is_down = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.in_flight = 0
        self.failed = 0
        self.taken = Counter[int]()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/status"):  # always answers, whatever the posts
            return httpx.Response(200, json={"TaskStatus": {"Status": "Pending"}})
        if request.method == "GET":  # the query before a trial
            return await self._fail() if self.is_down else httpx.Response(200, json=METRICS)
        if self.is_uncertain:  # before it waits: the call may time out meanwhile
            self.taken[number_in(request)] += 1
        self.in_flight += 1
        await self.answers.wait()
        self.in_flight -= 1
        if not (self.is_down or self.is_uncertain):
            self.taken[number_in(request)] += 1
        return await self._fail() if self.is_down else await accept(request)

    async def _fail(self) -> httpx.Response:
        self.failed += 1
        if self.fault is None:
            await asyncio.sleep(60)
            raise AssertionError("the call must have timed out")
        if isinstance(self.fault, Exception):
            raise self.fault
        return self.fault


@pytest.mark.parametrize("kind", [*NOT_SENT, *UNCERTAIN])
async def test_a_run_waits_for_the_end_of_an_outage(
    outbox: Outbox,
    quick_queries: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    del quick_queries
    for name in ("LONGEST_PAUSE", "LONGEST_UNCERTAIN_PAUSE"):
        monkeypatch.setattr(f"leadpost._availability.{name}", 0.2)
    leadsquared = FailingLeadSquared(kind)
    call_timeout = 1.0 if kind == "time-outs" else 30.0
    bucket = TokenBucket(TOKENS, period=0.1)
    posting = poster(leadsquared, bucket=bucket, call_timeout=call_timeout)
    await outbox.put_many(map(activity, range(1, ENTRIES + 1)))
    async with working(outbox.run(posting)), within(60):
        while leadsquared.taken.total() < 20:
            await asyncio.sleep(0.01)
        leadsquared.answers.clear()
        while leadsquared.in_flight < TOKENS:
            await asyncio.sleep(0.01)
        leadsquared.is_down = True
        leadsquared.answers.set()
        while not posting.is_away:
            await asyncio.sleep(0.01)
        before = leadsquared.failed
        while leadsquared.failed < before + 2:
            await asyncio.sleep(0.01)
        leadsquared.is_down = False
        while (counts := await outbox.counts())["pending"] or counts["sending"]:
            await asyncio.sleep(0.05)
    assert counts["accepted"] + counts["uncertain"] == ENTRIES
    assert counts["uncertain"] <= (TOKENS + 5 if leadsquared.is_uncertain else 0)
    assert (len(leadsquared.taken), leadsquared.taken.total()) == (ENTRIES, ENTRIES)
    for words in ("does not answer posts", "answers posts again"):
        assert caplog.text.count(words) == 1
