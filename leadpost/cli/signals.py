"""Ctrl-C, SIGTERM and a closed terminal as events, instead of an exception at any line."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

from leadpost.cli.exits import Exit


def _signals() -> list[signal.Signals]:
    found = [signal.SIGINT, signal.SIGTERM]
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)
    # If it is ignored, as under `nohup`, it stays ignored.
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return found


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

    @contextmanager
    def asking(self) -> Generator[None]:
        """
        End a question to a person at once when a signal comes.

        A question blocks the event loop, and with it the callbacks of `on_signals`.

        Raises:
            CancelledError: a signal came.
        """

        def end(number: int, frame: FrameType | None) -> None:
            del frame
            self.signal = self.signal or signal.Signals(number)
            raise asyncio.CancelledError

        with ExitStack() as undo:
            undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(-1))  # the loop's
            for number in _signals():
                undo.callback(signal.signal, number, signal.signal(number, end))
            yield


def exit_of_signal(number: signal.Signals) -> Exit:
    """Return the exit code after a signal: 128 and its number, as in shells."""
    if number is signal.SIGINT:
        return Exit.INTERRUPTED
    return Exit.TERMINATED if number is signal.SIGTERM else Exit.HUNG_UP


@contextmanager
def on_signals(*callbacks: Callable[[signal.Signals], None]) -> Generator[None]:
    """Call `callbacks` in the event loop at each Ctrl-C, SIGTERM or SIGHUP in this context."""
    loop = asyncio.get_running_loop()

    def callback(number: signal.Signals) -> None:
        for each in callbacks:
            each(number)

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        loop.call_soon_threadsafe(callback, signal.Signals(number))

    with ExitStack() as undo:
        for number in _signals():
            try:
                loop.add_signal_handler(number, callback, number)
                undo.callback(loop.remove_signal_handler, number)
            except NotImplementedError:  # the event loops of Windows
                undo.callback(partial(signal.signal, number, signal.signal(number, handle)))
        yield
