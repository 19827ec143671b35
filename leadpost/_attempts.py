"""The attempts of one operation: on what terms, how far they came, when another one follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Any

from attrs import define, field, frozen
from tenacity import AsyncRetrying, RetryCallState

from leadpost._bucket_parts import LONGEST_RETRY_AFTER
from leadpost._retry import RetryPolicy
from leadpost.bucket import Priority
from leadpost.errors import (
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    RateLimited,
    State,
    TokenLost,
    described,
)
from leadpost.hooks import Ended, Event, Hook, Operation, Retried

_log = logging.getLogger("leadpost")


def _nothing(*_: object) -> None:
    """Do nothing: the default callback."""


@frozen
class Terms:
    """
    The conditions of a call; the defaults are those of a single call.

    Attributes:
        index: The place of its activity in a batch, for hooks and the log.
        priority: The priority of the first attempt.
        is_retried: Whether other attempts may follow the first.
        token_timeout: Seconds in which the first attempt has to begin, None for the policy's time.
        outage_until: Makes this one of many calls, of a batch or an outbox, see `is_one_of_many`.
            Given the time at which an outage began, returns the time at which to stop waiting.
        stopped: Ends all waits once it is done; a call in flight still finishes.
        cut_off: Once it is done, `stopped` being done, ends a call in flight, uncertain, too.
        before_send: Called before the bucket's function of that name; may raise.
        hook: Called with the call's events, after the poster's hooks.
    """

    index: int | None = None
    priority: Priority = Priority.SINGLE
    is_retried: bool = True
    token_timeout: float | None = None
    outage_until: Callable[[float], float] | None = None
    stopped: asyncio.Future[None] | None = None
    cut_off: asyncio.Future[None] | None = None
    before_send: Callable[[], None] = _nothing
    hook: Hook = _nothing

    @property
    def is_one_of_many(self) -> bool:
        """Whether it waits for its first token without an end; its time starts with that token."""
        return self.outage_until is not None

    @property
    def are_over(self) -> bool:
        """Whether nothing more may be sent on these terms."""
        return self.stopped is not None and self.stopped.done()


@define(eq=False)
class Attempt:
    """
    How far one attempt has come, and the result or error of its call.

    The `task` that makes it is None before that, and once its caller has the outcome. The `result`
    of a call that has succeeded may be None.
    """

    task: asyncio.Task[None] | None = None
    has_token: bool = False
    is_sent: bool = False
    status: int | None = None
    has_succeeded: bool = False
    result: object = None
    error: LeadpostError | None = None


@define(eq=False)
class Attempts:
    """
    The attempts of one operation, the rules for tenacity, and the news for hooks and the log.

    Attributes:
        retryable: The errors after which another attempt may follow.
        is_away: Whether LeadSquared is away now, so that a failure does not count.
        closing: Once it is done, no other attempt is waited for.
        attempt: The last attempt that began.
        made: Number of attempts that had a token and something to send.
        last_error: The last error that was retried, None without one. The loss of a token does not
            replace the error of a call that was made.
        uncertain_error: The last error after which the post may have arrived, None without one.
    """

    operation: Operation
    terms: Terms
    policy: RetryPolicy
    retryable: tuple[type[LeadpostError], ...]
    is_away: Callable[[], bool]
    hooks: Callable[[Event], None]
    closing: asyncio.Future[None]
    attempt: Attempt = field(factory=Attempt)
    made: int = 0
    last_error: LeadpostError | None = None
    uncertain_error: DeliveryUncertain | None = None
    _deadline: float = inf  # for the next attempt
    _failures: int = 0

    def __attrs_post_init__(self) -> None:
        if not self.terms.is_one_of_many:  # else its time starts with its token
            self._start_time()

    @property
    def priority(self) -> Priority:
        """The priority of the next attempt."""
        first = self.terms.priority
        if not self.made:
            return first
        return Priority.RETRY if first is Priority.SINGLE else Priority.BATCH_RETRY

    @property
    def time_for_token(self) -> float | None:
        """Seconds in which the next attempt has to get its token, None for no end."""
        if self.terms.is_one_of_many:
            return None
        left = max(self._deadline - asyncio.get_running_loop().time(), 0.0)
        if self.terms.token_timeout is not None and not self.made:
            left = min(left, self.terms.token_timeout)
        return left

    def count(self, *, waited: bool) -> None:
        """Count an attempt that is about to send, and that may have `waited` during an outage."""
        self.made += 1
        if self.terms.is_one_of_many and (waited or self._deadline == inf):
            self._start_time()

    def _start_time(self) -> None:
        self._deadline = asyncio.get_running_loop().time() + self.policy.max_time

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

    # For hooks and the log.

    def emit(self, event: Event) -> None:
        """Call the poster's hooks, and that of the terms."""
        self.hooks(event)
        self.terms.hook(event)

    def note_end(self, error: BaseException | None) -> Ended:
        """Emit and return the end of the operation, with the error that its caller gets."""
        attempt = self.attempt
        may_have_arrived = self.operation.is_post and attempt.is_sent and attempt.status is None
        state: State
        if attempt.has_succeeded:  # the caller may have left meanwhile
            state, error = "accepted", None
        elif isinstance(error, LeadpostError):
            state = error.state
        elif self.uncertain_error is not None or may_have_arrived:
            state = "uncertain"
        else:
            state = "failed" if attempt.is_sent or self.last_error is not None else "not_sent"
        name = None if error is None else type(error).__name__
        is_post = self.operation.name == "post" and attempt.has_succeeded
        request_id = str(attempt.result) if is_post else None
        end = Ended(self.operation, state, self.made, name, attempt.status, request_id)
        self.emit(end)
        return end

    def note_abandoned(self, task: asyncio.Task[Any]) -> None:
        """Log and emit the outcome of an attempt whose caller has left, once its `task` is done."""
        error = self.attempt.error or failure_of(task)
        if isinstance(error, LeadpostError):
            error = self.verdict(error)
        end = self.note_end(error)
        what = end.state + (f", RequestID {end.request_id}" if end.request_id else "")
        if end.state != "accepted":
            what += f" ({described(error)})"
        # A query that nobody waits for has changed nothing, so it is no news.
        level = logging.WARNING if end.operation.is_post else logging.DEBUG
        _log.log(level, "%s: its caller had left before it ended: %s", end.operation, what)

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        _log.info(
            "%s: attempt %d failed (%s), the next one %s",
            self.operation,
            self.made,
            described(error),
            "after the outage" if self.is_away() else f"in {state.upcoming_sleep:.1f} s",
        )
        name, status = type(error).__name__, self.attempt.status
        self.emit(Retried(self.operation, self.made, name, status, state.upcoming_sleep))

    # For tenacity.

    def retrying(self) -> AsyncRetrying:
        """Build a tenacity controller for this operation alone: a shared one loses results."""
        return AsyncRetrying(
            sleep=self._sleep,
            stop=self._stop,
            wait=self._wait,
            retry=self._retry,
            before_sleep=self._note_retry,
            reraise=True,
        )

    async def _sleep(self, seconds: float) -> None:
        ends = [end for end in (self.closing, self.terms.stopped) if end is not None]
        await asyncio.wait(ends, timeout=seconds)

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
        return self._failures >= self.policy.max_attempts or late > self._deadline


def failure_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return what a task that is done has raised, None if it has not."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()
