"""
A trial of the rule after a 429: up to an hour on a virtual clock, with endless demand.

`CASES` are the situations and what has to be reached in each; `run` drives a real `TokenBucket`
through one of them. Used by the tests and by `benchmarks/refusals.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from math import inf

from attrs import define, field, frozen
from support import now, run_virtual

from leadpost import Priority, RateLimited, RetryPolicy, TokenBucket

HOUR = 3600.0
LIMIT, PERIOD = 25, 5.0
SHORTEST, LONGEST = 0.05, 0.3
"""Seconds of a post in both directions; it arrives at any moment in between."""
CALLERS = 60
_POLICY = RetryPolicy()


@define
class Server:
    """
    Counts the calls that arrive, in a strict sliding window.

    Attributes:
        chance: Draws what is left to chance.
        limit: Calls that it lets through in a period.
        noise: Share of calls that it refuses for no reason; those do not count.
        others: Times at which calls of another program arrive, never falling.
        counts_refused: Whether a call refused for the limit counts against it.
        names: Whether a refusal names the limit.
    """

    chance: random.Random
    limit: int = LIMIT
    noise: float = 0.0
    others: Iterator[float] = field(factory=lambda: iter(()))
    counts_refused: bool = False
    names: bool = False
    calls: int = 0
    accepted: int = 0
    others_calls: int = 0
    others_accepted: int = 0
    _next_other: float = field(init=False)
    _counted: deque[float] = field(factory=deque[float])

    def __attrs_post_init__(self) -> None:
        self._next_other = next(self.others, inf)

    def arrive(self, moment: float) -> RateLimited | None:
        """Return the refusal of our call that arrives at a moment, None if it is accepted."""
        while self._next_other <= moment:
            self.others_calls += 1
            self.others_accepted += self._takes(self._next_other)
            self._next_other = next(self.others, inf)
        self.calls += 1
        if self.chance.random() < self.noise:
            return RateLimited("by chance", status=429)
        if self._takes(moment):
            self.accepted += 1
            return None
        named = (self.limit, round(PERIOD)) if self.names else None
        return RateLimited("over the limit", status=429, limit=named)

    def _takes(self, moment: float) -> bool:
        while self._counted and self._counted[0] <= moment - PERIOD:
            self._counted.popleft()
        takes = len(self._counted) < self.limit
        if takes or self.counts_refused:
            self._counted.append(moment)
        return takes


@frozen
class Case:
    """
    A situation, and what has to be reached in it.

    Attributes:
        name: What happens.
        server: Makes the server, given chance.
        left: Calls a second that LeadSquared leaves for us.
        share: The least share of those that has to be accepted.
        refused: The largest share of our calls that may be refused.
    """

    name: str
    server: Callable[[random.Random], Server]
    left: float
    share: float
    refused: float = 1.0


def _steadily(calls: int, chance: random.Random) -> Iterator[float]:
    """Yield the arrivals of `calls` calls per 5 s, each with its own delay."""
    begin = chance.uniform(0, PERIOD)
    latest = 0.0
    for number in count():
        latest = max(latest, begin + number * PERIOD / calls + chance.uniform(0, SHORTEST))
        yield latest


def _bursts(every: float, chance: random.Random) -> Iterator[float]:
    begin = chance.uniform(0, every)
    return (begin + every * (number // LIMIT) for number in count())


def _rate(calls: float) -> float:
    return calls / (PERIOD + (SHORTEST + LONGEST) / 2)


def _noise(percent: int, share: float) -> Case:
    return Case(
        f"429 by chance, {percent} %",
        lambda chance: Server(chance, noise=percent / 100),
        _rate(25) * (1 - percent / 100),
        share,
    )


def _another(calls: int, *, counts_refused: bool) -> Case:
    return Case(
        f"another program takes {calls} of 25" + (", refused count" if counts_refused else ""),
        lambda chance: Server(
            chance, others=_steadily(calls, chance), counts_refused=counts_refused
        ),
        _rate(25 - calls),
        share=0.70 if counts_refused else 0.85,
        refused=0.18 if counts_refused else 0.12,
    )


CASES = [
    Case("no refusals", Server, _rate(25), 0.97, 0.0),
    _noise(2, 0.90),
    _noise(5, 0.85),
    _noise(10, 0.60),
    *(_another(calls, counts_refused=False) for calls in (5, 10, 20)),
    *(_another(calls, counts_refused=True) for calls in (5, 10, 20)),
    Case(
        "the limit is really 10, unsaid",
        lambda chance: Server(chance, limit=10),
        *(_rate(10), 0.85, 0.14),
    ),
    Case(
        "the limit is really 10, and named",
        lambda chance: Server(chance, limit=10, names=True),
        *(_rate(10), 0.95, 0.01),
    ),
    Case(
        "another program fires 25 each minute",
        lambda chance: Server(chance, others=_bursts(60, chance)),
        *(_rate(25) - 25 / 60, 0.85, 0.03),
    ),
]


@frozen
class Result:
    """
    What a trial came to.

    Attributes:
        share: Accepted calls, as a share of what LeadSquared leaves.
        refused: Share of our calls that were refused.
        others: Share of the other program's calls that were accepted.
    """

    share: float
    refused: float
    others: float


def run(case: Case, bucket: TokenBucket, seed: int, seconds: float = HOUR) -> Result:
    """Drive a bucket through a case."""
    server = case.server(random.Random(seed))

    async def main() -> None:
        callers = [asyncio.create_task(call(bucket, server)) for _ in range(CALLERS)]
        await asyncio.sleep(seconds)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)

    run_virtual(main())
    return Result(
        server.accepted / seconds / case.left,
        1 - server.accepted / server.calls,
        server.others_accepted / max(server.others_calls, 1),
    )


async def call(bucket: TokenBucket, server: Server) -> None:
    """Make calls endlessly, retrying each until it is accepted."""
    refusals = 0
    while True:
        try:
            async with bucket.token(Priority.RETRY if refusals else Priority.SINGLE) as begin:
                begin()
                takes = server.chance.uniform(SHORTEST, LONGEST)
                there = server.chance.uniform(0, takes)
                await asyncio.sleep(there)
                refusal = server.arrive(now())
                await asyncio.sleep(takes - there)
                if refusal is not None:
                    raise refusal
            refusals = 0
        except RateLimited:
            refusals += 1
            await asyncio.sleep(_POLICY.wait_after(refusals))
