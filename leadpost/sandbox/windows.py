"""
Ways to count calls against a limit, and the fullest window of a record of arrivals.

The vendor says "25 in 5 second(s)" and not how it counts. These are the three usual ways. Each
takes the times of arrivals, in seconds of any clock that never goes back, and reads no clock.
"""

from collections import deque
from collections.abc import Iterable
from typing import Protocol


class Window(Protocol):
    """A count of arrivals against a limit."""

    def take(self, now: float) -> bool:
        """
        Say whether an arrival at `now` is within the limit, and count it if so.

        A refused arrival is not counted.
        """
        ...


class SlidingWindow:
    """
    At most `limit` arrivals taken in any `period` seconds.

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
    At most `limit` arrivals taken in each stretch of `period` seconds.

    The stretches begin at multiples of `period` on the clock, wherever the arrivals lie.
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


class TokenBucket:
    """A bucket of `limit` tokens, full at first and refilled at `limit / period` a second."""

    def __init__(self, limit: int, period: float) -> None:
        self.limit = limit
        self.period = period
        self._tokens = float(limit)
        self._filled = float("-inf")

    def take(self, now: float) -> bool:
        refill = (now - self._filled) * self.limit / self.period
        self._tokens = min(float(self.limit), self._tokens + refill)
        self._filled = now
        # An arrival at the very moment a token is whole again must not fail by a rounding error.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True


WINDOWS: dict[str, type[SlidingWindow | FixedWindow | TokenBucket]] = {
    "sliding": SlidingWindow,
    "fixed": FixedWindow,
    "bucket": TokenBucket,
}


def fullest_window(times: Iterable[float], period: float) -> int:
    """
    The most arrivals in any `period` seconds, two of them less than `period` apart.

    Args:
        times: Times of arrivals in seconds, in any order.
        period: Length of the window in seconds.
    """
    fullest = 0
    window: deque[float] = deque()
    for time in sorted(times):
        window.append(time)
        while time - window[0] >= period:
            window.popleft()
        fullest = max(fullest, len(window))
    return fullest
