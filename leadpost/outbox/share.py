"""
How many of the limit's tokens are ours, when other programs use the account too.

Nothing here waits or asks the time; times are seconds of one clock, given by the caller.
"""

from __future__ import annotations

from attrs import define

LONGEST_PATIENCE = 16
"""Periods between two raises, at most, of our share of a limit that others use too."""


def limit_in(period: float, calls: int, seconds: int) -> int:
    """
    Return how many calls each `period` keep within a limit of so many calls in so many seconds.

    A span of n periods, the last one begun, holds at most n times as many. 0 means that the limit
    is no rate at all but a quota, such as one for the day.
    """
    periods = max(-(-seconds // period), 1)
    return int(calls // periods)


@define
class Share:
    """
    How many of the limit's tokens are ours, when other programs use the account too.

    A refusal lowers it to the calls that were let through in the period around it, but not below
    the half. Then it is raised, by one and by twice as many each time that holds. A raise that is
    followed by a refusal begins with one again, and makes the wait for the next raise twice as
    long; one that holds makes it half as long.
    """

    limit: int
    period: float
    tokens: int
    _step: int = 1
    _patience: float = 1.0  # periods
    _raise_at: float = 0.0
    _raised: bool = False  # since the last refusal

    def refused(self, now: float, let_through: int) -> None:
        """Take in that calls were refused, and how many were let through in the last period."""
        if self._raised:
            self._patience = min(self._patience * 2, LONGEST_PATIENCE)
        if self._raised or now >= self._raise_at:
            self._raise_at = now + self._patience * self.period
        self._raised = False
        self._step = 1
        self.tokens = max(min(self.tokens - 1, max(let_through, self.tokens // 2)), 1)

    def lowered(self, limit: int) -> None:
        """Take in that the vendor named a lower limit."""
        self.limit = limit
        self.tokens = min(self.tokens, limit)

    def shift(self, seconds: float) -> None:
        """Go on in another clock, which is so many seconds ahead."""
        self._raise_at += seconds

    def may_raise(self, now: float) -> bool:
        """Tell whether more tokens are to be tried now, and count on them if so."""
        if self.tokens >= self.limit or now < self._raise_at:
            return False
        if self._raised:
            self._patience = max(self._patience / 2, 1.0)
            self._step *= 2
        self._raised = True
        self.tokens = min(self.tokens + self._step, self.limit)
        self._raise_at = now + self._patience * self.period
        return True
