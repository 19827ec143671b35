"""Sending the rows of a file: into the outbox, and from there to LeadSquared, at the same time."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from attrs import define, field
from rich.console import Console

from leadpost import Account, AsyncActivityPoster
from leadpost.bucket import PERIOD
from leadpost.cli.console import at_time, number_of
from leadpost.cli.files import entries
from leadpost.cli.files.comparing import Comparison
from leadpost.cli.files.ledger import PART, Batch, Ledger
from leadpost.cli.files.options import Options
from leadpost.cli.files.plan import Planned, Verdict
from leadpost.cli.files.progress import Progress, shown
from leadpost.cli.signals import Stop
from leadpost.errors import LeadpostError, OutboxError, OutboxUnavailable
from leadpost.hooks import Ended, Event, Operation, Sent
from leadpost.outbox import EntryState, Outbox, SharedTokenBucket

MOST_IN_DOUBT = 5
"""Posts one after another that end in doubt, after which nothing more is sent."""
_POLL = 0.5
"""Seconds between two looks at what has been done."""
_SHARE = 10
"""Looking takes one part of the time in so many: it may take long, where there are many entries."""
_IDLE = PERIOD + 2.0
"""Seconds without a call after which others use the limit; its own tokens rest for a period."""
_SHOWN: tuple[EntryState, ...] = ("accepted", "succeeded", "rejected", "failed", "uncertain")


@define
class Sender:
    """Sends the rows of one file."""

    _options: Options
    _account: Account
    _found: Comparison
    _ledger: Ledger
    _batch: Batch
    _console: Console
    _stop: Stop
    # What ended it before everything was sent.
    error: LeadpostError | None = field(init=False, default=None)
    # How many posts, one after another, have ended in doubt.
    in_doubt: int = field(init=False, default=0)
    progress: Progress = field(init=False)
    _poster: AsyncActivityPoster | None = field(init=False, default=None)
    _is_put: bool = field(init=False, default=False)
    _has_ended: bool = field(init=False, default=False)
    _last_doubt: float = field(init=False, default=0.0)
    _sent_at: dict[Operation, float] = field(init=False, factory=dict[Operation, float])

    def __attrs_post_init__(self) -> None:
        found, host = self._found, self._account.host.partition("://")[2]
        limit = self._options.limit
        self.progress = Progress(found.source.name, found.plan.sent, host, limit)

    @property
    def _outbox(self) -> Outbox:
        return self._ledger.outbox

    @property
    def _prefix(self) -> str:
        return f"{self._batch.name}/"

    @property
    def _is_stopped(self) -> bool:
        return self._has_ended or self._stop.signal is not None

    @property
    def is_in_doubt(self) -> bool:
        """Whether it ended because so many posts in a row ended in doubt."""
        return self.in_doubt >= MOST_IN_DOUBT

    async def put(self) -> None:
        """Put the rows that are new, and give those of invalid ones a key, without sending."""
        async for part in self._parts("new", "invalid"):
            await entries.put(self._ledger, self._batch, part)
        self._is_put = True

    async def send(self) -> None:
        """
        Put the rows, and post until none is left, the keys are refused, or a signal comes.

        Raises:
            OutboxError: the outbox failed.
        """
        async for part in self._parts("again", "corrected"):
            await entries.put(self._ledger, self._batch, part)
        before = await self._outbox.counts(self._prefix)
        account, options = self._account, self._options
        bucket = SharedTokenBucket(options.url, limit=options.limit, hooks=[self.progress.hear])
        hooks = [self.progress.hear, self._hear]
        poster = AsyncActivityPoster(
            account, bucket=bucket, on_uncertain=options.on_uncertain, hooks=hooks
        )
        self._poster = poster
        async with poster:
            putting = asyncio.create_task(self.put())
            posting = asyncio.create_task(self._drain(poster))
            try:
                with (
                    shown(self.progress, self._console, quiet=options.quiet) as changed,
                    self._stop.cancelling(posting),
                ):
                    await self._watch(posting, putting, before, changed)
            finally:
                self._has_ended = True
                posting.cancel()
                await asyncio.wait([putting, posting])
                await poster.aclose(grace=0)  # its calls were waited for
        await self._ledger.record_posted(self._batch)
        for task in (putting, posting):
            error = None if task.cancelled() else task.exception()
            if isinstance(error, LeadpostError) and not isinstance(error, OutboxError):
                self.error = error
            elif error is not None:
                raise error

    async def _parts(
        self, *verdicts: Verdict
    ) -> AsyncGenerator[list[tuple[Planned, Mapping[str, Any] | None]]]:
        """Yield rows with their activities, in parts, until it is stopped."""
        rows = self._found.plan.rows.of(*verdicts)
        # A part is not cancelled halfway: it takes a fraction of a second.
        while not self._is_stopped and (part := list(islice(rows, PART))):
            yield [(row, None if row.faults else self._found.activity(read)) for row, read in part]

    async def _drain(self, poster: AsyncActivityPoster) -> None:
        """Post until nothing is left: neither to be put, nor to be sent, nor another run's call."""
        while True:
            is_put = self._is_put
            await self._outbox.drain(
                poster,
                key_prefix=self._prefix,
                outage_timeout=self._options.wait.total_seconds(),
            )
            counts = await self._outbox.counts(self._prefix)
            if is_put and not counts["pending"] and not counts["sending"]:
                return
            await asyncio.sleep(_POLL if is_put else _POLL / 10)

    async def _watch(
        self,
        posting: asyncio.Task[None],
        putting: asyncio.Task[None],
        before: Mapping[EntryState, int],
        changed: Callable[[], None],
    ) -> None:
        """Show what has been done until the posting ends."""
        loop = asyncio.get_running_loop()
        pause = _POLL
        while not posting.done():
            await asyncio.wait([posting], timeout=pause)
            if putting.done() and not putting.cancelled() and putting.exception():
                return
            began = loop.time()
            with suppress(OutboxUnavailable):  # the worker reports that
                counts = await self._outbox.counts(self._prefix)
                done = {state: counts[state] - before[state] for state in _SHOWN}
                self.progress.counts = {state: n for state, n in done.items() if n > 0}
                self.progress.waits_for = self._waits_for(counts)
            pause = max(_POLL, _SHARE * (loop.time() - began))
            changed()
            if self.is_in_doubt:
                posting.cancel()

    def _waits_for(self, counts: Mapping[EntryState, int]) -> str:
        """Say why nothing is sent at this moment; "" if calls are being made."""
        poster, progress = self._poster, self.progress
        if self._stop.signal is not None:
            return "Stopping: waiting for the calls in flight"
        if poster is not None and (away := poster.away_for) is not None:
            since = datetime.now(UTC) - timedelta(seconds=away)
            return f"LeadSquared away since {at_time(since)}: waiting"
        if paused := progress.paused_for:
            until = datetime.now(UTC) + timedelta(seconds=paused)
            return f"LeadSquared refused calls: paused until {at_time(until)}"
        if progress.is_sending(_IDLE):
            return ""
        if counts["pending"]:
            return "The limit is used by an earlier run, or by another program"
        if counts["sending"]:
            return f"Settling {number_of(counts['sending'], 'row')} of a run that was killed"
        return ""

    def _hear(self, event: Event) -> None:
        """Count the posts in doubt one after another, each sent after the one before had ended."""
        now = asyncio.get_running_loop().time()
        if isinstance(event, Sent) and event.operation.is_post:
            self._sent_at[event.operation] = now
        elif isinstance(event, Ended) and event.operation.is_post:
            sent_at = self._sent_at.pop(event.operation, 0.0)
            if event.state == "accepted":
                self.in_doubt = 0
            elif event.state == "uncertain" and sent_at >= self._last_doubt:
                self.in_doubt += 1
                self._last_doubt = now
