"""No key and nothing personal stands where somebody might read it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from support import ACCESS_KEY, API_KEY, KEYS, LEAD, SECRET_KEY

from leadpost import (
    Account,
    Activity,
    AsyncActivityPoster,
    LeadpostError,
    RetryPolicy,
    TokenBucket,
)
from leadpost.sandbox import Answer, Faults, Sandbox

NOTE = "Frau Özdemir asked to be called back"
VALUE = "jo.doe@example.com"
PERSONAL = (NOTE, VALUE)
HIDDEN = (*KEYS, *(quote(key, safe="") for key in KEYS), *PERSONAL)

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


def all_told(error: BaseException | None) -> Iterator[str]:
    """Yield all that an error tells, down its chain: texts, attributes, frames with variables."""
    while error is not None:
        yield repr(error)
        yield repr(vars(error))
        # The variables of the frames too, as error trackers send them; not those of this test.
        below = error.__traceback__.tb_next if error.__traceback__ else None
        shown = traceback.TracebackException(type(error), error, below, capture_locals=True)
        yield "".join(shown.format())
        error = error.__cause__ or error.__context__


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("keys_in", ["query", "headers"])
@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("on_uncertain", ["raise", "retry"])
async def test_no_key_and_nothing_personal_shows_under_any_fault(
    everything_logged: io.StringIO, *, injected: bool, keys_in: Any, on_uncertain: Any
) -> None:
    posted = Activity(LEAD, 201, NOTE, fields={"mx_Custom_1": VALUE})
    shown: list[str] = []
    with Sandbox(
        faults=Faults(script=SCRIPT, slow=30, retry_after=0),
        period=0.05,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        api_key=API_KEY,
    ) as sandbox:
        account = Account(
            host=sandbox.url,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            api_key=API_KEY,
            keys_in=keys_in,
        )
        responses: list[httpx.Response] = []

        async def keep(response: httpx.Response) -> None:
            responses.append(response)

        client = httpx.AsyncClient(event_hooks={"response": [keep]})
        bucket = TokenBucket(period=0.05)
        poster = AsyncActivityPoster(
            account,
            client=client if injected else None,
            bucket=bucket,
            retry=RetryPolicy(max_attempts=1, initial_wait=0.01, max_wait=0.02, jitter=0),
            on_uncertain=on_uncertain,
        )
        sender = poster._call._client
        usual, sender.timeout = sender.timeout, httpx.Timeout(0.3)  # the slow answer takes 30 s
        errors = 0
        async with client, poster:
            while sandbox.report().arrivals < len(SCRIPT):
                try:
                    await poster.post(posted)
                except LeadpostError as error:
                    errors += 1
                    shown += all_told(error)
            sender.timeout = usual
            request_id = await poster.post(posted)
            shown.append(repr(await poster.status(request_id)))
            await poster.post_sync(posted)
            activities = await poster.lead_activities(LEAD, 201)
            assert any(set(PERSONAL) <= each.texts for each in activities)
            shown.append(repr(activities))
            outcomes = [o async for o in poster.post_stream([posted, {"ActivityEvent": 0}])]
        shown += [repr(account), repr(poster), repr(bucket), repr(posted), repr(client)]
        for outcome in outcomes:
            shown += [repr(outcome), *all_told(outcome.error)]
        for response in responses:
            shown += [str(response.url), repr(response.request), str(response.request.headers)]
            shown += [str(response.request.extensions)]

    assert errors >= 10
    assert bool(responses) is injected
    told = everything_logged.getvalue()
    assert "HTTP Request: POST" in told  # httpx did log
    for hidden in HIDDEN:
        assert hidden not in told
        for text in shown:
            assert hidden not in text


@pytest.mark.parametrize("keys_in", ["query", "headers"])
@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"])
async def test_no_key_shows_where_a_call_is_cancelled(head: bytes, keys_in: Any) -> None:
    hung_up = asyncio.Event()

    async def never_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    listening = await asyncio.start_server(never_end, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    account = Account(
        host=f"http://127.0.0.1:{port}",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        api_key=API_KEY,
        keys_in=keys_in,
    )
    async with AsyncActivityPoster(account) as poster:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.3):
                await poster.post(Activity(LEAD, 201))
    await hung_up.wait()
    listening.close()
    shown = "".join(all_told(caught.value))
    assert "_exchange" in shown  # the frames are in it
    for key in KEYS:
        assert key not in shown
        assert quote(key, safe="") not in shown


async def test_no_key_shows_where_a_transport_raises_what_it_likes() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise OSError(f"{request.method}: the disk is full")

    account = Account(
        host="http://127.0.0.1:1", access_key=ACCESS_KEY, secret_key=SECRET_KEY, api_key=API_KEY
    )
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        with pytest.raises(OSError, match="the disk is full") as caught:
            await AsyncActivityPoster(account, client=client).post(Activity(LEAD, 201))
    shown = "".join(all_told(caught.value))
    for key in KEYS:
        assert key not in shown
        assert quote(key, safe="") not in shown
