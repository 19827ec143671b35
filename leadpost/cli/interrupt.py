"""Ctrl-C and SIGTERM as something to act on, in place of an exception out of nowhere."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_signals(callback: Callable[[signal.Signals], None]) -> Generator[None]:
    """Call back in the event loop at each Ctrl-C or SIGTERM while the context lasts."""
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        loop.call_soon_threadsafe(callback, signal.Signals(number))

    with ExitStack() as undo:
        for number in SIGNALS:
            try:
                loop.add_signal_handler(number, callback, number)
                undo.callback(loop.remove_signal_handler, number)
            except NotImplementedError:  # the event loops of Windows
                undo.callback(partial(signal.signal, number, signal.signal(number, handle)))
        yield
