"""The server's side of a call: counted, checked against limit and keys, then accepted or failed."""

from collections import Counter, deque
from collections.abc import Mapping
from random import Random
from threading import Lock

from leadpost.sandbox.answers import (
    Answer,
    RejectedError,
    forbidden,
    json_answer,
    rate_limited,
    unauthorized,
)
from leadpost.sandbox.endpoints import Call, Endpoint, Endpoints
from leadpost.sandbox.faults import AFTER, OK, Faults, answers_of_faults, fates
from leadpost.sandbox.windows import Window


class Gateway:
    """The account's gateway: it counts calls, refuses some, and makes some fail."""

    def __init__(
        self,
        *,
        keys: Mapping[str, str],
        limit: int,
        period: float,
        window: Window | None,
        faults: Faults,
        endpoints: Endpoints,
        random: Random,
    ) -> None:
        self.lock = Lock()  # held during each call, as each connection has a thread
        self.arrivals: list[float] = []
        self.refused = 0
        self.struck = Counter[str]()  # by faults
        self.connections = 0
        self.next_fates = deque[str | Answer]()  # before those of the script and of chance
        self._keys = keys  # under the names that carry them
        self._window = window  # None for no limit
        self._over_limit = rate_limited(limit, period)
        self._faults = faults
        self._fates = fates(faults, random)
        self._fault_answers = answers_of_faults(limit, period, faults.retry_after)
        self._endpoints = endpoints
        self._away_until = 0.0

    def arrive(self, call: Call) -> tuple[Answer | None, float]:
        """Return the answer to a call, None to cut the connection, and the seconds before it."""
        endpoint = self._endpoints.find(call)
        if isinstance(endpoint, Answer):
            return endpoint, 0.0
        self.arrivals.append(call.time)
        refusal = self._refusal(endpoint, call)
        if refusal is not None:
            return refusal, 0.0
        if call.time < self._away_until:
            return self._fault_answers["away"], 0.0
        fate = self.next_fates.popleft() if self.next_fates else next(self._fates)
        if fate == OK:
            return _handled(endpoint, call), 0.0
        if isinstance(fate, Answer):
            self.struck["answer"] += 1
            return fate, 0.0
        self.struck[fate] += 1
        if fate == "away":
            self._away_until = call.time + self._faults.away
        normal = _handled(endpoint, call) if fate in AFTER else None
        if fate == "slow":
            return normal, self._faults.slow
        return self._fault_answers[fate], 0.0

    def _refusal(self, endpoint: Endpoint, call: Call) -> Answer | None:
        """
        Return the answer to a call that gets no further than the gateway and the keys.

        AccessKey and x-api-key come first: the limit is the account's that they name.
        """
        if endpoint.keyed and _key(call, "accessKey") != self._keys["accessKey"]:
            return unauthorized()
        if self._window is not None and not self._window.take(call.time):
            self.refused += 1
            return self._over_limit
        if endpoint.gated and call.headers.get("x-api-key") != self._keys["x-api-key"]:
            return forbidden()
        if endpoint.keyed and _key(call, "secretKey") != self._keys["secretKey"]:
            return unauthorized()
        return None


def _key(call: Call, name: str) -> str | None:
    """Return a key from the query or, as LeadSquared's page on authentication says, a header."""
    return call.query.get(name, call.headers.get(f"x-lsq-{name}"))


def _handled(endpoint: Endpoint, call: Call) -> Answer:
    try:
        return json_answer(200, endpoint.handle(call))
    except RejectedError as rejected:
        return rejected.answer
