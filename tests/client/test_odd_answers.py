"""Answers that no API should send: cut, compressed, endless, or with too much in them."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from raw_server import ACCEPTED, Behaviour, Connection, RawServer, answer, answers
from support import ACCESS_KEY, KEYS, LEAD, account, activity

from leadpost import (
    ApplicationError,
    AsyncActivityPoster,
    BadRequest,
    DeliveryUncertain,
    LeadpostError,
    NotFound,
    OpenBucket,
    RateLimited,
    Rejected,
    RetryPolicy,
    ServerError,
    TokenBucket,
    Unauthorized,
    UnexpectedAnswer,
)

ONCE = RetryPolicy(max_attempts=1, max_time=0.001, initial_wait=1)
"""Make no second attempt, not even after a refusal."""
QUICK = RetryPolicy(initial_wait=0.01, jitter=0)
MEBIBYTE = 2**20
LIMIT_TEXT = "API calls exceeded the limit of 1 in 5 second(s)"


def poster_to(server: RawServer, **options: Any) -> AsyncActivityPoster:
    options.setdefault("bucket", OpenBucket())
    options.setdefault("retry", ONCE)
    return AsyncActivityPoster(account(host=server.url), **options)


async def post_to(behaviour: Behaviour, **options: Any) -> str:
    """Post one activity to a server, and return the RequestID."""
    async with RawServer(behaviour) as server, poster_to(server, **options) as poster:
        return await poster.post(activity())


async def error_from(reply: bytes) -> LeadpostError:
    """Return what a post raises for an answer."""
    with pytest.raises(LeadpostError) as caught:
        await post_to(answers(reply))
    return caught.value


def cut(status: int, body: bytes = b'{"Status": "Err', **headers: str) -> bytes:
    """Build an answer whose body ends before its Content-Length."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(status, body, named, length=len(body) + 100)


# Bodies that are cut off: the status line counts.


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Unauthorized),
        (404, NotFound),
        (422, Rejected),
        (429, RateLimited),
        (500, ServerError),
        (503, ServerError),
        (502, DeliveryUncertain),
        (200, DeliveryUncertain),
    ],
)
@pytest.mark.parametrize("fault", ["no body", "half a body", "wrong compression"])
async def test_a_status_line_counts_even_if_the_body_is_cut_or_unreadable(
    status: int, kind: type[LeadpostError], fault: str
) -> None:
    error = await error_from(
        answer(status, b"not gzip", {"Content-Encoding": "gzip"})
        if fault == "wrong compression"
        else cut(status, b"" if fault == "no body" else b'{"Status": "Err')
    )
    assert type(error) is kind
    assert error.status == status


async def test_a_429_with_a_cut_body_pauses_the_bucket_as_its_retry_after_says() -> None:
    bucket = TokenBucket()
    with pytest.raises(RateLimited):
        await post_to(answers(cut(429, retry_after="30")), bucket=bucket)
    assert 25 < bucket.statistics().paused_for <= 30


async def test_a_complete_request_id_counts_even_if_the_body_continues() -> None:
    assert await post_to(answers(cut(200, ACCEPTED))) == "r1"


async def test_a_body_cut_within_a_chunk_counts_as_far_as_it_was_received() -> None:
    head = b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(ACCEPTED), ACCEPTED)
    assert await post_to(answers(head % 200 + chunk)) == "r1"
    assert await post_to(answers(head % 200 + chunk + b"FFFFFF")) == "r1"
    assert isinstance(await error_from(head % 400 + chunk), BadRequest)


async def test_a_query_with_a_cut_answer_is_unexpected() -> None:
    reply = cut(200, b'{"PendingMessages": 1')
    async with RawServer(answers(reply)) as server, poster_to(server) as poster:
        with pytest.raises(UnexpectedAnswer):
            await poster.metrics()


@pytest.mark.parametrize(
    "reply", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-", b"\0" * 99]
)
async def test_a_post_without_a_status_line_is_uncertain(reply: bytes) -> None:
    error = await error_from(reply)
    assert type(error) is DeliveryUncertain
    assert error.status is None


# Compressed bodies, although none were requested.


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_a_small_compressed_answer_is_read(
    encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    reply = answer(200, compress(ACCEPTED), {"Content-Encoding": encoding})
    async with RawServer(answers(reply)) as server, poster_to(server) as poster:
        assert await poster.post(activity()) == "r1"
    assert b"accept-encoding: identity\r\n" in server.requests[0].head.lower()


def bomb(decoded_size: int) -> bytes:
    """Compress JSON that would be an acceptance if it were read to its end."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    parts = [compressor.compress(ACCEPTED[:-1] + b', "x": "')]
    parts += [compressor.compress(b" " * MEBIBYTE) for _ in range(decoded_size // MEBIBYTE)]
    return b"".join([*parts, compressor.compress(b'"}'), compressor.flush()])


@pytest.mark.parametrize(
    ("encoding", "layers"),
    [("gzip", 1), ("gzip, gzip", 2), ("gzip", 2)],
    ids=["gzip", "double gzip", "double gzip that says it is single"],
)
async def test_a_body_that_decodes_to_too_much_is_unreadable_in_bounded_memory(
    encoding: str, layers: int
) -> None:
    decoded_size = 64 * MEBIBYTE
    body = bomb(decoded_size)
    if layers == 2:
        body = gzip.compress(body)
    assert len(body) < MEBIBYTE / 8
    reply = answer(200, body, {"Content-Encoding": encoding})
    error, peak = await error_and_peak_of(answers(reply))
    assert isinstance(error, DeliveryUncertain)
    assert peak < decoded_size / 8


async def test_a_page_of_several_mebibytes_is_read() -> None:
    rows = [{"Id": f"id-{n}", "EventCode": 201, "Note": "n" * 4000} for n in range(1000)]
    body = json.dumps({"RecordCount": len(rows), "ProspectActivities": rows}).encode()
    async with RawServer(answers(answer(200, body))) as server, poster_to(server) as poster:
        assert len(await poster.lead_activities(LEAD, 201)) == len(rows)


async def test_a_body_without_an_end_is_read_up_to_a_mebibyte() -> None:
    sent = 0

    async def endless(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.send(b" " * 2**16)
            sent += 2**16

    error, peak = await error_and_peak_of(endless)
    assert isinstance(error, DeliveryUncertain)
    assert peak < 8 * MEBIBYTE
    assert sent < 32 * MEBIBYTE  # sockets buffer a part


async def error_and_peak_of(behaviour: Behaviour) -> tuple[LeadpostError, int]:
    """Return what a post raises, and its peak memory in bytes."""
    async with RawServer(answers()) as server, poster_to(server) as poster:
        await poster.post(activity())  # imports and caches, once
    tracemalloc.start()
    try:
        with pytest.raises(LeadpostError) as caught:
            await post_to(behaviour)
        return caught.value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Cookies, reason phrases, redirects.


@pytest.mark.parametrize("injected", [False, True])
async def test_cookies_are_neither_kept_nor_sent(*, injected: bool) -> None:
    script = [
        answer(status, ACCEPTED, {"Set-Cookie": f"c{number}=x; Path=/"})
        for number, status in enumerate([200, 503, 200])
    ]
    client = httpx.AsyncClient(cookies={"own": "yes"})
    async with RawServer(answers(*script)) as server, client:
        options: dict[str, Any] = {"client": client} if injected else {}
        async with poster_to(server, retry=QUICK, **options) as poster:
            for _ in range(3):
                await poster.post(activity())
        assert dict(client.cookies) == {"own": "yes"}
        assert len(server.requests) == 4
        assert not any(b"cookie" in request.head.lower() for request in server.requests)
        assert (await client.get(server.url)).status_code == 200
        assert b"cookie: own=yes\r\n" in server.requests[-1].head.lower()


@pytest.mark.parametrize("status", [200, 302, 400, 503])
async def test_a_reason_phrase_that_quotes_the_url_is_in_no_log(
    everything_logged: io.StringIO, status: int
) -> None:
    async def quote(connection: Connection) -> None:
        url = (await connection.request()).head.split()[1].decode()
        assert ACCESS_KEY.replace("$", "%24") in url
        headers = {"Location": f"http://[{url}"}
        await connection.send(answer(status, ACCEPTED, headers, reason=f"cannot serve {url}"))

    async with RawServer(quote) as server, poster_to(server) as poster:
        if status == 200:
            assert await poster.post(activity()) == "r1"
        else:
            with pytest.raises(LeadpostError) as caught:
                await poster.post(activity())
            assert not any(secret in str(caught.value) for secret in ("%24", *KEYS))
    log = everything_logged.getvalue()
    assert f'"HTTP/1.1 {status} ' in log  # httpx did log
    assert "cannot serve" not in log
    assert not any(secret in log for secret in ("%24", *KEYS))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("injected", [False, True])
async def test_no_redirect_is_followed(status: int, *, injected: bool) -> None:
    client = httpx.AsyncClient(follow_redirects=True)
    async with client, RawServer(answers()) as elsewhere:
        reply = answer(status, b"", {"Location": f"{elsewhere.url}/elsewhere"})
        options: dict[str, Any] = {"client": client} if injected else {}
        with pytest.raises(NotFound):
            await post_to(answers(reply), **options)
    assert elsewhere.requests == []


# What a status means and does not mean.


async def test_a_404_names_the_url_and_its_settings() -> None:
    # A status is looked up at two paths; the error is that of the first.
    async with RawServer(answers(*[answer(404)] * 4)) as server, poster_to(server) as poster:
        with pytest.raises(NotFound) as of_post:
            await poster.post(activity())
        with pytest.raises(NotFound) as of_status:
            await poster.status("r1")
        with pytest.raises(NotFound) as of_list:
            await poster.lead_activities(LEAD, 201)
    assert str(of_post.value) == (
        f"HTTP 404, no such path at {server.url}/activity/create:"
        " see submit_path (LEADPOST_SUBMIT_PATH) and host (LEADPOST_HOST)"
    )
    assert str(of_status.value) == (
        f"HTTP 404, no such path at {server.url}/activity/create/status:"
        " see status_path (LEADPOST_STATUS_PATH) and host (LEADPOST_HOST)"
    )
    assert str(of_list.value) == (
        f"HTTP 404, no such path at {server.url}/v2/ProspectActivity.svc/Retrieve:"
        " see sync_host (LEADPOST_SYNC_HOST)"
    )


@pytest.mark.parametrize(
    ("status", "exception_type", "kind"),
    [
        (400, "MXInvalidInputException", BadRequest),
        (400, None, BadRequest),
        (500, "MXInvalidActivityException", ApplicationError),
        (500, None, ServerError),
        (200, None, Rejected),
    ],
)
async def test_a_note_that_names_a_limit_is_no_limit(
    status: int, exception_type: str | None, kind: type[LeadpostError]
) -> None:
    error = {"Status": "Error", "ExceptionType": exception_type, "ExceptionMessage": LIMIT_TEXT}
    bucket = TokenBucket()
    with pytest.raises(LeadpostError) as caught:
        await post_to(answers(answer(status, json.dumps(error).encode())), bucket=bucket)
    assert type(caught.value) is kind
    statistics = bucket.statistics()
    assert (statistics.limit, statistics.paused_for) == (25, 0)


# Retry-After, relative to the answer's own clock.


DATE = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
AT = DATE + timedelta(seconds=30)


@pytest.mark.parametrize(
    "value",
    [
        "30",
        f"{AT.timestamp():.0f}",
        f"{AT.timestamp() * 1000:.0f}",
        format_datetime(AT, usegmt=True),
    ],
    ids=["seconds", "Unix time", "Unix time in milliseconds", "HTTP date"],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_after_counts_from_the_answers_own_date(status: int, value: str) -> None:
    headers = {"Date": format_datetime(DATE, usegmt=True), "Retry-After": value}
    error = await error_from(answer(status, b"{}", headers))
    assert error.retry_after == 30
