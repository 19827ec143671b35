"""The vendor's limit as a bucket of tokens that processes and hosts share."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._account import Account
from leadpost.bucket import (
    CALL_TIMEOUT,
    LIMIT,
    LONGEST_RETRY_AFTER,
    PERIOD,
    Priority,
    check_limit,
)
from leadpost.errors import (
    ConnectionFailed,
    LeadpostError,
    OutboxError,
    OutboxUnavailable,
    RateLimited,
    TokenLost,
)
from leadpost.hooks import Hook, Hooks, Paused, Resized
from leadpost.outbox.arguments import check_type
from leadpost.outbox.away import Away
from leadpost.outbox.schema import buckets
from leadpost.outbox.store import GOOD_BYE, Store, ended, inserted_once, now
from leadpost.outbox.tokens import Clock, Grant, Refusal, Release, Tokens, Wish

LEASE = 15.0
"""Seconds after the last word of a process until its tokens are taken to be lost with it."""

_AWAY = 0.5
"""Seconds between two tries while the store is away."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class SharedTokenBucket:
    """
    The same 25 calls in 5 s for every process and host that uses the same store and name.

    The guarantee is `TokenBucket`'s: over all of them, no 26th call arrives in any 5 s. A token is
    back 5 s after the answer of its last call. One of a process that has died, or was frozen for
    longer than its lease, is back 5 s after the lease; and such a process, woken, makes no call
    with it. A refusal stops all of them, and a lower limit is learned by all of them. They take
    turns, whatever number of callers each has.

    While the store is away callers wait, as no one can tell then who calls. The store's clock may
    jump: that holds nobody up for longer than the period.

    Use it as an async context manager, within one event loop.

    Args:
        url: The store, as for `Outbox`; it may be the same.
        account: Whose limit it is; the bucket is named by a fingerprint of host and access key. Or
            a name of your own.
        limit: Tokens, 1 to 25, the same in every process: fewer for an account with a lower limit.
        period: Seconds; anything but 5 is for a sandbox that has the same.
        lease: Seconds; a process is taken for dead if it says nothing for so long.
        hooks: Told of `Paused`, where the call that was refused is this process's, and of
            `Resized`, see `leadpost.hooks`.

    Raises:
        ValueError: if a number is out of range.
        OutboxError: on entering, if the store cannot be used.
    """

    def __init__(
        self,
        url: str,
        account: Account | str,
        *,
        limit: int = LIMIT,
        period: float = PERIOD,
        lease: float = LEASE,
        hooks: Iterable[Hook] = (),
    ) -> None:
        check_limit(limit)
        if not (0 < period < inf and 0 < lease < inf):
            raise ValueError("period, lease: wanted numbers of seconds above 0")
        # A token needs no disk to outlive its process; when the machine dies, it has rested.
        self._store = Store(url, brief=True)
        if not isinstance(account, str):
            check_type("account", account, Account)
        self.name = account if isinstance(account, str) else fingerprint(account)
        self._limit = limit
        self._size = limit  # as the hooks know it
        self._tell = Hooks(hooks)
        self._period = period
        self._lease = lease
        self._interval = period / limit
        self._holder = uuid4().hex
        self._clock = Clock()
        self._known = False  # whether the store has heard of us
        self._jumped = False
        self._waiting: list[tuple[Priority, int, asyncio.Future[int]]] = []  # a heap
        self._numbers = count()
        self._pacing = asyncio.Lock()
        self._paced_at = -inf
        self._asked = False  # whether the store knows of all that wait
        self._ahead: float | None = None  # when the token that we have in advance may be used
        self._in_use = 0
        self._released: list[_Released] = []
        self._refusals: list[tuple[float, RateLimited]] = []
        self._paused_until = -inf
        self._touched_at = -inf
        self._lease_ends = (-inf, -inf)  # by the monotonic clock, by the wall clock
        self._epoch = 0  # counts how often what we had was taken for lost
        self._news = asyncio.Event()
        self._clerk: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return (
            f"<SharedTokenBucket {self.name} in {self._store.name}: {self._in_use} in use here,"
            f" {len(self._waiting)} waiting here>"
        )

    async def __aenter__(self) -> Self:
        await self._store.open()
        self._clerk = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give all tokens back: those of calls under way rest as if just answered."""
        clerk, self._clerk = self._clerk, None
        if clerk is None:
            return
        has_failed = clerk.done()  # then it was told, and there is nothing to give back
        clerk.cancel()
        await asyncio.wait([clerk], timeout=GOOD_BYE)
        self._fail_waiting(RuntimeError("the SharedTokenBucket is closed"))
        before = time.monotonic()
        try:
            if not has_failed:
                leave = partial(self._leave, self._wish(before), before)
                leaving = asyncio.create_task(self._changed(leave))
                if await ended(leaving):
                    leaving.result()
                else:
                    _log.warning("the tokens are back when their lease ends: no answer")
        except OutboxUnavailable as error:
            _log.warning("the tokens are back when their lease ends: %s", error)
        finally:
            await self._store.aclose()

    @asynccontextmanager
    async def token(
        self, priority: Priority = Priority.SINGLE, call_timeout: float = CALL_TIMEOUT
    ) -> AsyncGenerator[Callable[[], None]]:
        """
        Wait for a token, hold it while one call is made, and let it rest; see `Bucket.token`.

        Args:
            priority: Who is served first, of those that wait in this process.
            call_timeout: Seconds after which the call has ended at the latest.

        Yields:
            What to call at the last moment before sending; it raises `TokenLost` if the lease has
            ended meanwhile, as that of a frozen process does.

        Raises:
            OutboxError: the store cannot be used any more.
        """
        if priority is Priority.LONG_BATCH:
            await self._keep_pace()
            priority = Priority.BATCH
        epoch = await self._turn(priority)
        is_sent, answered = False, False

        def begin() -> None:
            nonlocal is_sent
            if epoch != self._epoch or not self._has_lease():
                raise TokenLost("the lease of the token ended before the call was sent")
            is_sent = True

        try:
            yield begin
            answered = True
        except RateLimited as refusal:
            answered = True
            self._refused(refusal)
            raise
        except ConnectionFailed as error:
            is_sent, answered = error.sent, error.status is not None
            raise
        except LeadpostError as error:
            answered = error.status is not None
            raise
        finally:
            rest = 0.0
            if is_sent:
                rest = self._period if answered else call_timeout + self._period
            self._give_back(epoch, time.monotonic() + rest, let_through=is_sent and answered)

    async def _keep_pace(self) -> None:
        async with self._pacing:
            await asyncio.sleep(self._paced_at + self._interval - time.monotonic())
            self._paced_at = time.monotonic()

    async def _turn(self, priority: Priority) -> int:
        if self._clerk is None:
            raise RuntimeError("a SharedTokenBucket is used within `async with`")
        if self._clerk.done():
            self._clerk.result()  # raises what ended it
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (priority, next(self._numbers), turn))
        self._asked = False
        self._news.set()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(turn.result(), time.monotonic(), let_through=False)
            raise

    def _give_back(self, epoch: int, back_at: float, *, let_through: bool) -> None:
        if epoch == self._epoch:  # else it has been taken from us
            self._in_use -= 1
            self._released.append(_Released(time.monotonic(), back_at, let_through))
            self._news.set()

    def _has_lease(self) -> bool:
        # The monotonic clock may stand still while a machine sleeps, the other one may jump.
        monotonic, wall = self._lease_ends
        return time.monotonic() < monotonic and time.time() < wall

    def _refused(self, refusal: RateLimited) -> None:
        moment = time.monotonic()
        pause = self._period if refusal.retry_after is None else refusal.retry_after
        pause = min(pause, LONGEST_RETRY_AFTER)
        is_news = moment >= self._paused_until or moment + pause > self._paused_until + self._period
        self._paused_until = max(self._paused_until, moment + pause)
        if is_news:
            _log.warning("the vendor refused a call (429): no calls for %.1f s", pause)
            self._tell(Paused(pause))
        self._refusals.append((moment + pause, refusal))

    async def _work(self) -> None:
        """Tell the store what we have and want, and hand on what it gives, until cancelled."""
        store = Away(f"the tokens' store {self._store.name}")
        try:
            while True:
                self._hand_on()
                touch_at, wake_at = self._plans()
                moment = time.monotonic()
                if touch_at > moment:
                    await self._sleep(min(touch_at, wake_at) - moment)
                    continue
                try:
                    await self._touch()
                except OutboxUnavailable as error:
                    store.is_away(error)
                    await asyncio.sleep(_AWAY)
                else:
                    store.is_back()
        except Exception as error:
            self._fail_waiting(error)
            raise

    async def _sleep(self, seconds: float) -> None:
        """Sleep until then, or until there is news."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == inf else seconds):
                await self._news.wait()
        self._news.clear()

    def _plans(self) -> tuple[float, float]:
        """Give, in monotonic seconds, when to touch the store next and when to look again here."""
        poll = self._touched_at + self._period / 10
        touch_at, wake_at = inf, inf
        if self._refusals:
            return -inf, inf
        if self._ahead is not None:
            # Often enough to hear of a pause meanwhile.
            touch_at, wake_at = poll, max(self._ahead, self._paused_until)
        elif self._waiting:
            touch_at = poll if self._asked else -inf
        if self._released:
            # A little later, so that one touch serves the next call too.
            touch_at = min(touch_at, self._released[0].at + self._period / LIMIT)
        if self._in_use:
            touch_at = min(touch_at, self._touched_at + self._lease / 3)
        return touch_at, wake_at

    def _hand_on(self) -> None:
        """Give the token that we have in advance to the first that waits, once it may be used."""
        moment = time.monotonic()
        if self._ahead is None or not self._has_lease():
            return
        if not self._waiting_first():
            self._released.append(_Released(moment, self._ahead, let_through=False))
            self._ahead = None
        elif max(self._ahead, self._paused_until) <= moment <= self._touched_at + self._period / 10:
            self._ahead = None
            self._asked = False  # for the next one
            self._in_use += 1
            heappop(self._waiting)[2].set_result(self._epoch)

    def _waiting_first(self) -> bool:
        """Tell whether anybody waits; those that were cancelled do not."""
        while self._waiting and self._waiting[0][2].done():
            heappop(self._waiting)
        return bool(self._waiting)

    def _fail_waiting(self, error: Exception) -> None:
        while self._waiting_first():
            heappop(self._waiting)[2].set_exception(error)

    def _wish(self, moment: float) -> Wish:
        self._waiting_first()
        waiting = sum(not turn.done() for _, _, turn in self._waiting)
        has_ahead = self._ahead is not None
        return Wish(
            self._holder,
            self._limit,
            self._epoch,
            out=self._in_use + has_ahead,
            wanted=max(waiting - has_ahead, 0),
            ahead=not has_ahead,
            released=tuple(Release(r.back_at - moment, r.let_through) for r in self._released),
            refusals=tuple(Refusal(end - moment, told.limit) for end, told in self._refusals),
        )

    async def _touch(self) -> None:
        self._asked = True
        before, wall = time.monotonic(), time.time()
        wish = self._wish(before)
        grant = await self._changed(partial(self._granted, wish, before))
        after = time.monotonic()
        self._known, self._jumped = True, False
        del self._released[: len(wish.released)], self._refusals[: len(wish.refusals)]
        self._touched_at = after
        self._lease_ends = before + self._lease, wall + self._lease
        if grant.lost:
            _log.warning("the lease of this process had ended: its tokens were taken back")
            self._epoch += 1
            self._in_use = 0
            self._ahead = None
            self._released.clear()
        if not self._refusals:
            self._paused_until = after + grant.pause if grant.pause else -inf
        self._interval = self._period / grant.tokens * grant.holders
        if self._size != grant.tokens:
            last, self._size = self._size, grant.tokens
            self._tell(Resized(grant.tokens, last))
        for wait in grant.waits:
            if wait > 0:
                self._ahead = after + wait
            elif self._waiting_first():
                self._in_use += 1
                heappop(self._waiting)[2].set_result(self._epoch)
            else:
                self._in_use += 1
                self._give_back(self._epoch, after, let_through=False)

    def _granted(self, wish: Wish, before: float, tokens: Tokens, moment: float) -> Grant:
        self._mind_jumps(before, tokens, moment)
        return tokens.touch(wish, moment, lease=self._lease, patience=self._period / 5)

    def _leave(self, wish: Wish, before: float, tokens: Tokens, moment: float) -> None:
        self._mind_jumps(before, tokens, moment)
        tokens.leave(wish, moment)

    def _mind_jumps(self, before: float, tokens: Tokens, moment: float) -> None:
        """Let all rest as long as it had to, where the store's clock may have jumped."""
        self._jumped |= self._clock.jumped(before, moment, time.monotonic())
        # Whoever comes new cannot tell a jump from a pause; that others ended without a good-bye
        # may mean either. The clock of one machine does not jump.
        is_known = self._known or self._store.is_local
        if self._jumped or (not is_known and tokens.lapsed(moment)):
            _log.info("the clock of %s may have jumped", self._store.name)
            tokens.shift(moment)

    async def _changed(self, change: Callable[[Tokens, float], T]) -> T:
        """Change the state in the store, with nobody else between."""

        async def work(connection: AsyncConnection) -> T:
            own = buckets.c.name == self.name
            touch = sa.update(buckets).where(own).values(touches=buckets.c.touches + 1)
            # The row is locked before the clock is read.
            asked = touch.returning(buckets.c.state, now(connection))
            found = (await connection.execute(asked)).one_or_none()
            if found is None:
                state = Tokens.full(self._limit, self._period).to_json()
                new = {"name": self.name, "touches": 0, "state": state}
                await connection.execute(inserted_once(connection, buckets).values(new))
                found = (await connection.execute(asked)).one()
            tokens = Tokens.from_json(found[0])
            if tokens.share.period != self._period:
                raise OutboxError(
                    f"the bucket {self.name} in {self._store.name} is of {tokens.share.period:g} s,"
                    f" not {self._period:g} s: give it another name"
                )
            # On one machine the monotonic clock is every process's, and knows no jumps.
            moment = time.monotonic() if self._store.is_local else found[1]
            answer = change(tokens, moment)
            await connection.execute(sa.update(buckets).where(own).values(state=tokens.to_json()))
            return answer

        return await self._store.write(work)


@frozen
class _Released:
    """
    A token that was given back here and not yet to the store.

    Attributes:
        at: Since when, in monotonic seconds.
        back_at: When it may be used again.
        let_through: Whether the vendor let its call through.
    """

    at: float
    back_at: float
    let_through: bool


def fingerprint(account: Account) -> str:
    """Give a name for an account's bucket that tells neither host nor key."""
    text = f"{account.host}\n{account.access_key}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
