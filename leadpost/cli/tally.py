"""What a run has come to so far: counts, speed, time left."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from attrs import define, field

from leadpost.bucket import LIMIT, PERIOD, Bucket, Priority
from leadpost.cli.check import spoken


class CountedBucket:
    """A bucket that counts the calls that go through it, retries included."""

    def __init__(self, bucket: Bucket) -> None:
        self.calls = 0
        self._bucket = bucket

    @asynccontextmanager
    async def token(
        self, priority: Priority, call_timeout: float
    ) -> AsyncGenerator[Callable[[], None]]:
        async with self._bucket.token(priority, call_timeout) as begin:

            def counted() -> None:
                begin()
                self.calls += 1

            yield counted


@define
class Tally:
    """
    Counts of what became of so many rows.

    Args:
        what: What is being done.
        total: How many there are.
        states: The states that are always shown, zero or not.
        calls: Tells how many calls were made.
        limit: Calls per 5 s.
        clock: Seconds.
        before: How many were done before.
    """

    what: str
    total: int
    states: Sequence[str]
    calls: Callable[[], int]
    limit: int = LIMIT
    clock: Callable[[], float] = time.monotonic
    before: int = 0
    counts: Counter[str] = field(init=False, factory=Counter[str])
    _started: float = field(init=False)
    _calls_before: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._started = self.clock()
        self._calls_before = self.calls()

    @property
    def done(self) -> int:
        return self.counts.total()

    @property
    def elapsed(self) -> float:
        return self.clock() - self._started

    def told(self) -> str:
        """Say how many are in which state."""
        shown = [*self.states, *(state for state in self.counts if state not in self.states)]
        return ", ".join(f"{self.counts[state]} {state}" for state in shown)

    def pace(self) -> str:
        """Say how fast it goes and how long it will take."""
        elapsed = self.elapsed
        calls = per_second(self.calls() - self._calls_before, elapsed)
        done, total = self.done - self.before, self.total - self.before
        left = seconds_left(done, total, elapsed, self.limit)
        time_left = "nothing done yet" if left is None else f"{spoken(left)} left"
        return f"{calls:.1f} calls/s, {time_left}"


@define
class Asked(Tally):
    """
    Counts of what became of accepted entries, some of which may stay open for hours.

    Attributes:
        unasked: How many were not asked for yet.
    """

    unasked: int = field(init=False, default=0)

    def take(self, succeeded: int, failed: int, still_open: int, unasked: int) -> None:
        """Take in how many are in which state by now; the open ones may have become more."""
        self.counts = Counter(succeeded=succeeded, failed=failed, open=still_open)
        self.total = self.counts.total()
        self.unasked = unasked

    @property
    def done(self) -> int:
        return self.total - self.unasked

    def pace(self) -> str:
        if self.unasked or not self.counts["open"]:
            return super().pace()
        return "what is open is not final yet, which may take hours; Ctrl-C loses nothing"


def per_second(count: int, elapsed: float) -> float:
    """The rate, taken over one period at least: the burst at the start is not the speed."""
    return count / max(elapsed, PERIOD)


def seconds_left(done: int, total: int, elapsed: float, limit: int) -> float | None:
    """
    Give the seconds that the rest takes: at the limit or, later on, at the rate so far.

    None where a period has gone by with nothing done: then there is no telling.
    """
    if not done and elapsed > PERIOD:
        return None
    rate = done / elapsed if done and elapsed > 2 * PERIOD else limit / PERIOD
    return (total - done) / rate
