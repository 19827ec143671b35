"""Faults: what goes wrong with a call on purpose, first by a script, then by chance."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType

from attrs import evolve, field, frozen

from leadpost.sandbox.answers import (
    HTML,
    JSON,
    Answer,
    error,
    json_answer,
    rate_limited,
    unauthorized,
)

OK = "ok"
AFTER = frozenset({"502-after", "cut-after", "slow"})
"""Faults after the call was processed."""


def answers_of_faults(limit: int, period: float, retry_after: int) -> dict[str, Answer | None]:
    """Return the answer of each fault; None if it cuts the connection or only delays."""
    failed = {"Status": "Failed", "Message": {"Message": "Bad event code"}}
    gateway = "<html><body><h1>{}</h1></body></html>"
    unavailable = json_answer(503, {"message": "Service Unavailable"})
    refusal = rate_limited(limit, period)
    return {
        "429": refusal,
        "429-retry-after": evolve(refusal, headers={**JSON, "Retry-After": str(retry_after)}),
        "429-gateway": json_answer(429, {"message": "Too Many Requests"}),
        "403-rate-limit": evolve(refusal, status=403),
        "200-rate-limit": evolve(refusal, status=200),
        "200-error": json_answer(200, failed),
        "500": Answer(500, gateway.format("Internal Server Error"), HTML),
        "500-mx": error(500, "MXInvalidInputException", "The input is not valid"),
        "503": unavailable,
        "504-before": json_answer(504, {"message": "Endpoint request timed out"}),
        "502-after": Answer(502, gateway.format("Bad Gateway"), HTML),
        "cut-before": None,
        "cut-after": None,
        "slow": None,
        "keys-refused": unauthorized(),
        "away": unavailable,
    }


NAMES = tuple(answers_of_faults(0, 0, 0))


def _check_names(names: Iterable[object]) -> None:
    unknown = sorted({str(name) for name in names if name not in NAMES})
    if unknown:
        raise ValueError(f"unknown faults {', '.join(unknown)}; there are {', '.join(NAMES)}")


@frozen
class Faults:
    """
    Which calls fail, and how. Only calls with valid keys and within the limit are affected:

        "429"               a refusal without a Retry-After
        "429-retry-after"   a refusal with a Retry-After
        "429-gateway"       a refusal by the gateway, {"message": "Too Many Requests"}
        "403-rate-limit"    a refusal with status 403
        "200-rate-limit"    a refusal with status 200
        "200-error"         an error with status 200
        "500"               an error without a reason
        "500-mx"            an application error, which a retry would repeat
        "503"               the gateway reaches no server
        "504-before"        the gateway timed out; the activity was not accepted
        "502-after"         the gateway lost the answer; the activity was accepted
        "cut-before"        the connection is cut; the activity was not accepted
        "cut-after"         the connection is cut; the activity was accepted
        "slow"              the activity is accepted, and the answer comes late
        "keys-refused"      the keys are rejected, as if they had been changed
        "away"              an outage: 503 for this call, and for all others in the next seconds

    Args:
        probability: The name of a fault to the share of calls, 0 to 1, that it affects. The shares
            add up to at most 1.
        script: The fates of the first calls, in order of arrival: the name of a fault, "ok" for a
            normal answer, or an `Answer` to send unchanged (the call is not accepted). After the
            script, the probabilities apply.
        retry_after: Seconds in the Retry-After of "429-retry-after", a whole number.
        slow: Seconds by which "slow" delays an answer.
        away: Seconds that "away" lasts.

    Raises:
        TypeError: `probability` is not a mapping.
        ValueError: a name is unknown, or a number is out of range.
    """

    probability: Mapping[str, float] = MappingProxyType({})
    script: Sequence[str | Answer] = ()
    retry_after: int = field(default=2, kw_only=True)
    slow: float = field(default=60.0, kw_only=True)
    away: float = field(default=20.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.probability, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("faults must map names to shares, such as {'500': 0.1}")
        _check_names(self.probability)
        _check_names(name for name in self.script if not isinstance(name, Answer) and name != OK)
        shares = self.probability.values()
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("the probability of a fault must be from 0 to 1")
        # In floating point, ten times 0.1 is not exactly 1.
        if sum(shares) > 1 + 1e-9:
            raise ValueError("the probabilities of the faults must not add up to more than 1")
        if self.retry_after < 0 or self.slow < 0 or self.away < 0:
            raise ValueError("retry_after, slow and away are seconds, 0 or more")


def fates(faults: Faults, random: Random) -> Iterator[str | Answer]:
    """Yield the fate of each call in turn, without end; chance comes from `random`."""
    yield from faults.script
    names, shares = [*faults.probability, OK], [*faults.probability.values()]
    while True:
        yield from random.choices(names, [*shares, max(0.0, 1 - sum(shares))])
