"""What both buckets share: waiting callers, uses of tokens, brakes after a 429."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from math import inf
from operator import attrgetter

from aiolimiter import AsyncLimiter
from attrs import define, field

from leadpost._refusals import Change, Refusals, Size
from leadpost.errors import ConfigurationError, ConnectionFailed, LeadpostError, RateLimited
from leadpost.hooks import Hooks, Paused, Resized

LONGEST_RETRY_AFTER = 60.0
"""Seconds for which a Retry-After is honoured; then one call tries, and so on."""

_log = logging.getLogger("leadpost")


@define(eq=False)
class Waiter:
    """
    A caller that waits.

    Attributes:
        priority: Who is served first.
        number: Its place among those of one priority.
        news: Set when the caller should look again.
        error: Raised by the caller instead of waiting any longer.
    """

    priority: int
    number: int
    news: asyncio.Event = field(factory=asyncio.Event)
    error: Exception | None = None


_ORDER = attrgetter("priority", "number")


class Waiters:
    """Waiting callers, by priority, then in order of arrival."""

    def __init__(self) -> None:
        self._line: list[Waiter] = []  # sorted
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._line)

    @property
    def first(self) -> Waiter | None:
        """The caller that is served next."""
        return self._line[0] if self._line else None

    def join(self, priority: int) -> Waiter:
        """Begin to wait."""
        waiter = Waiter(priority, next(self._numbers))
        insort(self._line, waiter, key=_ORDER)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """End a wait, whether it was served or not."""
        del self._line[bisect_left(self._line, _ORDER(waiter), key=_ORDER)]
        self.wake_first()

    def wake_first(self) -> None:
        """Let the caller that is served next look again."""
        if (first := self.first) is not None:
            first.news.set()

    def fail(self, error: Exception) -> None:
        """Raise an error in every caller that waits."""
        for waiter in self._line:
            waiter.error = error
            waiter.news.set()


@define(kw_only=True)
class Use:
    """
    The use of a token by one call.

    Attributes:
        sent_at: When the request left, None if it did not.
        is_answered: Whether an answer came, so that the call has arrived.
        refusal: LeadSquared's refusal, if it refused the call.
    """

    sent_at: float | None = None
    is_answered: bool = False
    refusal: RateLimited | None = None

    @property
    def asked_pause(self) -> float:
        """Seconds in which LeadSquared asks for no calls, 0 if it does not ask."""
        wanted = self.refusal.retry_after if self.refusal is not None else None
        return min(wanted or 0.0, LONGEST_RETRY_AFTER)

    @contextmanager
    def watched(self) -> Generator[None]:
        """Record how the call within ends."""
        try:
            yield
            self.is_answered = True
        except LeadpostError as error:
            if isinstance(error, RateLimited):
                self.refusal = error
            is_unsent = isinstance(error, ConnectionFailed) and not error.sent
            if is_unsent or isinstance(error, ConfigurationError):
                self.sent_at = None
            self.is_answered = error.status is not None or self.refusal is not None
            raise


class Brakes:
    """
    How far refusals (429) slow a bucket down: its size, its pause, and the pace of long batches.

    Args:
        limit: Tokens of the bucket.
        period: Seconds for which they rest.
        emit: Called with `Paused` and `Resized`.

    Attributes:
        rule: What decides on the size.
        paused_until: When calls may go again.
        changes: How often the rule has changed the size.
        pacer: Spaces the calls of long batches evenly.
    """

    def __init__(self, limit: int, period: float, emit: Hooks) -> None:
        self.rule = Refusals(limit, period)
        self.paused_until = -inf
        self.changes = 0
        self._emit = emit
        self.reset_pacer()

    def reset_pacer(self) -> None:
        """Restart the spacing, after a change of size or in another event loop."""
        self.pacer = AsyncLimiter(1, self.rule.rest / self.rule.tokens)

    def record(self, use: Use, now: float) -> None:
        """Record an answer: apply the rule after a 429, and honour Retry-After."""
        if use.sent_at is None or not use.is_answered:
            return
        refused = use.refusal is not None
        named = use.refusal.limit if use.refusal is not None else None
        self._apply(self.rule.record(now, use.sent_at, refused=refused, named=named), now)
        if use.asked_pause:
            self._pause(use.asked_pause, now)

    def tick(self, now: float) -> None:
        """Let the bucket grow if it is time."""
        self._apply(self.rule.tick(now), now)

    def adopt(self, size: Size, now: float) -> None:
        """Continue with the size that another process decided on."""
        if (change := self.rule.adopt(now, size)) is not None:
            self._report(change)

    def _apply(self, change: Change | None, now: float) -> None:
        if change is not None:
            self.changes += 1
            self._report(change)
            if change.pause:
                self._pause(change.pause, now)

    def _report(self, change: Change) -> None:
        self.reset_pacer()
        if change.tokens != change.before:
            level = logging.WARNING if change.tokens < change.before else logging.INFO
            _log.log(
                level, "bucket: %d tokens, was %d: %s", change.tokens, change.before, change.reason
            )
            self._emit(Resized(change.tokens, change.before))

    def _pause(self, seconds: float, now: float) -> None:
        # Log the first refusal of a burst, and one that asks for a much longer pause.
        end = now + seconds
        news = now >= self.paused_until or end > self.paused_until + self.rule.period
        self.paused_until = max(self.paused_until, end)
        if news:
            _log.warning("bucket: paused for %.1f s after a refusal (429)", seconds)
            self._emit(Paused(seconds))
