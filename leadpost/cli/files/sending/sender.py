"""Sending the rows of a file: into the outbox, and from there to LeadSquared, at the same time."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice

from attrs import define, field
from rich.console import Console

from leadpost import Account, AsyncActivityPoster
from leadpost.bucket import PERIOD
from leadpost.cli.console import at_time, number_of
from leadpost.cli.files.comparing.comparison import Comparison
from leadpost.cli.files.comparing.ledger import PART, Batch, Ledger
from leadpost.cli.files.reading.row import Decision
from leadpost.cli.files.sending import entries
from leadpost.cli.files.sending.progress import Progress, shown
from leadpost.cli.signals import Stop
from leadpost.errors import LeadpostError, OutboxError, OutboxUnavailable
from leadpost.hooks import Ended, Event
from leadpost.outbox import EntryState, SharedTokenBucket

MOST_UNCERTAIN = 30
"""Uncertain posts in a row, after which nothing more is sent: 25 can be in flight at a time."""
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

    _found: Comparison
    _account: Account
    _ledger: Ledger
    _batch: Batch
    _console: Console
    _stop: Stop
    # What ended it before everything was sent.
    error: LeadpostError | None = field(init=False, default=None)
    uncertain: int = field(init=False, default=0)  # how many of the last posts, without a break
    progress: Progress = field(init=False)
    _is_put: bool = field(init=False, default=False)
    _has_ended: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        found, host = self._found, self._account.host.partition("://")[2]
        limit = found.options.limit
        self.progress = Progress(found.source.name, found.plan.sent, host, limit)

    @property
    def has_given_up(self) -> bool:
        """Whether it ended because so many posts in a row were uncertain."""
        return self.uncertain >= MOST_UNCERTAIN

    async def send(self) -> None:
        """
        Put the rows, and post until none is left, the keys are rejected, or a signal comes.

        Raises:
            CancelledError: a signal came; the answers to the calls in flight were waited for.
            OutboxError: the outbox failed.
        """
        if not self._found.plan.sent:
            await self._put("invalid")
            return
        await self._put("again", "corrected")  # in place of entries that are counted below
        before = await self._counts()
        options = self._found.options
        poster = AsyncActivityPoster(
            self._account,
            bucket=SharedTokenBucket(options.url, limit=options.limit, hooks=[self.progress.count]),
            on_uncertain=options.on_uncertain,
            hooks=[self.progress.count, self._count_uncertain],
        )
        async with poster:
            putting = asyncio.create_task(self._put("new", "invalid"))
            posting = asyncio.create_task(self._post(poster))
            try:
                with (
                    shown(self.progress, self._console, quiet=options.quiet) as changed,
                    self._stop.cancelling(posting),
                ):
                    await self._watch(poster, posting, putting, before, changed)
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
        if self._stop.signal is not None:
            raise asyncio.CancelledError

    async def _counts(self) -> Mapping[EntryState, int]:
        return await self._ledger.outbox.counts(self._batch.name)

    async def _put(self, *decisions: Decision) -> None:
        """Put rows into the outbox, in parts, until it is stopped."""
        rows = self._found.plan.rows
        drawn = rows.of(*decisions)
        # A part is not cancelled halfway: it takes a fraction of a second.
        while not self._has_ended and self._stop.signal is None:
            part = [
                (row, None if row.problems else self._found.activity(row))
                for row in islice(drawn, PART)
            ]
            if not part:
                self._is_put = "new" in decisions
                return
            await entries.put(self._ledger, self._batch, part)
            rows.write(row for row, _ in part)

    async def _post(self, poster: AsyncActivityPoster) -> None:
        """Post until nothing is left: neither to be put, nor to be sent, nor another run's call."""
        while True:
            is_put = self._is_put
            await self._ledger.outbox.drain(
                poster,
                batch=self._batch.name,
                outage_timeout=self._found.options.wait.total_seconds(),
            )
            counts = await self._counts()
            if is_put and not counts["pending"] and not counts["sending"]:
                return
            await asyncio.sleep(_POLL if is_put else _POLL / 10)

    async def _watch(
        self,
        poster: AsyncActivityPoster,
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
                counts = await self._counts()
                done = {state: counts[state] - before[state] for state in _SHOWN}
                self.progress.counts = {state: n for state, n in done.items() if n > 0}
                self.progress.waits_for = self._waits_for(poster, counts)
            pause = max(_POLL, _SHARE * (loop.time() - began))
            changed()
            if self.has_given_up:
                posting.cancel()

    def _waits_for(self, poster: AsyncActivityPoster, counts: Mapping[EntryState, int]) -> str:
        """Say why nothing is sent at this moment; "" if calls are being made."""
        now = datetime.now(UTC)
        if self._stop.signal is not None:
            return "Stopping: waiting for the calls in flight"
        if (away := poster.away_for) is not None:
            return f"LeadSquared away since {at_time(now - timedelta(seconds=away))}: waiting"
        if paused := self.progress.paused_for:
            until = at_time(now + timedelta(seconds=paused))
            return f"LeadSquared refused calls: paused until {until}"
        is_idle = not self.progress.is_sending(_IDLE)
        if is_idle and counts["pending"]:
            return "The limit is used by an earlier run, or by another program"
        if is_idle and counts["sending"]:
            return f"Settling {number_of(counts['sending'], 'row')} of a run that was killed"
        return ""

    def _count_uncertain(self, event: Event) -> None:
        """Count the uncertain posts in a row."""
        if isinstance(event, Ended) and event.operation.is_post:
            if event.state == "accepted":
                self.uncertain = 0
            elif event.state == "uncertain":
                self.uncertain += 1
