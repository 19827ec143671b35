"""
LeadSquared's limit, 25 calls in 5 seconds, as a bucket of tokens.

Why a token rests until 5 s after the *answer*: LeadSquared counts calls as they arrive, and a call
arrives some time between its sending and its answer. Two calls that use the same token therefore
arrive at least 5 s apart, whatever the network does, so 25 tokens never let a 26th call into any
5 s. A limiter that counts from the sending cannot promise that: delays differ from call to call.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from enum import IntEnum
from math import inf
from typing import Protocol, runtime_checkable

from attrs import define, frozen

from leadpost._account import Account
from leadpost._bucket_parts import LONGEST_RETRY_AFTER, Brakes, Use, Waiter, Waiters
from leadpost._refusals import uses
from leadpost.hooks import Hook, Hooks

LIMIT = 25
"""Calls in `PERIOD` that LeadSquared allows: "exceeded the limit of 25 in 5 second(s)"."""
PERIOD = 5.0
"""Seconds."""
CALL_TIMEOUT = 30.0
"""Seconds from the token of a call to the last byte of its answer, by default."""


class Priority(IntEnum):
    """Who gets the next token: the lowest number first, then in order of arrival."""

    RETRY = 0
    """A further attempt of a single call."""
    SINGLE = 1
    """A single call."""
    BATCH_RETRY = 2
    """A further attempt of an activity of a batch."""
    BATCH = 3
    """An activity of a batch that was not tried yet."""
    LONG_BATCH = 4
    """
    The same, in a long batch, whose calls should be sent evenly: a single call in the middle of it
    then finds a token soon. A bucket without spacing may treat it as `BATCH`.
    """


@runtime_checkable
class Bucket(Protocol):
    """Anything that lets calls through at a rate."""

    def token(
        self, priority: Priority, call_timeout: float
    ) -> AbstractAsyncContextManager[Callable[[], None]]:
        """
        Return an async context manager for one call.

        Entering it waits for a token. It yields a function that is called at the last moment before
        anything is sent, without arguments: before the headers, and again before the body. That
        function raises `TokenLost` if the token is no longer this caller's, as after a process was
        frozen. From then on the call counts as sent.

        It is left in the task that entered it, when the call has ended:

        - That function was not called: nothing was sent, the token is as good as before. The same
          if it is left with `ConnectionFailed` whose `sent` is False.
        - Left normally or with a `LeadpostError` that has a `status`: the answer has come, the
          token rests from now on. With `RateLimited`, LeadSquared refused the call; its
          `retry_after` and `limit` say how to slow down. The error must pass through.
        - Left with anything else: the call may still be on its way for `call_timeout` seconds, and
          the token rests from then on.

        Args:
            priority: Who is served first.
            call_timeout: Seconds after which the call has ended at the latest.
        """
        ...


@runtime_checkable
class ManagedBucket(Bucket, Protocol):
    """
    A bucket that is opened and closed, such as one that keeps its tokens in a database.

    `AsyncActivityPoster` opens it when it is entered, and closes it when its calls have ended.
    """

    async def open(self, account: Account) -> None:
        """
        Make the bucket ready for calls.

        Args:
            account: The poster's: whose limit it is.
        """
        ...

    async def aclose(self) -> None:
        """Return what the calls have used, and close what was opened."""
        ...


class OpenBucket:
    """A bucket that lets every call through at once: for tests and benchmarks."""

    def token(
        self, priority: Priority, call_timeout: float
    ) -> AbstractAsyncContextManager[Callable[[], None]]:
        """Return a context manager that waits for nothing, whatever `priority`, `call_timeout`."""
        del priority, call_timeout
        return nullcontext(_nothing)

    def __repr__(self) -> str:
        return "<OpenBucket>"


def _nothing() -> None:
    """The check of a token that cannot be lost."""


@frozen
class BucketStatistics:
    """
    A bucket at one moment.

    Attributes:
        limit: Tokens in use or usable: fewer than 25 after refusals.
        free: Tokens that a call may take now.
        in_use: Tokens whose call is in flight.
        resting: Tokens whose call ended less than the period ago.
        waiting: Callers that wait for a token.
        paused_for: Seconds until calls may go again after a refusal, 0 without a pause.
    """

    limit: int
    free: int
    in_use: int
    resting: int
    waiting: int
    paused_for: float


class TokenBucket:
    """
    25 tokens: each call takes one, which is back 5 s after the call's answer.

    The guarantee: no 26th call of this bucket arrives at LeadSquared in any 5 s. A call that was
    sent and never answered may arrive later, so its token rests for the call's time-out and 5 s. A
    call that was never sent leaves its token unused.

    Callers are served by priority, then in order of arrival. After refusals (429) the bucket may
    pause and shrink, see `leadpost._refusals`. It works in one event loop at a time, and in the
    next one its tokens continue to rest.

    Args:
        limit: Tokens, 1 to 25: fewer for an account with a lower limit.
        period: Seconds; use a value other than 5 only with a sandbox of the same period.
        hooks: Functions that are called with `Paused` and `Resized`, see `leadpost.hooks`.

    Attributes:
        most_calls: The most calls that it lets through in any 5 s.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, limit: int = LIMIT, *, period: float = PERIOD, hooks: Iterable[Hook] = ()
    ) -> None:
        self.most_calls = check_rate(limit, period)
        self._limit = limit
        self._period = period
        self._brakes = Brakes(limit, period, Hooks(hooks))
        # For each token that is not in use, the time by which its last call had arrived, the
        # earliest first. A caller takes the first: so these are always the latest calls.
        self._arrivals = [-inf] * limit
        self._in_use = 0
        self._waiters = Waiters()
        # After a pause a single call has to show that LeadSquared takes calls again.
        self._needs_trial = False
        self._trial: _Use | None = None
        self._longest_call = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        s = self.statistics()
        paused = f", paused for {s.paused_for:.1f} s" if s.paused_for else ""
        return (
            f"<TokenBucket {s.limit} per {self._period:g} s: {s.free} free, {s.in_use} in use,"
            f" {s.resting} resting, {s.waiting} waiting{paused}>"
        )

    def statistics(self) -> BucketStatistics:
        """Return how many tokens are free, in use and resting, and how many callers wait."""
        now = self._loop.time() if self._loop is not None else 0.0
        pause = max(self._brakes.paused_until - now, 0.0)
        size = self._brakes.rule.tokens
        back = sum(arrived + self._brakes.rule.rest <= now for arrived in self._arrivals)
        free = 0 if pause else max(back - (self._limit - size), 0)
        return BucketStatistics(
            limit=size,
            free=free,
            in_use=self._in_use,
            resting=min(len(self._arrivals) - back, max(size - self._in_use, 0)),
            waiting=len(self._waiters),
            paused_for=pause,
        )

    @asynccontextmanager
    async def token(
        self, priority: Priority = Priority.SINGLE, call_timeout: float = CALL_TIMEOUT
    ) -> AsyncGenerator[Callable[[], None]]:
        """
        Wait for a token, hold it while one call is made, and let it rest; see `Bucket.token`.

        Args:
            priority: Who is served first.
            call_timeout: Seconds after which the call has ended at the latest.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        self._longest_call = max(self._longest_call, call_timeout)
        if priority is Priority.LONG_BATCH:
            await self._brakes.pacer.acquire()
            priority = Priority.BATCH
        use = await self._take(priority, loop)
        try:
            with use.watched():
                yield use.before_send
        finally:
            if loop is self._loop:  # else it was given back when the bucket left that loop
                self._give_back(use, call_timeout)

    async def _take(self, priority: Priority, loop: asyncio.AbstractEventLoop) -> _Use:
        """Take the first token that is back, when its turn comes. Cancelled, change nothing."""
        waiters = self._waiters
        waiter = waiters.join(priority)
        try:
            while (wait := self._wait_of(waiter, loop)) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == inf else wait):
                        await waiter.news.wait()
                waiter.news.clear()
            self._in_use += 1
            use = _Use(loop, self._arrivals.pop(0))
            if self._needs_trial:
                self._needs_trial, self._trial = False, use
            return use
        finally:
            waiters.leave(waiter)

    def _wait_of(self, waiter: Waiter, loop: asyncio.AbstractEventLoop) -> float:
        """Return the seconds until this caller may take a token; inf if others are first."""
        if loop is not self._loop:
            raise RuntimeError("this TokenBucket has moved to another event loop")
        if self._waiters.first is not waiter or self._trial is not None:
            return inf
        now = loop.time()
        self._brakes.tick(now)
        rule = self._brakes.rule
        spare = self._limit - rule.tokens  # tokens that have to stay, for the size
        if len(self._arrivals) <= spare:
            return inf
        back_at = self._arrivals[spare] + rule.rest
        # Also never 26 calls in a period, if a refusal has named a shorter one.
        return max(back_at, self._arrivals[0] + self._period, self._brakes.paused_until) - now

    def _give_back(self, use: _Use, call_timeout: float) -> None:
        now = use.loop.time()
        self._in_use -= 1
        if use.sent_at is None:
            insort(self._arrivals, use.arrived_before)
        else:
            insort(self._arrivals, now + (0.0 if use.is_answered else call_timeout))
        if self._trial is use:
            self._trial, self._needs_trial = None, use.sent_at is None
        self._brakes.record(use, now)
        if use.asked_pause:
            self._trial, self._needs_trial = None, True  # once the pause is over
        self._waiters.wake_first()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Continue in another event loop. The calls of the last one have ended without answers."""
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError("this TokenBucket is in use on another event loop")
            now = loop.time()
            # Loops share the monotonic clock. For one that does not, this is late enough.
            latest = now + self._longest_call
            arrived = [*self._arrivals, *[latest] * self._in_use]
            self._arrivals = sorted(min(time, latest) for time in arrived)
            latest_pause = now + LONGEST_RETRY_AFTER
            self._brakes.paused_until = min(self._brakes.paused_until, latest_pause)
            self._needs_trial = self._needs_trial or self._trial is not None
            self._trial = None
        self._loop = loop
        self._in_use = 0
        self._waiters = Waiters()
        self._brakes.reset_pacer()


@define(eq=False)
class _Use(Use):
    """The use of a token by one call; by `arrived_before`, the token's last call had arrived."""

    loop: asyncio.AbstractEventLoop
    arrived_before: float

    def before_send(self) -> None:
        """Record that the request is being sent."""
        self.sent_at = self.loop.time()


def check_rate(limit: int, period: float) -> int:
    """Return the most calls that a bucket lets through in any 5 s; raise if a number is wrong."""
    if not 1 <= limit <= LIMIT:
        raise ValueError(f"limit: found {limit}, wanted 1 to {LIMIT}, LeadSquared's limit")
    if not 0 < period < inf:
        raise ValueError(f"period: found {period}, wanted a number of seconds above 0")
    return limit * uses(PERIOD, period)
