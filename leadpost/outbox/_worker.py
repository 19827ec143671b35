"""
A worker: claims entries of an outbox, posts them, and records their states.

25 tasks post (`Worker._post`). The one whose turn it is waits until an entry is due and until there
is a token, and claims the entry that is next then. Now it is another task's turn, while this one
makes the call and records its result.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, NoReturn
from uuid import uuid4

from attrs import define, field

from leadpost._batch import LONG
from leadpost._call import Terms
from leadpost._models import Item
from leadpost._poster import AsyncActivityPoster, post_once
from leadpost._retry import NothingToSend
from leadpost.bucket import LIMIT, Priority
from leadpost.errors import (
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    NotSent,
    OutageTimeout,
    OutboxError,
    ServerError,
    TokenLost,
    Unauthorized,
)
from leadpost.outbox._clock import boot_time
from leadpost.outbox._entry import EntryState
from leadpost.outbox._reachability import Reachability
from leadpost.outbox._reconciler import SETTLE, Reconciler
from leadpost.outbox._results import result_of
from leadpost.outbox._verifier import Verifier
from leadpost.outbox._waiting import until_done
from leadpost.outbox.database import Store, _calls, _edits, _entries
from leadpost.outbox.database._calls import Claim, Result
from leadpost.outbox.database._entries import loaded
from leadpost.outbox.database._sql import Transaction

GRACE = 7.0
"""Seconds that a cancelled worker waits for calls in flight: a container has 10 s in total."""
_RECORDING = 1.0
"""Further seconds in which the results of these calls are recorded."""
_CLAIM_LASTS = 10.0
"""Seconds after its claim in which a call must be sent."""
_POLL = 0.5
"""Seconds between two looks at an empty outbox."""
_LOCKED = 0.05
"""Seconds to wait if the due entries are locked by others, or were just claimed by them."""
_UNREACHABLE = 5.0
"""Seconds of failing connections after which a drain ends, if no call was answered."""
_FIRST_CHECK = 5.0
"""Seconds from the acceptance of a request to the first query for its status."""
_MAINTAIN_EVERY = 5.0
_REPORT_EVERY = 60.0
_PRUNE_EVERY = 60.0

_log = logging.getLogger("leadpost")


@define
class _Call:
    """
    One call for an entry.

    Attributes:
        turn: Left once the entry is claimed or the call has ended, so that the next may begin.
        claim: The entry, once it `is_claimed`.
        id: Random, for the claim.
        claimed_at: The time before the claim, in `boot_time`; 0 before the first attempt.
        is_sent: Whether it may have been sent.
    """

    turn: AsyncExitStack
    id: str = field(factory=lambda: uuid4().hex)
    claim: Claim = field(init=False)
    is_claimed: bool = False
    claimed_at: float = 0.0
    is_sent: bool = False

    def check(self) -> None:
        """Stop a process that was frozen or suspended from sending an entry it no longer owns."""
        if boot_time() - self.claimed_at > _CLAIM_LASTS:
            raise TokenLost("the claim on the entry expired before the call was sent")
        self.is_sent = True


class Worker:
    """
    Posts an account's entries with one poster, for one `drain` or `run`.

    Args:
        store: The account's entries.
        poster: The account's poster.
        news: Set when there may be more to do.
        drains: Whether it ends once nothing is pending.
        batch: Post only the entries of this batch, see `Outbox.drain`.
        outage_timeout: Seconds to wait for the end of an outage.
    """

    def __init__(
        self,
        store: Store,
        poster: AsyncActivityPoster,
        news: asyncio.Event,
        *,
        drains: bool = False,
        batch: str | None = None,
        outage_timeout: float = inf,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._store = store
        self._poster = poster
        self._news = news
        self._drains = drains
        self._batch = batch
        self._outage_timeout = outage_timeout
        self._began = loop.time()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._cut_off: asyncio.Future[None] = loop.create_future()
        self._failure: BaseException | None = None  # the first one
        # Calls.
        self._turn = asyncio.Lock()
        self._in_flight = set[asyncio.Task[None] | None]()
        self._others_succeed = False  # whether one has, since the last failure
        self._host = Reachability(f"the host {poster.account.host}")
        self._is_answered = False  # whether any call was answered
        self._posts = 0  # since nothing was due
        self._queries = 0  # since then
        # What the log shows.
        self._tally = Counter[EntryState]()
        self._reported = Counter[EntryState]()

    async def drain(self) -> Counter[EntryState]:
        """Post until nothing is pending; see `Outbox.drain`."""
        await self._maintain()
        await self._work()
        return self._tally

    async def run(
        self, *, verifies: bool, reconcile_every: timedelta | None, keep: timedelta | None
    ) -> NoReturn:
        """Post, verify, reconcile and prune until cancelled; see `Outbox.run`."""
        name, account = self._store.database.name, self._poster.account.id
        _log.info("outbox: a worker for %s begins, on %s", account, name)
        await self._report_others()
        await self._maintain()
        beside = list[Coroutine[Any, Any, None]]()
        if verifies:
            verifier = Verifier(self._store, self._poster, self._tally, self._before_query)
            beside.append(verifier.run())
        if reconcile_every is not None:
            reconciler = Reconciler(self._store, self._poster, SETTLE, self._before_query)
            beside.append(reconciler.run(reconcile_every))
        if keep is not None:
            beside.append(self._prune(keep))
        await self._work(*beside)
        raise AssertionError("a worker runs until something is raised")  # pragma: no cover

    async def _work(self, *beside: Coroutine[Any, Any, None]) -> None:
        """Post, and do the rest `beside` it, until one of them ends, or this is cancelled."""
        posting = [asyncio.create_task(self._post()) for _ in range(LIMIT)]
        others = [*map(asyncio.create_task, (self._maintain_regularly(), *beside))]
        tasks = [*posting, *others]
        for task in tasks:
            task.add_done_callback(self._note_end)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in others:
                task.cancel()
            try:
                await self._end_calls(posting)
            finally:  # `_end_calls` raises if it is cancelled again
                self._report()
                for task in posting:
                    task.cancel()  # calls without a record become uncertain
                await until_done(tasks, _RECORDING)
        if self._failure is not None:
            raise self._failure

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._failure = self._failure or task.exception()

    async def _end_calls(self, posting: list[asyncio.Task[None]]) -> None:
        """Begin no more calls, wait for those in flight, and record them."""
        self._stopped.set_result(None)
        for task in {*posting} - self._in_flight:
            task.cancel()
        if self._in_flight:
            what = "outbox: the worker stops, calls in flight: %d"
            _log.info(what, len(self._in_flight))
        try:
            await asyncio.wait(posting, timeout=GRACE)
        finally:
            self._cut_off.set_result(None)
            await until_done(posting, _RECORDING)

    # Posting.

    async def _post(self) -> None:
        """
        Post one entry after the other, until the drain is done or the worker stops.

        As each task waits for its turn, entries are sent in order, and the worker has one untried
        activity in the bucket's queue.
        """
        while not self._stopped.done():
            async with AsyncExitStack() as turn:
                await turn.enter_async_context(self._turn)
                if not await self._until_due():
                    return
                self._in_flight.add(asyncio.current_task())
                try:
                    await self._post_one(_Call(turn))
                finally:
                    self._in_flight.discard(asyncio.current_task())
                    self._news.set()  # its entry may be pending again, or the last one

    async def _until_due(self) -> bool:
        """Wait until an entry is due, and return True; return False if the drain is done."""
        while True:
            # Both before the query: an entry whose call ends meanwhile may be pending again.
            self._news.clear()
            is_posting = bool(self._in_flight)
            due = await self._store.read(_calls.next_due, self._batch)
            if due is not None and due <= 0:
                return True
            self._posts = self._queries = 0
            if due is None and self._drains and not is_posting:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL if due is None else min(due, _POLL)):
                    await self._news.wait()

    async def _post_one(self, call: _Call) -> None:
        """Make a call for the entry that is next when there is a token, and record its result."""
        self._posts += 1
        terms = Terms(
            # The length of a backlog is unknown, so it counts as long after half of `LONG`.
            priority=Priority.LONG_BATCH if self._posts > LONG / 2 else Priority.BATCH,
            # A drain waits its whole time, even if the outage began before it.
            outage_until=lambda since: max(since, self._began) + self._outage_timeout,
            stopped=self._stopped,
            cut_off=self._cut_off,
            before_send=call.check,
        )
        try:
            request_id = await post_once(self._poster, partial(self._claim, call), terms)
        except Exception as error:
            if call.is_claimed:
                await self._record_failure(call.claim, error, is_sent=call.is_sent)
            concerns_all = isinstance(error, OutageTimeout | OutboxError | Unauthorized | NotFound)
            if concerns_all or not isinstance(error, LeadpostError) or self._is_unreachable(error):
                raise
        else:
            self._note_answer()
            self._others_succeed = True
            result = Result("accepted", request_id=request_id, due_in=_FIRST_CHECK)
            await self._record(call.claim, result)

    async def _claim(self, call: _Call) -> Item:
        """Claim the next entry, once there is a token for it."""
        try:
            claim = await self._store.write(self._claim_next, call)
            if claim is None:
                await asyncio.sleep(_LOCKED)
                raise NothingToSend("nothing is due")
        finally:
            await call.turn.aclose()
        call.claim, call.is_claimed = claim, True
        activity: Item = loaded(claim.activity)
        return activity

    async def _claim_next(self, transaction: Transaction, call: _Call) -> Claim | None:
        # If this is another attempt, the one before may have been committed.
        if call.claimed_at and (found := await _calls.claimed(transaction, call.id)):
            return found
        call.claimed_at = boot_time()
        return await _calls.claim(
            transaction,
            call.id,
            _CLAIM_LASTS + self._poster.call_timeout,
            # During an outage every call is a trial, each with another entry: entries that always
            # fail must not make the outage last for all others.
            is_trial=self._poster.is_away,
            batch=self._batch,
        )

    async def _record_failure(self, claim: Claim, error: Exception, *, is_sent: bool) -> None:
        if not isinstance(error, LeadpostError):  # from a bucket, or from a hook of the client's
            kind = DeliveryUncertain if is_sent else NotSent
            error = kind(f"{type(error).__name__} ended the worker")
        if isinstance(error, ConnectionFailed):
            self._host.failed(error)
        elif error.status is not None or isinstance(error, DeliveryUncertain):
            self._note_answer()
        result = result_of(
            error,
            claim,
            self._poster.retry,
            retries_uncertain=self._poster.on_uncertain == "retry",
            is_away=self._poster.is_away,
            others_succeed=self._others_succeed or self._drains,
        )
        if isinstance(error, ServerError | DeliveryUncertain):
            self._others_succeed = False
        await self._record(claim, result)

    async def _record(self, claim: Claim, result: Result) -> None:
        """Record the result of a call, as soon as the database can be reached."""
        state = result.state
        what = f"entry {claim.id}: {state} {result.request_id or ''}".rstrip()
        recorded: bool | None = None
        try:
            recorded = await self._store.write(_calls.record, claim, result)
        finally:
            if recorded is None:
                _log.error("outbox: not recorded, as the database failed: %s", what)
        if not recorded:
            _log.warning("outbox: ignored, as the entry has changed since: %s", what)
        elif state != "pending":
            self._tally[state] += 1

    def _note_answer(self) -> None:
        self._is_answered = True
        self._host.answered()

    def _is_unreachable(self, error: LeadpostError) -> bool:
        """Whether a drain has reached nothing for `_UNREACHABLE`: the host may be wrong."""
        is_long = self._host.unreachable_for >= _UNREACHABLE
        is_first = self._drains and not self._is_answered
        return isinstance(error, ConnectionFailed) and is_long and is_first

    # Beside the posting.

    async def _maintain_regularly(self) -> None:
        """Expire calls without a record, and report that this worker is alive."""
        reported_at = boot_time()
        while True:
            await asyncio.sleep(_MAINTAIN_EVERY)
            await self._maintain()
            if boot_time() - reported_at >= _REPORT_EVERY:
                reported_at = boot_time()
                self._report()

    async def _maintain(self) -> None:
        if expired := await self._store.write(self._maintenance):
            self._tally["uncertain"] += expired
            _log.warning(
                "outbox: %d entries are uncertain: their worker ended before recording the calls",
                expired,
            )

    async def _maintenance(self, transaction: Transaction) -> int:
        # A single entry makes no outage, though its host may be wrong.
        away_for = self._poster.away_for or self._host.unreachable_for or None
        await _calls.be_seen(transaction, away_for)
        expired = await _calls.expire(transaction)
        await _calls.sum_up(transaction)
        return expired

    def _report(self) -> None:
        """Log the changes since the last report: only counts, no content."""
        now = self._tally - self._reported
        self._reported = self._tally.copy()
        if not now:
            return
        is_bad = any(now[state] for state in ("failed", "rejected", "uncertain"))
        counts = ", ".join(f"{count} {state}" for state, count in now.items())
        is_news = is_bad and not self._drains  # a drain returns these counts
        _log.log(logging.WARNING if is_news else logging.INFO, "outbox: %s", counts)

    async def _report_others(self) -> None:
        """Log what is not posted. Without a name, an account with a new key is another account."""
        others = await self._store.read(_entries.count_of_others)
        if others:
            counts = ", ".join(f"{count} of {account}" for account, count in others.items())
            level = logging.INFO if self._poster.account.name else logging.WARNING
            what = "outbox: unfinished entries of other accounts are not posted: %s"
            _log.log(level, what, counts)

    async def _before_query(self) -> None:
        """Wait, while there are posts, until four are made for each query."""
        self._queries += 1
        while 4 * self._queries > self._posts > 0 and not self._poster.is_away:  # noqa: ASYNC110  # rare, and nothing else would need an event
            await asyncio.sleep(_POLL / 10)

    async def _prune(self, keep: timedelta) -> None:
        seconds = keep.total_seconds()
        while True:
            pruned = await self._store.write(_edits.prune, seconds)
            await asyncio.sleep(1.0 if pruned else min(seconds, _PRUNE_EVERY))
