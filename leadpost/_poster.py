"""The client: `AsyncActivityPoster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
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
from leadpost._models import Activity
from leadpost._outcomes import BatchError, Outcome
from leadpost._queries import Queries
from leadpost._retry import RetryPolicy
from leadpost._validation import is_mapping
from leadpost.bucket import CALL_TIMEOUT, Bucket, OpenableBucket, TokenBucket
from leadpost.errors import LeadpostError
from leadpost.hooks import Hook

OUTAGE_TIMEOUT = 300.0
"""Seconds that a batch waits for the end of an outage, by default."""
GRACE = 8.0
"""Seconds that closing waits for calls in flight, by default: a container has 10 s in all."""


class AsyncActivityPoster(Queries):
    """
    Posts activities on leads, and asks what became of them: its queries are those of `Queries`.

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
            activity: An `Activity`, or a mapping in LeadSquared's JSON shape. One on a `Lead`
                changes or creates the lead.
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
