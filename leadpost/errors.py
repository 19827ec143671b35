"""
Every error that leadpost raises, and what each means for the activity.

    LeadpostError
    ├── ConfigurationError     no key, or an unusable host, proxy or header (also a ValueError)
    ├── InvalidActivity        found invalid before any call (also a ValueError)
    ├── Rejected               LeadSquared rejected it; the same call would fail again
    │   ├── BadRequest         400: the body is not as specified
    │   ├── Unauthorized       401, 403: the keys are rejected
    │   ├── NotFound           404: the URL is wrong
    │   └── ApplicationError   an MX… exception, whatever the status
    ├── Unavailable            given up after retries; not accepted
    │   ├── RateLimited        429, or the same with another status
    │   ├── ServerError        500 without an MX… exception, 503 and similar
    │   └── ConnectionFailed   no connection; for calls that change nothing, no answer
    ├── DeliveryUncertain      sent, without a readable answer: it may have arrived
    ├── NotSent                stopped or timed out before anything was sent
    │   ├── OutageTimeout      LeadSquared did not answer for longer than the post could wait
    │   └── TokenLost          a token of a shared bucket was lost before the call was sent
    ├── AmbiguousLead          several leads have the value that `find_lead` looked for
    ├── UnexpectedAnswer       an answer to a query (status, metrics, types) that cannot be read
    ├── StatusTimeout          `wait` ended before the status was final (also a TimeoutError)
    ├── OutboxError            the outbox's database cannot be used, or not in this way
    │   ├── OutboxUnavailable  not now: locked, or its server is down
    │   │   └── DiskFull       not before somebody makes room
    │   └── KeyConflict        the key belongs to another activity (also a ValueError)
    └── BatchError             some of a batch were not accepted (also an ExceptionGroup)

`StatusTimeout` and `BatchError` contain results, so they are defined beside those; import all of
them from `leadpost`.

None of them contains a key of the account. `exception_message`, and with it `str()`, is what
LeadSquared wrote, and may quote the activity. All other texts are leadpost's own, without notes and
field values.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from attrs import frozen

State = Literal["accepted", "rejected", "uncertain", "failed", "not_sent"]


class LeadpostError(Exception):
    """
    The root of the tree: catch this to catch all.

    Attributes:
        status: HTTP status of the answer, None without one.
        exception_type: LeadSquared's `ExceptionType`, None without one.
        exception_message: LeadSquared's `ExceptionMessage`, None without one. The account's keys
            are removed; it may still quote the activity.
        attempts: Number of calls made.
        retry_after: Seconds that LeadSquared asked to wait, None if it did not ask.
        state: What became of the activity, as in `Outcome.state`.
    """

    state: ClassVar[State] = "failed"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        exception_type: str | None = None,
        exception_message: str | None = None,
        attempts: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.exception_type = exception_type
        self.exception_message = exception_message
        self.attempts = attempts
        self.retry_after = retry_after


class ConfigurationError(LeadpostError, ValueError):
    """
    A key is missing, or a host, a proxy or a header of your client cannot be used.

    Raised before anything is sent; ends a batch.
    """

    state: ClassVar[State] = "not_sent"


@frozen
class Problem:
    """
    One reason why an activity cannot be posted.

    Attributes:
        field: LeadSquared's name of the parameter, or the SchemaName.
        found: The kind of value found: its type or form, never its text.
        wanted: What is expected instead.
    """

    field: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}, wanted {self.wanted}"


class InvalidActivity(LeadpostError, ValueError):
    """
    The activity is invalid. Raised before any call.

    Attributes:
        problems: Every reason, in the order of the fields.
    """

    state: ClassVar[State] = "rejected"

    def __init__(self, message: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Put all `problems` into one message."""
        return cls("; ".join(map(str, problems)), problems=problems)


class Rejected(LeadpostError):
    """LeadSquared rejected the call, and would reject the same call again."""

    state: ClassVar[State] = "rejected"


class BadRequest(Rejected):
    """400: the body is not as the API specifies it."""


class Unauthorized(Rejected):
    """401 or 403: the keys are rejected, or their user is deactivated. Ends a batch."""


class NotFound(Rejected):
    """404 or a redirect: the host or path is not the API's. Ends a batch."""


class ApplicationError(Rejected):
    """One of LeadSquared's exceptions (`MX…`), such as an unknown event code."""


class Unavailable(LeadpostError):
    """Given up after retries; the activity was not accepted."""


class RateLimited(Unavailable):
    """
    The account exceeded its call limit: status 429, or the exception type that says so.

    Attributes:
        limit: The account's limit as (calls, seconds), if the message names it.
    """

    def __init__(
        self, message: str, *, limit: tuple[int, int] | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.limit = limit


class ServerError(Unavailable):
    """500 without an `MX…` exception, 503, or another status that says "not now"."""


class ConnectionFailed(Unavailable):
    """
    No connection could be made, so nothing was sent.

    For a call that changes nothing, also: no answer came.

    Attributes:
        sent: Whether the request was sent, which is possible only for a call that changes nothing.
    """

    def __init__(self, message: str, *, sent: bool = False, **details: Any) -> None:
        super().__init__(message, **details)
        self.sent = sent


class DeliveryUncertain(LeadpostError):
    """
    The post was sent and no readable answer came: it may have arrived.

    A time-out or a lost connection after sending, 502, 504, or an answer that cannot be read.
    LeadSquared has no idempotency keys, so a retry may post it twice.
    """

    state: ClassVar[State] = "uncertain"


class NotSent(LeadpostError):
    """A batch was stopped, or the time was over, before anything was sent."""

    state: ClassVar[State] = "not_sent"


class OutageTimeout(NotSent):
    """LeadSquared did not answer posts for longer than this one could wait. Ends a batch."""


class TokenLost(NotSent):
    """A token of a shared bucket was lost before the call was sent: the process was frozen."""


class AmbiguousLead(LeadpostError):
    """Several leads have the email address or phone number that was looked up."""


class UnexpectedAnswer(LeadpostError):
    """A 2xx answer to a query without the data that was asked for."""


class OutboxError(LeadpostError):
    """The database of an outbox cannot be used; entries that were put before are still there."""

    state: ClassVar[State] = "not_sent"


class OutboxUnavailable(OutboxError):
    """The database cannot be used now: it is locked, or its server is down."""


class DiskFull(OutboxUnavailable):
    """The disk of the database is full. `Outbox.run` waits for room, all else raises this."""


class KeyConflict(OutboxError, ValueError):
    """
    The entry of a key has another activity, or must not be replaced; nothing was changed.

    Attributes:
        keys: The first of the keys in conflict.
    """

    def __init__(self, message: str, *, keys: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


def described(error: BaseException | None) -> str:
    """Name an error for the log, with its text only if LeadSquared cannot have written that."""
    if isinstance(error, ConfigurationError | OutboxError):
        return str(error)
    found = type(error).__name__
    if isinstance(error, LeadpostError):
        found += f", HTTP {error.status}" if error.status is not None else ""
        found += f", Retry-After {error.retry_after:.0f} s" if error.retry_after else ""
    return found
