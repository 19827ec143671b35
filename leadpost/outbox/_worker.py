"""
A worker: claims entries of an outbox, posts them, and records their states.

Every call has a task of its own (`Worker._make`): it waits for a token, claims the entry that is
next then, posts it, and records the result. `Worker._begin_calls` begins one call after the other,
each as soon as the last one has claimed its entry.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, NoReturn
from uuid import uuid4

from attrs import define, field

from leadpost._attempts import Terms
from leadpost._batch import LONG
from leadpost._models import Item
from leadpost._poster import AsyncActivityPoster, post_once
from leadpost._retry import NothingToSend
from leadpost.bucket import LIMIT, Priority
from leadpost.errors import (
    ConfigurationError,
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
from leadpost.outbox._shares import SharedQueries, Shares
from leadpost.outbox._upkeep import Upkeep
from leadpost.outbox._verifier import Verifier
from leadpost.outbox._waiting import until_done
from leadpost.outbox.database import Store, _calls
from leadpost.outbox.database._calls import Claim, Result
from leadpost.outbox.database._entries import loaded
from leadpost.outbox.database._sql import Transaction

GRACE = 6.0
"""Seconds that a cancelled worker waits for calls in flight: it ends within 8 s."""
_RECORDING = 1.0
"""Further seconds to record their results, and then again for a database that hangs to cancel."""
_CLAIM_LASTS = 10.0
"""Seconds after its claim in which a call must be sent."""
_POLL = 0.5
"""Seconds between two looks at an empty outbox."""
_LOCKED = 0.05
"""Seconds to wait if the due entries are locked by others, or were just claimed by them."""
_UNREACHABLE = 5.0
"""Seconds of failing connections after which a drain ends, if no call was answered."""
_FIRST_QUERY = 5.0
"""Seconds from the acceptance of a request to the first query for its status."""

_FOR_ALL = (ConfigurationError, NotFound, OutageTimeout, OutboxError, Unauthorized)
"""Errors that concern all entries, and so end the worker."""

_log = logging.getLogger("leadpost")


@define
class _Call:
    """
    One call for an entry.

    Attributes:
        id: Random, for the claim.
        claim: The entry that was claimed, at first without knowing whether that was committed.
        claimed_at: When that was, in `boot_time`.
        claimed: Done once it is known that the claim was committed.
        is_sent: Whether it may have been sent.
    """

    id: str = field(factory=lambda: uuid4().hex)
    claim: Claim | None = None
    claimed_at: float = 0.0
    claimed: asyncio.Future[Claim] = field(
        factory=lambda: asyncio.get_running_loop().create_future()
    )
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
        self._is_over = asyncio.Event()
        self._failure: BaseException | None = None  # the first one
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._cut_off: asyncio.Future[None] = loop.create_future()
        self._calls = set[asyncio.Task[None]]()
        self._host = Reachability(f"the host {poster.account.host}")
        self._others_succeed = False  # whether one has, since the last failure
        self._shares = Shares(lambda: poster.is_away)
        self._upkeep = Upkeep(store, poster, self._host, is_drain=drains)

    async def drain(self) -> Counter[EntryState]:
        """Post until nothing is pending; see `Outbox.drain`."""
        await self._upkeep.once()
        await self._work()
        await self._upkeep.once()  # it shows when the last call ended
        return self._upkeep.reached

    async def run(
        self, *, verifies: bool, reconcile_every: timedelta | None, keep: timedelta | None
    ) -> NoReturn:
        """Post, verify, reconcile and prune until cancelled; see `Outbox.run`."""
        name, account = self._store.database.name, self._poster.account.id
        _log.info("outbox: a worker for %s begins, on %s", account, name)
        await self._upkeep.report_others()
        await self._upkeep.once()
        beside = list[Coroutine[Any, Any, None]]()
        queries = SharedQueries(self._poster, self._shares.before_query)
        if verifies:
            verifier = Verifier(self._store, queries, self._upkeep.reached)
            beside.append(verifier.run())
        if reconcile_every is not None:
            reconciler = Reconciler(self._store, queries, SETTLE)
            beside.append(reconciler.run(reconcile_every))
        if keep is not None:
            beside.append(self._upkeep.prune(keep))
        await self._work(*beside)
        raise AssertionError("a worker runs until something is raised")  # pragma: no cover

    async def _work(self, *beside: Coroutine[Any, Any, None]) -> None:
        """Post, and do the rest `beside` it, until one of them ends, or this is cancelled."""
        work = (self._begin_calls(), self._upkeep.run(), *beside)
        tasks = [asyncio.create_task(one) for one in work]
        for task in tasks:
            task.add_done_callback(self._note_end)
        try:
            await self._is_over.wait()
        finally:
            await self._stop(tasks)
        if self._failure is not None:
            raise self._failure

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            error = task.exception()  # always, as asyncio logs those that nobody asked for
            self._failure = self._failure or error
        self._is_over.set()

    def _note_end_of_call(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._news.set()  # its entry may be pending again, or the last one
        if not call.cancelled() and call.exception():
            self._note_end(call)

    async def _stop(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Begin no more calls, wait for those in flight, and record them."""
        self._stopped.set_result(None)  # ends calls that wait for a token
        for task in tasks:
            task.cancel()
        calls = {*self._calls}
        try:
            if calls:
                _log.info("outbox: the worker stops, calls in flight: %d", len(calls))
                await asyncio.wait(calls, timeout=GRACE)
        finally:
            # Each of these waits may be cancelled: then the next one begins at once.
            self._cut_off.set_result(None)
            try:
                await until_done(calls, _RECORDING)
            finally:
                self._upkeep.report()
                for call in calls:
                    call.cancel()  # its entry becomes uncertain, as it has no record
                await until_done({*tasks, *calls}, _RECORDING)

    # Posting.

    async def _begin_calls(self) -> None:
        """
        Begin one call after the other, until the drain is done.

        As each waits until the last one has claimed its entry, entries are sent in order, and the
        worker has one untried activity in the bucket's queue.
        """
        while await self._until_due():
            call = _Call()
            task = asyncio.create_task(self._make(call))
            self._calls.add(task)
            task.add_done_callback(self._note_end_of_call)
            either: list[asyncio.Future[Any]] = [task, call.claimed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            while len(self._calls) >= LIMIT:
                await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)

    async def _until_due(self) -> bool:
        """Wait until an entry is due, and return True; return False if the drain is done."""
        while True:
            # Both before the query: an entry whose call ends meanwhile may be pending again.
            self._news.clear()
            is_posting = bool(self._calls)
            due = await self._store.read(_calls.next_due, self._batch)
            if due is not None and due <= 0:
                return True
            self._shares.nothing_is_due()
            if due is None and self._drains and not is_posting:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL if due is None else min(due, _POLL)):
                    await self._news.wait()

    async def _make(self, call: _Call) -> None:
        """Make a call for the entry that is next when there is a token, and record its result."""
        self._shares.posts += 1
        terms = Terms(
            # The length of a backlog is unknown, so it counts as long after half of `LONG`.
            priority=Priority.LONG_BATCH if self._shares.posts > LONG / 2 else Priority.BATCH,
            # A drain waits its whole time, even if the outage began before it.
            outage_until=lambda since: max(since, self._began) + self._outage_timeout,
            stopped=self._stopped,
            cut_off=self._cut_off,
            before_send=call.check,
        )
        try:
            request_id = await post_once(self._poster, partial(self._claim, call), terms)
        except NothingToSend:
            await asyncio.sleep(_LOCKED)
        except Exception as error:
            if call.claim is not None:  # even if it is not known whether that was committed
                await self._record_failure(call, call.claim, error)
            if (
                isinstance(error, _FOR_ALL)
                or not isinstance(error, LeadpostError)
                or self._is_unreachable(error)
            ):
                raise
        else:
            self._host.answered()
            self._others_succeed = True
            result = Result("accepted", request_id=request_id, due_in=_FIRST_QUERY)
            await self._record(call, call.claimed.result(), result)

    async def _claim(self, call: _Call) -> Item:
        """Claim the next entry, once there is a token for it."""
        claim = await self._store.write(self._claim_next, call)
        if claim is None:
            raise NothingToSend("nothing is due")
        call.claimed.set_result(claim)
        activity: Item = loaded(claim.activity)
        return activity

    def _claim_next(self, transaction: Transaction, call: _Call) -> Claim | None:
        # If this is another attempt, the one before may have been committed.
        if call.claim is not None and _calls.is_claimed(transaction, call.claim):
            return call.claim
        call.claimed_at = boot_time()
        call.claim = _calls.claim(
            transaction,
            call.id,
            _CLAIM_LASTS + self._poster.call_timeout,
            # During an outage every call is a trial, each with another entry: entries that always
            # fail must not make the outage last for all others.
            is_trial=self._poster.is_away,
            batch=self._batch,
        )
        return call.claim

    # Recording.

    async def _record_failure(self, call: _Call, claim: Claim, error: Exception) -> None:
        # From a bucket, the database, or a hook of the client's: it says nothing about the entry.
        if not isinstance(error, LeadpostError) or isinstance(error, OutboxError):
            kind = DeliveryUncertain if call.is_sent else NotSent
            error = kind(f"{type(error).__name__} ended the worker")
        if isinstance(error, ConnectionFailed):
            self._host.failed(error)
        elif error.status is not None or isinstance(error, DeliveryUncertain):
            self._host.answered()
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
        await self._record(call, claim, result)

    async def _record(self, call: _Call, claim: Claim, result: Result) -> None:
        """Record the result of a call, as soon as the database can be reached."""
        state = result.state
        what = f"entry {claim.id}: {state} {result.request_id or ''}".rstrip()
        if call.is_sent:
            self._upkeep.called_at = boot_time()
        try:
            recorded = await self._store.write(_calls.record, claim, result)
        except BaseException:  # a cancellation too
            _log.error("outbox: not recorded, as the database failed: %s", what)
            raise
        if not recorded and call.is_sent:
            _log.warning("outbox: ignored, as the entry has changed since: %s", what)
        elif recorded and state != "pending":
            self._upkeep.reached[state] += 1

    def _is_unreachable(self, error: LeadpostError) -> bool:
        """Whether a drain can wait no longer for its host."""
        patience = _UNREACHABLE  # it may be wrong
        if self._host.was_reached:  # an outage has its own end, but a single entry makes none
            patience = inf if self._poster.is_away else max(patience, self._outage_timeout)
        is_long = self._host.unreachable_for >= patience
        return isinstance(error, ConnectionFailed) and self._drains and is_long
