"""Telling hooks what happens, so that none of them can hurt a post."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Self

from leadpost._shapes import check_type
from leadpost.errors import LeadpostError, State
from leadpost.hooks import Answered, Ended, Event, Hook, Operation, Retried, Sent, Waiting

_log = logging.getLogger(__name__)


class Hooks:
    """
    The hooks of one poster or bucket, to be told of events.

    Raises:
        TypeError: one of them is no function, or an async one.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = hooks_of(hooks)
        self._failed = set[int]()

    def __call__(self, event: Event) -> None:
        for number, hook in enumerate(self._hooks):
            try:
                hook(event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  # not the post's concern
                # Nor is a CancelledError the post's cancellation: no task was switched.
                if number not in self._failed:
                    self._failed.add(number)
                    # Neither the hook's repr nor the error's text: who knows what stands in them.
                    name = getattr(hook, "__qualname__", type(hook).__qualname__)
                    what = type(error).__name__
                    _log.error("the hook %s raised %s; told only this once", name, what)


def hooks_of(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """
    Take hooks out of what may be drawn from once only.

    Raises:
        TypeError: it is no iterable, or one of them is no function, or an async one.
    """
    check_type("hooks", hooks, Iterable)
    taken = tuple(hooks)
    for hook in taken:
        _check(hook)
    return taken


def _check(hook: object) -> None:
    if not callable(hook) or iscoroutinefunction(hook):
        found = "an async function" if callable(hook) else type(hook).__name__
        raise TypeError(f"hooks: found {found}, wanted plain functions of one argument")


class Watch:
    """Sees one operation through, within `with`, and tells nobody: where there are no hooks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The operation is over."""

    def waiting(self) -> None:
        """A token is waited for."""

    def has_token(self) -> None:
        """The wait is over."""

    def nothing(self) -> None:
        """There is nothing to send after all."""

    def sent(self) -> None:
        """The request leaves."""

    def answered(self, status: int) -> None:
        """The answer is in."""

    def succeeded(self, result: object) -> None:
        """The answer was read, to this."""

    def retried(self, error: BaseException | None, wait: float) -> None:
        """There will be another attempt, in so many seconds."""


class Telling(Watch):
    """Sees one operation through, and tells hooks of it."""

    def __init__(self, tell: Hooks, name: str) -> None:
        self._tell = tell
        self._operation = Operation(name)
        self._attempts = 0
        self._since = 0.0
        self._waited = 0.0
        self._status: int | None = None
        self._request_id: str | None = None
        self._is_nothing = False
        self._under_way = False
        self._doubt = False  # whether an earlier attempt may have arrived
        self._succeeded = False

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        error = None if exc is None or self._is_nothing else type(exc).__name__
        state = self._state(exc)
        ended = Ended(self._operation, state, self._attempts, error, self._status, self._request_id)
        self._tell(ended)

    def _state(self, error: BaseException | None) -> State:
        if self._succeeded:  # though the bucket may have raised as it took its token back
            return "accepted"
        if isinstance(error, LeadpostError):
            return error.state
        if self._under_way or self._doubt:
            return "uncertain"
        return "failed" if self._attempts else "not_sent"

    def waiting(self) -> None:
        self._since = _now()
        self._tell(Waiting(self._operation, self._attempts + 1))

    def has_token(self) -> None:
        self._waited = _now() - self._since

    def nothing(self) -> None:
        self._is_nothing = True

    def sent(self) -> None:
        self._attempts += 1
        self._under_way = True
        self._status = None
        self._tell(Sent(self._operation, self._attempts, self._waited))

    def answered(self, status: int) -> None:
        self._under_way = False
        self._status = status
        self._tell(Answered(self._operation, self._attempts, status))

    def succeeded(self, result: object) -> None:
        self._succeeded = True
        if self._operation.name == "post":
            self._request_id = str(result)

    def retried(self, error: BaseException | None, wait: float) -> None:
        self._doubt |= isinstance(error, LeadpostError) and error.state == "uncertain"
        self._under_way = False
        name = type(error).__name__
        self._tell(Retried(self._operation, self._attempts, name, self._status, wait))


_SILENT = Watch()


def watcher(hooks: Iterable[Hook]) -> Callable[[str], Watch]:
    """Give what makes the watch of an operation of that name."""
    told = tuple(hooks)
    return partial(Telling, Hooks(told)) if told else lambda _: _SILENT


def _now() -> float:
    return asyncio.get_running_loop().time()
