"""
Every error that leadpost raises, and what each means for the activity.

    LeadpostError
    ├── ConfigurationError     a key is missing, a host cannot be right (also a ValueError)
    ├── InvalidActivity        the check before the call said no (also a ValueError)
    ├── Rejected               the vendor said no; the same call would fail again
    │   ├── BadRequest         400: the body is not as specified
    │   ├── Unauthorized       401, 403: the keys are refused
    │   ├── NotFound           404: the URL is wrong
    │   └── ApplicationError   an MX… exception, whatever the status
    ├── Unavailable            gave up after retries; surely not accepted
    │   ├── RateLimited        429 and its look-alikes
    │   ├── ServerError        500 without an MX… exception, 503
    │   └── ConnectionFailed   no connection; for calls that change nothing, no answer
    ├── DeliveryUncertain      sent, but no answer that tells: it may have arrived
    ├── NotSent                a batch stopped, or a time-out ended, before its turn came
    ├── UnexpectedAnswer       an answer to a question (status, metrics, types) that cannot be read
    ├── StatusTimeout          `wait` ended before the status was final (also a TimeoutError)
    ├── OutboxError            the outbox's store cannot be used, or not like that
    │   ├── OutboxUnavailable  not now: locked, or the server is away
    │   └── KeyConflict        another activity was put under that key (also a ValueError)
    └── BatchError             some of a batch were not accepted (also an ExceptionGroup)

No key of the account stands in any of them: what the vendor wrote is stripped of the keys, and of
the texts of the activity, before it gets here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, ForwardRef, Literal, Self

from attrs import field, frozen

from leadpost._names import show_in

if TYPE_CHECKING:
    from leadpost.activity import Activity
    from leadpost.queries import RequestStatus
else:  # those modules import this one, and yet the hints can be resolved
    Activity = ForwardRef("Activity", module="leadpost.activity")
    RequestStatus = ForwardRef("RequestStatus", module="leadpost.queries")

State = Literal["accepted", "rejected", "uncertain", "failed", "not_sent"]


class LeadpostError(Exception):
    """
    The root of the tree: catch this to catch all.

    Attributes:
        status: HTTP status of the answer, None where there was none.
        exception_type: The vendor's `ExceptionType`, None where there was none.
        exception_message: The vendor's `ExceptionMessage`, None where there was none.
        attempts: How many calls were made.
        retry_after: Seconds that the vendor asked to wait for, None where it did not.
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
    """A key is missing, or a host cannot be right. Raised before any call."""

    state: ClassVar[State] = "not_sent"


@frozen
class Problem:
    """
    One reason why an activity cannot be posted.

    Attributes:
        field: The vendor's name of the parameter, or the SchemaName.
        found: What kind of value was there: its type or form, never its text.
        wanted: What would do.
    """

    field: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.field}: found {self.found}, wanted {self.wanted}"


class InvalidActivity(LeadpostError, ValueError):
    """
    The activity cannot be posted as it is. Raised before any call.

    Attributes:
        problems: Every reason, in the order of the fields.
    """

    state: ClassVar[State] = "rejected"

    def __init__(self, message: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Say all problems in one message."""
        return cls("; ".join(map(str, problems)), problems=problems)


class Rejected(LeadpostError):
    """The vendor said no, and would say so again to the same call."""

    state: ClassVar[State] = "rejected"


class BadRequest(Rejected):
    """400: the body is not as the API specifies it."""


class Unauthorized(Rejected):
    """401 or 403: the keys are refused, or their user is deactivated. Ends a batch."""


class NotFound(Rejected):
    """404 or a redirect: host or path is not the API's. Ends a batch."""


class ApplicationError(Rejected):
    """An exception of LeadSquared's own (`MX…`), such as an event code it does not know."""


class Unavailable(LeadpostError):
    """Gave up after retries; the activity was surely not accepted."""


class RateLimited(Unavailable):
    """
    More calls than the account may make: 429, or the same said with another status.

    Attributes:
        limit: The account's limit of calls as (calls, seconds), where the message names it.
    """

    def __init__(
        self, message: str, *, limit: tuple[int, int] | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.limit = limit


class ServerError(Unavailable):
    """500 without an `MX…` exception, or 503."""


class ConnectionFailed(Unavailable):
    """No connection could be made; for a call that changes nothing, also: no answer came."""


class DeliveryUncertain(LeadpostError):
    """
    The post was sent and no answer says what became of it: it may have arrived.

    A time-out or a lost connection after sending, 502, 504, or an answer that cannot be read. The
    vendor knows no idempotency key, so sending it again may post it twice.
    """

    state: ClassVar[State] = "uncertain"


class NotSent(LeadpostError):
    """A batch stopped, or `token_timeout` ended, before its turn came; nothing was sent."""

    state: ClassVar[State] = "not_sent"


class UnexpectedAnswer(LeadpostError):
    """A 2xx answer to a question that holds no answer to it."""


class StatusTimeout(LeadpostError, TimeoutError):
    """
    The time ended before the status of the request was final.

    Attributes:
        last: The last status seen, None where there was none.
    """

    def __init__(self, message: str, *, last: RequestStatus | None = None) -> None:
        super().__init__(message)
        self.last = last


class OutboxError(LeadpostError):
    """The store of an outbox cannot be used; what was put before is still there."""

    state: ClassVar[State] = "not_sent"


class OutboxUnavailable(OutboxError):
    """The store cannot be used for now: it is locked, or its server is away."""


class KeyConflict(OutboxError, ValueError):
    """
    An entry of that key holds another activity, or may not be corrected; nothing was done.

    Attributes:
        keys: The first of the keys for which that is so.
    """

    def __init__(self, message: str, *, keys: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


@frozen
class Outcome:
    """
    What became of one activity of a batch.

    Attributes:
        index: Its place in the input, from 0.
        activity: The input itself.
        request_id: The vendor's RequestID, None unless it was accepted.
        error: Why it was not accepted, None if it was.
    """

    index: int
    activity: Activity | Mapping[str, Any] = field(repr=False)
    request_id: str | None = None
    error: LeadpostError | None = None

    @property
    def state(self) -> State:
        """`accepted`, `rejected`, `uncertain`, `failed` or `not_sent`."""
        return "accepted" if self.error is None else self.error.state


class BatchError(LeadpostError, ExceptionGroup[Exception]):
    """
    Some activities of a batch were not accepted. All that could be posted were.

    Attributes:
        outcomes: One for each input that was drawn, in input order, the accepted ones with their
            RequestIDs.
        exceptions: The errors, in input order (`except*` works on them).
    """

    outcomes: tuple[Outcome, ...]

    def __new__(
        cls, message: str, exceptions: Sequence[Exception], outcomes: Sequence[Outcome]
    ) -> Self:
        group = super().__new__(cls, message, exceptions)
        group.outcomes = tuple(outcomes)
        return group

    def __init__(
        self, message: str, exceptions: Sequence[Exception], outcomes: Sequence[Outcome]
    ) -> None:
        del exceptions, outcomes  # kept by __new__, as ExceptionGroup wants it
        LeadpostError.__init__(self, message)

    # typeshed has it generic; the errors of a batch are what they are.
    def derive(self, excs: Sequence[Exception], /) -> "BatchError":  # type: ignore[override]
        """Give a group of only these `excs`, with all the outcomes, as `except*` and `split` do."""
        return BatchError(self.message, excs, self.outcomes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exceptions, self.outcomes)

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], *, cause: Exception | None = None) -> Self:
        """
        Say how many of the `outcomes` are of which state.

        Args:
            outcomes: One for each input that was drawn, in input order.
            cause: What ended the batch besides, if anything did.
        """
        errors: list[Exception] = [o.error for o in outcomes if o.error is not None]
        states = Counter(outcome.state for outcome in outcomes)
        accepted = states.pop("accepted", 0)
        failed = ", ".join(f"{count} {state}" for state, count in states.items())
        message = f"{accepted} of {len(outcomes)} activities were accepted"
        if failed:
            message += f" ({failed})"
        if cause is not None:
            message += f", then {type(cause).__name__} ended the batch"
            errors.append(cause)
        return cls(message, errors, outcomes)


show_in("leadpost", globals())
