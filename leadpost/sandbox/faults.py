"""What can go wrong with a call on purpose: by a script, then by chance."""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType

from attrs import field, frozen

from leadpost.sandbox.answers import HTML, Answer, error, json_answer, rate_limited, unauthorized

OK = "ok"
CUTS = frozenset({"cut-before", "cut-after"})
AFTER = frozenset({"502-after", "cut-after", "slow"})
"""The faults that strike once the call has done its work."""

NAMES = (
    "429",
    "429-retry-after",
    "429-gateway",
    "403-rate-limit",
    "200-rate-limit",
    "200-error",
    "500",
    "500-mx",
    "503",
    "504-before",
    "502-after",
    "cut-before",
    "cut-after",
    "slow",
    "keys-refused",
    "away",
)


def _check_names(names: Sequence[str]) -> None:
    unknown = sorted(map(str, (name for name in set(names) if name not in NAMES)))
    if unknown:
        raise ValueError(f"unknown faults {', '.join(unknown)}; there are {', '.join(NAMES)}")


@frozen
class Faults:
    """
    Which calls fail and how. Only calls with the right keys and within the limit can fail so:

        "429"               refused as over the limit, without a Retry-After
        "429-retry-after"   the same with a Retry-After
        "429-gateway"       refused by the gateway, {"message": "Too Many Requests"}
        "403-rate-limit"    the vendor's refusal with status 403
        "200-rate-limit"    the vendor's refusal with status 200
        "200-error"         an error under status 200
        "500"               failed without saying why
        "500-mx"            an application error: the same call gives the same answer
        "503"               the gateway has no one behind it
        "504-before"        the gateway gave up waiting; the activity was not taken
        "502-after"         the gateway lost the answer; the activity was taken
        "cut-before"        the connection is cut; the activity was not taken
        "cut-after"         the connection is cut; the activity was taken
        "slow"              the activity is taken and the answer comes late
        "keys-refused"      the keys are refused, as after they were changed
        "away"              this call and all others for some seconds have no one behind the gateway

    Args:
        probability: The share of calls, 0 to 1, that each fault strikes. The shares add up to 1
            at most.
        script: What happens to the first calls, one entry each in order of arrival: the name of a
            fault, "ok" for a call that is answered as it should be, or an answer to be sent word
            for word without the call being taken. The probabilities hold once it is used up.
        retry_after: Whole seconds the Retry-After of "429-retry-after" names.
        slow: Seconds by which "slow" delays an answer.
        away: Seconds for which "away" lasts.

    Raises:
        ValueError: If a name is unknown or a number out of range.
    """

    probability: Mapping[str, float] = field(factory=dict[str, float])
    script: Sequence[str | Answer] = ()
    retry_after: int = field(default=2, kw_only=True)
    slow: float = field(default=60.0, kw_only=True)
    away: float = field(default=20.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check_names([*self.probability])
        _check_names([name for name in self.script if not isinstance(name, Answer) and name != OK])
        if not all(0 <= share <= 1 for share in self.probability.values()):
            raise ValueError("the probability of a fault is from 0 to 1")
        # Ten times 0.1 is a little more or less than 1.
        if sum(self.probability.values()) > 1 + 1e-9:
            raise ValueError("the probabilities of the faults add up to more than 1")
        if self.retry_after < 0 or self.slow < 0 or self.away < 0:
            raise ValueError("retry_after, slow and away are seconds, 0 or more")

    def fates(self, random: Random) -> Iterator[str | Answer]:
        """What happens to each call in turn, without end; chance comes from `random`."""
        yield from self.script
        names = [*self.probability, OK]
        shares = [*self.probability.values()]
        weights = [*shares, max(0.0, 1 - sum(shares))]
        while True:
            yield from random.choices(names, weights)

    def answers(self, limit: int, period: float) -> Mapping[str, Answer]:
        """
        The answers of those faults that have one of their own.

        Args:
            limit: The calls in `period` seconds that a refusal names.
            period: Seconds.
        """
        failed = {"Status": "Failed", "Message": {"Message": "Bad event code"}}
        gateway = "<html><body><h1>{}</h1></body></html>"
        unavailable = json_answer(503, {"message": "Service Unavailable"})
        retry_after = {"Retry-After": str(self.retry_after)}
        return MappingProxyType(
            {
                "429": rate_limited(limit, period),
                "429-retry-after": rate_limited(limit, period, headers=retry_after),
                "429-gateway": json_answer(429, {"message": "Too Many Requests"}),
                "403-rate-limit": rate_limited(limit, period, 403),
                "200-rate-limit": rate_limited(limit, period, 200),
                "200-error": json_answer(200, failed),
                "500": Answer(500, gateway.format("Internal Server Error"), HTML),
                "500-mx": error(500, "MXInvalidInputException", "The input is not valid"),
                "503": unavailable,
                "away": unavailable,
                "keys-refused": unauthorized(),
                "504-before": json_answer(504, {"message": "Endpoint request timed out"}),
                "502-after": Answer(502, gateway.format("Bad Gateway"), HTML),
            }
        )
