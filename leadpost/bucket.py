"""
The vendor's limit, 25 calls in 5 seconds, as a bucket of tokens.

Why a token rests until 5 s after the *answer*: the vendor counts calls as they arrive, and a call
arrives some time between its sending and its answer. Two calls that use the same token therefore
arrive at least 5 s apart, whatever the network does, so 25 tokens never let a 26th call into any
5 s. A limiter that counts from the sending cannot promise that: delays differ from call to call.

Where enough round trips were seen, a token is back a little earlier, by what `RoundTrips` proves;
after a refusal they are to be seen anew.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import insort
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from math import inf
from operator import attrgetter
from typing import Protocol, runtime_checkable

from aiolimiter import AsyncLimiter
from attrs import define, frozen

from leadpost._names import show_in
from leadpost.errors import LeadpostError, NotSent, RateLimited
from leadpost.hooks import Hook, Paused, Resized
from leadpost.limit import LIMIT, PERIOD, check_limit, limit_in
from leadpost.pace import HASTE, RoundTrips, Share
from leadpost.watch import Hooks

LONGEST_PAUSE = 300.0
"""Seconds that the bucket makes its callers wait after a refusal; beyond, they are told at once."""

_NOTHING = 1e-9
"""Seconds: what floating point may add to a rest that is over."""

_log = logging.getLogger(__name__)


@runtime_checkable
class Bucket(Protocol):
    """Anything that lets calls through at a rate."""

    def token(self) -> AbstractAsyncContextManager[Callable[[], None] | None]:
        """
        Give a context to make one call in.

        It is entered before the call is sent and left when its answer is in or it has failed. An
        answer that says the account is over its limit leaves it as `RateLimited`, with the
        vendor's `retry_after` and `limit`: the bucket may slow down for it, and lets it pass. One
        that is left as `NotSent` was entered for nothing: no call was made.

        What it gives is None, or what to call at the last moment before sending: that raises
        `ConnectionFailed` where the token was lost meanwhile.
        """
        ...


@runtime_checkable
class SteadyBucket(Bucket, Protocol):
    """A bucket that learns from round trips and tells at what pace it gives tokens."""

    @property
    def interval(self) -> float:
        """Seconds between calls that a long batch keeps, so that a token is back all the time."""
        ...

    def round_trip(self, seconds: float) -> None:
        """Take in the seconds from the sending to the answer, on a connection that was open."""
        ...


class OpenBucket:
    """A bucket that lets every call through at once: for tests and benchmarks."""

    def token(self) -> AbstractAsyncContextManager[None]:
        """Give a context that waits for nothing."""
        return nullcontext()

    def __repr__(self) -> str:
        return "<OpenBucket>"


@frozen
class BucketStatistics:
    """
    A bucket at one moment.

    Attributes:
        limit: Tokens in all: fewer than 25 where the vendor named a lower limit, or refused calls
            because other programs use the account.
        free: Tokens that a call may take now.
        in_use: Tokens whose call is under way.
        resting: Tokens whose call has ended less than the period ago.
        waiting: Callers that wait for a token.
        paused_for: Seconds until the vendor's limit is asked again after a refusal, 0 if it is not.
    """

    limit: int
    free: int
    in_use: int
    resting: int
    waiting: int
    paused_for: float


class TokenBucket:
    """
    25 tokens; each call takes one, and it comes back 5 s after the call's answer or failure.

    The guarantee: no 26th call of this bucket's arrives at the vendor in any 5 s. Once enough round
    trips were seen, a token is back up to 0.5 s earlier, and the guarantee holds as long as none is
    shorter than `RoundTrips.head_start`, which tells why; any refusal ends that.

    Callers are served in the order in which they came; a cancelled one loses no token. A refusal
    stops all of them until Retry-After or, without one, for the period; one that names a lower
    limit makes the bucket that small for good, any other one makes it smaller for a while. Works on
    one event loop at a time, and goes on in the next one with the tokens resting as they were.

    Args:
        limit: Tokens, 1 to 25: fewer for an account with a lower limit.
        period: Seconds; anything but 5 is for a sandbox that has the same.
        hooks: Told of `Paused` and `Resized`, see `leadpost.hooks`.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self, limit: int = LIMIT, *, period: float = PERIOD, hooks: Iterable[Hook] = ()
    ) -> None:
        check_limit(limit)
        if not 0 < period < inf:
            raise ValueError(f"period: found {period}, wanted a number of seconds above 0")
        self._period = period
        self._share = Share(limit, period, limit)
        self._size = limit  # as the hooks know it
        self._tell = Hooks(hooks)
        self._trips = RoundTrips()
        self._tokens = deque(_Token() for _ in range(limit))  # the first one back first
        self._parked: list[_Token] = []  # those that are not ours for now
        self._in_use = 0
        self._waiting = 0
        self._paused_until = -inf
        self._refused_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    def __repr__(self) -> str:
        s = self.statistics()
        paused = f", paused for {s.paused_for:.1f} s" if s.paused_for else ""
        return (
            f"<TokenBucket {s.limit} per {self._period:g} s: {s.free} free, {s.in_use} in use,"
            f" {s.resting} resting, {s.waiting} waiting{paused}>"
        )

    @property
    def interval(self) -> float:
        """Seconds between calls that a long batch keeps, so that a token is back all the time."""
        return self._period / self._share.tokens * HASTE

    def round_trip(self, seconds: float) -> None:
        """Take in the seconds from the sending to the answer, on a connection that was open."""
        self._trips.saw(seconds)

    def statistics(self) -> BucketStatistics:
        """Tell how many tokens are free, in use and resting, and how many callers wait."""
        now = self._loop.time() if self._loop is not None else 0.0
        pause = max(self._paused_until - now, 0.0)
        free = 0 if pause else sum(self._rest(token, now) <= 0 for token in self._tokens)
        return BucketStatistics(
            limit=self._share.tokens,
            free=free,
            in_use=self._in_use,
            resting=len(self._tokens) - free,
            waiting=self._waiting,
            paused_for=pause,
        )

    @asynccontextmanager
    async def token(self) -> AsyncGenerator[None]:
        """
        Wait for a token, hold it while one call is made, and let it rest.

        Raises:
            RateLimited: at once, if the vendor asked for a pause of more than 300 s.
        """
        loop = asyncio.get_running_loop()
        await self._take(loop)
        called, let_through = True, False
        try:
            yield
            let_through = True
        except RateLimited as refusal:
            self._pause(refusal)
            raise
        except NotSent:
            called = False
            raise
        except LeadpostError as error:
            let_through = error.status is not None
            raise
        finally:
            if loop is self._loop:  # else it has been given back when the bucket left that loop
                await self._give_back(called=called, let_through=let_through)

    async def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            self._move_to(loop)
        self._waiting += 1
        try:
            # aiolimiter lets newcomers pass those that wait; asyncio.Lock does not.
            async with self._turn:
                await self._first_token(loop)
        finally:
            self._waiting -= loop is self._loop  # else the move to another has set it to 0

    async def _first_token(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the first token that is back. Cancelled while it waits, it leaves all as it was."""
        while True:
            if loop is not self._loop:
                raise RuntimeError("this TokenBucket went on to another event loop meanwhile")
            now = loop.time()
            pause = self._paused_until - now
            if pause > LONGEST_PAUSE:
                raise RateLimited(
                    f"the vendor asked to wait for {pause:.0f} s; nothing was sent",
                    retry_after=pause,
                )
            if pause > 0:
                await asyncio.sleep(pause)
                continue
            self._settle(now)
            if not self._tokens:
                self._returned.clear()
                await self._returned.wait()
                continue
            token = self._tokens[0]
            if token.limiter is not None:
                await token.limiter.acquire()
                token.limiter = None  # and look again: a pause may have begun meanwhile
            elif (rest := self._rest(token, now)) > _NOTHING:
                await token.let_rest(rest)  # the least round trip is trusted less than it was
            else:
                self._tokens.popleft()
                self._in_use += 1
                return

    async def _give_back(self, *, called: bool, let_through: bool) -> None:
        now = asyncio.get_running_loop().time()
        token = _Token(now, let_through)
        if called:
            token.back_at += self._period
            await token.let_rest(self._rest(token, now))
        self._in_use -= 1
        insort(self._tokens, token, key=attrgetter("back_at"))
        self._fit()
        self._returned.set()

    def _rest(self, token: _Token, now: float) -> float:
        # A call that brought no answer made no way back, which is a part of the head start.
        head_start = self._trips.head_start if token.let_through else 0.0
        return token.back_at - head_start - now

    def _pause(self, refusal: RateLimited) -> None:
        now = asyncio.get_running_loop().time()
        pause = self._period if refusal.retry_after is None else refusal.retry_after
        if now >= self._paused_until:
            self._refused_at = now
        # Of the refusals of one burst the first is told, and one that asks for much more.
        is_news = now >= self._paused_until or now + pause > self._paused_until + self._period
        self._paused_until = max(self._paused_until, now + pause)
        if is_news:
            _log.warning("the vendor refused a call (429): no calls for %.1f s", pause)
            self._tell(Paused(pause))
        self._trips = RoundTrips()
        limit = limit_in(self._period, *refusal.limit) if refusal.limit else 0
        if 0 < limit < self._share.limit:
            _log.warning(
                "the vendor's limit for this account is %d calls in %d s: the bucket shrinks"
                " from %d to %d tokens per %g s",
                *refusal.limit or (),
                self._share.limit,
                limit,
                self._period,
            )
            self._share.lowered(limit)
            self._refused_at = None  # that explains it
            self._fit()

    def _settle(self, now: float) -> None:
        """After a pause: see what of the limit others leave. In good times: try one token more."""
        if self._refused_at is not None:
            since = self._refused_at  # a token back after that was answered in the period before
            tokens = (*self._tokens, *self._parked)
            through = sum(token.let_through and token.back_at > since for token in tokens)
            self._share.refused(now, through)
            self._refused_at = None
            _log.info("others use the account too: %d tokens for now", self._share.tokens)
        elif not self._share.may_raise(now):
            return
        self._fit()

    def _fit(self) -> None:
        """Park the tokens that are not ours for now, fetch them when they are, drop the rest."""
        missing = self._share.tokens - self._in_use - len(self._tokens)
        for _ in range(min(-missing, len(self._tokens))):
            # Those that are back first: the others rest longer, as the calls just made want it.
            self._parked.append(self._tokens.popleft())
        del self._parked[max(self._share.limit - self._in_use - len(self._tokens), 0) :]
        for _ in range(min(missing, len(self._parked))):
            insort(self._tokens, self._parked.pop(0), key=attrgetter("back_at"))
        if self._size != (tokens := self._share.tokens):
            before, self._size = self._size, tokens
            self._tell(Resized(tokens, before))

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on in another event loop. Calls of the last one are over: their tokens rest anew."""
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError("this TokenBucket is in use on another event loop")
            now = loop.time()
            # Loops share the monotonic clock; where one does not, a full period is surely enough.
            latest = now + self._period
            backs = [min(token.back_at, latest) for token in (*self._tokens, *self._parked)]
            backs += [latest] * self._in_use
            self._tokens = deque(_Token(back_at) for back_at in sorted(backs))
            self._parked = []
            self._paused_until = min(self._paused_until, now + LONGEST_PAUSE)
        self._loop = loop
        self._in_use = self._waiting = 0
        self._fit()
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()


@define(eq=False)
class _Token:
    """
    One token.

    Attributes:
        back_at: The event loop's time at which its last answer is a period old.
        let_through: Whether the vendor let its last call through.
        limiter: Full until it may be used again, where that is not now.
    """

    back_at: float = -inf
    let_through: bool = False
    limiter: AsyncLimiter | None = None

    async def let_rest(self, seconds: float) -> None:
        """Never suspends: an empty limiter has room for one."""
        self.limiter = AsyncLimiter(1, max(seconds, _NOTHING))
        await self.limiter.acquire()


show_in("leadpost", globals())
