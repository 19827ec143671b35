"""A worker: takes entries from an outbox, posts them, and sets down what became of each."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from functools import partial
from math import inf
from typing import Any
from uuid import uuid4

from attrs import define, evolve
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._batch import Batch, Item
from leadpost._call import Terms
from leadpost._poster import OUTAGE_TIMEOUT, AsyncActivityPoster
from leadpost._retry import RetryPolicy
from leadpost.bucket import LONGEST_RETRY_AFTER
from leadpost.errors import (
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    NotSent,
    OutageTimeout,
    OutboxError,
    OutboxUnavailable,
    RateLimited,
    ServerError,
    Unauthorized,
)
from leadpost.outbox import claims
from leadpost.outbox.away import Away, described
from leadpost.outbox.claims import Claim
from leadpost.outbox.entries import EntryState
from leadpost.outbox.store import Store, ended, finished

LEASE = 15.0
"""Seconds after the last word of a worker until it is taken for dead."""
GRACE = 8.0
"""Seconds that a cancelled worker waits for its calls under way: a service has some 10 to end."""

_SET_DOWN = 5.0
"""Seconds for setting down, at the end, what became of calls: other processes may be writing."""
_POLL = 0.5
"""Seconds between two looks at an empty outbox."""
_UNREACHABLE = 5.0
"""Seconds of failing connections after which a drain ends, if no call was ever answered."""
_FIRST_CHECK = 5.0
"""Seconds after which the status of an accepted request is asked for first."""

_log = logging.getLogger(__name__)


class Worker:
    """
    Drains an outbox with one poster.

    Args:
        store: The outbox.
        poster: What to post with.
        lease: Seconds after the last word of this worker until it is taken for dead.
        news: Set when there may be more to do.
    """

    def __init__(
        self, store: Store, poster: AsyncActivityPoster, lease: float, news: asyncio.Event
    ) -> None:
        self.id = uuid4().hex
        self._store = store
        self._poster = poster
        self._policy: RetryPolicy = poster.retry
        self._lease = lease
        self._news = news
        self._lease_ends = (0.0, 0.0)  # by the monotonic clock, by the wall clock
        self._stop = asyncio.Event()
        self._failure: LeadpostError | None = None
        self._tally = Counter[EntryState]()
        self._forever = False
        self._ended = False  # when nothing is waited for any more
        self._gives_up: asyncio.Future[None] | None = None  # ends the next call's wait for a token
        self._under_way = 0
        self._claiming = asyncio.Lock()
        self._claimed = dict[int, int]()  # entries whose calls are not set down: which call it is
        self._database = Away(f"the outbox {store.name}")
        self._is_answered = False  # whether any call was, by whatever
        self._unreached = 0  # connections in a row that failed
        self._unreached_since = 0.0

    async def drain(self) -> Counter[EntryState]:
        """Post until nothing is pending; see `Outbox.drain`."""
        await self._work()
        return self._tally

    async def run(self) -> None:
        """Post for ever; see `Outbox.run`."""
        self._forever = True
        while True:
            try:
                await self._work()
            except OutboxUnavailable as error:
                self._store_failed(error)
                await asyncio.sleep(_POLL)
            except LeadpostError as error:
                what = described(error)
                _log.error("worker %s stops, nothing is posted: %s", self.id, what)
                raise

    async def _work(self) -> None:
        # A new name: what could not be set down under the last one is found by others.
        self.id = uuid4().hex
        self._claimed = {}
        self._stop.clear()
        self._failure = None
        self._ended = False
        await self._beat()
        _log.info("worker %s begins", self.id)
        heart = asyncio.create_task(self._keep_beating())
        watch = asyncio.create_task(self._watch())
        posting = asyncio.create_task(self._post_all())
        try:
            await asyncio.shield(posting)
        except asyncio.CancelledError:
            self._stop.set()
            _log.info("worker %s ends: waiting for %d calls", self.id, self._under_way)
            await asyncio.wait([posting], timeout=GRACE)
            raise
        finally:
            self._ended = True
            for task in (posting, heart, watch):
                task.cancel()
            await ended(posting, heart, watch, within=_SET_DOWN)
            leave = partial(claims.leave, worker=self.id)
            leaving = asyncio.create_task(self._store.write(leave))
            with suppress(OutboxUnavailable):  # its lease will end
                if await ended(leaving):
                    leaving.result()
            counts = ", ".join(f"{count} {state}" for state, count in self._tally.items())
            _log.info("worker %s ended: %s", self.id, counts or "nothing was posted")

    async def _post_all(self) -> None:
        batch = Batch(
            self._post,
            self._tickets(),
            max_time=inf,
            outage_timeout=inf if self._forever else OUTAGE_TIMEOUT,
            stop=self._stop,
        )
        async with aclosing(batch.outcomes()) as outcomes:
            async for outcome in outcomes:
                error = outcome.error
                if isinstance(error, Unauthorized | NotFound | OutboxError | OutageTimeout):
                    self._fail(error)
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: LeadpostError) -> None:
        """End the work for an error that goes for all entries."""
        self._failure = self._failure or error
        self._stop.set()

    async def _tickets(self) -> AsyncGenerator[Item]:
        """Yield whenever there is something to send; what it is shows when there is a token."""
        while True:
            wait = await self._time_to_next()
            if wait is None:
                return
            if wait > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(wait, _POLL)):
                        await self._news.wait()
                self._news.clear()
            else:
                yield {}

    async def _time_to_next(self) -> float | None:
        """Tell the seconds until there may be something to send; None when all is done."""
        if (hold := self._database.hold()) > 0:
            return hold
        under_way = self._under_way  # read first: what ends meanwhile may be pending again
        try:
            async with self._claiming:  # the call before this one has its entry then
                due = await self._store.read(claims.next_due)
        except OutboxUnavailable as error:
            self._store_failed(error)
            return _POLL
        self._database.is_back()
        if due is None:
            return _POLL if self._forever or under_way else None
        return due

    async def _post(self, _: Item, terms: Terms) -> str:
        call = _OneCall()
        self._under_way += 1
        gives_up = self._gives_up = asyncio.get_running_loop().create_future()
        stopped = terms.stopped
        terms = evolve(terms, check=partial(self._check, call), stopped=gives_up)

        def give_up(_: object) -> None:
            if not gives_up.done():
                gives_up.set_result(None)

        if stopped is not None:
            stopped.add_done_callback(give_up)
        try:
            request_id = await self._poster.post_once(partial(self._claim, call), terms)
        except LeadpostError as error:
            if call.claim is not None:
                await finished(self._record_failure(call.claim, error))
            raise
        except BaseException:
            if call.claim is not None:
                await finished(self._record_end(call.claim, left=call.left))
            raise
        else:
            self._answered()
            accepted = self._record(
                call.claimed, "accepted", request_id=request_id, due_in=_FIRST_CHECK
            )
            await finished(accepted)
            return request_id
        finally:
            if stopped is not None:
                stopped.remove_done_callback(give_up)
            self._under_way -= 1
            self._news.set()

    async def _watch(self) -> None:
        """Keep the end of a drain from waiting for a token that others have left no use for."""
        while not self._forever:
            await asyncio.sleep(_POLL)
            if (gives_up := self._gives_up) is None:
                continue
            with suppress(OutboxError):  # those that post tell
                is_empty = await self._store.read(claims.next_due) is None
                if is_empty and gives_up is self._gives_up and not gives_up.done():
                    gives_up.set_result(None)

    async def _claim(self, call: _OneCall) -> Mapping[str, Any]:
        """Mark the next entry as being sent, now that there is a token for it."""

        async def claim(connection: AsyncConnection) -> None:
            call.claim = None  # of a transaction that failed
            # While LeadSquared is away the calls are trials, each with another entry: one that
            # fails for a reason of its own must not keep it away for the others.
            call.claim = await claims.claim(connection, self.id, least_tried=self._poster.is_away)

        try:
            async with self._claiming:  # or else a later one might leave first
                await self._store.write(claim)
        except OutboxUnavailable as error:
            call.claim = None
            self._store_failed(error)
            raise NotSent(str(error)) from error
        except OutboxError:
            call.claim = None
            raise
        self._database.is_back()
        if call.claim is None:
            raise NotSent("nothing is pending")
        self._claimed[call.claim.id] = call.claim.calls
        payload: Mapping[str, Any] = json.loads(call.claim.payload)
        return payload

    def _check(self, call: _OneCall) -> None:
        """Keep a worker that was frozen from sending what is not its own any more."""
        monotonic, wall = self._lease_ends
        if time.monotonic() >= monotonic or time.time() >= wall:
            raise NotSent("the worker's lease ended before the call was sent")
        call.left = True

    async def _record_failure(self, claim: Claim, error: LeadpostError) -> None:
        policy = self._policy
        failures = claim.failures + 1
        wait = max(policy.wait_after(failures), min(error.retry_after or 0.0, LONGEST_RETRY_AFTER))
        told = _with_doubt(claim, error)
        is_away = self._poster.is_away  # then the next trial waits, and failures do not count
        retried = isinstance(error, ServerError) or (
            self._poster.on_uncertain == "retry" and isinstance(error, DeliveryUncertain)
        )
        if not isinstance(error, ConnectionFailed | NotSent):
            self._answered()
        match error:
            case NotSent() | Unauthorized() | NotFound():
                await self._record(claim, "pending", error=told)
            case ConnectionFailed():
                self._no_connection(error)
                wait = 0.0 if is_away else policy.wait_after(self._unreached)
                await self._record(claim, "pending", error=told, due_in=wait)
            case RateLimited():
                await self._record(claim, "pending", error=told, due_in=wait)
            case ServerError() | DeliveryUncertain() if retried and is_away:
                await self._record(claim, "pending", error=told)
            case ServerError() | DeliveryUncertain() if retried and failures < policy.max_attempts:
                await self._record(claim, "pending", error=told, due_in=wait, failed=True)
            case _:
                state = claims.state_of(told)
                await self._record(claim, state, error=told, failed=True)

    def _answered(self) -> None:
        self._is_answered = True
        self._unreached = 0

    def _no_connection(self, error: ConnectionFailed) -> None:
        """End a drain soon, if it never reached anything: the host may be a wrong one."""
        now = time.monotonic()
        if not self._unreached:
            self._unreached_since = now
        self._unreached += 1
        is_long = now - self._unreached_since >= _UNREACHABLE
        if is_long and not self._is_answered and not self._forever:
            self._fail(error)

    def _store_failed(self, error: OutboxUnavailable) -> None:
        self._database.is_away(error, lambda _: _POLL)
        if not self._forever and self._database.away_for() > self._policy.max_time:
            self._fail(error)

    async def _record_end(self, claim: Claim, *, left: bool) -> None:
        """Set down what a cancelled call has come to."""
        if left:
            error = DeliveryUncertain("the worker was stopped before the answer")
            await self._record(claim, "uncertain", error=error)
        else:
            stopped = _with_doubt(claim, NotSent("the worker was stopped"))
            await self._record(claim, "pending", error=stopped)

    async def _record(
        self,
        claim: Claim,
        state: EntryState,
        *,
        request_id: str | None = None,
        error: LeadpostError | None = None,
        due_in: float = 0.0,
        failed: bool = False,
    ) -> None:
        """Set down what became of a call, as soon as the store takes it."""
        record = partial(
            claims.record,
            claimed=claim,
            state=state,
            request_id=request_id,
            error=error,
            due_in=due_in,
            failed=failed,
        )
        what = f"entry {claim.id}: {state} {request_id or ''}".rstrip()
        recorded = mine = False
        try:
            while not recorded:
                try:
                    mine = await self._store.write(record, has_time=lambda: not self._ended)
                except OutboxUnavailable as failure:
                    self._store_failed(failure)
                    if self._ended or self._failure is not None:
                        raise
                    await asyncio.sleep(_POLL)
                except OutboxError as failure:
                    self._fail(failure)
                    raise
                else:
                    recorded = True
        finally:
            if not recorded:
                _log.error("could not be set down: %s", what)
        if not mine:
            _log.warning("another call was made meanwhile: %s", what)
        if self._claimed.get(claim.id) == claim.calls:  # else it is claimed again by now
            del self._claimed[claim.id]
        self._database.is_back()
        if state != "pending":
            self._tally[state] += 1

    async def _beat(self) -> None:
        """Tell that this worker lives, and see to what dead ones left behind."""
        monotonic, wall = time.monotonic(), time.time()

        async def beat(connection: AsyncConnection) -> int:
            await claims.renew(connection, self.id, self._lease)
            await claims.unclaim(connection, self.id, self._claimed)
            return await claims.abandon(connection)

        async with self._claiming:
            abandoned = await self._store.write(beat)
        self._lease_ends = monotonic + self._lease, wall + self._lease
        if abandoned:
            _log.warning("entries that are uncertain now, as their worker is gone: %d", abandoned)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            try:
                await self._beat()
            except OutboxUnavailable as error:
                self._store_failed(error)
            except OutboxError as error:
                self._fail(error)
                return


def _with_doubt(claim: Claim, error: LeadpostError) -> LeadpostError:
    """Keep the doubt that an earlier call has left, whatever this one has come to."""
    if not claim.in_doubt or isinstance(error, DeliveryUncertain):
        return error
    return DeliveryUncertain(f"an earlier call may have arrived; the last one: {error}")


@define
class _OneCall:
    """One call: the entry it is for, and whether any of it may have left."""

    claim: Claim | None = None
    left: bool = False

    @property
    def claimed(self) -> Claim:
        if self.claim is None:
            raise RuntimeError("a call was made for no entry")
        return self.claim
