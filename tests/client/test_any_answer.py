"""4,000 random answers: every call ends in its result or in a LeadpostError."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from support import LEAD, account, activity, run_virtual

from leadpost import AsyncActivityPoster, LeadpostError, OpenBucket, RetryPolicy
from leadpost._validation import is_list, is_mapping

EXAMPLES: list[Any] = [
    {"Status": "Request accepted.", "RequestID": "b7a1c0de"},
    {"Status": "Success", "Message": {"Id": "c2d4e6f8"}},
    {"Status": "Error", "ExceptionType": "MXInvalidInputException", "ExceptionMessage": "x"},
    {"Status": "Error", "ExceptionMessage": "API calls exceeded the limit of 10 in 5 second(s)"},
    {"Status": "Failed", "Message": {"Message": "Bad event code"}},
    {"RequestId": "x", "TaskStatus": {"Status": "Success", "Message": '{"Message": {"Id": "c"}}'}},
    {"PendingMessages": 12, "MaxDelayInSeconds": 3, "ProcessingratePerMinute": 31.5},
    {"ID": "x", "Name": "n", "Fields": [{"SchemaName": "mx_Custom_1", "IsMandatory": True}]},
    [{"ActivityEvent": 201, "DisplayName": "Call"}],
    {"message": "Too Many Requests"},
    {
        "RecordCount": 1,
        "ProspectActivities": [
            {
                "Id": "a",
                "EventCode": 201,
                "CreatedOn": "2024-01-02 03:04:05",
                "Data": [{"Key": "k"}],
            }
        ],
    },
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1e308, 10**30, "", "Success", "MX", [], {}, [[]], [{}], {"": None}),
    *({"Message": {"Message": {}}}, "limit of 999999999 in 0 second(s)", "\u0000", "\ud83d"),
]
HEADERS = {
    "Retry-After": ["0", "1", "-5", "soon", "1e999", "nan", "Fri, 31 Dec 9999 23:59:59 GMT", "٣"],
    "Content-Type": [
        "application/json",
        "text/html; charset=nonsense",
        "\x7f",
        "application/json;",
    ],
    "Content-Encoding": ["identity", "gzip", "deflate", "br", "zstd", "gzip, gzip"],
    "Location": ["/", "http://[", "//", "https://:99999999", "javascript:x", "http://x:y"],
    "Set-Cookie": ["a=b", "=", ";;;", "a=b; Expires=never; Domain=..."],
    "Transfer-Encoding": ["chunked"],
}


def mutated(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """Change something anywhere in a JSON value."""
    if chance.random() < 0.15:
        return chance.choice(ODD if depth else [*ODD, *EXAMPLES])
    if is_mapping(value):
        items = [(k, mutated(v, chance, depth + 1)) for k, v in value.items()]
        if chance.random() < 0.2 and items:
            items.pop(chance.randrange(len(items)))
        return {k.upper() if chance.random() < 0.1 else k: v for k, v in items}
    if is_list(value):
        return [mutated(v, chance, depth + 1) for v in value] * chance.randint(0, 3)
    return value


def random_body(chance: random.Random) -> bytes:
    kind = chance.randrange(10)
    if kind == 0:
        return chance.randbytes(chance.randrange(300))
    if kind == 1:
        deep = chance.choice([10, 5_000, 100_000])
        opening = chance.choice(["[", '{"Status":', '{"Message":', '{"RequestID":['])
        return (opening * deep).encode()
    if kind == 2:
        return ('{"PendingMessages": ' + "9" * chance.choice([400, 10_000]) + "}").encode()
    if kind == 3:
        return b"<html>" + b"x" * chance.choice([10, 1_000, 300_000])
    text = json.dumps(mutated(chance.choice(EXAMPLES), chance), allow_nan=True)
    body = text.encode(chance.choice(["utf-8", "utf-8-sig", "utf-16", "utf-32", "ascii"]))
    if kind == 4:
        return body[: chance.randrange(len(body) + 1)]
    return body


def random_answer(chance: random.Random) -> httpx.Response:
    status = chance.choice([200, 200, 200, 201, 204, 302, 400, 401, 403, 404, 429, 500, 500, 503])
    if chance.random() < 0.3:
        status = chance.randint(100, 999)
    headers = [
        (name.encode(), chance.choice(values).encode())
        for name, values in HEADERS.items()
        if chance.random() < 0.1
    ]
    return httpx.Response(status, headers=headers, stream=_Body(random_body(chance)))


class _Body(httpx.AsyncByteStream):
    """A body like that of a socket: decoded only when it is read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


@pytest.mark.parametrize("seed", range(2))
def test_any_answer_ends_in_a_result_or_a_leadpost_error(seed: int) -> None:
    chance = random.Random(seed)
    ends = Counter[str]()

    async def answer(_: httpx.Request) -> httpx.Response:
        return random_answer(chance)

    async def main() -> None:
        client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        poster = AsyncActivityPoster(
            account(),
            client=client,
            bucket=OpenBucket(),
            retry=RetryPolicy(max_attempts=1, max_time=0.001, initial_wait=1),
        )
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: poster.post(activity(201, activity_note="note")),
            lambda: poster.post(activity(201, activity_note="note")),
            lambda: poster.post_sync(activity()),
            lambda: poster.status("b7a1c0de"),
            poster.metrics,
            poster.activity_types,
            lambda: poster.activity_type(201),
            lambda: poster.lead_activities(LEAD, 201),
        ]
        for number in range(2000):
            call = calls[number % len(calls)]
            try:
                result = await call()
            except LeadpostError as error:
                ends[type(error).__name__] += 1
                repr(error)
                str(error)
            else:
                ends["result"] += 1
                repr(result)

    run_virtual(main())
    assert sum(ends.values()) == 2000
    # The answers were varied enough to reach every end.
    assert {
        "result",
        "RateLimited",
        "Unauthorized",
        "BadRequest",
        "NotFound",
        "Rejected",
        "ApplicationError",
        "ServerError",
        "DeliveryUncertain",
        "UnexpectedAnswer",
    } <= set(ends)
