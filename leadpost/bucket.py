"""
The vendor's limit, 25 calls in 5 seconds, as a bucket of tokens.

Why a token rests until 5 s after the *answer*: the vendor counts calls as they arrive, and a call
arrives some time between its sending and its answer. Two calls that use the same token therefore
arrive at least 5 s apart, whatever the network does, so 25 tokens never let a 26th call into any
5 s. A limiter that counts from the sending cannot promise that: delays differ from call to call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from math import inf
from typing import Protocol

from aiolimiter import AsyncLimiter
from attrs import define, frozen

from leadpost.errors import RateLimited

LIMIT = 25
"""Calls in `PERIOD` that the vendor allows: "API calls exceeded the limit of 25 in 5 second(s)"."""
PERIOD = 5.0
"""Seconds."""
LONGEST_PAUSE = 300.0
"""Seconds that the bucket makes its callers wait after a refusal; beyond, they are told at once."""

_log = logging.getLogger(__name__)


class Bucket(Protocol):
    """Anything that lets calls through at a rate."""

    def token(self) -> AbstractAsyncContextManager[None]:
        """
        Give a context to make one call in.

        It is entered before the call is sent and left when its answer is in or it has failed. An
        answer that says the account is over its limit leaves it as `RateLimited`, with the
        vendor's `retry_after` and `limit`: the bucket may slow down for it, and lets it pass.
        """
        ...


class OpenBucket:
    """A bucket that lets every call through at once: for tests and benchmarks."""

    def token(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def __repr__(self) -> str:
        return "<OpenBucket>"


@frozen
class BucketStatistics:
    """
    A bucket at one moment.

    Attributes:
        limit: Tokens in all.
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

    The guarantee: no 26th call of this bucket's arrives at the vendor in any 5 s. Callers are
    served in the order in which they came; a cancelled one loses no token. A refusal stops all of
    them until Retry-After or, without one, for the period; one that names a lower limit makes the
    bucket that small for good. Works on one event loop at a time, and goes on in the next one with
    the tokens resting as they were.

    Args:
        limit: Tokens, 1 to 25: fewer for an account with a lower limit.
        period: Seconds; anything but 5 is for a sandbox that has the same.
    """

    def __init__(self, limit: int = LIMIT, *, period: float = PERIOD) -> None:
        if not 1 <= limit <= LIMIT:
            raise ValueError(f"limit: found {limit}, wanted 1 to {LIMIT}, the vendor's limit")
        if not 0 < period < inf:
            raise ValueError(f"period: found {period}, wanted a number of seconds above 0")
        self._limit = limit
        self._period = period
        self._tokens = deque(_Token() for _ in range(limit))  # soonest ready first
        self._in_use = 0
        self._waiting = 0
        self._paused_until = -inf
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

    def statistics(self) -> BucketStatistics:
        """Tell how many tokens are free, in use and resting, and how many callers wait."""
        now = self._loop.time() if self._loop is not None else -inf
        pause = max(self._paused_until - now, 0.0) if self._loop is not None else 0.0
        free = sum(token.ready_at <= now for token in self._tokens)
        return BucketStatistics(
            limit=self._limit,
            free=0 if pause else free,
            in_use=self._in_use,
            resting=len(self._tokens) - (0 if pause else free),
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
        await self._take()
        try:
            yield
        except RateLimited as refusal:
            self._pause(refusal)
            raise
        finally:
            await self._give_back()

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            await self._move_to(loop)
        self._waiting += 1
        try:
            # aiolimiter lets newcomers pass those that wait; asyncio.Lock does not.
            async with self._turn:
                await self._first_token(loop)
        finally:
            self._waiting -= 1

    async def _first_token(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            pause = self._paused_until - loop.time()
            if pause > LONGEST_PAUSE:
                raise RateLimited(
                    f"the vendor asked to wait for {pause:.0f} s; nothing was sent",
                    retry_after=pause,
                )
            if pause > 0:
                await asyncio.sleep(pause)
            elif not self._tokens:
                self._returned.clear()
                await self._returned.wait()
            elif not self._tokens[0].ready:
                # It stays in its place meanwhile, so a caller cancelled here loses nothing.
                await self._tokens[0].wait()
            else:
                self._tokens.popleft()
                self._in_use += 1
                return

    async def _give_back(self) -> None:
        self._in_use -= 1
        if self._in_use + len(self._tokens) < self._limit:
            self._tokens.append(await _rested(self._period))
            self._returned.set()

    def _pause(self, refusal: RateLimited) -> None:
        now = asyncio.get_running_loop().time()
        pause = self._period if refusal.retry_after is None else refusal.retry_after
        if now >= self._paused_until:
            _log.warning("the vendor refused a call (429): no calls for %.1f s", pause)
        self._paused_until = max(self._paused_until, now + pause)
        limit = limit_in(self._period, *refusal.limit) if refusal.limit else 0
        if 0 < limit < self._limit:
            _log.warning(
                "the vendor's limit for this account is %d calls in %d s: the bucket shrinks"
                " from %d to %d tokens per %g s",
                *refusal.limit or (),
                self._limit,
                limit,
                self._period,
            )
            self._limit = limit
            while self._tokens and self._in_use + len(self._tokens) > limit:
                self._tokens.pop()

    async def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on in another event loop. Calls of the last one are over: their tokens rest anew."""
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError("this TokenBucket is in use on another event loop")
            now = loop.time()
            # Loops share the monotonic clock; where one does not, a full period is surely enough.
            rests = [min(max(token.ready_at - now, 0.0), self._period) for token in self._tokens]
            rests += [self._period] * min(self._in_use, self._limit - len(rests))
            self._tokens = deque([await _rested(rest) for rest in sorted(rests)])
            self._paused_until = min(self._paused_until, now + LONGEST_PAUSE)
        self._loop = loop
        self._in_use = self._waiting = 0
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()


@define
class _Token:
    """One token: a limiter that is full until `ready_at`, by the event loop's clock."""

    limiter: AsyncLimiter | None = None
    ready_at: float = -inf

    @property
    def ready(self) -> bool:
        return self.limiter is None

    async def wait(self) -> None:
        if self.limiter is not None:
            await self.limiter.acquire()
            self.limiter = None


async def _rested(seconds: float) -> _Token:
    """Give a token that rests for so long. Never suspends: an empty limiter has room for one."""
    if seconds <= 0:
        return _Token()
    limiter = AsyncLimiter(1, seconds)
    await limiter.acquire()
    return _Token(limiter, asyncio.get_running_loop().time() + seconds)


def limit_in(period: float, calls: int, seconds: int) -> int:
    """
    Give how many calls each `period` keep within a limit of so many calls in so many seconds.

    A span of n periods, the last one begun, holds at most n times as many. 0 means that the limit
    is no rate at all but a quota, such as one for the day.
    """
    periods = max(-(-seconds // period), 1)
    return int(calls // periods)
