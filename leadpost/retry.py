"""When to call again, and after how long: `RetryPolicy` put into tenacity's terms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from attrs import define, field, frozen
from attrs.validators import ge, gt, instance_of
from tenacity import AsyncRetrying, RetryCallState, wait_exponential, wait_random

from leadpost._names import show_in
from leadpost.errors import (
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    RateLimited,
    ServerError,
)

Waiting = Callable[[float | None], AbstractAsyncContextManager[asyncio.Timeout]]
"""Given the event loop's time until which to wait, a context for a wait that is no call."""


@asynccontextmanager
async def waiting_until(when: float | None) -> AsyncGenerator[asyncio.Timeout]:
    """
    Wait within, but only until the event loop's time `when`; None for no end.

    Raises:
        NotSent: the time came first.
    """
    timeout = asyncio.timeout_at(when)
    try:
        async with timeout:
            yield timeout
    except TimeoutError:
        if not timeout.expired():
            raise
        raise NotSent("the wait for a token ended before a call was made") from None


_SECONDS = instance_of((int, float))


@frozen(kw_only=True)
class RetryPolicy:
    """
    How long to go on with one activity.

    Called again are: 429 and its look-alikes, 500 without an `MX…` exception, 503, and calls that
    found no connection. Never: 400, 401, 403, 404, `MX…` exceptions. Each attempt takes a token.

    Args:
        max_attempts: Calls to make at most. Refusals (429) do not count: they say nothing about
            the activity.
        max_time: Seconds after the first call in which another one may begin. A Retry-After that
            goes beyond is raised at once, not slept through.
        initial_wait: Seconds before the second call; doubled for each further one.
        max_wait: Seconds before any call at most, unless Retry-After asks for more.
        jitter: Seconds at most that chance adds to each wait.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of range.
    """

    max_attempts: int = field(default=5, validator=[instance_of(int), ge(1)])
    max_time: float = field(default=300.0, validator=[_SECONDS, gt(0)])
    initial_wait: float = field(default=0.5, validator=[_SECONDS, ge(0)])
    max_wait: float = field(default=30.0, validator=[_SECONDS, ge(0)])
    jitter: float = field(default=0.5, validator=[_SECONDS, ge(0)])

    def wait_after(self, attempts: int) -> float:
        """Give the seconds to wait after so many `attempts`, chance included."""
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = attempts
        backoff = wait_exponential(self.initial_wait, self.max_wait)
        return backoff(state) + wait_random(0, self.jitter)(state)


@define
class Attempts:
    """
    The attempts at one call: what tenacity asks about them, and what they come to.

    Args:
        policy: How long to go on.
        retried: The errors after which to go on.

    Attributes:
        made: Calls that were begun.
        deadline: The event loop's time until which the next may begin; None for no end.
        last: The last error after which to go on, if there was one.
        doubt: The last attempt that may have arrived, if there was one.
    """

    policy: RetryPolicy
    retried: tuple[type[LeadpostError], ...]
    made: int = 0
    deadline: float | None = None
    last: LeadpostError | None = None
    doubt: DeliveryUncertain | None = None
    _failures: int = 0

    @classmethod
    def under(cls, policy: RetryPolicy, *, uncertain: bool) -> Self:
        """`uncertain`: whether a call that may have arrived is made again."""
        # A list of what to retry, never of what not to: CancelledError must pass.
        retried = (RateLimited, ServerError, ConnectionFailed)
        return cls(policy, (*retried, DeliveryUncertain) if uncertain else retried)

    def begin(self) -> None:
        """Count a call that is about to be made."""
        self.made += 1
        if self.made == 1:
            self.deadline = asyncio.get_running_loop().time() + self.policy.max_time

    def verdict(self, error: LeadpostError) -> LeadpostError:
        """
        Give the error that stands for all the attempts.

        One that may have arrived stays in doubt, whatever the later ones came to; and where no
        further attempt was made, it is the last one's error that tells.
        """
        if isinstance(error, NotSent) and self.last is not None:
            error = self.last
        if self.doubt is not None and error is not self.doubt:
            error = DeliveryUncertain(
                f"an earlier attempt may have arrived ({self.doubt}); the last one: {error}",
                status=error.status,
                exception_type=error.exception_type,
                exception_message=error.exception_message,
                retry_after=error.retry_after,
            )
        error.attempts = self.made
        return error

    def retrying(
        self, sleep: Callable[[float], Awaitable[None]], on_retry: Callable[[RetryCallState], None]
    ) -> AsyncRetrying:
        """
        Build the tenacity controller for this one call (one shared by tasks loses results).

        Args:
            sleep: Waits that many seconds.
            on_retry: Told of each failure that will be followed by another attempt.
        """
        return AsyncRetrying(
            sleep=sleep,
            stop=self._stop,
            wait=self._wait,
            retry=self._again,
            before_sleep=on_retry,
            reraise=True,
        )

    def _again(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, self.retried):
            return False
        self.last = error
        if isinstance(error, DeliveryUncertain):
            self.doubt = error
        if not isinstance(error, RateLimited):
            self._failures += 1
        return True

    def _wait(self, state: RetryCallState) -> float:
        backoff = self.policy.wait_after(state.attempt_number)
        asked = self.last.retry_after if self.last is not None else None
        return max(backoff, asked or 0.0)

    def _stop(self, state: RetryCallState) -> bool:
        now = asyncio.get_running_loop().time()
        deadline = now + self.policy.max_time if self.deadline is None else self.deadline
        return self._failures >= self.policy.max_attempts or now + state.upcoming_sleep > deadline


show_in("leadpost", globals())
