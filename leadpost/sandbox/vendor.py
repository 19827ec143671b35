"""
The server's side of a call: counted, checked against limit and keys, then accepted or failed.

There is no I/O here. The caller passes times, in seconds of the monotonic clock.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from attrs import frozen

from leadpost.sandbox.answers import (
    Answer,
    RejectedError,
    forbidden,
    rate_limited,
    unauthorized,
)
from leadpost.sandbox.endpoints import Call, Endpoint
from leadpost.sandbox.faults import AFTER, CUTS, OK, Faults
from leadpost.sandbox.leads import Leads
from leadpost.sandbox.ledger import Accepted, Ledger
from leadpost.sandbox.windows import Window, fullest_window


@frozen
class Keys:
    """The keys of the sandbox's one account."""

    access_key: str
    secret_key: str
    api_key: str


@frozen
class Limit:
    """
    The limit on calls.

    Args:
        calls: Calls allowed in `period` seconds.
        period: Seconds.
        window: Counts the calls; None for no limit.
    """

    calls: int
    period: float
    window: Window | None


@frozen
class Outcome:
    """
    The result of a call.

    Args:
        answer: The answer; None to cut the connection instead.
        wait: Seconds to wait before it.
    """

    answer: Answer | None
    wait: float = 0.0


@frozen
class Report:
    """
    What the sandbox has seen so far, in numbers.

    Attributes:
        arrivals: Calls that arrived at one of LeadSquared's paths, including refused ones.
        refused: Calls refused because of the limit.
        fullest_window: The most arrivals, including refused ones, in any period of the limit.
        faults: Name of a fault to its count; "answer" counts the answers in a script.
        accepted: Accepted activities.
        duplicates: Accepted activities whose body had been accepted before.
        pending: Accepted activities that are still in the queue.
        leads_created: Leads created by posts.
        leads_updated: Times that a post changed a lead.
        connections: Connections opened.
    """

    arrivals: int
    refused: int
    fullest_window: int
    faults: Mapping[str, int]
    accepted: int
    duplicates: int
    pending: int
    leads_created: int
    leads_updated: int
    connections: int


class Vendor:
    """
    The account, its limit, and the faults.

    The server's thread makes the calls, any thread may read: hence the lock.
    """

    def __init__(
        self,
        keys: Keys,
        limit: Limit,
        faults: Faults,
        ledger: Ledger,
        leads: Leads,
        *,
        random: Random,
    ) -> None:
        self._keys = keys
        self._limit = limit
        self._faults = faults
        self._ledger = ledger
        self._leads = leads
        self._next_fates: deque[str | Answer] = deque()
        self._fates = faults.fates(random)
        self._fault_answers = faults.answers(limit.calls, limit.period)
        self._lock = threading.Lock()
        self._arrivals: list[float] = []
        self._refused = 0
        self._struck: Counter[str] = Counter()
        self._connections = 0
        self._away_until = 0.0

    def connected(self) -> None:
        """Count a connection."""
        with self._lock:
            self._connections += 1

    def fail(self, fates: Iterable[str | Answer]) -> None:
        """Set the fates of the next calls, before those of the script and of chance."""
        with self._lock:
            self._next_fates.extend(fates)

    def arrive(self, endpoint: Endpoint, call: Call, now: float) -> Outcome:
        """Handle a call that arrives at `now`."""
        with self._lock:
            self._arrivals.append(now)
            refusal = self._refusal(endpoint, call, now)
            if refusal is not None:
                return Outcome(refusal)
            if now < self._away_until:
                return Outcome(self._fault_answers["away"])
            fate = self._next_fates.popleft() if self._next_fates else next(self._fates)
            if fate == "away":
                self._away_until = now + self._faults.away
            if fate == OK:
                return Outcome(_handled(endpoint, call, now))
            if isinstance(fate, Answer):
                self._struck["answer"] += 1
                return Outcome(fate)
            self._struck[fate] += 1
            normal = _handled(endpoint, call, now) if fate in AFTER else None
            if fate in CUTS:
                return Outcome(None)
            if fate == "slow":
                return Outcome(normal, self._faults.slow)
            return Outcome(self._fault_answers[fate])

    def _refusal(self, endpoint: Endpoint, call: Call, now: float) -> Answer | None:
        """
        The answer to a call that gets no further than the gateway and the keys.

        Access key or x-api-key come first: the limit is the account's that they name.
        """
        if endpoint.keyed and _key(call, "accessKey") != self._keys.access_key:
            return unauthorized()
        if self._limit.window is not None and not self._limit.window.take(now):
            self._refused += 1
            return rate_limited(self._limit.calls, self._limit.period)
        if endpoint.gated and call.headers.get("x-api-key") != self._keys.api_key:
            return forbidden()
        if endpoint.keyed and _key(call, "secretKey") != self._keys.secret_key:
            return unauthorized()
        return None

    def add_lead(self, attributes: Mapping[str, Any]) -> str:
        with self._lock:
            return self._leads.add(attributes)

    def leads(self) -> list[dict[str, Any]]:
        with self._lock:
            return [lead.copy() for lead in self._leads.all]

    def accepted(self) -> list[Accepted]:
        with self._lock:
            return self._ledger.accepted.copy()

    def arrival_times(self) -> list[float]:
        with self._lock:
            return self._arrivals.copy()

    def report(self, now: float) -> Report:
        with self._lock:
            return Report(
                arrivals=len(self._arrivals),
                refused=self._refused,
                fullest_window=fullest_window(self._arrivals, self._limit.period),
                faults=dict(self._struck),
                accepted=len(self._ledger.accepted),
                duplicates=self._ledger.duplicates,
                pending=self._ledger.pending(now),
                leads_created=self._leads.created,
                leads_updated=self._leads.updated,
                connections=self._connections,
            )


def _key(call: Call, name: str) -> str | None:
    """Return a key from the query or, as LeadSquared's page on authentication says, a header."""
    return call.query.get(name, call.headers.get(f"x-lsq-{name}"))


def _handled(endpoint: Endpoint, call: Call, now: float) -> Answer:
    try:
        return endpoint.handle(call, now)
    except RejectedError as rejected:
        return rejected.answer
