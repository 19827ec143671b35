"""
LeadSquared's limit as a bucket of tokens shared by processes and hosts: 25 rows of a database.

In each process one task, `_Share._serve`, uses the database; callers only wait. Again and again it
reserves the token that is back first, waits until it is back, and lets the caller have it who is
then first in line. Whenever it waits, it records how calls have ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import TypeVar
from uuid import uuid4

from attrs import define, field

from leadpost._account import Account
from leadpost._bucket_parts import Brakes, Use, Waiter, Waiters
from leadpost.bucket import CALL_TIMEOUT, LIMIT, PERIOD, Priority, check_rate
from leadpost.errors import OutboxError, OutboxUnavailable, TokenLost
from leadpost.hooks import Hook, Hooks
from leadpost.outbox._clock import boot_time
from leadpost.outbox._reachability import Reachability
from leadpost.outbox.database import Database, Store, _tokens
from leadpost.outbox.database._sql import Transaction
from leadpost.outbox.database._tokens import State

_LOOK_AGAIN = 0.25
"""Seconds until the next look, if no token rests."""
_USE_WITHIN = 1.0
"""Seconds in which a reserved token must be used once it is back."""
_RETRY = 0.5
"""Seconds between two attempts while the database is unreachable."""
_CLOSE = 1.0
"""Seconds that closing waits for the database."""

T = TypeVar("T")

_log = logging.getLogger("leadpost")


class SharedTokenBucket:
    """
    25 calls in 5 s for all processes and hosts together that use the same database and name.

    The guarantee is that of `TokenBucket`, for all of them: no 26th call arrives in any 5 s. If a
    process dies, its token returns 5 s after its call must have ended; if it was only frozen, it
    sends nothing with that token. What one process learns from a refusal (429) applies to all. Up
    to 30 processes get their share. While the database is unreachable, callers wait. If its clock
    jumps back, calls are late; it must not jump forward.

    The poster opens the bucket when it is entered, and closes it; a bucket belongs to one poster.
    It may be created before a fork.

    Args:
        url: The database, as for `Outbox`; it may be the same.
        name: Processes with the same name share the limit; by default `Account.id`. Two users of
            one account share its limit only if they have the same name.
        limit: Tokens, 1 to 25: fewer for an account with a lower limit.
        period: Seconds; use a value other than 5 only with a sandbox of the same period.
        hooks: Functions that are called with `Resized`, and with `Paused` if this process was
            refused, see `leadpost.hooks`.

    Raises:
        ValueError: a number is out of range.
        OutboxError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        limit: int = LIMIT,
        period: float = PERIOD,
        hooks: Iterable[Hook] = (),
    ) -> None:
        self.most_calls = check_rate(limit, period)
        self.name = name
        self._limit = limit
        self._period = period
        self._emit = Hooks(hooks)
        # A token must survive its process, but not the machine: a restart takes longer than 5 s.
        self._database = Database(url, connections=1, durable=False)
        self._share: _Share | None = None

    def __repr__(self) -> str:
        share = self._share
        name = share.name if share is not None else self.name or "the account"
        how = "not open"
        if share is not None:
            how = f"{share.in_use} in use here, {len(share.waiters)} waiting here"
        return f"<SharedTokenBucket of {name} in {self._database.name}: {how}>"

    async def open(self, account: Account) -> None:
        """
        Open the bucket; the poster calls this.

        Args:
            account: The poster's account, which the limit belongs to.

        Raises:
            OutboxError: the database cannot be used, or has this bucket with another period.
            RuntimeError: it is already open.
        """
        if self._share is not None:
            raise RuntimeError("this SharedTokenBucket is open: it belongs to one poster")
        name = self.name or account.id
        store = Store(self._database, bucket=name)
        await self._database.open()
        try:
            state = await store.write(_tokens.create, self._limit, self._period)
        except BaseException:
            await self._database.aclose()
            raise
        brakes = Brakes(self._limit, self._period, self._emit)
        self._share = _Share(store, name, brakes, state)

    async def aclose(self) -> None:
        """Record how the last calls ended, and close the connection; the poster calls this."""
        share, self._share = self._share, None
        if share is not None:
            try:
                await share.end()
            finally:
                await self._database.aclose()

    @asynccontextmanager
    async def token(
        self, priority: Priority = Priority.SINGLE, call_timeout: float = CALL_TIMEOUT
    ) -> AsyncGenerator[Callable[[], None]]:
        """
        Wait for a token, hold it while one call is made, and let it rest; see `Bucket.token`.

        Args:
            priority: The order of the waiting callers in this process.
            call_timeout: Seconds after which the call must have ended.

        Yields:
            A function to call at the last moment before sending. It raises `TokenLost` if the call
            could no longer end in time, because the process was frozen.

        Raises:
            OutboxError: the database cannot be used.
            RuntimeError: the bucket is not open.
        """
        share = self._share
        if share is None:
            raise RuntimeError(
                "this SharedTokenBucket is not open: use its poster with `async with`"
            )
        if priority is Priority.LONG_BATCH:
            await share.brakes.pacer.acquire()
            priority = Priority.BATCH
        use = await share.take(priority, call_timeout)
        try:
            with use.watched():
                yield use.before_send
        finally:
            share.give_back(use)


@define(eq=False)
class _Use(Use):
    """
    The use of a token, from its reservation to the record of its end; times are `boot_time`'s.

    Attributes:
        hold: Seconds from the use of the token until it is back if this process dies.
        id: The random id of the reservation in the table.
        due: When the token is back.
        ends_by: When its call must have ended.
        is_trial: Whether its call is the trial after a pause.
        is_taken: Whether a caller has it.
        call_timeout: Seconds after which its call times out.
        times_out_at: The event loop's time at which it does.
    """

    hold: float
    id: str = field(factory=lambda: uuid4().hex)
    due: float = inf
    ends_by: float = 0.0
    is_trial: bool = False
    is_taken: bool = False
    call_timeout: float = 0.0
    times_out_at: float = 0.0

    def before_send(self) -> None:
        """Record that the request is being sent, unless it is too late."""
        now = boot_time()
        # The loop's clock, and with it the call's own time-out, may stop during suspend.
        left = self.times_out_at - asyncio.get_running_loop().time()
        if now + max(left, 0.0) > self.ends_by:
            raise TokenLost("the token expired before the call was sent")
        self.sent_at = now


class _Share:
    """
    One process's share of an open bucket.

    Deadlines are counted from before a statement, waits from after it: so the time that it takes
    can only make a call later, or its deadline earlier.
    """

    def __init__(self, store: Store, name: str, brakes: Brakes, state: State) -> None:
        self.name = name
        self.brakes = brakes
        self.waiters = Waiters()
        self.in_use = 0
        self._store = store
        self._state = state  # as in the database
        self._ready: _Use | None = None  # for the caller who is first in line
        self._ended: list[_Use] = []  # to be recorded
        self._may_look = False  # whether a call has ended since the last look for a token
        self._is_ending = False
        self._longest_call = 0.0
        self._took_at = -inf
        self._news = asyncio.Event()  # for the task that uses the database
        self._reachability = Reachability(f"bucket: the database {store.database.name}")
        if state.version:
            brakes.adopt(state.size, boot_time())
        self._serving = asyncio.create_task(self._serve())

    async def end(self) -> None:
        """Record how calls ended, unless the database does not answer."""
        self._is_ending = True
        self.waiters.fail(RuntimeError("the SharedTokenBucket is closed"))
        self._news.set()
        await asyncio.wait([self._serving], timeout=_CLOSE)
        if self._serving.cancel() or self._ended:
            _log.warning("bucket: the database did not answer; the last tokens return late")
        await asyncio.wait([self._serving], timeout=_CLOSE)

    # For callers.

    async def take(self, priority: Priority, call_timeout: float) -> _Use:
        """Wait for a token."""
        self._longest_call = max(self._longest_call, call_timeout)
        waiter = self.waiters.join(priority)
        self._news.set()
        try:
            while (use := self._ready_for(waiter)) is None:
                await waiter.news.wait()
                waiter.news.clear()
            self._ready, use.is_taken = None, True
            self._took_at = boot_time()
            self.in_use += 1
            use.call_timeout = call_timeout
            use.times_out_at = asyncio.get_running_loop().time() + call_timeout
            return use
        finally:
            self.waiters.leave(waiter)
            self._news.set()

    def _ready_for(self, waiter: Waiter) -> _Use | None:
        if waiter.error is not None:
            raise waiter.error
        if self._serving.done():
            self._serving.result()  # raises the error that ended it
        return self._ready if self.waiters.first is waiter else None

    def give_back(self, use: _Use) -> None:
        """Note that a call has ended."""
        self.in_use -= 1
        self._may_look = True
        self._ended.append(use)
        self._news.set()
        self.brakes.record(use, boot_time())

    # The task that uses the database.

    async def _serve(self) -> None:
        """Serve the callers until the bucket is closed and everything is recorded."""
        while not self._is_ending or self._ended:
            try:
                await self._serve_one()
            except OutboxError as error:
                self._reachability.failed(error)
                if not isinstance(error, OutboxUnavailable):
                    self.waiters.fail(error)  # the next caller may have more luck
                await asyncio.sleep(_RETRY)
            except Exception as error:
                self.waiters.fail(error)
                raise

    async def _serve_one(self) -> None:
        """Reserve a token for the caller who is first in line when it is back."""
        await self._until(lambda: self.waiters.first is not None or self._is_ending)
        await self._until(lambda: self._is_ending, self.brakes.paused_until)
        if self._is_ending:
            return
        looked_at, self._may_look = boot_time(), False
        use = await self._reserve()
        if use is None:
            await self._until(lambda: self._may_look, looked_at + _LOOK_AGAIN)
            return
        try:
            is_idle = await self._until(self._is_idle, use.due)
            if is_idle or boot_time() < self.brakes.paused_until:
                return
            # Meanwhile a pause may have begun elsewhere, or this process was frozen.
            has_waited = boot_time() > looked_at + _LOOK_AGAIN
            if has_waited and not await self._store.read(_tokens.may_use, use.id):
                return
            self._ready = use
            self.waiters.wake_first()
            await self._until(lambda: use.is_taken or self._is_idle(), use.due + _USE_WITHIN)
        finally:
            if not use.is_taken:
                self._ready = None
                self._ended.append(use)

    def _is_idle(self) -> bool:
        return self.waiters.first is None

    async def _until(self, condition: Callable[[], bool], time: float = inf) -> bool:
        """Record how calls end until a condition holds, or until a time; return whether it does."""
        while True:
            self._news.clear()
            self.brakes.tick(boot_time())
            if self._ended or self.brakes.is_resized:
                await self._record()
            if (holds := condition()) or boot_time() >= time:
                return holds
            with suppress(TimeoutError):
                async with asyncio.timeout(None if time == inf else time - boot_time()):
                    await self._news.wait()

    async def _reserve(self) -> _Use | None:
        """Reserve the token that is back first; return None if there is none."""
        before, rest = boot_time(), self.brakes.rule.rest
        use = _Use(hold=_USE_WITHIN + self._longest_call + rest)

        async def take(transaction: Transaction) -> tuple[State, float | None]:
            state = await _tokens.state(transaction)
            wait = await _tokens.take(
                transaction,
                use.id,
                limit=self.brakes.rule.limit,
                hold=use.hold,
                leaves_last=before - self._took_at < self.brakes.rule.period,
                is_paused=state.is_paused,
            )
            return state, wait

        try:
            state, wait = await self._write(take)
        except OutboxError:
            self._ended.append(use)  # it may have been reserved
            raise
        self._adopt(state)
        if wait is None:
            return None
        use.is_trial = state.is_paused
        use.due = boot_time() + wait
        use.ends_by = before + wait + use.hold - rest
        return use

    async def _record(self) -> None:
        """Record how calls ended, and the size of the bucket."""
        now, ended = boot_time(), self._ended[:]
        is_resized, self.brakes.is_resized = self.brakes.is_resized, False

        async def record(transaction: Transaction) -> State | None:
            for use in ended:
                if use.is_trial and use.sent_at is not None:
                    await _tokens.end_pause(transaction, use.id)
            if pause := max((use.asked_pause for use in ended), default=0.0):
                await _tokens.pause(transaction, pause)
            if is_resized:
                pause = self.brakes.paused_until - now
                await _tokens.resize(transaction, self._state, self.brakes.rule.size(now), pause)
            for use in ended:
                if use.sent_at is None:
                    await _tokens.put_back(transaction, use.id, use.hold)
                else:
                    longer = 0.0 if use.is_answered else use.call_timeout
                    await _tokens.let_rest(transaction, use.id, longer)
            return await _tokens.state(transaction) if is_resized else None

        try:
            state = await self._write(record)
        except OutboxError:
            self.brakes.is_resized |= is_resized
            raise
        del self._ended[: len(ended)]
        if state is not None:
            self._adopt(state)

    async def _write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        done = await self._store.write(work)
        self._reachability.answered()
        return done

    def _adopt(self, state: State) -> None:
        """Apply the latest size, set by this process or another."""
        is_new, self._state = state.version != self._state.version, state
        if is_new and not self.brakes.is_resized:  # or else this process has a newer one
            self.brakes.adopt(state.size, boot_time())
