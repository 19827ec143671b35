"""A `RetryPolicy`, and the attempts of one operation: when to retry, and what they result in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from attrs import define, field, frozen
from attrs.validators import ge, gt
from tenacity import AsyncRetrying, RetryCallState, wait_exponential, wait_random

from leadpost.bucket import LONGEST_RETRY_AFTER
from leadpost.errors import (
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    RateLimited,
    ServerError,
    State,
    TokenLost,
)
from leadpost.hooks import Ended, Operation

RETRYABLE = (RateLimited, ServerError, ConnectionFailed, TokenLost)
"""What is always retried; `DeliveryUncertain` only on request."""


class NothingToSend(NotSent):
    """There was a token, but no call to make: an outbox's entry was gone."""


@frozen(kw_only=True)
class RetryPolicy:
    """
    How long to keep trying one activity.

    Retried are 429 in all its spellings, 500 without an `MX…` exception, 503, and failures to
    connect. Never retried are 400, 401, 403, 404 and `MX…` exceptions. Each attempt takes a token.

    Args:
        max_attempts: The most calls. Refusals (429) and failures during an outage do not count:
            they say nothing about the activity.
        max_time: Seconds after which no attempt begins. For a single post they start when it
            begins to wait for a token; in a batch with its first token, and again after an outage.
        initial_wait: Seconds before the second call, doubled for each further one.
        max_wait: The most seconds before any call, unless Retry-After asks for more.
        jitter: The most seconds that are added to each wait, at random.

    Raises:
        ValueError: a value is out of range.
    """

    max_attempts: int = field(default=5, validator=ge(1))
    max_time: float = field(default=300.0, validator=gt(0))
    initial_wait: float = field(default=0.5, validator=ge(0))
    max_wait: float = field(default=30.0, validator=ge(0))
    jitter: float = field(default=0.5, validator=ge(0))

    def wait_after(self, attempts: int) -> float:
        """Return the seconds to wait after this number of `attempts`, jitter included."""
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = attempts
        backoff = wait_exponential(self.initial_wait, self.max_wait)
        return backoff(state) + wait_random(0, self.jitter)(state)


@define(eq=False)
class Attempt:
    """
    How far one attempt has come.

    Attributes:
        has_token: Whether it has its token.
        is_sent: Whether its request was sent.
        status: The HTTP status of its answer, None without one.
        result: Its result, once it has succeeded.
    """

    has_token: bool = False
    is_sent: bool = False
    status: int | None = None
    result: object = None


@define(eq=False)
class Attempts:
    """
    The attempts of one operation, and the rules for tenacity.

    Args:
        operation: The operation, for hooks.
        policy: How long to keep trying.
        retryable: The errors after which another attempt may follow.
        is_away: Whether LeadSquared is away now, so that a failure does not count.

    Attributes:
        attempt: The last attempt that began.
        made: Number of attempts that had a token and something to send.
        deadline: The event loop's time by which the next attempt must begin; None before the first
            attempt, if its time starts with that.
        last_error: The last error that was retried, None without one. The loss of a token does not
            replace the error of a call that was made.
        uncertain_error: The last error after which the post may have arrived, None without one.
        abandoned: Whether the caller has left while a call was in flight.
    """

    operation: Operation
    policy: RetryPolicy
    retryable: tuple[type[LeadpostError], ...]
    is_away: Callable[[], bool]
    attempt: Attempt = field(factory=Attempt)
    made: int = 0
    deadline: float | None = None
    last_error: LeadpostError | None = None
    uncertain_error: DeliveryUncertain | None = None
    abandoned: bool = False
    _failures: int = 0

    @property
    def request_id(self) -> str | None:
        """The RequestID of an accepted post."""
        result = self.attempt.result
        return str(result) if self.operation.name == "post" and result is not None else None

    def count(self, *, restart: bool) -> None:
        """Count an attempt that is about to send, and start the time, or restart it."""
        self.made += 1
        if self.deadline is None or restart:
            self.start_time()

    def start_time(self) -> None:
        """Start the time in which attempts may begin, or restart it."""
        self.deadline = asyncio.get_running_loop().time() + self.policy.max_time

    def ended(self, error: BaseException | None) -> Ended:
        """Return the end of the operation, for hooks."""
        attempt = self.attempt
        state: State
        if attempt.result is not None:  # though the bucket may have raised after it
            state, error = "accepted", None
        elif isinstance(error, LeadpostError):
            state = error.state
        elif self.uncertain_error is not None or (attempt.is_sent and attempt.status is None):
            state = "uncertain"
        else:
            state = "failed" if attempt.is_sent or self.last_error is not None else "not_sent"
        name = None if error is None else type(error).__name__
        return Ended(self.operation, state, self.made, name, attempt.status, self.request_id)

    def verdict(self, error: LeadpostError) -> LeadpostError:
        """
        Return the error to raise for all attempts.

        An activity that may have arrived stays uncertain, however later attempts end. If the last
        attempt was never sent, the error of the one before counts.
        """
        if isinstance(error, NotSent) and self.last_error is not None:
            error = self.last_error
        uncertain = self.uncertain_error
        if uncertain is not None and error is not uncertain:
            error = DeliveryUncertain(
                f"an earlier attempt may have arrived ({uncertain}); the last one: {error}",
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
        """Build a tenacity controller for this operation alone: a shared one loses results."""
        return AsyncRetrying(
            sleep=sleep,
            stop=self._stop,
            wait=self._wait,
            retry=self._retry,
            before_sleep=on_retry,
            reraise=True,
        )

    def _retry(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        # List what to retry, never what not to retry: CancelledError must pass through.
        if not isinstance(error, self.retryable):
            return False
        if self.last_error is None or not isinstance(error, TokenLost):
            self.last_error = error
        if isinstance(error, DeliveryUncertain):
            self.uncertain_error = error
        if not isinstance(error, RateLimited | TokenLost) and not self.is_away():
            self._failures += 1
        return True

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if self.is_away() and not isinstance(error, RateLimited | TokenLost):
            return 0.0  # the wait for the end of the outage follows
        asked = error.retry_after if isinstance(error, LeadpostError) else None
        backoff = self.policy.wait_after(state.attempt_number)
        return max(backoff, min(asked or 0.0, LONGEST_RETRY_AFTER))

    def _stop(self, state: RetryCallState) -> bool:
        late = asyncio.get_running_loop().time() + state.upcoming_sleep
        return self._failures >= self.policy.max_attempts or (
            self.deadline is not None and late > self.deadline
        )
