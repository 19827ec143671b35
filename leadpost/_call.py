"""
One call, in a straight line: retry, outage, token, request, answer.

`Sender.send` retries. `Sender._guarded` runs one attempt in its own task, so that a call that was
sent finishes whatever its caller does. `Sender._attempt` is that task: it waits during an outage,
takes a token, sends the request (`Sender._exchange`) and reads the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, TypeVar, cast

import httpx
from attrs import frozen
from tenacity import RetryCallState

from leadpost import _endpoints
from leadpost._account import Account
from leadpost._availability import Availability, Turn
from leadpost._endpoints import Call
from leadpost._responses import ApiResponse, parse_retry_after, redactor
from leadpost._retry import RETRYABLE, Attempt, Attempts, RetryPolicy
from leadpost._transport import (
    BEFORE_SEND,
    BROKEN,
    ENDS_AT,
    LARGEST_BODY,
    PARAMS,
    keyed,
    new_client,
)
from leadpost.bucket import Bucket, Priority
from leadpost.errors import (
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    ServerError,
    State,
    TokenLost,
    UnexpectedAnswer,
)
from leadpost.hooks import Answered, Hook, Hooks, Operation, Retried, Sent, Waiting

T = TypeVar("T")
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""Raised by httpx before anything of a request was sent."""

_log = logging.getLogger("leadpost")


def _nothing(*_: object) -> None:
    """Do nothing: the default callback."""


@frozen
class Draw(Generic[T]):
    """
    A call that is chosen once there is a token for it.

    Attributes:
        name: The poster's method, for hooks.
        draw: Returns the call; raises `NothingToSend` if there is none.
    """

    name: str
    draw: Callable[[], Awaitable[Call[T]]]


@frozen
class Terms:
    """
    The conditions of a call; the defaults are those of a single call.

    Attributes:
        priority: The priority of the first attempt.
        is_retried: Whether other attempts may follow the first.
        token_timeout: Seconds in which the first attempt has to begin, None for the policy's time.
        outage_until: Makes this one of many calls, of a batch or an outbox, see `is_one_of_many`.
            Given the time at which an outage began, returns the time at which to stop waiting.
        stopped: Ends all waits once it is done; a call in flight still finishes.
        cut_off: Ends the attempt once it is done, even a call in flight, which is uncertain then.
        on_token: Called when an attempt has its token.
        before_send: Called before the bucket's function of that name; may raise.
        on_end: Called with the state in which the caller leaves the operation.
    """

    priority: Priority = Priority.SINGLE
    is_retried: bool = True
    token_timeout: float | None = None
    outage_until: Callable[[float], float] | None = None
    stopped: asyncio.Future[None] | None = None
    cut_off: asyncio.Future[None] | None = None
    on_token: Callable[[], None] = _nothing
    before_send: Callable[[], None] = _nothing
    on_end: Callable[[State], None] = _nothing

    @property
    def is_one_of_many(self) -> bool:
        """Whether it waits for its first token without an end; its time starts with that token."""
        return self.outage_until is not None

    @property
    def stops(self) -> list[asyncio.Future[None]]:
        """What ends the waits when it is done."""
        return [stop for stop in (self.stopped, self.cut_off) if stop is not None]

    @property
    def are_over(self) -> bool:
        """Whether nothing more may be sent on these terms."""
        return any(stop.done() for stop in self.stops)


SINGLE = Terms()
ONCE = Terms(is_retried=False)


class Sender:
    """
    Makes calls with an account's keys, each attempt with a token of the bucket.

    The arguments are those of `AsyncActivityPoster`.
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
        self._emit = Hooks(hooks)
        self._redact = redactor(account.secrets)
        # Queries are made even while LeadSquared does not answer posts.
        self._availability = {
            "post": Availability(account.host, partial(self._probe, _endpoints.metrics)),
            "post_sync": Availability(
                account.sync_host, partial(self._probe, _endpoints.activity_types)
            ),
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_flight: dict[asyncio.Task[Any], Attempt] = {}
        self._is_closed = False

    def is_away(self, name: str) -> bool:
        """Whether LeadSquared is away for calls of that name."""
        return name in self._availability and self._availability[name].is_away

    def away_for(self, name: str) -> float | None:
        """Seconds for which LeadSquared has been away for calls of that name, None if it is not."""
        return self._availability[name].away_for

    async def send(self, call: Call[T] | Draw[T], terms: Terms = SINGLE) -> T:
        """
        Make attempts at a call until one succeeds or the call is given up.

        Raises:
            LeadpostError: the outcome of the attempts; `NotSent` if none was made.
        """
        retryable = self._retryable if terms.is_retried else ()
        away = partial(self.is_away, call.name)
        attempts = Attempts(Operation(call.name), self._policy, retryable, away)
        error: BaseException | None = None
        try:
            if self._is_closed or self._plain_client.is_closed:
                what = "this poster" if self._is_closed else "the client of this poster"
                raise RuntimeError(f"{what} is closed")  # noqa: TRY301  so that `Ended` is emitted
            self._enter_loop()
            if not terms.is_one_of_many:
                attempts.start_time()
            sleep, on_retry = partial(_sleep, terms), partial(self._note_retry, attempts)
            async for attempt_manager in attempts.retrying(sleep, on_retry):  # pragma: no branch
                with attempt_manager:
                    return await self._guarded(call, attempts, terms)
        except LeadpostError as failure:
            error = attempts.verdict(failure)
            raise error  # noqa: B904  the same one, or one that quotes it
        except BaseException as failure:
            error = failure
            raise
        finally:
            end = attempts.ended(error)
            terms.on_end(end.state)
            if not attempts.abandoned:
                self._emit(end)
        raise AssertionError("tenacity either returns or raises")  # pragma: no cover

    async def _guarded(self, call: Call[T] | Draw[T], attempts: Attempts, terms: Terms) -> T:
        """
        Make one attempt in its own task, and wait for its end.

        Until it has a token, a stop or the caller's time limit ends it; until its request is sent,
        its caller's cancellation does. Afterwards only its own time-out, the closing of the poster
        and `Terms.cut_off` do.
        """
        attempt = attempts.attempt = Attempt()
        if self._is_closed or terms.are_over:
            raise self._early_end_error(attempts, terms)
        task = asyncio.create_task(self._attempt(call, attempts, terms))
        self._in_flight[task] = attempt
        task.add_done_callback(lambda ended: self._in_flight.pop(ended, None))
        ends: list[asyncio.Future[Any]] = [task, *terms.stops]
        try:
            timeout = _time_for_token(attempts, terms)
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if attempt.has_token and not task.done():  # from now on it has its own time-out
                ends = [task] if terms.cut_off is None else [task, terms.cut_off]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        except asyncio.CancelledError:
            if attempt.is_sent:
                attempts.abandoned = True
                task.add_done_callback(partial(self._note_abandoned, attempts))
            else:
                task.cancel()
                await asyncio.wait([task])  # so that its token is back
                if not task.cancelled():
                    task.exception()  # asyncio logs those that nobody asked for
            raise
        if attempt.result is not None and (task.cancelled() or task.exception()):
            # It is done, and its caller must not take it for a failure and repeat it.
            failure = "cancelled" if task.cancelled() else type(task.exception()).__name__
            name = attempts.operation.name
            _log.error("%s: answered, but then its bucket failed: %s", name, failure)
            return cast("T", attempt.result)
        if not task.cancelled():
            return task.result()
        raise self._early_end_error(attempts, terms)

    async def _attempt(self, call: Call[T] | Draw[T], attempts: Attempts, terms: Terms) -> T:
        """Wait until LeadSquared is there, take a token, send the request, read the answer."""
        loop = asyncio.get_running_loop()
        waits_since = loop.time()
        operation, attempt = attempts.operation, attempts.attempt
        priority = terms.priority
        if attempts.made:
            priority = Priority.RETRY if priority is Priority.SINGLE else Priority.BATCH_RETRY
        availability = self._availability.get(operation.name)
        activity_hash = 0 if isinstance(call, Draw) else hash(call.content)  # a Draw has none yet
        self._emit(Waiting(operation, attempts.made + 1))
        while True:
            outage_turn = (
                nullcontext(Turn(activity_hash))  # queries do not wait for the end of an outage
                if availability is None
                else availability.turn(activity_hash, terms.outage_until)
            )
            # In this order, so that nothing waits for a token during an outage.
            async with (
                outage_turn as turn,
                self._bucket.token(priority, self._call_timeout) as check_token,
            ):
                if availability is not None and not availability.may_send(turn):
                    # LeadSquared went away during the wait for the token, which is given back
                    # unused. As the turn may not send, it records nothing.
                    continue
                attempt.has_token = True
                # The bucket has the same time-out: the call must end before its token is back.
                ends_at = loop.time() + self._call_timeout
                terms.on_token()
                if isinstance(call, Draw):
                    call = await call.draw()
                    turn.activity_hash = hash(call.content)
                    if loop.time() >= ends_at:
                        raise TokenLost("choosing the call took its whole time; nothing was sent")
                if self._plain_client.is_closed:  # since this began to wait
                    raise NotSent("the client of this poster was closed before anything was sent")
                attempts.count(restart=turn.waited and terms.is_one_of_many)
                self._emit(Sent(operation, attempts.made, loop.time() - waits_since))
                before_send = (terms.before_send, check_token)
                response = await self._exchange(call, attempts, ends_at, before_send)
                self._emit(Answered(operation, attempts.made, response.status))
                result = call.read(response)  # raises the error that the answer means
                attempt.result = result
                return result
            # Another round would post the activity a second time.
            raise RuntimeError("the bucket suppressed the error of a call")

    async def _exchange(
        self,
        call: Call[T],
        attempts: Attempts,
        ends_at: float,
        before_send: Iterable[Callable[[], None]],
    ) -> ApiResponse:
        """Send one request, unless one of `before_send` raises, and return its answer."""
        attempt = attempts.attempt

        def note_sending() -> None:
            # Called before the headers and again before the body. If the second time raises, no
            # body left, so nothing was posted.
            attempt.is_sent = False
            for function in before_send:
                function()
            attempt.is_sent = True

        request = self._client.build_request(
            call.method,
            call.url,
            content=call.content,
            extensions={PARAMS: call.params, ENDS_AT: ends_at, BEFORE_SEND: note_sending},
        )
        try:
            response = await self._client.send(request, follow_redirects=False)
        except httpx.HTTPStatusError as error:  # from a hook of the client's that raises for it
            response = error.response
        except (httpx.RequestError, *BROKEN) as error:
            # Without a cause: it quotes what could not be read.
            raise self._no_answer_error(attempts, error) from None
        attempt.status = response.status_code
        return ApiResponse(
            response.status_code,
            response.content[:LARGEST_BODY],  # a mock's is of any length
            parse_retry_after(response.headers, datetime.now(UTC)),
            self._redact,
            call.not_found_hint,
        )

    def _no_answer_error(self, attempts: Attempts, error: Exception) -> LeadpostError:
        attempt = attempts.attempt
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        if attempt.is_sent and not isinstance(error, _NEVER_SENT):
            if attempts.operation.is_post:
                return DeliveryUncertain(f"no answer, it may have arrived ({what})")
            return ConnectionFailed(f"no answer ({what})", sent=True)
        attempt.is_sent = False
        host = self._account.host
        if self._account.is_loopback and host.startswith("https://"):
            plain = host.replace("https://", "http://", 1)
            what += f"; if this server speaks plain HTTP, set the host to {plain}"
        return ConnectionFailed(what)

    async def _probe(self, query: Callable[[Account], Call[T]]) -> bool:
        """Make a call that changes nothing: False if there was no proper answer."""
        if self._plain_client.is_closed:
            return True  # the trial itself raises the error
        try:
            await self.send(query(self._account), ONCE)
        except (ConnectionFailed, ServerError, UnexpectedAnswer):
            return False
        except LeadpostError:
            pass  # such as a wrong path, which says nothing about posts
        return True

    def _early_end_error(self, attempts: Attempts, terms: Terms) -> LeadpostError:
        """Build the error of an attempt that was ended before its answer."""
        if attempts.attempt.is_sent:
            what = "the call was cut off before its answer"
            if attempts.operation.is_post:
                return DeliveryUncertain(f"{what}: it may have arrived")
            return ConnectionFailed(what, sent=True)
        if self._is_closed:
            return NotSent("the poster was closed before anything was sent")
        if terms.are_over:
            return NotSent("stopped before anything was sent")
        if attempts.is_away():
            now = asyncio.get_running_loop().time()
            return self._availability[attempts.operation.name].timeout_error(now)
        return NotSent("no token came free in the time for this call; nothing was sent")

    def _note_retry(self, attempts: Attempts, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        name, wait = type(error).__name__, state.upcoming_sleep
        _log.info(
            "%s: attempt %d failed (%s%s), the next one %s",
            attempts.operation.name,
            attempts.made,
            name,
            f", HTTP {attempts.attempt.status}" if attempts.attempt.status else "",
            "after the outage" if attempts.is_away() else f"in {wait:.1f} s",
        )
        status = attempts.attempt.status
        self._emit(Retried(attempts.operation, attempts.made, name, status, wait))

    def _note_abandoned(self, attempts: Attempts, task: asyncio.Task[T]) -> None:
        """Log and emit the outcome of a call whose caller has left."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if isinstance(error, LeadpostError):
            error = attempts.verdict(error)
        end = attempts.ended(error)
        self._emit(end)
        what = end.state + (f", RequestID {end.request_id}" if end.request_id else "")
        if end.state != "accepted":
            status = f", HTTP {end.status}" if end.status else ""
            what += f" ({type(error).__name__}{status})"
        # A query that nobody waits for has changed nothing, so it is no news.
        level = logging.WARNING if attempts.operation.is_post else logging.DEBUG
        name = attempts.operation.name
        _log.log(level, "%s: its caller had left before it ended: %s", name, what)

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
            for availability in self._availability.values():
                availability.leave_loop()
        self._loop = loop
        self._in_flight.clear()  # they ended with their loop

    async def aclose(self, grace: float) -> None:
        """Wait for the calls in flight, but not longer than `grace` seconds, and close."""
        self._enter_loop()
        self._is_closed = True
        for task, attempt in self._in_flight.items():
            if not attempt.is_sent:
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


async def _sleep(terms: Terms, seconds: float) -> None:
    if terms.stops:
        await asyncio.wait(terms.stops, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    else:
        await asyncio.sleep(seconds)


def _time_for_token(attempts: Attempts, terms: Terms) -> float | None:
    """Return the seconds in which an attempt has to get its token, None for no end."""
    if terms.is_one_of_many:
        return None
    deadline = attempts.deadline or 0.0  # one that is not one of many always has one
    left = max(deadline - asyncio.get_running_loop().time(), 0.0)
    if terms.token_timeout is not None and not attempts.made:
        left = min(left, terms.token_timeout)
    return left
