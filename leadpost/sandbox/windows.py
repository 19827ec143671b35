"""
Three ways to count calls against a limit, and the fullest window of recorded arrivals.

LeadSquared says "25 in 5 second(s)" but not how it counts. These are the three usual ways. `take`
returns whether an arrival is within the limit, and counts it only then. Nothing here reads a clock:
times are arguments, in seconds of any clock that never goes back.
"""

from collections import deque
from collections.abc import Iterable


class SlidingWindow:
    """
    At most `limit` arrivals in any `period` seconds.

    Two arrivals exactly `period` seconds apart are in different windows.
    """

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        while self._taken and now - self._taken[0] >= self.period:
            self._taken.popleft()
        if len(self._taken) >= self.limit:
            return False
        self._taken.append(now)
        return True


class FixedWindow:
    """
    At most `limit` arrivals in each window of `period` seconds.

    Windows begin at multiples of `period` on the clock, whenever the arrivals are.
    """

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period
        self._window = float("-inf")
        self._count = 0

    def take(self, now: float) -> bool:
        window = now // self.period
        if window != self._window:
            self._window, self._count = window, 0
        if self._count >= self.limit:
            return False
        self._count += 1
        return True


class RefilledBucket:
    """A bucket of `limit` tokens, full at first and refilled with `limit / period` per second."""

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period
        self._tokens = float(limit)
        self._filled = float("-inf")

    def take(self, now: float) -> bool:
        refill = (now - self._filled) * self.limit / self.period
        self._tokens = min(float(self.limit), self._tokens + refill)
        self._filled = now
        # A rounding error must not refuse an arrival at the very moment a token is whole again.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True


Window = SlidingWindow | FixedWindow | RefilledBucket
WINDOWS: dict[str, type[Window]] = {
    "sliding": SlidingWindow,
    "fixed": FixedWindow,
    "bucket": RefilledBucket,
}


def fullest_window(times: Iterable[float], period: float) -> int:
    """Return the most arrivals that are less than `period` seconds apart."""
    fullest = 0
    window: deque[float] = deque()
    for time in sorted(times):
        window.append(time)
        while time - window[0] >= period:
            window.popleft()
        fullest = max(fullest, len(window))
    return fullest
