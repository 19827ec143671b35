"""
A worker: claims entries of an outbox, posts them, and records their states.

`Worker._post_all` waits until an entry is due and begins a call, again and again. A call
(`Worker._post_one`) takes a token, claims the entry that is next then, posts it and records the
result. `Worker._keep` expires calls without a record, and reports that the worker is alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, NoReturn, TypeVar
from uuid import uuid4

from attrs import define, field

from leadpost._batch import LONG
from leadpost._call import Terms
from leadpost._models import Item
from leadpost._poster import OUTAGE_TIMEOUT, AsyncActivityPoster, post_once
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
    OutboxUnavailable,
    ServerError,
    TokenLost,
    Unauthorized,
    UnexpectedAnswer,
)
from leadpost.outbox._absence import Absence, described
from leadpost.outbox._clock import boot_time
from leadpost.outbox._entry import EntryState
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
_UNREACHABLE = 5.0
"""Seconds of failing connections after which a drain ends, if no call was answered."""
_FIRST_CHECK = 5.0
"""Seconds from the acceptance of a request to the first query for its status."""
_VERIFY_AGAIN = 600.0
"""Seconds after which the Status API is tried again that has rejected the keys or the path."""
_KEEP_EVERY = 5.0
_REPORT_EVERY = 60.0
_PRUNE_EVERY = 60.0
_FAILED_TRIALS = 100
"""The most entries that failed during an outage and are skipped by its next trials."""

T = TypeVar("T")

_log = logging.getLogger("leadpost")


@define
class _Call:
    """One call for an entry."""

    claim: Claim = field(init=False)  # the entry, once it is claimed
    is_claimed: bool = False
    claimed_at: float = 0.0  # in `boot_time`, before the claim
    has_begun: asyncio.Event = field(factory=asyncio.Event)  # set once it claims or ends
    is_sent: bool = False  # whether it may have been sent

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
    """

    def __init__(self, store: Store, poster: AsyncActivityPoster, news: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        self._store = store
        self._poster = poster
        self._news = news
        # What a drain changes.
        self._drains = False
        self._key_prefix = ""
        self._outage_timeout = inf
        self._began = loop.time()
        # How it ends.
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._cut_off: asyncio.Future[None] = loop.create_future()
        self._failure: BaseException | None = None
        # Calls.
        self._in_flight = set[asyncio.Task[None]]()
        self._in_a_row = 0  # since nothing was due
        self._asked = 0  # queries since then
        self._unknown: dict[str, float] = {}  # claims that may have been committed, see _claim
        self._failed_trials = deque[int](maxlen=_FAILED_TRIALS)
        # What the log and `health` show.
        self._tally = Counter[EntryState]()
        self._reported = Counter[EntryState]()
        self._absence = Absence(f"the outbox {store.database.name}")
        self._host_absence = Absence(f"the host {poster.account.host}")
        self._is_answered = False  # whether any call was answered
        self._others_succeed = False  # whether the last result was a success

    async def drain(self, key_prefix: str, outage_timeout: float | None) -> Counter[EntryState]:
        """Post until nothing is pending; see `Outbox.drain`."""
        self._drains, self._key_prefix = True, key_prefix
        self._outage_timeout = OUTAGE_TIMEOUT if outage_timeout is None else outage_timeout
        await self._store.write(self._maintain)
        await self._work(self._keep())
        return self._tally

    async def run(
        self,
        *,
        begin: Callable[[], Awaitable[None]],
        verifies: bool,
        reconcile_every: timedelta | None,
        keep: timedelta | None,
    ) -> NoReturn:
        """Call `begin`, then post until cancelled; see `Outbox.run`."""
        try:
            await self._patiently(begin)
            _log.info("outbox: a worker for %s begins", self._poster.account.id)
            await self._patiently(self._report_others)
            await self._work(
                self._keep(),
                *([self._verify()] if verifies else ()),
                *([self._reconcile(reconcile_every)] if reconcile_every else ()),
                *([self._prune(keep)] if keep else ()),
            )
        except LeadpostError as error:
            _log.error("outbox: the worker stopped; nothing is posted: %s", described(error))
            raise
        raise AssertionError("a worker runs until something is raised")  # pragma: no cover

    async def _report_others(self) -> None:
        """Log whose entries are left alone: of accounts without names, a key may have changed."""
        others = await self._store.read(_entries.count_of_others)
        if others:
            counts = ", ".join(f"{count} of {account}" for account, count in others.items())
            level = logging.INFO if self._poster.account.name else logging.WARNING
            what = "outbox: unfinished entries of other accounts are not posted: %s"
            _log.log(level, what, counts)

    async def _work(self, *others: Coroutine[Any, Any, None]) -> None:
        """Post, and do `others` beside it, until the posting or one of the others ends."""
        tasks = [asyncio.create_task(part) for part in (self._post_all(), *others)]
        try:
            await asyncio.wait([*tasks, self._stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                await self._end_calls()
            finally:  # `_end_calls` raises if it is cancelled again
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                self._report()
        for error in (self._failure, *(task.exception() for task in tasks if not task.cancelled())):
            if error is not None:
                raise error

    async def _end_calls(self) -> None:
        """Begin no more calls, wait for those in flight, and record them."""
        self._stop()
        if not self._in_flight:
            return
        _log.info("outbox: the worker stops: it waits for %d calls in flight", len(self._in_flight))
        try:
            await asyncio.wait(self._in_flight, timeout=GRACE)
        finally:
            self._cut_off.set_result(None)
            try:
                await until_done(self._in_flight, _RECORDING)
            finally:  # those without a record become uncertain
                for call in self._in_flight:
                    call.cancel()
                await until_done(self._in_flight, _RECORDING)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)
        self._news.set()

    def _fail(self, error: BaseException) -> None:
        """Stop the worker because of an error that concerns all entries."""
        self._failure = self._failure or error
        self._stop()

    # Posting.

    async def _post_all(self) -> None:
        """
        Begin calls, up to 25 at once, until the work is done.

        Each waits until the one before has claimed its entry, so that entries are sent in order and
        the worker has one untried activity in the bucket's queue.
        """
        while await self._until_due():
            call = _Call()
            task = asyncio.create_task(self._post_one(call))
            self._in_flight.add(task)
            task.add_done_callback(self._note_end)
            await call.has_begun.wait()
            if len(self._in_flight) == LIMIT:
                await asyncio.wait(self._in_flight, return_when=asyncio.FIRST_COMPLETED)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._news.set()  # its entry may be pending again, or the last one
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _until_due(self) -> bool:
        """Wait until an entry is due, and return True; return False if the work is done."""
        while not self._stopped.done():
            # Both before the query: an entry whose call ends meanwhile may be pending again.
            self._news.clear()
            is_posting = bool(self._in_flight)
            if self._unknown:
                await self._patiently(partial(self._store.write, self._release), writes=False)
            next_due = partial(self._store.read, _calls.next_due, self._key_prefix)
            due = await self._patiently(next_due, writes=False)
            if due is not None and due <= 0:
                return True
            self._in_a_row = self._asked = 0
            if due is None and self._drains and not is_posting:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL if due is None else min(due, _POLL)):
                    await self._news.wait()
        return False

    async def _post_one(self, call: _Call) -> None:
        """Make a call for the entry that is next when there is a token, and record its result."""
        self._in_a_row += 1
        terms = Terms(
            # The length of a backlog is unknown, so it counts as long after half of `LONG`.
            priority=Priority.LONG_BATCH if self._in_a_row > LONG / 2 else Priority.BATCH,
            outage_until=lambda since: max(since, self._began) + self._outage_timeout,
            stopped=self._stopped,
            cut_off=self._cut_off,
            before_send=call.check,
        )
        try:
            request_id = await post_once(self._poster, partial(self._claim, call), terms)
        except LeadpostError as error:
            if call.is_claimed:
                await self._record_failure(call.claim, error)
            elif isinstance(error, OutageTimeout | OutboxError):
                self._fail(error)
        except Exception as error:  # from a bucket, or from a hook of the HTTP client
            if call.is_claimed:
                kind = DeliveryUncertain if call.is_sent else NotSent
                why = kind(f"{type(error).__name__} ended the worker")
                await self._record_failure(call.claim, why)
            raise
        else:
            self._answered()
            self._others_succeed = True
            result = Result("accepted", request_id=request_id, due_in=_FIRST_CHECK)
            await self._record(call.claim, result)
        finally:
            call.has_begun.set()

    async def _claim(self, call: _Call) -> Item:
        """Claim the next entry, once there is a token for it."""
        call_id = uuid4().hex
        call.claimed_at = boot_time()
        claim = partial(
            _calls.claim,
            call_id=call_id,
            call_time=_CLAIM_LASTS + self._poster.call_timeout,
            key_prefix=self._key_prefix,
        )
        # During an outage every call is a trial, each with another entry: entries that always fail
        # must not make the outage last for all others.
        but = list(self._failed_trials) if self._poster.is_away else []
        try:
            found = await self._store.write(partial(claim, but=but))
            if found is None and but:
                self._failed_trials.clear()
                found = await self._store.write(claim)
            if found is None:  # another worker was faster, or has it locked
                await asyncio.sleep(_POLL / 10)
        except OutboxError as error:
            # It may have been committed: `release` finds it by its call id. No call is made.
            self._unknown[call_id] = boot_time() + _CLAIM_LASTS + _calls.OVERDUE
            if not isinstance(error, OutboxUnavailable):
                raise
            self._went_away(error)
            await asyncio.sleep(_POLL)
            raise NotSent(str(error)) from error
        finally:
            call.has_begun.set()
        self._absence.end()
        if found is None:
            raise NothingToSend("nothing is due")
        call.claim, call.is_claimed = found, True
        activity: Item = loaded(found.activity)
        return activity

    async def _record_failure(self, claim: Claim, error: LeadpostError) -> None:
        is_away = self._poster.is_away  # if so, the failure says nothing about the entry
        if is_away:
            self._failed_trials.append(claim.id)
        if isinstance(error, ConnectionFailed):
            self._not_reached(error)
        elif error.status is not None or isinstance(error, DeliveryUncertain):
            self._answered()
        result = result_of(
            error,
            claim,
            self._poster.retry,
            retries_uncertain=self._poster.on_uncertain == "retry",
            is_away=is_away,
            others_succeed=self._others_succeed or self._drains,
        )
        if isinstance(error, ServerError):
            self._others_succeed = False
        await self._record(claim, result)
        if isinstance(error, Unauthorized | NotFound):
            self._fail(error)

    async def _record(self, claim: Claim, result: Result) -> None:
        """Record the result of a call, as soon as the database can be reached."""
        state = result.state
        record = partial(_calls.record, of=claim, result=result)
        what = f"entry {claim.id}: {state} {result.request_id or ''}".rstrip()
        recorded: bool | None = None
        try:
            recorded = await self._patiently(partial(self._store.write, record))
        except OutboxError as failure:
            self._fail(failure)
        finally:
            if recorded is None:
                _log.error("outbox: not recorded, as the database failed: %s", what)
        if recorded is None:
            return
        if not recorded:
            _log.warning("outbox: ignored, as a later call was made: %s", what)
        elif state != "pending":
            self._tally[state] += 1

    def _answered(self) -> None:
        self._is_answered = True
        self._host_absence.end()

    def _not_reached(self, error: ConnectionFailed) -> None:
        """Stop a drain that has reached nothing for `_UNREACHABLE`: the host may be wrong."""
        self._host_absence.begin(error)
        is_long = self._host_absence.lasts >= _UNREACHABLE
        if self._drains and is_long and not self._is_answered:
            self._fail(error)

    def _went_away(self, error: OutboxUnavailable) -> None:
        """Record that the database is unreachable; stop a drain that has waited for too long."""
        self._absence.begin(error)
        if self._drains and self._absence.lasts > self._poster.retry.max_time:
            self._fail(error)

    # Beside the posting.

    async def _patiently(
        self, step: Callable[[], Awaitable[T]], *, writes: bool = True
    ) -> T | None:
        """
        Retry `step` until the database is back; return None if the worker failed meanwhile.

        Only a step that surely `writes` shows that it is back: a standby, or a full disk, can be
        read.
        """
        while True:
            try:
                done = await step()
            except OutboxUnavailable as error:
                self._went_away(error)
                await asyncio.sleep(_POLL)
                if self._failure is not None:
                    return None
            else:
                if writes:
                    self._absence.end()
                return done

    async def _keep(self) -> None:
        """Expire calls without a record, and report that this worker is alive."""
        reported_at = boot_time()
        while True:
            await self._patiently(partial(self._store.write, self._maintain))
            if boot_time() - reported_at >= _REPORT_EVERY:
                reported_at = boot_time()
                self._report()
            await asyncio.sleep(_KEEP_EVERY)

    async def _maintain(self, transaction: Transaction) -> None:
        # A single entry makes no outage, though its host may be wrong.
        away_for = self._poster.away_for or self._host_absence.lasts or None
        await _calls.be_seen(transaction, away_for)
        if expired := await _calls.expire(transaction):
            self._tally["uncertain"] += expired
            _log.warning(
                "outbox: %d entries are uncertain: their worker ended before recording the calls",
                expired,
            )
        await _calls.sum_up(transaction)
        if self._unknown:
            await self._release(transaction)

    async def _release(self, transaction: Transaction) -> None:
        """Make entries pending again whose claims were committed without our hearing of it."""
        await _calls.release(transaction, list(self._unknown))
        self._unknown = {id_: end for id_, end in self._unknown.items() if end > boot_time()}

    def _report(self) -> None:
        """Log the changes since the last report: only counts, no content."""
        now = self._tally - self._reported
        self._reported = self._tally.copy()
        if not now:
            return
        is_bad = any(now[state] for state in ("failed", "rejected", "uncertain"))
        counts = ", ".join(f"{count} {state}" for state, count in now.items())
        _log.log(logging.WARNING if is_bad else logging.INFO, "outbox: %s", counts)

    async def _verify(self) -> None:
        """Verify accepted entries, with one query for every four posts while there are posts."""
        verifier = Verifier(self._store, self._poster, self._tally)
        while True:
            await self._leave_posts_their_share()
            try:
                due = await self._patiently(verifier.ask_next)
            except UnexpectedAnswer as error:  # such as a page of HTML in an outage
                due = verifier.postpone(error)
            except (Unauthorized, NotFound) as error:
                what = "outbox: verifying pauses for 10 minutes, posting continues: %s"
                _log.error(what, described(error))
                due = _VERIFY_AGAIN
            self._asked += due == 0
            await asyncio.sleep(_POLL if due is None else due)

    async def _leave_posts_their_share(self) -> None:
        """Wait, while there are posts, until four are made for each query."""
        while 4 * self._asked > self._in_a_row > 0 and not self._poster.is_away:  # noqa: ASYNC110  # rare, and nothing else would need an event
            await asyncio.sleep(_POLL / 10)

    async def _before_query(self) -> None:
        self._asked += 1
        await self._leave_posts_their_share()

    async def _reconcile(self, every: timedelta) -> None:
        reconciler = Reconciler(self._store, self._poster, SETTLE, self._before_query)
        while True:
            await asyncio.sleep(every.total_seconds())
            try:
                found = await reconciler.reconcile(lambda _, __: None)
            except LeadpostError as error:
                _log.warning("outbox: reconciling failed: %s", described(error))
            else:
                if found:
                    counts = ", ".join(f"{count} {state}" for state, count in found.items())
                    _log.info("outbox: reconciled: %s", counts)

    async def _prune(self, keep: timedelta) -> None:
        seconds = keep.total_seconds()
        while True:
            pruned = await self._patiently(lambda: self._store.write(_edits.prune, seconds))
            await asyncio.sleep(1.0 if pruned else min(seconds, _PRUNE_EVERY))
