"""
How many tokens to use after LeadSquared refused calls (429).

A refusal does not say why: other programs may use the account, its limit may be lower, or it may be
chance. So only the refused call is retried, until more than 15 % of the latest calls were refused.
Then the bucket shrinks to the share that got through, less one and at most by half, pauses for a
period, and grows back by a quarter every six periods. Only calls sent after the last cut count, and
at least 20 of them: the calls of one burst all fail for one reason. Found by trial, see
`benchmarks/refusals.py`.

A refusal that names the account's limit sets it, for an hour; then it is tried whether it holds.

Nothing here waits or asks the time: times are seconds of one clock, given by the caller.
"""

from __future__ import annotations

from collections import deque
from math import ceil

from attrs import define, field, frozen

NOISE = 0.15
"""Share of refused calls that is taken for chance."""
LATEST = 4
"""Calls for each token whose results count, but not fewer than `LEAST`."""
LEAST = 60
ENOUGH = 20
"""Results to have before anything is concluded from them."""
DEEPEST_CUT = 0.5
"""Share of its tokens that a bucket keeps in one cut at the least, before the one more."""
PATIENCE = 6
"""Periods from one growth, or from the end of a pause, to the next growth."""
NAMED_FOR = 3600.0
"""Seconds for which a named limit is taken to hold."""
LONGEST_RATE = 60
"""Seconds; a limit over a longer time is a quota, such as one for the day, and no rate."""


@frozen
class Change:
    """
    A change of the number of tokens.

    Attributes:
        before: The number before.
        tokens: The number from now on.
        pause: Seconds in which no call should be made, 0 without a pause.
        reason: Why, for the log.
    """

    before: int
    tokens: int
    pause: float
    reason: str


@frozen
class Size:
    """
    The part of the rule's state that processes with a shared bucket agree on.

    Attributes:
        tokens: How many to use.
        most: How many at most, by the limit that was named, if one was.
        rest: Seconds for which they have to rest.
        named_for: Seconds for which the named limit is still taken to hold, None without one.
        grow_in: Seconds until the next growth.
    """

    tokens: int
    most: int
    rest: float
    named_for: float | None
    grow_in: float


@define
class Refusals:
    """
    The rule for one bucket.

    Args:
        limit: Tokens that the bucket has.
        period: Seconds for which a token rests; the limit is `limit` calls in this time.

    Attributes:
        tokens: How many of them to use.
        rest: Seconds for which they have to rest after their call's answer.
    """

    limit: int
    period: float
    tokens: int = field(init=False)
    rest: float = field(init=False)
    _most: int = field(init=False)  # by the limit that was named, if one was
    _named_until: float | None = None
    _changed_at: float = float("-inf")
    _grow_at: float = 0.0
    _results: deque[bool] = field(init=False)  # of calls sent after the last change

    def __attrs_post_init__(self) -> None:
        self.tokens = self._most = self.limit
        self.rest = self.period
        self._results = deque()

    def record(
        self, now: float, sent_at: float, *, refused: bool, named: tuple[int, int] | None = None
    ) -> Change | None:
        """
        Record the answer to a call.

        Args:
            now: When it came.
            sent_at: When the call was sent.
            refused: Whether it was refused.
            named: The limit that the refusal names, as (calls, seconds).

        Returns:
            What changes, None if nothing does.
        """
        if named is not None and (change := self._name(now, *named)) is not None:
            return change
        if sent_at < self._changed_at:
            return None
        self._results.append(refused)
        while len(self._results) > max(LATEST * self.tokens, LEAST):
            self._results.popleft()
        failed, made = sum(self._results), len(self._results)
        if not refused or made < ENOUGH or failed <= NOISE * made or self.tokens == 1:
            return None
        share = max(1 - failed / made, DEEPEST_CUT)
        tokens = max(int(self.tokens * share) - 1, 1)
        self._grow_at = now + self.period * (1 + PATIENCE)
        reason = f"{failed} of the last {made} calls were refused"
        return self._restart(now, tokens, reason, pause=self.period)

    def tick(self, now: float) -> Change | None:
        """Grow back, or lift a named limit, when it is time. Call this regularly."""
        if self._named_until is not None and now >= self._named_until:
            self._named_until, self._most, self.rest = None, self.limit, self.period
            return self._restart(now, self.limit, "the limit named an hour ago is tried again")
        if self.tokens >= self._most or now < self._grow_at:
            return None
        self._grow_at = now + self.period * PATIENCE
        before = self.tokens
        self.tokens = min(before + max(before // 4, 1), self._most)
        # The results stay: they are what the next cut is judged by.
        return Change(before, self.tokens, 0.0, "more are tried again")

    def size(self, now: float) -> Size:
        """Return what other processes should adopt."""
        named_for = None if self._named_until is None else self._named_until - now
        return Size(self.tokens, self._most, self.rest, named_for, self._grow_at - now)

    def adopt(self, now: float, size: Size) -> Change | None:
        """Continue with the size that another process decided on, as far as `limit` allows."""
        before, rest_before = self.tokens, self.rest
        self._named_until = None if size.named_for is None else now + size.named_for
        self._most = self.limit if size.named_for is None else min(size.most, self.limit)
        self._grow_at = now + size.grow_in
        self.tokens, self.rest = min(size.tokens, self._most), size.rest
        if (self.tokens, self.rest) == (before, rest_before):
            return None
        if self.tokens < before or self.rest != rest_before:
            self._changed_at = now
            self._results.clear()
        return Change(before, self.tokens, 0.0, "as another process decided")

    def _name(self, now: float, calls: int, seconds: int) -> Change | None:
        if not (calls > 0 and 0 < seconds <= LONGEST_RATE):
            return None
        if self._most * uses(seconds, self.rest) <= calls:
            return None  # it is kept anyway
        tokens, rest = tokens_within((self.limit, self.period), (calls, seconds))
        self._named_until, self._most, self.rest = now + NAMED_FOR, tokens, rest
        reason = f"LeadSquared names a limit of {calls} calls in {seconds} s"
        # It may have been cut to fewer, and a refusal is no reason for more.
        return self._restart(now, min(self.tokens, tokens), reason)

    def _restart(self, now: float, tokens: int, reason: str, pause: float = 0.0) -> Change:
        before, self.tokens = self.tokens, tokens
        self._changed_at = now
        self._results.clear()
        return Change(before, tokens, pause, reason)


def tokens_within(*limits: tuple[int, float]) -> tuple[int, float]:
    """
    Return the tokens, and the seconds that each has to rest, that keep several limits at once.

    Of n seconds any span holds at most tokens * ceil(n / rest) calls, as each token is used at most
    once in its rest. Of all ways to keep the limits, each (calls, seconds), the fastest is taken.

    >>> tokens_within((25, 5), (10, 1))
    (5, 1.0)
    >>> tokens_within((25, 5), (10, 5))
    (10, 5.0)
    """
    rests = {seconds / uses for calls, seconds in limits for uses in range(1, calls + 1)}
    ways = [
        (min(calls // uses(seconds, rest) for calls, seconds in limits), rest) for rest in rests
    ]
    return max(ways, key=lambda way: (way[0] / way[1], way[1]))


def uses(seconds: float, rest: float) -> int:
    """Return how often a token that rests for `rest` can be used in any span of `seconds`."""
    return ceil(seconds / rest - 1e-9)
