"""One run over a file: its rows out of the outbox, until none is left or a signal comes."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from leadpost._poster import AsyncActivityPoster
from leadpost.cli.file_entries import FileEntries
from leadpost.cli.interrupt import on_signals
from leadpost.cli.tally import Tally
from leadpost.errors import LeadpostError, OutboxError, OutboxUnavailable
from leadpost.outbox import Outbox

_POLL = 0.5
"""Seconds between two looks at what has been done."""
_SHARE = 10
"""Looking takes one part of the time in so many: it may take long, where there are many entries."""


class Run:
    """
    Posts what is pending, and waits for what others are posting of the same file.

    Args:
        outbox: Where the rows are.
        entries: The rows.
        rows: How many rows there are; those without an entry are bad.
        tally: Where to count what became of the rows.
        store: What to call the outbox.

    Attributes:
        signal: The first signal that came, None if none did.
        error: What ended the run before all was posted.
    """

    def __init__(
        self, outbox: Outbox, entries: FileEntries, rows: int, tally: Tally, store: str
    ) -> None:
        self.store = store
        self.signal: signal.Signals | None = None
        self.error: LeadpostError | None = None
        self._outbox = outbox
        self._entries = entries
        self._rows = rows
        self._tally = tally

    async def look(self) -> bool:
        """Count what became of the rows so far, and tell whether any is left."""
        counts = await self._entries.counts()
        self._tally.counts = Counter(
            accepted=counts["accepted"] + counts["succeeded"],
            rejected=counts["rejected"] + self._rows - sum(counts.values()),
            uncertain=counts["uncertain"],
            failed=counts["failed"],
        )
        return counts["pending"] + counts["sending"] > 0

    async def post(
        self, poster: AsyncActivityPoster, changed: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        """
        Post until no row is left, the keys are refused, or a signal comes.

        The first signal lets the calls under way end, a second one does not.

        Args:
            poster: What to post with.
            changed: Called when the tally may have changed.
            stopping: Called at the first signal.

        Raises:
            OutboxError: the store failed.
        """
        posting = asyncio.create_task(self._drain(poster))

        def stop(number: signal.Signals) -> None:
            if self.signal is None:
                self.signal = number
                stopping()
            posting.cancel()

        loop = asyncio.get_running_loop()
        with on_signals(stop):
            pause = _POLL
            try:
                while not posting.done():
                    await asyncio.wait([posting], timeout=pause)
                    began = loop.time()
                    with suppress(OutboxUnavailable):  # who posts, tells
                        await self.look()
                    pause = max(_POLL, _SHARE * (loop.time() - began))
                    changed()
            finally:
                posting.cancel()
                await asyncio.wait([posting])
        if posting.cancelled():
            return
        error = posting.exception()
        if isinstance(error, LeadpostError) and not isinstance(error, OutboxError):
            self.error = error
        elif error is not None:
            raise error

    async def _drain(self, poster: AsyncActivityPoster) -> None:
        pause = 0.0
        while await self.look():
            await asyncio.sleep(pause)
            await self._outbox.drain(poster)
            pause = _POLL
