"""
Hooks: functions that are called with each step of a post, and each change of the bucket.

    def count(event: hooks.Event) -> None:
        if isinstance(event, hooks.Ended) and event.operation.is_post:
            counts[event.state] += 1

    poster = AsyncActivityPoster(account, hooks=[count])

The events of one operation, for example a post with all its attempts:

    Waiting → Sent → Answered → Retried → Waiting → Sent → Answered → Ended

A call without an answer has no `Answered`. `Ended` always comes, however the operation ends, and it
is the last one: where a caller leaves while a call is in flight, it comes when that call ends. An
invalid activity has no events; neither does a call on a closed poster. A bucket sends `Paused` and
`Resized` to its own hooks.

No event holds a key, a note, a field value or a text of LeadSquared's: errors are named by class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from inspect import iscoroutinefunction
from typing import Protocol

from attrs import frozen

from leadpost.errors import State

_log = logging.getLogger("leadpost")


class Hook(Protocol):
    """A function of one argument that is called with every event."""

    def __call__(self, event: Event, /) -> None:
        """
        Handle an `event`, quickly: this runs on the event loop, between the steps of a post.

        An error that it raises does not affect the post: its class is logged, the first time.
        """
        ...


@frozen(eq=False)
class Operation:
    """
    One use of the poster, with all its attempts: the same object in all of its events.

    Each attempt at an entry of an outbox is an operation. So is the wait of a worker that finds
    nothing to send once it has a token, because another one was faster; see `Ended.error`.

    Attributes:
        name: The poster's method: `post` (for batches and outboxes too), `post_sync`, or that of a
            query, such as `status` or `find_lead`.
        index: For an activity of a batch, its place in the input, from 0; else None.
    """

    name: str
    index: int | None = None

    def __str__(self) -> str:
        return self.name if self.index is None else f"{self.name} (index {self.index})"

    @property
    def is_post(self) -> bool:
        """Whether it posts an activity; the others are queries."""
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
    An attempt has its token, and its request is being sent.

    Attributes:
        operation: Whose attempt.
        attempt: Its number, from 1.
        waited: Seconds that it waited for its token.
    """

    operation: Operation
    attempt: int
    waited: float


@frozen
class Answered:
    """
    An attempt has its answer, whatever that says.

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
    An attempt has failed, and another one will follow.

    Attributes:
        operation: Whose attempt.
        attempt: The number of the one that failed, from 1.
        error: The name of the error's class.
        status: HTTP status, None without an answer.
        wait: Seconds until the next attempt begins to wait for a token.
    """

    operation: Operation
    attempt: int
    error: str
    status: int | None
    wait: float


@frozen
class Ended:
    """
    The operation is over: it succeeded, failed or was given up.

    Attributes:
        operation: Which one.
        state: As in `Outcome.state`.
        attempts: The number of calls made.
        error: The name of the error's class, None if it succeeded; `NothingToSend` if a worker of
            an outbox had a token, but no entry to send.
        status: HTTP status of the last attempt, None without an answer.
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
    LeadSquared refused calls, and the bucket allows none for some time.

    Attributes:
        seconds: The length of the pause.
    """

    seconds: float


@frozen
class Resized:
    """
    The bucket has fewer tokens from now on, or more again.

    Attributes:
        tokens: The number of tokens from now on.
        before: The number before.
    """

    tokens: int
    before: int


Event = Waiting | Sent | Answered | Retried | Ended | Paused | Resized


class Hooks:
    """The hooks of one poster or bucket: calls each with an event. An error affects no post."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = tuple(hooks)
        self._failed = set[int]()
        if any(map(iscoroutinefunction, self._hooks)):
            raise TypeError("hooks: found an async function, wanted plain functions")

    def __call__(self, event: Event) -> None:
        for number, hook in enumerate(self._hooks):
            try:
                hook(event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  # not the post's concern
                # Not even a CancelledError is: nothing was awaited, so it cancels no task of ours.
                if number not in self._failed:
                    self._failed.add(number)
                    # Neither the hook's repr nor the error's text, which may hold anything.
                    name = getattr(hook, "__qualname__", type(hook).__qualname__)
                    what = type(error).__name__
                    _log.error("hook %s raised %s; further errors of it are not logged", name, what)
