"""
LeadSquared's limit as a bucket of tokens shared by processes and hosts: 25 times in a database.

The use of a token is, one after the other:

- reserved for this process (`_reserve`): the token that is back first bears the use's id in the
  database, and is back by itself if this process dies;
- ready, once the token is back and no pause has begun meanwhile (`_step`);
- taken by the caller that is then first in line (`take`), or put back after a second;
- sent, if its call can still end in time (`_Use.before_send`);
- ended (`give_back`), and then recorded (`_record_end`): the token rests, or is as good as before.

One task, `_serve`, uses the database; callers only wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from math import inf
from uuid import uuid4

from attrs import define

from leadpost._account import Account
from leadpost._bucket_parts import Brakes, Use, Waiter, Waiters
from leadpost.bucket import (
    CALL_TIMEOUT,
    LIMIT,
    PERIOD,
    Priority,
    check_rate,
)
from leadpost.errors import OutboxError, OutboxUnavailable, TokenLost
from leadpost.hooks import Hook, Hooks
from leadpost.outbox._absence import Absence
from leadpost.outbox._clock import boot_time
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
        check_rate(limit, period)
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
    The use of a token; times are `boot_time`'s.

    Attributes:
        id: The id of the reservation in the table.
        hold: Seconds from the use of the token until it is back if this process dies.
        reserved_at: When its reservation was tried.
        due: When the token is back.
        ends_by: When its call must have ended.
        is_trial: Whether its call is the trial after a pause.
        is_ready: Whether a caller may take it.
        call_timeout: Seconds after which its call times out.
        times_out_at: The event loop's time at which it does.
    """

    id: str
    hold: float
    reserved_at: float
    due: float = inf
    ends_by: float = 0.0
    is_trial: bool = False
    is_ready: bool = False
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

    Deadlines are counted from before a statement, waits from after it, so that its duration errs on
    the safe side.
    """

    def __init__(self, store: Store, name: str, brakes: Brakes, state: State) -> None:
        self.name = name
        self.brakes = brakes
        self.waiters = Waiters()
        self.in_use = 0
        self._store = store
        self._rule = brakes.rule
        self._version = 0  # of the bucket's size
        self._reserved: _Use | None = None
        self._ended: list[_Use] = []  # to be recorded
        self._is_behind = False  # whether the last transaction failed
        self._is_ending = False
        self._longest_call = 0.0
        self._look_at = -inf
        self._took_at = -inf
        self._news = asyncio.Event()
        self._absence = Absence(f"bucket: the database {store.database.name}")
        self._adopt(state)
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
            self._reserved = None
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
        use = self._reserved
        return use if use is not None and use.is_ready and self.waiters.first is waiter else None

    def give_back(self, use: _Use) -> None:
        """Note that a call has ended."""
        self.in_use -= 1
        self._look_at = -inf
        self._ended.append(use)
        self._news.set()
        self.brakes.record(use, boot_time())

    # The task that uses the database.

    async def _serve(self) -> None:
        """Serve the callers until the bucket is closed."""
        while True:
            try:
                wait = await self._step()
                self._absence.end()
            except OutboxUnavailable as error:
                self._absence.begin(error)
                await asyncio.sleep(_RETRY)  # whatever the callers do meanwhile
                wait = 0.0
            except OutboxError as error:  # the next caller may have more luck
                self.waiters.fail(error)
                wait = _RETRY
            except Exception as error:
                self.waiters.fail(error)
                raise
            if self._is_ending and self._reserved is None and not self._ended:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait == inf else wait):
                    await self._news.wait()
            self._news.clear()

    async def _step(self) -> float:
        """Do what is possible now, and return the seconds until the next step."""
        use, now = self._reserved, boot_time()
        if use is not None and (self.waiters.first is None or now > use.due + _USE_WITHIN):
            self._put_back(use)
        self.brakes.tick(now)
        wants = self._reserved is None and self.waiters.first is not None and self._look_at <= now
        if wants or self._ended or self.brakes.is_resized:
            await self._exchange(reserves=wants and not self._is_behind)
        if self.waiters.first is None:
            return inf
        if (use := self._reserved) is None:
            return max(self._look_at - boot_time(), 0.0)
        if (wait := use.due - boot_time()) > 0:
            return wait
        if not use.is_ready and not await self._is_allowed(use):
            self._put_back(use)
            return 0.0
        use.is_ready = True
        self.waiters.wake_first()
        return use.due + _USE_WITHIN - boot_time()

    async def _exchange(self, *, reserves: bool) -> None:
        """Record how calls ended and the size of the bucket, and reserve a token, all at once."""
        before, ended = boot_time(), self._ended[:]
        is_resized, self.brakes.is_resized = self.brakes.is_resized, False
        hold = _USE_WITHIN + self._longest_call + self._rule.rest
        use = _Use(id=uuid4().hex, hold=hold, reserved_at=before) if reserves else None

        async def exchange(transaction: Transaction) -> tuple[State, float | None]:
            for one in ended:
                await self._record_end(transaction, one)
            if is_resized:
                pause = max(self.brakes.paused_until - before, 0.0)
                size = self._rule.size(before)
                await _tokens.resize(transaction, size, pause, self._version)
            state = await _tokens.state(transaction)
            return state, None if use is None else await self._reserve(transaction, state, use)

        rest, self._is_behind = self._rule.rest, True
        try:
            state, wait = await self._store.write(exchange)
        except OutboxError:
            self.brakes.is_resized |= is_resized
            if use is not None:
                self._ended.append(use)  # it may have been reserved
            raise
        self._is_behind = False
        del self._ended[: len(ended)]
        self._adopt(state)
        if use is not None and wait is not None:
            use.due = boot_time() + wait
            use.ends_by = before + wait + hold - rest
            self._reserved = use
        elif use is not None:
            self._look_at = before + _LOOK_AGAIN

    async def _reserve(self, transaction: Transaction, state: State, use: _Use) -> float | None:
        """Return the seconds until the token may be used, None if there is none."""
        if state.is_ahead:
            await _tokens.follow_clock(transaction)
        use.is_trial = state.has_trial and await _tokens.begin_trial(transaction, use.id, use.hold)
        wait = await _tokens.take(
            transaction,
            use.id,
            limit=self._rule.limit,
            hold=use.hold,
            leaves_last=boot_time() - self._took_at < self._rule.period,
            is_trial=use.is_trial,
        )
        if use.is_trial and wait is None:
            await _tokens.end_trial(transaction, use.id, was_made=False)
        return wait

    async def _is_allowed(self, use: _Use) -> bool:
        """Whether no pause and no trial have begun since the token was reserved."""
        if boot_time() - use.reserved_at <= _LOOK_AGAIN:
            return True
        state = await self._store.read(_tokens.state)
        self._adopt(state)
        return not state.is_paused and (use.is_trial or not state.has_trial)

    def _put_back(self, use: _Use) -> None:
        self._reserved = None
        self._ended.append(use)

    async def _record_end(self, transaction: Transaction, use: _Use) -> None:
        was_made = use.sent_at is not None
        if was_made:
            longer = 0.0 if use.is_answered else use.call_timeout
            await _tokens.let_rest(transaction, use.id, longer)
        else:
            await _tokens.put_back(transaction, use.id, use.hold)
        if use.is_trial:
            await _tokens.end_trial(transaction, use.id, was_made=was_made)
        if use.asked_pause:
            await _tokens.pause(transaction, use.asked_pause)

    def _adopt(self, state: State) -> None:
        """Apply the latest size, set by this process or another."""
        if state.version != self._version:
            self._version = state.version
            if not self.brakes.is_resized:  # or else this process has a newer one
                self.brakes.adopt(state.size, boot_time())
