"""
LeadSquared's limit as a bucket of tokens shared by processes and hosts: 25 rows of a database.

In each process one task, `_Share._serve`, uses the database. Again and again it reserves the token
that is back first, waits until it is back, and offers it to the callers: who is then first in line
takes it. A caller only notes how its call ended; the task writes that, and the token rests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from math import inf
from uuid import uuid4

from attrs import define, field

from leadpost._account import Account
from leadpost._bucket_parts import Brakes, Use, Waiters
from leadpost.bucket import CALL_TIMEOUT, LIMIT, PERIOD, Priority, check_rate
from leadpost.errors import OutboxError, OutboxUnavailable, TokenLost
from leadpost.hooks import Hook, Hooks
from leadpost.outbox._clock import boot_time
from leadpost.outbox._reachability import Reachability
from leadpost.outbox._waiting import until_done
from leadpost.outbox.database import Database, Store, _tokens
from leadpost.outbox.database._sql import Transaction
from leadpost.outbox.database._tokens import Row

_LOOK_AGAIN = 0.25
"""Seconds until the next look, if no token rests."""
_USE_WITHIN = 1.0
"""Seconds in which a reserved token must be used once it is back."""
_SLOWEST = 10.0
"""Seconds that a reservation may take."""
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
        if share is None:
            return f"<SharedTokenBucket in {self._database.name}: not open>"
        state = f"{share.in_use} in use here, {len(share.waiters)} waiting here"
        return f"<SharedTokenBucket of {share.name} in {self._database.name}: {state}>"

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
        if name == account.fingerprint:
            _log.info("bucket: not shared with other access keys, as the account has no name")
        store = Store(self._database, bucket=name)
        await self._database.open()
        try:
            row = await store.write(_tokens.create, self._period)
        except BaseException:
            await self._database.aclose()
            raise
        brakes = Brakes(self._limit, self._period, self._emit)
        self._share = _Share(store, name, brakes, row)

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
            raise RuntimeError("this bucket is not open: use its poster with `async with`")
        if priority is Priority.LONG_BATCH:
            await share.brakes.pacer.acquire()
            priority = Priority.BATCH
        use = await share.get_token(priority, call_timeout)
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
        back_at: When the token may be used.
        ends_by: When its call must have ended.
        is_taken: Whether a caller has it.
        call_timeout: Seconds after which its call times out.
        times_out_at: The event loop's time at which it does.
    """

    hold: float
    id: str = field(factory=lambda: uuid4().hex)
    back_at: float = inf
    ends_by: float = 0.0
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

    `get_token` and `give_back` are for callers; one task, `_serve`, uses the database.

    Deadlines are counted from before a statement, waits from after it: so the time that it takes
    can only make a call later, or its deadline earlier.
    """

    def __init__(self, store: Store, name: str, brakes: Brakes, row: Row) -> None:
        self.name = name
        self.brakes = brakes
        self.waiters = Waiters()
        self.in_use = 0
        self._store = store
        self._row = row  # as it was last read
        self._written_changes = 0  # of `brakes.changes`
        self._offered: _Use | None = None  # to the caller who is first in line
        self._ended: list[_Use] = []  # to be written
        self._error: Exception | None = None  # for all callers, once no more are served
        self._longest_call = 0.0
        self._took = 0.0  # how long the last reservation took, in seconds
        self._took_at = -inf
        self._look_at = -inf  # for a token, if none rested last time
        self._news = asyncio.Event()  # for the task that uses the database
        self._reachability = Reachability(f"bucket: the database {store.database.name}")
        if row.version:
            brakes.adopt(row.size, boot_time())
        self._serving = asyncio.create_task(self._serve())
        cancelled = RuntimeError("the task of the SharedTokenBucket was cancelled")
        self._serving.add_done_callback(lambda _: self._fail(self._error or cancelled))

    async def end(self) -> None:
        """Write how calls ended, unless the database does not answer."""
        self._fail(RuntimeError("the SharedTokenBucket is closed"))
        self._news.set()
        try:
            await until_done([self._serving], _CLOSE)
        finally:
            if self._serving.cancel() or self._ended:
                _log.warning("bucket: the database did not answer; the last tokens return late")
            await until_done([self._serving], _CLOSE)

    def _fail(self, error: Exception) -> None:
        self._error = error
        self.waiters.fail(error)

    async def get_token(self, priority: Priority, call_timeout: float) -> _Use:
        """Wait for a token, and take it."""
        if self._error is not None:
            raise self._error
        self._longest_call = max(self._longest_call, call_timeout)
        waiter = self.waiters.join(priority)
        self._news.set()
        try:
            while (use := self._offered) is None or self.waiters.first is not waiter:
                await waiter.news.wait()
                waiter.news.clear()
                if waiter.error is not None:
                    raise waiter.error
            self._offered, use.is_taken = None, True
        finally:
            self.waiters.leave(waiter)
            self._news.set()
        self.in_use += 1
        self._took_at = boot_time()
        use.call_timeout = call_timeout
        use.times_out_at = asyncio.get_running_loop().time() + call_timeout
        return use

    def give_back(self, use: _Use) -> None:
        """Record that a call has ended."""
        self.in_use -= 1
        self._ended.append(use)
        self._news.set()
        self.brakes.record(use, boot_time())
        if boot_time() < self.brakes.paused_until:
            self._offered = None  # if no caller has taken it yet

    async def _serve(self) -> None:
        """Serve the callers, until the bucket is closed and everything is written."""
        while self._error is None or self._ended:
            try:
                await self._write_ended()
                look_at = max(self._look_at, self.brakes.paused_until) if self._is_wanted else inf
                if boot_time() >= look_at:
                    await self._serve_one()
                elif self._error is None:
                    await self._wait(look_at)
            except OutboxError as error:
                self._reachability.failed(error)
                if not isinstance(error, OutboxUnavailable):
                    self.waiters.fail(error)  # the next caller may have more luck
                await asyncio.sleep(_RETRY)
            except Exception as error:
                self._fail(error)
                raise

    async def _serve_one(self) -> None:
        """Reserve a token, wait until it is back, and offer it to the caller who is then first."""
        begun_at = boot_time()
        use = await self._reserve()
        if use is None:
            self._look_at = begun_at + _LOOK_AGAIN
            return
        try:
            await self._wait_for_token(use.back_at - _LOOK_AGAIN)
            if boot_time() > begun_at + _LOOK_AGAIN:  # meanwhile a pause may have begun elsewhere
                row = await self._store.read(_tokens.read_row)
                if row.pause is not None and row.trial_id != use.id:
                    return
            await self._wait_for_token(use.back_at)
            if boot_time() < self.brakes.paused_until:
                return
            use_by = use.ends_by - self._longest_call
            self._offered = use
            self.waiters.wake_first()
            while self._is_wanted and self._offered is use and boot_time() < use_by:
                await self._wait(use_by)
        finally:
            self._offered = None
            if not use.is_taken:
                self._ended.append(use)

    async def _wait_for_token(self, until: float) -> None:
        """Wait until a time, while callers wait too, and write how calls end."""
        while self._is_wanted and boot_time() < until:
            await self._write_ended()
            await self._wait(until)

    @property
    def _is_wanted(self) -> bool:
        """Whether a caller waits for a token."""
        return self.waiters.first is not None

    async def _wait(self, until: float) -> None:
        """Wait for news, but not longer than until a time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if until == inf else until - boot_time()):
                await self._news.wait()
        self._news.clear()

    async def _reserve(self) -> _Use | None:
        """Reserve the token that is back first; return None if there is none."""
        rule = self.brakes.rule
        # A slow database must leave time for the use of the token.
        ends_within = _USE_WITHIN + min(self._took, _SLOWEST) + self._longest_call
        use = _Use(hold=ends_within + rule.rest)

        def reserve(transaction: Transaction) -> tuple[Row, float | None]:
            before = boot_time()  # here, so that the wait for SQLite's lock does not count
            leaves_last = before - self._took_at < rule.period
            row, wait = _tokens.reserve(
                transaction, use.id, limit=rule.limit, hold=use.hold, leaves_last=leaves_last
            )
            if wait is not None:
                use.back_at, use.ends_by = boot_time() + wait, before + wait + ends_within
            return row, wait

        began = boot_time()
        try:
            row, wait = await self._store.write(reserve)
        except OutboxError:
            self._ended.append(use)  # it may have been reserved
            raise
        finally:
            self._took = boot_time() - began
        self._adopt(row)
        return None if wait is None else use

    async def _write_ended(self) -> None:
        """Write how calls have ended, and the size of the bucket if it was changed here."""
        now, ended, brakes = boot_time(), self._ended[:], self.brakes
        brakes.tick(now)
        changes, size = brakes.changes, brakes.rule.size(now)
        if not ended and changes == self._written_changes:
            return

        def write(transaction: Transaction) -> Row:
            for use in ended:
                if use.sent_at is None:
                    _tokens.put_back(transaction, use.id, use.hold)
                else:
                    longer = 0.0 if use.is_answered else use.call_timeout
                    _tokens.let_rest(transaction, use.id, longer)
            for use in ended:
                _tokens.end_trial(transaction, use.id, was_sent=use.sent_at is not None)
            if pause := max((use.asked_pause for use in ended), default=0.0):
                _tokens.pause(transaction, pause)
            if changes != self._written_changes:
                _tokens.resize(transaction, self._row, size)
            return _tokens.read_row(transaction)

        row = await self._store.write(write)
        self._look_at = -inf
        del self._ended[: len(ended)]
        self._written_changes = changes
        self._adopt(row)

    def _adopt(self, row: Row) -> None:
        """Apply the latest size, which this process or another has set."""
        self._reachability.answered()
        is_new, self._row = row.version != self._row.version, row
        if is_new and self.brakes.changes == self._written_changes:  # else it has a newer one
            self.brakes.adopt(row.size, boot_time())
