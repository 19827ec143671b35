"""
One call, in a straight line: retry, outage, token, request, answer.

`Sender.send` retries. `Sender._guarded` runs one attempt in its own task, so that a call that was
sent finishes whatever its caller does. `Sender._attempt` is that task: it waits during an outage,
takes a token, sends the request (`Sender._exchange`) and reads the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

import httpx

from leadpost._account import Account, plain_http_hint
from leadpost._attempts import Attempt, Attempts, Terms, failure_of
from leadpost._availability import Availability, Turn
from leadpost._endpoints import async_api, sync_api
from leadpost._endpoints.call import Call, Choice
from leadpost._responses import (
    ApiResponse,
    no_answer,
    parse_retry_after,
    raise_for_error,
    redactor,
)
from leadpost._retry import RETRYABLE, RetryPolicy
from leadpost._transport import (
    BEFORE_SEND,
    BROKEN,
    ENDS_AT,
    LARGEST,
    NEVER_SENT,
    PARAMS,
    IllegalRequest,
    keyed,
    new_client,
)
from leadpost.bucket import Bucket
from leadpost.errors import (
    ConfigurationError,
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    ServerError,
    TokenLost,
    UnexpectedAnswer,
)
from leadpost.hooks import Answered, Hook, Hooks, Operation, Sent, Waiting

T = TypeVar("T")

_log = logging.getLogger("leadpost")

SINGLE = Terms()
ONCE = Terms(is_retried=False)

LARGEST_POST_ANSWER = 2**20
"""The most bytes to read of an answer to a post; LeadSquared's are far smaller."""
LARGEST_QUERY_ANSWER = 2**24
"""The same, of a query: a page of 1,000 activities with notes may have several MB."""


class Sender:
    """
    Makes calls with an account's keys, each attempt with a token of the bucket.

    The arguments are those of `AsyncActivityPoster`.

    Attributes:
        availability: Whether LeadSquared is away, by the name of the call.
    """

    def __init__(
        self,
        account: Account,
        client: httpx.AsyncClient | None,
        bucket: Bucket,
        policy: RetryPolicy,
        *,
        call_timeout: float,
        retry_uncertain: bool,
        hooks: Iterable[Hook],
    ) -> None:
        self._account = account
        self._owns_client = client is None
        self._plain_client = client or new_client(account)
        self._client = keyed(self._plain_client, account)
        self._bucket = bucket
        self._policy = policy
        self._call_timeout = call_timeout
        self._retryable = (*RETRYABLE, DeliveryUncertain) if retry_uncertain else RETRYABLE
        self._hooks = Hooks(hooks)
        self._redact = redactor(account.secrets)
        # Queries are made even while LeadSquared does not answer posts.
        self.availability = {
            "post": Availability(account.host, partial(self._probe, async_api.metrics())),
            "post_sync": Availability(
                account.sync_host, partial(self._probe, sync_api.activity_types())
            ),
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None]  # of this loop
        self._in_flight: dict[asyncio.Task[Any], Attempts] = {}
        self._is_closed = False

    async def send(self, call: Call[T] | Choice[T], terms: Terms = SINGLE) -> T:
        """
        Make attempts at a call until one succeeds or the call is given up.

        Raises the outcome of all attempts; `NotSent` if none was made.
        """
        if self._is_closed or self._plain_client.is_closed:
            what = "this poster" if self._is_closed else "the client of this poster"
            raise RuntimeError(f"{what} is closed")
        self._enter_loop()
        name = "post"
        if isinstance(call, Call):
            name = call.name
            self._account.url(call.path)  # an unknown host raises before anything waits
        availability = self.availability.get(name)
        attempts = Attempts(
            Operation(name, terms.index),
            terms,
            self._policy,
            self._retryable if terms.is_retried else (),
            lambda: availability is not None and availability.is_away,
            self._hooks,
            self._closing,
        )
        error: BaseException | None = None
        try:
            async for attempt_manager in attempts.retrying():  # pragma: no branch
                with attempt_manager:
                    return await self._guarded(call, attempts)
        except LeadpostError as failure:
            error = attempts.verdict(failure)
            raise error  # noqa: B904  the same one, or one that quotes it
        except BaseException as failure:
            error = failure
            raise
        finally:
            if attempts.attempt.task is None:
                attempts.note_end(error)
            else:  # the caller leaves while the call is in flight
                attempts.attempt.task.add_done_callback(attempts.note_abandoned)
        raise AssertionError("tenacity either returns or raises")  # pragma: no cover

    async def _guarded(self, call: Call[T] | Choice[T], attempts: Attempts) -> T:
        """
        Make one attempt in its own task, and wait for its end.

        Until it has a token, a stop or the caller's time limit ends it; until its request is sent,
        its caller's cancellation does. Afterwards only its own time-out, the closing of the poster
        and `Terms.cut_off` do.
        """
        terms = attempts.terms
        attempt = attempts.attempt = Attempt()
        if self._is_closed or terms.are_over:
            raise self._early_end_error(attempts)
        task = attempt.task = asyncio.create_task(self._attempt(call, attempts))
        self._in_flight[task] = attempts
        task.add_done_callback(self._forget)
        ends: list[asyncio.Future[Any]] = [task]
        if terms.cut_off is not None:
            ends.append(terms.cut_off)
        wait = partial(asyncio.wait, return_when=asyncio.FIRST_COMPLETED)
        try:
            waits = ends if terms.stopped is None else [*ends, terms.stopped]
            await wait(waits, timeout=attempts.time_for_token)
            if attempt.has_token and not task.done():  # from now on it has its own time-out
                await wait(ends)
            if not task.done():
                task.cancel()
                await wait([task])
        except asyncio.CancelledError:
            if not attempt.is_sent:
                task.cancel()
                await wait([task])  # so that its token is back
                attempt.task = None
            raise
        attempt.task = None
        failure = failure_of(task)
        if (attempt.has_succeeded or attempt.error) and failure is not attempt.error:
            # The answer counts: taking it for a failure, its caller might repeat an accepted post.
            name = type(failure).__name__
            _log.error("%s: ended, but then its bucket failed: %s", attempts.operation, name)
            failure = attempt.error
        if isinstance(failure, asyncio.CancelledError):
            raise self._early_end_error(attempts)
        if failure is not None:
            raise failure
        return cast("T", attempt.result)

    async def _attempt(self, call: Call[T] | Choice[T], attempts: Attempts) -> None:
        """
        Wait until LeadSquared is there, take a token, send the request, read the answer.

        The result, or the error of the call, is noted in the `Attempt`.
        """
        loop = asyncio.get_running_loop()
        waits_since = loop.time()
        operation, attempt = attempts.operation, attempts.attempt
        availability = self.availability.get(operation.name)
        activity_hash = hash(call.content) if isinstance(call, Call) else 0  # not known yet
        attempts.emit(Waiting(operation, attempts.made + 1))
        while True:
            outage_turn = (
                nullcontext(Turn(activity_hash))  # queries do not wait for the end of an outage
                if availability is None
                else availability.turn(activity_hash, attempts.terms.outage_until)
            )
            # In this order, so that nothing waits for a token during an outage.
            async with (
                outage_turn as turn,
                self._bucket.token(attempts.priority, self._call_timeout) as check_token,
            ):
                if availability is not None and not availability.may_send(turn):
                    # LeadSquared went away during the wait for the token, which is given back
                    # unused. As the turn may not send, it records nothing.
                    continue
                attempt.has_token = True
                # The bucket has the same time-out: the call must end before its token is back.
                ends_at = loop.time() + self._call_timeout
                if not isinstance(call, Call):
                    call = await call()
                    turn.activity_hash = hash(call.content)
                    if loop.time() >= ends_at:
                        raise TokenLost("choosing the call took its whole time; nothing was sent")
                if self._plain_client.is_closed:  # since this began to wait
                    raise NotSent("the client of this poster was closed before anything was sent")
                attempts.count(waited=turn.waited)
                attempts.emit(Sent(operation, attempts.made, loop.time() - waits_since))
                try:
                    response = await self._exchange(call, attempts, ends_at, check_token)
                    attempts.emit(Answered(operation, attempts.made, response.status))
                    raise_for_error(response, changes=operation.is_post)
                    attempt.result = call.read(response)
                    attempt.has_succeeded = True
                except LeadpostError as error:
                    attempt.error = error
                    raise
                return
            # Another round would post the activity a second time.
            raise RuntimeError("the bucket suppressed the error of a call")

    async def _exchange(
        self,
        call: Call[T],
        attempts: Attempts,
        ends_at: float,
        check_token: Callable[[], None],
    ) -> ApiResponse:
        """Send one request, and return its answer."""
        attempt = attempts.attempt

        def before_send() -> None:
            # Called before the headers and again before the body. If the second time raises, no
            # body left, so nothing was posted.
            attempt.is_sent = False
            attempts.terms.before_send()
            check_token()
            attempt.is_sent = True

        url = self._account.url(call.path)
        largest = LARGEST_POST_ANSWER if attempts.operation.is_post else LARGEST_QUERY_ANSWER
        request = self._client.build_request(
            call.method,
            url,
            content=call.content,
            extensions={
                PARAMS: call.params,
                LARGEST: largest,
                ENDS_AT: ends_at,
                BEFORE_SEND: before_send,
            },
        )
        try:
            response = await self._client.send(request, follow_redirects=False)
        except httpx.HTTPStatusError as error:  # from a hook of the client's that raises for it
            response = error.response
        except IllegalRequest:
            attempt.is_sent = False
            # Without its text, which quotes the header: it may be a secret of the client's.
            what = "HTTP/1.1 forbids a header of the client, such as one with a line break"
            raise ConfigurationError(f"{what}; nothing was sent") from None
        except (httpx.RequestError, *BROKEN) as error:
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            # Without a cause: it quotes what could not be read.
            if attempt.is_sent and not isinstance(error, NEVER_SENT):
                raise no_answer(what, changes=attempts.operation.is_post) from None
            attempt.is_sent = False
            raise ConnectionFailed(what + plain_http_hint(self._account)) from None
        attempt.status = response.status_code
        return ApiResponse(
            response.status_code,
            response.content[:largest],  # a mock's is of any length
            parse_retry_after(response.headers, datetime.now(UTC)),
            self._redact,
            f"no such path at {url}: see {self._account.settings_of(call.path)}",
        )

    def _early_end_error(self, attempts: Attempts) -> LeadpostError:
        """Build the error of an attempt that was ended before its answer."""
        operation = attempts.operation
        if attempts.attempt.is_sent:
            return no_answer("the call was cut off before its answer", changes=operation.is_post)
        if self._is_closed:
            return NotSent("the poster was closed before anything was sent")
        if attempts.terms.are_over:
            return NotSent("stopped before anything was sent")
        if attempts.is_away():
            return self.availability[operation.name].timeout_error()
        return NotSent("no token became free in time; nothing was sent")

    async def _probe(self, query: Call[Any]) -> bool:
        """Make a call that changes nothing: False if there was no proper answer."""
        if self._plain_client.is_closed:
            return True  # the trial itself raises the error
        try:
            await self.send(query, ONCE)
        except (ConnectionFailed, ServerError, UnexpectedAnswer):
            return False
        except LeadpostError:
            pass  # such as a wrong path, which says nothing about posts
        return True

    # Event loops, and the end.

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._in_flight.pop(task, None)
        failure_of(task)  # asyncio logs those that nobody asked for

    def _enter_loop(self) -> None:
        """Continue in a new event loop, with new connections, if the last loop is not running."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError("this poster is in use on another event loop")
            if self._owns_client:
                self._plain_client = new_client(self._account)
                self._client = keyed(self._plain_client, self._account)
        for availability in self.availability.values():
            availability.enter_loop(loop)
        self._loop = loop
        self._closing = loop.create_future()
        self._in_flight.clear()  # they ended with their loop

    async def aclose(self, grace: float) -> None:
        """Wait for the posts in flight, but not longer than `grace` seconds, and close."""
        self._enter_loop()
        self._is_closed = True
        if not self._closing.done():
            self._closing.set_result(None)
        for task, attempts in self._in_flight.items():
            if not attempts.attempt.is_sent or not attempts.operation.is_post:
                task.cancel()
        try:
            if self._in_flight:
                await asyncio.wait(self._in_flight, timeout=grace)
        finally:
            cut_off = list(self._in_flight)
            for task in cut_off:
                task.cancel()
            if cut_off:
                await asyncio.wait(cut_off)
            if self._owns_client:
                await self._plain_client.aclose()
