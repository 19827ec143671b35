"""A batch: one task draws, a bounded number of tasks post, and each activity has an outcome."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import ExitStack
from operator import length_hint

from leadpost._attempts import Terms, failure_of
from leadpost._models import Item
from leadpost._outcomes import Outcome
from leadpost.bucket import Priority
from leadpost.errors import (
    ConfigurationError,
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

MOST_AT_ONCE = 50
"""Posts at once: one for each token, and as many again that wait to be retried."""
LONG = 1000
"""A batch of this size is long; one of unknown size becomes long after half of it."""

_log = logging.getLogger("leadpost")


class Batch:
    """
    Posts from one source, and draws activities from it only as fast as they are posted.

    The next activity is drawn once the last one has its first token. So the batch has at most one
    untried activity in the bucket's queue: retries, single posts and other batches get through.

    Everything of the source runs in one task, which does nothing else: a time-out or a task group
    around a `yield` cancels the task that entered it, and that must not be one that posts.

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
        self._free = asyncio.Semaphore(MOST_AT_ONCE)
        self._untried = asyncio.Lock()
        self._drawing: asyncio.Task[None]
        self._posts = dict[asyncio.Task[None], None]()  # in the order in which they began
        self._outcomes = asyncio.Queue[Outcome | None](maxsize=1)
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._began = asyncio.get_running_loop().time()
        self._count = 0
        self._draws_more = True
        self._failure: BaseException | None = None

    async def outcomes(self) -> AsyncGenerator[Outcome]:
        """
        Yield each outcome when it is known.

        If the caller leaves early, nothing more is drawn; what is in flight finishes without it.

        Raises:
            Exception: what the source, the bucket or a hook of the client raised, after the
                outcomes of what was in flight. `RuntimeError` in place of a cancellation that is
                not the caller's, as of a source that yields within `asyncio.timeout` (PEP 789).
        """
        states = Counter[str]()
        _log.info("batch begins")
        self._drawing = asyncio.create_task(self._draw())
        tasks = [asyncio.create_task(self._run())]
        if self._stop is not None:
            tasks.append(asyncio.create_task(self._stop_when_set(self._stop)))
        try:
            while (outcome := await self._outcomes.get()) is not None:
                states[outcome.state] += 1
                yield outcome
            if isinstance(self._failure, asyncio.CancelledError):
                # The caller is not cancelled: it must not look so, and lose the outcomes.
                raise RuntimeError("the source cancelled its task") from self._failure  # noqa: TRY004
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
            await asyncio.wait([self._drawing])
            error = failure_of(self._drawing)
            if self._draws_more or not isinstance(error, asyncio.CancelledError):  # else a stop
                self._failure = self._failure or error
            if self._posts:
                await asyncio.wait(self._posts)
            await self._outcomes.put(None)
        except asyncio.CancelledError:  # the caller has left
            tasks = [self._drawing, *self._posts]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if not self._outcomes.empty() and (unseen := self._outcomes.get_nowait()):
                _log_unseen(unseen)
            raise

    async def _draw(self) -> None:
        try:
            while self._draws_more:
                await self._free.acquire()
                await self._untried.acquire()
                # Let the other tasks of the loop run, if nothing else suspends.
                await asyncio.sleep(0)
                self._count += 1
                if (drawn := await anext(self._source, None)) is None:
                    return
                post = asyncio.create_task(self._post_one(*drawn))
                self._posts[post] = None
                post.add_done_callback(self._forget)
        finally:
            await self._source.aclose()

    async def _post_one(self, index: int, activity: Item) -> None:
        with ExitStack() as untried:
            untried.callback(self._untried.release)
            outcome = await self._outcome(index, activity, on_token=untried.close)
        try:
            await self._outcomes.put(outcome)
        except asyncio.CancelledError:
            _log_unseen(outcome)
            raise
        self._free.release()

    def _forget(self, post: asyncio.Task[None]) -> None:
        del self._posts[post]
        failure_of(post)  # asyncio logs those that nobody asked for

    async def _outcome(self, index: int, activity: Item, on_token: Callable[[], None]) -> Outcome:
        """Post one activity. `on_token` lets the next one be drawn."""
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
        return isinstance(error, ConfigurationError | Unauthorized | NotFound | OutageTimeout)

    def _fail(self, error: BaseException) -> None:
        """
        Draw nothing more because of an error of the bucket or a hook.

        It is raised when all that is in flight has ended, so that no activity is left without an
        outcome; at once, if the batch itself is to end.
        """
        self._failure = self._failure or error
        self._end_drawing()
        task = asyncio.current_task()
        if (task and task.cancelling()) or isinstance(
            error, KeyboardInterrupt | SystemExit | GeneratorExit
        ):
            raise error

    def _end_drawing(self) -> None:
        """Draw nothing more, and end a draw that waits for the source."""
        if self._draws_more:
            self._draws_more = False
            self._drawing.cancel()

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
