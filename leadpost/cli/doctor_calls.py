"""What the vendor answers to each question of `leadpost doctor`: one call each, no verdict yet."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Generic, Literal, TypeVar
from uuid import uuid4

import httpx
from attrs import evolve, field, frozen

from leadpost.account import Account
from leadpost.bucket import Bucket
from leadpost.errors import (
    ApplicationError,
    BadRequest,
    ConnectionFailed,
    LeadpostError,
    NotFound,
    Rejected,
    Unauthorized,
    UnexpectedAnswer,
)
from leadpost.poster import AsyncActivityPoster
from leadpost.queries import ActivityType
from leadpost.retry import RetryPolicy
from leadpost.transport import LIMITS, TIMEOUT

T = TypeVar("T")
Way = Literal["query", "headers"]

WAYS: tuple[Way, Way] = ("query", "headers")
_STATUS_PATHS = ("/activity/create/status", "/activity/status")  # the likely one and its rival
_ONCE = RetryPolicy(max_attempts=1, max_time=0.001)  # no time for a second call after a 429
_LONGEST = 200


class Kind(Enum):
    """What an answer tells."""

    ANSWERED = auto()  # the API itself, keys accepted
    KEYS_REFUSED = auto()  # AccessKey and SecretKey
    API_KEY_REFUSED = auto()  # by the gateway
    NO_PATH = auto()
    NO_ANSWER = auto()
    UNCLEAR = auto()


@frozen
class Finding(Generic[T]):
    """
    What came of one call.

    Attributes:
        kind: What it tells.
        text: The same in words: HTTP status, the vendor's exception type and message.
        value: What was asked for, None where it did not come.
    """

    kind: Kind
    text: str
    value: T | None = None


@frozen
class Findings:
    """
    What came of all calls.

    Attributes:
        metrics: Of the Metrics API, for each way of passing the keys; only one if there was no
            answer to the first call, and then that is all.
        way: The way that the other calls went: the configured one unless only the other is taken.
        status: Of the Status API by path, the configured one first; empty where it was not asked.
        types: Of the list of activity types, None where it was not asked.
    """

    metrics: dict[Way, Finding[str]]
    way: Way
    status: dict[str, Finding[str]] = field(factory=dict[str, Finding[str]])
    types: Finding[list[ActivityType]] | None = None

    @property
    def reached(self) -> bool:
        return len(self.metrics) == len(WAYS)

    @property
    def refused(self) -> bool:
        """Whether some key was refused and nothing was answered."""
        kinds = {finding.kind for finding in (*self.metrics.values(), *self.status.values())}
        refusals = {Kind.KEYS_REFUSED, Kind.API_KEY_REFUSED}
        return Kind.ANSWERED not in kinds and not kinds.isdisjoint(refusals)

    @property
    def status_path(self) -> str | None:
        """The path at which the Status API answered."""
        return next((p for p, found in self.status.items() if found.kind is Kind.ANSWERED), None)

    @property
    def codes(self) -> list[int]:
        """The codes of the activity types."""
        kinds = self.types.value if self.types else None
        return [kind.code for kind in kinds or () if kind.code]

    def with_keys_in(self, way: Way) -> list[Finding[str]]:
        """All of the async host with the keys passed that way."""
        return [self.metrics[way], *(self.status.values() if way == self.way else ())]


async def examine(account: Account, bucket: Bucket) -> Findings:
    """Ask all questions that make sense after the answers before; nothing is posted."""
    used = account.keys_in
    examiner = _Examiner(account, bucket)
    async with examiner.client:
        metrics: dict[Way, Finding[str]] = {}
        for way in WAYS:
            metrics[way] = await examiner.ask(_metrics, keys_in=way)
            if metrics[WAYS[0]].kind is Kind.NO_ANSWER:
                return Findings(metrics, used)
        answered: list[Way] = [way for way in WAYS if metrics[way].kind is Kind.ANSWERED]
        way = answered[0] if answered and used not in answered else used
        status: dict[str, Finding[str]] = {}
        if metrics[way].kind not in {Kind.KEYS_REFUSED, Kind.API_KEY_REFUSED}:
            for path in dict.fromkeys((account.status_path, *_STATUS_PATHS)):
                status[path] = await examiner.ask(_status, keys_in=way, status_path=path)
                if status[path].kind is not Kind.NO_PATH:
                    break
        types = None
        if account.sync_host:
            types = await examiner.ask(AsyncActivityPoster.activity_types, keys_in=way)
        return Findings(metrics, way, status, types)


def varied(account: Account, **changes: Any) -> Account:
    """Give the account with other options. Its hosts are settled: the region would contradict."""
    return evolve(account, region=None, **changes)


def told(error: LeadpostError) -> str:
    """Give the text of an error on one line of a bearable length."""
    return " ".join(str(error).split())[:_LONGEST]


class _Examiner:
    """Asks with variations of one account, over the same connections and bucket."""

    def __init__(self, account: Account, bucket: Bucket) -> None:
        self._account = account
        self._bucket = bucket
        self._html = False  # whether the last answer was HTML, which no error tells
        self.client = httpx.AsyncClient(
            limits=LIMITS,
            timeout=TIMEOUT,
            trust_env=not account.is_loopback,  # as the poster's own client
            event_hooks={"response": [self._look]},
        )

    async def ask(
        self, question: Callable[[AsyncActivityPoster], Awaitable[T]], **changes: str
    ) -> Finding[T]:
        """Make one call with the account changed like that."""
        poster = AsyncActivityPoster(
            varied(self._account, **changes), client=self.client, bucket=self._bucket, retry=_ONCE
        )
        try:
            value = await question(poster)
        except LeadpostError as error:
            return Finding(_kind_of(error, html=self._html), told(error))
        return Finding(Kind.ANSWERED, value if isinstance(value, str) else "", value)

    async def _look(self, response: httpx.Response) -> None:
        self._html = "html" in response.headers.get("Content-Type", "").lower()


async def _metrics(poster: AsyncActivityPoster) -> str:
    metrics = await poster.metrics()
    return f"HTTP 200, {metrics.pending_messages} pending messages"


async def _status(poster: AsyncActivityPoster) -> str:
    """Ask for a request that never was: the vendor's own word that it is not known will do."""
    try:
        status = await poster.status(str(uuid4()))
    except Rejected as error:
        of_vendor = isinstance(error, ApplicationError | BadRequest) and error.exception_type
        if of_vendor or error.status == 200:
            return f"{told(error)}, to a made-up RequestID"
        raise
    return f"HTTP 200, {status.status}, to a made-up RequestID"


def _kind_of(error: LeadpostError, *, html: bool) -> Kind:
    match error:
        case ConnectionFailed():
            return Kind.NO_ANSWER
        case NotFound(exception_type=None):
            return Kind.NO_PATH
        case UnexpectedAnswer() if html:
            return Kind.NO_PATH
        # AWS's gateway says so of an x-api-key.
        case Unauthorized(exception_type=None, exception_message="Forbidden"):
            return Kind.API_KEY_REFUSED
        case Unauthorized() if error.status == 401 or error.exception_type:
            return Kind.KEYS_REFUSED
        case _:
            return Kind.UNCLEAR
