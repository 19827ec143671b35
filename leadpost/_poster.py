"""The client: `AsyncActivityPoster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import datetime, timedelta
from itertools import chain, count, repeat
from operator import attrgetter
from types import TracebackType
from typing import Literal, Self, overload

import httpx
from attrs import evolve

from leadpost import _endpoints
from leadpost._account import Account
from leadpost._batch import Batch, Item, Source
from leadpost._call import SINGLE, Caller, Draw, Terms
from leadpost._endpoints import Call
from leadpost._models import (
    Activity,
    ActivityType,
    LeadActivity,
    QueueMetrics,
    RequestStatus,
)
from leadpost._outcomes import BatchError, Outcome, StatusTimeout
from leadpost._retry import RetryPolicy
from leadpost._validation import is_mapping
from leadpost.bucket import CALL_TIMEOUT, Bucket, OpenableBucket, TokenBucket
from leadpost.errors import LeadpostError, UnexpectedAnswer
from leadpost.hooks import Hook

OUTAGE_TIMEOUT = 300.0
"""Seconds that a batch waits for the end of an outage, by default."""
GRACE = 8.0
"""Seconds that closing waits for calls in flight, by default: a container has 10 s in all."""
_POLL = (1.0, 2.0, 4.0, 8.0, 15.0)


class AsyncActivityPoster:
    """
    Posts activities on leads, and asks what became of them.

    Use it as an async context manager, one for the whole process: its bucket is what keeps the
    account's limit. Every call to LeadSquared takes a token from it, each retry included. With a
    client of its own it can be used in a second event loop when the first one is over.

    A call that has left is finished, whatever happens to its caller: one that is cancelled, or
    times out, leaves the call behind, and its outcome is logged. While LeadSquared is away posts
    wait, and one at a time tries.

    Args:
        account: Hosts and keys.
        client: The `httpx.AsyncClient` to send with, if there is one already; its time-outs,
            proxies and hooks apply, none of them sees a key, and it is never closed here. By
            default the poster makes its own, set up for this API's rhythm.
        bucket: The limit; by default a `TokenBucket`, 25 calls per 5 s. Only the default one hears
            of `hooks`; one of your own has hooks of its own. One that has to be opened, an
            `OpenableBucket`, is opened on entering and closed at the end.
        retry: How long to keep trying one activity.
        on_uncertain: What to do after a post that may have arrived: `raise` `DeliveryUncertain`,
            or `retry`, which may post it twice.
        call_timeout: Seconds for one call, from connecting to the last byte of the answer.
        hooks: Functions that hear what happens to each call, see `leadpost.hooks`.

    Raises:
        ConfigurationError: a proxy or certificate variable of the environment cannot be used.
        TypeError: a hook cannot be one.
        ValueError: `on_uncertain` or `call_timeout` cannot be right.
    """

    def __init__(
        self,
        account: Account,
        *,
        client: httpx.AsyncClient | None = None,
        bucket: Bucket | None = None,
        retry: RetryPolicy | None = None,
        on_uncertain: Literal["raise", "retry"] = "raise",
        call_timeout: float = CALL_TIMEOUT,
        hooks: Iterable[Hook] = (),
    ) -> None:
        if on_uncertain not in {"raise", "retry"}:
            raise ValueError(f"on_uncertain: found {on_uncertain!r}, wanted 'raise' or 'retry'")
        if not call_timeout > 0:
            raise ValueError(f"call_timeout: found {call_timeout}, wanted seconds above 0")
        hooks = tuple(hooks)
        self.account = account
        self.bucket: Bucket = TokenBucket(hooks=hooks) if bucket is None else bucket
        self.retry = retry or RetryPolicy()
        self.on_uncertain = on_uncertain
        self.call_timeout = call_timeout
        self._caller = Caller(
            account,
            client,
            self.bucket,
            self.retry,
            call_timeout=call_timeout,
            retry_uncertain=on_uncertain == "retry",
            hooks=hooks,
        )

    def __repr__(self) -> str:
        return f"<AsyncActivityPoster to {self.account.host}: {self.bucket!r}>"

    async def __aenter__(self) -> Self:
        if isinstance(self.bucket, OpenableBucket):
            await self.bucket.open(self.account)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self, grace: float = GRACE) -> None:
        """
        Wait for calls in flight, then close connections and bucket; an injected client stays open.

        Args:
            grace: Seconds to wait at most. A call that is cut off then may still arrive: it ends as
                `DeliveryUncertain`, and its token rests accordingly.
        """
        try:
            await self._caller.aclose(grace)
        finally:
            if isinstance(self.bucket, OpenableBucket):
                await self.bucket.aclose()

    async def post(self, activity: Item, *, token_timeout: float | None = None) -> str:
        """
        Post one activity.

        Args:
            activity: An `Activity`, or a mapping in LeadSquared's JSON shape.
            token_timeout: Seconds in which the first call has to get its token. By default only
                the policy's `max_time`, which covers all attempts, limits this wait.

        Returns:
            The RequestID. LeadSquared's queue has the activity then, the lead has it later: ask
            `status`, or `wait` for it.

        Raises:
            InvalidActivity: it cannot be posted as it is; nothing was sent.
            Rejected: LeadSquared refused it (`BadRequest`, `Unauthorized`, `NotFound`,
                `ApplicationError`).
            Unavailable: given up after retries; surely not accepted.
            DeliveryUncertain: it may have arrived.
            NotSent: there was no token in time; nothing was sent.
            OutageTimeout: LeadSquared was away for all that time; nothing was sent.
        """
        terms = SINGLE if token_timeout is None else Terms(token_timeout=token_timeout)
        return await self._caller(_endpoints.post(self.account, activity), terms)

    @property
    def is_away(self) -> bool:
        """Whether LeadSquared is away: posts wait, and one at a time tries."""
        return self._caller.is_away("post")

    @property
    def away_for(self) -> float | None:
        """Seconds for which LeadSquared has been away, None if it is not."""
        return self._caller.away_for("post")

    async def post_once(self, draw: Callable[[], Awaitable[Item]], terms: Terms) -> str:
        """
        Make one attempt, for a queue that retries by itself, as `leadpost.outbox` does.

        Args:
            draw: Called when there is a token; returns the activity. It may raise `NotSent` to make
                no call: the token stays as it was then.
            terms: How to wait, and for what.

        Returns:
            The RequestID.

        Raises:
            LeadpostError: as `post`, after this one attempt.
        """

        async def drawn() -> Call[str]:
            return _endpoints.post(self.account, await draw())

        return await self._caller(Draw("post", drawn), evolve(terms, is_retried=False))

    async def post_sync(self, activity: Item) -> str:
        """
        Post one activity through the synchronous API, which answers when the lead has it.

        Args:
            activity: As for `post`.

        Returns:
            The activity's id.

        Raises:
            LeadpostError: as `post`.
            ConfigurationError: the account's `sync_host` is not known.
        """
        return await self._caller(_endpoints.post_sync(self.account, activity))

    @overload
    async def post_many(
        self,
        activities: Source,
        *,
        return_exceptions: Literal[False] = False,
        outage_timeout: float = OUTAGE_TIMEOUT,
    ) -> list[str]: ...
    @overload
    async def post_many(
        self,
        activities: Source,
        *,
        return_exceptions: Literal[True],
        outage_timeout: float = OUTAGE_TIMEOUT,
    ) -> list[str | LeadpostError]: ...
    async def post_many(
        self,
        activities: Source,
        *,
        return_exceptions: bool = False,
        outage_timeout: float = OUTAGE_TIMEOUT,
    ) -> list[str] | list[str | LeadpostError]:
        """
        Post all that can be posted, and return the RequestIDs in the order of the inputs.

        Args:
            activities: Any iterable or async iterable of what `post` takes; drawn only as fast as
                it is posted.
            return_exceptions: Return the error in the place of the RequestID, as `asyncio.gather`
                does, instead of raising `BatchError`.
            outage_timeout: Seconds to wait for the end of an outage of LeadSquared; then the rest
                is `not_sent`.

        Returns:
            A RequestID for each input.

        Raises:
            BatchError: some were not accepted; it carries every outcome, RequestIDs included. When
                the keys are refused or the URL is wrong, the rest is `not_sent`.

        A batch that may be cancelled belongs in `post_stream`, whose `stop` ends it in good order:
        cancelled, this method returns no RequestIDs.
        """
        batch = self._batch(activities, outage_timeout)
        outcomes: list[Outcome] = []
        ended: Exception | None = None
        try:
            async with aclosing(batch.outcomes()) as known:
                async for outcome in known:
                    outcomes.append(outcome)  # noqa: PERF401  those before an error count
        except Exception as error:  # noqa: BLE001  # raised below, beside the RequestIDs
            ended = error
        outcomes.sort(key=attrgetter("index"))
        if ended is not None or (
            not return_exceptions and any(outcome.error is not None for outcome in outcomes)
        ):
            raise BatchError.of(outcomes, cause=ended)
        return [outcome.error or outcome.request_id or "" for outcome in outcomes]

    async def post_stream(
        self,
        activities: Source,
        *,
        stop: asyncio.Event | None = None,
        outage_timeout: float = OUTAGE_TIMEOUT,
    ) -> AsyncGenerator[Outcome]:
        """
        Post activities of any number in bounded memory, and yield each outcome when it is known.

        Args:
            activities: As for `post_many`.
            stop: Once it is set no new call is made: calls in flight are waited for, retries are
                given up, and nothing more is drawn from the source.
            outage_timeout: As for `post_many`.

        Yields:
            One `Outcome` for each activity drawn, in the order in which they become known; `index`
            is its place in the input. Errors are in the outcomes. Only an error of the source
            itself is raised, after the outcomes of what was in flight.
        """
        async with aclosing(self._batch(activities, outage_timeout, stop).outcomes()) as known:
            async for outcome in known:
                yield outcome

    def _batch(
        self, activities: Source, outage_timeout: float, stop: asyncio.Event | None = None
    ) -> Batch:
        # A single activity in place of many is iterable too, if it is a mapping or text.
        if is_mapping(activities) or isinstance(activities, str | bytes | Activity):
            found = type(activities).__name__
            raise TypeError(f"activities: found one {found}, wanted an iterable of activities")
        return Batch(
            self._post,
            activities,
            max_time=self.retry.max_time,
            outage_timeout=outage_timeout,
            stop=stop,
        )

    async def _post(self, activity: Item, terms: Terms) -> str:
        return await self._caller(_endpoints.post(self.account, activity), terms)

    async def status(self, request_id: str) -> RequestStatus:
        """
        Ask the Status API once what became of a request.

        Args:
            request_id: What `post` returned.

        Raises:
            LeadpostError: `UnexpectedAnswer` if the answer cannot be read.
        """
        return await self._caller(_endpoints.status(self.account, request_id))

    async def wait(self, request_id: str, timeout: float | None = 600.0) -> RequestStatus:  # noqa: ASYNC109  # promised name
        """
        Ask the Status API until the status is final: after 1, 2, 4, 8 s, then every 15 s.

        Args:
            request_id: What `post` returned.
            timeout: Seconds to wait at most; None for no end.

        Returns:
            The final status, whether `succeeded` or `failed`.

        Raises:
            StatusTimeout: it was not final in time; `last` is the last status seen.
            LeadpostError: as `status`.
        """
        last: RequestStatus | None = None
        pauses = chain(_POLL, repeat(_POLL[-1]))
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while True:
                    last = await self.status(request_id)
                    if last.final:
                        return last
                    await asyncio.sleep(next(pauses))
        except TimeoutError:
            if not limit.expired():
                raise
        seen = last.status if last else "none"
        raise StatusTimeout(f"not final after {timeout:g} s, last status: {seen}", last=last)

    async def metrics(self) -> QueueMetrics:
        """
        Ask the Metrics API how far behind LeadSquared's queue is.

        Raises:
            LeadpostError: `UnexpectedAnswer` if the answer cannot be read.
        """
        return await self._caller(_endpoints.metrics(self.account))

    async def activity_types(self) -> list[ActivityType]:
        """
        List the activity types, without their fields, from the synchronous API.

        Raises:
            LeadpostError: `UnexpectedAnswer` if the answer cannot be read.
            ConfigurationError: the account's `sync_host` is not known.
        """
        return await self._caller(_endpoints.activity_types(self.account))

    async def activity_type(self, code: int) -> ActivityType:
        """
        Return one activity type with its fields, from the synchronous API.

        Args:
            code: Its code, as in `Activity.activity_event`.

        Raises:
            LeadpostError: `UnexpectedAnswer` if the answer cannot be read.
            ConfigurationError: the account's `sync_host` is not known.
        """
        return await self._caller(_endpoints.activity_type(self.account, code))

    async def lead_activities(self, lead_id: str, code: int) -> list[LeadActivity]:
        """
        List the activities of one type that a lead has by now, from the synchronous API.

        Args:
            lead_id: The lead's id (ProspectId), a GUID.
            code: The activity type's code.

        Returns:
            Each once, in LeadSquared's order, newest first; read page after page of 25, each a
            call. What is posted asynchronously is among them once LeadSquared's queue is done
            with it.

        Raises:
            LeadpostError: `UnexpectedAnswer` if an answer cannot be read, or if fewer come than
                LeadSquared counts: a missing one would prove nothing then.
            ConfigurationError: the account's `sync_host` is not known.
        """
        found: dict[str, LeadActivity] = {}
        wanted = 0
        # By its name Offset counts rows, by LeadSquared's page it counts pages: if rows are missing
        # after the one way, the other is tried.
        for first, step in ((0, _endpoints.ROWS), (1, 1)):
            offset, known = first, -1
            while len(found) > known:
                known = len(found)
                call = _endpoints.lead_activities(self.account, lead_id, code, offset)
                page = await self._caller(call)
                found |= {activity.activity_id: activity for activity in page.activities}
                wanted = page.record_count
                if len(found) >= wanted:
                    return list(found.values())
                offset += step
        raise UnexpectedAnswer(f"{len(found)} of {wanted} activities came")

    async def activities_between(
        self, code: int, start: datetime, end: datetime, *, most_calls: int | None = None
    ) -> list[LeadActivity] | None:
        """
        List the activities of one type, of all leads, that were modified in a span of time.

        Args:
            code: The activity type's code.
            start: The first moment, aware. LeadSquared compares whole seconds and `ModifiedOn`, so
                an activity that was edited after the span is not found.
            end: The last moment, aware, rounded up to a second. Both ends are included:
                neighbouring spans share their boundary second, and the activities in it.
            most_calls: Give up where more calls than that would be needed; a call reads up to
                1,000 activities.

        Returns:
            Each once, in the order of the ids; None if `most_calls` would not do.

        Raises:
            LeadpostError: `UnexpectedAnswer` if an answer cannot be read, or if fewer come than
                LeadSquared counts, as when one is edited meanwhile.
            ConfigurationError: the account's `sync_host` is not known.
            ValueError: `start` or `end` is not aware.
        """
        if start.utcoffset() is None or end.utcoffset() is None:
            raise ValueError("start and end: wanted aware date-times")
        if end.microsecond:
            end = end.replace(microsecond=0) + timedelta(seconds=1)

        async def read(page: int) -> _endpoints.Page:
            call = _endpoints.activities_between(self.account, code, start, end, page)
            return await self._caller(call)

        found: dict[str, LeadActivity] = {}
        wanted = 0
        for number in count(1):
            page = await read(number)
            known = len(found)
            found |= {activity.activity_id: activity for activity in page.activities}
            wanted = max(wanted, page.record_count)
            # RecordCount may be that of the page: only a page that is not full is surely the last.
            if len(page.activities) < _endpoints.LONG_PAGE or len(found) == known:
                break
            if most_calls is not None and max(wanted, len(found) + 1) > (
                most_calls * _endpoints.LONG_PAGE
            ):
                return None
        if len(found) < wanted:  # as where the first page has the number 0
            page = await read(0)
            found |= {activity.activity_id: activity for activity in page.activities}
        if len(found) < wanted:
            raise UnexpectedAnswer(f"{len(found)} of {wanted} activities came")
        return list(found.values())
