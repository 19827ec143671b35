"""`Outcome`, what became of an activity of a batch, and the errors that contain results."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from attrs import field, frozen

from leadpost._answers import RequestStatus
from leadpost._models import Activity
from leadpost.errors import LeadpostError, State


@frozen
class Outcome:
    """
    What became of one activity of a batch.

    Attributes:
        index: Its place in the input, from 0.
        activity: The input itself.
        request_id: LeadSquared's RequestID, None unless it was accepted.
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
    Some activities of a batch were not accepted; all that could be posted were.

    Attributes:
        outcomes: One for each input that was drawn, in input order, with the RequestIDs of the
            accepted ones.
        exceptions: The errors, in input order (`except*` works with them).
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
        del exceptions, outcomes  # set by __new__, as in any ExceptionGroup
        LeadpostError.__init__(self, message)

    # Generic in typeshed; here the type of the errors is fixed.
    def derive(self, excs: Sequence[Exception], /) -> "BatchError":  # type: ignore[override]
        """Return a group of `excs` with all outcomes, for `except*` and `split`."""
        return BatchError(self.message, excs, self.outcomes)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exceptions, self.outcomes)

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], *, cause: Exception | None = None) -> Self:
        """
        Build the error of a batch, with a message that counts its states.

        Args:
            outcomes: One for each input that was drawn, in input order.
            cause: The error of the source or the bucket that ended the batch, if one did.
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


class StatusTimeout(LeadpostError, TimeoutError):
    """
    The request's status was not final in time.

    Attributes:
        last: The last status seen, None if there was none.
    """

    def __init__(self, message: str, *, last: RequestStatus | None = None) -> None:
        super().__init__(message)
        self.last = last
