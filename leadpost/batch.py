"""Many activities: a bounded window of workers, and what became of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from operator import length_hint
from typing import Any

from leadpost.activity import Activity
from leadpost.errors import (
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    NotSent,
    Outcome,
    RateLimited,
    Unauthorized,
)
from leadpost.retry import Waiting, waiting_until

Item = Activity | Mapping[str, Any]
Source = Iterable[Item] | AsyncIterable[Item]
Post = Callable[[Item, Waiting], Awaitable[str]]

WINDOW = 50
"""Workers: one for each token, and as many again for activities that wait to be tried again."""
LONG = 1000
"""Activities from which on a batch is long; one of unknown size is after half as many."""

_ENDS_ALL = (KeyboardInterrupt, SystemExit, GeneratorExit)

_log = logging.getLogger(__name__)


class _Turn(ExitStack):
    """One activity's: whether it has had a token, and so may have arrived."""

    had_token = False


class Batch:
    """
    Posts from one source, as fast as it is posted and never more than the window ahead.

    One worker at a time has the turn: it draws an activity and waits for its first token. The
    others are posting or waiting to try again, and those go for a token without the turn. So the
    batch has at most one untried activity in the bucket's queue: a retry passes the rest of the
    source, and a single post is behind one activity, not behind the batch.

    Args:
        post: Posts one activity.
        source: The activities.
        max_time: Seconds of Retry-After beyond which the batch ends, as it does when the keys are
            refused.
        pace: Tells the seconds to leave between the calls of a long batch.
        size: How many activities the source has, 0 if that is not known.
    """

    def __init__(
        self, post: Post, source: Source, max_time: float, pace: Callable[[], float], size: int
    ) -> None:
        self._post = post
        self._source = enumerate_async(source)
        self._max_time = max_time
        self._turn = asyncio.Lock()
        self._outcomes = asyncio.Queue[Outcome | None](maxsize=1)
        self._waits = set[asyncio.Timeout]()
        self._draw: asyncio.Timeout | None = None
        self._pace = pace
        self._size = size
        self._drawn = 0
        self._last_draw = 0.0
        self._sending = True
        self._drawing = True
        self._failure: BaseException | None = None
        self._runner: asyncio.Task[None]

    async def stream(self, stop: asyncio.Event | None) -> AsyncGenerator[Outcome]:
        """
        Yield each outcome when it is known; cancel what is under way when closed early.

        Raises:
            Exception: what the source, the bucket or a hook of the client raised, after the
                outcomes of what was under way. That ends the drawing. `RuntimeError` in place of a
                cancellation that is not the caller's: a source is resumed by tasks of the batch, so
                it must not yield within `asyncio.timeout` or a task group (PEP 789).
        """
        self._runner = asyncio.create_task(self._run())
        tasks = [self._runner]
        if stop is not None:
            tasks.append(asyncio.create_task(self._stop_at(stop)))
        try:
            while (outcome := await self._outcomes.get()) is not None:
                yield outcome
            await self._runner
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._source.aclose()

    async def _run(self) -> None:
        workers = (self._work() for _ in range(WINDOW))
        ends = await asyncio.gather(*workers, return_exceptions=True)
        await self._outcomes.put(None)
        match next((end for end in (self._failure, *ends) if end is not None), None):
            case None:
                pass
            case asyncio.CancelledError() as error:
                # The caller is not cancelled: it shall not look so, and lose the outcomes.
                raise RuntimeError("the source, bucket or client cancelled a worker") from error
            case error:
                raise error

    async def _work(self) -> None:
        try:
            while self._drawing:
                with _Turn() as turn:
                    await self._turn.acquire()
                    turn.callback(self._turn.release)
                    drawn = await self._next()
                    if drawn is None:
                        return
                    outcome = await self._outcome(*drawn, turn)
                await self._outcomes.put(outcome)
        finally:
            self._drawing = False

    async def _next(self) -> tuple[int, Item] | None:
        # Where nothing else suspends, this lets the other tasks of the loop run between any two.
        await asyncio.sleep(0)
        if not self._drawing:
            return None
        try:
            async with asyncio.timeout(None) as self._draw:
                if self._sending and max(self._size, 2 * self._drawn) >= LONG:
                    await self._keep_pace()
                self._drawn += 1
                return await anext(self._source, None)
        except BaseException as error:  # noqa: BLE001  # see _fail
            if self._drawing:  # else it is the TimeoutError of a stop
                self._fail(error)
            return None
        finally:
            self._draw = None

    async def _keep_pace(self) -> None:
        """
        Leave calls evenly, where there are many: an urgent post finds a token soon, connections
        stay warm, and it costs 5 s once. A short batch leaves as fast as it may.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._last_draw + self._pace() - loop.time())
        self._last_draw = loop.time()

    async def _outcome(self, index: int, activity: Item, turn: _Turn) -> Outcome:
        try:
            request_id = await self._post(activity, partial(self._waiting, turn))
        except LeadpostError as error:
            if self._sending and self._ends_batch(error):
                _log.error("the batch stops sending: %s", type(error).__name__)
                self._stop_sending()
            return Outcome(index, activity, error=error)
        except BaseException as error:  # noqa: BLE001  # see _fail
            self._fail(error)
            kind = DeliveryUncertain if turn.had_token else NotSent
            return Outcome(index, activity, error=kind(f"{type(error).__name__} ended the batch"))
        return Outcome(index, activity, request_id)

    def _fail(self, error: BaseException) -> None:
        """
        End the drawing for an error of the source's, the bucket's or a hook's.

        It is raised when all that is under way has ended, so that no activity is left without an
        outcome; at once, if the batch itself is to end.
        """
        if self._runner.cancelling() or isinstance(error, _ENDS_ALL):
            raise error
        self._drawing = False
        self._failure = error

    def _ends_batch(self, error: LeadpostError) -> bool:
        if isinstance(error, RateLimited):
            return (error.retry_after or 0) > self._max_time
        return isinstance(error, Unauthorized | NotFound)

    @asynccontextmanager
    async def _waiting(self, turn: _Turn, when: float | None) -> AsyncGenerator[asyncio.Timeout]:
        """Wait so that a stop of the batch ends it; the first wait's end passes the turn on."""
        try:
            if not self._sending:
                raise NotSent("stopped before a call was made")
            async with waiting_until(when) as wait:
                self._waits.add(wait)
                try:
                    yield wait
                finally:
                    self._waits.discard(wait)
            turn.had_token = True
        finally:
            turn.close()

    def _stop_sending(self) -> None:
        self._sending = False
        for wait in self._waits:
            if not wait.expired():  # its own end may have come in this turn of the loop
                wait.reschedule(0)

    async def _stop_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        _log.info("batch is stopped: calls under way are waited for")
        self._drawing = False
        if self._draw is not None:
            self._draw.reschedule(0)
        self._stop_sending()


async def enumerate_async(source: Source) -> AsyncGenerator[tuple[int, Item]]:
    """Number the activities of an iterable or an async iterable."""
    index = 0
    if isinstance(source, AsyncIterable):
        async for activity in source:
            yield index, activity
            index += 1
    else:
        for activity in source:
            yield index, activity
            index += 1


def size_of(source: Source) -> int:
    """Tell how many activities a source has, 0 if that is not known."""
    return length_hint(source, 0)
