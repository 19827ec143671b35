"""One run over an input: rows in, outcomes out, Ctrl-C in between."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from leadpost.activity import Activity
from leadpost.cli.interrupt import on_interrupt
from leadpost.cli.outputs import Outputs
from leadpost.cli.rows import Input, Row
from leadpost.cli.tally import Tally
from leadpost.errors import DeliveryUncertain, InvalidActivity, LeadpostError, NotSent
from leadpost.poster import AsyncActivityPoster

_MOMENT = 0.1
"""Seconds in which what is answered already is recorded."""


class Run:
    """
    Posts the rows of an input and records what became of each.

    Args:
        source: The input.
        outputs: Where to record it, open.
        tally: Where to count it.
        changed: Called when the tally has changed.
        stopping: Called at the first Ctrl-C.

    Attributes:
        interrupted: Whether there was a Ctrl-C.
        errors: The first error of each class.
        failure: Why rows could not be recorded, None if all could.
        unrecorded: What became of those.
    """

    def __init__(
        self,
        source: Input,
        outputs: Outputs,
        tally: Tally,
        changed: Callable[[], None],
        stopping: Callable[[], None],
    ) -> None:
        self.interrupted = False
        self.errors: dict[type[LeadpostError], LeadpostError] = {}
        self.failure: OSError | None = None
        self.unrecorded: list[str] = []
        self._outputs = outputs
        self._tally = tally
        self._changed = changed
        self._stopping = stopping
        self._rows = enumerate(source.rows())
        self._under_way: dict[int, tuple[int, Row]] = {}  # by their place among the valid ones
        self._stop = asyncio.Event()

    async def post(self, poster: AsyncActivityPoster) -> None:
        """
        Post until the input ends, the keys are refused, or Ctrl-C; then put all in order.

        A second Ctrl-C gives up the calls under way, a third one the putting in order too.
        """
        posting = asyncio.create_task(self._post(poster))

        def give_up(recorded: int | None = None) -> None:
            """Cancel, once what is answered already is recorded."""
            if recorded == self._tally.done:
                posting.cancel()
            else:
                loop = asyncio.get_running_loop()
                loop.call_later(_MOMENT, give_up, self._tally.done)

        def interrupt() -> None:
            if self.interrupted:
                give_up()
            else:
                self.interrupted = True
                self._stopping()
                self._stop.set()

        with on_interrupt(interrupt):
            await asyncio.wait([posting])
        if posting.cancelled():
            for number, row in self._under_way.values():
                self._record(number, row, error=DeliveryUncertain("stopped before its answer"))
        else:
            posting.result()
        if self.failure is None:
            self._finish()

    def _finish(self) -> None:
        """Record the rows that were not drawn, and put the results into the input's order."""
        not_sent = NotSent("the run stopped before its turn came")
        for number, row in self._rows:
            error = InvalidActivity.of(row.problems) if row.problems else not_sent
            self._record(number, row, error=error)
        self._outputs.put_in_order()

    async def _post(self, poster: AsyncActivityPoster) -> None:
        stream = poster.post_stream(self._activities(), stop=self._stop)
        async with aclosing(stream) as outcomes:
            async for outcome in outcomes:
                number, row = self._under_way.pop(outcome.index)
                self._record(number, row, outcome.request_id, outcome.error)

    async def _activities(self) -> AsyncGenerator[Activity]:
        place = 0
        for number, row in self._rows:
            if row.activity is None:
                self._record(number, row, error=InvalidActivity.of(row.problems))
                await asyncio.sleep(0)  # many of them in a row must not hold up the answers
            else:
                self._under_way[place] = number, row
                place += 1
                yield row.activity

    def _record(
        self,
        number: int,
        row: Row,
        request_id: str | None = None,
        error: LeadpostError | None = None,
    ) -> None:
        state = "accepted" if error is None else error.state
        try:
            self._outputs.add(number, row, request_id, error)
        except OSError as failure:
            # A full disk: no new calls, and the RequestIDs of those under way go to the screen.
            self.failure = failure
            self.unrecorded.append(f"{row.place}: {state} {request_id or ''}".rstrip())
            self._stop.set()
        if error is not None:
            self.errors.setdefault(type(error), error)
        self._tally.counts[state] += 1
        self._changed()
