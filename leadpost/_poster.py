"""The client: `AsyncActivityPoster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from math import inf
from operator import attrgetter
from types import TracebackType
from typing import Literal, Self, overload

import httpx
from attrs import evolve

from leadpost._account import Account
from leadpost._attempts import Terms
from leadpost._batch import Batch, Source
from leadpost._call import Sender
from leadpost._endpoints import async_api, sync_api
from leadpost._endpoints.call import Call
from leadpost._models import Activity, Item
from leadpost._outcomes import BatchError, Outcome
from leadpost._queries import Queries
from leadpost._retry import RetryPolicy
from leadpost._validation import is_mapping
from leadpost.bucket import (
    CALL_TIMEOUT,
    LIMIT,
    PERIOD,
    Bucket,
    ManagedBucket,
    TokenBucket,
)
from leadpost.errors import ConfigurationError, LeadpostError
from leadpost.hooks import Hook

OUTAGE_TIMEOUT = 300.0
"""Default seconds that a batch waits for the end of an outage."""
GRACE = 8.0
"""Default seconds that closing waits for calls in flight: a container has 10 s in total."""


class AsyncActivityPoster(Queries):
    """
    Posts activities on leads, and makes queries about them; the queries are those of `Queries`.

    Use it as an async context manager, and only one in a process, because its bucket keeps the
    account's limit: every call to LeadSquared takes a token from it, including each retry. Without
    a `client`, and without `async with`, it also works in the next `asyncio.run`.

    A call in flight finishes, whatever happens to its caller: if the caller is cancelled, or times
    out, the call's outcome is logged. Only closing the poster cuts it off, after a grace. During an
    outage of LeadSquared, posts wait and one at a time is tried.

    Args:
        account: Hosts and keys.
        client: An `httpx.AsyncClient` of your own. Its time-outs, proxies and hooks apply, none of
            them sees a key, and the poster never closes it. By default the poster makes one that
            suits this API.
        bucket: The limit; by default a `TokenBucket`, 25 calls per 5 s, which gets the `hooks` too.
            Pass a bucket of your own its hooks yourself. A `ManagedBucket` is opened when the
            poster is entered, and closed with it.
        retry: How long to keep trying one activity.
        on_uncertain: What to do after a post that may have arrived: `raise` `DeliveryUncertain`,
            or `retry`, which may post it twice.
        call_timeout: Seconds for one call, from its token to the last byte of the answer; finite,
            as the token of a call without an answer rests that long.
        hooks: Functions that are called with each step of each call, see `leadpost.hooks`.

    Raises:
        ConfigurationError: a proxy or TLS variable of the environment cannot be used; or the bucket
            would exceed LeadSquared's limit, as its period is that of a sandbox.
        TypeError: a hook is a coroutine function.
        ValueError: `on_uncertain` or `call_timeout` is invalid.
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
        if not 0 < call_timeout < inf:
            wanted = "a finite number of seconds above 0"
            raise ValueError(f"call_timeout: found {call_timeout}, wanted {wanted}")
        hooks = tuple(hooks)
        self.account = account
        self.bucket: Bucket = TokenBucket(hooks=hooks) if bucket is None else bucket
        self.retry = retry or RetryPolicy()
        self.on_uncertain = on_uncertain
        self.call_timeout = call_timeout
        most = getattr(self.bucket, "most_calls", 0)
        if most > LIMIT and not account.is_loopback:
            raise ConfigurationError(
                f"bucket: this {type(self.bucket).__name__} allows {most} calls in {PERIOD:g} s,"
                f" LeadSquared {LIMIT}; a shorter period is only for a sandbox on this machine"
            )
        self._sender = Sender(
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
        if isinstance(self.bucket, ManagedBucket):
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
        Wait for posts in flight, then close connections and bucket, but no `client` of your own.

        Args:
            grace: Seconds to wait at most. A post that is then cut off may still arrive: it raises
                `DeliveryUncertain`. Queries are cut off at once. Their tokens rest for
                `call_timeout` + 5 s.
        """
        try:
            await self._sender.aclose(grace)
        finally:
            if isinstance(self.bucket, ManagedBucket):
                await self.bucket.aclose()

    async def post(self, activity: Item, *, token_timeout: float | None = None) -> str:
        """
        Post one activity.

        Args:
            activity: An `Activity`, or a mapping in LeadSquared's JSON shape. One on a `Lead`
                changes or creates the lead.
            token_timeout: Seconds in which the first call must get its token. By default only the
                policy's `max_time`, which covers all attempts, limits this wait.

        Returns:
            The RequestID. The activity is then in LeadSquared's queue, and later on the lead: see
            `status` and `wait`.

        Raises:
            InvalidActivity: it is invalid; nothing was sent.
            ConfigurationError: HTTP/1.1 forbids a header of your client; nothing was sent.
            Rejected: LeadSquared rejected it (`BadRequest`, `Unauthorized`, `NotFound`,
                `ApplicationError`).
            Unavailable: given up after retries; not accepted.
            DeliveryUncertain: it may have arrived.
            NotSent: there was no token in time; nothing was sent.
            OutageTimeout: the outage lasted too long; nothing was sent.
        """
        terms = Terms(token_timeout=token_timeout)
        return await self._sender.send(async_api.post(activity), terms)

    @property
    def is_away(self) -> bool:
        """Whether there is an outage: posts wait, and one at a time is tried."""
        return self._sender.availability["post"].is_away

    @property
    def away_for(self) -> float | None:
        """Seconds since the outage began, None without one."""
        return self._sender.availability["post"].away_for

    async def post_sync(self, activity: Item) -> str:
        """
        Post one activity through the synchronous API, which answers once the lead has it.

        Args:
            activity: As for `post`.

        Returns:
            The activity's id.

        Raises:
            LeadpostError: as `post`.
            ConfigurationError: the account's `sync_host` is missing.
        """
        return await self._sender.send(sync_api.post_sync(activity))

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
        Post every activity that can be posted, and return the RequestIDs in input order.

        Args:
            activities: An iterable or async iterable of activities, as for `post`; drawn only as
                fast as they are posted.
            return_exceptions: Return errors in the places of their RequestIDs, as `asyncio.gather`
                does, instead of raising `BatchError`.
            outage_timeout: Seconds to wait for the end of an outage; the remaining activities are
                then `not_sent`.

        Returns:
            A RequestID for each input.

        Raises:
            BatchError: some were not accepted; it has every outcome, including RequestIDs. If the
                keys are rejected or the URL is wrong, the remaining activities are `not_sent`.

        For a batch that may have to stop early, use `post_stream` and its `stop`: cancelled, this
        method returns no RequestIDs.
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
        Post any number of activities in bounded memory, and yield each outcome when it is known.

        Args:
            activities: As for `post_many`.
            stop: Set it to end the batch early: calls in flight finish, retries are given up, and
                no more activities are drawn. A source that is waiting gets `CancelledError`, and
                should put back what it has taken.
            outage_timeout: As for `post_many`.

        Yields:
            One `Outcome` for each activity that was drawn, in the order in which they become known;
            `index` is its place in the input. Errors are in the outcomes. Only an error of the
            source itself is raised, after the outcomes of the calls in flight.
        """
        async with aclosing(self._batch(activities, outage_timeout, stop).outcomes()) as known:
            async for outcome in known:
                yield outcome

    def _batch(
        self, activities: Source, outage_timeout: float, stop: asyncio.Event | None = None
    ) -> Batch:
        # A single activity passed by mistake may be iterable too: a mapping, or text.
        if is_mapping(activities) or isinstance(activities, str | bytes | Activity):
            found = type(activities).__name__
            raise TypeError(f"activities: found one {found}, wanted an iterable of activities")
        return Batch(
            lambda item, terms: self._sender.send(async_api.post(item), terms),
            activities,
            max_time=self.retry.max_time,
            outage_timeout=outage_timeout,
            stop=stop,
        )


async def post_once(
    poster: AsyncActivityPoster, draw: Callable[[], Awaitable[Item]], terms: Terms
) -> str:
    """
    Make one attempt to post, for `leadpost.outbox`, which has its own retries.

    `draw` is called once there is a token, and returns the activity. It may raise `NothingToSend`;
    the token then remains unused.
    """

    async def drawn() -> Call[str]:
        return async_api.post(await draw())

    sender = poster._sender  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  # see above
    return await sender.send(drawn, evolve(terms, is_retried=False))
