"""A batch: a bounded set of workers, and an outcome for each activity."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import ExitStack
from operator import length_hint

from leadpost._attempts import Terms
from leadpost._models import Item
from leadpost._outcomes import Outcome
from leadpost.bucket import Priority
from leadpost.errors import (
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    NotSent,
    OutageTimeout,
    RateLimited,
    State,
    Unauthorized,
    Unavailable,
    described,
)
from leadpost.hooks import Ended, Event, Sent

Source = Iterable[Item] | AsyncIterable[Item]
Post = Callable[[Item, Terms], Awaitable[str]]

WORKERS = 50
"""One for each token, and as many again for activities that wait to be retried."""
LONG = 1000
"""A batch of this size is long; one of unknown size becomes long after half of it."""

_log = logging.getLogger("leadpost")


class Batch:
    """
    Posts from one source, and draws activities from it only as fast as they are posted.

    One worker at a time holds the lock: it draws an activity and waits for its first token. The
    others are posting, or waiting to retry. So the batch has at most one untried activity in the
    bucket's queue: retries, single posts and other batches get through.

    Args:
        post: Posts one activity on the given terms.
        source: The activities.
        max_time: Seconds of Retry-After beyond which nothing more is sent, as when the keys are
            rejected.
        outage_timeout: Seconds to wait for the end of an outage, after which nothing more is sent.
        stop: Once it is set nothing more is drawn, and what waits ends unsent.
    """

    def __init__(
        self,
        post: Post,
        source: Source,
        *,
        max_time: float,
        outage_timeout: float,
        stop: asyncio.Event | None = None,
    ) -> None:
        self._post = post
        self._source = numbered(source)
        self._size = length_hint(source, 0)
        self._max_time = max_time
        self._outage_timeout = outage_timeout
        self._stop = stop
        self._draw_lock = asyncio.Lock()
        self._outcomes = asyncio.Queue[Outcome | None](maxsize=1)
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._began = asyncio.get_running_loop().time()
        self._count = 0
        self._draws_more = True
        self._draw_timeout: asyncio.Timeout | None = None
        self._failure: BaseException | None = None

    async def outcomes(self) -> AsyncGenerator[Outcome]:
        """
        Yield each outcome when it is known.

        If the caller leaves early, nothing more is drawn; what is in flight finishes without it.

        Raises:
            Exception: what the source, the bucket or a hook of the client raised, after the
                outcomes of what was in flight. `RuntimeError` in place of a cancellation that is
                not the caller's: a source is resumed by tasks of the batch, so it must not yield
                within `asyncio.timeout` or a task group (PEP 789).
        """
        states = Counter[str]()
        _log.info("batch begins")
        tasks = [asyncio.create_task(self._run())]
        if self._stop is not None:
            tasks.append(asyncio.create_task(self._stop_when_set(self._stop)))
        try:
            while (outcome := await self._outcomes.get()) is not None:
                states[outcome.state] += 1
                yield outcome
            if isinstance(self._failure, asyncio.CancelledError):
                # The caller is not cancelled: it must not look so, and lose the outcomes.
                raise RuntimeError("the source cancelled a worker") from self._failure  # noqa: TRY004
            if self._failure is not None:
                raise self._failure
        finally:
            counts = ", ".join(f"{count} {state}" for state, count in states.items())
            _log.info("batch ended: %s", counts or "nothing was posted")
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        # This task ends by itself: the caller may be cancelled again while it waits for that, as
        # anyio's scopes do.
        try:
            workers = (self._work() for _ in range(WORKERS))
            ends = await asyncio.gather(*workers, return_exceptions=True)
            self._failure = self._failure or next((end for end in ends if end is not None), None)
            await self._outcomes.put(None)
        except asyncio.CancelledError:  # the caller has left
            if not self._outcomes.empty() and (unseen := self._outcomes.get_nowait()):
                _log_unseen(unseen)
            raise
        finally:
            await self._source.aclose()

    async def _work(self) -> None:
        try:
            while self._draws_more:
                with ExitStack() as holds_lock:
                    await self._draw_lock.acquire()
                    holds_lock.callback(self._draw_lock.release)
                    if (drawn := await self._next()) is None:
                        return
                    outcome = await self._outcome(*drawn, on_token=holds_lock.close)
                try:
                    await self._outcomes.put(outcome)
                except asyncio.CancelledError:
                    _log_unseen(outcome)
                    raise
        finally:
            self._draws_more = False

    async def _next(self) -> tuple[int, Item] | None:
        # Let the other tasks of the loop run between two activities, if nothing else suspends.
        await asyncio.sleep(0)
        if not self._draws_more:
            return None
        self._count += 1
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self._draw_timeout = timeout
                try:
                    return await anext(self._source, None)
                finally:
                    self._draw_timeout = None
        except BaseException as error:  # noqa: BLE001  # see _fail
            if not (isinstance(error, TimeoutError) and timeout.expired()):
                self._fail(error)
            return None

    async def _outcome(self, index: int, activity: Item, on_token: Callable[[], None]) -> Outcome:
        """Post one activity. `on_token` lets the next worker draw."""
        state: State = "not_sent"

        def hook(event: Event) -> None:
            nonlocal state
            if isinstance(event, Sent):
                on_token()
            elif isinstance(event, Ended):
                state = event.state

        is_long = (self._size or 2 * self._count) >= LONG
        terms = Terms(
            index=index,
            priority=Priority.LONG_BATCH if is_long else Priority.BATCH,
            outage_until=lambda since: max(since, self._began) + self._outage_timeout,
            stopped=self._stopped,
            hook=hook,
        )
        try:
            request_id = await self._post(activity, terms)
        except LeadpostError as error:
            if self._ends_batch(error) and not self._stopped.done():
                _log.error("the batch stops sending: %s", type(error).__name__)
                self._stopped.set_result(None)
            return Outcome(index, activity, error=error)
        except BaseException as error:  # noqa: BLE001  # see _fail
            self._fail(error)
            kind = {"not_sent": NotSent, "failed": Unavailable}.get(state, DeliveryUncertain)
            return Outcome(index, activity, error=kind(f"{type(error).__name__} ended the batch"))
        return Outcome(index, activity, request_id)

    def _ends_batch(self, error: LeadpostError) -> bool:
        """Whether an error concerns all activities, not only its own."""
        if isinstance(error, RateLimited):
            return (error.retry_after or 0) > self._max_time
        return isinstance(error, Unauthorized | NotFound | OutageTimeout)

    def _fail(self, error: BaseException) -> None:
        """
        Draw nothing more because of an error of the source, the bucket or a hook.

        It is raised when all that is in flight has ended, so that no activity is left without an
        outcome; at once, if the batch itself is to end.
        """
        task = asyncio.current_task()
        if (task and task.cancelling()) or isinstance(
            error, KeyboardInterrupt | SystemExit | GeneratorExit
        ):
            raise error
        self._failure = self._failure or error
        self._end_drawing()

    def _end_drawing(self) -> None:
        """Draw nothing more, and end a draw that waits for the source."""
        self._draws_more = False
        if self._draw_timeout is not None:
            self._draw_timeout.reschedule(0)

    async def _stop_when_set(self, stop: asyncio.Event) -> None:
        await stop.wait()
        _log.info("batch stopped: waiting for calls in flight")
        self._end_drawing()
        if not self._stopped.done():
            self._stopped.set_result(None)


def _log_unseen(outcome: Outcome) -> None:
    if outcome.state in {"accepted", "uncertain"}:  # others have changed nothing
        what = f"RequestID {outcome.request_id}" if outcome.request_id else described(outcome.error)
        _log.warning(
            "post (index %d): batch left early: %s, %s", outcome.index, outcome.state, what
        )


async def numbered(source: Source) -> AsyncGenerator[tuple[int, Item]]:
    """Number the activities of an iterable or an async iterable."""
    if isinstance(source, AsyncIterable):
        index = 0
        async for activity in source:
            yield index, activity
            index += 1
    else:
        for numbered_activity in enumerate(source):
            yield numbered_activity
