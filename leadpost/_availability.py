"""
Whether LeadSquared is away.

LeadSquared counts as away once three posts in a row, of at least two different activities, got no
proper answer: no connection, a time-out, 500 without an `MX…` exception, 502, 503, 504, a page of
HTML. A single post is enough if its answer had a Retry-After. Only posts are counted: a status or
metrics call that is answered proves nothing about the path that posts take. A failure counts only
if its post was sent after the last proper answer. One activity that fails while others succeed is
at fault itself.

While LeadSquared is away, posts wait, and one at a time is tried, after growing pauses. Where such
a trial could leave its post uncertain, a query goes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Reversible
from contextlib import asynccontextmanager, suppress
from itertools import islice
from math import inf

from attrs import define, field

from leadpost._bucket_parts import LONGEST_RETRY_AFTER
from leadpost.errors import (
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    OutageTimeout,
    ServerError,
    Unavailable,
    described,
)

FAILURES_IN_A_ROW = 3
LONGEST_PAUSE = 30.0
"""The most seconds between two trials that leave nothing uncertain."""
LONGEST_UNCERTAIN_PAUSE = 300.0
"""The most seconds between two trials, if they leave their posts uncertain."""
FIRST_BLIND_TRIAL = 8
"""
Unanswered queries after which a post is tried all the same; a power of 2. They take 150 s, so that
this happens while batches still wait.
"""
_LOG_EVERY = 60.0

Probe = Callable[[], Awaitable[bool]]
"""Makes a call that changes nothing: False if there was no proper answer."""

_log = logging.getLogger("leadpost")


def queries_fail(results: Reversible[object]) -> bool:
    """Whether the last three queries failed, with retries: the next one would too."""
    last = islice(reversed(results), FAILURES_IN_A_ROW)
    return sum(isinstance(result, Unavailable) for result in last) == FAILURES_IN_A_ROW


@define
class Outage:
    """
    What posts have shown so far: decisions without waiting, times in seconds of one clock.

    Attributes:
        since: When the outage began, None without one.
        trial_at: When the next trial may begin.
        pause: Seconds between the last trial and the next.
        is_uncertain: Whether posts of this outage are uncertain.
        unanswered: The number of its queries that were not answered.
        failed: The activities of the posts that failed last, in a row.
        error: What the last of them failed with.
        answers: The number of proper answers so far.
    """

    since: float | None = None
    trial_at: float = 0.0
    pause: float = 0.0
    is_uncertain: bool = False
    unanswered: int = 0
    failed: deque[int] = field(factory=lambda: deque(maxlen=FAILURES_IN_A_ROW))
    error: LeadpostError | None = None
    answers: int = 0

    def failed_post(self, now: float, activity: int, error: LeadpostError, *, trial: bool) -> None:
        """Record a post without a proper answer."""
        self.failed.append(activity)
        self.error = error
        self.is_uncertain |= isinstance(error, DeliveryUncertain)
        if self.since is None:
            in_a_row = len(self.failed) == FAILURES_IN_A_ROW and len(set(self.failed)) > 1
            if in_a_row or error.retry_after:
                self.since = now
                self._pause_before_trial(now, error)
        elif trial:
            self._pause_before_trial(now, error)

    def failed_probe(self, now: float) -> bool:
        """
        Record that the query before a trial was not answered; return whether to try all the same.

        The path of the query may be wrong, and then no query is ever answered. So a post is tried
        after 8 of them, 16, 32, and so on.
        """
        self.unanswered += 1
        if self.unanswered >= FIRST_BLIND_TRIAL and self.unanswered.bit_count() == 1:
            return True
        self.pause = min(self.pause * 2, LONGEST_PAUSE)
        self.trial_at = now + self.pause
        return False

    def answered_post(self) -> None:
        """Record a post with a proper answer: there is no outage, or it is over."""
        self.answers += 1
        self.since = self.error = None
        self.pause = 0.0
        self.is_uncertain = False
        self.unanswered = 0
        self.failed.clear()

    def _pause_before_trial(self, now: float, error: LeadpostError) -> None:
        is_uncertain = isinstance(error, DeliveryUncertain)
        first = 2.0 if is_uncertain else 1.0
        longest = LONGEST_UNCERTAIN_PAUSE if is_uncertain else LONGEST_PAUSE
        self.pause = min(max(self.pause * 2, first), longest)
        self.trial_at = now + max(self.pause, min(error.retry_after or 0.0, LONGEST_RETRY_AFTER))


@define(eq=False)
class Turn:
    """
    One attempt to post: whether it was allowed to send, and whether it waited during an outage.

    `answers` is the number of proper answers to other posts when it was sent; `news` is set when it
    should look again whether it may be tried.
    """

    activity_hash: int
    sends: bool = False
    waited: bool = False
    answers: int = 0
    news: asyncio.Event = field(factory=asyncio.Event)


class Availability:
    """
    Lets posts through while LeadSquared answers them, and makes them wait during an outage.

    Args:
        host: The host, for the log.
        probe: Makes a call to the same host that changes nothing.
    """

    def __init__(self, host: str, probe: Probe) -> None:
        self._host = host
        self._probe = probe
        self._outage = Outage()
        self._waiting: dict[Turn, None] = {}  # in the order in which they came
        self._trial: Turn | None = None
        self._logged_at = 0.0
        self._loop: asyncio.AbstractEventLoop  # whose clock counts

    @property
    def is_away(self) -> bool:
        """Whether posts wait now."""
        return self._outage.since is not None

    @property
    def away_for(self) -> float | None:
        """Seconds since the outage began, None without one."""
        since = self._outage.since
        return None if since is None else self._loop.time() - since

    @asynccontextmanager
    async def turn(
        self, activity_hash: int, until: Callable[[float], float] | None = None
    ) -> AsyncGenerator[Turn]:
        """
        Wait until a post may be tried, and record how it ended.

        An error that passes through is the result. Without one the post was answered, provided that
        `may_send` returned True.

        `until` returns when to raise `OutageTimeout` instead of waiting any longer, given the event
        loop's time at which the outage began; without it, this waits for the end of the outage.
        """
        turn = Turn(activity_hash)
        try:
            if self.is_away:
                turn.waited = True
                await self._wait(turn, until)
            yield turn
            if turn.sends:
                self._answered(turn)
        except (ConnectionFailed, DeliveryUncertain, ServerError) as error:
            if turn.sends and (self.is_away or turn.answers == self._outage.answers):
                self._failed(turn, error)
            raise
        except LeadpostError as error:
            if turn.sends and error.status is not None:  # else the bucket or an outbox raised it
                self._answered(turn)
            raise
        finally:
            if self._trial is turn:
                self._trial = None
            self._wake_next()

    def may_send(self, turn: Turn) -> bool:
        """Whether to send, asked once there is a token: an outage may have begun meanwhile."""
        turn.answers = self._outage.answers
        turn.sends = not self.is_away or self._trial is turn
        return turn.sends

    async def _wait(self, turn: Turn, until: Callable[[float], float] | None) -> None:
        self._waiting[turn] = None
        try:
            while (since := self._outage.since) is not None:
                now = self._loop.time()
                is_next = self._next() is turn
                # Before the time limit is checked: otherwise posts with no time left would never
                # be tried, and the outage could not end.
                if is_next and now >= self._outage.trial_at:
                    self._trial = turn
                    if await self._may_try():
                        return
                    self._trial = None
                    self._wake_next()  # it may be another's turn now
                    continue
                wake_at = inf if until is None else until(since)
                if now >= wake_at:
                    raise self.timeout_error()
                if is_next:
                    self._log_progress(now)
                    wake_at = min(wake_at, self._outage.trial_at, self._logged_at + _LOG_EVERY)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(None if wake_at == inf else wake_at):
                        await turn.news.wait()
                turn.news.clear()
        finally:
            self._waiting.pop(turn, None)

    def timeout_error(self) -> OutageTimeout:
        """Build the error of a post that cannot wait any longer."""
        return OutageTimeout(
            f"{self._host} has not answered posts for {self.away_for or 0.0:.0f} s"
            f" (the last one: {described(self._outage.error)}); nothing was sent"
        )

    def _next(self) -> Turn | None:
        """Return whose turn is next: if possible another activity than the one that failed last."""
        if self._trial is not None:
            return None
        last = self._outage.failed[-1] if self._outage.failed else None
        others = (turn for turn in self._waiting if turn.activity_hash != last)
        return next(others, next(iter(self._waiting), None))

    async def _may_try(self) -> bool:
        """Make a query before a trial whose post could become uncertain."""
        if not self._outage.is_uncertain or await self._probe():
            return True
        return self.is_away and self._outage.failed_probe(self._loop.time())

    def _failed(self, turn: Turn, error: LeadpostError) -> None:
        now = self._loop.time()
        was_away = self.is_away
        self._outage.failed_post(now, turn.activity_hash, error, trial=self._trial is turn)
        if self.is_away and not was_away:
            self._logged_at = now
            _log.warning(
                "%s does not answer posts (%s): posts wait, and one at a time is tried",
                self._host,
                described(error),
            )

    def _answered(self, turn: Turn) -> None:
        since = self._outage.since
        if since is not None and self._trial is not turn:
            return  # sent before the outage began, so it proves nothing about now
        self._outage.answered_post()
        if since is not None:
            _log.warning(
                "%s answers posts again, after %.0f s",
                self._host,
                self._loop.time() - since,
            )
            for waiting in self._waiting:
                waiting.news.set()

    def enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use this event loop, and forget who waits and who tries in the last one: it is over."""
        self._loop = loop
        self._waiting.clear()
        self._trial = None

    def _wake_next(self) -> None:
        if (turn := self._next()) is not None:
            turn.news.set()

    def _log_progress(self, now: float) -> None:
        if now < self._logged_at + _LOG_EVERY or self._outage.since is None:
            return
        self._logged_at = now
        _log.warning(
            "%s has not answered posts for %.0f s (%s): %d wait, the next try is in %.0f s",
            self._host,
            now - self._outage.since,
            described(self._outage.error),
            len(self._waiting),
            max(self._outage.trial_at - now, 0.0),
        )
