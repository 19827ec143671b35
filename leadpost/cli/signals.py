"""Ctrl-C, SIGTERM and a closed terminal as events, instead of an exception at any line."""

import asyncio
import os
import signal
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, NoReturn

from leadpost.cli.exits import Exit


class Stop:
    """
    Cancels the running task when a signal comes.

    Attributes:
        signal: The first signal, None before one.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._task: asyncio.Task[Any] | None = None

    def __call__(self, number: signal.Signals) -> None:
        self.signal = self.signal or number
        if self._task is not None:
            self._task.cancel()

    @contextmanager
    def cancelling(self, task: asyncio.Task[Any] | None = None) -> Generator[None]:
        """Cancel `task`, by default the current one, at a signal in this context."""
        before, self._task = self._task, task or asyncio.current_task()
        try:
            yield
        finally:
            self._task = before


def exit_of_signal(number: signal.Signals) -> Exit:
    """Return the exit code after a signal: 128 and its number, as in shells."""
    return Exit(128 + number)


@contextmanager
def on_signals(callback: Callable[[signal.Signals], object]) -> Generator[None]:
    """Call `callback` in the event loop at each Ctrl-C, SIGTERM or SIGHUP in this context."""
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        loop.call_soon_threadsafe(callback, signal.Signals(number))

    with _handling(handle):
        yield


@contextmanager
def asking() -> Generator[None]:
    """
    Let a signal end the process while a person is asked, which blocks the event loop.

    Nothing is in flight then. An exception would not do: `input` swallows one as it begins.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        try:
            os.write(2, b"\nStopped: nothing was sent\n")
        finally:  # even if the terminal is gone
            os._exit(exit_of_signal(signal.Signals(number)))

    with _handling(end):
        yield


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)
    # If it is ignored, as under `nohup`, it stays ignored.
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    with ExitStack() as undo:
        for number in numbers:
            undo.callback(signal.signal, number, signal.signal(number, handler))
        yield
