"""Ctrl-C, SIGTERM and a closed terminal as events, in place of an exception out of nowhere."""

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
    # Ignored, as by `nohup`, it stays so.
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return found


class Stop:
    """
    Cancels what runs when a signal comes.

    Attributes:
        signal: The first signal that came, None if none did.
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
        """Cancel this task, or the current one, at a signal while the context lasts."""
        before, self._task = self._task, task or asyncio.current_task()
        try:
            yield
        finally:
            self._task = before


def exit_of_signal(number: signal.Signals) -> Exit:
    """Return the exit code after a signal, as shells have it."""
    if number is signal.SIGINT:
        return Exit.INTERRUPTED
    return Exit.TERMINATED if number is signal.SIGTERM else Exit.HUNG_UP


@contextmanager
def on_signals(*callbacks: Callable[[signal.Signals], None]) -> Generator[None]:
    """Call these in the event loop at each Ctrl-C, SIGTERM or SIGHUP while the context lasts."""
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
