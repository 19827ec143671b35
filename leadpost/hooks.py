"""
Hooks: they are told what happens to each post and to the bucket, as it happens.

    def count(event: hooks.Event) -> None:
        if isinstance(event, hooks.Ended) and event.operation.is_post:
            counts[event.state] += 1

    poster = AsyncActivityPoster(account, hooks=[count])

What is told of one operation, a post with all its attempts for one:

    Waiting → Sent → Answered → Retried → Waiting → Sent → Answered → Ended

A call that brings no answer has no `Answered`; `Ended` always comes, whatever the end, and comes
last. An activity that `InvalidActivity` keeps from being posted is not told of. A bucket tells its
own hooks of `Paused` and `Resized`.

No key, no note and no field's value stands in any event, nor a text of the vendor's: errors are
told by the names of their classes.
"""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from leadpost._names import show_in
from leadpost.errors import State


class Hook(Protocol):
    """What is told of every event; any function of one argument will do."""

    def __call__(self, event: Event, /) -> None:
        """
        Take in an event, fast: it is called on the event loop, between the steps of a post.

        What it raises hurts nothing: that is logged, by the name of the class, the first time.
        """
        ...


@frozen(eq=False)
class Operation:
    """
    One use of the poster, with all its attempts: the same object in all of its events.

    An entry of an outbox is an operation for each time that it is tried. A worker that finds
    nothing to send when it has a token, as another one was faster, is one too; see `Ended.error`.

    Attributes:
        name: The poster's method: `post` (those of batches and outboxes too), `post_sync`,
            `status`, `metrics`, `activity_types`, `activity_type`, `lead_activities`.
    """

    name: str

    @property
    def is_post(self) -> bool:
        """Whether it posts an activity; the others ask."""
        return self.name in {"post", "post_sync"}


@frozen
class Waiting:
    """
    An attempt begins to wait for a token.

    Attributes:
        operation: Whose attempt.
        attempt: Its number, from 1.
    """

    operation: Operation
    attempt: int


@frozen
class Sent:
    """
    An attempt has its token, and its request leaves.

    Attributes:
        operation: Whose attempt.
        attempt: Its number, from 1.
        waited: Seconds that it waited for the token.
    """

    operation: Operation
    attempt: int
    waited: float


@frozen
class Answered:
    """
    An attempt has its answer, good or bad.

    Attributes:
        operation: Whose attempt.
        attempt: Its number, from 1.
        status: HTTP status.
    """

    operation: Operation
    attempt: int
    status: int


@frozen
class Retried:
    """
    An attempt has failed, and there will be another.

    Attributes:
        operation: Whose attempt.
        attempt: The number of the one that failed, from 1.
        error: Why: the name of the error's class.
        status: HTTP status, None where there was no answer.
        wait: Seconds until the next one waits for a token.
    """

    operation: Operation
    attempt: int
    error: str
    status: int | None
    wait: float


@frozen
class Ended:
    """
    The operation is over: it succeeded, or was given up.

    Attributes:
        operation: Which one.
        state: As in `Outcome.state`; one that was cancelled during a call is `uncertain`.
        attempts: How many calls were made.
        error: Why it did not succeed: the name of the error's class. None if it did, and with
            `not_sent` if an outbox had nothing to send, or was stopped before there was a token.
        status: HTTP status of the last attempt, None where there was no answer.
        request_id: The RequestID of a `post` that was accepted.
    """

    operation: Operation
    state: State
    attempts: int
    error: str | None = None
    status: int | None = None
    request_id: str | None = None


@frozen
class Paused:
    """
    The vendor refused a call, and the bucket lets none go for now.

    Of the refusals of one burst the first is told, and one that asks for more than a period more.

    Attributes:
        seconds: For how long.
    """

    seconds: float


@frozen
class Resized:
    """
    The bucket has fewer tokens from now on, or more again.

    Attributes:
        tokens: How many.
        before: How many it had.
    """

    tokens: int
    before: int


Event = Waiting | Sent | Answered | Retried | Ended | Paused | Resized

show_in("leadpost", globals())
