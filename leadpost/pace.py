"""
The arithmetic of the bucket: how early a token may be used again, and how many tokens are ours.

Nothing here waits or asks the time; times are seconds of one clock, given by the caller.
"""

from __future__ import annotations

from attrs import define

ENOUGH = 30
"""Round trips to have seen before the least of them is trusted."""
CARE = 0.4
"""Share of the distance between the mean and the least round trip to stay below the least by; more
while few were seen."""
LONGEST_HEAD_START = 0.5
"""Seconds; bounds what a vendor that suddenly answers faster can cost."""
HASTE = 0.9
"""A long batch keeps to a little less than the pace at which tokens come back, never to more."""
LONGEST_PATIENCE = 16
"""Periods between two raises, at most, of our share of a limit that others use too."""


@define
class RoundTrips:
    """
    What the round trips seen so far tell of the least possible one.

    Two calls with one token arrive at least a period apart if the second is sent no earlier than
    the first one's answer + the period - the least possible round trip: the first arrived at least
    a way back before its answer, the second arrives at least a way there after its sending.
    The least one *seen* is a little more than the least possible, so the head start stays below it,
    by more where round trips differ more, and is none before enough were seen.
    """

    count: int = 0
    least: float = 0.0
    mean: float = 0.0

    def saw(self, seconds: float) -> None:
        self.count += 1
        self.least = seconds if self.count == 1 else min(self.least, seconds)
        self.mean += (seconds - self.mean) / self.count

    @property
    def head_start(self) -> float:
        """Seconds by which a token may be used before its answer is a period old."""
        if self.count < ENOUGH:
            return 0.0
        care = CARE + 2 * ENOUGH / self.count
        careful = self.least - care * (self.mean - self.least)
        return min(max(careful, 0.0), LONGEST_HEAD_START)


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
