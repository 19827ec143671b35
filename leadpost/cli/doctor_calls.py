"""What the vendor answers to each question of `leadpost doctor`: one call each, no verdict yet."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Generic, Literal, TypeVar
from uuid import uuid4

import httpx
from attrs import evolve, field, frozen

from leadpost._account import Account
from leadpost._models import ActivityType
from leadpost._poster import AsyncActivityPoster
from leadpost._retry import RetryPolicy
from leadpost._transport import new_client
from leadpost.bucket import PERIOD, Bucket
from leadpost.errors import (
    ApplicationError,
    BadRequest,
    ConnectionFailed,
    LeadpostError,
    NotFound,
    RateLimited,
    Rejected,
    Unauthorized,
    UnexpectedAnswer,
)

T = TypeVar("T")
Way = Literal["query", "headers"]

WAYS: tuple[Way, Way] = ("query", "headers")
_STATUS_PATHS = ("/activity/create/status", "/activity/status")  # the likely one and its rival
# Once, and again only after a refusal (429), as one that commands run just before may have caused.
_ONCE = RetryPolicy(max_attempts=1, max_time=PERIOD + 1)
_LONGEST = 200
# The text of a ConnectionFailed begins with the name of httpx's error.
_NO_CONNECTION = tuple(
    kind.__name__ for kind in (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
)


class Kind(Enum):
    """What an answer tells."""

    ANSWERED = auto()  # the API itself, keys accepted
    KEYS_REFUSED = auto()  # AccessKey and SecretKey
    API_KEY_REFUSED = auto()  # by the gateway
    NO_PATH = auto()
    NO_CONNECTION = auto()
    UNCLEAR = auto()


REFUSALS = frozenset({Kind.KEYS_REFUSED, Kind.API_KEY_REFUSED})


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
        used: The configured way of passing the keys.
        metrics: Of the Metrics API, for each way; only one if there was no connection for the first
            call, and then that is all.
        statuses: Of the Status API by way and path, the configured path first; without the ways in
            which it was not asked.
        types: Of the list of activity types, None where it was not asked.
    """

    used: Way
    metrics: dict[Way, Finding[str]]
    statuses: dict[Way, dict[str, Finding[str]]] = field(factory=dict[Way, dict[str, Finding[str]]])
    types: Finding[list[ActivityType]] | None = None

    @property
    def reached(self) -> bool:
        return len(self.metrics) == len(WAYS)

    @property
    def of_async_host(self) -> list[Finding[str]]:
        """All of the async host."""
        statuses = (finding for asked in self.statuses.values() for finding in asked.values())
        return [*self.metrics.values(), *statuses]

    @property
    def refused(self) -> bool:
        """Whether some key was refused and nothing was answered."""
        kinds = {finding.kind for finding in self.of_async_host}
        return Kind.ANSWERED not in kinds and not kinds.isdisjoint(REFUSALS)

    @property
    def nowhere(self) -> bool:
        """Whether no path is there, as at a host that is not the Async API's."""
        return all(finding.kind is Kind.NO_PATH for finding in self.of_async_host)

    @property
    def way(self) -> Way:
        """The way to go on with: the configured one unless only the other is answered."""
        answered: list[Way] = [
            way for way in WAYS if any(f.kind is Kind.ANSWERED for f in self.with_keys_in(way))
        ]
        return answered[0] if answered and self.used not in answered else self.used

    @property
    def status(self) -> dict[str, Finding[str]]:
        """Of the Status API by path, in the way to go on with; empty where it was not asked."""
        return self.statuses.get(self.way, {})

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
        return [self.metrics[way], *self.statuses.get(way, {}).values()]


async def examine(account: Account, bucket: Bucket) -> Findings:
    """Ask all questions that make sense after the answers before; nothing is posted."""
    examiner = _Examiner(account, bucket)
    async with examiner.client:
        metrics: dict[Way, Finding[str]] = {}
        for way in WAYS:
            metrics[way] = await examiner.ask(_metrics, keys_in=way)
            if metrics[WAYS[0]].kind is Kind.NO_CONNECTION:
                return Findings(account.keys_in, metrics)
        findings = Findings(account.keys_in, metrics)
        findings = evolve(findings, statuses=await examiner.ask_statuses(findings))
        if not account.sync_host:
            return findings
        types = await examiner.ask(AsyncActivityPoster.activity_types, keys_in=findings.way)
        return evolve(findings, types=types)


def varied(account: Account, **changes: Any) -> Account:
    """Give the account with other options. Its hosts are settled: the region would contradict."""
    return evolve(account, region=None, **changes)


def told(error: LeadpostError) -> str:
    """
    Return the text of an error, which holds no key, not too long.

    Without the settings that a 404 names: the verdict names the one to change.
    """
    text = str(error)
    if isinstance(error, NotFound):
        said = (f"HTTP {error.status}", error.exception_type, error.exception_message)
        text = ": ".join(part for part in said if part)
    return text[:_LONGEST]


class _Examiner:
    """Asks with variations of one account, over the same connections and bucket."""

    def __init__(self, account: Account, bucket: Bucket) -> None:
        self._account = account
        self._bucket = bucket
        self._html = False  # whether the last answer was HTML, which no error tells
        self._refusal: str | None = None  # why nothing more is asked, if LeadSquared wants a pause
        self.client = new_client(account)
        self.client.event_hooks = {"response": [self._look]}

    async def ask(
        self, question: Callable[[AsyncActivityPoster], Awaitable[T]], **changes: str
    ) -> Finding[T]:
        """Make one call with the account changed like that."""
        if self._refusal is not None:
            return Finding(Kind.UNCLEAR, self._refusal)
        poster = AsyncActivityPoster(
            varied(self._account, **changes), client=self.client, bucket=self._bucket, retry=_ONCE
        )
        try:
            value = await question(poster)
        except LeadpostError as error:
            pause = error.retry_after if isinstance(error, RateLimited) else None
            if pause is not None and pause > _ONCE.max_time:
                self._refusal = f"LeadSquared asked to wait for {pause:.0f} s; nothing was sent"
            return Finding(_kind_of(error, html=self._html), told(error))
        return Finding(Kind.ANSWERED, value if isinstance(value, str) else "", value)

    async def ask_statuses(self, findings: Findings) -> dict[Way, dict[str, Finding[str]]]:
        """
        Ask the Status API, at one path after the other until one is there.

        Where the metrics do not tell which way of passing the keys is taken, as at a wrong path,
        and the keys are refused here, the other way is asked at that path too. A way in which the
        Metrics API refused a key is not asked.
        """
        statuses: dict[Way, dict[str, Finding[str]]] = {}
        paths = [*dict.fromkeys((self._account.status_path, *_STATUS_PATHS))]
        gone: list[tuple[str, Finding[str]]] = []
        for way in sorted(WAYS, key=lambda way: way != findings.way):
            metrics = findings.metrics[way].kind
            if metrics in REFUSALS:
                continue
            asked = statuses[way] = dict(gone)
            for path in paths:
                asked[path] = await self.ask(_status, keys_in=way, status_path=path)
                if asked[path].kind is not Kind.NO_PATH:
                    break
            *gone, (path, status) = asked.items()
            if status.kind is not Kind.KEYS_REFUSED or metrics is Kind.ANSWERED:
                break
            paths = [path]
        return statuses

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
        case ConnectionFailed() if str(error).startswith(_NO_CONNECTION):
            return Kind.NO_CONNECTION
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
