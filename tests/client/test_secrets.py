"""
No key shows anywhere; nothing personal shows in leadpost's own logs, reprs and events.

An exception may quote what LeadSquared wrote, personal texts included.
"""

from __future__ import annotations

import asyncio
import io
import json
import traceback
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from raw_server import Connection, RawServer
from support import ACCESS_KEY, API_KEY, KEYS, LEAD, SECRET_KEY, now

from leadpost import (
    Account,
    Activity,
    AsyncActivityPoster,
    DeliveryUncertain,
    LeadpostError,
    RetryPolicy,
    TokenBucket,
)
from leadpost.hooks import Answered, Ended, Event, Retried, Sent, Waiting
from leadpost.sandbox import Answer, Faults, Sandbox

NOTE = "Frau Özdemir asked to be called back"
VALUE = "jo.doe@example.com"
PERSONAL = (NOTE, VALUE)
HIDDEN_KEYS = {*KEYS, *(quote(key, safe="") for key in KEYS)}

ECHO = json.dumps(
    {
        "Status": "Error",
        "ExceptionType": f"MX{SECRET_KEY}Exception",
        "ExceptionMessage": f"bad {ACCESS_KEY} {quote(ACCESS_KEY)} {API_KEY} in {NOTE}, {VALUE}",
    }
)
SCRIPT: list[str | Answer] = [
    *("429", "429-retry-after", "429-gateway", "403-rate-limit", "200-rate-limit"),
    *("500", "500-mx", "503", "200-error", "cut-before", "cut-after", "slow"),
    *("502-after", "504-before"),
    *(Answer(status, ECHO) for status in (200, 302, 400, 401, 403, 404, 429, 500, 503)),
    Answer(200, ECHO.encode() + b"}"),
]


def shown_by(error: BaseException | None) -> Iterator[str]:
    """Yield all that an error and its chain show: texts, attributes, frames with variables."""
    while error is not None:
        yield repr(error)
        yield repr(vars(error))
        # The variables of the frames too, as error trackers send them; not those of this test.
        below = error.__traceback__.tb_next if error.__traceback__ else None
        shown = traceback.TracebackException(type(error), error, below, capture_locals=True)
        yield "".join(shown.format())
        error = error.__cause__ or error.__context__


class KeyedSandbox(Sandbox):
    access_key = ACCESS_KEY
    secret_key = SECRET_KEY
    api_key = API_KEY


def account_at(url: str, keys_in: Any = "query") -> Account:
    return Account(
        host=url, access_key=ACCESS_KEY, secret_key=SECRET_KEY, api_key=API_KEY, keys_in=keys_in
    )


@pytest.mark.parametrize("keys_in", ["query", "headers"])
@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("on_uncertain", ["raise", "retry"])
async def test_whatever_the_answer_no_key_shows_and_nothing_personal_is_logged(
    everything_logged: io.StringIO, *, injected: bool, keys_in: Any, on_uncertain: Any
) -> None:
    posted = Activity(LEAD, 201, NOTE, fields={"mx_Custom_1": VALUE})
    errors: list[LeadpostError] = []
    events: list[Event] = []
    responses: list[httpx.Response] = []

    async def keep(response: httpx.Response) -> None:
        responses.append(response)

    faults = Faults(script=SCRIPT, slow=30, retry_after=0)
    with KeyedSandbox(faults=faults, period=0.05) as sandbox:
        account = account_at(sandbox.url, keys_in)
        client = httpx.AsyncClient(event_hooks={"response": [keep]})
        bucket = TokenBucket(period=0.05, hooks=[events.append])
        options: dict[str, Any] = {
            "client": client if injected else None,
            "bucket": bucket,
            "retry": RetryPolicy(max_attempts=1, initial_wait=0.01, max_wait=0.02, jitter=0),
            "on_uncertain": on_uncertain,
            "hooks": [events.append],
        }
        hurried = AsyncActivityPoster(account, call_timeout=0.3, **options)
        poster = AsyncActivityPoster(account, **options)
        async with client, hurried, poster:
            while sandbox.report().arrivals < len(SCRIPT):
                try:
                    await hurried.post(posted)
                except LeadpostError as error:
                    errors.append(error)
            request_id = await poster.post(posted)
            status = await poster.status(request_id)
            await poster.post_sync(posted)
            activities = await poster.lead_activities(LEAD, 201)
            assert any(set(PERSONAL) <= each.texts for each in activities)
            outcomes = [o async for o in poster.post_stream([posted, {"ActivityEvent": 0}])]

    assert len(errors) >= 10
    assert bool(responses) is injected
    assert {type(event) for event in events} == {Waiting, Sent, Answered, Retried, Ended}
    log = everything_logged.getvalue()
    assert "HTTP Request: POST" in log  # httpx did log
    own = [log, *map(repr, events), *map(repr, activities), *map(repr, outcomes), repr(status)]
    own += [repr(account), repr(poster), repr(bucket), repr(posted), repr(client)]
    assert_without(own, (*HIDDEN_KEYS, *PERSONAL))
    shown = [text for error in errors for text in shown_by(error)]
    shown += [text for outcome in outcomes for text in shown_by(outcome.error)]
    for response in responses:
        shown += [str(response.url), repr(response.request), str(response.request.headers)]
        shown += [str(response.request.extensions)]
    assert_without(shown, HIDDEN_KEYS)


class Silent:
    """Answers as far as `head` and no further."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await connection.request()
        await connection.send(self._head)
        self.asked.set()
        await connection.closed()
        self.left.set()


HEADS = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"]


@pytest.mark.parametrize("keys_in", ["query", "headers"])
@pytest.mark.parametrize("head", HEADS, ids=["no answer", "no body"])
async def test_no_key_shows_if_a_caller_leaves_and_its_call_is_cut_off(
    everything_logged: io.StringIO, head: bytes, keys_in: Any
) -> None:
    silent = Silent(head)

    async def post_until_asked(poster: AsyncActivityPoster) -> None:
        asked = asyncio.create_task(silent.asked.wait())
        async with asyncio.timeout(None) as limit:
            asked.add_done_callback(lambda _: limit.reschedule(now()))
            await poster.post(Activity(LEAD, 201, NOTE))

    async with RawServer(silent) as server:
        poster = AsyncActivityPoster(account_at(server.url, keys_in))
        with pytest.raises(TimeoutError) as caught:
            await post_until_asked(poster)
        assert not silent.left.is_set()
        await poster.aclose(grace=0)
        await silent.left.wait()
    shown = [*shown_by(caught.value), everything_logged.getvalue()]
    assert "_attempt" in shown[-2]  # the frames are in it
    assert "its caller had left before it ended: uncertain (" in shown[-1]
    assert_without(shown, (*HIDDEN_KEYS, NOTE))


@pytest.mark.parametrize("keys_in", ["query", "headers"])
@pytest.mark.parametrize("ended_by", ["its time-out", "closing"])
@pytest.mark.parametrize("head", HEADS, ids=["no answer", "no body"])
async def test_no_key_shows_if_a_call_is_uncertain(
    everything_logged: io.StringIO, head: bytes, ended_by: str, keys_in: Any
) -> None:
    silent = Silent(head)
    call_timeout = 0.3 if ended_by == "its time-out" else 30
    async with RawServer(silent) as server:
        poster = AsyncActivityPoster(account_at(server.url, keys_in), call_timeout=call_timeout)
        posting = asyncio.create_task(poster.post(Activity(LEAD, 201, NOTE)))
        await silent.asked.wait()
        if ended_by == "closing":
            await poster.aclose(grace=0)
        with pytest.raises(DeliveryUncertain) as caught:
            await posting
        await poster.aclose()
    shown = [*shown_by(caught.value), everything_logged.getvalue()]
    assert_without(shown, (*HIDDEN_KEYS, NOTE))


@pytest.mark.parametrize("keys_in", ["query", "headers"])
@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX-Echo: ",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_no_key_shows_if_a_server_echoes_the_request(
    everything_logged: io.StringIO, before: bytes, keys_in: Any
) -> None:
    async def echo(connection: Connection) -> None:
        request = await connection.request()
        echoed = request.head.replace(b"\r\n", b" ")
        await connection.send(before + echoed + b"\r\n\r\n")

    async with (
        RawServer(echo) as server,
        AsyncActivityPoster(account_at(server.url, keys_in)) as poster,
    ):
        with pytest.raises(DeliveryUncertain) as caught:
            await poster.post(Activity(LEAD, 201))
    assert_without([*shown_by(caught.value), everything_logged.getvalue()], HIDDEN_KEYS)


async def test_no_key_shows_if_a_transport_raises_its_own_error() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise OSError(f"{request.method}: the disk is full")

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        poster = AsyncActivityPoster(account_at("http://127.0.0.1:1"), client=client)
        with pytest.raises(OSError, match="the disk is full") as caught:
            await poster.post(Activity(LEAD, 201))
    assert_without(shown_by(caught.value), HIDDEN_KEYS)


def assert_without(texts: Iterable[str], hidden: Iterable[str]) -> None:
    for text in texts:
        for each in hidden:
            assert each not in text
