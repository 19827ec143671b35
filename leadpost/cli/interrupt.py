"""Ctrl-C as something to act on, in place of an exception out of nowhere."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_interrupt(callback: Callable[[], None]) -> Generator[None]:
    """Call back in the event loop at each Ctrl-C while the context lasts."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, callback)
    except NotImplementedError:  # the event loops of Windows

        def handle(signum: int, frame: FrameType | None) -> None:
            del signum, frame
            loop.call_soon_threadsafe(callback)

        previous = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
    else:
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
