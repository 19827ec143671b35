"""The client: `AsyncActivityPoster`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from itertools import chain, count, repeat
from types import TracebackType
from typing import Literal, Self, overload

import httpx
from attrs import evolve

from leadpost import answers, queries
from leadpost._names import show_in
from leadpost._shapes import check_type, is_mapping
from leadpost.account import Account
from leadpost.activity import Activity
from leadpost.batch import Batch, Item, Source, enumerate_async, size_of
from leadpost.bucket import Bucket, TokenBucket
from leadpost.caller import Call, Caller
from leadpost.errors import (
    BatchError,
    LeadpostError,
    Outcome,
    StatusTimeout,
    UnexpectedAnswer,
)
from leadpost.hooks import Hook
from leadpost.queries import ActivityType, LeadActivities, LeadActivity, QueueMetrics, RequestStatus
from leadpost.retry import RetryPolicy, Waiting
from leadpost.watch import hooks_of

_log = logging.getLogger(__name__)

_POLL = (1.0, 2.0, 4.0, 8.0, 15.0)
_ROWS = 25  # a page of a lead's activities, as long as the vendor makes it by default


class AsyncActivityPoster:
    """
    Posts activities on leads, and asks what became of them.

    Use it as an async context manager, one for the whole process: its bucket is what keeps the
    account's limit. Every call to the vendor takes a token from it, each retry included. It may go
    on in another event loop when the last one is over, if it has a client of its own.

    Args:
        account: Hosts and keys.
        client: The `httpx.AsyncClient` to send with, where there is one already; its timeouts,
            proxies and hooks hold, none of them sees a key, and it is never closed here. By
            default an own one, set up for this API's rhythm.
        bucket: The limit; by default a `TokenBucket`, 25 calls per 5 s.
        retry: How long to go on with one activity.
        on_uncertain: What to do after a post that may have arrived: `raise` `DeliveryUncertain`,
            or `retry`, which may post it twice.
        hooks: Told what happens to each call, see `leadpost.hooks`; the default bucket tells them
            too. One of your own has `hooks` of its own.

    Raises:
        TypeError: one of them is not what it is to be, such as an `httpx.Client`.
        ValueError: `on_uncertain` is neither.
    """

    def __init__(
        self,
        account: Account,
        *,
        client: httpx.AsyncClient | None = None,
        bucket: Bucket | None = None,
        retry: RetryPolicy | None = None,
        on_uncertain: Literal["raise", "retry"] = "raise",
        hooks: Iterable[Hook] = (),
    ) -> None:
        if on_uncertain not in {"raise", "retry"}:
            raise ValueError(f"on_uncertain: found {on_uncertain!r}, wanted 'raise' or 'retry'")
        check_type("account", account, Account)
        for name, value, wanted in (
            ("client", client, httpx.AsyncClient),
            ("bucket", bucket, Bucket),
            ("retry", retry, RetryPolicy),
        ):
            if value is not None:
                check_type(name, value, wanted)
        self._account = account
        self._submit_url = httpx.URL(account.async_url(account.submit_path))
        hooks = hooks_of(hooks)
        self.bucket: Bucket = TokenBucket(hooks=hooks) if bucket is None else bucket
        self.retry = retry or RetryPolicy()
        self.on_uncertain = on_uncertain
        self._call = Caller(
            account,
            client,
            self.bucket,
            self.retry,
            uncertain=on_uncertain == "retry",
            hooks=hooks,
        )

    def __repr__(self) -> str:
        return f"<AsyncActivityPoster to {self._account.host}: {self.bucket!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; an injected client is left as it is."""
        await self._call.aclose()

    async def post(self, activity: Item, *, token_timeout: float | None = None) -> str:
        """
        Post one activity, after those that wait for a token already.

        Args:
            activity: An `Activity`, or a mapping in the vendor's JSON shape.
            token_timeout: Seconds to wait for the token of the first call at most; None for no
                end. Each that waits before takes 0.2 s. (The wait for the others is in the
                `max_time` of the `RetryPolicy`, and that for an answer in the client's time-outs.)

        Returns:
            The RequestID. The vendor's queue has the activity then, the lead has it later: ask
            `status`, or `wait` for it.

        Raises:
            InvalidActivity: it cannot be posted as it is; nothing was sent.
            Rejected: the vendor said no (`BadRequest`, `Unauthorized`, `NotFound`,
                `ApplicationError`).
            Unavailable: gave up after retries; surely not accepted.
            DeliveryUncertain: it may have arrived.
            NotSent: there was no token in time.
        """
        deadline = None
        if token_timeout is not None:
            deadline = asyncio.get_running_loop().time() + token_timeout
        return await self._call(self._submission(activity), deadline=deadline)

    async def post_once(
        self,
        draw: Callable[[], Awaitable[Item]],
        check: Callable[[], None] | None = None,
        waiting: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> str:
        """
        Make one call, for a queue that tries again by itself, as `leadpost.outbox` does.

        Args:
            draw: Called when there is a token; gives the activity. It may raise `NotSent` to make
                no call: the token is as good as before then.
            check: Called at the last moment before anything is sent; what it raises keeps that.
            waiting: Gives a context that is around the wait for the token.

        Returns:
            The RequestID.

        Raises:
            LeadpostError: as `post`, after this one call.
        """

        async def begin() -> Call[str]:
            return evolve(self._submission(await draw()), still=check)

        return await self._call.once("post", begin, waiting)

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
        account = self._account
        url = account.sync_url(account.sync_post_path)
        call = Call("post_sync", "POST", url, answers.read_activity_id, content=_content(activity))
        return await self._call(call)

    @overload
    async def post_many(
        self, activities: Source, *, return_exceptions: Literal[False] = False
    ) -> list[str]: ...
    @overload
    async def post_many(
        self, activities: Source, *, return_exceptions: Literal[True]
    ) -> list[str | LeadpostError]: ...
    async def post_many(
        self, activities: Source, *, return_exceptions: bool = False
    ) -> list[str] | list[str | LeadpostError]:
        """
        Post all that can be posted, and give the RequestIDs in the order of the inputs.

        Args:
            activities: Any iterable or async iterable of what `post` takes; drawn only as fast as
                it is posted.
            return_exceptions: Give the error in the place of the RequestID, as `asyncio.gather`
                does, in place of raising `BatchError`.

        Returns:
            A RequestID for each input.

        Raises:
            BatchError: some were not accepted; it carries every outcome, RequestIDs included. When
                the keys are refused or the URL is wrong, the rest is `not_sent`.

        A batch that may be cancelled belongs in `post_stream`, whose `stop` ends it in good order:
        cancelled, this method gives no RequestIDs.
        """
        _refuse_one(activities)
        drawn: list[Item] = []
        results: list[str | LeadpostError] = []  # every one drawn gets its own
        ended: Exception | None = None

        async def recorded() -> AsyncGenerator[Item]:
            async with aclosing(enumerate_async(activities)) as numbered:
                async for _, activity in numbered:
                    drawn.append(activity)
                    results.append("")
                    yield activity

        try:
            async with (
                aclosing(recorded()) as source,
                aclosing(self._stream(source, size_of(activities))) as stream,
            ):
                async for outcome in stream:
                    results[outcome.index] = outcome.error or outcome.request_id or ""
        except Exception as error:  # noqa: BLE001  # raised again below, beside the RequestIDs
            ended = error
        failed = any(isinstance(result, LeadpostError) for result in results)
        if ended is None and (return_exceptions or not failed):
            return results
        outcomes = [_outcome(*of) for of in zip(count(), drawn, results, strict=False)]
        raise BatchError.of(outcomes, cause=ended)

    async def post_stream(
        self, activities: Source, *, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[Outcome]:
        """
        Post activities of any number in bounded memory, and yield each outcome when it is known.

        Args:
            activities: As for `post_many`.
            stop: Once it is set no new call is made: calls under way are waited for, retries are
                given up, and the source is drawn no further.

        Yields:
            One `Outcome` for each activity drawn, in the order in which they become known; `index`
            tells its place in the input. Errors are in the outcomes, none is raised, save one that
            the source itself raises, after the outcomes of what was under way.
        """
        _refuse_one(activities)
        async with aclosing(self._stream(activities, size_of(activities), stop)) as stream:
            async for outcome in stream:
                yield outcome

    async def status(self, request_id: str) -> RequestStatus:
        """
        Ask the Status API once what became of a request.

        Args:
            request_id: What `post` returned.

        Raises:
            LeadpostError: `UnexpectedAnswer` where the answer cannot be read.
        """
        check_type("request_id", request_id, str)
        account = self._account
        read = partial(
            queries.read_status,
            request_id=request_id,
            failure_is_final=account.failure_is_final,
        )
        url = account.async_url(account.status_path)
        return await self._call(Call("status", "GET", url, read, {"RequestID": request_id}))

    async def wait(self, request_id: str, timeout: float | None = 600.0) -> RequestStatus:  # noqa: ASYNC109  # promised name
        """
        Ask the Status API until the status is final: after 1, 2, 4, 8 s, then every 15 s.

        Args:
            request_id: What `post` returned.
            timeout: Seconds to wait at most; None for no end.

        Returns:
            The final status, be it `succeeded` or `failed`.

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
        Ask the Metrics API how far behind the vendor's queue is.

        Raises:
            LeadpostError: `UnexpectedAnswer` where the answer cannot be read.
        """
        url = self._account.async_url(self._account.metrics_path)
        return await self._call(Call("metrics", "GET", url, queries.read_metrics))

    async def activity_types(self) -> list[ActivityType]:
        """
        List the activity types, without their fields, from the synchronous API.

        Raises:
            LeadpostError: `UnexpectedAnswer` where the answer cannot be read.
            ConfigurationError: the account's `sync_host` is not known.
        """
        url = self._account.sync_url(self._account.activity_types_path)
        return await self._call(Call("activity_types", "GET", url, queries.read_activity_types))

    async def activity_type(self, code: int) -> ActivityType:
        """
        Give one activity type with its fields, from the synchronous API.

        Args:
            code: Its code, as in `Activity.activity_event`.

        Raises:
            LeadpostError: `UnexpectedAnswer` where the answer cannot be read.
            ConfigurationError: the account's `sync_host` is not known.
        """
        url = self._account.sync_url(self._account.activity_type_path)
        read = partial(queries.read_activity_type, code=code)
        return await self._call(Call("activity_type", "GET", url, read, {"code": str(code)}))

    async def lead_activities(self, lead_id: str, code: int) -> list[LeadActivity]:
        """
        List the activities of one type that a lead has by now, from the synchronous API.

        Args:
            lead_id: The lead's id (ProspectId), a GUID.
            code: The activity type's code.

        Returns:
            Each once, in the vendor's order, newest first; read page after page of 25, each a call.
            What is posted asynchronously is among them once the vendor's queue has worked it off.

        Raises:
            LeadpostError: `UnexpectedAnswer` where an answer cannot be read, or where fewer come
                than the vendor counts: that one is missing would prove nothing then.
            ConfigurationError: the account's `sync_host` is not known.
        """
        check_type("lead_id", lead_id, str)
        check_type("code", code, int)
        found: dict[str, LeadActivity] = {}
        wanted = 0
        # Offset counts rows by its name and pages by the vendor's page: if rows are missing after
        # the one way, the other is tried.
        for first, step in ((0, _ROWS), (1, 1)):
            offset, known = first, -1
            while len(found) > known:
                known = len(found)
                page = await self._lead_activities(lead_id, code, offset)
                found |= {activity.activity_id: activity for activity in page.activities}
                wanted = page.record_count
                if len(found) >= wanted:
                    return list(found.values())
                offset += step
        raise UnexpectedAnswer(f"{len(found)} of {wanted} activities came")

    async def _lead_activities(self, lead_id: str, code: int, offset: int) -> LeadActivities:
        paging = {"Offset": str(offset), "RowCount": str(_ROWS)}
        call = Call(
            "lead_activities",
            "POST",
            self._account.sync_url(self._account.lead_activities_path),
            queries.read_lead_activities,
            {"leadId": lead_id},
            json.dumps({"Parameter": {"ActivityEvent": code}, "Paging": paging}).encode(),
            changes=False,
        )
        return await self._call(call)

    async def _stream(
        self, activities: Source, size: int, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[Outcome]:
        batch = Batch(self._post, activities, self.retry.max_time, self._call.pace, size)
        states = Counter[str]()
        _log.info("batch begins")
        try:
            async with aclosing(batch.stream(stop)) as outcomes:
                async for outcome in outcomes:
                    states[outcome.state] += 1
                    yield outcome
        finally:
            counts = ", ".join(f"{count} {state}" for state, count in states.items())
            _log.info("batch ended: %s", counts or "nothing was posted")

    async def _post(self, activity: Item, waiting: Waiting) -> str:
        return await self._call(self._submission(activity), waiting)

    def _submission(self, activity: Item) -> Call[str]:
        return Call(
            "post", "POST", self._submit_url, answers.read_request_id, content=_content(activity)
        )


def _content(activity: Item) -> bytes:
    if not isinstance(activity, Activity):
        activity = Activity.from_payload(activity)
    return json.dumps(activity.to_payload(), ensure_ascii=False).encode()


def _outcome(index: int, activity: Item, result: str | LeadpostError) -> Outcome:
    if isinstance(result, str):
        return Outcome(index, activity, result)
    return Outcome(index, activity, error=result)


def _refuse_one(activities: object) -> None:
    if is_mapping(activities) or isinstance(activities, str | bytes | Activity):
        raise TypeError(
            f"activities: found one {type(activities).__name__}, wanted an iterable of activities"
        )


show_in("leadpost", globals())
