"""One call to the vendor: a token, the request, its answer, and again where that helps."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, Literal, TypeVar
from weakref import WeakSet

import httpx
from attrs import field, frozen
from tenacity import RetryCallState

from leadpost import answers
from leadpost.account import Account
from leadpost.activity import personal_texts
from leadpost.answers import Answer
from leadpost.bucket import Bucket, SteadyBucket
from leadpost.errors import ConnectionFailed, DeliveryUncertain, LeadpostError, NotSent
from leadpost.hooks import Hook
from leadpost.retry import Attempts, RetryPolicy, Waiting, waiting_until
from leadpost.transport import LIMITS, TIMEOUT, keyed
from leadpost.watch import Watch, watcher

T = TypeVar("T")

_LARGEST_ANSWER = 16 * 2**20
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}

_log = logging.getLogger(__name__)

# Raised by httpx before anything of the request was sent.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


@frozen
class Call(Generic[T]):
    """One call to the vendor: what to send, and how to read its answer."""

    name: str
    method: Literal["GET", "POST"]
    url: str | httpx.URL
    read: Callable[[Answer], T]
    params: Mapping[str, str] | None = None
    content: bytes | None = field(default=None, repr=False)
    still: Callable[[], None] | None = None
    changes: bool = True  # False for a POST that only asks: made again after a lost connection


class Caller:
    """
    Makes calls with an account's keys, each attempt with a token of the bucket.

    Args:
        account: Hosts and keys.
        client: The client to send with, None for an own one.
        bucket: The limit.
        retry: How long to go on with one call.
        uncertain: Whether a call that may have arrived is made again.
        hooks: Told what happens to each call.
    """

    def __init__(
        self,
        account: Account,
        client: httpx.AsyncClient | None,
        bucket: Bucket,
        retry: RetryPolicy,
        *,
        uncertain: bool,
        hooks: Iterable[Hook] = (),
    ) -> None:
        self._secrets = account.secrets
        self._owns_client = client is None
        self._account = account
        self._given = client or _own_client(account)
        self._client = keyed(self._given, account)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bucket = bucket
        self._steady = bucket if isinstance(bucket, SteadyBucket) else None
        self._retry = retry
        self._uncertain = uncertain
        self._watch = watcher(hooks)
        self._warm = WeakSet[Any]()  # connections that have brought an answer

    async def aclose(self) -> None:
        """Close the connections, if the client is an own one."""
        if self._owns_client:
            self._enter_loop()
            await self._given.aclose()

    def pace(self) -> float:
        """Tell the seconds to leave between the calls of a long batch."""
        return self._steady.interval if self._steady is not None else 0.0

    async def __call__(
        self, call: Call[T], waiting: Waiting = waiting_until, deadline: float | None = None
    ) -> T:
        """
        Make a call until it succeeds or is given up.

        Args:
            call: What to send.
            waiting: Gives what each wait is in.
            deadline: The event loop's time until which it may first be made; None for no end.
        """
        attempts = Attempts.under(self._retry, uncertain=self._uncertain)
        attempts.deadline = deadline
        first: LeadpostError | None = None
        watch = self._watch(call.name)

        async def attempt() -> T:
            nonlocal first
            if first is not None:
                error, first = first, None
                raise error
            return await self._once(begin, partial(waiting, attempts.deadline), watch)

        async def begin() -> Call[T]:
            attempts.begin()
            return call

        async def sleep(seconds: float) -> None:
            async with waiting(None):
                await asyncio.sleep(seconds)

        with watch:
            try:
                try:
                    return await attempt()
                except LeadpostError as error:
                    first = error  # told again to tenacity, which a post that succeeds does without
                retrying = attempts.retrying(sleep, partial(_log_retry, call.name, watch))
                return await retrying(attempt)
            except LeadpostError as error:
                raise attempts.verdict(error)  # noqa: B904  # the same error, or one that quotes it

    async def once(
        self,
        name: str,
        begin: Callable[[], Awaitable[Call[T]]],
        waiting: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> T:
        """
        Make one call and no other.

        Args:
            name: The call's.
            begin: Gives the call, when there is a token for it. Where it raises `NotSent`, the
                token is as good as before.
            waiting: Gives what the wait for the token is in.
        """
        has_token = False

        async def with_token() -> Call[T]:
            nonlocal has_token
            has_token = True
            return await begin()

        with self._watch(name) as watch:
            try:
                return await self._once(with_token, waiting, watch)
            except NotSent:
                if not has_token:
                    watch.nothing()  # the wait was ended, as there is no use for a token
                raise

    async def _once(
        self,
        begin: Callable[[], Awaitable[Call[T]]],
        waiting: Callable[[], AbstractAsyncContextManager[object]],
        watch: Watch,
    ) -> T:
        if self._given.is_closed:
            raise RuntimeError("the client of this poster is closed")
        self._enter_loop()
        async with AsyncExitStack() as token:
            async with waiting():
                watch.waiting()
                still = await token.enter_async_context(self._bucket.token())
                watch.has_token()
            try:
                call = await begin()
            except NotSent as error:
                if error.__cause__ is None:  # else something failed
                    watch.nothing()
                raise
            if self._given.is_closed:
                raise NotSent("the client of this poster was closed before the call was sent")
            watch.sent()
            answer = await self._exchange(call, still)
            watch.answered(answer.status)
            result = call.read(answer)
            watch.succeeded(result)
            return result

    async def _exchange(self, call: Call[T], still: Callable[[], None] | None) -> Answer:
        """Send one request and fetch its answer."""

        def redact(text: str) -> str:
            texts = personal_texts(json.loads(call.content)) if call.content else ()
            return answers.redacted(text, [*self._secrets, *texts])

        request = self._client.build_request(
            call.method,
            call.url,
            params=call.params,
            content=call.content,
            headers=_HEADERS,
            extensions=_last_check(call.still, still),
        )
        try:
            sent = asyncio.get_running_loop().time()
            response = await self._client.send(request, stream=True, follow_redirects=False)
            self._saw_round_trip(response, asyncio.get_running_loop().time() - sent)
            async with aclosing(response):
                return _answer(response, await _body(response), redact)
        except httpx.HTTPStatusError as error:  # a hook of the client's that raises for a status
            return _answer(error.response, b"", redact)
        except httpx.RequestError as error:
            what = redact(f"{type(error).__name__}: {error}".removesuffix(": "))
            # The chain ends here: httpx quotes what it could not read, and that is not redacted.
            if call.content is None or not call.changes or isinstance(error, _NOT_SENT):
                raise ConnectionFailed(what) from None
            raise DeliveryUncertain(f"no answer, it may have arrived ({what})") from None

    def _enter_loop(self) -> None:
        """Go on in another event loop, where the last one is over: with connections of its own."""
        loop = asyncio.get_running_loop()
        if self._owns_client and self._loop is not None and self._loop is not loop:
            if self._loop.is_running():
                raise RuntimeError("this poster is in use on another event loop")
            self._given = _own_client(self._account)
            self._client = keyed(self._given, self._account)
        self._loop = loop

    def _saw_round_trip(self, response: httpx.Response, seconds: float) -> None:
        """Tell the bucket, unless the connection was new: opening it took a part of the time."""
        connection = response.extensions.get("network_stream")
        if self._steady is None or connection is None:
            return
        if connection in self._warm:
            self._steady.round_trip(seconds)
        else:
            self._warm.add(connection)


def _own_client(account: Account) -> httpx.AsyncClient:
    # What goes to this machine goes past the proxies of the environment.
    return httpx.AsyncClient(limits=LIMITS, timeout=TIMEOUT, trust_env=not account.is_loopback)


def _last_check(*checks: Callable[[], None] | None) -> dict[str, Any] | None:
    """Call these at the last moment before anything is sent: a process may be frozen till then."""
    given = [check for check in checks if check is not None]
    if not given:
        return None
    for check in given:
        check()

    async def trace(event: str, _: object) -> None:  # httpcore awaits it
        if event.endswith(".send_request_headers.started"):
            for check in given:
                check()

    return {"trace": trace}


def _answer(response: httpx.Response, body: bytes, redact: Callable[[str], str]) -> Answer:
    now = datetime.now(UTC)
    retry_after = answers.parse_retry_after(response.headers.get("Retry-After"), now)
    return Answer(response.status_code, body, retry_after, redact)


async def _body(response: httpx.Response) -> bytes:
    """Read the body, but no more of it than any answer of the vendor's could have."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            break
    return bytes(body[:_LARGEST_ANSWER])


def _log_retry(name: str, watch: Watch, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    status = getattr(error, "status", None)
    _log.info(
        "%s: attempt %d failed (%s%s), the next one in %.1f s",
        name,
        state.attempt_number,
        type(error).__name__,
        f", HTTP {status}" if status else "",
        state.upcoming_sleep,
    )
    watch.retried(error, state.upcoming_sleep)
